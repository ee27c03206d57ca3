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

// standIn reads in the place of the goroutine that has begun it, which touches nothing of the
// exchange meanwhile.
type standIn struct {
	turn atomic.Int64  // odd while a function runs; 0: the reading has been taken back
	back chan handBack // has room for one
}

// handBack ends a stand-in's reading. whole: the frame is there, or err says why none will be.
type handBack struct {
	whole bool
	err   error
}

// standsIn reports whether a stand-in is worth its beginning: what came last was brief, and the next
// came at once.
func (r *replies) standsIn() bool { return r.brief && r.missed == 0 && r.x.push == nil }

// standIn has a goroutine of its own run the function and read on. Unless it returns whole the
// caller has to go on.
func (r *replies) standIn(run *functionRun, id uint64, f *wire.Frame) (whole bool, err error) {
	r.mu.Lock()
	r.awake = true // whoever runs the functions writes their replies
	r.mu.Unlock()
	s := &standIn{back: make(chan handBack, 1)}
	s.turn.Store(1)
	go s.serve(r, run, id, f)
	timer := time.NewTimer(standInPatience)
	defer timer.Stop()
	over := r.ctx.Done()
	for before := int64(0); ; {
		left := false
		select {
		case b := <-s.back:
			return b.whole, b.err
		case <-over:
			over, left = nil, true
		case <-timer.C:
			timer.Reset(standInPatience)
		}
		turn := s.turn.Load()
		if turn%2 == 1 && (turn == before || left) && s.turn.CompareAndSwap(turn, 0) {
			r.brief = false
			return false, nil
		}
		before = turn
	}
}

// serve is the stand-in's goroutine. Who begins it waits for its end, unless he takes the reading
// back; functions.wait joins the function then.
func (s *standIn) serve(r *replies, run *functionRun, id uint64, f *wire.Frame) {
	var b handBack
	turn, reads := int64(1), false
	defer func() { // a function may have called runtime.Goexit
		if reads || s.turn.CompareAndSwap(turn, turn+1) {
			s.back <- b
		}
	}()
	for {
		begun := time.Now()
		run.do()
		if reads = s.turn.CompareAndSwap(turn, turn+1); !reads {
			return
		}
		r.flush(true)
		if time.Since(begun) > standInBrief {
			r.brief = false
			return
		}
		run, b.err = r.x.receiveOne(id, f, r.soon)
		switch {
		case run == nil && errors.Is(b.err, os.ErrDeadlineExceeded):
			b.err = nil
			return
		case run == nil:
			b.whole = true
			return
		case r.x.replies.Load() != r: // it is another request's
			go run.do()
			return
		}
		turn += 2
		reads = false
		s.turn.Store(turn)
	}
}

// soon is poll for a stand-in: os.ErrDeadlineExceeded when nothing comes soon.
func (r *replies) soon(p []byte) (int, error) {
	n, err := r.poll(p)
	if n == 0 && err == nil {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}
