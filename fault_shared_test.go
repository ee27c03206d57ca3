//go:build linux

package pypool

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Group L: what goes wrong on a worker that several calls share.

func (r *rig) concurrent(t *testing.T, change func(*Config)) *Pool {
	t.Helper()
	cfg := r.config(t)
	cfg.Script, cfg.Size, cfg.CancelGrace = workerScript(t, "concurrent.py"), 1, 10*time.Second
	if change != nil {
		change(&cfg)
	}
	return r.own(t, cfg)
}

// beside runs 8 calls that wait, does what goes wrong, and returns the 8 outcomes.
func (r *rig) beside(t *testing.T, p *Pool, wrong func(pid int), opts ...CallOption) []outcome {
	t.Helper()
	mark := newNotes(t)
	wait := inBackground(8, func(int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "hold", args{"mark": mark.path, "gate": "/never"}, opts...)
	})
	eventually(t, "all run", func() bool { return len(mark.read()) == 8 })
	wrong(pids(p)[0])
	return wait()
}

func allSeatsFail(t *testing.T, outs []outcome, want error, is Delivery) {
	t.Helper()
	for _, out := range outs {
		failsWith(t, out.err, want, is)
	}
}

var sharedFaults = []fault{
	{name: "L1_a_shared_worker_is_killed", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, nil)
		allSeatsFail(t, r.beside(t, p, func(pid int) { require.NoError(t, syscall.Kill(pid, syscall.SIGKILL)) }), ErrWorkerExited, MaybeExecuted)
	}},
	{name: "L1b_a_shared_worker_that_was_stopped_is_killed", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, nil)
		allSeatsFail(t, r.beside(t, p, func(pid int) {
			require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
			late := inBackground(200, func(int) (Result, error) { // what a stopped worker has not read it has not executed
				return p.ExecuteAnonymous(context.Background(), "echo", args{"value": secret}, WithTimeout(10*time.Second))
			})
			eventually(t, "the requests are written", func() bool { return p.Stats().InFlight >= 72 })
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			allWell(t, late())
		}), ErrWorkerExited, MaybeExecuted)
	}},
	{name: "L2_a_shared_worker_is_stopped", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, func(c *Config) { c.CancelGrace = 100 * time.Millisecond })
		for _, out := range r.beside(t, p, func(pid int) { require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP)) }, WithTimeout(500*time.Millisecond)) {
			failsWith(t, out.err, ErrOperationTimeout, MaybeExecuted)
		}
	}},
	{name: "L3_a_task_closes_the_channel", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, nil)
		allSeatsFail(t, r.beside(t, p, func(int) {
			_, err := p.ExecuteAnonymous(context.Background(), "dies", args{"how": "closed"})
			require.Error(t, err)
		}), ErrWorkerExited, MaybeExecuted)
	}},
	{name: "L4_a_task_exits_the_process", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, nil)
		outs := r.beside(t, p, func(int) {
			_, err := p.ExecuteAnonymous(context.Background(), "dies", args{"how": "exit"})
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		})
		allSeatsFail(t, outs, ErrWorkerExited, MaybeExecuted)
		require.Equal(t, 7, detail[*ExitError](t, outs[0].err).Code)
	}},
	{name: "L5_frames_are_forged", run: func(t *testing.T, r *rig) {
		for _, line := range []string{
			`{"id":1,"success":true,"result":1}`, `{"id":1,"item":1}`, `garbage`, `{"id":1,"stack":"x"}`, `{"id":0,"success":true,"result":null}`,
			"{\"id\":1,\"success\":true,\"result\":1}\n{\"id\":1,\"success\":true,\"result\":1}",
		} {
			p := r.concurrent(t, nil)
			_ = executed(t, p, "learn_channel", nil)
			allSeatsFail(t, r.beside(t, p, func(int) {
				_, err := p.ExecuteAnonymous(context.Background(), "forges", args{"text": line})
				failsWith(t, err, ErrProtocol, MaybeExecuted)
			}), ErrProtocol, MaybeExecuted)
		}
	}},
	{name: "L6_a_task_blocks_the_loop", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, func(c *Config) { c.CancelGrace, c.KillGrace = 100*time.Millisecond, stackGrace })
		outs := r.beside(t, p, func(int) {
			_, err := p.ExecuteAnonymous(context.Background(), "blocks", args{"mark": newNotes(t).path, "seconds": 3600}, WithTimeout(300*time.Millisecond))
			failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
			require.Contains(t, detail[*HangError](t, err).Stacks, "block_the_loop")
		}, WithTimeout(time.Second))
		for _, out := range outs {
			failsWith(t, out.err, ErrOperationTimeout, MaybeExecuted)
			require.Contains(t, detail[*HangError](t, out.err).Stacks, "block_the_loop")
		}
	}},
	{name: "L7_one_of_many_is_canceled", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, nil)
		open := sideBySide(t, p, 8, "hold")
		old := pids(p)
		leavesShared(t, p, "cleans", args{})
		allWell(t, open())
		require.Equal(t, old, pids(p))
	}},
	{name: "L7b_many_are_canceled_at_once", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, nil)
		old := pids(p)
		ctx, cancel := context.WithCancel(context.Background())
		mark := newNotes(t)
		wait := inBackground(64, func(int) (Result, error) {
			return p.ExecuteAnonymous(ctx, "hold", args{"mark": mark.path, "gate": "/never"})
		})
		eventually(t, "all run", func() bool { return len(mark.read()) == 64 })
		cancel()
		allSeatsFail(t, wait(), ErrCanceled, MaybeExecuted)
		require.Equal(t, old[0], pidOf(t, p))
	}},
	{name: "L8_a_cancellation_is_swallowed", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, func(c *Config) { c.CancelGrace = 50 * time.Millisecond })
		open := sideBySide(t, p, 8, "hold")
		old := pids(p)
		leavesShared(t, p, "swallows", args{})
		require.NotEqual(t, old[0], pidOf(t, p))
		allWell(t, open())
	}},
	{name: "L8b_a_negative_grace_kills_when_the_others_are_done", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, func(c *Config) { c.CancelGrace = -1 })
		open := sideBySide(t, p, 8, "hold")
		leavesShared(t, p, "swallows", args{})
		allWell(t, open())
		pidOf(t, p)
	}},
	{name: "L9_a_plain_call_waits_beside_64", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, nil)
		open := sideBySide(t, p, 64, "hold")
		plain := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(context.Background(), "pid", nil) })
		eventually(t, "it waits", func() bool { return p.Stats().Waiting == 1 })
		_, err := p.ExecuteAnonymous(context.Background(), "echo", args{"value": 1}, WithCheckoutTimeout(50*time.Millisecond))
		failsWith(t, err, ErrCheckoutTimeout, NotExecuted)
		allWell(t, open())
		allWell(t, plain())
	}},
	{name: "L10_a_context_ends_while_the_call_waits_for_a_seat", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, nil)
		open := sideBySide(t, p, 2, "two")
		ctx, cancel := context.WithCancel(context.Background())
		wait := inBackground(4, func(int) (Result, error) {
			return p.ExecuteAnonymous(ctx, "two", args{"mark": "/dev/null", "gate": "/"})
		})
		eventually(t, "they wait", func() bool { return p.Stats().Waiting == 4 })
		cancel()
		allSeatsFail(t, wait(), ErrCanceled, NotExecuted)
		allWell(t, open())
	}},
	{name: "L11_a_slow_stream_beside_others_is_stalled", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, nil)
		open := sideBySide(t, p, 8, "hold")
		mark := newNotes(t)
		var last error
		for _, err := range p.Stream(context.Background(), "count", args{"n": 1000, "size": 1000, "mark": mark.path}, WithStallTimeout(100*time.Millisecond)) {
			if last = err; err == nil {
				executed(t, p, "echo", args{"value": 1})
				mark.await("closed")
			}
		}
		failsWith(t, last, ErrStalled, MaybeExecuted)
		allWell(t, open())
	}},
	{name: "L12_a_context_panics", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, nil)
		open := sideBySide(t, p, 4, "hold")
		for _, method := range []string{"Done", "Err", "Deadline", "Value"} {
			func() {
				defer func() { _ = recover() }()
				ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
				defer cancel()
				_, _ = p.ExecuteAnonymous(panicky{ctx, method}, "nap", args{"seconds": 0.2})
			}()
		}
		allWell(t, open())
	}},
}

// panicky is a context one of whose methods panics.
type panicky struct {
	context.Context
	method string
}

func (c panicky) Done() <-chan struct{} { c.check("Done"); return c.Context.Done() }
func (c panicky) Err() error            { c.check("Err"); return c.Context.Err() }
func (c panicky) Value(key any) any     { c.check("Value"); return c.Context.Value(key) }
func (c panicky) Deadline() (time.Time, bool) {
	c.check("Deadline")
	return c.Context.Deadline()
}

func (c panicky) check(method string) {
	if c.method == method {
		panic(method)
	}
}
