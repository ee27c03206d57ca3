package pypool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pypool/pypool/internal/receive"
	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// Calls of concurrent commands side by side: @command(concurrency=64). A worker that such a call
// takes is shared from then on: other calls of such commands get seats on it, until the last of
// them has ended.
//
//	Pool.serve
//	  acquire       a seat on an open shared worker, else an idle worker      shared_seats.go
//	    share       the worker turns shared                                   here
//	      sit       the request goes out; the caller waits for its own end    outbox.go, shared_stream.go
//	  sharing.run   frames in, each to its seat; the end of the lease, or of  shared_reader.go
//	                the worker
//
// A worker is open to newcomers while it is reusable and no call that wants a worker of its own
// waits for it.

// streamCredit is how many items a shared stream may send ahead of its reader. More are granted
// when half of them are taken.
const streamCredit = 8

// sharing is the lease of a worker by several calls. One goroutine, which the pool's close joins,
// reads; whoever has something to say writes.
type sharing struct {
	p   *Pool
	res *resource
	w   *worker
	out outbox

	// The checkout's mu guards the fields below.
	calls   map[uint64]*seat
	load    map[string]int // calls of each command
	closed  bool           // a call that wants a worker of its own waits for this one
	shown   uint64         // the call that the worker is said to have
	charged *seat          // the worker is killed because of its call
}

// seat is a call's place on a shared worker.
type seat struct {
	s     *sharing
	id    uint64
	info  CallInfo
	since time.Time // when it got the seat
	given time.Time
	end   int          // where its request ends, of all that is written to the worker
	items chan reply   // of a stream; nil: it is none
	stack chan string  // where its task stood when its caller left
	done  chan seatEnd // gets one
	last  *seatEnd     // what came out of done, as its caller has it; nil: nothing yet
	turn  time.Time    // when the turn of a loop's body began

	owed int // items' credit that is in no line yet; the outbox's mu guards it

	// The checkout's mu guards the fields below.
	calls    *calls        // the functions it calls; nil: the pool has none, or its request is not written
	deadline time.Time     // theirs; zero: limit from when they begin, or none
	limit    time.Duration // of a stream's items
	stacks   []chan string // who has asked where its task stands, and gets the next answer; each has room for one
	asked    int           // answers to that which are on their way
	gone     bool          // its caller has left
	why      revocation
	overdue  bool        // it has not ended within its grace
	timer    *time.Timer // runs expire; set when its caller leaves. While it may run, winding counts it
	due      time.Time   // when it does
	late     bool        // the reader has been waited for since
	grace    time.Duration
	patience time.Time // code that is not to be interrupted has its grace from then on
	reason   string    // the worker is killed if it does not end
	admitted admission
	charge   *Error // what the circuit is charged with in that case; nil: nothing
}

// seatEnd is how a call on a shared worker ended.
type seatEnd struct {
	rep   reply
	err   *Error
	gone  bool // its caller had gone by then, and admitted has been told
	spare bool // another call is charged with the worker
}

// isConcurrent reports whether calls of the command may run side by side.
func (p *Pool) isConcurrent(info *CallInfo) bool {
	commands := p.sup.concurrent.Load()
	return commands != nil && info.Program == "" && (*commands)[info.Command] > 0
}

// share turns a worker that is held into a shared one, with the call on it.
func (p *Pool) share(c *call, res *resource) {
	w, seated := res.Value(), c.seat != nil
	var s *sharing
	if seated {
		s = c.seat.s
	} else {
		s = p.newSharing(res)
	}
	w.current.begin(&c.info, time.Now())
	w.proc.Spin(0, false)
	w.x.reserve(largeFrame)
	w.x.begin(context.Background(), time.Time{}, spin.Park)
	w.x.applyDeadline()
	unsolicited := w.x.failed(w.x.checkIdle(true))
	if unsolicited != nil {
		s.out.mu.Lock()
		s.out.closed = true
		s.out.mu.Unlock()
	}
	w.sharing.Store(s)
	if w.isExited() || isClosed(p.killing) { // nobody else may have seen it
		s.interrupt()
	}
	p.sup.checkout.addShared(s, c, seated)
	s.out.flush(nil)
	p.winding.Go(func() { s.run(unsolicited) })
}

// sit runs a call that has a seat.
func (p *Pool) sit(ctx context.Context, c *call) (rep reply, err *Error) {
	t := c.seat
	c.seat = nil
	if c.leaving != nil && isClosed(c.leaving) {
		t.s.forgo(t)
		return reply{}, queueError(ctx, c)
	}
	w := t.s.w
	c.worker, c.pid, c.given, c.spare = w.id, w.proc.PID(), time.Now(), false
	sent, left := false, false
	defer func() {
		switch { // a method of ctx, or the loop's body, panics, or ends its goroutine
		case !sent:
			t.s.forgo(t)
		case !left:
			c.detached = t.s.depart(t, c, revokedLeft, nil) || t.result().gone
		}
		ran := time.Since(c.given)
		c.ran += ran
		c.tally.times().run.Add(ran)
	}()
	remaining, limited := c.timeout, c.timeout > 0 && c.item == nil
	if end, ok := ctx.Deadline(); ok && (!limited || end.Before(c.given.Add(remaining))) {
		remaining, limited = end.Sub(c.given), true
	}
	if len(p.cfg.Functions) > 0 {
		calls := newCalls(ctx, w.x, &t.info, t.reply)
		defer calls.left()
		deadline := time.Time{}
		if limited {
			deadline = c.given.Add(remaining)
		}
		t.mayCall(calls, deadline, c)
	}
	line := c.req.Seal(t.id, remaining, limited)
	sent = true
	t.s.out.request(t, c.req.Blobs, line)
	if c.item != nil {
		rep, err = t.stream(ctx, c)
	} else {
		rep, err = t.wait(ctx, c)
	}
	left = true
	return rep, err
}

// mayCall has the functions run that the call calls.
func (t *seat) mayCall(calls *calls, deadline time.Time, c *call) {
	mu := &t.s.p.sup.checkout.mu
	mu.Lock()
	defer mu.Unlock()
	t.calls, t.deadline = calls, deadline
	if c.item != nil {
		t.limit = c.timeout
	}
}

// leaveCalls ends the contexts of the functions that it has called.
func (t *seat) leaveCalls() {
	mu := &t.s.p.sup.checkout.mu
	mu.Lock()
	calls := t.calls
	mu.Unlock()
	if calls != nil {
		calls.left()
	}
}

// reply has the reply of a function written.
func (t *seat) reply(line replyLine) {
	mu := &t.s.p.sup.checkout.mu
	mu.Lock()
	seated := t.s.calls[t.id] == t
	mu.Unlock()
	if seated {
		t.s.out.reply(line)
	} else {
		t.s.w.x.takeBack(line.lent)
	}
}

// serve has the function run that f calls. An error is a violation of the protocol.
func (t *seat) serve(f *wire.Frame) error {
	s, mu := t.s, &t.s.p.sup.checkout.mu
	mu.Lock()
	calls, deadline := t.calls, t.deadline
	if t.limit > 0 {
		end := time.Now().Add(t.limit)
		if deadline.IsZero() || end.Before(deadline) {
			deadline = end
		}
	}
	mu.Unlock()
	if calls == nil {
		return s.w.x.violation(errors.New("a call of a function, and nothing runs that may call one"), f.Body)
	}
	if unread := s.out.unwritten(); unread > s.p.cfg.MaxQueueBytes+s.p.cfg.MaxMessageBytes {
		return s.w.x.violation(fmt.Errorf("calls of functions, and %d bytes that it does not read", unread), f.Body)
	}
	calls.begin(f, arguments{s.w.x.reply(f)}, deadline)
	return nil
}

// wait waits for the answer of a call that is no stream.
func (t *seat) wait(ctx context.Context, c *call) (reply, *Error) {
	var over <-chan time.Time
	end, missed := time.Now().Add(c.timeout), true
	if c.timeout > 0 {
		timer := time.NewTimer(c.timeout)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case e := <-t.done:
		return t.outcome(c, e)
	case <-c.leaving:
		end, missed = missedDeadline(ctx)
	case <-over:
	}
	if missed {
		if e, ok := receive.Within(t.done, lateBy(end, &t.s.p.cfg)); ok {
			t.last = &e
		}
	}
	return t.leave(ctx, c, false)
}

// result waits for the end of a call that has ended, or will have in a moment.
func (t *seat) result() seatEnd {
	if t.last == nil {
		e := <-t.done
		t.last = &e
	}
	return *t.last
}

// outcome is what the caller of a call that has ended gets.
func (t *seat) outcome(c *call, e seatEnd) (reply, *Error) {
	c.spare = e.spare
	return e.rep, e.err
}

// leave is the end of a call whose context has ended, or whose time is over. The handler is asked
// to stop, and the lease waits for it. unread: the loop has not had all items.
func (t *seat) leave(ctx context.Context, c *call, unread bool) (reply, *Error) {
	if t.last == nil {
		select {
		case e := <-t.done:
			t.last = &e
		default:
		}
	}
	if t.answered(unread) {
		return t.outcome(c, *t.last)
	}
	w := t.s.w
	e := w.leftError(ctx, &c.job, &HangError{})
	var charge *Error
	if c.evidence(ctx, &t.s.p.cfg, e) == lostWorker {
		charge = e.clone()
	}
	why := revokedEnded
	if errors.Is(ctx.Err(), context.Canceled) {
		why = revokedCanceled
	}
	if t.last == nil && !t.s.depart(t, c, why, charge) {
		t.result()
		if t.answered(unread) {
			return t.outcome(c, *t.last)
		}
	}
	c.detached = t.last == nil || t.last.gone
	if why == revokedEnded { // who cancels does not ask where the time went
		e = w.leftError(ctx, &c.job, t.hang(t.last != nil))
	}
	return reply{}, e
}

// answered reports whether the answer was there in the instant in which the caller leaves, who has
// had all items before it: it wins.
func (t *seat) answered(unread bool) bool {
	return t.last != nil && !t.last.gone && !unread && len(t.items) == 0
}

// hang says where a call stands that has been asked to stop: its task, or all threads when the loop
// does not come to tell.
func (t *seat) hang(over bool) *HangError {
	done := t.done
	if over {
		done = make(chan seatEnd)
		close(done)
	}
	timer := time.NewTimer(t.s.w.env.cfg.KillGrace / 2)
	defer timer.Stop()
	select {
	case stack := <-t.stack:
		return &HangError{Stacks: stack}
	case <-done:
		select {
		case stack := <-t.stack:
			return &HangError{Stacks: stack}
		default:
		}
		return &HangError{NoStacks: "it ended in the same moment"}
	case <-timer.C:
	}
	w := t.s.w
	stacks, none := w.stacks(w.env.cfg.KillGrace / 2)
	select {
	case stack := <-t.stack: // late, and better than what the loop did then
		return &HangError{Stacks: stack}
	default:
		return &HangError{Stacks: stacks, NoStacks: none}
	}
}

// depart has a call stopped whose caller goes, or has lost it. False: its end has come already, and
// is in done, or will be in a moment.
func (s *sharing) depart(t *seat, c *call, why revocation, charge *Error) bool {
	cfg := &s.p.cfg
	mu := &s.p.sup.checkout.mu
	mu.Lock()
	if s.calls[t.id] != t {
		mu.Unlock()
		return false
	}
	if !t.gone {
		t.gone, t.why, t.charge, t.admitted, t.given = true, why, charge, c.admitted, c.given
		t.grace, t.patience, t.reason = s.w.cancelGrace(), cfg.patience(c.given), "the context of its call ended, and it did not stop within CancelGrace"
		switch {
		case charge != nil:
			t.reason = "its call hung: " + charge.Message
		case why == revokedStalled, why == revokedLeft:
			t.grace, t.reason = cfg.StopGrace, "the loop over a stream was left or stalled, and the generator did not stop within StopGrace"
		}
		if why == revokedEnded { // the stacks are taken first
			t.grace = max(t.grace, 0) + cfg.KillGrace
		}
		s.p.winding.Add(1)
		t.due = time.Now().Add(t.grace)
		t.timer = time.AfterFunc(t.grace, t.expire)
	}
	if why == revokedEnded {
		t.stacks, t.asked = append(t.stacks, t.stack), t.asked+1
	}
	mu.Unlock()
	s.out.control(wire.AppendCancel(nil, t.id, why == revokedEnded))
	return true
}

// expire retires the worker of a call that has not ended within its grace: the others are left to
// finish, then it is killed.
func (t *seat) expire() {
	s := t.s
	defer s.p.winding.Done()
	mu := &s.p.sup.checkout.mu
	shielded := s.w.proc.Shielded()
	mu.Lock()
	if s.calls[t.id] != t {
		mu.Unlock()
		return
	}
	now, end := time.Now(), time.Time{}
	if shielded {
		end = t.patience.Add(t.grace)
	}
	switch {
	case now.Before(end):
		t.due = end
	case !t.late:
		t.late, end = true, now.Add(lateBy(t.due, &s.p.cfg))
	}
	if now.Before(end) {
		s.p.winding.Add(1)
		t.timer.Reset(end.Sub(now))
		mu.Unlock()
		return
	}
	t.overdue = true
	s.w.x.doubt(errOverdue)
	hopeless := s.hopelessLocked()
	mu.Unlock()
	s.p.sup.kick()
	if hopeless {
		s.kill()
	}
}

var errOverdue = errors.New("a call did not stop within its grace")

// hopelessLocked reports whether nobody is left on the worker but who should have ended.
func (s *sharing) hopelessLocked() bool {
	for _, t := range s.calls {
		if !t.overdue {
			return false
		}
	}
	return true
}

// kill ends a worker that has only calls left that do not stop. The circuit is charged once.
func (s *sharing) kill() {
	mu := &s.p.sup.checkout.mu
	mu.Lock()
	why := ""
	for _, t := range s.calls {
		if why == "" || t.charge != nil && s.charged == nil {
			why = t.reason
		}
		if t.charge != nil && s.charged == nil {
			s.charged = t
		}
	}
	mu.Unlock()
	if isClosed(s.p.killing) {
		why = poolClosed
	}
	s.w.kill(why)
}

// forgo gives up a seat whose request has not been written. A ping takes its place: its answer is
// the seat's end.
func (s *sharing) forgo(t *seat) {
	ping, err := wire.Encode(nil, commandPing, nil, "", false)
	if err != nil { // it always encodes
		panic(err)
	}
	t.items = nil
	c := &call{job: job{given: time.Now()}}
	if s.depart(t, c, revokedForgone, nil) {
		s.out.request(t, nil, ping.Seal(t.id, 0, false))
	}
}
