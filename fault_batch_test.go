//go:build linux

package pypool

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
)

// batchOwn is a pool of one worker for a row about batches.
func (r *rig) batchOwn(t *testing.T, change func(*Config)) *Pool {
	t.Helper()
	cfg := r.config(t)
	cfg.Script, cfg.Size, cfg.CancelGrace = workerScript(t, "batch.py"), 1, 20*time.Second
	if change != nil {
		change(&cfg)
	}
	return r.own(t, cfg)
}

// allFail expects one error of the kind for each of three calls, each naming its own request.
func allFail(t *testing.T, outcomes []outcome, sentinel error, delivery Delivery) {
	t.Helper()
	ids := map[uint64]bool{}
	for _, o := range outcomes {
		e := failure(t, o.err, sentinel)
		require.Equal(t, delivery, e.Delivery)
		ids[e.Context.RequestID] = true
	}
	require.Len(t, ids, len(outcomes))
}

var batchFaults = []fault{
	{name: "J1_killed_in_the_handler_of_a_batch", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		c, _, _, _ := holding(t, p, "hold")
		require.NoError(t, syscall.Kill(pids(p)[0], syscall.SIGKILL))
		allFail(t, c.outcomes(), ErrWorkerExited, MaybeExecuted)
	}},
	{name: "J1b_killed_when_it_has_answered_some_of_a_batch", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		out := together(t, p, "half", []any{0}, []any{1}, []any{2})
		require.NoError(t, out[0].err)
		require.Len(t, decoded[string](t, out[0].res), 100_000)
		allFail(t, out[1:], ErrWorkerExited, MaybeExecuted)
	}},
	{name: "J1c_killed_before_it_has_read_a_batch", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		pid := pids(p)[0]
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		c := &crowd{t: t, p: p}
		for i := range 7 {
			c.command("patient", []any{i})
		}
		last := make(chan outcome, 1)
		c.done = append(c.done, last)
		go func() { // the batch is full: it is sent to the stopped worker
			res, err := p.ExecuteAnonymous(context.Background(), "patient", []any{7})
			last <- outcome{res, err}
		}()
		eventually(t, "the batch is sent", func() bool { return p.Stats().Batches.Max == 8 })
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		for _, o := range c.outcomes() {
			require.NoError(t, o.err, "nobody has read it: it runs elsewhere")
			require.Equal(t, 8, decoded[int](t, o.res))
		}
		require.EqualValues(t, 2, p.Stats().Batches.Count)
	}},
	{name: "J2_a_batch_closes_the_channel", run: func(t *testing.T, r *rig) {
		out := together(t, r.batchOwn(t, nil), "die", []any{0, "close"}, []any{1, "close"}, []any{2, "close"})
		want := ErrProtocol
		if errors.Is(out[0].err, ErrWorkerExited) { // the thread that watches the channel had not begun to: it says so
			require.ErrorContains(t, out[0].err, "its channel to the host was closed")
			want = ErrWorkerExited
		}
		allFail(t, out, want, MaybeExecuted)
	}},
	{name: "J3_a_worker_stops_in_a_batch", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, func(c *Config) { c.OperationTimeout, c.CancelGrace = 300*time.Millisecond, 100*time.Millisecond })
		begun := time.Now()
		out := together(t, p, "die", []any{0, "stop"}, []any{1, "stop"}, []any{2, "stop"})
		require.Less(t, time.Since(begun), 15*time.Second)
		allFail(t, out, ErrOperationTimeout, MaybeExecuted)
	}},
	{name: "J3b_a_worker_stops_in_a_batch_and_is_killed_at_once", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, func(c *Config) { c.OperationTimeout, c.CancelGrace = 300*time.Millisecond, -1 })
		allFail(t, together(t, p, "die", []any{0, "stop"}, []any{1, "stop"}, []any{2, "stop"}), ErrOperationTimeout, MaybeExecuted)
	}},
	{name: "J4_what_a_batch_gives_costs_no_worker", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		before := pids(p)
		allFail(t, together(t, p, "short", []any{1}, []any{2}, []any{3}), ErrInvalidResult, Executed)
		allFail(t, together(t, p, "boom", []any{1}, []any{2}, []any{3}), ErrPython, Executed)
		out := together(t, p, "picky", []any{-1}, []any{2}, []any{0}, args{"q": 1})
		require.ErrorIs(t, out[0].err, ErrPython)
		require.NoError(t, out[1].err)
		require.ErrorIs(t, out[2].err, ErrInvalidResult)
		require.ErrorIs(t, out[3].err, ErrInvalidArguments)
		require.Equal(t, before, pids(p))
	}},
	{name: "J5_one_leaves_a_batch", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		before := pids(p)
		c, cancel, _, gate := holding(t, p, "hold")
		cancel[0]()
		allFail(t, []outcome{<-c.done[0]}, ErrCanceled, MaybeExecuted)
		gate.open()
		for _, done := range c.done[1:] {
			require.NoError(t, (<-done).err)
		}
		require.Equal(t, before, pids(p))
	}},
	{name: "J5b_one_leaves_a_batch_and_then_its_worker_dies", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		c, cancel, _, _ := holding(t, p, "hold")
		cancel[2]()
		allFail(t, []outcome{<-c.done[2]}, ErrCanceled, MaybeExecuted)
		require.NoError(t, syscall.Kill(pids(p)[0], syscall.SIGKILL))
		allFail(t, []outcome{<-c.done[0], <-c.done[1]}, ErrWorkerExited, MaybeExecuted)
	}},
	{name: "J6_all_leave_a_batch", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		before := pids(p)
		c, cancel, n, _ := holding(t, p, "hold")
		for _, stop := range cancel {
			stop()
		}
		allFail(t, c.outcomes(), ErrCanceled, MaybeExecuted)
		n.await("held3", "Canceled")
		eventually(t, "it serves again", func() bool { return serving(p) })
		require.Equal(t, before, pids(p))
	}},
	{name: "J6b_all_leave_a_batch_that_does_not_stop", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, func(c *Config) { c.CancelGrace, c.OperationTimeout = 50*time.Millisecond, 300*time.Millisecond })
		before := pids(p)
		c, cancel, _, _ := holding(t, p, "stubborn")
		for _, stop := range cancel {
			stop()
		}
		allFail(t, c.outcomes(), ErrCanceled, MaybeExecuted)
		eventually(t, "it is killed and replaced", func() bool { return serving(p) && pids(p)[0] != before[0] })
	}},
	{name: "J7_a_deadline_of_one_and_the_others_go_on", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		n, gate := newNotes(t), newDoor(t)
		free := occupy(t, p)
		c := &crowd{t: t, p: p}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		c.command("hold", []any{0, n.path, gate.path})
		c.command("hold", []any{1, n.path, gate.path}, WithTimeout(50*time.Millisecond))
		c.join(func() (Result, error) { return p.ExecuteInSession(ctx, "s", "hold", []any{2, n.path, gate.path}) })
		free()
		require.ErrorIs(t, (<-c.done[1]).err, ErrOperationTimeout)
		gate.open()
		require.NoError(t, (<-c.done[0]).err)
		require.NoError(t, (<-c.done[2]).err)
	}},
	{name: "J8_a_line_that_would_be_too_long_is_cut", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, func(c *Config) { c.MaxMessageBytes = 100_000 })
		text := strings.Repeat("x", 45_000)
		var sizes []int
		for _, o := range together(t, p, "large", []any{text}, []any{text}, []any{text}) {
			require.NoError(t, o.err)
			sizes = append(sizes, decoded[int](t, o.res))
		}
		require.Equal(t, []int{2, 2, 1}, sizes)
	}},
	{name: "J9_Close_during_a_batch", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		c, _, _, _ := holding(t, p, "hold")
		require.NoError(t, p.Close())
		allFail(t, c.outcomes(), ErrPoolClosed, MaybeExecuted)
	}},
	{name: "J9b_Close_while_a_batch_that_all_have_left_is_stopped", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		c, cancel, _, _ := holding(t, p, "stubborn")
		for _, stop := range cancel {
			stop()
		}
		allFail(t, c.outcomes(), ErrCanceled, MaybeExecuted)
		require.NoError(t, p.Close())
	}},
	{name: "J10_Shutdown_during_a_batch", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		c, _, _, gate := holding(t, p, "hold")
		done := make(chan error, 1)
		go func() { done <- p.Shutdown(context.Background()) }()
		eventually(t, "the pool is closing", func() bool { return isClosed(p.closing) })
		gate.open()
		for _, o := range c.outcomes() {
			require.NoError(t, o.err)
		}
		require.NoError(t, <-done)
	}},
	{name: "J11_a_batch_that_dies_is_one_lost_worker_to_the_circuit", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, func(c *Config) { c.Breaker = Breaker{Failures: 2, OpenFor: time.Hour} })
		allFail(t, together(t, p, "die", []any{0, "exit"}, []any{1, "exit"}, []any{2, "exit"}), ErrWorkerExited, MaybeExecuted)
		allFail(t, together(t, p, "die", []any{0, "kill"}, []any{1, "kill"}, []any{2, "kill"}), ErrWorkerExited, MaybeExecuted)
		_, err := p.ExecuteAnonymous(context.Background(), "die", []any{0, "not at all"})
		require.ErrorIs(t, err, ErrCircuitOpen, "that was the second")
	}},
	{name: "J12_a_caller_whose_context_panics_in_a_batch", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		n, gate := newNotes(t), newDoor(t)
		free := occupy(t, p)
		c := &crowd{t: t, p: p}
		ctx := &panickingContext{Context: context.Background(), done: make(chan struct{})}
		caught := make(chan any, 1)
		before := p.Stats().Waiting
		go func() {
			defer func() { caught <- recover() }()
			_, _ = p.ExecuteAnonymous(ctx, "hold", []any{0, n.path, gate.path})
		}()
		eventually(t, "it waits", func() bool { return p.Stats().Waiting == before+1 })
		c.command("hold", []any{1, n.path, gate.path})
		c.command("hold", []any{2, n.path, gate.path})
		free()
		n.await("held3")
		close(ctx.done)
		require.Equal(t, "Err of a caller's context", <-caught)
		gate.open()
		for _, o := range c.outcomes() {
			require.NoError(t, o.err)
		}
	}},
	{name: "J13_a_batch_answers_out_of_turn", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, nil)
		allFail(t, together(t, p, "forge", []any{0}, []any{1}, []any{2}), ErrProtocol, MaybeExecuted)
	}},
	{name: "J14_Reload_while_batches_run", run: func(t *testing.T, r *rig) {
		p := r.batchOwn(t, func(c *Config) { c.Size = 2 })
		stop, done := make(chan struct{}), make(chan error, 8)
		for i := range 8 {
			go func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						done <- nil
						return
					default:
					}
					got, err := Call[[]int](context.Background(), p, "sizes", []any{i*1000 + n})
					if err != nil || got[0] != i*1000+n {
						done <- err
						return
					}
				}
			}()
		}
		for range 3 {
			require.NoError(t, p.Reload(context.Background()))
		}
		close(stop)
		for range 8 {
			require.NoError(t, <-done)
		}
	}},
}

// unhurried is a process whose host comes late to its second exchange: when hurry is closed.
type unhurried struct {
	*immortal
	hurry chan struct{}
	begun atomic.Int32
}

func (u *unhurried) Spin(time.Duration, bool) {
	if u.begun.Add(1) > 1 {
		<-u.hurry
	}
}

// A batch that has its worker when the pool closes, and is not sent yet, has an outcome for each of
// its callers.
func TestABatchThatIsNotSentWhenThePoolClosesEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{script: func(p *fakeProcess, req fakeRequest) bool {
			switch req.Command {
			case "hello":
				p.reply(req.ID, `{"protocol":1,"runtime":"`+Version+`","python":"3.99.0","commands":["work"],"capabilities":["page","batch"],"batches":[{"command":"work","max_batch_size":4,"max_wait_ms":0}]}`)
				return true
			case "work":
				p.pause(time.Second)
			}
			return false
		}}
		stuck, hurry := &immortals{deaf: true}, make(chan struct{})
		cfg, spawn := f.config(1), stuck.spawn(f)
		cfg.spawn = func(ctx context.Context, sp *proc.Spawner, spec proc.Spec) (proc.Process, error) {
			p, err := spawn(ctx, sp, spec)
			if err != nil {
				return nil, err
			}
			return &unhurried{immortal: p.(*immortal), hurry: hurry}, nil
		}
		p, err := New(t.Context(), cfg)
		require.NoError(t, err)
		call := func(int) (Result, error) {
			return p.ExecuteAnonymous(context.Background(), "work", []int{1}, WithTimeout(-1))
		}
		first := inBackground(1, call)
		synctest.Wait()
		batch := inBackground(3, call)
		require.NoError(t, first()[0].err)
		synctest.Wait() // the others have become a batch, which has the worker
		closed := inBackground(1, func(int) (any, error) { return nil, p.Close() })
		synctest.Wait()
		close(hurry)
		for _, out := range batch() {
			failsWith(t, out.err, ErrPoolClosed, NotExecuted)
		}
		require.NoError(t, closed()[0].err)
		stuck.release()
	})
}
