//go:build linux

package pypool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
	"github.com/pypool/pypool/internal/spin"
)

// Who is blamed for a fault, and who pays for it.

// blameConfig is that of a pool whose circuits are as a user has them.
func blameConfig(t testing.TB, r *rig) Config {
	cfg := r.config(t)
	cfg.Breaker = Breaker{}
	return cfg
}

// sleepsAndDies has a command that takes its time, one that ends its worker in the call, and four
// that end it after the answer: three of them when a latch is released.
const sleepsAndDies = `
import ctypes, os, signal, threading, time
from pypool import command

@command
def sleep(seconds):
    time.sleep(seconds)

@command
def die():
    os._exit(7)

def later(seconds, end):
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return os.getpid()

@command
def exit_later(seconds):
    return later(seconds, lambda: os._exit(7))

@command
def exit_after(latch):
    return later(0, lambda: open(latch) and os._exit(7))

@command
def crash_after(latch):
    return later(0, lambda: open(latch) and ctypes.string_at(0))

@command
def signal_after(latch, signum):
    return later(0, lambda: open(latch) and os.kill(os.getpid(), signum))

@command
def echo(value):
    return value

@command
def text(size):
    return "x" * size

@command
def texts(sizes):
    for size in sizes:
        yield "x" * size
`

var blameFaults = []fault{
	{name: "G5_a_callers_impatience_says_nothing_about_the_command", run: func(t *testing.T, r *rig) {
		for name, impatient := range map[string]func(p *Pool) error{
			"its context has a deadline": func(p *Pool) error {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
				defer cancel()
				_, err := p.ExecuteAnonymous(ctx, "sleep", []float64{5})
				return err
			},
			"it cancels": func(p *Pool) error {
				ctx, cancel := context.WithCancel(context.Background())
				defer time.AfterFunc(5*time.Millisecond, cancel).Stop()
				_, err := p.ExecuteAnonymous(ctx, "sleep", []float64{5})
				return err
			},
			"WithTimeout is less than the pool's": func(p *Pool) error {
				_, err := p.ExecuteAnonymous(context.Background(), "sleep", []float64{5}, WithTimeout(5*time.Millisecond))
				return err
			},
			"in a Map": func(p *Pool) (last error) {
				for _, err := range Map[any](context.Background(), p, "sleep", slices.Values([]float64{5}), WithTimeout(5*time.Millisecond)) {
					last = err
				}
				return last
			},
		} {
			cfg := blameConfig(t, r)
			cfg.Script = script(t, sleepsAndDies)
			p := r.own(t, cfg)
			for range 12 {
				require.Error(t, impatient(p), name)
			}
			_, err := p.ExecuteAnonymous(context.Background(), "sleep", []float64{0})
			require.NoError(t, err, name)
		}
	}},
	{name: "G5c_the_pools_own_timeout_still_does", run: func(t *testing.T, r *rig) {
		cfg := blameConfig(t, r)
		cfg.Script, cfg.OperationTimeout, cfg.Breaker.Failures = script(t, sleepsAndDies), 20*time.Millisecond, 2
		p := r.own(t, cfg)
		for range 2 {
			_, err := p.ExecuteAnonymous(context.Background(), "sleep", []float64{60})
			failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
		}
		_, err := p.ExecuteAnonymous(context.Background(), "sleep", []float64{60})
		failsWith(t, err, ErrCircuitOpen, NotExecuted)
	}},
	{name: "G5b_a_refusal_tells_nothing_of_other_callers", run: func(t *testing.T, r *rig) {
		cfg := blameConfig(t, r)
		cfg.Script, cfg.Breaker = script(t, sleepsAndDies), Breaker{Failures: 1, OpenFor: time.Millisecond}
		var events sync.Map // an observer that keeps and reads what it is given
		cfg.Observer = &Observer{Event: func(ev Event) {
			if ev.Err != nil {
				events.Store(ev.Err, fmt.Sprintf("%+v", ev.Err))
			}
		}}
		p := r.own(t, cfg)
		var callers sync.WaitGroup
		var refused atomic.Int64
		end := time.Now().Add(2 * time.Second)
		for i := range 16 {
			session := fmt.Sprintf("session-%d", i)
			callers.Go(func() {
				for time.Now().Before(end) {
					_, err := p.ExecuteInSession(context.Background(), session, "die", nil, WithCheckoutTimeout(time.Minute))
					require.Error(t, err)
					if !errors.Is(err, ErrCircuitOpen) {
						continue
					}
					refused.Add(1)
					circuit := detail[*CircuitError](t, err)
					for _, of := range []error{ErrWorkerExited, context.Canceled, context.DeadlineExceeded} {
						require.NotErrorIs(t, err, of)
					}
					require.False(t, errors.As(err, new(*ExitError)))
					require.ErrorIs(t, circuit.Cause, ErrWorkerExited)
					require.False(t, errors.As(circuit.Cause, new(*ExitError)), "its stderr may be another caller's")
					cause := detail[*Error](t, circuit.Cause)
					require.Equal(t, ErrorContext{Pool: "pypool", Command: "die"}, cause.Context)
					require.Contains(t, err.Error(), "exited with code 7")
				}
			})
		}
		callers.Wait()
		require.NotZero(t, refused.Load())
		eventually(t, "the circuit lets a call in", func() bool {
			_, err := p.ExecuteAnonymous(context.Background(), "echo", []int{1})
			return err == nil
		})
	}},
	{name: "G8_a_small_result_holds_small_memory", run: func(t *testing.T, r *rig) {
		cfg := blameConfig(t, r)
		cfg.Script, cfg.MaxMessageBytes, cfg.Size = script(t, sleepsAndDies), 64<<20, 1
		p := r.own(t, cfg)
		small := func(raw json.RawMessage) {
			t.Helper()
			require.LessOrEqual(t, cap(raw[:cap(raw)]), 2*len(raw))
		}
		for _, size := range []int{60, 5000, 66_000, 130_000, 1 << 20, 5 << 20} {
			_, err := p.ExecuteAnonymous(context.Background(), "text", []int{24 << 20})
			require.NoError(t, err)
			before := heapBytes()
			res, err := p.ExecuteAnonymous(context.Background(), "text", []int{size})
			require.NoError(t, err)
			small(res.Raw())
			require.Less(t, heapBytes()-before, int64(3*size+2<<20), "what a result of %d bytes holds", size)
			require.Len(t, res.Raw(), size+2)
		}
		var kept []Result
		before := heapBytes()
		for res, err := range p.Stream(context.Background(), "texts", []any{[]int{20 << 20, 130_000, 20 << 20, 70_000}}) {
			require.NoError(t, err)
			if len(res.Raw()) < 1<<20 {
				kept = append(kept, res)
			}
		}
		require.Len(t, kept, 2)
		require.Less(t, heapBytes()-before, int64(4<<20))
		require.Len(t, kept[0].Raw(), 130_002)
	}},
	{name: "G9_a_crash_after_the_answer_is_charged_to_the_command", run: func(t *testing.T, r *rig) {
		for _, command := range []string{"exit_after", "crash_after"} {
			cfg, answered := blameConfig(t, r), newLatch(t)
			cfg.Script, cfg.Size = script(t, sleepsAndDies), 1
			p := r.own(t, cfg)
			opened := 0
			for range 6 {
				lost := p.Stats().WorkersExited
				res, err := p.ExecuteAnonymous(context.Background(), command, []string{answered.path})
				if errors.Is(err, ErrCircuitOpen) {
					require.Contains(t, err.Error(), "after its answer")
					opened++
					break
				}
				require.NoError(t, err)
				answered.release(t)
				gone(t, decoded[int](t, res))
				eventually(t, "its end is noticed, and it is replaced", func() bool { return p.Stats().WorkersExited == lost+1 && serving(p) })
			}
			require.Equal(t, 1, opened, "%s costs a worker each time, and goes on", command)
			_, err := p.ExecuteAnonymous(context.Background(), "echo", []int{1})
			require.NoError(t, err, "the others are served")
		}
	}},
	{name: "G9b_also_when_other_calls_are_answered_in_between", run: func(t *testing.T, r *rig) {
		cfg := blameConfig(t, r)
		cfg.Script, cfg.OperationTimeout = script(t, sleepsAndDies), 10*time.Second
		p := r.own(t, cfg)
		var callers sync.WaitGroup
		var opened atomic.Bool
		for range 4 {
			callers.Go(func() {
				for end := time.Now().Add(time.Minute); !opened.Load() && time.Now().Before(end); {
					if _, err := p.ExecuteAnonymous(context.Background(), "exit_later", []float64{0.002}); errors.Is(err, ErrCircuitOpen) {
						opened.Store(true)
					}
				}
			})
		}
		callers.Wait()
		require.True(t, opened.Load(), "%+v", p.Stats())
		require.LessOrEqual(t, p.Stats().WorkersStarted, int64(2*exitFactor*5))
	}},
	{name: "G9c_a_kill_from_outside_is_charged_to_nobody", run: func(t *testing.T, r *rig) {
		cfg := blameConfig(t, r)
		cfg.Script = script(t, sleepsAndDies)
		p := r.own(t, cfg)
		for i := range 12 {
			res, err := p.ExecuteAnonymous(context.Background(), "echo", []int{i})
			require.NoError(t, err)
			require.Equal(t, i, decoded[int](t, res))
			for _, pid := range pids(p) {
				_ = syscall.Kill(pid, []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[i%2])
				gone(t, pid)
			}
			eventually(t, "replaced", func() bool { return serving(p) })
		}
	}},
	{name: "G9d_workers_that_end_young_and_idle_are_replaced_ever_more_slowly", run: func(t *testing.T, r *rig) {
		cfg := blameConfig(t, r) // its circuits are off: each answer is followed by an end
		cfg.Script, cfg.Size, cfg.Breaker.Failures = script(t, sleepsAndDies), 1, -1
		cfg.RestartBackoff = Backoff{Min: 50 * time.Millisecond, Max: time.Minute}
		p, answered := r.own(t, cfg), newLatch(t)
		begun := time.Now()
		for range 5 {
			lost := p.Stats().WorkersExited
			executed(t, p, "exit_after", []string{answered.path})
			answered.release(t)
			eventually(t, "its end is noticed", func() bool { return p.Stats().WorkersExited == lost+1 })
		}
		require.Greater(t, time.Since(begun), 500*time.Millisecond, "four waits of 50, 100, 200 and 400 ms, each shorter by a fifth at most")
	}},
	{name: "G9e_so_is_a_signal_that_nobody_sends_to_end_a_process", run: func(t *testing.T, r *rig) {
		for _, signal := range []syscall.Signal{syscall.SIGALRM, syscall.SIGVTALRM, syscall.SIGXCPU, syscall.SIGSYS, syscall.SIGTRAP, syscall.SIGUSR2} {
			cfg, answered := blameConfig(t, r), newLatch(t)
			cfg.Script, cfg.Size, cfg.Breaker.Failures = script(t, sleepsAndDies), 1, 2
			p := r.own(t, cfg)
			for range 2 {
				lost := p.Stats().WorkersExited
				pid := decoded[int](t, executed(t, p, "signal_after", []any{answered.path, int(signal)}))
				answered.release(t)
				gone(t, pid)
				eventually(t, "its end is noticed, and it is replaced", func() bool { return p.Stats().WorkersExited == lost+1 && serving(p) })
			}
			_, err := p.ExecuteAnonymous(context.Background(), "signal_after", []any{answered.path, int(signal)})
			require.Contains(t, failsWith(t, err, ErrCircuitOpen, NotExecuted).Error(), "after its answer", signal)
			executed(t, p, "echo", []int{1})
		}
	}},
	{name: "G9f_the_kernel_ends_no_process_for_what_it_did_not_use", run: func(t *testing.T, r *rig) {
		for state, want := range map[proc.ExitState]struct{ itself, outside bool }{
			{Code: 0}:                                              {true, false},
			{Code: -1}:                                             {false, true},
			{Signal: syscall.SIGSEGV}:                              {true, false},
			{Signal: syscall.SIGPIPE}:                              {true, false},
			{Signal: syscall.SIGKILL, NoOOM: true}:                 {false, true},
			{Signal: syscall.SIGKILL, OOM: true}:                   {true, false},
			{Signal: syscall.SIGKILL}:                              {false, false}, // nobody counts
			{Signal: syscall.SIGKILL, Ours: true}:                  {false, false},
			{Signal: syscall.SIGTERM, Ours: true}:                  {false, false},
			{Signal: syscall.SIGTERM}:                              {false, true},
			{Signal: syscall.SIGINT}:                               {false, true},
			{Signal: syscall.SIGHUP}:                               {false, true},
			{Signal: syscall.SIGQUIT}:                              {false, true},
			{Signal: syscall.SIGKILL, Overtime: true, NoOOM: true}: {true, false},
		} {
			w := &worker{proc: &fakeProcess{state: state, done: make(chan struct{})}, log: &stderrLog{done: make(chan struct{})}}
			close(w.proc.(*fakeProcess).done)
			close(w.log.done)
			exit := w.exitError()
			require.Equal(t, want.itself, exit.itself, "%+v", state)
			require.Equal(t, want.outside, exit.fromOutside(), "%+v", state)
			if state.NoOOM && !state.Overtime {
				w.log.lost = true
				require.True(t, w.exitError().itself, "its runtime has said that it kills itself")
			}
		}
	}},
	{name: "G19_a_refusal_is_no_exception_of_the_command", run: func(t *testing.T, r *rig) {
		cfg := blameConfig(t, r)
		cfg.Script, cfg.MinReady, cfg.MaxRestarts = script(t, "raise KeyError('no such model')"), -1, 2
		p := r.own(t, cfg)
		r.pool = nil // it never serves
		eventually(t, "the circuit is open", func() bool { return p.Stats().Breaker != "closed" })
		_, err := p.ExecuteAnonymous(context.Background(), "summarize", nil)
		failsWith(t, err, ErrCircuitOpen, NotExecuted)
		require.False(t, errors.As(err, new(*PythonError)), "summarize has not raised")
		require.False(t, errors.As(err, new(*StartError)))
		require.NotErrorIs(t, err, ErrWorkerStart)
		require.Contains(t, err.Error(), "no such model")
		require.Contains(t, detail[*StartError](t, detail[*CircuitError](t, err).Cause).Stderr, "KeyError")
	}},
	{name: "G20_names_that_do_not_exist_fill_no_table", run: func(t *testing.T, r *rig) {
		cfg := blameConfig(t, r)
		p := r.own(t, cfg)
		for i := range 2 * spin.MaxCommands {
			_, err := p.ExecuteAnonymous(context.Background(), fmt.Sprintf("no_such_command_%d", i), nil)
			failsWith(t, err, ErrUnknownCommand, NotExecuted)
		}
		known := func() (names []string) {
			names = slices.AppendSeq(names, maps.Keys(p.spin.Learned()))
			return names
		}
		require.Empty(t, known())
		for range 10 {
			_, err := p.ExecuteAnonymous(context.Background(), "echo", []int{1})
			require.NoError(t, err)
		}
		require.Equal(t, []string{"echo"}, known())
	}},
	{name: "G21_what_is_refused_is_not_encoded", run: func(t *testing.T, r *rig) {
		cfg := blameConfig(t, r)
		cfg.MaxQueue, cfg.Size, cfg.Breaker = 1, 1, Breaker{Failures: 1, OpenFor: time.Hour}
		p := r.own(t, cfg)
		var encoded atomic.Int64
		in := []any{counted{&encoded}}
		refused := func(want error, command string) {
			t.Helper()
			encoded.Store(0)
			_, err := p.ExecuteAnonymous(context.Background(), command, in)
			failsWith(t, err, want, NotExecuted)
			require.Zero(t, encoded.Load(), "encodings of the arguments of a call that got %v", want)
		}
		_, err := p.ExecuteAnonymous(context.Background(), "os_exit", []int{1})
		failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		refused(ErrCircuitOpen, "os_exit")

		busy := r.block(t, context.Background())
		waits := background(p, context.Background(), "echo", []int{1})
		eventually(t, "one waits", func() bool { return p.Stats().Waiting == 1 })
		refused(ErrQueueFull, "echo")
		busy.release(t)
		require.NoError(t, ended(t, waits).err)
		require.NoError(t, ended(t, busy.end).err)
		require.NoError(t, p.Close())
		refused(ErrPoolClosed, "echo")
	}},
	{name: "G22_requests_that_wait_are_bounded_in_bytes", run: func(t *testing.T, r *rig) {
		cfg := blameConfig(t, r)
		cfg.Size, cfg.MaxQueueBytes, cfg.MaxMessageBytes = 1, 2_500_000, 4<<20
		p := r.own(t, cfg)
		busy := r.block(t, context.Background())
		large := []any{strings.Repeat("x", 1_000_000)}
		var waits []<-chan outcome
		for i := range 2 {
			waits = append(waits, background(p, context.Background(), "echo", large))
			eventually(t, "it waits", func() bool { return p.Stats().Waiting == i+1 })
		}
		_, err := p.ExecuteAnonymous(context.Background(), "echo", large)
		require.Contains(t, failsWith(t, err, ErrQueueFull, NotExecuted).Message, "MaxQueueBytes")
		waits = append(waits, background(p, context.Background(), "echo", []int{1}))
		eventually(t, "a small one waits", func() bool { return p.Stats().Waiting == 3 })
		busy.release(t)
		for _, w := range waits {
			require.NoError(t, ended(t, w).err)
		}
		require.NoError(t, ended(t, busy.end).err)

		busy = r.block(t, context.Background())
		alone := background(p, context.Background(), "echo", []any{strings.Repeat("x", 3_000_000)})
		eventually(t, "one that is larger than the bound waits alone", func() bool { return p.Stats().Waiting == 1 })
		busy.release(t)
		require.NoError(t, ended(t, alone).err)
		require.NoError(t, ended(t, busy.end).err)
	}},
}

// counted counts how often it is encoded.
type counted struct{ times *atomic.Int64 }

func (c counted) MarshalJSON() ([]byte, error) {
	c.times.Add(1)
	return []byte("1"), nil
}
