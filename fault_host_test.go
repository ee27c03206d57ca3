//go:build linux

package pypool

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
)

// Group D: the host's side. D13, D14 and D34 are in TestFaultHostDeath.
var hostFaults = []fault{
	{name: "D1_context_that_has_ended_already", run: func(t *testing.T, r *rig) {
		canceled, cancel := context.WithCancel(context.Background())
		cancel()
		res, err := r.pool.ExecuteAnonymous(canceled, "echo", nil)
		failsWith(t, err, ErrCanceled, NotExecuted)
		require.ErrorIs(t, err, context.Canceled)
		r.fate(t, noWorker, res, err)
		expired, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
		defer cancel()
		res, err = r.pool.ExecuteAnonymous(expired, "echo", nil)
		failsWith(t, err, ErrCheckoutTimeout, NotExecuted)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		r.fate(t, noWorker, res, err)
	}},
	{name: "D2_context_that_ends_in_the_queue", run: func(t *testing.T, r *rig) {
		one, two := r.block(t, context.Background()), r.block(t, context.Background())
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		_, err := r.pool.ExecuteAnonymous(ctx, "echo", nil)
		failsWith(t, err, ErrCheckoutTimeout, NotExecuted)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = r.pool.ExecuteAnonymous(context.Background(), "echo", nil, WithCheckoutTimeout(20*time.Millisecond))
		failsWith(t, err, ErrCheckoutTimeout, NotExecuted)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
		ctx, cancel = context.WithCancel(context.Background())
		queued := background(r.pool, ctx, "echo", nil)
		eventually(t, "the call is queued", func() bool { return r.pool.Stats().Waiting == 1 })
		cancel()
		failsWith(t, ended(t, queued).err, ErrCanceled, NotExecuted)
		for _, b := range []*blocked{one, two} {
			b.release(t)
			require.NoError(t, ended(t, b.end).err)
		}
	}},
	{name: "D3_deadline_while_writing_proves_that_nothing_ran", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Size, cfg.KillGrace = 1, 200*time.Millisecond
		p := r.own(t, cfg)
		require.NoError(t, syscall.Kill(p.Workers()[0].PID, syscall.SIGSTOP))
		res, err := r.execute("echo", []any{strings.Repeat("x", 900_000)}, hangTime)
		failsWith(t, err, ErrOperationTimeout, NotExecuted)
		r.epilogue(t)
		r.fate(t, replaced, res, err)
	}},
	{name: "D4_deadline_of_the_context_while_the_handler_runs", run: func(t *testing.T, r *rig) {
		ctx, cancel := context.WithTimeout(context.Background(), hangTime)
		defer cancel()
		begun := time.Now()
		res, err := r.pool.ExecuteAnonymous(ctx, "nap", []any{60})
		within(t, begun, hangTime+time.Second)
		failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		r.epilogue(t)
		r.fate(t, replaced, res, err)
	}},
	{name: "D5_answer_in_the_instant_of_the_deadline_is_either_but_never_both", run: func(t *testing.T, r *rig) {
		synctest.Test(t, func(t *testing.T) {
			f := &fleet{script: func(p *fakeProcess, req fakeRequest) bool {
				if req.Command == "slow" {
					p.pause(time.Second)
				}
				return false
			}}
			cfg := f.config(1)
			cfg.Breaker.Failures = -1
			p := bubblePool(t, cfg)
			const rounds = 200
			answered := 0
			for i := range rounds {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				opts := []CallOption{WithTimeout(time.Hour)}
				if i%2 == 0 {
					opts[0] = WithTimeout(time.Second)
				}
				res, err := p.ExecuteAnonymous(ctx, "slow", []any{i}, opts...)
				cancel()
				if err == nil {
					answered++
					require.Equal(t, []int{i}, decoded[struct{ Args []int }](t, res).Args)
				} else {
					failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
				}
				res, err = p.ExecuteAnonymous(context.Background(), "work", []any{-i})
				require.NoError(t, err)
				require.Equal(t, []int{-i}, decoded[struct{ Args []int }](t, res).Args)
			}
			t.Logf("%d of %d were answered", answered, rounds)
		})
	}},
	{name: "D6_panic_of_the_callers_codec_is_the_callers", run: func(t *testing.T, r *rig) {
		before := r.pool.Stats()
		require.PanicsWithValue(t, "marshal", func() { _, _ = r.execute("echo", []any{panicking{}}, 0) })
		require.PanicsWithValue(t, "unmarshal", func() { _, _ = Call[panicking](context.Background(), r.pool, "echo", []any{1}) })
		after := r.pool.Stats()
		require.Equal(t, before.WorkersStarted, after.WorkersStarted)
		require.Zero(t, after.InFlight)
	}},
	{name: "D7_panic_while_a_worker_is_started_is_an_error", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.spawn = func(context.Context, *proc.Spawner, proc.Spec) (proc.Process, error) { panic("no luck") }
		_, err := New(t.Context(), cfg)
		failsWith(t, err, ErrInternal, NotExecuted)
		require.Contains(t, err.Error(), "no luck")
	}},
	{name: "D8_Shutdown_lets_running_calls_finish_and_releases_waiting_ones_at_once", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Size = 1
		p := r.own(t, cfg)
		b := r.block(t, context.Background())
		queued := background(p, context.Background(), "echo", nil)
		eventually(t, "a call waits", func() bool { return p.Stats().Waiting == 1 })
		down := make(chan error, 1)
		go func() { down <- p.Shutdown(context.Background()) }()
		failsWith(t, ended(t, queued).err, ErrPoolClosed, NotExecuted)
		b.release(t)
		require.NoError(t, ended(t, b.end).err)
		require.NoError(t, <-down)
	}},
	{name: "D8b_Shutdown_kills_what_is_left_when_its_context_ends", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		p := r.own(t, cfg)
		one, two := r.block(t, context.Background()), r.block(t, context.Background())
		ctx, cancel := context.WithTimeout(context.Background(), hangTime)
		defer cancel()
		begun := time.Now()
		err := p.Shutdown(ctx)
		within(t, begun, hangTime+time.Second)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		for _, b := range []*blocked{one, two} {
			failsWith(t, ended(t, b.end).err, ErrPoolClosed, MaybeExecuted)
			state, _ := processState(b.pid(t))
			require.Empty(t, state, "no process is left when Shutdown returns")
		}
	}},
	{name: "D9_Close_by_a_hundred_at_once", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.config(t))
		b := r.block(t, context.Background())
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		failsWith(t, ended(t, b.end).err, ErrPoolClosed, MaybeExecuted)
		require.NoError(t, p.Close())
		require.NoError(t, p.Shutdown(context.Background()))
		require.Empty(t, p.Workers())
	}},
	{name: "D10_Close_while_workers_start", run: func(t *testing.T, r *rig) {
		executedOnly(t)
		gate := newLatch(t)
		cfg := r.config(t)
		cfg.Script, cfg.MinReady = script(t, fmt.Sprintf("open(%q).read()\n", gate.path)), -1
		p := r.own(t, cfg)
		eventually(t, "workers are starting", func() bool { return p.Stats().Starting == cfg.Size })
		begun := time.Now()
		require.NoError(t, p.Close())
		within(t, begun, time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), hangTime)
		defer cancel()
		cfg.MinReady = 0
		_, err := New(ctx, cfg)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		failsWith(t, err, ErrWorkerStart, NotExecuted)
	}},
	{name: "D11_everything_after_Close_says_so", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.config(t))
		require.NoError(t, p.Close())
		_, err := p.ExecuteAnonymous(context.Background(), "echo", nil)
		failsWith(t, err, ErrPoolClosed, NotExecuted)
		_, err = p.ExecuteInSession(context.Background(), "s", "echo", nil)
		failsWith(t, err, ErrPoolClosed, NotExecuted)
		_, err = p.ExecuteProgram(context.Background(), "p", nil)
		failsWith(t, err, ErrPoolClosed, NotExecuted)
		_, err = p.HealthCheck(context.Background())
		failsWith(t, err, ErrPoolClosed, NotExecuted)
		failsWith(t, p.Reload(context.Background()), ErrPoolClosed, NotExecuted)
		for _, err := range p.Stream(context.Background(), "numbers", []any{3}) {
			failsWith(t, err, ErrPoolClosed, NotExecuted)
		}
		accounted(t, p)
	}},
	{name: "D12_Close_from_inside_an_observer", run: func(t *testing.T, r *rig) {
		for _, where := range []string{"CallEnd", "Event"} {
			cfg := r.config(t)
			cfg.Size = 1
			var p *Pool
			closed := make(chan struct{})
			once := sync.OnceFunc(func() { _ = p.Close(); close(closed) })
			cfg.Observer = &Observer{}
			if where == "CallEnd" {
				cfg.Observer.CallEnd = func(context.Context, CallInfo, CallOutcome) { once() }
			} else {
				cfg.Observer.Event = func(e Event) {
					if e.Kind == EventWorkerExited {
						once()
					}
				}
			}
			p = r.own(t, cfg)
			if _, err := p.ExecuteAnonymous(context.Background(), "os_exit", []any{1}); err == nil {
				t.Error("os_exit succeeded")
			}
			<-closed
		}
	}},
	{name: "D15_no_descriptors_left_keeps_the_workers_there_are", run: func(t *testing.T, r *rig) {
		runHelper(t, "host without descriptors", r.mark)
	}},
	{name: "D16_fork_that_fails_is_tried_again", run: func(t *testing.T, r *rig) {
		synctest.Test(t, func(t *testing.T) {
			f := &fleet{fails: func(n int) error {
				if n > 2 && n < 6 {
					return []error{syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE}[n-3]
				}
				return nil
			}}
			p := bubblePool(t, f.config(2))
			f.alive()[0].killed()
			synctest.Wait()
			for range 20 {
				_, err := p.ExecuteAnonymous(context.Background(), "work", nil)
				require.NoError(t, err)
			}
			h, err := p.HealthCheck(context.Background())
			require.NoError(t, err)
			require.False(t, h.Healthy)
			require.ErrorIs(t, h.LastError, syscall.EAGAIN)
			time.Sleep(5 * time.Second)
			require.True(t, serving(p))
		})
	}},
	{name: "D17_a_request_and_its_answer_larger_than_all_pipes", run: func(t *testing.T, r *rig) {
		text := strings.Repeat("y", 900_000)
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				res, err := r.execute("echo", []any{text}, 0)
				if err != nil || len(res.Raw()) != len(text)+2 {
					t.Errorf("%v, %d bytes", err, len(res.Raw()))
				}
			})
		}
		wg.Wait()
	}},
	{name: "D18_worker_that_dies_before_it_reads_costs_no_call", run: func(t *testing.T, r *rig) {
		for range 5 {
			killed := pids(r.pool)
			for _, pid := range killed {
				stop(t, pid)
				kill(t, pid)
			}
			executed(t, r.pool, "echo", []any{1}) // the death may be known by now, or be found by the write, or behind it
			othersServe(t, r.pool, killed)
			r.epilogue(t)
		}
	}},
	{name: "D19_answer_of_a_worker_that_exits_at_once_is_not_lost", run: func(t *testing.T, r *rig) {
		r.pool = r.fake
		for range 20 {
			w := r.pool.sup.workers()[0]
			res, err := r.execute("last words", nil, 0)
			require.NoError(t, err)
			require.JSONEq(t, `"good"`, string(res.Raw()))
			<-w.watched
			r.epilogue(t)
			r.fate(t, replaced, res, nil)
		}
	}},
	{name: "D20_idle_workers_that_die_are_nobodys_problem", run: func(t *testing.T, r *rig) {
		failed := r.pool.Stats().Failed
		for range 5 {
			killWorkers(r.pool)
			for range 5 {
				executed(t, r.pool, "echo", []any{1})
			}
			eventually(t, "the pool is at its full size", func() bool { return serving(r.pool) })
		}
		require.Equal(t, failed, r.pool.Stats().Failed)
	}},
	{name: "D21_worker_that_dies_before_it_begins_the_request_is_not_the_calls_problem", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Size = 1
		p := r.own(t, cfg)
		for range 3 {
			w := p.sup.workers()[0]
			stop(t, w.proc.PID())
			end := background(p, context.Background(), "echo", []any{secret})
			eventually(t, "the request is in the pipe", func() bool { return unbegun(w) > 0 })
			require.NoError(t, syscall.Kill(w.proc.PID(), syscall.SIGKILL))
			require.NoError(t, ended(t, end).err)
			r.epilogue(t)
		}
	}},
	{name: "D22_queue_is_bounded_exactly", run: func(t *testing.T, r *rig) {
		synctest.Test(t, func(t *testing.T) {
			gate := make(chan struct{})
			f := &fleet{script: func(p *fakeProcess, req fakeRequest) bool {
				if req.Command == "work" {
					<-gate
				}
				return false
			}}
			cfg := f.config(2)
			cfg.MaxQueue = 100
			p := bubblePool(t, cfg)
			var full, fine atomic.Int64
			for range 300 {
				go func() {
					switch _, err := p.ExecuteAnonymous(context.Background(), "work", nil); {
					case err == nil:
						fine.Add(1)
					case errors.Is(err, ErrQueueFull) && SafeToRetry(err):
						full.Add(1)
					default:
						t.Error(err)
					}
				}()
			}
			synctest.Wait()
			require.EqualValues(t, 198, full.Load())
			require.Equal(t, 100, p.Stats().Waiting)
			close(gate)
			time.Sleep(time.Second)
			require.EqualValues(t, 102, fine.Load())
			accounted(t, p)
		})
	}},
	{name: "D23_callers_are_served_in_the_order_of_their_arrival", run: func(t *testing.T, r *rig) {
		synctest.Test(t, func(t *testing.T) {
			var served []int
			f := &fleet{script: func(p *fakeProcess, req fakeRequest) bool {
				if req.Command == "work" {
					var at []int
					_ = json.Unmarshal(req.Args, &at)
					served = append(served, at[0]) // by one process, one at a time
					p.pause(time.Second)
				}
				return false
			}}
			p := bubblePool(t, f.config(1))
			var want []int
			for i := range 50 {
				want = append(want, i)
				go func() { _, _ = p.ExecuteAnonymous(context.Background(), "work", []any{i}, WithCheckoutTimeout(0)) }()
				synctest.Wait()
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			require.Equal(t, want, served)
			require.InDelta(t, 49*time.Second, p.Stats().CheckoutWait.Max, float64(100*time.Millisecond))
		})
	}},
	{name: "D25_workers_that_keep_dying_idle_are_replaced_ever_more_slowly", run: func(t *testing.T, r *rig) {
		synctest.Test(t, func(t *testing.T) {
			f := &fleet{}
			f.script = func(p *fakeProcess, req fakeRequest) bool {
				if req.Command == "ping" && p.n > 1 {
					p.reply(req.ID, `{"status":"ok"}`)
					p.pause(time.Millisecond)
					p.killed()
					return true
				}
				return false
			}
			p := bubblePool(t, f.config(1))
			f.alive()[0].killed()
			time.Sleep(10 * time.Minute)
			spawns := f.spawned()
			require.Less(t, len(spawns), 60, "RestartBackoff grows to 30 s")
			require.Greater(t, len(spawns), 15, "and the pool never gives up")
			_ = p
		})
	}},
	{name: "D25b_workers_that_cannot_start_fail_calls_fast_and_probe_one_at_a_time", run: func(t *testing.T, r *rig) {
		synctest.Test(t, func(t *testing.T) {
			var mended atomic.Bool
			f := &fleet{}
			f.fails = func(n int) error {
				if n > 4 && !mended.Load() {
					return errors.New("no such luck")
				}
				return nil
			}
			p := bubblePool(t, f.config(4))
			for _, fp := range f.alive() {
				fp.killed()
			}
			time.Sleep(time.Minute)
			begun, spawns := time.Now(), len(f.spawned())
			for range 1000 {
				_, err := p.ExecuteAnonymous(context.Background(), "work", nil)
				failsWith(t, err, ErrCircuitOpen, NotExecuted)
				require.Contains(t, err.Error(), "no such luck")
			}
			require.Zero(t, time.Since(begun), "refused at once")
			require.Len(t, f.spawned(), spawns, "calls start no workers")
			time.Sleep(10 * time.Minute)
			require.Less(t, len(f.spawned())-spawns, 40)
			mended.Store(true)
			time.Sleep(time.Minute)
			require.True(t, serving(p))
			_, err := p.ExecuteAnonymous(context.Background(), "work", nil)
			require.NoError(t, err)
		})
	}},
	{name: "D26_poison_request_costs_one_worker", run: func(t *testing.T, r *rig) {
		before := r.pool.Stats()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				if i == 50 {
					_, err := r.execute("segfault", nil, 0)
					if !errors.Is(err, ErrWorkerExited) {
						t.Errorf("poison: %v", err)
					}
					return
				}
				if _, err := r.execute("echo", []any{i}, 0); err != nil {
					t.Errorf("good: %v", err)
				}
			})
		}
		wg.Wait()
		r.epilogue(t)
		require.Equal(t, before.WorkersStarted+1, r.pool.Stats().WorkersStarted)
		require.Equal(t, before.Failed+1, r.pool.Stats().Failed)
	}},
	{name: "D27_one_workers_death_leaves_the_others_calls_alone", run: func(t *testing.T, r *rig) {
		one, two := r.block(t, context.Background()), r.block(t, context.Background())
		require.NoError(t, syscall.Kill(one.pid(t), syscall.SIGKILL))
		failsWith(t, ended(t, one.end).err, ErrWorkerExited, MaybeExecuted)
		r.eventuallyReady(t, 1)
		two.release(t)
		require.NoError(t, ended(t, two.end).err)
	}},
	{name: "D28_no_wall_clock_arithmetic", run: func(t *testing.T, r *rig) {
		for path, source := range productSources(t) {
			for _, banned := range []string{"Now().Unix", "Round(0)"} {
				require.NotContains(t, source, banned, path)
			}
		}
	}},
	{name: "D29_start_beside_ten_thousand_goroutines", run: func(t *testing.T, r *rig) {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 10_000 {
			wg.Go(func() { <-stop })
		}
		heap := make([]byte, 64<<20)
		for i := 0; i < len(heap); i += 4096 {
			heap[i] = 1
		}
		cfg := r.config(t)
		cfg.Size = 1
		p := r.own(t, cfg)
		executed(t, p, "ping", nil)
		runtime.KeepAlive(heap)
		close(stop)
		wg.Wait()
	}},
	{name: "D31_no_signal_is_sent_to_a_process_that_has_been_reaped", run: func(t *testing.T, r *rig) {
		w := r.pool.sup.workers()[0]
		require.NoError(t, syscall.Kill(w.proc.PID(), syscall.SIGKILL))
		<-w.proc.Exited()
		w.proc.(interface{ Signal(func(pid int)) }).Signal(func(int) { t.Error("a signal would have been sent") })
	}},
	{name: "D32_host_that_reaps_all_children_itself", run: func(t *testing.T, r *rig) {
		runHelper(t, "host that reaps everything", r.mark)
	}},
	{name: "D35_workers_have_a_process_group_of_their_own_and_ignore_SIGINT", run: func(t *testing.T, r *rig) {
		for range 4 {
			ids := decoded[[]int](t, executed(t, r.pool, "process_group", nil))
			require.Equal(t, ids[0], ids[1], "the worker leads its group")
			require.NotEqual(t, syscall.Getpgrp(), ids[1])
			require.Contains(t, append(serversOf(r.pool), os.Getpid()), ids[2])
			require.NoError(t, syscall.Kill(ids[0], syscall.SIGINT))
			executed(t, r.pool, "echo", nil)
		}
		require.Zero(t, r.pool.Stats().InFlight)
	}},
}

func (r *rig) eventuallyReady(t testing.TB, idle int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d workers are idle", idle), func() bool { return r.pool.Stats().Idle == idle })
}

// panicking panics in both directions.
type panicking struct{}

func (panicking) MarshalJSON() ([]byte, error) { panic("marshal") }
func (*panicking) UnmarshalJSON([]byte) error  { panic("unmarshal") }

// bubblePool opens a pool in a synctest bubble and closes it at the end.
func bubblePool(t *testing.T, cfg Config) *Pool {
	t.Helper()
	p, err := New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// stop sends SIGSTOP and waits until it has worked.
func stop(t testing.TB, pid int) {
	t.Helper()
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	eventually(t, fmt.Sprintf("process %d has stopped", pid), func() bool {
		state, _ := processState(pid)
		return state == "T"
	})
}

// unbegun counts the bytes that the host has sent and the worker has not read.
func unbegun(w *worker) (n int) {
	n, _ = w.proc.Unread()
	return n
}

// productSources are the library's own files, Go's and Python's.
func productSources(t testing.TB) map[string]string {
	t.Helper()
	sources := map[string]string{}
	for _, pattern := range []string{"*.go", "internal/*/*.go", "python/pypool/*.py"} {
		paths, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, path := range paths {
			if !strings.HasSuffix(path, "_test.go") {
				sources[path] = procFile(t, path)
			}
		}
	}
	require.Greater(t, len(sources), 30)
	return sources
}

// --- hosts of their own ---------------------------------------------------------------------------------------------

// helperCommand runs this test binary as the named helper.
func helperCommand(t testing.TB, name string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(append(os.Environ(), helperEnv+"="+name, "PYPOOL_HELPER_PYTHON="+realPython(), "GORACE=atexit_sleep_ms=0"), env...)
	return cmd
}

// startHelper starts a helper, and returns the first line that it says, and the rest.
func startHelper(t testing.TB, cmd *exec.Cmd) (line string, rest *bufio.Reader) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	rest = bufio.NewReader(out)
	line, err = rest.ReadString('\n')
	require.NoError(t, err)
	return line, rest
}

// runHelper runs a host that checks for itself, and fails the test when it exits with anything but
// 0.
func runHelper(t testing.TB, name string, env ...string) {
	t.Helper()
	out, err := helperCommand(t, name, env...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// hostConfig is the configuration of a pool in a helper.
func hostConfig() Config {
	path, err := filepath.Abs(filepath.Join("testdata", "workers", "faults.py"))
	must(err)
	return Config{
		Script: path, Python: os.Getenv("PYPOOL_HELPER_PYTHON"), Size: 2, Overflow: -1, Logger: quiet(),
		RestartBackoff: Backoff{Min: 5 * time.Millisecond, Max: 50 * time.Millisecond}, Breaker: Breaker{Failures: -1},
	}
}

// must ends a helper.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// until polls in a helper.
func until(what string, ok func() bool) {
	for range 5000 {
		if ok() {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	must(errors.New("not within 10 s: " + what))
}

func init() {
	helpers["host without descriptors"] = func() {
		ctx := context.Background()
		p, err := New(ctx, hostConfig())
		must(err)
		_, err = p.ExecuteAnonymous(ctx, "echo", []any{1})
		must(err)
		var limit syscall.Rlimit
		must(syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
		was := limit
		limit.Cur = 12 // a start needs more for a moment, even if all of the dead worker's numbers are below it
		must(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
		must(syscall.Kill(p.Workers()[0].PID, syscall.SIGKILL))
		until("the start fails for want of descriptors", func() bool { return errors.Is(p.sup.lastError(), syscall.EMFILE) })
		for i := range 50 {
			res, err := p.ExecuteAnonymous(ctx, "echo", []any{i})
			must(err)
			if string(res.Raw()) != fmt.Sprint(i) {
				must(errors.New("wrong answer"))
			}
		}
		if st := p.Stats(); st.Workers != 1 || st.Breaker != "closed" {
			must(fmt.Errorf("one worker should be there, and serve: %+v", st))
		}
		must(syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was))
		until("the pool is at its full size", func() bool { return serving(p) })
		must(p.Close())
	}
	helpers["host that reaps everything"] = func() {
		ctx := context.Background()
		cfg := hostConfig()
		p, err := New(ctx, cfg)
		must(err)
		done := make(chan struct{})
		go func() {
			for {
				select {
				case <-done:
					return
				default:
					_, _ = syscall.Wait4(-1, nil, 0, nil)
					runtime.Gosched()
				}
			}
		}()
		for i := range 10 {
			if _, err := p.ExecuteAnonymous(ctx, "os_exit", []any{i}); !errors.Is(err, ErrWorkerExited) {
				must(fmt.Errorf("os_exit: %v", err))
			}
			until("the pool is at its full size", func() bool { return serving(p) })
			_, err := p.ExecuteAnonymous(ctx, "echo", []any{i})
			must(err)
		}
		must(p.Close())
		close(done)
	}
}
