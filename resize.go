package pypool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"

	"github.com/pypool/pypool/internal/foreign"
)

const maxWorkers = 4096 // of a pool, and as many more for overflow: more is a mistake

// Resize changes how many workers the pool keeps ready, which Stats.Size then says, and returns
// when it has them: in each of the slots 0 to n-1 a worker is ready, or has been since (a command
// may have cost it meanwhile), and those beyond are gone. No call fails for it: a worker that is to
// go ends when its call has, an idle one at once. Overflow comes on top, as before. n must be 1 to
// 4096.
//
// The end of ctx ends the waiting alone: the error says how far it has come, and the pool goes on
// towards n. A start that fails is tried again, as ever, so give ctx an end. While as many processes as
// that cannot be ended none is started: that is an ErrWorkerStart. After another Resize
// both wait for what the last one has asked for. It may be called beside everything else; once the
// pool is closed it returns an ErrPoolClosed.
func (p *Pool) Resize(ctx context.Context, n int) error {
	if !p.wasStarted() {
		return neverStarted(CallInfo{})
	}
	if n < 1 || n > maxWorkers {
		e := invalid(fmt.Sprintf("a pool cannot have %d workers: 1 to %d are possible", n, maxWorkers))
		e.Context.Pool = p.cfg.Name
		return e
	}
	if isClosed(p.closing) {
		return p.isClosedError()
	}
	ctx = foreign.Context(ctx)
	p.sup.retarget(n)
	err := p.sup.awaitSize(ctx)
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.Is(err, errStopped):
		return p.isClosedError()
	}
	e = contextError(ctx, NotExecuted, nil)
	e.Message = oneLine("the pool goes on towards its new Size: " + err.Error() + ": " + e.Message)
	e.Context.Pool = p.cfg.Name
	return e
}

// retarget has the pool keep n workers ready from now on.
func (s *supervisor) retarget(n int) {
	s.mu.Lock()
	was := s.size()
	s.target.Store(int64(n))
	s.checkout.setRoom(max(s.roomFor(was), s.roomFor(n))) // until those beyond are gone
	for w := range s.live {
		w.overflow = w.overflow && w.slot >= n // what was overflow may be in its place now
	}
	for slot, overflow := range s.building {
		s.building[slot] = overflow && slot >= n
	}
	s.broadcastLocked() // for who waits for another Size
	s.mu.Unlock()
	if was != n {
		s.env.reporter.log(slog.LevelInfo, "the pool is resized", slog.Int("from", was), slog.Int("to", n))
	}
	s.kick()
}

// awaitSize returns when the pool has as many workers as it is to have. At ctx's end it says what
// is missing. Beside commands that cost workers all slots may never be served at once.
func (s *supervisor) awaitSize(ctx context.Context) error {
	served := map[int]bool{} // slots
	for {
		s.mu.Lock()
		n, leaving, stuck, changed := s.size(), s.surplusLocked(), s.stuck(), s.changed
		for _, w := range s.readyWorkersLocked() {
			served[w.slot] = true
		}
		err := s.history.last
		if s.history.mended {
			err = nil
		}
		s.mu.Unlock()
		maps.DeleteFunc(served, func(slot int, _ bool) bool { return slot >= n })
		ready := len(served)
		switch {
		case ready == n && leaving == 0:
			return nil
		case stuck != nil && ready < n:
			return stuck
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
			return errStopped
		case <-ctx.Done():
			text := fmt.Sprintf("%d of %d workers have been ready, and %d have still to go", ready, n, leaving)
			if err != nil {
				text += ", and the last start has failed (" + err.Error() + ")"
			}
			return errors.New(text)
		}
	}
}

// surplusLocked counts the processes that are beyond Size, and are no overflow, nor given up, and the
// starts of such.
func (s *supervisor) surplusLocked() (n int) {
	for w := range s.live {
		if w.slot >= s.size() && !w.overflow && !w.isGivenUp() {
			n++
		}
	}
	for slot, overflow := range s.building {
		if slot >= s.size() && !overflow {
			n++
		}
	}
	return n
}

// roomFor is how many processes a pool of that Size may have at most: beyond Size and Overflow
// there are replacements made before the old ones go, and those that are dying.
func (s *supervisor) roomFor(size int) int {
	return size + s.cfg.Overflow + s.cfg.surge(size) + max(4, size)
}
