package pypool

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/pypool/pypool/internal/wire"
)

// What the end of an exchange means.

// judge turns the end of a call's exchange into its outcome.
func (w *worker) judge(ctx context.Context, j *job, f *wire.Frame, err error) (reply, *Error) {
	if err != nil {
		_ = w.x.failed(err)
		return reply{}, w.failure(ctx, j, err, j.given)
	}
	w.calls.Add(1)
	if f.Kind == wire.KindError {
		w.errs.Add(1)
		return reply{}, w.answered(j, f, j.given)
	}
	return w.x.reply(f), nil
}

// failure says what an exchange that did not end in an answer means. In order: the pool is closing,
// the caller's context ended, the time is over, the process ended, the stream is broken.
func (w *worker) failure(ctx context.Context, j *job, err error, start time.Time) *Error {
	delivery := MaybeExecuted
	if isShortWrite(err) || errors.As(err, new(errUnsolicited)) {
		delivery = NotExecuted
	}
	var e *Error
	select {
	case <-w.env.killing:
		w.proc.Kill()
		e = newError(TypePoolNotAvailable, delivery, "the pool was closed during the call", nil)
		return w.withContext(e, j, start)
	default:
	}
	var violation *ProtocolError
	switch {
	case ctx.Err() != nil:
		why := "its call was canceled"
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			why = "its call hung: its context's deadline passed"
		} else if j.id == 0 { // a ping's context is the pool's
			why = poolClosed
		}
		e = contextError(ctx, delivery, w.killHung(why))
	case errors.Is(err, os.ErrDeadlineExceeded) && j.stopped:
		const left = "the loop over the stream was left, and the generator did not stop within StopGrace"
		e = timeoutError(TypeCanceled, delivery, left, w.killHung(left), nil)
	case errors.Is(err, os.ErrDeadlineExceeded):
		message := "no answer within " + cmp.Or(j.timeout, time.Since(start)).Round(time.Millisecond).String()
		why := "its call hung: " + message
		if j.id == 0 {
			why = "it did not answer a ping"
		}
		e = timeoutError(TypeOperationTimeout, delivery, message, w.killHung(why), nil)
	case errors.As(err, &violation):
		w.kill("it broke the protocol: " + violation.Reason)
		e = newError(TypeProtocol, delivery, violation.Error(), violation)
	default:
		e = w.gone(ctx, j, delivery, start)
	}
	return w.withContext(e, j, start)
}

// contextError is the error of a call whose context ended while it ran. hang is nil when nothing
// had been written.
func contextError(ctx context.Context, delivery Delivery, hang *HangError) *Error {
	cause := ctx.Err()
	if cause == nil {
		cause = context.Canceled // a context of the caller's own that says so no longer
	}
	canceled := errors.Is(cause, context.Canceled)
	if c := context.Cause(ctx); c != nil && c != cause { // no errors.Is: that calls methods of the caller's error
		cause = &pair{cause, c}
	}
	if canceled {
		return timeoutError(TypeCanceled, delivery, "canceled by the caller", hang, cause)
	}
	return timeoutError(TypeOperationTimeout, delivery, "the context's deadline passed", hang, cause)
}

func timeoutError(t ErrorType, delivery Delivery, message string, hang *HangError, cause error) *Error {
	if hang == nil {
		return newError(t, delivery, message, cause)
	}
	return newError(t, delivery, message+": "+hang.Error(), joinDetail(hang, cause))
}

// lateBy is how long who comes to a deadline waits for what another goroutine brings: where this
// machine has not run since then, that one has not come to it either. It has as long as this one is
// late.
func lateBy(deadline time.Time, cfg *Config) time.Duration {
	return min(time.Since(deadline), cfg.KillGrace/2)
}

// missedDeadline is the deadline that has ended ctx; false: ctx was canceled.
func missedDeadline(ctx context.Context) (end time.Time, missed bool) {
	end, limited := ctx.Deadline()
	return end, limited && !errors.Is(ctx.Err(), context.Canceled)
}

// poolClosed is the reason that nobody need look into.
const poolClosed = "the pool was closed"

// killHung collects the Python stacks and kills the group. No answer counts any more. It takes at
// most KillGrace. While nothing has been written there is nothing to stop: it returns nil.
func (w *worker) killHung(why string) *HangError {
	if w.x.inDoubt() == nil {
		return nil
	}
	stacks, none := w.stacks(w.env.cfg.KillGrace / 2)
	w.kill(why)
	return &HangError{Stacks: stacks, NoStacks: none, Killed: true}
}

// gone explains the end of the stream: the process has ended, or it has closed its channel and must
// be ended.
func (w *worker) gone(ctx context.Context, j *job, delivery Delivery, start time.Time) *Error {
	// End of file comes before the exit. Wait for the reason, but not beyond KillGrace after the
	// deadline.
	patience := exitWait
	if j.timeout > 0 {
		patience = min(patience, time.Until(start.Add(j.timeout))+w.env.cfg.KillGrace)
	}
	if end, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(end)+w.env.cfg.KillGrace)
	}
	if !w.awaitExit(max(patience, w.env.cfg.KillGrace, 100*time.Millisecond)) {
		ending := w.proc.Ending() // on a busy machine that takes time; asked before the kill makes it true
		if !ending {
			w.blame("it closed its channel and went on")
		}
		w.proc.Kill()
		if !ending {
			v := &ProtocolError{Reason: "the worker closed its channel and went on"}
			return newError(TypeProtocol, delivery, v.Error(), v)
		}
	}
	if unread, known := w.proc.Unread(); known && unread > w.x.behind && (j.id != w.x.called || j.id == 0) {
		delivery = NotExecuted // nobody has read the request's newline, which is the commit point
	}
	exit := w.exitError()
	if delivery == NotExecuted && w.current.now() != nil { // else onExit has seen that no call had it
		w.env.onEndBetween(w)
	}
	return newError(TypeWorkerExited, delivery, exit.Error(), exit)
}

// withContext fills in the context of an error.
func (w *worker) withContext(e *Error, j *job, start time.Time) *Error {
	e.Context = ErrorContext{
		Pool: w.env.cfg.Name, Worker: w.id, PID: w.proc.PID(), Session: j.info.Session, Command: j.info.Command,
		Program: j.info.Program, RequestID: j.id, Elapsed: time.Since(start),
	}
	e.given = start
	return e
}

// answered turns an error answer into an *Error. The worker is fine, except after a fault of its
// runtime.
func (w *worker) answered(j *job, f *wire.Frame, start time.Time) *Error {
	var we wireError
	if err := json.Unmarshal(f.Body, &we); err != nil {
		w.x.doubt(err)
		w.blame("it broke the protocol: unreadable error")
		v := &ProtocolError{Reason: "unreadable error: " + err.Error(), Sample: quoteSample(f.Body)}
		return w.withContext(newError(TypeProtocol, MaybeExecuted, v.Error(), v), j, start)
	}
	e := we.toError(j.info)
	if e.Type == TypeInternal {
		w.x.doubt(e)
		w.blame("its runtime failed")
	}
	if r := w.retirement.Load(); r != nil {
		e.stale = r.by != j.id // else it has cost the worker, and no other has
		if we.Retires || !e.stale {
			e.retiring(r)
		}
	}
	return w.withContext(e, j, start)
}
