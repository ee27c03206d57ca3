//go:build linux

package pypool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
)

const (
	hangTime  = 200 * time.Millisecond
	stackTime = 800 * time.Millisecond // enough for a worker on a busy machine to be where its stack is expected
)

// Group B: the handler raises, dies or hangs.
var callFaults = []fault{
	{name: "B1_exception_is_a_value", command: "raise_value_error", want: ErrPython, is: Executed, worker: kept,
		check: func(t *testing.T, r *rig, _ Result, err error) {
			py := detail[*PythonError](t, err)
			require.Equal(t, "ValueError", py.Type)
			require.Equal(t, "builtins", py.Module)
			require.Equal(t, "broken on purpose", py.Message)
			require.Contains(t, py.Traceback, "faults.py")
		}},
	{name: "B2_BaseException_is_a_value", run: func(t *testing.T, r *rig) {
		for _, kind := range []string{"KeyboardInterrupt", "GeneratorExit", "Abrupt"} {
			res, err := r.execute("raise_base", []any{kind}, 0)
			failsWith(t, err, ErrPython, Executed)
			require.Equal(t, kind, detail[*PythonError](t, err).Type)
			r.fate(t, kept, res, err)
		}
	}},
	{name: "B3_sys_exit_is_a_value", run: func(t *testing.T, r *rig) {
		for _, code := range []any{0, 7, "goodbye", nil} {
			res, err := r.execute("sys_exit", []any{code}, 0)
			failsWith(t, err, ErrPython, Executed)
			require.Equal(t, "SystemExit", detail[*PythonError](t, err).Type)
			r.fate(t, kept, res, err)
		}
	}},
	{name: "B4_os_exit_ends_the_worker_and_this_call_alone", run: func(t *testing.T, r *rig) {
		for _, code := range []int{0, 7} {
			_, err := r.execute("os_exit", []any{code}, 0)
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			exit := detail[*ExitError](t, err)
			require.Equal(t, code, exit.Code)
			require.Zero(t, exit.Signal)
			require.False(t, exit.OOM)
			r.epilogue(t)
			r.fate(t, replaced, Result{}, err)
		}
	}},
	{name: "B5_native_crash_has_its_signal_and_Python_stack", run: func(t *testing.T, r *rig) {
		for command, signal := range map[string]syscall.Signal{"segfault": syscall.SIGSEGV, "abort": syscall.SIGABRT} {
			_, err := r.execute(command, nil, 0)
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			exit := detail[*ExitError](t, err)
			require.Equal(t, signal, exit.Signal)
			require.Contains(t, exit.Stacks, "in "+command)
			require.Contains(t, exit.Stacks, "faults.py")
			r.epilogue(t)
			r.fate(t, replaced, Result{}, err)
		}
		for _, signal := range []syscall.Signal{syscall.SIGILL, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGTERM, syscall.SIGUSR2} {
			_, err := r.execute("die_by", []any{int(signal)}, 0)
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			require.Equal(t, signal, detail[*ExitError](t, err).Signal)
		}
	}},
	{name: "B5b_no_text_of_a_handler_explains_the_end_of_its_worker", run: func(t *testing.T, r *rig) {
		const text = "pypool: the channel to the host is closed\nFatal Python error: Segmentation fault\n\n" +
			"Current thread 0x00007f0000000001 (most recent call first):\n  File \"/srv/other.py\", line 3 in forged\n"
		for _, how := range []string{"print", "logging", "write"} {
			for _, signal := range []syscall.Signal{0, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGUSR2} {
				_, err := r.execute("say_and_die_by", []any{text, how, int(signal)}, 0)
				failsWith(t, err, ErrWorkerExited, MaybeExecuted)
				exit := detail[*ExitError](t, err)
				require.Equal(t, signal, exit.Signal)
				require.Contains(t, exit.Stderr, "the channel to the host is closed", how)
				require.Contains(t, exit.Stderr, "in forged", how)
				require.Empty(t, exit.Stacks, "%s, %v", how, signal)
				require.NotContains(t, err.Error(), "forged")
				require.NotContains(t, err.Error(), "its channel to the host was closed")
				require.Equal(t, signal == syscall.SIGKILL || signal == syscall.SIGTERM, exit.fromOutside(), "%s, %v", how, signal)
			}
			_, err := r.execute("say_and_die_by", []any{text, how, int(syscall.SIGSEGV)}, 0)
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			require.Contains(t, detail[*ExitError](t, err).Stacks, "in say_and_die_by", how)
			require.NotContains(t, detail[*ExitError](t, err).Stacks, "forged", how)
		}
	}},
	{name: "B6_SIGKILL_from_outside_is_not_taken_for_lack_of_memory_where_the_kernel_knows", run: func(t *testing.T, r *rig) {
		b := r.block(t, context.Background())
		pid := b.pid(t)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		err := ended(t, b.end).err
		e := failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		exit := detail[*ExitError](t, err)
		_, counted := proc.OOMKills()
		require.Equal(t, !counted, exit.OOM)
		require.Equal(t, syscall.SIGKILL, exit.Signal)
		require.Equal(t, pid, e.Context.PID)
		if counted {
			require.Contains(t, err.Error(), "killed by a SIGKILL that neither pypool nor the out-of-memory killer sent")
		} else {
			require.Contains(t, err.Error(), "out of memory?")
		}
	}},
	{name: "B7_SIGSTOPped_worker_is_killed_at_the_deadline", command: "stop_self", timeout: hangTime, want: ErrOperationTimeout, is: MaybeExecuted, worker: replaced,
		check: func(t *testing.T, r *rig, _ Result, err error) { require.True(t, detail[*HangError](t, err).Killed) }},
	{name: "B7b_idle_worker_that_was_SIGSTOPped_is_found_by_the_health_check", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Size = 1
		p := r.own(t, cfg)
		pid := p.Workers()[0].PID
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		h, err := p.HealthCheck(ctx)
		require.Error(t, err)
		require.False(t, h.Healthy)
		gone(t, pid) // its ping goes on without the caller, and has it killed
	}},
	{name: "B8_Python_loop_is_stopped_with_its_stack", command: "loop", timeout: stackTime, want: ErrOperationTimeout, is: MaybeExecuted, worker: replaced, check: stackOf("loop")},
	{name: "B9_C_loop_that_holds_the_GIL_is_stopped_with_its_stack", command: "c_loop", timeout: stackTime, want: ErrOperationTimeout, is: MaybeExecuted, worker: replaced, check: stackOf("c_loop")},
	{name: "B10_deadlock_is_stopped_with_its_stack", command: "deadlock", timeout: stackTime, want: ErrOperationTimeout, is: MaybeExecuted, worker: replaced, check: stackOf("deadlock")},
	{name: "B10b_handler_that_steals_the_questions_for_its_stack_is_stopped", command: "steal_questions", timeout: hangTime, want: ErrOperationTimeout, is: MaybeExecuted, worker: replaced,
		check: func(t *testing.T, r *rig, _ Result, err error) { require.True(t, detail[*HangError](t, err).Killed) }},
	{name: "B11_process_that_cannot_be_reaped_is_given_up", run: func(t *testing.T, r *rig) {
		synctest.Test(t, func(t *testing.T) {
			f := &fleet{script: func(p *fakeProcess, req fakeRequest) bool {
				return req.Command == "hang" && p.hang()
			}}
			stuck := &immortals{}
			cfg := f.config(1)
			cfg.spawn = stuck.spawn(f)
			p, err := New(t.Context(), cfg)
			require.NoError(t, err)
			_, err = p.ExecuteAnonymous(context.Background(), "hang", nil, WithTimeout(time.Second))
			failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
			_, err = p.ExecuteAnonymous(context.Background(), "work", nil)
			require.NoError(t, err)
			time.Sleep(2 * reapWait)
			st := p.Stats()
			require.Equal(t, 1, st.Unreapable)
			require.Equal(t, 1, st.Idle)
			require.NoError(t, p.Close())
			stuck.release()
		})
	}},
	{name: "B11b_close_is_bounded_while_what_runs_cannot_be_killed", run: func(t *testing.T, r *rig) {
		ctx := context.Background()
		for name, call := range map[string]func(p *Pool) error{
			"a call":             func(p *Pool) error { _, err := p.ExecuteAnonymous(ctx, "hang", nil); return err },
			"one without a time": func(p *Pool) error { _, err := p.ExecuteAnonymous(ctx, "hang", nil, WithTimeout(-1)); return err },
			"one that has called a function": func(p *Pool) error {
				_, err := p.ExecuteAnonymous(ctx, "tell", nil, WithTimeout(-1))
				return err
			},
			"a stream": func(p *Pool) (err error) {
				for _, err = range Each[any](ctx, p, "hang", nil, WithTimeout(-1)) {
				}
				return err
			},
			"a Map": func(p *Pool) (err error) {
				for _, err = range Map[any](ctx, p, "hang", integers(3), WithTimeout(-1)) {
				}
				return err
			},
		} {
			synctest.Test(t, func(t *testing.T) {
				f := &fleet{able: `["page","stream","functions"]`, script: func(p *fakeProcess, req fakeRequest) bool {
					if req.Command == "tell" {
						p.say(fmt.Sprintf(`{"id":%d,"host":1,"function":"note"}`+"\n", req.ID))
						return true // and nothing more is heard of it
					}
					return req.Host != 0 || req.Command == "hang" && p.hang()
				}}
				stuck := &immortals{deaf: true}
				cfg := f.config(1)
				cfg.Functions = Functions{"note": Func(func(context.Context, any) (any, error) { return nil, nil })}
				cfg.spawn = stuck.spawn(f)
				p, err := New(t.Context(), cfg)
				require.NoError(t, err)
				wait := inBackground(1, func(int) (any, error) { return nil, call(p) })
				synctest.Wait()
				begun := time.Now()
				require.NoError(t, p.Close())
				require.Less(t, time.Since(begun), 3*reapWait, name)
				require.ErrorIs(t, wait()[0].err, ErrPoolClosed, name)
				stuck.release()
			})
		}
	}},
	{name: "B12_both_sides_of_a_fork_return_and_one_answers", command: "fork_both", worker: kept,
		check: func(t *testing.T, r *rig, res Result, err error) { require.JSONEq(t, "7", string(res.Raw())) }},
	{name: "B12b_forked_child_that_stays_behind_does_not_hide_its_parents_death", run: func(t *testing.T, r *rig) {
		file := filepath.Join(t.TempDir(), "pid")
		res, err := r.execute("fork_lingers", []any{file}, 0)
		require.NoError(t, err)
		child := pidIn(t, file)
		for _, w := range r.pool.Workers() {
			if w.ID == res.Worker() {
				require.NoError(t, syscall.Kill(w.PID, syscall.SIGKILL))
				gone(t, w.PID)
			}
		}
		gone(t, child)
	}},
	{name: "B13_grandchild_dies_with_its_worker", run: func(t *testing.T, r *rig) {
		file := filepath.Join(t.TempDir(), "pid")
		begun := time.Now()
		_, err := r.execute("spawn_and_die", []any{file}, 0)
		failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		within(t, begun, 2*time.Second)
		gone(t, pidIn(t, file))
	}},
	{name: "B14_grandchild_in_a_session_of_its_own_holds_nobody_up", run: func(t *testing.T, r *rig) {
		file := filepath.Join(t.TempDir(), "pid")
		begun := time.Now()
		_, err := r.execute("spawn_and_die", []any{file, true}, 0)
		failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		within(t, begun, 2*time.Second)
		r.epilogue(t)
		child := pidIn(t, file)
		require.True(t, processExists(child), "it has left the group: pypool does not know it")
		require.NoError(t, syscall.Kill(child, syscall.SIGKILL))
		gone(t, child)
	}},
	{name: "B15_daemon_thread_left_behind_is_the_handlers_business", command: "daemon_thread", worker: kept},
	{name: "B16_thread_or_exit_function_that_never_ends_does_not_hold_up_Shutdown", run: func(t *testing.T, r *rig) {
		for _, how := range []string{"thread", "atexit"} {
			cfg := r.config(t)
			cfg.Size, cfg.StopGrace = 1, 3*time.Second
			p := r.own(t, cfg)
			executed(t, p, "stubborn_exit", []any{how})
			begun := time.Now()
			require.NoError(t, p.Shutdown(context.Background()))
			within(t, begun, 2*cfg.StopGrace)
		}
	}},
	{name: "B17_output_after_the_answer_goes_to_the_log", run: func(t *testing.T, r *rig) {
		gate := newLatch(t)
		res, err := r.execute("late_thread", []any{gate.path}, 0)
		require.NoError(t, err)
		gate.release(t)
		r.logged(t, "printed after the answer")
		r.logged(t, "written after the answer")
		r.epilogue(t)
		r.fate(t, kept, res, nil)
	}},
	{name: "B18_RecursionError_is_a_value", command: "recurse", want: ErrPython, is: Executed, worker: kept,
		check: func(t *testing.T, r *rig, _ Result, err error) {
			require.Equal(t, "RecursionError", detail[*PythonError](t, err).Type)
		}},
	{name: "B19_C_stack_overflow_is_a_crash", run: func(t *testing.T, r *rig) {
		_, err := r.execute("overflow_c_stack", nil, 0)
		if errors.Is(err, ErrPython) { // Python 3.12 and later count C frames too
			require.Equal(t, "RecursionError", detail[*PythonError](t, err).Type)
			return
		}
		failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		require.Equal(t, syscall.SIGSEGV, detail[*ExitError](t, err).Signal)
	}},
	{name: "B20_MemoryError_is_a_value", command: "out_of_memory", want: ErrPython, is: Executed, worker: kept,
		check: func(t *testing.T, r *rig, _ Result, err error) {
			require.Equal(t, "MemoryError", detail[*PythonError](t, err).Type)
		}},
	{name: "B21_worker_that_ignores_SIGTERM_ends_all_the_same", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Size = 1
		p := r.own(t, cfg)
		executed(t, p, "ignore_sigterm", nil)
		_, err := p.ExecuteAnonymous(context.Background(), "loop", nil, WithTimeout(hangTime))
		e := failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
		gone(t, e.Context.PID)
		executed(t, p, "ignore_sigterm", nil)
		end := r.block(t, context.Background()).end
		ctx, cancel := context.WithTimeout(context.Background(), hangTime)
		defer cancel()
		begun := time.Now()
		err = p.Shutdown(ctx)
		require.ErrorIs(t, err, ErrOperationTimeout)
		within(t, begun, hangTime+time.Second)
		failsWith(t, ended(t, end).err, ErrPoolClosed, MaybeExecuted)
	}},
	{name: "B22_state_that_a_handler_leaves_stays_in_its_worker", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Size = 1
		p := r.own(t, cfg)
		dir := t.TempDir()
		executed(t, p, "mutate_process", []any{dir})
		where := decoded[[]any](t, executed(t, p, "cwd", nil))
		require.Equal(t, []any{dir, "1"}, where)
		killWorkers(p)
		eventually(t, "a new worker serves", func() bool { return serving(p) && p.Stats().WorkersStarted == 2 })
		require.Nil(t, decoded[[]any](t, executed(t, p, "cwd", nil))[1])
	}},
	{name: "B23_worker_over_MaxRSS_is_replaced_between_calls", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Size, cfg.MaxRSS = 1, 150<<20
		p := r.own(t, cfg)
		first := p.Workers()[0].ID
		executed(t, p, "leak", []any{200})
		eventually(t, "the worker is recycled", func() bool { return p.Stats().Recycled == 1 && serving(p) })
		require.NotEqual(t, first, executed(t, p, "pid", nil).Worker())
		require.Zero(t, p.Stats().Failed)
	}},
	{name: "B23b_worker_over_MaxRSS_straight_after_its_start_is_reported_once", run: func(t *testing.T, r *rig) {
		logs := &logBuffer{}
		cfg := r.config(t)
		cfg.MaxRSS, cfg.Logger = 1<<20, logs.logger(slog.LevelInfo)
		p := r.own(t, cfg)
		eventually(t, "it is reported", func() bool { return strings.Contains(logs.String(), "MaxRSS is less than") })
		for range 3 {
			p.sup.kick()
			executed(t, p, "echo", []any{1})
		}
		w := p.sup.workers()[0]
		eventually(t, "its memory has been looked at", func() bool { return w.rss.Load() > cfg.MaxRSS })
		require.EqualValues(t, 2, p.Stats().WorkersStarted)
		require.Zero(t, p.Stats().Recycled)
		require.Equal(t, 1, strings.Count(logs.String(), "MaxRSS is less than"), "for both workers together")
	}},
	{name: "B23c_recycling_and_reloading_fail_no_call_and_always_leave_Size_workers", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.MaxCalls, cfg.MaxLifetime = 40, 500*time.Millisecond
		p := r.own(t, cfg)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					if res, err := p.ExecuteAnonymous(context.Background(), "echo", []any{n*10 + i}); err != nil || string(res.Raw()) != strconv.Itoa(n*10+i) {
						t.Errorf("%s %v", res.Raw(), err)
						return
					}
				}
			})
		}
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if st := p.Stats(); st.Idle+st.Busy < cfg.Size {
					t.Errorf("%d workers are ready", st.Idle+st.Busy)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
		for range 2 {
			before := p.sup.workers()
			if err := p.Reload(context.Background()); err != nil {
				t.Error(err)
			}
			for _, w := range before {
				<-w.proc.Exited()
			}
		}
		close(stop)
		wg.Wait()
		st := p.Stats()
		require.Zero(t, st.Failed)
		require.Greater(t, st.Recycled, int64(3))
	}},
	{name: "B24_multiprocessing_works_in_a_handler", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Size = 1
		p := r.own(t, cfg)
		for _, method := range []string{"fork", "spawn"} {
			require.JSONEq(t, "[2,4,6]", string(executed(t, p, "multiprocess", []any{method}).Raw()))
		}
	}},
	{name: "B25_stdin_is_empty", command: "read_stdin", worker: kept,
		check: func(t *testing.T, r *rig, res Result, err error) { require.JSONEq(t, `["",""]`, string(res.Raw())) }},
}

// stackOf checks that a hang's error shows the function that hung.
func stackOf(function string) func(*testing.T, *rig, Result, error) {
	return func(t *testing.T, r *rig, _ Result, err error) {
		hang := detail[*HangError](t, err)
		require.True(t, hang.Killed)
		require.Contains(t, hang.Stacks, "in "+function+"\n", hang.NoStacks)
		require.Contains(t, err.Error(), "in "+function)
		require.NotErrorIs(t, err, context.DeadlineExceeded, "the pool's own timeout is not the caller's context")
	}
}

// immortals are processes whose end cannot be seen: what a SIGKILL does to a process in
// uninterruptible sleep.
type immortals struct {
	nth  int  // of the fleet: that one is immortal; 0: the first
	deaf bool // it holds its channel open, too
	all  []*immortal
}

type immortal struct {
	*fakeProcess
	deaf   bool
	reaped chan struct{}
}

func (i *immortal) Kill() {
	if !i.deaf {
		i.fakeProcess.Kill()
	}
}

func (i *immortal) Exited() <-chan struct{} { return i.reaped }

// spawn makes one process of the fleet immortal.
func (m *immortals) spawn(f *fleet) proc.SpawnFunc {
	return func(ctx context.Context, sp *proc.Spawner, spec proc.Spec) (proc.Process, error) {
		p, err := f.spawn(ctx, sp, spec)
		if err != nil || p.(*fakeProcess).n != max(m.nth, 1) {
			return p, err
		}
		i := &immortal{p.(*fakeProcess), m.deaf, make(chan struct{})}
		m.all = append(m.all, i)
		return i, nil
	}
}

// release lets them be reaped at last.
func (m *immortals) release() {
	for _, i := range m.all {
		i.fakeProcess.Kill()
		close(i.reaped)
	}
}

// What sleeps in the kernel may do so for as long as a mount is dead: nobody waits for it once it is
// given up.
func TestReloadAndResizeWaitForNoProcessThatIsGivenUp(t *testing.T) {
	for _, what := range []string{"Reload", "Resize"} {
		for _, when := range []string{"before", "meanwhile"} {
			t.Run(what+", "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := &fleet{script: func(p *fakeProcess, req fakeRequest) bool { return req.Command == "hang" && p.hang() }}
					stuck := &immortals{nth: 3}
					cfg := f.config(2)
					cfg.spawn = stuck.spawn(f)
					p, err := New(t.Context(), cfg)
					require.NoError(t, err)
					defer stuck.release()
					defer p.Close()
					require.NoError(t, p.Resize(t.Context(), 3))
					synctest.Wait()
					_, err = p.ExecuteAnonymous(context.Background(), "hang", nil, WithTimeout(time.Second))
					failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
					require.True(t, isClosed(f.nth(3).done), "the newest served")
					if when == "before" {
						time.Sleep(2 * reapWait)
						require.Equal(t, 1, p.Stats().Unreapable)
					}
					begun := time.Now()
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					defer cancel()
					if what == "Reload" {
						require.NoError(t, p.Reload(ctx))
					} else {
						require.NoError(t, p.Resize(ctx, 2))
						synctest.Wait()
						p.sup.checkout.mu.Lock()
						require.Equal(t, p.sup.roomFor(2), p.sup.checkout.room)
						p.sup.checkout.mu.Unlock()
					}
					require.LessOrEqual(t, time.Since(begun), reapWait)
					require.Equal(t, 1, p.Stats().Unreapable)
				})
			})
		}
	}
}

// Nothing is started while as many processes as Size cannot be ended: whoever waits for a new one is
// told so. A slot is free, also for a pool that has one worker go before the next, whose process is
// given up.
func TestReloadAndResizeTellOfProcessesThatCannotBeEnded(t *testing.T) {
	for _, size := range []int{1, 2} {
		for _, what := range []string{"Reload", "Resize"} {
			t.Run(fmt.Sprint(what, size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := &fleet{script: func(p *fakeProcess, req fakeRequest) bool { return req.Command == "hang" && p.hang() }}
					stuck := &immortals{nth: size}
					cfg := f.config(size)
					cfg.BreakBeforeMake, cfg.spawn = true, stuck.spawn(f)
					p, err := New(t.Context(), cfg)
					require.NoError(t, err)
					defer stuck.release()
					defer p.Close()
					for _, out := range inBackground(size, func(int) (Result, error) {
						return p.ExecuteAnonymous(context.Background(), "hang", nil, WithTimeout(time.Second))
					})() {
						failsWith(t, out.err, ErrOperationTimeout, MaybeExecuted)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					defer cancel()
					if what == "Reload" {
						err = p.Reload(ctx)
					} else {
						err = p.Resize(ctx, size)
					}
					if size > 1 {
						require.NoError(t, err)
						require.Equal(t, size, p.Stats().Idle)
						return
					}
					failsWith(t, err, ErrWorkerStart, NotExecuted)
					require.ErrorContains(t, err, "do not end")
					require.NoError(t, p.Resize(ctx, 2), "one more than cannot be ended")
				})
			})
		}
	}
}

// procFile reads a file of /proc.
func procFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// TestFaultDiagnosis prints a hang's error and a crash's in full: each must tell an operator what
// to mend.
func TestFaultDiagnosis(t *testing.T) {
	p := newPool(t, Config{Script: workerScript(t, "faults.py"), Python: realPython(), Size: 1, Overflow: -1, Logger: quiet(), KillGrace: 2 * time.Second})
	for range 3 {
		executed(t, p, "echo", nil)
	}
	executed(t, p, "print_all", []any{"before the end"})
	_, err := p.ExecuteInSession(context.Background(), "user-42", "c_loop", nil, WithTimeout(stackTime))
	e := failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
	hang := detail[*HangError](t, err)
	t.Logf("a hang:\n%v\ncontext: %+v\ndelivery: %v, killed: %v\nstacks:\n%s", err, e.Context, e.Delivery, hang.Killed, hang.Stacks)
	for _, want := range []string{"c_loop", "faults.py", "line ", "within "} {
		require.Contains(t, err.Error(), want)
	}
	require.Equal(t, "user-42", e.Context.Session)
	require.NotZero(t, e.Context.PID)
	require.NotZero(t, e.Context.RequestID)

	executed(t, p, "echo", nil)
	executed(t, p, "print_all", []any{"last words"})
	_, err = p.ExecuteAnonymous(context.Background(), "segfault", nil)
	e = failsWith(t, err, ErrWorkerExited, MaybeExecuted)
	exit := detail[*ExitError](t, err)
	t.Logf("a crash:\n%v\ncontext: %+v\ndelivery: %v, code %d, signal %v, out of memory: %v, up %v, calls served: %d\nstacks:\n%s\nthe end of stderr:\n%s",
		err, e.Context, e.Delivery, exit.Code, exit.Signal, exit.OOM, exit.Uptime.Round(time.Millisecond), exit.Calls, exit.Stacks, exit.Stderr[max(0, len(exit.Stderr)-1000):])
	require.EqualValues(t, 2, exit.Calls)
	require.Positive(t, exit.Uptime)
	require.Equal(t, -1, exit.Code)
	require.Contains(t, exit.Stderr, "last words-print")
	require.Contains(t, exit.Stacks, "in segfault")
	require.Contains(t, err.Error(), "SIGSEGV")
}
