package pypoolnats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// A client is a Caller as a pool is one: the same calls give the same.
func TestACallIsAsOneOfThePool(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 2)
	for name, caller := range map[string]pypool.Caller{"pool": p, "client": c} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			sum, err := pypool.Call[int](ctx, caller, "add", args{"a": 40, "b": 2})
			require.NoError(t, err)
			require.Equal(t, 42, sum)
			type meta struct {
				Session  *string
				Deadline bool
				Trace    *string
			}
			got, err := pypool.Call[meta](ctx, caller, "meta", nil, pypool.WithTimeout(-1))
			require.NoError(t, err)
			require.Equal(t, meta{}, got)
			const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
			limited, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			got, err = pypool.Call[meta](limited, caller, "meta", nil, pypool.WithTimeout(-1), pypool.WithSession("ann"), pypool.WithTraceParent(trace))
			require.NoError(t, err)
			require.Equal(t, []any{"ann", true, trace}, []any{*got.Session, got.Deadline, *got.Trace})
			_, err = caller.ExecuteAnonymous(ctx, "meta", nil, pypool.WithSession("ann"))
			require.ErrorContains(t, err, "WithSession contradicts the method")
			_, err = caller.ExecuteInSession(ctx, "", "meta", nil)
			require.ErrorIs(t, err, pypool.ErrInvalidArguments)
			_, err = caller.ExecuteInSession(ctx, "a\nb", "meta", nil)
			require.ErrorIs(t, err, pypool.ErrInvalidArguments)

			res, err := caller.ExecuteProgram(ctx, "double", args{"x": 21}, pypool.WithSession("ann"))
			require.NoError(t, err)
			var n int
			require.NoError(t, res.Decode(&n))
			require.Equal(t, 42, n)
			require.NotEmpty(t, res.Worker())
			require.Positive(t, res.Ran())
			_, err = caller.ExecuteProgram(ctx, "", nil)
			require.ErrorIs(t, err, pypool.ErrInvalidArguments)
			_, err = caller.ExecuteProgram(ctx, "nobody", nil)
			require.ErrorIs(t, err, pypool.ErrUnknownCommand)

			n, err = pypool.Call[int](ctx, caller, "size", args{"data": []byte("\x00\xffraw")})
			require.NoError(t, err)
			require.Equal(t, 5, n)
			vectors := pypool.ArrayOf([]float64{1, math.NaN()}, 1, 2)
			back, err := pypool.Call[struct {
				Value pypool.Array
				Data  []byte
			}](ctx, caller, "echo", args{"value": args{"value": vectors, "data": bytes.Repeat([]byte{1}, 9000)}})
			require.NoError(t, err)
			require.Equal(t, vectors.Data, back.Value.Data)
			require.Equal(t, vectors.Shape, back.Value.Shape)
			require.Equal(t, bytes.Repeat([]byte{1}, 9000), back.Data)
			for _, size := range []int{0, 3, 100_000} { // small ones travel as text, large ones beside the line
				data := slices.Repeat([]byte{0, 1, 255}, size)
				back, err := pypool.Call[[]byte](ctx, caller, "reverse", args{"data": data})
				require.NoError(t, err)
				slices.Reverse(data)
				require.True(t, slices.Equal(data, back), "%d bytes, want %d", len(back), len(data))
				array := pypool.ArrayOf(make([]float32, size+1))
				got, err := pypool.Call[pypool.Array](ctx, caller, "echo", args{"value": array})
				require.NoError(t, err)
				require.True(t, got.DType == "float32" && slices.Equal(array.Data, got.Data), "%s, %d bytes", got.DType, len(got.Data))
			}
			var pieces [][]byte
			for piece, err := range pypool.Each[[]byte](ctx, caller, "pieces", args{"data": []byte("abcde")}) {
				require.NoError(t, err)
				pieces = append(pieces, piece)
			}
			require.Equal(t, [][]byte{[]byte("ab"), []byte("cd"), []byte("e")}, pieces)
			for _, value := range []any{nil, true, 1.5, "ü\u2028\x00", "", []any{}, args{"deep": []any{1.0, "x"}}} {
				got, err := pypool.Call[any](ctx, caller, "echo", args{"value": value})
				require.NoError(t, err)
				require.Equal(t, value, got)
			}
			for _, bad := range []any{7, math.NaN(), args{"f": func() {}}, args{"s": "\xff"}} {
				_, err := caller.ExecuteAnonymous(ctx, "echo", bad)
				require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrInvalidArguments)))
			}

			n = 0
			for out, err := range pypool.Map[int](ctx, caller, "echo", slices.Values(numbers(300))) {
				require.NoError(t, err)
				require.Equal(t, n, out)
				n++
			}
			require.Equal(t, 300, n)
		})
	}
	st := accounted(t, p)
	require.Equal(t, int64(4), p.Sessions()[0].Operations, "%+v", st)
}

func numbers(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

func TestErrorsKeepTypeDetailAndDelivery(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 1)
	for name, caller := range map[string]pypool.Caller{"pool": p, "client": c} {
		t.Run(name, func(t *testing.T) {
			_, err := caller.ExecuteInSession(t.Context(), "ann", "fail", args{"message": "no\nway"})
			e := failure(t, err, pypool.ErrPython)
			require.Equal(t, pypool.Executed, e.Delivery)
			require.Equal(t, []string{"ann", "fail", "pypool"}, []string{e.Context.Session, e.Context.Command, e.Context.Pool})
			require.Positive(t, e.Context.Elapsed)
			py := detail[*pypool.PythonError](t, err)
			require.Equal(t, []string{"ValueError", "no\nway", "fail"}, []string{py.Type, py.Message, py.Function})
			require.Contains(t, py.Traceback, "raise ValueError(message)")

			_, err = pypool.Call[int](t.Context(), caller, "add", args{"a": "x", "c": 1})
			require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrInvalidArguments)))
			require.NotEmpty(t, detail[*pypool.ArgumentError](t, err).Errors)

			_, err = pypool.Call[int](t.Context(), caller, "ad", nil)
			require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrUnknownCommand)))
			require.Equal(t, "add", detail[*pypool.UnknownCommandError](t, err).Names[0])
			for _, strange := range []string{"", "a.b", "a *>", "ü", "=41", strings.Repeat("n", 256), strings.Repeat("n", 257), strings.Repeat("n", 1<<20)} {
				_, err = caller.ExecuteAnonymous(t.Context(), strange, nil)
				require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrUnknownCommand)), "%.20s", strange)
				require.Equal(t, strange, detail[*pypool.UnknownCommandError](t, err).Name)
			}

			_, err = caller.ExecuteAnonymous(t.Context(), "crash", args{"code": 3})
			require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrWorkerExited).Delivery)
			require.Equal(t, 3, detail[*pypool.ExitError](t, err).Code)
			_, err = pypool.Call[int](t.Context(), caller, "big", args{"n": 10})
			require.Equal(t, pypool.Executed, failure(t, err, pypool.ErrDecode).Delivery)

			_, err = caller.ExecuteAnonymous(t.Context(), "sleep", []any{0}) // the worker is new
			require.NoError(t, err)
			_, err = caller.ExecuteAnonymous(t.Context(), "sleep", []any{60}, pypool.WithTimeout(300*time.Millisecond))
			require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrOperationTimeout).Delivery)
			require.NotErrorIs(t, err, context.DeadlineExceeded)
			require.Contains(t, detail[*pypool.HangError](t, err).Stacks, "in sleep")
		})
	}
	accounted(t, p)
}

func TestNobodyServes(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	c := client(t, b, "nobody", WithRetry(Retry{Attempts: 2, Backoff: pypool.Backoff{Min: time.Millisecond}}))
	_, err := pypool.Call[int](t.Context(), c, "add", nil)
	e := failure(t, err, pypool.ErrPoolClosed)
	require.True(t, pypool.SafeToRetry(err))
	require.ErrorIs(t, err, nats.ErrNoResponders)
	require.Equal(t, `pypool: pool_not_available: add: nobody serves "nobody" on NATS: `+nats.ErrNoResponders.Error(), e.Error())
	for range c.Stream(t.Context(), "count", []any{3}) {
	}
	for _, err := range pypool.Each[int](t.Context(), c, "count", []any{3}) {
		require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)))
	}
}

func TestAClientThatCannotCall(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	nc := b.connect(t)
	for name, c := range map[string]*Client{"no connection": NewClient(nil, "x"), "bad name": NewClient(nc, "a.b"), "empty": NewClient(nc, "")} {
		_, err := pypool.Call[int](t.Context(), c, "add", nil)
		require.Error(t, err, name)
		require.True(t, pypool.SafeToRetry(err), name)
		require.NoError(t, c.Close())
		require.NoError(t, c.Close())
	}
	c := NewClient(nc, "x")
	require.NoError(t, c.Close())
	_, err := c.With().ExecuteAnonymous(t.Context(), "add", nil)
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)))
	c = NewClient(nc, "x")
	nc.Close()
	_, err = c.ExecuteAnonymous(t.Context(), "add", nil)
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)))
	require.ErrorIs(t, err, nats.ErrConnectionClosed)
	over, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err = NewClient(b.connect(t), "x").ExecuteAnonymous(over, "add", nil)
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrCanceled)))
	require.ErrorIs(t, err, context.Canceled)
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	nc := b.connect(t)
	for _, name := range []string{"", "a.b", "a b", "ü", strings.Repeat("a", 200)} {
		_, err := Serve(nc, name, p)
		require.ErrorContains(t, err, "is not 1 to 128 letters", name)
	}
	_, err := Serve(nc, "x", p, WithVersion("one"))
	require.Error(t, err)
	_, err = Serve(nil, "x", p)
	require.Error(t, err)
	var none *pypool.Pool
	for _, pool := range []pypool.Caller{nil, none} {
		_, err = Serve(nc, "x", pool)
		require.ErrorContains(t, err, "there is no pool")
	}
	nc.Close()
	_, err = Serve(nc, "x", p)
	require.ErrorIs(t, err, nats.ErrConnectionClosed)
}

// Who leaves has its error at once, and the handler on the server is stopped.
func TestACallerWhoLeaves(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 1)
	for _, slowly := range []bool{false, true} { // before and after the client knows the server
		t.Run(fmt.Sprint(slowly), func(t *testing.T) {
			c := c
			if slowly {
				c = c.With(WithLostAfter(4 * time.Second)) // its server says so after a fifth of that
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			g := newGate(t)
			done := g.call(ctx, c)
			g.awaitBegun(t)
			if slowly {
				eventually(t, "the client has heard of its server", func() bool {
					c.mu.Lock()
					defer c.mu.Unlock()
					for _, p := range c.calls {
						return p.from.Load() != nil
					}
					return false
				})
			}
			why := errors.New("the user has gone")
			cancel(why)
			err := <-done
			require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrCanceled).Delivery)
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, err, why)
			eventually(t, "the handler was stopped", func() bool { return exists(g.mark + ".left") })
			require.Equal(t, int64(1), p.Stats().WorkersStarted, "and its worker kept")
			accounted(t, p)
		})
	}
}

// A deadline ends the call on both sides, and the server's word is the caller's error.
func TestADeadlineEndsOnTheWay(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 1)
	g := newGate(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	done := g.call(ctx, c)
	g.awaitBegun(t)
	waiting, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := c.ExecuteAnonymous(waiting, "add", []any{1})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	if !errors.Is(err, pypool.ErrOperationTimeout) { // on a machine that is slow the server's word may be late
		require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrCheckoutTimeout)))
	}
	err = <-done
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrOperationTimeout).Delivery)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	detail[*pypool.HangError](t, err)
	eventually(t, "the handler was stopped", func() bool { return exists(g.mark + ".left") })
	require.Equal(t, int64(1), p.Stats().WorkersStarted)
	past, cancel := context.WithTimeout(t.Context(), -1)
	defer cancel()
	_, err = c.ExecuteAnonymous(past, "add", []any{1})
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrCheckoutTimeout)))
	accounted(t, p)
}

func TestOptionsTravel(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := config(1)
	cfg.OperationTimeout = 50 * time.Millisecond
	p := newPool(t, cfg)
	serve(t, b, "test", p)
	c := client(t, b, "test")
	_, err := pypool.Call[float64](t.Context(), c, "sleep", []any{0.2}, pypool.WithTimeout(-1))
	require.NoError(t, err)
	_, err = pypool.Call[float64](t.Context(), c, "sleep", []any{0.2}, pypool.WithTimeout(time.Minute))
	require.NoError(t, err)
	_, err = pypool.Call[float64](t.Context(), c, "sleep", []any{30})
	require.ErrorIs(t, err, pypool.ErrOperationTimeout)
	g := newGate(t)
	done := g.call(t.Context(), c, pypool.WithTimeout(-1))
	g.awaitBegun(t)
	_, err = c.ExecuteAnonymous(t.Context(), "add", []any{1}, pypool.WithCheckoutTimeout(10*time.Millisecond))
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrCheckoutTimeout)))
	g.open(t)
	require.NoError(t, <-done)
}

// The trace that a client's propagator writes reaches the server's context, and Python.
func TestHeadersTravel(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	type key struct{}
	seen := make(chan string, 10)
	serve(t, b, "test", callerFunc{p, func(ctx context.Context) {
		value, _ := ctx.Value(key{}).(string)
		seen <- value
	}}, WithContext(func(ctx context.Context, h nats.Header) context.Context {
		return context.WithValue(ctx, key{}, h.Get("baggage"))
	}))
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, name := range []string{"traceparent", "Traceparent"} {
		c := client(t, b, "test", WithHeaders(func(ctx context.Context, h nats.Header) {
			h.Set(name, trace)
			h.Set("baggage", "user=ann")
			h.Set(headerControl, "not its own")
		}))
		got, err := pypool.Call[map[string]any](t.Context(), c, "meta", nil)
		require.NoError(t, err)
		require.Equal(t, trace, got["trace"])
		require.Equal(t, "user=ann", <-seen)
	}
	c := client(t, b, "test", WithHeaders(func(ctx context.Context, h nats.Header) { h.Set("baggage", strings.Repeat("x", 1<<20)) }))
	_, err := pypool.Call[any](t.Context(), c, "meta", nil)
	require.ErrorIs(t, err, pypool.ErrInvalidArguments)
}

// callerFunc is a Caller that shows the contexts of calls.
type callerFunc struct {
	pypool.Caller
	before func(context.Context)
}

func (c callerFunc) ExecuteAnonymous(ctx context.Context, command string, args any, opts ...pypool.CallOption) (pypool.Result, error) {
	c.before(ctx)
	return c.Caller.ExecuteAnonymous(ctx, command, args, opts...)
}

func TestAPanicOfTheServersIsOneCallsError(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	panics := true
	serve(t, b, "test", callerFunc{p, func(context.Context) {
		if panics {
			panics = false
			panic("trouble")
		}
	}})
	c := client(t, b, "test")
	_, err := pypool.Call[int](t.Context(), c, "add", []any{1})
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrInternal).Delivery)
	sum, err := pypool.Call[int](t.Context(), c, "add", []any{1})
	require.NoError(t, err)
	require.Equal(t, 2, sum)
}

func TestCloseEndsTheClientsCalls(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 1)
	g := newGate(t)
	done := g.call(t.Context(), c)
	g.awaitBegun(t)
	require.NoError(t, c.Close())
	assert.Equal(t, pypool.MaybeExecuted, failure(t, <-done, pypool.ErrPoolClosed).Delivery)
	eventually(t, "the handler was stopped", func() bool { return exists(g.mark + ".left") })
	accounted(t, p)
}

// What one attempt may have run has not NotExecuted for its end because the last one has.
func TestAnAttemptThatMayHaveRunIsNotForgotten(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	nc := b.connect(t)
	begun := make(chan struct{}, 10)
	odd := func(answers ...*pypool.Error) { // a server that gives them, and is gone
		sub, err := nc.QueueSubscribe("pypool.odd.call.*", "q", func(m *nats.Msg) {
			if len(answers) > 1 {
				defer func() { answers = answers[1:] }()
			} else {
				_ = m.Sub.Unsubscribe()
			}
			_ = nc.FlushTimeout(10 * time.Second) // before the answer
			begun <- struct{}{}
			_ = nc.PublishMsg((&control{Kind: kindError, Seq: 1}).message(m.Reply, "", pypool.EncodeError(answers[0])))
		})
		require.NoError(t, err)
		require.NoError(t, nc.Flush())
		t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	died := pypool.NewError(pypool.TypeWorkerExited, pypool.MaybeExecuted, "it died", nil)
	refused := pypool.NewError(pypool.TypeUnknownCommand, pypool.NotExecuted, "", nil)
	again := client(t, b, "odd", WithRetry(Retry{Attempts: 2, Backoff: pypool.Backoff{Min: time.Millisecond}, MaybeExecuted: true}))

	odd(died)
	_, err := again.ExecuteAnonymous(patient(t), "f", nil)
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
	require.ErrorIs(t, err, nats.ErrNoResponders)
	require.ErrorContains(t, err, "an attempt before may have run")

	odd(died, refused)
	_, err = again.ExecuteAnonymous(patient(t), "f", nil)
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrUnknownCommand).Delivery)

	odd(died)
	var last error
	for _, last = range again.Stream(patient(t), "f", nil) {
	}
	require.Equal(t, pypool.MaybeExecuted, failure(t, last, pypool.ErrPoolClosed).Delivery)

	for len(begun) > 0 {
		<-begun
	}
	odd(died)
	slow := again.With(WithRetry(Retry{Attempts: 2, Backoff: pypool.Backoff{Min: time.Minute}, MaybeExecuted: true}))
	ctx, cancel := context.WithCancel(patient(t))
	go func() {
		<-begun
		cancel() // before the second attempt, or in the midst of the first
	}()
	_, err = slow.ExecuteAnonymous(ctx, "f", nil)
	require.Error(t, err)
	require.False(t, pypool.SafeToRetry(err))

	odd(pypool.NewError(pypool.TypeQueueFull, pypool.NotExecuted, "it is full", nil))
	_, err = again.ExecuteAnonymous(patient(t), "f", nil)
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)), "none has run")
}
