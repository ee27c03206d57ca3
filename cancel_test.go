//go:build linux

package pypool

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func cancelPool(t *testing.T, change func(*Config)) *Pool {
	t.Helper()
	cfg := Config{
		Script: workerScript(t, "cancel.py"), Python: realPython(), Size: 1, Overflow: -1, Logger: quiet(), CancelGrace: 20 * time.Second,
		Breaker: Breaker{Failures: 2, OpenFor: time.Hour},
	}
	if change != nil {
		change(&cfg)
	}
	return newPool(t, cfg)
}

// notebook is the file that a handler writes to.
type notebook struct {
	t    *testing.T
	path string
}

func newNotes(t *testing.T) notebook { return notebook{t, filepath.Join(t.TempDir(), "notes")} }

func (n notebook) read() []string {
	text, err := os.ReadFile(n.path)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(n.t, err)
	return strings.Fields(string(text))
}

func (n notebook) await(words ...string) {
	n.t.Helper()
	eventually(n.t, "the handler has noted "+strings.Join(words, ", "), func() bool { return strings.Join(n.read(), " ") == strings.Join(words, " ") })
}

// leaves calls the command, cancels when the handler has begun, and requires the worker that served
// it to serve on.
func leaves(t *testing.T, p *Pool, command string, n notebook, args any) *Error {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := p.ExecuteAnonymous(ctx, command, args)
		done <- err
	}()
	eventually(t, "the handler has begun", func() bool { return len(n.read()) > 0 })
	cancel()
	e := detail[*Error](t, <-done)
	require.ErrorIs(t, e, ErrCanceled)
	require.Equal(t, MaybeExecuted, e.Delivery)
	return e
}

func pidOf(t *testing.T, p *Pool) (pid int) {
	t.Helper()
	pid, err := Call[int](context.Background(), p, "pid", nil, WithTimeout(0)) // a worker's first call imports
	require.NoError(t, err)
	return pid
}

func TestACallThatIsLeftStopsAndItsWorkerServesOn(t *testing.T) {
	for _, where := range []string{
		"time.sleep", "socket.recv", "a pure loop", "a loop that passes exceptions", "a lock", "queue.get", "the join of a thread", "a subprocess",
		"asyncio.run", "a generator of its own", "a with block", "current_call().canceled",
	} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			p, n := cancelPool(t, nil), newNotes(t)
			before := pidOf(t, p)
			leaves(t, p, "stop_in", n, []any{where, n.path})
			require.Equal(t, before, pidOf(t, p))
			require.Equal(t, []string{"began", "ended"}, n.read(), "its finally blocks have run")
		})
	}
}

func TestADeadlineStopsACallAndItsWorkerServesOn(t *testing.T) {
	t.Parallel()
	p, n := cancelPool(t, func(c *Config) { c.OperationTimeout, c.KillGrace = 500*time.Millisecond, stackGrace }), newNotes(t)
	before := pidOf(t, p)
	for range 5 { // more than the circuit's Failures: it counts kills only
		_, err := p.ExecuteAnonymous(context.Background(), "stop_in", []any{"time.sleep", n.path})
		require.ErrorIs(t, err, ErrOperationTimeout)
		hang := detail[*HangError](t, err)
		require.Contains(t, hang.Stacks, "in stop_in")
		require.False(t, hang.Killed)
		require.Equal(t, before, pidOf(t, p))
	}
	require.Len(t, n.read(), 10)
}

func TestOtherKindsOfCallsStopToo(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(p *Pool, n notebook){
		"a coroutine":               func(p *Pool, n notebook) { leaves(t, p, "coroutine", n, []any{n.path}) },
		"a coroutine that blocks":   func(p *Pool, n notebook) { leaves(t, p, "coroutine", n, []any{n.path, true}) },
		"a loop that prints":        func(p *Pool, n notebook) { leaves(t, p, "prints", n, []any{n.path}) },
		"a finally that takes long": func(p *Pool, n notebook) { leaves(t, p, "long_finally", n, []any{n.path}) },
		"a generator in its code":   func(p *Pool, n notebook) { leavesStream(t, p, "items", n, []any{n.path, "in its code"}) },
		"a generator between items": func(p *Pool, n notebook) { leavesStream(t, p, "items", n, []any{n.path, "between"}) },
		"an async generator":        func(p *Pool, n notebook) { leavesStream(t, p, "async_items", n, []any{n.path}) },
		"a program": func(p *Pool, n notebook) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				_, err := p.ExecuteProgram(ctx, "sleeper", map[string]any{"path": n.path})
				done <- err
			}()
			n.await("began")
			cancel()
			require.ErrorIs(t, <-done, ErrCanceled)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, n := cancelPool(t, nil), newNotes(t)
			before := pidOf(t, p)
			do(p, n)
			require.Equal(t, before, pidOf(t, p))
			require.Equal(t, []string{"began", "ended"}, n.read())
		})
	}
}

// A command that is C code has no frame of its own.
func TestACommandInCStopsToo(t *testing.T) {
	t.Parallel()
	p := cancelPool(t, func(c *Config) { c.OperationTimeout = 100 * time.Millisecond })
	_, err := p.ExecuteAnonymous(context.Background(), "c_code", []any{60})
	require.ErrorIs(t, err, ErrOperationTimeout)
	pidOf(t, p)
	require.EqualValues(t, 1, p.Stats().WorkersStarted)
	_, err = p.ExecuteAnonymous(context.Background(), "c_code", []any{"a"})
	require.ErrorIs(t, err, ErrPython)
}

func leavesStream(t *testing.T, p *Pool, command string, n notebook, args any) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		eventually(t, "the generator runs", func() bool { return len(n.read()) > 0 })
		cancel()
	}()
	var last error
	for _, err := range p.Stream(ctx, command, args) {
		last = err
	}
	require.ErrorIs(t, last, ErrCanceled)
}

func TestWhatDoesNotStopIsKilledAfterCancelGrace(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"swallow", "hold_gil"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			p, n := cancelPool(t, func(c *Config) { c.CancelGrace = 300 * time.Millisecond }), newNotes(t)
			before := pidOf(t, p)
			leaves(t, p, command, n, []any{n.path})
			require.NotEqual(t, before, pidOf(t, p))
			require.Equal(t, "began", n.read()[0])
			require.Nil(t, p.sup.breakers.refuses(command), "a caller's leaving says nothing about the command")
		})
	}
}

func TestTheCircuitCountsKillsAfterThePoolsOwnTimeout(t *testing.T) {
	t.Parallel()
	p, n := cancelPool(t, func(c *Config) { c.CancelGrace, c.OperationTimeout = 50*time.Millisecond, 2*time.Second }), newNotes(t)
	for range 2 {
		_, err := p.ExecuteAnonymous(context.Background(), "hold_gil", []any{n.path})
		require.ErrorIs(t, err, ErrOperationTimeout)
		pidOf(t, p)
	}
	_, err := p.ExecuteAnonymous(context.Background(), "hold_gil", []any{n.path})
	require.ErrorIs(t, err, ErrCircuitOpen)
}

func TestANegativeCancelGraceKillsAtOnce(t *testing.T) {
	t.Parallel()
	p, n := cancelPool(t, func(c *Config) { c.CancelGrace = -1 }), newNotes(t)
	before := pidOf(t, p)
	e := leaves(t, p, "stop_in", n, []any{"time.sleep", n.path})
	require.True(t, detail[*HangError](t, e).Killed)
	require.NotEqual(t, before, pidOf(t, p))
}

func TestAShieldHoldsACancellationOff(t *testing.T) {
	t.Parallel()
	p, n := cancelPool(t, nil), newNotes(t)
	before := pidOf(t, p)
	leaves(t, p, "shielded", n, []any{n.path, 0.3})
	require.Equal(t, before, pidOf(t, p))
	require.Equal(t, []string{"began", "committed", "ended"}, n.read())
}

func TestAnUninterruptibleCommandIsLeftToFinish(t *testing.T) {
	t.Parallel()
	p, n := cancelPool(t, func(c *Config) { c.CancelGrace, c.OperationTimeout = 50*time.Millisecond, time.Minute }), newNotes(t)
	before := pidOf(t, p)
	leaves(t, p, "uninterruptible", n, []any{n.path, 0.5}) // its grace begins when OperationTimeout is over
	require.Equal(t, before, pidOf(t, p))
	require.Equal(t, []string{"began", "ended"}, n.read())
}

func TestAShieldEndsWithOperationTimeoutAndCancelGrace(t *testing.T) {
	t.Parallel()
	p, n := cancelPool(t, func(c *Config) { c.CancelGrace, c.OperationTimeout = 100*time.Millisecond, 300*time.Millisecond }), newNotes(t)
	before := pidOf(t, p)
	leaves(t, p, "uninterruptible", n, []any{n.path, 60.0})
	require.NotEqual(t, before, pidOf(t, p))
	require.Equal(t, []string{"began"}, n.read())
}

func TestAShieldThatIsLeftOpenEndsWithItsCall(t *testing.T) {
	t.Parallel()
	p, n := cancelPool(t, nil), newNotes(t)
	executed(t, p, "leave_shield", nil)
	before := pidOf(t, p)
	leaves(t, p, "stop_in", n, []any{"time.sleep", n.path})
	require.Equal(t, before, pidOf(t, p))
	require.Equal(t, []string{"began", "ended"}, n.read())
}

func TestAWorkerWhoseCallIsToStopSaysSo(t *testing.T) {
	t.Parallel()
	p, n := cancelPool(t, nil), newNotes(t)
	leaves(t, p, "shielded", n, []any{n.path, 0.5})
	require.Equal(t, "canceling", p.Workers()[0].State)
	require.Equal(t, 1, p.Stats().Busy)
	pidOf(t, p)
	require.Equal(t, "idle", p.Workers()[0].State)
}

func TestClosingDoesNotWaitForCancelGrace(t *testing.T) {
	t.Parallel()
	p, n := cancelPool(t, func(c *Config) { c.CancelGrace = time.Hour }), newNotes(t)
	leaves(t, p, "swallow", n, []any{n.path})
	require.NoError(t, p.Close())
}

// TestCancellationsAtRandomInstantsStrikeTheirOwnCallOnly races the end of contexts with answers:
// no answer is another's, no cancellation strikes another call, and no worker is lost.
func TestCancellationsAtRandomInstantsStrikeTheirOwnCallOnly(t *testing.T) {
	t.Parallel()
	p := cancelPool(t, func(c *Config) { c.Size = 2 })
	const callers, rounds = 4, 2500 // 10 000 races
	calls := []func(ctx context.Context, n int) (int, error){
		func(ctx context.Context, n int) (int, error) { return Call[int](ctx, p, "spin", []any{n}) },
		func(ctx context.Context, n int) (int, error) { return Call[int](ctx, p, "spin_async", []any{n}) },
		func(ctx context.Context, n int) (out int, err error) {
			for out, err = range Each[int](ctx, p, "spin_items", []any{n}) {
			}
			return out, err
		},
	}
	var answered, left atomic.Int64
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(20, uint64(caller)))
			for range rounds {
				n := 3 + r.IntN(200) // µs
				call := calls[r.IntN(len(calls))]
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(1200))*time.Microsecond)
				out, err := call(ctx, n)
				cancel()
				switch {
				case err == nil && out == n:
					answered.Add(1)
				case errors.Is(err, ErrOperationTimeout), errors.Is(err, ErrCheckoutTimeout):
					left.Add(1)
				default:
					t.Errorf("%d for %d: %v", out, n, err)
				}
				// Nothing strikes the patient call behind it.
				if out, err := call(context.Background(), n/4+3); err != nil || out != n/4+3 {
					t.Errorf("the next call: %d for %d, %v", out, n/4+3, err)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d answered, %d left", answered.Load(), left.Load())
	require.NotZero(t, answered.Load())
	require.NotZero(t, left.Load())
	eventually(t, "the workers are idle", func() bool { return p.Stats().Idle == 2 })
	st := accounted(t, p)
	require.EqualValues(t, 2*callers*rounds, st.Started)
	require.Equal(t, callers*rounds+answered.Load(), st.Succeeded)
	require.EqualValues(t, 2, st.WorkersStarted, "no worker is lost")
}

// An item of a Map whose time is over is stopped, and those behind it on the same pipe go on.
func TestAnItemOfAMapThatIsLateStopsAndThoseBehindItGoOn(t *testing.T) {
	t.Parallel()
	const late = 2 * time.Second // which no other item is, however busy the machine
	var mu sync.Mutex            // guards ran
	var ran []time.Duration
	p := cancelPool(t, func(c *Config) {
		c.KillGrace = stackGrace
		c.Observer = &Observer{CallEnd: func(_ context.Context, _ CallInfo, o CallOutcome) {
			if errors.Is(o.Err, ErrOperationTimeout) {
				mu.Lock()
				defer mu.Unlock()
				ran = append(ran, o.Ran)
			}
		}}
	})
	items := func(yield func([]any) bool) {
		for i := range 300 {
			args := []any{i}
			if i%100 == 50 {
				args = []any{i, 60.0}
			}
			if !yield(args) {
				return
			}
		}
	}
	i := 0
	for out, err := range Map[int](context.Background(), p, "sleep_if", items, WithTimeout(late)) {
		if i%100 == 50 {
			require.ErrorIs(t, err, ErrOperationTimeout, "item %d", i)
			require.Equal(t, MaybeExecuted, detail[*Error](t, err).Delivery)
			require.Contains(t, detail[*HangError](t, err).Stacks, "in sleep_if")
		} else {
			require.NoError(t, err, "item %d", i)
			require.Equal(t, i, out)
		}
		i++
	}
	require.Equal(t, 300, i)
	st := accounted(t, p)
	require.EqualValues(t, 1, st.WorkersStarted)
	require.EqualValues(t, 297, st.Succeeded)
	require.Len(t, ran, 3)
	require.GreaterOrEqual(t, slices.Min(ran), late)
}

func TestAnItemOfAMapThatDoesNotStopCostsTheWorkerAndNoOtherItem(t *testing.T) {
	t.Parallel()
	p, n := cancelPool(t, func(c *Config) { c.CancelGrace = 200 * time.Millisecond }), newNotes(t)
	items := func(yield func([]any) bool) {
		for i := range 300 {
			args := []any{i}
			if i == 150 {
				args = []any{i, n.path}
			}
			if !yield(args) {
				return
			}
		}
	}
	i := 0
	for out, err := range Map[int](context.Background(), p, "hold_if", items, WithTimeout(500*time.Millisecond)) {
		if i == 150 {
			require.ErrorIs(t, err, ErrOperationTimeout)
		} else {
			require.NoError(t, err, "item %d", i)
			require.Equal(t, i, out)
		}
		i++
	}
	require.Equal(t, 300, i)
	require.EqualValues(t, 2, accounted(t, p).WorkersStarted)
	require.Equal(t, []string{"began"}, n.read())
}

func TestTheEndOfAMapsContextCostsNoWorkerThatStops(t *testing.T) {
	t.Parallel()
	for name, seconds := range map[string]float64{"slow items": 60, "quick items": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := cancelPool(t, func(c *Config) { c.Size, c.KillGrace = 2, 20*time.Second })
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			items := func(yield func([]any) bool) {
				for i := 0; ; i++ {
					args := []any{i, 0.0}
					if i >= 500 {
						args[1] = seconds
					}
					if !yield(args) {
						return
					}
				}
			}
			i := 0
			var last error
			for out, err := range Map[int](ctx, p, "sleep_if", items) {
				if last = err; err == nil {
					require.Equal(t, i, out)
				}
				if i++; i == 500 {
					time.AfterFunc(50*time.Millisecond, cancel)
				}
			}
			require.ErrorIs(t, last, ErrCanceled)
			pidOf(t, p)
			require.EqualValues(t, 2, accounted(t, p).WorkersStarted)
		})
	}
}
