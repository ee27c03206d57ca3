package pypool

import (
	"errors"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Workers that ask to be replaced: pypool.retire, retire_on and @health in Python.
//
// Such a worker stays until its replacement is ready, as one that is worn out does, and is counted
// as ready. But it serves only while no other worker is there that could: it may answer quickly,
// and wrong, and would draw all calls to itself.
//
// One that has answered nothing well before is a start that was of no use. Its slot waits before
// the next start, longer each time, and many of them in a row, with no sound worker left, open the
// pool's circuit as failing starts do.

// retirement is a worker's request to be replaced.
type retirement struct {
	reason string // one line
	by     uint64 // the request that has caused it, or the highest of a batch's; 0: none has
	calls  int64  // that had been answered by then
}

// asksToRetire takes in that the worker asks to be replaced, because of that request; 0: of none.
// What it said first counts. It runs on the goroutine that reads.
func (w *worker) asksToRetire(by uint64, reason string) {
	r := &retirement{reason: oneLine(reason), by: by, calls: w.calls.Load()}
	if w.retirement.CompareAndSwap(nil, r) && isClosed(w.ready) { // else its start fails, which says why
		w.env.onRetire(w)
	}
}

// cause is the call that has caused it, nil when none has, or none of a caller's.
func (r *retirement) cause(w *worker) *CallInfo {
	if r.by == 0 {
		return nil
	}
	if s := w.sharing.Load(); s != nil {
		return s.callOf(r.by)
	}
	info := w.current.now()
	if info != nil && info.RequestID != 0 { // else it is a batch
		info.RequestID = r.by // a Map has the worker, in the name of another of its items perhaps
	}
	return info
}

// leaves reports whether the worker should be given back soon, because it is to be replaced.
func (w *worker) leaves() bool {
	return w.retired.Load() || w.retirement.Load() != nil || w.x.inDoubt() != nil
}

// asks reports whether the worker asks to be replaced: it has said so, or will have with its next
// line, as its page says.
func (w *worker) asks() bool { return w.retirement.Load() != nil || w.proc.Retires() }

// isUnheard reports whether it asks, and has not been heard.
func (w *worker) isUnheard() bool { return w.retirement.Load() == nil && w.proc.Retires() }

// isSound reports whether the worker may serve, and does not ask to be replaced.
func (w *worker) isSound() bool { return !w.asks() && w.reusable() }

// retirementError says that the worker has asked to be replaced; nil: it has not.
func (w *worker) retirementError() *Error {
	r := w.retirement.Load()
	if r == nil {
		return nil
	}
	detail := &StartError{Stage: stageServe, Python: w.env.python.String(), Err: errors.New("it has asked to be replaced: " + r.reason), interpreter: w.env.python}
	e := newError(TypeWorkerStart, NotExecuted, "worker "+w.id+" has asked to be replaced: "+r.reason, detail)
	return w.withContext(e, &job{}, w.started)
}

// retiring adds to the error of a call that it has its worker replaced.
func (e *Error) retiring(r *retirement) {
	if e.retires == "" && e.Type != TypeInternal {
		e.retires = r.reason
		e.Message = oneLine(e.Message + "; its worker is replaced: " + r.reason)
	}
}

// --- the checkout's part ---------------------------------------------------------------------------------------------

// sparedLocked reports whether the worker is left alone because it asks to be replaced, and others
// can serve. Its page may say so at one look and not at the next, as the worker writes it.
func (c *checkout) sparedLocked(w *worker) bool { return w.asks() && c.otherSoundLocked(w) }

func (c *checkout) otherSoundLocked(but *worker) bool {
	for w := range c.members {
		if w != but && w.isSound() {
			return true
		}
	}
	return false
}

// shelveLocked puts a worker that asks to be replaced below all others. One that has not been heard
// is to be asked.
func (c *checkout) shelveLocked(res *resource) {
	if res.Value().isUnheard() {
		c.onDead()
	}
	c.idle = append(c.idle, nil)
	copy(c.idle[1:], c.idle)
	c.idle[0] = res
}

// readyLocked reports whether an idle worker can be given to a caller, the last then: those on top
// that have come to ask for a replacement while they were idle are put below the others.
func (c *checkout) readyLocked() bool {
	for range c.idle {
		last := len(c.idle) - 1
		res := c.idle[last]
		switch w := res.Value(); {
		case !c.sparedLocked(w):
			return true
		case w.retirement.Load() != nil: // those below it are to be spared, too
			return false
		}
		c.idle = c.idle[:last]
		c.shelveLocked(res)
	}
	return false
}

// --- the supervisor's part -------------------------------------------------------------------------------------------

// onRetire runs on the goroutine that reads.
func (s *supervisor) onRetire(w *worker) {
	r := w.retirement.Load()
	call := r.cause(w)
	s.retirements.Add(1)
	attrs := []slog.Attr{slog.String("worker", w.id), slog.Int("slot", w.slot), slog.Int("pid", w.proc.PID()), slog.String("cause", r.reason)}
	ev := Event{Kind: EventWorkerRetired, Worker: w.id, Slot: w.slot, PID: w.proc.PID(), Cause: r.reason}
	if call != nil {
		ev.Command, ev.Session, ev.RequestID = call.Command, call.Session, call.RequestID
		attrs = append(attrs, callAttrs(*call)...)
	}
	s.env.reporter.log(slog.LevelWarn, "a worker asks to be replaced", attrs...)
	s.event(ev)
	s.lookForDead()
}

// soundLocked counts the ready workers that have not asked to be replaced.
func (s *supervisor) soundLocked() (n int) {
	for w := range s.live {
		if w.retirement.Load() == nil && w.isReady() {
			n++
		}
	}
	return n
}

// slotDelay is how long a slot waits for its next start.
type slotDelay struct {
	wait  *backoff.ExponentialBackOff
	until time.Time
}

// bookRetirementsLocked judges those that have asked to be replaced, once the call in which they
// did has its answer.
func (s *supervisor) bookRetirementsLocked(now time.Time) {
	for w := range s.live {
		r := w.retirement.Load()
		if r == nil || w.booked || !w.isReady() || w.calls.Load() == r.calls && (w.current.now() != nil || w.sharing.Load() != nil) {
			continue
		}
		w.booked = true
		w.useless = w.calls.Load() == w.errs.Load() && now.Sub(w.readyAt) < s.cfg.RestartWindow
		if w.useless {
			s.uselessLocked(w, now)
		} else {
			s.provedLocked(w)
		}
	}
}

// provedLocked takes in that the worker was of use.
func (s *supervisor) provedLocked(w *worker) {
	delete(s.delays, w.slot)
	s.history.useless = nil
}

// delayLocked has the slot wait before its next start, longer each time.
func (s *supervisor) delayLocked(slot int, now time.Time) {
	d := s.delays[slot]
	if d == nil {
		d = &slotDelay{wait: newBackoff(s.cfg.RestartBackoff)}
		s.delays[slot] = d
	}
	d.until = now.Add(d.wait.NextBackOff())
}

// uselessLocked books a start that went well and was of no use.
func (s *supervisor) uselessLocked(w *worker, now time.Time) {
	s.delayLocked(w.slot, now)
	err := w.retirementError()
	s.history.uselessStart(err, now, s.cfg.MaxRestarts)
	if s.soundLocked() == 0 && !now.Before(s.notAgain) {
		s.notAgain = now.Add(s.idleWait.NextBackOff())
	}
	if done, refused := s.circuit.cb.Allow(); refused == nil {
		done(err)
	}
	s.publishLocked()
}

// dueLocked takes out the slots that are still to wait, and says until when the first of them is.
func (s *supervisor) dueLocked(slots []int, now time.Time) (due []int, again time.Time) {
	for _, slot := range slots {
		if d := s.delays[slot]; d != nil && now.Before(d.until) {
			if again.IsZero() || d.until.Before(again) {
				again = d.until
			}
			continue
		}
		due = append(due, slot)
	}
	return due, again
}
