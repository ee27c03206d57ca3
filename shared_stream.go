package pypool

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pypool/pypool/internal/foreign"
)

// stream runs the loop over a stream. Items come as far as the credit goes, so that a loop that is
// slow keeps nobody from reading.
func (t *seat) stream(ctx context.Context, c *call) (rep reply, err *Error) {
	s := t.s
	var hooks sync.WaitGroup // the two below, as long as they may run
	defer hooks.Wait()
	if watched := foreign.Watched(ctx); watched.Done() != nil {
		hooks.Add(1)
		armed := false
		defer func() {
			if !armed {
				hooks.Done()
			}
		}()
		unhook := context.AfterFunc(watched, func() { // also while the body runs
			defer hooks.Done()
			s.depart(t, c, revokedEnded, nil)
		})
		armed = true
		defer func() {
			if unhook() {
				hooks.Done()
			}
		}()
	}
	var stall *time.Timer
	limit := func() { // begins one turn of the body
		hooks.Add(1)
		if stall != nil {
			stall.Reset(c.stall)
			return
		}
		stall = time.AfterFunc(c.stall, func() {
			defer hooks.Done()
			s.depart(t, c, revokedStalled, nil)
		})
	}
	unlimit := func() {
		if stall != nil && stall.Stop() {
			hooks.Done()
		}
	}
	defer unlimit()
	var over <-chan time.Time
	var timer *time.Timer
	if c.timeout > 0 {
		timer = time.NewTimer(c.timeout)
		defer timer.Stop()
		over = timer.C
	}
	end, late := time.Now().Add(c.timeout), false
	taken := 0
	for {
		var item reply
		select {
		case item = <-t.items:
		default:
			if t.last != nil {
				if !t.last.gone {
					return t.outcome(c, *t.last)
				}
				return t.taken(ctx, c)
			}
			select {
			case item = <-t.items:
			case e := <-t.done:
				t.last = &e
				continue
			case <-c.leaving:
				return t.leave(ctx, c, false)
			case <-over:
				switch {
				case len(t.items) > 0: // in the same instant
				case !late:
					late = true
					timer.Reset(lateBy(end, &s.p.cfg))
				default:
					return t.leave(ctx, c, false)
				}
				continue
			}
		}
		if c.leaving != nil && isClosed(c.leaving) {
			return t.leave(ctx, c, true)
		}
		t.turn = time.Now()
		if c.stall > 0 {
			limit()
		}
		c.stopped = !c.item(item, t.turn)
		unlimit()
		if t.lost() == revokedStalled {
			return t.taken(ctx, c)
		}
		if c.stopped {
			return t.stop(c)
		}
		if taken++; taken == streamCredit/2 && t.last == nil {
			s.out.credit(t, taken)
			taken = 0
		}
		if timer != nil {
			timer.Reset(c.timeout)
			end, late = time.Now().Add(c.timeout), false
		}
	}
}

// taken is the error of a loop whose stream was stopped behind its back.
func (t *seat) taken(ctx context.Context, c *call) (reply, *Error) {
	c.detached = true
	if t.lost() != revokedStalled {
		return reply{}, t.s.w.leftError(ctx, &c.job, &HangError{})
	}
	took := time.Since(t.turn).Round(time.Millisecond)
	e := newError(TypeStreamStalled, MaybeExecuted, fmt.Sprintf("the loop's body took %v for one item, and the stream was stopped after StallTimeout, %v: "+
		"read faster, buffer the items, or raise it", took, c.stall), nil)
	return reply{}, t.s.w.withContext(e, &c.job, c.given)
}

// lost is why the stream was taken from the loop, if it was.
func (t *seat) lost() revocation {
	mu := &t.s.p.sup.checkout.mu
	mu.Lock()
	defer mu.Unlock()
	return t.why
}

// stop ends a stream whose loop was left: it returns when the generator is closed, or after
// StopGrace.
func (t *seat) stop(c *call) (reply, *Error) {
	if !t.s.depart(t, c, revokedLeft, nil) {
		c.detached = t.result().gone
		return reply{}, nil
	}
	c.detached = true
	t.leaveCalls()
	timer := time.NewTimer(t.s.p.cfg.StopGrace)
	defer timer.Stop()
	select {
	case <-t.done:
	case <-c.leaving:
	case <-timer.C:
	}
	return reply{}, nil
}
