package pypool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

const (
	replyNap = 50 * time.Microsecond // while a pipe has no room for a reply, at first
	maxNap   = time.Millisecond
)

// replies is the calls of a request whose exchange has one holder, who alone writes to the worker: a
// stand-in while it reads. But for end and add its methods are his.
type replies struct {
	*calls
	x     *exchange
	lines []replyLine // replies to be written
	rest  []byte      // of one that is written in part
	nap   time.Duration

	unwritten int // bytes of the replies that are to be written; counted anew when none is left

	missed int // polls in a row that came to nothing
	skip   int // polls that are left out

	brief   bool // the last functions were
	held    int  // times that a function has held a stand-in up
	without int  // stand-ins that are left out because of that

	mu     sync.Mutex  // guards the fields below; the reader is woken under it
	ready  []replyLine // replies that nobody has taken yet
	untold int         // their bytes
	awake  bool        // the reader looks for itself
	over   bool        // the exchange has ended: no reply is wanted, and the reader is not to be woken
}

// serve returns the function that f calls, unless it has been answered already. An error is a
// violation of the protocol.
func (x *exchange) serve(f *wire.Frame) (*functionRun, error) {
	c := x.replies.Load()
	if c == nil || c.id != f.ID {
		if c = x.newReplies(f.ID); c == nil {
			return nil, x.violation(errors.New("a call of a function, and nothing runs that may call one"), f.Body)
		}
	}
	if unread := c.unread(); unread > x.functions.cfg.MaxQueueBytes+x.functions.cfg.MaxMessageBytes {
		return nil, x.violation(fmt.Errorf("calls of functions, and %d bytes of replies to earlier ones that it does not read", unread), f.Body)
	}
	x.spin = spin.Park
	return c.prepare(f, arguments{x.reply(f)}, x.deadline), nil
}

// newReplies returns nil where the request is pypool's own.
func (x *exchange) newReplies(id uint64) *replies {
	if x.caller == nil {
		return nil
	}
	info := x.caller()
	if info == nil {
		return nil
	}
	left := x.left // of this request, which has called none before
	x.endCalls()
	x.left = left
	info.RequestID = id
	c := &replies{x: x, awake: true}
	ctx, over := x.ctx, x.left
	switch {
	case ctx == nil: // after the end, in the last look for an answer
		ctx, over = context.Background(), true
	case x.contextOf != nil:
		ctx = x.contextOf(id)
	}
	c.calls = newCalls(ctx, x, info, c.add)
	if over {
		c.left()
	}
	x.called = id
	x.replies.Store(c)
	return c
}

// leaveCalls ends the contexts of what the request in hand has called, and will call: its caller
// has gone.
func (x *exchange) leaveCalls() {
	x.left = true
	if c := x.replies.Load(); c != nil {
		c.cancel()
	}
}

// tellCalls lets the replies go that have waited until the handler was told.
func (x *exchange) tellCalls() {
	if c := x.replies.Load(); c != nil {
		c.left()
	}
}

// endCalls drops what functions have still to say: their request is answered, or its worker lost.
func (x *exchange) endCalls() {
	c := x.replies.Load()
	x.left = false
	if c == nil {
		return
	}
	c.end()
	c.drop(c.lines)
	x.replies.Store(nil)
	x.current, x.dirty = false, true // it may have woken a reader that was not there
	x.owed = c.rest
}

// end is safe beside everything else, and may come again.
func (r *replies) end() {
	r.mu.Lock()
	dropped := r.ready
	r.over, r.ready = true, nil
	r.mu.Unlock()
	r.drop(dropped)
	r.left()
}

// unread is how many bytes of replies the worker has not read, about.
func (r *replies) unread() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unwritten + r.untold
}

// drop is for replies of which nothing is written.
func (r *replies) drop(lines []replyLine) {
	for _, line := range lines {
		r.x.takeBack(line.lent)
	}
}

// add hands a line over to whoever reads, and wakes him; once the exchange has ended it goes
// nowhere.
func (r *replies) add(line replyLine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		r.x.takeBack(line.lent)
		return
	}
	r.ready = append(r.ready, line)
	r.untold += len(line.text)
	if !r.awake {
		_ = r.x.t.SetReadDeadline(time.Unix(1, 0))
	}
}

// flush writes the replies, as far as the pipe takes them at once: to wait for room while the
// worker waits for its own output to be read would be for ever. Where some are left the next read
// is a short one.
func (r *replies) flush(awake bool) {
	r.mu.Lock()
	ready := r.ready
	r.unwritten += r.untold
	r.ready, r.untold, r.awake = nil, 0, awake
	r.mu.Unlock()
	if r.x.push != nil {
		if r.x.push(ready) {
			r.nap, r.unwritten = 0, 0
			return
		}
		r.takeNap()
		return
	}
	r.lines = append(r.lines, ready...)
	for len(r.rest) > 0 || len(r.lines) > 0 {
		line := r.rest
		if len(line) == 0 {
			line = r.lines[0].text
		}
		n, err := r.x.t.TryWrite(line)
		if n > 0 {
			r.nap = 0
			if len(r.rest) == 0 {
				r.lines = r.lines[1:]
			}
			r.rest = line[n:]
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return // the read will say so
		}
		if n < len(line) {
			r.takeNap()
			return
		}
	}
	r.unwritten = 0
}

// await is the exchange's, once functions were called: it writes their replies meanwhile.
func (r *replies) await(p []byte) (int, error) {
	x := r.x
	for r.awaitBrief() {
		r.brief = r.running.Load() == 0
		r.flush(true)
		if n, err := r.poll(p); n > 0 || err != nil {
			return n, err
		}
	}
	if r.running.Load() > 0 {
		r.brief = false
	}
	for {
		x.applyDeadline()
		r.flush(false)
		n, err := x.t.Read(p)
		x.current = false // a reply may have woken this, or there may be room for more of one
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || x.isOver() {
			return n, err
		}
	}
}

// poll looks for what comes behind a reply, for so long as that pays: 0, nil when nothing has come.
func (r *replies) poll(p []byte) (int, error) {
	if r.skip > 0 {
		r.skip--
		return 0, nil
	}
	r.x.t.Unwatch()
	end := time.Now().Add(spin.Brief)
	for range maxPolls { // so that it ends also where the clock stands still
		r.x.applyDeadline()
		n, err := r.x.t.TryRead(p)
		switch {
		case n > 0:
			r.missed = 0
			return n, nil
		case errors.Is(err, os.ErrDeadlineExceeded) && !r.x.isOver():
			r.x.current = false // a reply has woken a reader that was not there
			continue
		case err != nil:
			return 0, err
		}
		if time.Until(end) < 0 {
			break
		}
		spin.Yield()
	}
	r.missed = min(r.missed+1, 6)
	r.skip = 1<<r.missed - 1
	return 0, nil
}

// awaitBrief lets functions run that have just begun, and reports whether one has ended: most are
// brief, and whoever waits for them awake need not be woken.
func (r *replies) awaitBrief() bool {
	for range 3 {
		r.mu.Lock()
		r.awake = true
		ready := len(r.ready) > 0
		r.mu.Unlock()
		if ready {
			return true
		}
		runtime.Gosched()
	}
	return false
}

// takeNap has the next read end soon, to try again.
func (r *replies) takeNap() {
	r.nap = min(max(2*r.nap, replyNap), maxNap)
	at := time.Now().Add(r.nap)
	if end := r.x.deadline; end.IsZero() || at.Before(end) {
		_ = r.x.t.SetReadDeadline(at)
	}
}
