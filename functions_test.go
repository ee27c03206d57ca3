package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type lookupKey struct {
	ID    string `json:"id"`
	Count int    `json:"count"`
}

// functionsConfig is a pool of one worker, whose handlers call the functions.
func functionsConfig(t testing.TB, functions Functions) Config {
	t.Helper()
	return Config{Script: workerScript(t, "host.py"), Python: realPython(), Size: 1, Overflow: -1, Logger: testLogger(t), Functions: functions}
}

func echoFunction() Function {
	return Func(func(_ context.Context, in any) (any, error) { return in, nil })
}

// hostAnswer is what the command call tells of a function.
type hostAnswer struct {
	Result    any
	Type      string
	Message   string
	Attribute bool
}

func askHost(t *testing.T, p *Pool, name string, keyword any, positional ...any) hostAnswer {
	t.Helper()
	out, err := Call[hostAnswer](t.Context(), p, "call", args{"name": name, "keyword": keyword, "positional": positional})
	require.NoError(t, err)
	return out
}

type notFound struct{ id string }

func (e *notFound) Error() string { return "no user " + e.id }

type tricky struct{}

func (tricky) Error() string { panic("Error panics") }

// exiting has no text.
type exiting struct{}

func (exiting) String() string { runtime.Goexit(); return "" }

func TestPythonCallsFunctionsOfTheHosts(t *testing.T) {
	t.Parallel()
	p := newPool(t, functionsConfig(t, Functions{
		"lookup": Func(func(_ context.Context, in lookupKey) (map[string]any, error) {
			return map[string]any{"id": in.ID, "n": in.Count}, nil
		}),
		"echo":    echoFunction(),
		"sum":     Func(func(_ context.Context, in []int) (int, error) { return in[0] + in[1], nil }),
		"double":  Func(func(_ context.Context, in int) (int, error) { return 2 * in, nil }),
		"nothing": Func(func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil }),
		"missing": Func(func(_ context.Context, in lookupKey) (int, error) { return 0, fmt.Errorf("look: %w", &notFound{in.ID}) }),
		"plain":   Func(func(context.Context, any) (int, error) { return 0, errors.New("just text") }),
		"gone":    Func(func(context.Context, any) (int, error) { return 0, fmt.Errorf("db: %w", context.DeadlineExceeded) }),
		"panics":  Func(func(context.Context, any) (int, error) { panic("no such thing") }),
		"endless": Func(func(context.Context, any) (int, error) { panic(containsItself()) }),
		"worst":   Func(func(context.Context, any) (int, error) { panic(exiting{}) }),
		"nobody":  Func(func(context.Context, any) (int, error) { return 0, asNil{} }),
		"exits":   Func(func(context.Context, any) (int, error) { runtime.Goexit(); return 0, nil }),
		"tricky":  Func(func(context.Context, any) (int, error) { return 0, tricky{} }),
		"channel": Func(func(context.Context, any) (any, error) { return make(chan int), nil }),
		"huge":    Func(func(context.Context, any) (any, error) { return strings.Repeat("x", 65<<20), nil }),
	}))
	assert.Equal(t, map[string]any{"id": "7", "n": 3.0}, askHost(t, p, "lookup", args{"id": "7", "count": 3}).Result)
	assert.Equal(t, map[string]any{"id": "8", "n": 0.0}, askHost(t, p, "lookup", nil, args{"id": "8"}).Result, "the In itself")
	assert.Equal(t, 7.0, askHost(t, p, "sum", nil, 3, 4).Result)
	assert.Equal(t, 7.0, askHost(t, p, "sum", nil, []int{3, 4}).Result)
	assert.Equal(t, 8.0, askHost(t, p, "double", nil, 4).Result)
	assert.Nil(t, askHost(t, p, "nothing", nil).Result)
	assert.JSONEq(t, `123456789012345678`, string(executed(t, p, "passes", args{"name": "echo", "keyword": args{"x": 123456789012345678}}).Raw()[5:23]), "no digit is lost")
	for name, want := range map[string]hostAnswer{
		"missing": {Type: "pypool.notFound", Message: "look: no user 9"},
		"plain":   {Type: "error", Message: "just text"},
		"gone":    {Type: "deadline_exceeded", Message: "db: context deadline exceeded"},
		"panics":  {Type: "panic", Message: "no such thing"},
		"endless": {Type: "panic", Message: "a value of type []interface {}, which cannot be told"},
		"worst":   {Type: "panic", Message: "a value of type pypool.exiting, which cannot be told"},
		"nobody":  {Type: "pypool.asNil", Message: "as nil"},
		"exits":   {Type: "goexit", Message: "called runtime.Goexit"},
		"tricky":  {Type: "panic", Message: "Error panics"},
		"lookupp": {Type: "unknown_function", Message: "the host has no function 'lookupp', did you mean 'lookup'?", Attribute: true},
	} {
		assert.Equal(t, want, askHost(t, p, name, args{"id": "9"}), name)
	}
	for name, tc := range map[string]struct {
		name       string
		keyword    any
		positional []any
		kind, part string
	}{
		"a wrong type":             {"lookup", args{"id": 7}, nil, "invalid_arguments", "lookupKey.id of type string"},
		"a wrong name":             {"lookup", args{"idd": "7"}, nil, "invalid_arguments", `unknown argument "idd"; it takes count, id`},
		"no argument":              {"double", nil, nil, "invalid_arguments", "it takes one argument, int, and got none"},
		"many for a struct":        {"lookup", nil, []any{"7", 3}, "invalid_arguments", "array"},
		"a result that is no JSON": {"channel", nil, nil, "invalid_result", "unsupported type: chan int"},
		"a result beyond limits":   {"huge", nil, nil, "message_too_large", "MaxMessageBytes is 67108864"},
	} {
		got := askHost(t, p, tc.name, tc.keyword, tc.positional...)
		assert.Equal(t, tc.kind, got.Type, name)
		assert.Contains(t, got.Message, tc.part, name)
	}
	assert.Zero(t, p.Stats().WorkersExited)
}

func TestAFunctionIsCalledFromEveryKindOfCall(t *testing.T) {
	t.Parallel()
	p := newPool(t, functionsConfig(t, Functions{"echo": echoFunction()}))
	sum, err := Call[int](t.Context(), p, "many", args{"n": 100})
	require.NoError(t, err)
	assert.Equal(t, 4950, sum)
	for _, command := range []string{"items", "async_items"} {
		want := 0
		for i, err := range Each[int](t.Context(), p, command, args{"n": 50}) {
			require.NoError(t, err)
			require.Equal(t, want, i)
			want++
		}
		assert.Equal(t, 50, want, command)
	}
	numbers, err := Call[[]int](t.Context(), p, "coroutine", args{"n": 100})
	require.NoError(t, err)
	assert.Len(t, numbers, 100)
	assert.True(t, slices.IsSorted(numbers))
	for range 5 {
		mixed, err := Call[[][]int](t.Context(), p, "mixed", args{"n": 20})
		require.NoError(t, err)
		for _, list := range mixed {
			assert.Len(t, list, 20)
			assert.True(t, slices.IsSorted(list))
		}
	}
	numbers, err = Call[[]int](t.Context(), p, "loop_in_thread", args{"n": 20})
	require.NoError(t, err)
	assert.Len(t, numbers, 20)
	res, err := p.ExecuteProgram(t.Context(), "asks", args{"value": 5})
	require.NoError(t, err)
	assert.Equal(t, "5", string(res.Raw()))
	n, err := Call[int](t.Context(), p, "threads", args{"count": 8, "n": 125})
	require.NoError(t, err)
	assert.Equal(t, 1000, n)
	forked := executed(t, p, "forked", args{"value": 3})
	assert.JSONEq(t, `["LookupError",3]`, string(forked.Raw()))
	assert.Equal(t, 3, decoded[int](t, executed(t, p, "add", args{"a": 2})))
	assert.Zero(t, p.Stats().WorkersExited)
}

func TestMapItemsCallFunctions(t *testing.T) {
	t.Parallel()
	cfg := functionsConfig(t, Functions{"echo": echoFunction()})
	cfg.Size = 2
	p := newPool(t, cfg)
	items := func(yield func(args) bool) {
		for i := range 2000 {
			if !yield(args{"value": []any{i, strings.Repeat("x", i%7*1000)}}) {
				return
			}
		}
	}
	next := 0
	for out, err := range Map[[1][]any](t.Context(), p, "echo_item", items) {
		require.NoError(t, err)
		require.Equal(t, float64(next), out[0][0])
		next++
	}
	assert.Equal(t, 2000, next)
	assert.Zero(t, p.Stats().WorkersExited)
}

func TestBytesGoToFunctionsAndBackByValue(t *testing.T) {
	t.Parallel()
	p := newPool(t, functionsConfig(t, Functions{
		"bytes": Func(func(_ context.Context, in struct {
			Size int `json:"size"`
		}) ([]byte, error) {
			return bytes.Repeat([]byte{0, 255, 10}, in.Size)[:in.Size], nil
		}),
		"echo_bytes": Func(func(_ context.Context, in []byte) ([]byte, error) { return in, nil }),
		"record": Func(func(context.Context, struct{}) (any, error) {
			return map[string]any{"name": "n", "body": []byte("body"), "list": []any{1, []byte("x")}}, nil
		}),
	}))
	for _, size := range []int{0, 1, 1000, 100_000, 3 << 20} {
		ok, err := Call[bool](t.Context(), p, "bytes_of", args{"size": size})
		require.NoError(t, err, size)
		assert.True(t, ok, size)
	}
	assert.JSONEq(t, `["bytes","body","bytes","n"]`, string(executed(t, p, "nested_bytes", nil).Raw()))
}

type hostTrace struct{}

func TestAFunctionRunsUnderTheCallsContext(t *testing.T) {
	t.Parallel()
	type seen struct {
		info     CallInfo
		known    bool
		trace    any
		deadline time.Duration
		limited  bool
	}
	var got seen
	cfg := functionsConfig(t, Functions{"echo": Func(func(ctx context.Context, in any) (any, error) {
		got.info, got.known = CallFromContext(ctx)
		got.trace = ctx.Value(hostTrace{})
		var end time.Time
		end, got.limited = ctx.Deadline()
		got.deadline = time.Until(end)
		return in, nil
	})})
	cfg.Observer = &Observer{CallStart: func(ctx context.Context, c CallInfo) context.Context {
		return context.WithValue(ctx, hostTrace{}, c.RequestID)
	}}
	p := newPool(t, cfg)
	_, err := p.ExecuteInSession(t.Context(), "user-42", "many", args{"n": 1}, WithTimeout(time.Hour))
	require.NoError(t, err)
	assert.True(t, got.known)
	assert.Equal(t, "user-42", got.info.Session)
	assert.Equal(t, "many", got.info.Command)
	assert.Equal(t, got.info.RequestID, got.trace)
	assert.True(t, got.limited)
	assert.InDelta(t, time.Hour, got.deadline, float64(time.Minute))
	for _, err := range Map[any](t.Context(), p, "echo_item", slices.Values([]int{1})) {
		require.NoError(t, err)
	}
	assert.Equal(t, got.info.RequestID, got.trace, "in a Map that of the item")
	_, known := CallFromContext(t.Context())
	assert.False(t, known)
}

func TestAFunctionsContextEndsWithTheCall(t *testing.T) {
	t.Parallel()
	began, ended, left := make(chan struct{}, 8), make(chan error, 8), make(chan struct{}, 8)
	cfg := functionsConfig(t, Functions{
		"block": Func(func(ctx context.Context, _ struct{}) (string, error) {
			began <- struct{}{}
			<-ctx.Done()
			ended <- ctx.Err()
			<-left // an answer in the same instant would win
			return "late", nil
		}),
		"echo": echoFunction(),
	})
	cfg.CancelGrace = time.Minute // who is not struck would be waited for
	p := newPool(t, cfg)
	pid := pids(p)[0]
	for name, tc := range map[string]struct {
		command string
		timeout time.Duration
		left    bool
		want    error
		is      error
	}{
		"canceled":             {"stop_in_function", 0, true, ErrCanceled, context.Canceled},
		"a deadline":           {"stop_in_function", 100 * time.Millisecond, false, ErrOperationTimeout, context.DeadlineExceeded},
		"canceled, shielded":   {"shielded", 0, true, ErrCanceled, context.Canceled},
		"a deadline, in aio":   {"stop_in_aio", 100 * time.Millisecond, false, ErrOperationTimeout, context.DeadlineExceeded},
		"canceled in a thread": {"stop_in_thread", 0, true, ErrCanceled, context.Canceled},
	} {
		path := filepath.Join(t.TempDir(), "note")
		ctx, cancel := context.WithCancel(t.Context())
		if tc.left {
			go func() {
				<-began
				cancel()
			}()
		}
		_, err := p.ExecuteAnonymous(ctx, tc.command, args{"path": path}, WithTimeout(tc.timeout))
		left <- struct{}{}
		require.ErrorIs(t, err, tc.want, name)
		require.ErrorIs(t, <-ended, tc.is, name)
		if !tc.left {
			<-began
		}
		cancel()
		eventually(t, name+": the handler has ended", func() bool {
			text, _ := os.ReadFile(path)
			return len(text) > 0
		})
		assert.Equal(t, 3, decoded[int](t, executed(t, p, "add", args{"a": 2})), name)
	}
	assert.Equal(t, pid, pids(p)[0], "no worker was lost")
	assert.Equal(t, "5", string(executed(t, p, "passes", args{"name": "echo", "keyword": args{"x": 5}}).Raw()[5:6]))
}

func TestAThreadWhoseCallHasEndedGetsALookupError(t *testing.T) {
	t.Parallel()
	began := make(chan struct{})
	p := newPool(t, functionsConfig(t, Functions{
		"echo": echoFunction(),
		"block": Func(func(ctx context.Context, _ struct{}) (int, error) {
			close(began)
			<-ctx.Done()
			return 0, nil
		}),
		"blocked": Func(func(context.Context, struct{}) (bool, error) { return isClosed(began), nil }),
	}))
	dir := t.TempDir()
	gate, out := filepath.Join(dir, "gate"), filepath.Join(dir, "out")
	_ = executed(t, p, "leave_thread", args{"gate": gate, "out": out})
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	eventually(t, "three calls were refused", func() bool {
		text, _ := os.ReadFile(out)
		return strings.Count(string(text), "LookupError\n") == 3
	})
	n, err := Call[int](t.Context(), p, "many", args{"n": 10})
	require.NoError(t, err)
	assert.Equal(t, 45, n)
	assert.Zero(t, p.Stats().WorkersExited)
}

func TestANestedCallNeverWaits(t *testing.T) {
	t.Parallel()
	var p *Pool
	nested := func(ctx context.Context, in struct {
		Size int `json:"size"`
	}) (int, error) {
		n, err := Call[int](ctx, p, "add", args{"a": in.Size})
		if err != nil {
			e := failure(t, err, ErrNestedCall)
			assert.Equal(t, NotExecuted, e.Delivery)
			assert.Equal(t, CategoryResource, e.Category)
			assert.True(t, SafeToRetry(err))
		}
		return n, err
	}
	cfg := functionsConfig(t, Functions{"nested": Func(nested), "map": Func(func(ctx context.Context, _ struct{}) (int, error) {
		sum := 0
		for n, err := range Map[int](ctx, p, "add", slices.Values([]int{1, 2, 3})) {
			if err != nil {
				return 0, err
			}
			sum += n
		}
		return sum, nil
	}), "stream": Func(func(ctx context.Context, _ struct{}) (int, error) {
		for n, err := range Each[int](ctx, p, "add", args{"a": 1}) {
			return n, err
		}
		return 0, nil
	})})
	cfg.CheckoutTimeout = time.Hour
	p = newPool(t, cfg)
	for _, name := range []string{"nested", "map", "stream"} {
		got := askHost(t, p, name, nil)
		assert.Equal(t, "nested_call", got.Type, name)
		assert.Contains(t, got.Message, "no worker is idle", name)
	}
	cfg.Size = 2
	p = newPool(t, cfg)
	for _, name := range []string{"nested", "map", "stream"} {
		assert.NotNil(t, askHost(t, p, name, nil).Result, name)
	}
	wait := inBackground(16, func(int) (Result, error) {
		return p.ExecuteAnonymous(t.Context(), "call", args{"name": "nested", "keyword": args{"size": 1}})
	})
	for _, out := range wait() {
		require.NoError(t, out.err)
	}
	_, err := p.ExecuteAnonymous(t.Context(), "unhandled", args{"name": "nested"})
	if err != nil {
		e := detail[*PythonError](t, err)
		assert.Equal(t, "HostError", e.Type)
	}
}

func TestANestedCallIsRefusedAsSuchWhenTheQueueIsFull(t *testing.T) {
	t.Parallel()
	var p *Pool
	var other func() []outcomeOf[int]
	cfg := functionsConfig(t, Functions{"nested": Func(func(ctx context.Context, _ struct{}) (int, error) {
		other = inBackground(1, func(int) (int, error) { return Call[int](t.Context(), p, "add", args{"a": 1}) })
		eventually(t, "the queue is full", func() bool { return p.Stats().Waiting == 1 })
		return Call[int](ctx, p, "add", args{"a": 1})
	})})
	cfg.MaxQueue = 1
	p = newPool(t, cfg)
	got := askHost(t, p, "nested", nil)
	require.Equal(t, "nested_call", got.Type, got.Message)
	require.NoError(t, other()[0].err)
}

func TestFunctionNamesAreChecked(t *testing.T) {
	t.Parallel()
	_, err := New(t.Context(), functionsConfig(t, Functions{"a-b": echoFunction(), "_x": echoFunction(), "aio": echoFunction(), "import": echoFunction(), "None": echoFunction(), "": echoFunction(), "empty": {}, "é": echoFunction(), "nil": Func[int, int](nil)}))
	e := failure(t, err, ErrInvalidArguments)
	for _, name := range []string{`"a-b"`, `"_x"`, `"aio"`, `"import"`, `"None"`, `""`, `"empty"`, `"é"`, `"nil"`} {
		assert.Contains(t, e.Message, "Config.Functions: "+name)
	}
}

func TestCloseDoesNotWaitForAFunction(t *testing.T) {
	t.Parallel()
	began, gate := make(chan struct{}), make(chan struct{})
	cfg := functionsConfig(t, Functions{"block": Func(func(context.Context, struct{}) (int, error) {
		close(began)
		<-gate // whatever becomes of ctx
		return 0, nil
	})})
	p := newPool(t, cfg)
	done := make(chan error)
	go func() {
		_, err := p.ExecuteAnonymous(context.Background(), "unhandled", args{"name": "block"})
		done <- err
	}()
	<-began
	require.NoError(t, p.Close())
	failure(t, <-done, ErrPoolClosed)
	close(gate)
}

func TestDeepValuesAreRefusedAndCostNothing(t *testing.T) {
	t.Parallel()
	p := newPool(t, functionsConfig(t, Functions{
		"deep": Func(func(_ context.Context, in struct {
			Depth int `json:"depth"`
		}) (json.RawMessage, error) {
			return json.RawMessage(strings.Repeat("[", in.Depth+1) + strings.Repeat("]", in.Depth+1)), nil
		}),
		"echo": echoFunction(),
	}))
	pid := pids(p)[0]
	assert.Equal(t, "100", string(executed(t, p, "deep", args{"depth": 100}).Raw()))
	assert.Contains(t, []string{`"invalid_result"`, "9000"}, string(executed(t, p, "deep", args{"depth": 9000}).Raw()), "as deep as this Python reads")
	for _, depth := range []int{900, 9_996, 9_997, 9_998, 9_999, 10_000, 20_000} {
		got := string(executed(t, p, "send_deep", args{"depth": depth}).Raw())
		assert.Contains(t, []string{`"sent"`, `"TypeError"`, `"HostError"`}, got, depth)
	}
	assert.Equal(t, pid, pids(p)[0])
}

// asNil says that it is an *Error, and gives none.
type asNil struct{}

func (asNil) Error() string      { return "as nil" }
func (asNil) As(target any) bool { _, ok := target.(**Error); return ok }
