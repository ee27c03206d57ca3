package pypool

import (
	"math"
	"slices"
	"time"
)

// Who gets a seat on which shared worker: the part of it that the checkout decides.

// openLocked reports whether the worker takes newcomers.
func (s *sharing) openLocked() bool {
	return !s.closed && s.w.reusable() && !s.p.sup.checkout.sparedLocked(s.w)
}

// trySeat gives the call a seat if there is one, or else takes an idle worker if there is one, on
// which it has a seat at once: calls that begin together do not take a worker each. share must
// follow then.
func (p *Pool) trySeat(k *call) *resource {
	c := p.sup.checkout
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeLocked()
	if k.seat = c.seatLocked(k); k.seat != nil {
		return nil
	}
	res := c.popLocked()
	if res != nil && res.Value().reusable() && res.Value().concurrent[k.info.Command] > 0 {
		s := p.newSharing(res)
		k.seat = s.seatLocked(k)
		c.shared = append(c.shared, s)
	}
	return res
}

func (p *Pool) newSharing(res *resource) *sharing {
	s := &sharing{p: p, res: res, w: res.Value(), calls: map[uint64]*seat{}, load: map[string]int{}}
	s.out.w, s.out.run, s.out.writing = s.w, p.winding.Go, true // lines are kept until share is done
	s.out.lines, s.w.x.owed = s.w.x.owed, nil
	s.out.queued = len(s.out.lines)
	return s
}

// seatLocked gives the call a seat on the least loaded worker that has one.
func (c *checkout) seatLocked(k *call) *seat {
	var best *sharing
	for _, s := range c.shared {
		if s.openLocked() && s.load[k.info.Command] < s.w.concurrent[k.info.Command] && (best == nil || len(s.calls) < len(best.calls)) {
			best = s
		}
	}
	if best == nil {
		return nil
	}
	return best.seatLocked(k)
}

func (s *sharing) seatLocked(k *call) *seat {
	now := time.Now()
	t := &seat{s: s, id: k.id, info: k.info, since: now, given: now, end: math.MaxInt, stack: make(chan string, 1), done: make(chan seatEnd, 1)}
	if k.item != nil {
		t.items = make(chan reply, streamCredit)
	}
	s.calls[t.id] = t
	s.load[t.info.Command]++
	return t
}

// addShared takes in a worker that turns shared, with its first call, and seats those who wait, in
// their order: up to the first who wants a worker of his own and has none closed for him.
func (c *checkout) addShared(s *sharing, k *call, seated bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.shown = k.id
	if !seated {
		k.seat = s.seatLocked(k)
		c.shared = append(c.shared, s)
	}
	coming := c.comingLocked()
	for w, next := c.queue.first, (*waiter)(nil); w != nil; w = next {
		next = w.links[inQueue].behind
		if w.sharer == nil {
			if w.ripe() {
				coming--
			}
			if coming < 0 {
				break
			}
			continue
		}
		if seat := c.seatLocked(w.sharer); seat != nil {
			c.dismissLocked(w, grant{seat: seat})
		}
	}
	c.closeLocked()
}

// comingLocked counts the shared workers that are closed for those who wait for one of their own:
// each falls to one of them. What leaves the pool does not.
func (c *checkout) comingLocked() (n int) {
	for _, s := range c.shared {
		if s.comesLocked() {
			n++
		}
	}
	return n
}

func (s *sharing) comesLocked() bool {
	return s.closed && s.w.reusable() && !s.p.sup.checkout.sparedLocked(s.w)
}

// wantedLocked counts the workers that could be given to those who wait for one of their own: one
// serves a whole batch, and who waits for company wants none yet.
func (c *checkout) wantedLocked() int {
	n := c.plain
	if lineups := c.lineups.Load(); lineups != nil && n > 0 {
		for _, l := range *lineups {
			n -= l.length
			if l.length > 0 && l.first.ripe() {
				n += (l.length + l.size - 1) / l.size
			}
		}
	}
	return n
}

// closeLocked closes as many of the shared workers to newcomers, the least loaded first, as are
// wanted and do not come, so that they fall idle. Whoever takes a seat asks for it first: a worker
// that was to come may have been retired, or have died, meanwhile.
func (c *checkout) closeLocked() {
	if len(c.shared) == 0 || c.plain == 0 {
		return
	}
	for lacking := c.wantedLocked() - c.comingLocked(); lacking > 0; lacking-- {
		var least *sharing
		for _, s := range c.shared {
			if s.openLocked() && (least == nil || len(s.calls) < len(least.calls)) {
				least = s
			}
		}
		if least == nil {
			return
		}
		least.closed = true
	}
}

// reopenLocked opens the shared workers that nobody waits for any more, and seats those who wait
// for that.
func (c *checkout) reopenLocked() {
	if len(c.shared) == 0 {
		return
	}
	surplus := c.comingLocked() - c.wantedLocked()
	for _, s := range c.shared {
		if surplus > 0 && s.comesLocked() {
			s.closed = false
			surplus--
		}
	}
	c.fillLocked()
}

// fillLocked seats those who wait for a seat, as far as there are any.
func (c *checkout) fillLocked() {
	if c.queue.length == c.plain {
		return
	}
	for w, next := c.queue.first, (*waiter)(nil); w != nil; w = next {
		next = w.links[inQueue].behind
		if w.sharer == nil {
			continue
		}
		seat := c.seatLocked(w.sharer)
		if seat == nil && len(c.shared) == 1 && !c.shared[0].openLocked() {
			return
		}
		if seat != nil {
			c.dismissLocked(w, grant{seat: seat})
		}
	}
}

// dropLocked is the end of a lease. A worker that comes back is given to who waits; for one that
// does not another is closed.
func (c *checkout) dropLocked(s *sharing) {
	c.shared = slices.DeleteFunc(c.shared, func(other *sharing) bool { return other == s })
	if !s.w.reusable() {
		c.closeLocked()
	}
}
