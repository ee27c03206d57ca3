package pypool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"github.com/pypool/pypool/internal/wire"
)

// The goroutine that reads what a shared worker writes.

// run reads until the last call has ended, or the stream of frames has.
func (s *sharing) run(err error) {
	x := s.w.x
	read, drained := x.readNext, false
	var f wire.Frame
	for err == nil {
		err = x.receiveFrame(&f, read)
		if errors.Is(err, os.ErrDeadlineExceeded) && s.w.isExited() && !isClosed(s.p.killing) {
			if drained {
				err = io.EOF
				break
			}
			_ = x.t.SetDeadline(time.Time{})
			read, drained, err = x.readNow, true, nil // it is dead: what it has written is there
			continue
		}
		if err != nil {
			break
		}
		var t *seat
		if t, err = s.take(&f); t != nil && s.finish(t, &f) {
			return
		}
	}
	s.broke(err)
}

// take gives a frame to its call. A final one is returned with its seat.
func (s *sharing) take(f *wire.Frame) (*seat, error) {
	mu := &s.p.sup.checkout.mu
	mu.Lock()
	t := s.calls[f.ID]
	gone := t != nil && t.gone
	mu.Unlock()
	switch {
	case t == nil:
		return nil, s.w.x.violation(fmt.Errorf("an answer to request %d, which the worker does not have", f.ID), f.Body)
	case f.Kind == wire.KindStack:
		mu.Lock()
		wanted := t.tellStackLocked(f.Body)
		mu.Unlock()
		if !wanted {
			return nil, s.w.x.violation(errors.New("a stack that nobody asked for"), f.Body)
		}
		return nil, nil
	case f.Kind == wire.KindRetire:
		return nil, s.w.x.retire(f)
	case f.Kind == wire.KindFunction:
		return nil, t.serve(f)
	case f.Kind != wire.KindItem:
		return t, nil
	case t.items == nil:
		return nil, s.w.x.violation(errors.New("an item for a call that is no stream"), f.Body)
	}
	if gone {
		return nil, nil // what was on its way
	}
	select {
	case t.items <- s.w.x.reply(f):
		return nil, nil
	default:
		return nil, s.w.x.violation(errors.New("more items than there was credit for"), f.Body)
	}
}

// finish is the end of a call that has its final frame; true: it was the last, and the lease has
// ended.
func (s *sharing) finish(t *seat, f *wire.Frame) (last bool) {
	w, c := s.w, s.p.sup.checkout
	e := seatEnd{}
	if f.Kind == wire.KindError { // first: another may have the worker soon, which is in doubt if its runtime has failed
		e.err = w.answered(&job{id: t.id, info: t.info}, f, t.since)
	} else {
		e.rep = w.x.reply(f)
	}
	worn := false
	c.mu.Lock()
	if t.why != revokedForgone { // else its code never ran: it neither wears the worker nor proves it
		worn = w.calls.Add(1) == s.p.cfg.MaxCalls
		if f.Kind == wire.KindError {
			w.errs.Add(1)
		}
		w.current.answer(&t.info, time.Now())
	}
	delete(s.calls, t.id)
	t.untoldLocked()
	s.load[t.info.Command]--
	gone, hopeless := t.gone, false
	if last = len(s.calls) == 0; last {
		c.dropLocked(s)
	} else {
		hopeless = s.hopelessLocked()
		if s.shown == t.id {
			s.showLocked()
		}
		c.fillLocked()
	}
	c.mu.Unlock()
	switch {
	case last:
		s.over()
	case hopeless:
		s.kill()
	case worn:
		s.p.sup.kick()
	}
	if gone {
		s.settle(t)
		t.admitted.end(noEvidence, nil)
		e.gone = true
	}
	t.done <- e
	return last
}

// showLocked says that the worker has another one of its calls.
func (s *sharing) showLocked() {
	for id, t := range s.calls {
		s.shown = id
		s.w.current.begin(&t.info, t.since)
		return
	}
}

// running lists its calls, the oldest first.
func (s *sharing) running() (list []RunningCall) {
	mu := &s.p.sup.checkout.mu
	mu.Lock()
	for _, t := range s.calls {
		list = append(list, RunningCall{t.info, t.since})
	}
	mu.Unlock()
	slices.SortFunc(list, func(a, b RunningCall) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.RequestID, b.RequestID))
	})
	return list
}

// callOf is the call of that number, nil when there is none.
func (s *sharing) callOf(id uint64) *CallInfo {
	mu := &s.p.sup.checkout.mu
	mu.Lock()
	defer mu.Unlock()
	if t := s.calls[id]; t != nil {
		info := t.info
		return &info
	}
	return nil
}

// settle ends the wait for the end of a call whose caller has gone.
func (s *sharing) settle(t *seat) {
	if t.timer.Stop() {
		s.p.winding.Done()
	}
}

// over ends the lease, after the last call's final frame.
func (s *sharing) over() {
	w := s.w
	if !s.out.finish(s.p.cfg.StopGrace) {
		w.x.doubt(errors.New("it does not read"))
		w.kill("it does not read what it is told")
	}
	w.x.end()
	w.sharing.Store(nil)
	w.freed, w.took = time.Now(), 0
	s.p.giveBack(s.res, time.Time{}) // finish has told whose the last answer was
}

// interrupt has the reader, and a writer, look up.
func (s *sharing) interrupt() { s.w.x.lookUp() }

// exited has the reader take what is there, and then no longer wait: a grandchild may hold the pipe
// open.
func (s *sharing) exited() { s.interrupt() }

// broke is the end of all calls on a worker that has died, or broken the protocol.
func (s *sharing) broke(err error) {
	w, c := s.w, s.p.sup.checkout
	w.x.doubt(err)
	w.x.behind = math.MaxInt // what that proves depends on the call: see below
	base := w.failure(context.Background(), &job{}, err, time.Now())
	s.interrupt()
	s.out.finish(reapWait)
	read := s.out.written
	if unread, known := w.proc.Unread(); known && base.Type == TypeWorkerExited {
		read -= unread // nobody has read the newlines behind this one, which are the commit points
	}
	if base.Type != TypeWorkerExited && base.Delivery == NotExecuted {
		read = 0 // nothing was written
	}

	c.mu.Lock()
	seats := make([]*seat, 0, len(s.calls))
	for _, t := range s.calls {
		seats = append(seats, t)
		t.untoldLocked()
	}
	clear(s.calls)
	c.dropLocked(s)
	charged, executed := s.charged, false
	c.mu.Unlock()
	slices.SortFunc(seats, func(a, b *seat) int { return cmp.Compare(b.end, a.end) })

	for _, t := range seats { // the call that came last: who kills his worker mostly does so at once
		if t.end <= read && t.why != revokedForgone {
			executed = true
			if charged == nil && !t.gone {
				charged = t
			}
		}
	}
	if !executed && base.Type == TypeWorkerExited {
		w.env.onEndBetween(w)
	}
	guilty := s.guiltOf(seats, read, charged, base)
	w.sharing.Store(nil)
	s.p.giveBack(s.res, time.Time{})
	for _, t := range seats {
		delivery := MaybeExecuted
		if t.end > read {
			delivery = NotExecuted
		}
		if t.gone {
			s.settle(t)
			if t == charged {
				t.admitted.end(lostWorker, t.charge)
			} else {
				t.admitted.end(noEvidence, nil)
			}
		}
		e := newError(base.Type, delivery, base.Message, base.Err)
		g, blamed := guilty[t]
		e.guilt = g
		t.done <- seatEnd{err: w.withContext(e, &job{id: t.id, info: t.info}, t.given), spare: !blamed, gone: t.gone}
	}
}

// guiltOf says who is charged with a worker that is lost: charged, and beside it a call of each other
// command that was under way, newest first in seats. Nobody else is where pypool has killed the
// worker because of one call, or somebody else may have.
func (s *sharing) guiltOf(seats []*seat, read int, charged *seat, base *Error) map[*seat]guilt {
	if charged == nil {
		return nil
	}
	guilty := map[*seat]guilt{charged: guiltAlone}
	var exit *ExitError
	if s.charged != nil || errors.As(base.Err, &exit) && exit.fromOutside() {
		return guilty
	}
	breakers := s.p.sup.breakers
	first := charged.info.breakerKey()
	probes := breakers.state(first) == circuitHalfOpen
	seen := map[string]bool{first: true}
	for _, t := range seats {
		key := t.info.breakerKey()
		if t.end > read || t.why == revokedForgone || seen[key] {
			continue
		}
		guilty[charged] = guiltLikely
		if t.gone || probes && breakers.state(key) == circuitHalfOpen {
			continue // of two probes one fails: else each would fail for the other's sake, for ever
		}
		seen[key] = true
		guilty[t] = guiltBeside
	}
	return guilty
}
