package pypool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/wire"
)

// remote is a Caller as another module writes one: it has no more of a pool than bytes of
// arguments, results and errors, and uses exported names alone.
type remote struct{ pool *Pool }

func (r *remote) ExecuteInSession(ctx context.Context, sessionID, command string, args any, opts ...CallOption) (Result, error) {
	o, err := ReadCallOptions(opts...)
	if err == nil {
		err = o.InSession(sessionID)
	}
	if err == nil && sessionID == "" {
		err = NewError(TypeInvalidArguments, NotExecuted, "no session", nil)
	}
	if err != nil {
		return Result{}, err
	}
	return r.over(r.pool.ExecuteInSession(ctx, o.Session, command, r.args(args), r.options(o)...))
}

func (r *remote) ExecuteAnonymous(ctx context.Context, command string, args any, opts ...CallOption) (Result, error) {
	o, err := ReadCallOptions(opts...)
	if err == nil {
		err = o.InSession("")
	}
	if err != nil {
		return Result{}, err
	}
	return r.over(r.pool.ExecuteAnonymous(ctx, command, r.args(args), r.options(o)...))
}

func (r *remote) ExecuteProgram(ctx context.Context, programID string, inputs any, opts ...CallOption) (Result, error) {
	o, err := ReadCallOptions(opts...)
	if err != nil {
		return Result{}, err
	}
	return r.over(r.pool.ExecuteProgram(ctx, programID, r.args(inputs), r.options(o)...))
}

func (r *remote) Stream(ctx context.Context, command string, args any, opts ...CallOption) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		o, err := ReadCallOptions(opts...)
		if err != nil {
			yield(Result{}, err)
			return
		}
		for res, err := range r.pool.Stream(ctx, command, r.args(args), r.options(o)...) {
			if !yield(r.over(res, err)) {
				return
			}
		}
	}
}

func (r *remote) args(args any) json.RawMessage {
	raw, err := wire.EncodeArgs(nil, args)
	if err != nil {
		panic(err)
	}
	return raw
}

func (r *remote) options(o CallOptions) (opts []CallOption) {
	if o.Session != "" {
		opts = append(opts, WithSession(o.Session))
	}
	for _, option := range []struct {
		d    time.Duration
		with func(time.Duration) CallOption
	}{{o.Timeout, WithTimeout}, {o.CheckoutTimeout, WithCheckoutTimeout}, {o.StallTimeout, WithStallTimeout}} {
		if option.d != 0 {
			opts = append(opts, option.with(option.d))
		}
	}
	return opts
}

func (r *remote) over(res Result, err error) (Result, error) {
	if err != nil {
		e, failed := DecodeError(EncodeError(err))
		if failed != nil {
			panic(failed)
		}
		return Result{}, e
	}
	return NewResult(json.RawMessage(" "+string(res.Raw())+"\n"), ResultInfo{Worker: res.Worker(), Queued: res.Queued(), Ran: res.Ran()}), nil
}

func TestCallEachAndMapTakeAnyCaller(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	for name, c := range map[string]Caller{"the pool": p, "another": &remote{p}} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			sum, err := Call[int](ctx, c, "add", args{"a": 40, "b": 2})
			require.NoError(t, err)
			require.Equal(t, 42, sum)
			meta, err := Call[map[string]any](ctx, c, "echo_meta", nil, WithSession("first"), WithSession(name))
			require.NoError(t, err)
			require.Equal(t, name, meta["session_id"])
			_, err = c.ExecuteAnonymous(ctx, "echo_meta", nil, WithSession(name))
			require.ErrorContains(t, err, "WithSession contradicts the method")
			_, err = c.ExecuteInSession(ctx, "a", "echo_meta", nil, WithSession("b"), WithSession("a"))
			require.ErrorContains(t, err, "WithSession contradicts the method")
			_, err = Call[any](ctx, c, "echo_meta", nil, WithSession(""))
			require.ErrorIs(t, err, ErrInvalidArguments)
			res, err := c.ExecuteProgram(ctx, "double", args{"x": 21}, WithSession(name))
			require.NoError(t, err)
			require.Equal(t, 42, decoded[int](t, res))
			require.NotEmpty(t, res.Worker())
			require.Positive(t, res.Ran())

			_, err = Call[string](ctx, c, "add", args{"a": 40, "b": 2}, WithSession(name))
			e := failure(t, err, ErrDecode)
			require.Equal(t, []string{name, "add"}, []string{e.Context.Session, e.Context.Command})
			require.NotEmpty(t, e.Context.Worker)
			_, err = Call[int](ctx, c, "fail", args{"message": "no"})
			e = failure(t, err, ErrPython)
			require.NotEmpty(t, detail[*PythonError](t, err).Traceback)
			require.Equal(t, Executed, e.Delivery)
			_, err = Call[int](ctx, c, "nobody", nil)
			require.NotEmpty(t, detail[*UnknownCommandError](t, err).Names)
			require.True(t, SafeToRetry(err))
			short, cancel := context.WithTimeout(ctx, 0)
			defer cancel()
			_, err = Call[int](short, c, "pid", nil)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorIs(t, err, ErrCheckoutTimeout)

			var items []int
			for item, err := range Each[int](ctx, c, "count", []any{5}, WithSession(name)) {
				require.NoError(t, err)
				items = append(items, item)
			}
			require.Equal(t, []int{0, 1, 2, 3, 4}, items)

			n := 0
			for out, err := range Map[int](ctx, c, "echo", integers(500), WithSession(name)) {
				require.NoError(t, err)
				require.Equal(t, n, out)
				n++
			}
			require.Equal(t, 500, n)
		})
	}
}

// integers that JSON's readers round are not, wherever a Result comes from.
func TestNewResult(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]any{
		"": nil, " null\n": nil, "7": 7.0, `{"a":[12345678901234567890]}`: map[string]any{"a": []any{json.Number("12345678901234567890")}},
		`{"a":[123456789012345]}`: map[string]any{"a": []any{123456789012345.0}}, `"12345678901234567890"`: "12345678901234567890",
	} {
		got := decoded[any](t, NewResult(json.RawMessage(raw), ResultInfo{}))
		require.Equal(t, want, got, raw)
	}
	require.JSONEq(t, "null", string(NewResult(nil, ResultInfo{}).Raw()))
	for _, raw := range []string{"+5", "007", "-07", "--7", "-"} {
		var n int
		require.ErrorIs(t, NewResult(json.RawMessage(raw), ResultInfo{}).Decode(&n), ErrDecode, raw)
	}
	for _, raw := range []string{"0", "-0", "-7", "70"} {
		require.Equal(t, fmt.Sprint(decoded[int](t, NewResult(json.RawMessage(raw), ResultInfo{}))), strings.TrimPrefix(raw, "-0")+strings.Repeat("0", strings.Count(raw, "-0")), raw)
	}
	var v any
	require.ErrorIs(t, NewResult(json.RawMessage(`{"a":`), ResultInfo{Worker: "w"}).Decode(&v), ErrDecode)
	res := NewResult(json.RawMessage("1"), ResultInfo{Worker: "w7", Queued: time.Second, Ran: time.Minute})
	require.Equal(t, []any{"w7", time.Second, time.Minute}, []any{res.Worker(), res.Queued(), res.Ran()})
}

// What does not fit says which call it was, however the caller decodes it.
func TestAnErrDecodeNamesItsCall(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Name: "names", Size: 1, Script: script(t, `
from pypool import command, program
@command
def text(): return "x"
@command
def rows(): yield "x"
@program("p")
class P:
    def __call__(self, inputs): return "x"
`)})
	ctx := t.Context()
	var n int
	contextOf := func(err error) ErrorContext {
		t.Helper()
		c := failure(t, err, ErrDecode).Context
		require.Positive(t, c.RequestID)
		require.Equal(t, p.Workers()[0].ID, c.Worker)
		return ErrorContext{Pool: c.Pool, Session: c.Session, Command: c.Command, Program: c.Program}
	}
	_, err := Call[int](ctx, p, "text", nil, WithSession("s"))
	require.Equal(t, ErrorContext{Pool: "names", Session: "s", Command: "text"}, contextOf(err))
	res, err := p.ExecuteInSession(ctx, "s", "text", nil)
	require.NoError(t, err)
	require.Equal(t, ErrorContext{Pool: "names", Session: "s", Command: "text"}, contextOf(res.Decode(&n)))
	require.ErrorContains(t, res.Decode(&n), "pypool: decode_failed: text: ")
	res, err = p.ExecuteProgram(ctx, "p", []any{1})
	require.NoError(t, err)
	require.Equal(t, ErrorContext{Pool: "names", Command: "execute_program", Program: "p"}, contextOf(res.Decode(&n)))
	for _, err := range Each[int](ctx, p, "rows", nil) {
		require.Equal(t, ErrorContext{Pool: "names", Command: "rows"}, contextOf(err))
	}
	for _, err := range Map[int](ctx, p, "text", slices.Values([]struct{}{{}, {}}), WithSession("s")) {
		require.Equal(t, ErrorContext{Pool: "names", Session: "s", Command: "text"}, contextOf(err))
		require.ErrorContains(t, err, "pypool: decode_failed: text: ")
	}
	far := NewResult(json.RawMessage(`"x"`), ResultInfo{Call: CallInfo{Pool: "far", Command: "text"}})
	require.Equal(t, ErrorContext{Pool: "far", Command: "text"}, failure(t, far.Decode(&n), ErrDecode).Context)
}

func TestReadCallOptions(t *testing.T) {
	t.Parallel()
	o, err := ReadCallOptions()
	require.NoError(t, err)
	require.Equal(t, CallOptions{}, o)
	o, err = ReadCallOptions(WithTimeout(time.Second), WithTimeout(time.Minute), WithCheckoutTimeout(0), WithStallTimeout(-5), WithSession("s"))
	require.NoError(t, err)
	require.Equal(t, CallOptions{Session: "s", Timeout: time.Minute, CheckoutTimeout: -1, StallTimeout: -1, sessions: 1}, o)
	require.NoError(t, o.InSession("s"))
	require.ErrorIs(t, o.InSession(""), ErrInvalidArguments)
	require.ErrorIs(t, o.InSession("other"), ErrInvalidArguments)
	_, err = ReadCallOptions(WithSession("a\nb"), WithSession("s"))
	require.ErrorIs(t, err, ErrInvalidArguments)
	o, err = ReadCallOptions()
	require.NoError(t, err)
	require.ErrorIs(t, o.InSession("a\nb"), ErrInvalidArguments)
	require.NoError(t, o.InSession("s"))
	require.Equal(t, "s", o.Session)
}

func TestANilCaller(t *testing.T) {
	t.Parallel()
	var none *Pool
	for _, c := range []Caller{nil, none} {
		_, err := Call[int](t.Context(), c, "add", nil)
		require.ErrorIs(t, err, ErrPoolClosed)
		for _, err = range Each[int](t.Context(), c, "add", nil) {
			require.ErrorIs(t, err, ErrPoolClosed)
		}
		require.Error(t, err)
		err = nil
		for _, err = range Map[int](t.Context(), c, "add", integers(2)) {
			require.ErrorIs(t, err, ErrPoolClosed)
		}
		require.Error(t, err)
	}
}

// --- errors ---------------------------------------------------------------------------------------------------------------

// failures are errors of all types, with all details.
func failures() []*Error {
	python := &PythonError{
		Type: "ValueError", Module: "builtins", Message: "bad\nworse", Traceback: "Traceback…\n", Notes: []string{"note"}, File: "/srv/app.py", Line: 7, Function: "f",
	}
	exit := &ExitError{Code: -1, Signal: syscall.SIGKILL, Stderr: "MemoryError\n", Stacks: "stacks", Uptime: time.Hour, Calls: 7, overtime: true, lost: true, itself: true}
	start := newError(TypeWorkerStart, NotExecuted, "", &StartError{Stage: "import", Stderr: "Traceback", Python: "/usr/bin/python3 3.11.7", Err: python})
	hang := &HangError{Stacks: "Thread 0x1 (most recent call first):\n  File \"app.py\", line 3 in f\n", Killed: true}
	refused := &ArgumentError{[]FieldError{{Loc: []any{"order", "items", 2, "price"}, Msg: "not a number", Type: "float_parsing"}, {Loc: []any{}, Msg: "all", Type: "arguments"}}}
	list := []*Error{
		NewError(TypeCheckoutTimeout, NotExecuted, "no worker fell free within 1s", nil),
		timeoutError(TypeOperationTimeout, MaybeExecuted, "no answer within 1s", hang, nil),
		timeoutError(TypeOperationTimeout, MaybeExecuted, "the context's deadline passed", hang, &pair{context.DeadlineExceeded, errors.New("why")}),
		timeoutError(TypeCanceled, MaybeExecuted, "canceled by the caller", &HangError{NoStacks: "none"}, context.Canceled),
		NewError(TypeStreamStalled, MaybeExecuted, "the loop's body", nil),
		NewError(TypePoolNotAvailable, NotExecuted, "the pool is closed", nil),
		NewError(TypeQueueFull, NotExecuted, "1024 wait", nil),
		NewError(TypeNestedCall, NotExecuted, "no worker is idle", nil),
		NewError(TypeCircuitOpen, NotExecuted, "", &CircuitError{Command: "f", RetryAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Cause: start}),
		NewError(TypeCircuitOpen, NotExecuted, "", &CircuitError{}),
		start,
		NewError(TypeWorkerStart, NotExecuted, "", &StartError{Stage: "spawn", Err: fmt.Errorf("no Python: %w (set it)", context.DeadlineExceeded)}),
		NewError(TypeWorkerExited, MaybeExecuted, "", exit),
		NewError(TypeProtocol, MaybeExecuted, "", &ProtocolError{Reason: "the line is not a JSON object", Sample: `"loading"`}),
		NewError(TypeMessageTooLarge, Executed, "the result is 7 bytes, MaxMessageBytes is 6", nil),
		NewError(TypeInvalidArguments, NotExecuted, "", refused),
		NewError(TypeInvalidArguments, Executed, "the arguments cannot be sent", &json.UnsupportedValueError{Str: "NaN"}),
		NewError(TypeUnknownCommand, NotExecuted, "", &UnknownCommandError{Name: "leafe", Names: []string{"leave"}}),
		NewError(TypePython, Executed, "", python),
		NewError(TypeInvalidResult, Executed, "", &InvalidResultError{Path: "$.rows[1]", Reason: "nan is not JSON"}),
		NewError(TypeDecode, Executed, strings.Repeat("long ", 1000), &json.SyntaxError{}),
		NewError(TypeInternal, MaybeExecuted, "the worker's runtime failed", python),
	}
	for i, e := range list {
		e.Context = ErrorContext{Pool: "p", Worker: "w3", PID: 7, Session: "s", Command: "f", RequestID: uint64(i + 1), Elapsed: time.Second}
	}
	return list
}

func TestAnErrorIsTheSameInAnotherProcess(t *testing.T) {
	t.Parallel()
	seen := map[ErrorType]bool{}
	for _, e := range failures() {
		seen[e.Type] = true
		got, err := DecodeError(EncodeError(fmt.Errorf("wrapped: %w", e)))
		require.NoError(t, err)
		assert.Equal(t, e.Error(), got.Error())
		assert.Equal(t, []any{e.Category, e.Type, e.Message, e.Context, e.Delivery}, []any{got.Category, got.Type, got.Message, got.Context, got.Delivery})
		assert.Equal(t, SafeToRetry(e), SafeToRetry(got))
		assert.Equal(t, e.LogValue().String(), got.LogValue().String())
		require.ErrorIs(t, got, e.Type.row())
		for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
			assert.Equal(t, errors.Is(e, cause), errors.Is(got, cause), "%v: %v", e, cause)
		}
		if e.Err == nil {
			assert.NoError(t, got.Err)
			continue
		}
		assert.Equal(t, e.Err.Error(), got.Err.Error())
		sameDetail[*HangError](t, e, got)
		sameDetail[*ExitError](t, e, got)
		sameDetail[*PythonError](t, e, got)
		sameDetail[*ArgumentError](t, e, got)
		sameDetail[*ProtocolError](t, e, got)
		sameDetail[*UnknownCommandError](t, e, got)
		sameDetail[*InvalidResultError](t, e, got)
		var start, start2 *StartError
		if errors.As(e, &start) {
			require.ErrorAs(t, got, &start2)
			assert.Equal(t, []string{start.Stage, start.Stderr, start.Python}, []string{start2.Stage, start2.Stderr, start2.Python})
		}
		var circuit, circuit2 *CircuitError
		if errors.As(e, &circuit) {
			require.ErrorAs(t, got, &circuit2)
			assert.Equal(t, []any{circuit.Command, circuit.RetryAt}, []any{circuit2.Command, circuit2.RetryAt})
			if circuit.Cause != nil {
				assert.Equal(t, detail[*StartError](t, circuit.Cause).Stderr, detail[*StartError](t, circuit2.Cause).Stderr)
			}
		}
	}
	require.Len(t, seen, len(errorTypes), "one of each type at the least")
}

func sameDetail[E error](t *testing.T, want, got error) {
	t.Helper()
	var w, g E
	assert.Equal(t, errors.As(want, &w), errors.As(got, &g), "%v: %T", want, w)
	assert.Equal(t, w, g)
}

func TestErrorsOfOtherProcessesThatAreStrange(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"", "{}", "[]", "null", `{"Type":7}`, `{"Message":"x"}`} {
		_, err := DecodeError([]byte(data))
		require.ErrorContains(t, err, "no error of pypool's", data)
	}
	e, err := DecodeError([]byte(`{"Type":"of_a_later_version","Message":"a\nb\u001b[2J","Delivery":"NotExecuted","Err":{"Later":{},"Text":"why"},"Extra":1}`))
	require.NoError(t, err)
	require.ErrorIs(t, e, ErrInternal)
	require.Equal(t, `pypool: unexpected_error: a\nb\x1b[2J`, e.Error())
	require.True(t, SafeToRetry(e))

	got, err := DecodeError(EncodeError(errors.New("not ours")))
	require.NoError(t, err)
	require.ErrorIs(t, got, ErrInternal)
	require.Equal(t, MaybeExecuted, got.Delivery)
	strange := NewError(TypeInvalidArguments, NotExecuted, "", &ArgumentError{[]FieldError{{Loc: []any{math.NaN()}, Msg: "m"}}})
	got, err = DecodeError(EncodeError(strange))
	require.NoError(t, err)
	require.Equal(t, strange.Error(), got.Error())
}

// --- Map over a Caller that is no pool --------------------------------------------------------------------------------

// slowly answers each call of Map's with its argument, once it may.
type slowly struct {
	remote
	begun, ended atomic.Int64
	gate         chan struct{} // closed: calls are answered
	err          func(n int) error
}

func (s *slowly) ExecuteAnonymous(ctx context.Context, _ string, args any, _ ...CallOption) (Result, error) {
	s.begun.Add(1)
	defer s.ended.Add(1)
	n := args.([1]any)[0].(int)
	select {
	case <-s.gate:
	case <-ctx.Done():
		return Result{}, NewError(TypeCanceled, MaybeExecuted, "canceled", ctx.Err())
	}
	if s.err != nil {
		if err := s.err(n); err != nil {
			return Result{}, err
		}
	}
	return NewResult(fmt.Append(nil, n), ResultInfo{}), nil
}

func TestAMapOverACallerKeepsSoManyOutstandingAndTheOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slowly{gate: make(chan struct{}), err: func(n int) error {
			if n == 7 {
				return NewError(TypePython, Executed, "seven", nil)
			}
			return nil
		}}
		go func() {
			synctest.Wait()
			assert.EqualValues(t, mapOutstanding, s.begun.Load())
			close(s.gate)
		}()
		n := 0
		for out, err := range Map[int](t.Context(), s, "f", integers(1000)) {
			if n == 7 {
				require.ErrorIs(t, err, ErrPython)
			} else {
				require.NoError(t, err)
				require.Equal(t, n, out)
			}
			n++
			if n == 100 { // a slow loop stops the feed
				synctest.Wait()
				require.EqualValues(t, n+mapOutstanding-1, s.begun.Load())
			}
		}
		require.Equal(t, 1000, n)
		require.EqualValues(t, 1000, s.ended.Load())
	})
}

func TestAMapOverACallerEndsWithItsLoopOrItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slowly{gate: make(chan struct{})}
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			synctest.Wait()
			cancel(errors.New("enough"))
		}()
		var last error
		for _, last = range Map[int](ctx, s, "f", integers(1000)) {
			require.Error(t, last)
		}
		require.ErrorIs(t, last, ErrCanceled)
		require.ErrorContains(t, errors.Unwrap(last), "enough")
		require.Equal(t, s.begun.Load(), s.ended.Load(), "no call is left behind")

		s = &slowly{gate: make(chan struct{})}
		close(s.gate)
		n := 0
		for range Map[int](t.Context(), s, "f", integers(1000)) {
			if n++; n == 3 {
				break
			}
		}
		require.Equal(t, s.begun.Load(), s.ended.Load())
		for range Map[int](t.Context(), s, "f", func(func(int) bool) {}) {
			t.Fatal("there are no items")
		}
	})
}

func TestAMapOverACallerWaitsAMomentForItemsThatBlock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, blocked := &slowly{gate: make(chan struct{})}, make(chan struct{})
		close(s.gate)
		told := make(chan bool, 1)
		begun := time.Now()
		for range Map[int](t.Context(), s, "f", func(yield func(int) bool) {
			_ = yield(1)
			<-blocked
			told <- yield(2)
		}) {
			break
		}
		require.Equal(t, itemsGrace, time.Since(begun))
		close(blocked)
		require.False(t, <-told)
		synctest.Wait()
		require.EqualValues(t, 1, s.begun.Load())
	})
}

func TestTroubleOfTheCallersCodeInAMapOverACaller(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(s *slowly){
		"the items": func(s *slowly) {
			for range Map[int](context.Background(), s, "f", func(yield func(int) bool) { yield(1); panic("trouble") }) {
			}
		},
		"the caller": func(s *slowly) {
			s.err = func(int) error { panic("trouble") }
			for range Map[int](context.Background(), s, "f", integers(10)) {
				panic("an item")
			}
		},
		"the body": func(s *slowly) {
			for range Map[int](context.Background(), s, "f", integers(10)) {
				panic("trouble")
			}
		},
	} {
		s := &slowly{gate: make(chan struct{})}
		close(s.gate)
		assert.PanicsWithValue(t, "trouble", func() { run(s) }, name)
		assert.Equal(t, s.begun.Load(), s.ended.Load(), name)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		s := &slowly{gate: make(chan struct{})}
		close(s.gate)
		for range Map[int](context.Background(), s, "f", func(func(int) bool) { runtime.Goexit() }) {
		}
		done <- true
	}()
	require.False(t, <-done, "Goexit ends the loop's goroutine")
}

// cache is a Caller that gives everybody the first result it had.
type cache struct {
	*Pool
	first func() (Result, error)
}

func (c *cache) ExecuteAnonymous(context.Context, string, any, ...CallOption) (Result, error) {
	return c.first()
}

func (c *cache) Stream(context.Context, string, any, ...CallOption) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) { yield(c.first()) }
}

// What another Caller returns it may keep, and return again: everybody gets payloads of their own.
func TestPayloadsOfAResultThatIsReturnedTwiceAreEachCallersOwn(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Script: script(t, "from pypool import command\n@command\ndef data(): return bytes(10000)\n"), Size: 1, Overflow: -1, Logger: quiet()})
	c := &cache{p, sync.OnceValues(func() (Result, error) { return p.ExecuteAnonymous(t.Context(), "data", nil, WithBlobs()) })}
	ways := map[string]func() ([]byte, error){
		"Call": func() ([]byte, error) { return Call[[]byte](t.Context(), c, "data", nil) },
		"Each": func() (data []byte, err error) {
			for data, err = range Each[[]byte](t.Context(), c, "data", nil) {
			}
			return data, err
		},
	}
	for range 2 {
		for name, get := range ways {
			data, err := get()
			require.NoError(t, err)
			require.Equal(t, make([]byte, 10000), data, name)
			data[0]++
		}
	}
}

// optionCounter yields how many options it was called with.
type optionCounter struct{ Caller }

func (optionCounter) Stream(_ context.Context, _ string, _ any, opts ...CallOption) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		yield(NewResult(fmt.Appendf(nil, `{"N":%d}`, len(opts)), ResultInfo{}), nil)
	}
}

func TestRangesOverOneEachHaveNothingInCommon(t *testing.T) {
	t.Parallel()
	seq := Each[struct {
		N    int
		Data []byte
	}](t.Context(), optionCounter{}, "f", nil, WithTimeout(time.Second))
	for range 3 {
		for _, out := range inBackground(4, func(int) (n int, err error) {
			for item, failed := range seq {
				n, err = item.N, failed
			}
			return n, err
		})() {
			require.NoError(t, out.err)
			require.Equal(t, 2, out.res)
		}
	}
}

// fullDisk is a log handler that panics with each record, once it has told of it.
type fullDisk struct {
	slog.Handler
	told chan string
}

func (h fullDisk) Handle(_ context.Context, r slog.Record) error {
	h.told <- r.Message
	panic("full disk")
}

// It runs alone: the default logger is everybody's.
func TestTheDefaultLoggersPanicEndsNothingWhenTheItemsOutliveTheirMapOverACaller(t *testing.T) {
	former, output, flags := slog.Default(), log.Writer(), log.Flags()
	defer func() {
		slog.SetDefault(former)
		log.SetOutput(output)
		log.SetFlags(flags)
	}()
	told := make(chan string)
	slog.SetDefault(slog.New(fullDisk{slog.NewTextHandler(io.Discard, nil), told}))
	s, blocks := &slowly{gate: make(chan struct{})}, make(chan struct{})
	close(s.gate)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range Map[int](ctx, s, "f", func(yield func(int) bool) { yield(1); <-blocks; panic("too late") }) {
		cancel()
	}
	close(blocks)
	require.Contains(t, <-told, "the items of a Map that has returned")
}
