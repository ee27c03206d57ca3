//go:build linux

package pypool

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Group N: what goes wrong around slots, Resize, Stacks, and workers that ask to be replaced.

func (r *rig) slots(t *testing.T, size int, change func(*Config)) *Pool {
	t.Helper()
	cfg := r.config(t)
	cfg.Script, cfg.Size = workerScript(t, "slots.py"), size
	if change != nil {
		change(&cfg)
	}
	return r.own(t, cfg)
}

func (r *rig) retiring(t *testing.T, size int, change func(*Config)) (*Pool, folder) {
	t.Helper()
	at := folder{t, t.TempDir()}
	cfg := r.config(t)
	cfg.Script, cfg.Size, cfg.HealthCheckInterval = workerScript(t, "health.py"), size, -1
	cfg.ExtraEnv = append(cfg.ExtraEnv, "PLACE="+at.dir)
	if change != nil {
		change(&cfg)
	}
	return r.own(t, cfg), at
}

// replacedBeside kills the worker in slot 0 while WorkerEnv does what it should not.
func replacedBeside(name string, wrong func(), want string) fault {
	return fault{name: name, run: func(t *testing.T, r *rig) {
		var broken atomic.Bool
		p := r.slots(t, 2, func(c *Config) {
			c.StartTimeout = 5 * time.Second
			c.WorkerEnv = func(int) []string {
				if broken.Load() {
					wrong()
				}
				return nil
			}
		})
		broken.Store(true)
		kill(t, inSlot(t, p, 0).PID)
		eventually(t, "the start has failed, and the pool can serve", func() bool {
			h, err := p.HealthCheck(t.Context())
			return err == nil && h.LastError != nil && strings.Contains(h.LastError.Error(), want)
		})
		executed(t, p, "work", nil)
		broken.Store(false)
	}}
}

var slotFaults = []fault{
	replacedBeside("N1_a_panic_of_WorkerEnv_fails_one_start", func() { panic("no device") }, "Config.WorkerEnv(0) panicked: no device"),
	replacedBeside("N1b_Goexit_in_WorkerEnv_fails_one_start", runtime.Goexit, "Config.WorkerEnv(0) called runtime.Goexit"),
	{name: "N2_a_WorkerEnv_that_does_not_return_holds_up_neither_calls_nor_Close", run: func(t *testing.T, r *rig) {
		var hangs atomic.Bool
		release, entered := make(chan struct{}), make(chan struct{}, 100)
		p := r.slots(t, 2, func(c *Config) {
			c.WorkerEnv = func(int) []string {
				if hangs.Load() {
					entered <- struct{}{}
					<-release
				}
				return nil
			}
		})
		hangs.Store(true)
		kill(t, inSlot(t, p, 1).PID)
		<-entered
		executed(t, p, "work", nil)
		require.NoError(t, p.Close())
		close(release)
	}},
	{name: "N3_with_BreakBeforeMake_a_stopped_process_keeps_its_device_until_it_is_gone", run: func(t *testing.T, r *rig) {
		dir := t.TempDir()
		p := r.slots(t, 2, func(c *Config) {
			c.BreakBeforeMake = true
			c.WorkerEnv = func(slot int) []string { return []string{"DEVICE=" + filepath.Join(dir, strconv.Itoa(slot))} }
		})
		require.NoError(t, syscall.Kill(inSlot(t, p, 1).PID, syscall.SIGSTOP))
		require.NoError(t, p.Reload(t.Context()), "no start fails because the device is taken")
		require.Equal(t, []int{0, 1}, slotsOf(p))
	}},
	{name: "N4_Resize_ends_a_stopped_worker", run: func(t *testing.T, r *rig) {
		p := r.slots(t, 3, nil)
		require.NoError(t, syscall.Kill(inSlot(t, p, 2).PID, syscall.SIGSTOP))
		require.NoError(t, p.Resize(t.Context(), 2))
		hasSize(t, p, 2)
	}},
	{name: "N5_all_workers_killed_while_the_pool_is_resized", run: func(t *testing.T, r *rig) {
		p := r.slots(t, 2, nil)
		done := make(chan error, 1)
		go func() { done <- p.Resize(context.Background(), 4) }() // joined by done
		kill(t, pids(p)...)
		require.NoError(t, <-done)
		killed(pids(p)...)
		require.NoError(t, p.Resize(t.Context(), 1))
		require.Equal(t, 1, p.Stats().Size)
	}},
	{name: "N6_a_worker_that_dies_while_its_stacks_are_asked_for", run: func(t *testing.T, r *rig) {
		p := r.slots(t, 2, nil)
		stop := make(chan struct{})
		asked := inBackground(2, func(i int) (Result, error) {
			for !isClosed(stop) {
				for _, w := range p.Workers() {
					_, err := p.Stacks(context.Background(), w.ID)
					if err != nil && !errors.Is(err, ErrInvalidArguments) && !errors.Is(err, ErrOperationTimeout) {
						return Result{}, err
					}
				}
			}
			return Result{}, nil
		})
		for range 3 {
			killIn(t, p, 0)
		}
		close(stop)
		for _, out := range asked() {
			require.NoError(t, out.err)
		}
	}},
	{name: "N7_all_workers_ask_to_be_replaced_at_once", run: func(t *testing.T, r *rig) {
		p, at := r.retiring(t, 2, nil)
		before := pids(p)
		at.put("hold starts")
		at.put("device lost")
		_, err := p.HealthCheck(t.Context())
		require.ErrorIs(t, err, ErrWorkerStart)
		at.take("device lost")
		require.EqualValues(t, 2, p.Stats().Retired)
		for range 50 {
			executed(t, p, "pid", nil) // there is nobody else
		}
		at.take("hold starts")
		eventually(t, "none of them is left", func() bool {
			now := pids(p)
			return serving(p) && now[0] != before[0] && now[1] != before[1]
		})
	}},
	{name: "N8_a_worker_that_has_asked_to_be_replaced_dies_first", run: func(t *testing.T, r *rig) {
		p, at := r.retiring(t, 1, nil)
		at.put("hold starts")
		executed(t, p, "leave", nil)
		eventually(t, "the replacement is being started", func() bool { return at.starts() == 2 })
		kill(t, inSlot(t, p, 0).PID)
		call := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(context.Background(), "pid", nil) })
		at.take("hold starts")
		require.NoError(t, call()[0].err)
	}},
	{name: "N9_the_replacement_of_a_worker_that_asks_does_not_start", run: func(t *testing.T, r *rig) {
		p, at := r.retiring(t, 1, func(c *Config) { c.MaxRestarts = 1000 })
		at.put("device lost")
		before := decoded[[]any](t, executed(t, p, "leave", nil))[0]
		eventually(t, "some have failed", func() bool { return at.starts() > 3 })
		require.EqualValues(t, before, decoded[int](t, executed(t, p, "pid", nil)), "the old one serves on")
		at.take("device lost")
	}},
	violates("N10_a_reason_that_is_no_text", "bad reason", "bad value of the envelope key"),
	violates("N10b_a_request_for_a_replacement_that_names_another_call", "other reason", "an answer to request"),
	{name: "N11_a_handler_that_writes_the_request_for_a_replacement_itself", run: func(t *testing.T, r *rig) {
		events := &eventLog{}
		cfg := r.fakeConfig(t, "")
		cfg.Observer = &Observer{Event: events.add}
		p := r.own(t, cfg)
		before := pids(p)[0]
		executed(t, p, "many reasons", nil)
		eventually(t, "it is replaced", func() bool { return serving(p) && pids(p)[0] != before })
		require.Equal(t, "the first", toldOf(t, events, EventWorkerRetired, 1)[0].Cause)
	}},
}
