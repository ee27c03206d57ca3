package pypooltest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"regexp"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// twin is a Fake of testdata/worker.py.
func twin() *Fake {
	f := New()
	type person struct {
		Name     string `json:"name"`
		Greeting string `json:"greeting,omitempty"`
	}
	Handle(f, "greet", func(_ context.Context, in person) (string, error) {
		if in.Name == "" {
			return "", Exception("ValueError", "no name")
		}
		if in.Greeting == "" {
			in.Greeting = "Hello"
		}
		return in.Greeting + ", " + in.Name, nil
	})
	Handle(f, "add", func(_ context.Context, in struct{ A, B int }) (int, error) { return in.A + in.B, nil })
	Handle(f, "session", func(ctx context.Context, _ struct{}) (any, error) {
		call, _ := CallFromContext(ctx)
		if call.Session == "" {
			return nil, nil
		}
		return call.Session, nil
	})
	Handle(f, "sleep", func(ctx context.Context, in struct{ Seconds float64 }) (struct{}, error) {
		<-ctx.Done()
		return struct{}{}, ctx.Err()
	})
	HandleStream(f, "count", func(_ context.Context, in struct{ N int }) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := range in.N {
				if i == 3 {
					yield(0, Exception("RuntimeError", "three"))
					return
				}
				if !yield(i, nil) {
					return
				}
			}
		}
	})
	Handle(f, "wrong", func(context.Context, struct{}) (float64, error) { return math.NaN(), nil })
	Handle(f, "nothing", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil })
	Handle(f, "same", func(_ context.Context, value any) (any, error) { return value, nil })
	Handle(f, "array", func(_ context.Context, in struct {
		Value pypool.Array `json:"value"`
	}) (pypool.Array, error) {
		return in.Value, nil
	})
	Handle(f, "parts", func(_ context.Context, in struct{ Value map[string][]byte }) (map[string][]byte, error) {
		return in.Value, nil
	})
	HandleProgram(f, "total", func(_ context.Context, in struct{ Values []int }) (sum int, _ error) {
		for _, v := range in.Values {
			sum += v
		}
		return sum, nil
	})
	HandleProgramStream(f, "texts", func(_ context.Context, in struct {
		Data []byte
		N    int
	}) iter.Seq2[string, error] {
		return func(yield func(string, error) bool) {
			for range min(in.N, 3) {
				if !yield(string(in.Data), nil) {
					return
				}
			}
			if in.N > 3 {
				yield("", Exception("RuntimeError", "three"))
			}
		}
	})
	HandleProgramStream(f, "one", func(context.Context, struct{}) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) { yield(1, nil) }
	})
	return f
}

// happening is what a caller sees of a call.
type happening struct {
	value           any
	typ             pypool.ErrorType
	delivery        pypool.Delivery
	session         string
	command         string
	program         string
	details         string // which there are
	canceled, ended bool   // errors.Is of a context's errors
}

func happened(value any, err error) happening {
	h := happening{value: value, canceled: errors.Is(err, context.Canceled), ended: errors.Is(err, context.DeadlineExceeded)}
	var e *pypool.Error
	if !errors.As(err, &e) {
		return h
	}
	h.typ, h.delivery, h.session, h.command, h.program = e.Type, e.Delivery, e.Context.Session, e.Context.Command, e.Context.Program
	for _, d := range []any{
		new(*pypool.HangError), new(*pypool.ExitError), new(*pypool.StartError), new(*pypool.PythonError), new(*pypool.ArgumentError), new(*pypool.ProtocolError),
		new(*pypool.UnknownCommandError), new(*pypool.InvalidResultError), new(*pypool.CircuitError), new(*json.UnmarshalTypeError),
	} {
		if errors.As(err, d) {
			h.details += fmt.Sprintf("%T ", d)
		}
	}
	return h
}

// What a caller sees of a Fake is what it sees of the pool that the Fake stands for.
func TestAFakeIsAsItsPool(t *testing.T) {
	t.Parallel()
	pool := Start(t, pypool.Config{Script: "testdata/worker.py", Python: os.Getenv("PYPOOL_PYTHON")})
	type args = map[string]any
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	call := func(command string, in any, opts ...pypool.CallOption) func(context.Context, pypool.Caller) (any, error) {
		return func(ctx context.Context, c pypool.Caller) (any, error) {
			return pypool.Call[any](ctx, c, command, in, opts...)
		}
	}
	items := func(command string, in any, most int) func(context.Context, pypool.Caller) (any, error) {
		return func(ctx context.Context, c pypool.Caller) (any, error) {
			list := []any{}
			for item, err := range pypool.Each[any](ctx, c, command, in) {
				if err != nil {
					return list, err
				}
				if list = append(list, item); len(list) == most {
					break
				}
			}
			return list, nil
		}
	}
	for name, do := range map[string]func(ctx context.Context, c pypool.Caller) (any, error){
		"keywords":           call("greet", args{"name": "Ann", "greeting": "Hi"}),
		"a default":          call("greet", args{"name": "Ann"}),
		"positions":          call("add", []int{40, 2}),
		"too many positions": call("add", []int{40, 2, 1}),
		"an unknown one":     call("add", args{"a": 1, "b": 2, "c": 3}),
		"another case":       call("greet", args{"Name": "Ann"}),
		"no object":          call("add", 7),
		"no JSON":            call("add", args{"a": math.Inf(1)}),
		"an exception":       call("greet", args{"name": ""}),
		"no such command":    call("gret", nil),
		"NaN":                call("wrong", nil),
		"None":               call("nothing", nil),
		"large numbers":      call("same", []any{json.Number("12345678901234567890")}),
		"no session":         call("session", nil),
		"a session":          call("session", nil, pypool.WithSession("s")),
		"no label":           call("session", nil, pypool.WithSession("a\nb")),
		"bytes": func(ctx context.Context, c pypool.Caller) (any, error) {
			return pypool.Call[[]byte](ctx, c, "same", []any{[]byte("\x00\xff")})
		},
		"bytes in a map": func(ctx context.Context, c pypool.Caller) (any, error) {
			return pypool.Call[map[string][]byte](ctx, c, "parts", args{"value": args{"a": []byte("\x00\xff"), "b": []byte{}}})
		},
		"bytes as JSON": call("same", []any{[]byte("\x00\xff")}),
		"an array": func(ctx context.Context, c pypool.Caller) (any, error) {
			return pypool.Call[pypool.Array](ctx, c, "array", args{"value": pypool.ArrayOf([]float32{1, 2, 3, 4, 5, 6}, 2, 3)})
		},
		"an array by position": func(ctx context.Context, c pypool.Caller) (any, error) {
			return pypool.Call[pypool.Array](ctx, c, "array", []any{pypool.ArrayOf([]int64{1, 2, 3})})
		},
		"an array as JSON": call("array", args{"value": pypool.ArrayOf([]int32{1, 2, 3})}),
		"an array's JSON": func(ctx context.Context, c pypool.Caller) (any, error) {
			res, err := c.ExecuteAnonymous(ctx, "array", args{"value": pypool.ArrayOf([]uint8{1, 2, 3})}, pypool.WithBlobs())
			return string(res.Raw()), err
		},
		"a wrong array": call("array", args{"value": pypool.Array{DType: "float32", Shape: []int{7}, Data: []byte{1}}}),
		"another Go type": func(ctx context.Context, c pypool.Caller) (any, error) {
			return pypool.Call[int](ctx, c, "greet", args{"name": "Ann"}, pypool.WithSession("s"))
		},
		"in a session": func(ctx context.Context, c pypool.Caller) (any, error) {
			res, err := c.ExecuteInSession(ctx, "s", "session", nil)
			return string(res.Raw()), err
		},
		"no session's name": func(ctx context.Context, c pypool.Caller) (any, error) {
			_, err := c.ExecuteInSession(ctx, "", "session", nil)
			return nil, err
		},
		"two sessions": func(ctx context.Context, c pypool.Caller) (any, error) {
			_, err := c.ExecuteInSession(ctx, "s", "session", nil, pypool.WithSession("t"))
			return nil, err
		},
		"a program": func(ctx context.Context, c pypool.Caller) (any, error) {
			res, err := c.ExecuteProgram(ctx, "total", args{"values": []int{1, 2, 3}}, pypool.WithSession("s"))
			return string(res.Raw()), err
		},
		"no such program": func(ctx context.Context, c pypool.Caller) (any, error) {
			_, err := c.ExecuteProgram(ctx, "totl", nil, pypool.WithSession("s"))
			return nil, err
		},
		"no program": func(ctx context.Context, c pypool.Caller) (any, error) {
			_, err := c.ExecuteProgram(ctx, "", nil)
			return nil, err
		},
		"a program's call":             call("execute_program", args{"program_id": "total", "inputs": args{"values": []int{1, 2}}}),
		"a program's items":            items("execute_program", args{"program_id": "texts", "inputs": args{"data": []byte("ab"), "n": 2}}, -1),
		"a program's items, an error":  items("execute_program", args{"program_id": "texts", "inputs": args{"data": []byte("ab"), "n": 9}}, -1),
		"a program's bad args":         items("execute_program", args{"program_id": "texts", "inputs": args{"m": 9}}, -1),
		"no such program's items":      items("execute_program", args{"program_id": "tex"}, -1),
		"a program's items, no inputs": items("execute_program", args{"program_id": "one"}, -1),
		"a generator program's call": func(ctx context.Context, c pypool.Caller) (any, error) {
			_, err := c.ExecuteProgram(ctx, "one", nil)
			return nil, err
		},
		"too slow": call("sleep", args{"seconds": 60}, pypool.WithTimeout(50*time.Millisecond)),
		"a deadline": func(ctx context.Context, c pypool.Caller) (any, error) {
			ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			defer cancel()
			return pypool.Call[any](ctx, c, "sleep", args{"seconds": 60})
		},
		"canceled": func(ctx context.Context, c pypool.Caller) (any, error) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(100*time.Millisecond, cancel)
			return pypool.Call[any](ctx, c, "sleep", args{"seconds": 60})
		},
		"canceled before": func(_ context.Context, c pypool.Caller) (any, error) {
			return pypool.Call[any](ended, c, "sleep", args{"seconds": 60})
		},
		"items":                items("count", args{"n": 2}, -1),
		"items and an error":   items("count", args{"n": 9}, -1),
		"a stream that's left": items("count", args{"n": 9}, 1),
		"a plain stream":       items("add", args{"a": 1, "b": 2}, -1),
		"no such stream":       items("cuont", args{"n": 9}, -1),
		"a stream of bad args": items("count", args{"m": 9}, -1),
		"a generator's call":   call("count", args{"n": 2}),
		"a map": func(ctx context.Context, c pypool.Caller) (any, error) {
			list := []int{}
			for out, err := range pypool.Map[int](ctx, c, "same", func(yield func(int) bool) {
				for i := 0; i < 200 && yield(i); i++ {
				}
			}) {
				if err != nil {
					return list, err
				}
				list = append(list, out)
			}
			return list, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := happened(do(t.Context(), pool))
			fake := twin()
			assert.Equal(t, want, happened(do(t.Context(), fake)))
			require.NoError(t, fake.Close())
		})
	}
}

// Each type of error that docs/errors.md names, with the delivery and the detail that it says.
func TestEveryErrorCanBeProvoked(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/errors.md")
	require.NoError(t, err)
	rows := regexp.MustCompile("(?m)^\\| \\[(\\w+)\\]\\(#\\w+\\) \\| (\\w+) \\| `(\\w+)` \\| (.*)$").FindAllStringSubmatch(string(page), -1)
	require.Len(t, rows, len(errorsOf))
	fake := twin()
	for i, row := range rows {
		typ := pypool.ErrorType(row[1])
		fake.Fail("greet", Error(typ))
		_, err := fake.ExecuteInSession(t.Context(), "s", "greet", map[string]any{"name": "Ann"})
		var e *pypool.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, typ, e.Type)
		require.Equal(t, row[2], string(e.Category))
		require.Regexp(t, "as known|"+e.Delivery.String(), row[4], "%s", typ)
		require.Equal(t, []any{"greet", "s", uint64(i + 1)}, []any{e.Context.Command, e.Context.Session, e.Context.RequestID})
		require.Contains(t, e.Error(), "pypool: "+row[1]+": greet: ")
		_, section, found := regexpCut(string(page), "\n### "+row[1]+"\n")
		require.True(t, found)
		if detail := regexp.MustCompile(`Detail[^.]*?` + "`" + `\*(\w+)\{`).FindStringSubmatch(section); detail != nil {
			require.Contains(t, happened(nil, e).details, detail[1], "%s", typ)
		}
	}
	out, err := pypool.Call[string](t.Context(), fake, "greet", map[string]any{"name": "Ann"})
	require.NoError(t, err, "no failure is left")
	require.Equal(t, "Hello, Ann", out)
	require.Panics(t, func() { Error("nobody's") })
}

// regexpCut cuts at a heading, and takes what stands there up to the next one.
func regexpCut(page, heading string) (before, section string, found bool) {
	at := regexp.MustCompile(regexp.QuoteMeta(heading)).FindStringIndex(page)
	if at == nil {
		return "", "", false
	}
	section = page[at[1]:]
	if end := regexp.MustCompile(`\n##`).FindStringIndex(section); end != nil {
		section = section[:end[0]]
	}
	return page[:at[0]], section, true
}

func TestWhatFunctionsFailWith(t *testing.T) {
	t.Parallel()
	fake := New()
	var fails error
	Handle(fake, "f", func(context.Context, struct{}) (int, error) { return 0, fails })
	call := func() *pypool.Error {
		_, err := pypool.Call[int](t.Context(), fake, "f", nil)
		var e *pypool.Error
		require.ErrorAs(t, err, &e)
		return e
	}
	fails = errors.New("plain")
	e := call()
	require.ErrorIs(t, e, pypool.ErrPython)
	require.Equal(t, "pypool: python_exception: f: Exception: plain (worker.py:1 in command)", e.Error())
	fails = fmt.Errorf("wrapped: %w", &pypool.PythonError{Type: "KeyError", Message: "'x'"})
	require.Equal(t, "pypool: python_exception: f: KeyError: 'x'", call().Error())
	given := Error(pypool.TypeWorkerExited)
	fails = given
	require.ErrorIs(t, call(), pypool.ErrWorkerExited)
	require.Empty(t, given.Context, "who made it still has it as it was")

	fake.Fail("f", given, nil, given)
	fails = nil
	require.ErrorIs(t, call(), pypool.ErrWorkerExited)
	_, err := pypool.Call[int](t.Context(), fake, "f", nil)
	require.NoError(t, err)
	fake.Reset()
	_, err = pypool.Call[int](t.Context(), fake, "f", nil)
	require.NoError(t, err)
	require.Len(t, fake.Calls(), 1)
	HandleProgram(fake, "p", func(context.Context, []int) (int, error) { return 7, nil })
	fake.Fail("execute_program:p", given)
	_, err = fake.ExecuteProgram(t.Context(), "p", []int{1})
	require.ErrorIs(t, err, pypool.ErrWorkerExited)
	require.Len(t, fake.CallsOf("execute_program:p"), 1)
}

func TestCallsAreRecorded(t *testing.T) {
	t.Parallel()
	fake := twin()
	_, err := pypool.Call[string](t.Context(), fake, "greet", map[string]any{"name": "Ann"}, pypool.WithSession("s"), pypool.WithTimeout(time.Minute))
	require.NoError(t, err)
	for range pypool.Each[int](t.Context(), fake, "count", []int{9}) {
	}
	_, err = pypool.Call[string](t.Context(), fake, "unknown", nil)
	require.Error(t, err)
	var within Call
	Handle(fake, "look", func(ctx context.Context, _ struct{}) (int, error) {
		calls := fake.CallsOf("look")
		within = calls[len(calls)-1]
		return 0, nil
	})
	_, err = pypool.Call[int](t.Context(), fake, "look", nil)
	require.NoError(t, err)
	require.False(t, within.Ended)

	calls := fake.Calls()
	require.Len(t, calls, 4)
	require.Equal(t, Call{
		ID: 1, Command: "greet", Session: "s", Args: json.RawMessage(`{"name":"Ann"}`), Options: calls[0].Options, Ended: true, Result: json.RawMessage(`"Hello, Ann"`),
	}, calls[0])
	require.Equal(t, time.Minute, calls[0].Options.Timeout)
	var in struct{ Name string }
	require.NoError(t, calls[0].Decode(&in))
	require.Equal(t, "Ann", in.Name)
	require.Equal(t, []any{true, 3}, []any{calls[1].Stream, calls[1].Items})
	require.ErrorIs(t, calls[1].Err, pypool.ErrPython)
	require.ErrorIs(t, calls[2].Err, pypool.ErrUnknownCommand)
	require.Equal(t, "null", string(calls[2].Args))
	require.True(t, calls[3].Ended)

	image := pypool.ArrayOf([]uint8{1, 2, 3})
	_, err = pypool.Call[pypool.Array](t.Context(), fake, "array", []any{image})
	require.NoError(t, err)
	call := fake.CallsOf("array")[0]
	require.Equal(t, "[[1,2,3]]", string(call.Args))
	require.Equal(t, "[1,2,3]", string(call.Result))
	var got pypool.Array
	require.NoError(t, call.Decode(&got))
	require.Equal(t, image, got)
}

func TestAFakesFunctionThatIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake, gate := New(), make(chan struct{})
		Handle(fake, "stubborn", func(context.Context, struct{}) (int, error) { <-gate; return 1, nil })
		begun := time.Now()
		_, err := pypool.Call[int](t.Context(), fake, "stubborn", nil, pypool.WithTimeout(time.Hour))
		require.ErrorIs(t, err, pypool.ErrOperationTimeout)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Hour, time.Since(begun))
		closed := make(chan struct{})
		go func() {
			_ = fake.Close()
			close(closed)
		}()
		synctest.Wait()
		_, err = pypool.Call[int](t.Context(), fake, "stubborn", nil)
		require.ErrorIs(t, err, pypool.ErrPoolClosed)
		select {
		case <-closed:
			t.Fatal("Close has not waited for the function")
		default:
		}
		close(gate)
		<-closed
	})
}

func TestPanicsOfAFakesFunctionsAreTheCallers(t *testing.T) {
	t.Parallel()
	fake := New()
	Handle(fake, "panic", func(context.Context, struct{}) (int, error) { panic("trouble") })
	Handle(fake, "exit", func(context.Context, struct{}) (int, error) { runtime.Goexit(); return 0, nil })
	for _, ctx := range []context.Context{context.Background(), t.Context()} {
		require.PanicsWithValue(t, "trouble", func() { _, _ = fake.ExecuteAnonymous(ctx, "panic", nil) })
		done := make(chan bool)
		go func() {
			defer close(done)
			_, _ = fake.ExecuteAnonymous(ctx, "exit", nil)
			done <- true
		}()
		require.False(t, <-done)
	}
}

func TestAFakeIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	fake := twin()
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 50 {
				sum, err := pypool.Call[int](t.Context(), fake, "add", []int{i, j})
				assert.NoError(t, err)
				assert.Equal(t, i+j, sum)
				for range pypool.Each[int](t.Context(), fake, "count", []int{2}) {
					fake.Calls()
				}
			}
		})
	}
	group.Wait()
	require.Len(t, fake.CallsOf("add"), 400)
	require.Len(t, fake.CallsOf("count"), 400)
}

func TestArgumentsAsFunctionsGetThem(t *testing.T) {
	t.Parallel()
	type pair struct {
		A int `json:"a"`
		B []byte
	}
	fake := New()
	Handle(fake, "struct", func(_ context.Context, in pair) (string, error) { return fmt.Sprint(in.A, string(in.B)), nil })
	Handle(fake, "pointer", func(_ context.Context, in *pair) (string, error) { return fmt.Sprint(in.A, string(in.B)), nil })
	Handle(fake, "raw", func(_ context.Context, in json.RawMessage) (string, error) { return string(in), nil })
	Handle(fake, "time", func(_ context.Context, in time.Time) (string, error) { return in.String(), nil })
	Handle(fake, "list", func(_ context.Context, in []int) (string, error) { return fmt.Sprint(in), nil })
	day := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		command string
		args    any
		want    string // empty: it is refused
	}{
		{"struct", pair{1, []byte("x")}, "1x"}, {"pointer", pair{1, []byte("x")}, "1x"}, {"struct", []any{1, []byte("x")}, "1x"}, {"pointer", []any{1}, "1"},
		{"struct", map[string]any{"a": 1, "c": 2}, ""}, {"pointer", map[string]any{"a": 1, "c": 2}, ""}, {"struct", []any{1, nil, 3}, ""}, {"struct", []any{"x"}, ""},
		{"struct", nil, "0"}, {"raw", map[string]any{"a": 1}, `{"a":1}`}, {"raw", []any{1}, "1"}, {"raw", []any{1, 2}, "[1,2]"},
		{"time", []any{day}, day.String()}, {"list", []any{[]int{1, 2}}, "[1 2]"}, {"list", []int{1, 2}, "[1 2]"}, {"list", []any{"x", "y"}, ""},
	} {
		got, err := pypool.Call[string](t.Context(), fake, tc.command, tc.args)
		if tc.want == "" {
			require.ErrorAs(t, err, new(*pypool.ArgumentError), "%s %v", tc.command, tc.args)
			continue
		}
		require.NoError(t, err, "%s %v", tc.command, tc.args)
		require.Equal(t, tc.want, got, "%s %v", tc.command, tc.args)
	}
}

// Base is embedded in structs of arguments, which encoding/json then reads its fields into.
type Base struct{ X int }

type (
	byValue struct {
		Base
		Y int
	}
	byPointer struct {
		*Base
		Y int
	}
	named struct {
		Base `json:"base"`
		Y    int
	}
	namedToo struct {
		*Base `json:"base"`
		Y     int
	}
	left struct {
		Base `json:"-"`
		Y    int
	}
)

func TestArgumentsOfEmbeddedStructs(t *testing.T) {
	t.Parallel()
	f := New()
	Handle(f, "by value", func(_ context.Context, in byValue) ([]int, error) { return []int{in.X, in.Y}, nil })
	Handle(f, "by pointer", func(_ context.Context, in byPointer) ([]int, error) { return []int{in.X, in.Y}, nil })
	Handle(f, "named", func(_ context.Context, in named) ([]int, error) { return []int{in.X, in.Y}, nil })
	Handle(f, "named too", func(_ context.Context, in namedToo) ([]int, error) { return []int{in.X, in.Y}, nil })
	Handle(f, "left", func(_ context.Context, in left) ([]int, error) { return []int{in.X, in.Y}, nil })
	for _, c := range []struct {
		command string
		args    any
		want    []int // nil: they are refused
	}{
		{"by value", []any{1, 2}, []int{1, 2}},
		{"by pointer", []any{1, 2}, []int{1, 2}},
		{"by pointer", map[string]any{"X": 1, "Y": 2}, []int{1, 2}},
		{"by pointer", []any{1, 2, 3}, nil},
		{"by pointer", map[string]any{"Base": 1}, nil},
		{"named", []any{Base{1}, 2}, []int{1, 2}},
		{"named too", []any{Base{1}, 2}, []int{1, 2}},
		{"named", map[string]any{"X": 1}, nil},
		{"left", []any{2}, []int{0, 2}},
		{"left", map[string]any{"X": 1}, nil},
	} {
		got, err := pypool.Call[[]int](t.Context(), f, c.command, c.args)
		if c.want == nil {
			assert.ErrorIs(t, err, pypool.ErrInvalidArguments, "%s of %v", c.command, c.args)
			continue
		}
		assert.NoError(t, err, "%s of %v", c.command, c.args)
		assert.Equal(t, c.want, got, "%s of %v", c.command, c.args)
	}
}

func TestAFakesStreamEndsWithItsContext(t *testing.T) {
	t.Parallel()
	fake := New()
	HandleStream(fake, "endless", func(context.Context, struct{}) iter.Seq2[int, error] {
		return func(yield func(int, error) bool) {
			for i := 0; yield(i, nil); i++ {
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	n := 0
	for _, err := range pypool.Each[int](ctx, fake, "endless", nil) {
		if last = err; err != nil {
			break
		}
		if n++; n == 3 {
			cancel()
		}
	}
	require.Equal(t, 3, n)
	require.ErrorIs(t, last, pypool.ErrCanceled)
	require.ErrorIs(t, last, context.Canceled)
	require.ErrorAs(t, last, new(*pypool.HangError))
}

func TestResult(t *testing.T) {
	t.Parallel()
	var v []string
	require.NoError(t, Result([]string{"<a>", "b"}).Decode(&v))
	require.Equal(t, []string{"<a>", "b"}, v)
	require.Equal(t, `["<a>"]`, string(Result([]string{"<a>"}).Raw()))
	require.Panics(t, func() { Result(math.NaN()) })
}

func TestAnErrDecodeOfAFakeNamesItsCall(t *testing.T) {
	f := twin()
	_, err := pypool.Call[int](t.Context(), f, "greet", map[string]string{"name": "Ann"}, pypool.WithSession("s"))
	var e *pypool.Error
	require.ErrorAs(t, err, &e)
	e.Context.Elapsed = 0
	require.Equal(t, pypool.ErrorContext{Pool: "fake", Worker: "fake", Session: "s", Command: "greet", RequestID: 1}, e.Context)
}
