//go:build linux

package pypool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func sharedPool(t testing.TB, size int, change func(*Config)) *Pool {
	t.Helper()
	cfg := Config{
		Script: workerScript(t, "concurrent.py"), Python: realPython(), Size: size, Overflow: -1, Logger: quiet(), CancelGrace: 20 * time.Second,
		Breaker: Breaker{Failures: 2, OpenFor: time.Hour}, CheckoutTimeout: 20 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	return newPool(t, cfg)
}

// latchFile is a file that handlers wait for.
type latchFile string

func newLatchFile(t testing.TB) latchFile { return latchFile(filepath.Join(t.TempDir(), "door")) }

func (d latchFile) open(t testing.TB) {
	t.Helper()
	require.NoError(t, os.WriteFile(string(d), nil, 0o600))
}

// sideBySide starts n calls that wait at one latchFile, and returns when all run; open lets them
// end.
func sideBySide(t *testing.T, p *Pool, n int, command string, opts ...CallOption) (open func() []outcome) {
	t.Helper()
	latchFile, mark := newLatchFile(t), newNotes(t)
	wait := inBackground(n, func(int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), command, args{"mark": mark.path, "gate": string(latchFile)}, opts...)
	})
	eventually(t, fmt.Sprintf("%d calls of %s run", n, command), func() bool { return len(mark.read()) == n })
	return func() []outcome {
		latchFile.open(t)
		return wait()
	}
}

func allWell(t *testing.T, outs []outcome) {
	t.Helper()
	for _, out := range outs {
		require.NoError(t, out.err)
	}
}

func TestConcurrentCallsShareAWorker(t *testing.T) {
	p := sharedPool(t, 1, nil)
	open := sideBySide(t, p, 64, "hold")
	require.Equal(t, "shared", p.Workers()[0].State)
	st := p.Stats()
	require.Equal(t, 1, st.Busy)
	require.EqualValues(t, 64, st.InFlight)
	want := pids(p)[0]
	for _, out := range open() {
		require.NoError(t, out.err)
		require.Equal(t, want, decoded[int](t, out.res))
	}
	eventually(t, "the worker is idle again", func() bool { return p.Workers()[0].State == "idle" })
	require.Equal(t, want, pidOf(t, p))
	require.EqualValues(t, 65, p.Workers()[0].Calls)
}

func TestTheLimitCountsOneCommandsCalls(t *testing.T) {
	p := sharedPool(t, 1, nil)
	latchFile, mark := newLatchFile(t), newNotes(t)
	in := args{"mark": mark.path, "gate": string(latchFile)}
	wait := inBackground(6, func(int) (Result, error) { return p.ExecuteAnonymous(context.Background(), "two", in) })
	eventually(t, "two run and four wait", func() bool { return len(mark.read()) == 2 && p.Stats().Waiting == 4 })
	_, err := Call[int](context.Background(), p, "echo", args{"value": 1}) // of another command: it waits for nobody
	require.NoError(t, err)
	require.Equal(t, 2, len(mark.read()))
	latchFile.open(t)
	allWell(t, wait())
}

// A plain call has a worker of its own: one that is shared is closed to newcomers for it.
func TestAPlainCallClosesASharedWorker(t *testing.T) {
	p := sharedPool(t, 1, nil)
	open := sideBySide(t, p, 8, "hold")
	plain := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(context.Background(), "pid", nil) })
	eventually(t, "the plain call waits", func() bool { return p.Stats().Waiting == 1 })
	late := inBackground(3, func(int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "echo", args{"value": 1})
	})
	eventually(t, "newcomers wait behind it", func() bool { return p.Stats().Waiting == 4 })
	allWell(t, open())
	allWell(t, plain())
	allWell(t, late())
}

// When the plain call does not wait any longer, the worker is open again.
func TestAPlainCallThatLeavesOpensTheWorkerAgain(t *testing.T) {
	p := sharedPool(t, 1, nil)
	open := sideBySide(t, p, 8, "hold")
	ctx, cancel := context.WithCancel(context.Background())
	plain := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(ctx, "pid", nil) })
	eventually(t, "the plain call waits", func() bool { return p.Stats().Waiting == 1 })
	late := inBackground(1, func(int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "echo", args{"value": 1})
	})
	eventually(t, "a newcomer waits behind it", func() bool { return p.Stats().Waiting == 2 })
	cancel()
	require.ErrorIs(t, plain()[0].err, ErrCanceled)
	allWell(t, late())
	allWell(t, open())
}

// One that leaves the pool is none that falls to whoever waits: another one is closed.
func TestAPlainCallDoesNotWaitForAWorkerThatLeaves(t *testing.T) {
	p := sharedPool(t, 1, nil)
	openOld := sideBySide(t, p, 4, "hold")
	old := pids(p)[0]
	reloaded := make(chan error, 1)
	go func() { reloaded <- p.Reload(context.Background()) }()
	eventually(t, "newcomers go to the new one", func() bool {
		pid, err := Call[int](context.Background(), p, "nap", args{"seconds": 0})
		return err == nil && pid != old
	})
	openNew := sideBySide(t, p, 2, "hold")
	plain := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(context.Background(), "pid", nil) })
	eventually(t, "the plain call waits", func() bool { return p.Stats().Waiting == 1 })
	late := inBackground(1, func(int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "echo", args{"value": 1})
	})
	eventually(t, "a newcomer waits behind it", func() bool { return p.Stats().Waiting == 2 })
	allWell(t, openNew())
	allWell(t, plain())
	allWell(t, late())
	allWell(t, openOld())
	require.NoError(t, <-reloaded)
}

// Who waits for company for its batch wants no worker yet.
func TestTheWaitForCompanyClosesNoSharedWorker(t *testing.T) {
	p := sharedPool(t, 1, nil)
	open := sideBySide(t, p, 2, "hold")
	echo := func() error {
		_, err := p.ExecuteAnonymous(context.Background(), "echo", args{"value": 1})
		return err
	}
	batch := func(int) (Result, error) { return p.ExecuteAnonymous(context.Background(), "company", args{"x": 1}) }
	first := inBackground(1, batch)
	eventually(t, "it waits for company", func() bool { return p.Stats().Waiting == 1 })
	require.NoError(t, echo(), "the worker is open")
	others := inBackground(3, batch)
	eventually(t, "the batch is full", func() bool { return p.Stats().Waiting == 4 })
	late := inBackground(1, func(int) (Result, error) { return Result{}, echo() })
	eventually(t, "a newcomer waits behind it", func() bool { return p.Stats().Waiting == 5 })
	allWell(t, open())
	allWell(t, first())
	allWell(t, others())
	allWell(t, late())
}

func TestConcurrentCallsKeepWhatIsTheirs(t *testing.T) {
	p := sharedPool(t, 1, nil)
	outs := inBackground(64, func(i int) (Result, error) {
		return p.ExecuteInSession(context.Background(), fmt.Sprintf("s%d", i), "who", nil)
	})()
	for i, out := range outs {
		require.NoError(t, out.err)
		who := decoded[[]any](t, out.res)
		require.Equal(t, who[0], who[1])
		require.Equal(t, who[0], who[2])
		require.Equal(t, fmt.Sprintf("s%d", i), who[3])
		require.Nil(t, who[4], "a thread without a context has no call")
	}
	for i, out := range inBackground(64, func(i int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "fails", args{"text": fmt.Sprint(i)})
	})() {
		require.Equal(t, fmt.Sprint(i), detail[*PythonError](t, out.err).Message)
	}
	ok, err := Call[bool](context.Background(), p, "in_thread", args{"text": ""})
	require.NoError(t, err)
	require.True(t, ok)
	_, err = Call[any](context.Background(), p, "typed", args{"m": 1})
	require.ErrorIs(t, err, ErrInvalidArguments)
	text, err := Call[string](context.Background(), p, "large", args{"size": 1 << 20})
	require.NoError(t, err)
	require.Len(t, text, 1<<20)
}

func TestConcurrentCallsLogAsThemselves(t *testing.T) {
	logs := &logBuffer{}
	p := sharedPool(t, 1, func(c *Config) { c.Logger = logs.logger(slog.LevelDebug) })
	ids := map[string]int64{}
	for i, out := range inBackground(16, func(i int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "says", args{"text": fmt.Sprintf("t%02d", i)})
	})() {
		require.NoError(t, out.err)
		ids[fmt.Sprintf("t%02d", i)] = decoded[int64](t, out.res)
	}
	for text, id := range ids {
		eventually(t, "the line of "+text, func() bool {
			for _, line := range strings.Split(logs.String(), "\n") {
				if strings.Contains(line, text+" and "+text) && strings.Contains(line, fmt.Sprint(id)) {
					return true
				}
			}
			return false
		})
		eventually(t, "the record of "+text, func() bool {
			for _, line := range strings.Split(logs.String(), "\n") {
				if strings.Contains(line, "log "+text) && strings.Contains(line, fmt.Sprint(id)) {
					return true
				}
			}
			return false
		})
	}
}

// leavesShared cancels a call of the command that has begun, beside 8 others, and returns its
// error.
func leavesShared(t *testing.T, p *Pool, command string, in args) *Error {
	t.Helper()
	n := newNotes(t)
	in["mark"] = n.path
	ctx, cancel := context.WithCancel(context.Background())
	one := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(ctx, command, in) })
	eventually(t, "it runs", func() bool { return len(n.read()) == 1 })
	cancel()
	err := one()[0].err
	require.ErrorIs(t, err, ErrCanceled)
	return detail[*Error](t, err)
}

func TestOneOfManyIsCanceled(t *testing.T) {
	p := sharedPool(t, 1, nil)
	open := sideBySide(t, p, 8, "hold")
	n := newNotes(t)
	ctx, cancel := context.WithCancel(context.Background())
	one := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(ctx, "cleans", args{"mark": n.path}) })
	n.await("begun")
	cancel()
	e := failure(t, one()[0].err, ErrCanceled)
	require.Equal(t, MaybeExecuted, e.Delivery)
	n.await("begun", "cleaned")
	want := pids(p)
	allWell(t, open())
	require.Equal(t, want[0], pidOf(t, p))
}

func TestADeadlineTellsTheTasksStack(t *testing.T) {
	p := sharedPool(t, 1, func(c *Config) { c.KillGrace = stackGrace })
	open := sideBySide(t, p, 8, "hold")
	_, err := p.ExecuteAnonymous(context.Background(), "deep", nil, WithTimeout(200*time.Millisecond))
	require.ErrorIs(t, err, ErrOperationTimeout)
	hang := detail[*HangError](t, err)
	require.Contains(t, hang.Stacks, "in_a_task_of_its_own")
	require.Contains(t, hang.Stacks, "deep_inside")
	require.NotContains(t, hang.Stacks, "run_forever")
	require.False(t, hang.Killed)
	want := pids(p)
	allWell(t, open())
	require.Equal(t, want[0], pidOf(t, p))
}

func TestABlockedLoopIsTold(t *testing.T) {
	p := sharedPool(t, 1, func(c *Config) { c.KillGrace = stackGrace })
	n := newNotes(t)
	blocking := inBackground(1, func(int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "blocks", args{"mark": n.path, "seconds": 3})
	})
	n.await("begun")
	_, err := p.ExecuteAnonymous(context.Background(), "echo", args{"value": 1}, WithTimeout(200*time.Millisecond))
	require.ErrorIs(t, err, ErrOperationTimeout)
	require.Contains(t, detail[*HangError](t, err).Stacks, "block_the_loop")
	want := pids(p)
	allWell(t, blocking())
	require.Equal(t, want[0], pidOf(t, p))
}

func TestAShieldInATaskHoldsACancellationOff(t *testing.T) {
	for command, last := range map[string]string{"shielded": "committed", "whole": "whole"} {
		t.Run(command, func(t *testing.T) {
			p := sharedPool(t, 1, func(c *Config) { c.CancelGrace = 100 * time.Millisecond })
			want := pids(p)
			n := newNotes(t)
			ctx, cancel := context.WithCancel(context.Background())
			one := inBackground(1, func(int) (Result, error) {
				return p.ExecuteAnonymous(ctx, command, args{"mark": n.path, "seconds": 0.5})
			})
			n.await("begun")
			cancel()
			require.ErrorIs(t, one()[0].err, ErrCanceled)
			n.await("begun", last)
			require.Equal(t, want[0], pidOf(t, p))
		})
	}
}

// A coroutine that does not let itself be canceled costs its worker, but nobody else's call.
func TestASwallowedCancellationRetiresTheWorker(t *testing.T) {
	p := sharedPool(t, 1, func(c *Config) { c.CancelGrace = 50 * time.Millisecond })
	open := sideBySide(t, p, 8, "hold")
	old := pids(p)[0]
	leavesShared(t, p, "swallows", args{})
	eventually(t, "another worker takes its place", func() bool { return len(p.Workers()) == 2 })
	require.NotEqual(t, old, pidOf(t, p))
	allWell(t, open())
	eventually(t, "the old one is killed", func() bool { return len(p.Workers()) == 1 })
}

func TestACrashIsTheTrueErrorOfAllItsCalls(t *testing.T) {
	p := sharedPool(t, 1, func(c *Config) { c.Breaker.Failures = 3 })
	for _, how := range []string{"exit", "kill"} {
		latchFile, mark := newLatchFile(t), newNotes(t)
		wait := inBackground(8, func(int) (Result, error) {
			return p.ExecuteAnonymous(context.Background(), "hold", args{"mark": mark.path, "gate": "never"})
		})
		guilty := inBackground(1, func(int) (Result, error) {
			return p.ExecuteAnonymous(context.Background(), "dies", args{"how": how, "gate": string(latchFile), "mark": mark.path})
		})
		eventually(t, "all run", func() bool { return len(mark.read()) == 9 })
		latchFile.open(t)
		seen := map[uint64]bool{}
		for _, out := range append(wait(), guilty()...) {
			e := failure(t, out.err, ErrWorkerExited)
			require.Equal(t, MaybeExecuted, e.Delivery)
			require.False(t, seen[e.Context.RequestID])
			seen[e.Context.RequestID] = true
			exit := detail[*ExitError](t, out.err)
			require.Equal(t, how == "exit", exit.Code == 7)
		}
	}
	pidOf(t, p)
	_, err := Call[int](context.Background(), p, "echo", args{"value": 1}) // two lost workers, not eighteen
	require.NoError(t, err)
}

func TestATaskThatEndsAProgramEndsItsCall(t *testing.T) {
	p := sharedPool(t, 1, nil)
	open := sideBySide(t, p, 4, "hold")
	want := pids(p)
	for how, name := range map[string]string{"SystemExit": "SystemExit", "KeyboardInterrupt": "KeyboardInterrupt", "Canceled": "Canceled", "cancel": "CancelledError"} {
		_, err := p.ExecuteAnonymous(context.Background(), "leaves", args{"how": how})
		require.Equal(t, name, detail[*PythonError](t, err).Type)
	}
	for how, want := range map[string]string{"stop": "stopped", "subtask": "survived"} {
		got, err := Call[string](context.Background(), p, "leaves", args{"how": how})
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	status, err := Call[int](context.Background(), p, "forks", nil)
	require.NoError(t, err)
	require.Zero(t, status)
	allWell(t, open())
	require.Equal(t, want[0], pidOf(t, p))
	others := sideBySide(t, p, 4, "hold")
	got, err := Call[string](context.Background(), p, "leaves", args{"how": "all"})
	require.NoError(t, err)
	require.Equal(t, "canceled", got)
	for _, out := range others() {
		require.Equal(t, "CancelledError", detail[*PythonError](t, out.err).Type)
	}
	require.Equal(t, want[0], pidOf(t, p))
}

func TestSharedStreams(t *testing.T) {
	p := sharedPool(t, 1, func(c *Config) { c.KillGrace = stackGrace })
	ctx := context.Background()
	want := pids(p)
	t.Run("side by side, and a slow reader stalls nobody", func(t *testing.T) {
		release, slow := make(chan struct{}), make(chan error, 1)
		begun := make(chan struct{})
		go func() {
			n := 0
			for item, err := range Each[string](ctx, p, "count", args{"n": 50, "size": 100000}) {
				if err != nil {
					slow <- err
					return
				}
				if n == 0 {
					close(begun)
					<-release
				}
				if !strings.HasPrefix(item, fmt.Sprint(n)+"x") {
					slow <- fmt.Errorf("item %d is %.10s", n, item)
					return
				}
				n++
			}
			slow <- nil
		}()
		<-begun
		for range 3 {
			n := 0
			for item, err := range Each[int](ctx, p, "count", args{"n": 300}) {
				require.NoError(t, err)
				require.Equal(t, n, item)
				n++
			}
			require.Equal(t, 300, n)
		}
		_, err := Call[int](ctx, p, "echo", args{"value": 1})
		require.NoError(t, err)
		close(release)
		require.NoError(t, <-slow)
	})
	t.Run("a context that ends before the last item is read is an error", func(t *testing.T) {
		for range 20 {
			ctx, cancel := context.WithCancel(ctx)
			n, last := 0, error(nil)
			for _, err := range Each[int](ctx, p, "count", args{"n": 5}) {
				if last = err; err == nil {
					n++
				}
				if n == 2 {
					eventually(t, "all items are there, and the answer", func() bool { return p.Workers()[0].State == "idle" })
					cancel()
				}
			}
			cancel()
			require.Equal(t, 2, n)
			require.ErrorIs(t, last, ErrCanceled)
		}
	})
	t.Run("a loop that is left closes its generator", func(t *testing.T) {
		for _, command := range []string{"count", "ticks"} {
			n := newNotes(t)
			in := args{"mark": n.path}
			if command == "count" {
				in["n"] = 1000
			}
			for _, err := range Each[int](ctx, p, command, in) {
				require.NoError(t, err)
				break
			}
			require.Equal(t, []string{"closed"}, n.read())
		}
	})
	t.Run("an item's time is over", func(t *testing.T) {
		n := newNotes(t)
		var last error
		for _, err := range p.Stream(ctx, "ticks", args{"mark": n.path}, WithTimeout(200*time.Millisecond)) {
			last = err
		}
		require.ErrorIs(t, last, ErrOperationTimeout)
		require.Contains(t, detail[*HangError](t, last).Stacks, "ticks")
		n.await("closed")
	})
	t.Run("the context ends in the body", func(t *testing.T) {
		n := newNotes(t)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var last error
		for _, err := range p.Stream(ctx, "count", args{"n": 1000, "mark": n.path}) {
			if last = err; err == nil {
				cancel()
				n.await("closed")
			}
		}
		require.ErrorIs(t, last, ErrCanceled)
	})
	t.Run("the body stalls", func(t *testing.T) {
		n := newNotes(t)
		var last error
		for _, err := range p.Stream(ctx, "count", args{"n": 1000, "mark": n.path}, WithStallTimeout(50*time.Millisecond)) {
			if last = err; err == nil {
				n.await("closed")
			}
		}
		require.ErrorIs(t, last, ErrStalled)
	})
	t.Run("the body panics", func(t *testing.T) {
		n := newNotes(t)
		require.Panics(t, func() {
			for range p.Stream(ctx, "count", args{"n": 1000, "mark": n.path}) {
				panic("oops")
			}
		})
		n.await("closed")
	})
	t.Run("the loop is left when all has come already", func(t *testing.T) {
		for range p.Stream(ctx, "count", args{"n": 3}) {
			eventually(t, "the worker is idle", func() bool { return p.Workers()[0].State == "idle" })
			break
		}
		require.Panics(t, func() {
			for range p.Stream(ctx, "count", args{"n": 3}) {
				eventually(t, "the worker is idle", func() bool { return p.Workers()[0].State == "idle" })
				panic("oops")
			}
		})
	})
	t.Run("called as no stream", func(t *testing.T) {
		_, err := p.ExecuteAnonymous(ctx, "count", args{"n": 1})
		require.ErrorIs(t, err, ErrInvalidArguments)
		for res, err := range p.Stream(ctx, "echo", args{"value": 7}) {
			require.NoError(t, err)
			require.Equal(t, 7, decoded[int](t, res))
		}
	})
	require.Equal(t, want[0], pidOf(t, p))
}

func TestASharedPoolCloses(t *testing.T) {
	t.Run("Shutdown waits", func(t *testing.T) {
		p := sharedPool(t, 1, nil)
		open := sideBySide(t, p, 8, "hold")
		done := make(chan error, 1)
		go func() { done <- p.Shutdown(context.Background()) }()
		eventually(t, "it closes", func() bool {
			_, err := p.ExecuteAnonymous(context.Background(), "echo", args{"value": 1})
			return errors.Is(err, ErrPoolClosed)
		})
		allWell(t, open())
		require.NoError(t, <-done)
	})
	t.Run("Close does not", func(t *testing.T) {
		p := sharedPool(t, 1, nil)
		latchFile, mark := newLatchFile(t), newNotes(t)
		wait := inBackground(8, func(int) (Result, error) {
			return p.ExecuteAnonymous(context.Background(), "hold", args{"mark": mark.path, "gate": string(latchFile)})
		})
		eventually(t, "all run", func() bool { return len(mark.read()) == 8 })
		require.NoError(t, p.Close())
		for _, out := range wait() {
			require.ErrorIs(t, out.err, ErrPoolClosed)
		}
	})
}

func TestASharedPoolClosesInTheBodyOfALoop(t *testing.T) {
	p := sharedPool(t, 1, nil)
	var last error
	for _, err := range p.Stream(context.Background(), "count", args{"n": 1000}) {
		if last = err; err == nil {
			require.NoError(t, p.Close())
		}
	}
	require.ErrorIs(t, last, ErrPoolClosed)
}

func TestReloadReplacesASharedWorker(t *testing.T) {
	p := sharedPool(t, 1, nil)
	open := sideBySide(t, p, 8, "hold")
	old := pids(p)[0]
	done := make(chan error, 1)
	go func() { done <- p.Reload(context.Background()) }()
	eventually(t, "newcomers go to the new one", func() bool {
		pid, err := Call[int](context.Background(), p, "nap", args{"seconds": 0})
		return err == nil && pid != old
	})
	allWell(t, open())
	require.NoError(t, <-done)
}

func TestMaxCallsReplacesASharedWorkerUnderLoad(t *testing.T) {
	p := sharedPool(t, 1, func(c *Config) { c.MaxCalls = 50 })
	first := pids(p)[0]
	var replaced atomic.Bool
	allWell(t, inBackground(8, func(int) (res Result, err error) {
		for end := time.Now().Add(20 * time.Second); !replaced.Load() && time.Now().Before(end); {
			if res, err = p.ExecuteAnonymous(context.Background(), "nap", args{"seconds": 0.001}); err != nil {
				return res, err
			}
			pid, err := Call[int](context.Background(), p, "nap", args{"seconds": 0})
			if err != nil {
				return res, err
			}
			if pid != first {
				replaced.Store(true)
			}
		}
		return res, nil
	})())
	require.True(t, replaced.Load())
}

func TestMapOverAConcurrentCommandKeepsItsOrder(t *testing.T) {
	p := sharedPool(t, 2, nil)
	open := sideBySide(t, p, 4, "hold")
	in := make([]args, 500)
	for i := range in {
		in[i] = args{"value": i}
	}
	n := 0
	for out, err := range Map[int](context.Background(), p, "echo", slices.Values(in)) {
		require.NoError(t, err)
		require.Equal(t, n, out)
		n++
	}
	require.Equal(t, len(in), n)
	allWell(t, open())
}

func TestCommandsTellTheirConcurrency(t *testing.T) {
	p := sharedPool(t, 1, nil)
	list, err := p.Commands(context.Background())
	require.NoError(t, err)
	for _, c := range list {
		switch c.Name {
		case "two":
			require.Equal(t, 2, c.Concurrency)
		case "pid":
			require.Zero(t, c.Concurrency)
		}
	}
}

// Calls of all kinds, cancellations and crashes at once: each outcome is its own call's.
func TestSharedWorkersUnderMixedLoad(t *testing.T) {
	p := sharedPool(t, 2, func(c *Config) { c.Breaker.Failures, c.CancelGrace = -1, time.Second })
	outs := inBackground(32, func(i int) (Result, error) {
		rng := rand.New(rand.NewPCG(uint64(i), 1))
		for j := range 60 {
			ctx, cancel := context.WithCancel(context.Background())
			var err error
			switch kind := rng.IntN(20); {
			case kind < 12:
				var got string
				want := fmt.Sprintf("%d.%d", i, j)
				if got, err = Call[string](ctx, p, "echo", args{"value": want}); err == nil && got != want {
					err = fmt.Errorf("%s instead of %s", got, want)
				}
			case kind < 14:
				_, err = Call[int](ctx, p, "pid", nil)
			case kind < 16:
				time.AfterFunc(time.Duration(rng.IntN(3000))*time.Microsecond, cancel)
				_, err = p.ExecuteAnonymous(ctx, "nap", args{"seconds": 0.002})
			case kind < 19:
				n := 0
				for item, e := range Each[int](ctx, p, "count", args{"n": 30}) {
					if err = e; e == nil && item != n {
						err = fmt.Errorf("item %d instead of %d", item, n)
					}
					if n++; n == kind {
						break
					}
				}
			case j%30 == 7:
				_, err = p.ExecuteAnonymous(ctx, "dies", args{"how": "kill"})
			}
			cancel()
			if err != nil && !errors.Is(err, ErrWorkerExited) && !errors.Is(err, ErrCanceled) {
				return Result{}, err
			}
		}
		return Result{}, nil
	})()
	allWell(t, outs)
	eventually(t, "the pool is whole", func() bool { return p.Stats().Idle == 2 })
	require.Zero(t, p.Stats().InFlight)
}
