package pypool

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// A handler that calls a function of the host calls more of them, as a rule, and most are brief. To
// begin a goroutine for each, and to read on beside it, wakes a second processor every time, which
// the worker needs, and takes longer than such a function. So once one was brief, and the call of
// another came at once, those are run by the goroutine that reads their calls, a stand-in:
//
//	the call's goroutine   reads 1 ---------> reads 2 -> waits ................ reads on
//	that of function 1           runs, replies        |                         ^
//	the stand-in                                      runs 2, reads 3, runs 3 --+ the answer, or nothing soon
//
// The call's own goroutine runs none: a function may end its goroutine (runtime.Goexit). It takes
// the reading back when a function is not brief after all.

const (
	// standInBrief is what a function may take that a stand-in reads on behind: what takes longer is
	// better run beside others.
	standInBrief = 2 * spin.Brief
	// standInPatience is how long a function may keep a stand-in from reading, at least, and twice
	// that at most: calls of other threads, the worker's end and the call's deadline wait so long.
	standInPatience = time.Millisecond
)

// maxHeld bounds how many stand-ins are left out, 2^maxHeld, by a request whose functions wait for
// each other.
const maxHeld = 10

// standIn reads in the place of the goroutine that has begun it, which touches nothing of the
// exchange meanwhile. turn says whose the reading is: while it is odd a function runs, and the
// reading may be taken back, which makes it 0; while it is even the stand-in reads, and will hand
// the reading back.
type standIn struct {
	r    *replies
	turn atomic.Int64
	back chan handBack // has room for one
}

// handBack ends a stand-in's reading. whole: the frame is there, or err says why none will be.
type handBack struct {
	whole   bool
	err     error
	trouble *trouble // code of the caller's: the exchange asks a context of his
}

// wantsStandIn reports whether a stand-in is to run the function that has just been called: those
// before were brief, the call came at once, and there is nobody whom it could keep waiting.
func (r *replies) wantsStandIn() bool {
	if !r.brief || r.missed > 0 || !r.isAlone() || r.x.push != nil {
		return false
	}
	if r.without > 0 {
		r.without--
		return false
	}
	return true
}

// isAlone reports whether the function that has just been called is the only one, as far as is
// known.
func (r *replies) isAlone() bool { return r.running.Load() == 1 && !r.x.lineBuffered() }

// standIn has a goroutine of its own run the function and read on. Unless it returns whole the
// caller has to go on.
func (r *replies) standIn(run *functionRun, id uint64, f *wire.Frame) (whole bool, err error) {
	r.mu.Lock()
	r.awake = true // whoever runs the functions writes their replies
	r.mu.Unlock()
	s := &standIn{r: r, back: make(chan handBack, 1)}
	s.turn.Store(1)
	go s.readOn(run, id, f)
	timer := time.NewTimer(standInPatience)
	defer timer.Stop()
	over, left := r.ctx.Done(), false
	for before := int64(0); ; {
		select {
		case b := <-s.back:
			if b.trouble != nil {
				b.trouble.raise()
			}
			return b.whole, b.err
		case <-over:
			over, left = nil, true
		case <-timer.C:
			timer.Reset(standInPatience)
		}
		turn := s.turn.Load()
		if turn%2 == 1 && (turn == before || left) && s.turn.CompareAndSwap(turn, 0) {
			r.brief = false
			r.held = min(r.held+1, maxHeld)
			r.without = 1<<r.held - 1
			return false, nil
		}
		before = turn
	}
}

// readOn is the stand-in's goroutine. Who begins it waits for its end, unless he takes the reading
// back; functions.wait joins the function then.
func (s *standIn) readOn(run *functionRun, id uint64, f *wire.Frame) {
	r := s.r
	var b handBack
	turn, holds := int64(1), false
	defer func() { // a function, or a context of the caller's, may have called runtime.Goexit
		if holds || s.turn.CompareAndSwap(turn, turn+1) {
			if v := recover(); v != nil {
				b = handBack{trouble: &trouble{v}}
			}
			s.back <- b
		}
	}()
	for {
		begun := time.Now()
		run.do()
		if holds = s.turn.CompareAndSwap(turn, turn+1); !holds {
			return
		}
		r.flush(true)
		if time.Since(begun) > standInBrief {
			r.brief = false
			return
		}
		run, b.err = r.x.receiveOne(id, f, s.read)
		switch {
		case run == nil && errors.Is(b.err, os.ErrDeadlineExceeded):
			b.err = nil
			return
		case run == nil:
			b.whole = true
			return
		case r.x.replies.Load() != r || !r.isAlone():
			go run.do() // which functions.wait joins
			return
		}
		turn += 2
		holds = false
		s.turn.Store(turn)
	}
}

// read writes the replies that are ready, and polls; os.ErrDeadlineExceeded: nothing comes soon.
func (s *standIn) read(p []byte) (int, error) {
	if s.r.x.replies.Load() == s.r { // else they are of a request that has ended
		s.r.flush(true)
	}
	n, err := s.r.poll(p)
	if n == 0 && err == nil {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}
