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
	"sync"
	"time"

	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// Calls of concurrent commands side by side: @command(concurrency=64). A worker that such a call
// takes is shared from then on: other calls of such commands get seats on it, until the last of
// them has ended.
//
//	Pool.serve
//	  acquire       a seat on an open shared worker, else an idle worker      pool.go, checkout.go
//	    share       the worker turns shared                                   here
//	      sit       the request goes out; the caller waits for its own end
//	  sharing.run   frames in, each to its seat; the end of the lease, or of the worker
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
	grace    time.Duration
	patience time.Time // code that is not to be interrupted has its grace from then on
	reason   string    // the worker is killed if it does not end
	admitted admission
	charge   *Error // what the circuit is charged with in that case; nil: nothing
}

// seatEnd is how a call on a shared worker ended.
type seatEnd struct {
	kind  wire.Kind
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

// --- seats: the checkout's part ------------------------------------------------------------------------------------------

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
	t := &seat{s: s, id: k.id, info: k.info, since: time.Now(), end: math.MaxInt, stack: make(chan string, 1), done: make(chan seatEnd, 1)}
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
	plain := c.closedLocked()
	for w, next := c.queue.first, (*waiter)(nil); w != nil; w = next {
		next = w.links[inQueue].behind
		if w.sharer == nil {
			if plain--; plain < 0 {
				break
			}
			continue
		}
		if seat := c.seatLocked(w.sharer); seat != nil {
			c.dismissLocked(w, grant{seat: seat})
		}
	}
	c.closeOneLocked()
}

func (c *checkout) closedLocked() (n int) {
	for _, s := range c.shared {
		if !s.openLocked() {
			n++
		}
	}
	return n
}

// closeOneLocked closes the least loaded of the shared workers to newcomers, so that it falls idle,
// if more calls that want a worker of their own wait than are closed.
func (c *checkout) closeOneLocked() {
	if len(c.shared) == 0 || c.closedLocked() >= c.plain {
		return
	}
	var least *sharing
	for _, s := range c.shared {
		if s.openLocked() && (least == nil || len(s.calls) < len(least.calls)) {
			least = s
		}
	}
	if least != nil {
		least.closed = true
	}
}

// reopenLocked opens the shared workers that nobody waits for any more, and seats those who wait
// for that.
func (c *checkout) reopenLocked() {
	if len(c.shared) == 0 {
		return
	}
	closed := 0
	for _, s := range c.shared {
		if s.closed {
			closed++
		}
	}
	for _, s := range c.shared {
		if closed > c.plain && s.closed {
			s.closed = false
			closed--
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

// dropLocked is the end of a lease.
func (c *checkout) dropLocked(s *sharing) {
	c.shared = slices.DeleteFunc(c.shared, func(other *sharing) bool { return other == s })
}

// --- a call ----------------------------------------------------------------------------------------------------------------

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
	c.worker, c.pid, c.given = w.id, w.proc.PID(), time.Now()
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
		calls := newCalls(ctx, w.x.functions, &t.info, t.reply)
		defer calls.cancel()
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

// reply has the reply of a function written.
func (t *seat) reply(line []byte) {
	mu := &t.s.p.sup.checkout.mu
	mu.Lock()
	seated := t.s.calls[t.id] == t
	mu.Unlock()
	if seated {
		t.s.out.control(line)
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
	if c.timeout > 0 {
		timer := time.NewTimer(c.timeout)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case e := <-t.done:
		return t.outcome(c, e)
	case <-c.leaving:
	case <-over:
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
	switch {
	case e.err != nil:
		return reply{}, e.err
	case e.kind == wire.KindError:
		return reply{}, t.s.w.answered(&c.job, &wire.Frame{ID: t.id, Kind: e.kind, Body: e.rep.raw}, c.given)
	}
	return e.rep, nil
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
	return &HangError{Stacks: stacks, NoStacks: none}
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
	if end := t.patience.Add(t.grace); shielded && time.Now().Before(end) {
		s.p.winding.Add(1)
		t.timer.Reset(time.Until(end))
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
	if s.depart(t, c, revokedCanceled, nil) {
		s.out.request(t, nil, ping.Seal(t.id, 0, false))
	}
}

// --- a stream ----------------------------------------------------------------------------------------------------------------

// stream runs the loop over a stream. Items come as far as the credit goes, so that a loop that is
// slow keeps nobody from reading.
func (t *seat) stream(ctx context.Context, c *call) (rep reply, err *Error) {
	s := t.s
	var hooks sync.WaitGroup // the two below, as long as they may run
	defer hooks.Wait()
	if watched := watchable(ctx); watched.Done() != nil {
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
				if len(t.items) > 0 {
					continue // in the same instant
				}
				return t.leave(ctx, c, false)
			}
		}
		if c.leaving != nil && isClosed(c.leaving) {
			return t.leave(ctx, c, true)
		}
		t.turn = time.Now()
		if c.stall > 0 {
			limit()
		}
		c.stopped = !c.item(item)
		unlimit()
		if t.lost() == revokedStalled {
			return t.taken(ctx, c)
		}
		if c.stopped {
			return t.stop(c)
		}
		if taken++; taken == streamCredit/2 && t.last == nil {
			s.out.control(wire.AppendCredit(nil, t.id, taken))
			taken = 0
		}
		if timer != nil {
			timer.Reset(c.timeout)
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
	timer := time.NewTimer(t.s.p.cfg.StopGrace)
	defer timer.Stop()
	select {
	case <-t.done:
	case <-c.leaving:
	case <-timer.C:
	}
	return reply{}, nil
}

// --- the reader -----------------------------------------------------------------------------------------------------------------

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
	e := seatEnd{kind: f.Kind, rep: w.x.reply(f)}
	calls := w.calls.Add(1)
	if f.Kind == wire.KindError {
		w.errs.Add(1)
	}
	c.mu.Lock()
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
	case calls == int64(s.p.cfg.MaxCalls):
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
	s.p.giveBack(s.res, w.freed)
}

// interrupt has the reader, and a writer, look up.
func (s *sharing) interrupt() { _ = s.w.x.t.SetDeadline(time.Unix(1, 0)) }

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
		if t.end <= read {
			executed = true
			if charged == nil && !t.gone {
				charged = t
			}
		}
	}
	if !executed && base.Type == TypeWorkerExited {
		w.env.onEndBetween(w)
	}
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
		t.done <- seatEnd{err: w.withContext(e, &job{id: t.id, info: t.info}, t.given), spare: t != charged, gone: t.gone}
	}
}

// --- the writer --------------------------------------------------------------------------------------------------------------

// outbox is the lines for a shared worker. Whoever adds one writes, unless somebody does already,
// and then that one's too. It waits for nobody: when the pipe is full a goroutine writes the rest.
type outbox struct {
	w   *worker
	run func(func()) // starts a goroutine that the pool's close joins

	mu      sync.Mutex // guards the fields below
	lines   []byte
	spare   []byte // the buffer for the next ones
	queued  int    // bytes of all lines
	written int    // of these
	writing bool
	closed  bool          // nothing more is written
	quiet   chan struct{} // is closed when nobody writes any more; nil: nobody waits for that
}

// request adds a seat's request, with its payloads and its first credit. Nothing of the caller's is
// kept.
func (o *outbox) request(t *seat, blobs []wire.Blob, line []byte) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	before := len(o.lines)
	o.lines, _ = wire.AppendRaw(o.lines, blobs, o.w.x.lender()) // what is added is written, or the worker lost
	o.lines = wire.AppendShared(o.lines, line)
	t.end = o.queued + len(o.lines) - before
	if t.items != nil {
		o.lines = wire.AppendCredit(o.lines, t.id, streamCredit)
	}
	o.flushLocked(before)
}

// control adds a control line.
func (o *outbox) control(line []byte) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	before := len(o.lines)
	o.lines = append(o.lines, line...)
	o.flushLocked(before)
}

// unwritten is the bytes of lines that are still to be written.
func (o *outbox) unwritten() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queued - o.written
}

// flushLocked writes what was added, unless somebody does. It unlocks.
func (o *outbox) flushLocked(before int) {
	o.queued += len(o.lines) - before
	writes := !o.writing
	o.writing = true
	o.mu.Unlock()
	if writes {
		o.flush(nil)
	}
}

// flush writes rest, waiting for the pipe, and then what is there, without.
func (o *outbox) flush(rest []byte) {
	t := o.w.x.t
	for {
		n, err := 0, error(nil)
		if rest != nil {
			n, err = t.Write(rest)
		}
		o.mu.Lock()
		o.written += n
		if err != nil { // the reader finds the same
			o.closed = true
		}
		if rest != nil && cap(rest) <= keptBuffer {
			o.spare = rest[:0]
		}
		rest = nil
		if o.closed || len(o.lines) == 0 {
			o.lines = o.lines[:0]
			o.writing = false
			if o.quiet != nil {
				close(o.quiet)
				o.quiet = nil
			}
			o.mu.Unlock()
			return
		}
		lines := o.lines
		o.lines, o.spare = o.spare[:0], nil
		o.mu.Unlock()
		n, err = t.TryWrite(lines)
		o.mu.Lock()
		o.written += n
		if err != nil {
			o.closed = true
		} else if n == len(lines) {
			o.spare = lines[:0]
		}
		o.mu.Unlock()
		if err == nil && n < len(lines) {
			o.run(func() { o.flush(lines[n:]) })
			return
		}
	}
}

// finish ends the writing, for at most d: what is not yet begun is left unwritten. False: somebody
// still writes.
func (o *outbox) finish(d time.Duration) bool {
	o.mu.Lock()
	o.closed = true
	if !o.writing {
		o.mu.Unlock()
		return true
	}
	if o.quiet == nil {
		o.quiet = make(chan struct{})
	}
	quiet := o.quiet
	o.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-quiet:
		return true
	case <-timer.C:
		return false
	}
}
