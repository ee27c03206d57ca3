package pypool

import (
	"cmp"
	"context"
	"errors"
	"os"
	"time"

	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// What becomes of a call whose caller has gone: its context has ended, or its time is over. The
// caller has its error at once; the runtime is asked to stop what runs, and killed only if that
// takes longer than CancelGrace.

// The runtime is asked again after so long, then after twice as long, and so on: it cannot always
// be interrupted.
const (
	cancelAgain   = time.Millisecond
	cancelSeldom  = 50 * time.Millisecond
	minCancel     = time.Second // what CancelGrace, when it is 0, comes to at least
	endlessShield = 1000 * time.Hour
)

// cancels reports whether a call on this worker can be stopped without the worker.
func (w *worker) cancels() bool {
	return w.cancelable && w.env.cfg.CancelGrace >= 0 && !isClosed(w.env.killing)
}

// cancelGrace is how long a call may take to stop, but for one of deafCommands. To wait for as long
// as the worker's replacement would take to start costs at most twice what the better choice would
// have. One that is forked does not wait for its server's import.
func (w *worker) cancelGrace() time.Duration {
	begun := w.started
	if !w.forked.IsZero() {
		begun = w.forked
	}
	return cmp.Or(w.env.cfg.CancelGrace, max(w.readyAt.Sub(begun), minCancel))
}

// leave is the error of a caller who goes while its call runs on.
func (w *worker) leave(ctx context.Context, j *job) *Error {
	hang := &HangError{}
	if !errors.Is(ctx.Err(), context.Canceled) { // who cancels does not ask where the time went
		hang.Stacks, hang.NoStacks = w.stacks(w.env.cfg.KillGrace / 2)
	}
	return w.leftError(ctx, j, hang)
}

// leftError is leave's, with what was seen of the handler.
func (w *worker) leftError(ctx context.Context, j *job, hang *HangError) *Error {
	var e *Error
	if ctx.Err() != nil {
		e = contextError(ctx, MaybeExecuted, hang)
	} else {
		limit := cmp.Or(j.timeout, time.Since(j.given)).Round(time.Millisecond)
		e = timeoutError(TypeOperationTimeout, MaybeExecuted, "no answer within "+limit.String(), hang, nil)
	}
	return w.withContext(e, j, j.given)
}

// stoppedByCancel reports whether the handler has ended in the exception that was to stop it.
func (e *Error) stoppedByCancel() bool {
	var py *PythonError
	return e.Type == TypePython && errors.As(e.Err, &py) && (py.Type == "Canceled" || py.Type == "CancelledError")
}

// windUp is an exchange whose caller has gone, until the worker is given back. It runs on a
// goroutine that the pool's close joins.
type windUp struct {
	p        *Pool
	res      *resource
	id       uint64   // its final frame is the end
	rest     []uint64 // of a batch: its calls whose final frames are still to come; id is the highest of them all
	info     CallInfo
	grace    time.Duration // 0: what CancelGrace says
	patience time.Time     // code that is not to be interrupted has its grace from then on
	stream   bool          // the generator is told on the pipe, too, for when it waits between two items
	told     bool          // it has been
	strike   bool          // what runs is to be interrupted
	why      string        // it is killed if it does not stop
	admitted admission
	charge   *Error // what the circuit is charged with in that case; nil: nothing
}

// windUp is the end of the call, which its caller has left with err.
func (p *Pool) windUp(ctx context.Context, c *call, res *resource, err *Error) *windUp {
	w := res.Value()
	w.canceling.Store(true)
	u := &windUp{
		p: p, res: res, id: c.id, info: c.info, strike: true, admitted: c.admitted,
		why: "its call hung: " + err.Message,
	}
	if ctx.Err() != nil {
		u.why = "the context of its call ended"
	}
	u.patience = p.cfg.patience(c.given)
	if c.evidence(ctx, &p.cfg, err) == lostWorker {
		u.charge = err.clone()
	}
	return u
}

// patience is when a call that began then has had all the time that the pool gives.
func (c *Config) patience(given time.Time) time.Time {
	return given.Add(cmp.Or(c.OperationTimeout, endlessShield))
}

func (u *windUp) run() {
	w := u.res.Value()
	shown := noEvidence // who leaves says nothing of the command
	if err := u.stop(); err != nil {
		w.x.doubt(err)
		if isClosed(u.p.killing) {
			w.kill(poolClosed)
		} else {
			w.kill(u.why)
			if u.charge != nil {
				shown = lostWorker
			}
		}
	}
	u.admitted.end(shown, u.charge)
	w.canceling.Store(false)
	w.freed = time.Now()
	u.p.spin.End()
	u.p.giveBack(u.res, w.freed)
}

// stop asks the runtime to stop, and reads to the final frame, which reaches nobody.
func (u *windUp) stop() error {
	w := u.res.Value()
	if err := w.x.inDoubt(); err != nil {
		return err
	}
	w.x.leaveCalls()
	defer w.proc.Cancel(0)
	cfg, command := &u.p.cfg, u.info.breakerKey()
	whole, learns := true, u.grace == 0 && cfg.CancelGrace == 0
	if u.grace == 0 {
		u.grace = w.cancelGrace()
	}
	if learns {
		u.grace, whole = u.p.deaf.grace(command, u.grace, cfg.KillGrace)
	}
	err := u.stopWithin(u.grace)
	switch {
	case !learns:
	case err == nil:
		u.p.deaf.stopped(command)
	case whole && errors.Is(err, os.ErrDeadlineExceeded) && w.x.inDoubt() == nil && !isClosed(u.p.killing):
		u.p.deaf.outlived(command)
	}
	return err
}

// stopWithin is stop, for at most so long.
func (u *windUp) stopWithin(grace time.Duration) error {
	w := u.res.Value()
	end := time.Now().Add(grace)
	for pause := cancelAgain; ; pause = min(2*pause, cancelSeldom) {
		if u.strike {
			w.proc.Cancel(u.id)
		}
		w.x.tellCalls()
		now := time.Now()
		err := u.drain(now.Add(min(pause, end.Sub(now))))
		if !errors.Is(err, os.ErrDeadlineExceeded) || w.x.inDoubt() != nil || isClosed(u.p.killing) {
			return err
		}
		if w.proc.Shielded() {
			end = later(end, u.patience.Add(grace))
		}
		if !time.Now().Before(end) {
			return err
		}
	}
}

// drain reads until the final frame, or the deadline.
func (u *windUp) drain(deadline time.Time) error {
	w := u.res.Value()
	w.x.begin(context.Background(), deadline, spin.Park)
	defer w.x.end()
	if u.stream && !u.told {
		u.told = true
		if err := w.x.cancel(u.id, u.grace); err != nil {
			return err
		}
		w.x.extend(deadline)
	}
	if u.rest == nil {
		return u.finish(u.id)
	}
	for len(u.rest) > 0 {
		if err := u.finish(u.rest[0]); err != nil {
			return err
		}
	}
	return nil
}

// finish reads the final frame of one call.
func (u *windUp) finish(id uint64) error {
	w := u.res.Value()
	f := wire.Frame{Kind: wire.KindItem}
	for f.Kind == wire.KindItem {
		if err := w.x.receive(id, &f); err != nil {
			return err
		}
	}
	u.rest = u.rest[min(1, len(u.rest)):]
	w.calls.Add(1)
	if f.Kind == wire.KindError { // as a rule, since it was interrupted
		w.errs.Add(1)
		w.answered(&job{id: id, info: u.info}, &f, time.Now())
	}
	return w.x.inDoubt()
}
