package pypool

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/pypool/pypool/internal/foreign"
	"github.com/pypool/pypool/internal/wire"
)

// Stream runs a generator command and yields its items as they come; a command that is no generator
// yields its result as the one item. The worker is held until the loop ends. Leaving the loop stops
// the generator (its finally blocks run) and keeps the worker; one that does not stop within
// StopGrace is killed. Back-pressure is the pipe's: a slow loop halts the generator.
//
// OperationTimeout bounds the wait for each item; the time that the loop's body takes does not
// count for it. StallTimeout bounds each turn of the body: after it the worker is taken away and
// serves others, and the loop gets an ErrStalled when it comes back.
//
// The end of ctx ends the stream, also while the body runs: the loop gets the context's error at
// once, or when it comes back. Then, as after a stall, an item's timeout, or a body that panics or
// calls runtime.Goexit, pypool stops the generator behind the loop's back, and kills the worker
// only if that takes longer than StopGrace, or than CancelGrace after the end of ctx or an item's
// timeout. A generator is stopped between two items, and, on Linux, in its own code.
//
// A stream of a concurrent command has not the worker, but a share of it: a loop that stalls, or a
// generator that does not stop, costs only the stream, until CancelGrace or StopGrace is over; see
// Config.CancelGrace. Items come up to eight ahead of the loop.
//
// An error is yielded once, as the last pair, with a zero Result; items before it stand. Each range
// over the sequence is a call of its own, which ends, for the statistics and the Observer, when the
// loop has its error or is over: a stalled one not before its body is back.
func (p *Pool) Stream(ctx context.Context, command string, args any, opts ...CallOption) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		c := call{job: job{info: CallInfo{Command: command}}, args: args}
		c.item = func(r reply, came time.Time) bool {
			c.admitted.pass()
			if c.deep = r.raw == nil; c.deep {
				return false
			}
			return yield(c.result(r, came.Sub(c.given)), nil)
		}
		if _, err := p.execute(ctx, &c, opts); err != nil && (c.deep || !c.stopped) {
			yield(Result{}, err)
		}
	}
}

// itemTooDeep is the error of a stream that was stopped for an item that Go's JSON does not read.
func (c *call) itemTooDeep() *Error {
	told := wireError{Kind: string(TypeInvalidResult), Message: wire.ResultTooDeep, Path: "$"}
	e := told.toError(c.info)
	e.Context, e.given = ErrorContext{Worker: c.worker, PID: c.pid}, c.given
	return e
}

// Each is Stream with every item decoded into an Out. An item that does not fit ends the loop with
// an ErrDecode.
func Each[Out any](ctx context.Context, c Caller, command string, args any, opts ...CallOption) iter.Seq2[Out, error] {
	return func(yield func(Out, error) bool) {
		if c == nil {
			var none *Pool
			c = none
		}
		opts := opts // of this range: another may run beside it
		if takesBlobs(reflect.TypeFor[Out]()) {
			opts = append(slices.Clip(opts), WithBlobs())
		}
		_, own := c.(*Pool)
		for res, err := range c.Stream(ctx, command, args, opts...) {
			var out Out
			if err == nil {
				err = res.decode(&out, own)
			}
			if !yield(out, err) || err != nil {
				return
			}
		}
	}
}

// streamed is the exchange of a stream with one worker. The goroutine that runs the loop has it,
// and lends it while the loop's body runs; it passes to a goroutine of the pool, which winds it up,
// when the lease is revoked, or when the loop need not wait for the generator's end.
type streamed struct {
	lease
	p     *Pool
	w     *worker
	res   *resource
	ctx   context.Context
	id    uint64
	info  CallInfo
	start time.Time
	limit time.Duration // of one turn of the body; 0: none
	turn  time.Time     // when the body's turn began
	ours  bool          // the loop's goroutine has not passed the worker on

	admitted admission // the call's
	charge   *Error    // what the circuit is charged with if the worker has to be killed; nil: nothing
	canceled bool      // the generator has been told to stop

	begun  bool           // something may have been written
	unhook func() bool    // of contextEnded
	hooks  sync.WaitGroup // contextEnded and alarm, as long as they may run
	timer  *time.Timer    // runs alarm; set in the first turn of the body. The lease's mu guards it, and over
	over   bool           // the timer is not to be set again
}

// stream runs a stream on a worker that is held, and has it given back.
func (p *Pool) stream(ctx context.Context, c *call, res *resource) (rep reply, err *Error) {
	w := res.Value()
	x := &streamed{
		lease: lease{killing: p.killing}, p: p, w: w, res: res, ctx: ctx, id: c.id, info: c.info, start: c.given, limit: c.stall,
		admitted: c.admitted, ours: true,
	}
	w.lease.Store(&x.lease)
	w.current.begin(&x.info, x.start)
	ended := false
	defer func() {
		if !ended { // the loop's body panics, or ends its goroutine; or else a method of the context does
			x.leave(c)
		}
		ran := time.Since(c.given)
		c.ran += ran
		c.tally.times().run.Add(ran)
	}()
	rep, err = x.run(c)
	ended = true
	return rep, err
}

// leave lets go of the worker for a goroutine that does not go on.
func (x *streamed) leave(c *call) {
	switch {
	case !x.begun: // the worker is as it was
		x.unarm()
		x.giveBack(time.Time{})
		return
	case x.take(revokedLeft):
	case x.ours && x.reclaim() == notRevoked:
		x.w.abandon()
		x.p.winding.Go(x.windUp)
	}
	c.detached = true
}

// arm makes the ends of time and of the context known: to the reader through the connection, to the
// body through hooks. Methods of the context that panic leave nothing behind that unarm does not
// undo.
func (x *streamed) arm(c *call) {
	var deadline time.Time
	if c.timeout > 0 {
		deadline = x.start.Add(c.timeout)
	}
	x.w.x.begin(x.ctx, deadline, c.spin)
	watched := foreign.Watched(x.ctx)
	if watched.Done() == nil {
		return
	}
	hooked := false
	x.hooks.Add(1)
	defer func() {
		if !hooked {
			x.hooks.Done()
		}
	}()
	x.unhook = context.AfterFunc(watched, x.contextEnded)
	hooked = true
}

// run is the loop's side of the exchange. What becomes of the worker is decided when it returns.
func (x *streamed) run(c *call) (reply, *Error) {
	w := x.w
	x.arm(c)
	end, limited := x.ctx.Deadline() // the timeout is for each item: Python is told of the context's end alone
	line := c.req.Seal(x.id, end.Sub(x.start), limited)
	x.begun = true
	var f wire.Frame
	why, err := notRevoked, w.x.sendRequest(&c.req, line, c.idle > aMoment)
	if err == nil {
		why, err = x.receive(c, &f)
	}
	if why != notRevoked {
		return reply{}, x.lost(c, why)
	}
	x.unarm()
	late := errors.Is(err, os.ErrDeadlineExceeded)
	if late && w.x.inDoubt() == nil && !nothingWritten(err) && !isClosed(x.killing) {
		switch last := w.x.receiveNow(x.id, &f); {
		case last == nil && f.Kind != wire.KindItem:
			err = nil // the answer was there in the same instant: it wins
		case w.x.inDoubt() != nil, c.stopped && x.ctx.Err() == nil:
			// the worker is in doubt, or its time is over
		default:
			return reply{}, x.detach(c)
		}
	}
	rep, failed := w.judge(x.ctx, &c.job, &f, err)
	now := time.Now()
	answered := w.served(failed, now, now.Sub(x.start))
	x.ours = false
	x.giveBack(answered)
	return rep, failed
}

// receive reads frames until the final one, and has the loop's body run for each item. A stream
// whose loop is left is canceled and read to its end. It returns why the worker was taken away
// meanwhile, if it was.
func (x *streamed) receive(c *call, f *wire.Frame) (revocation, error) {
	conn := x.w.x
	for {
		if err := conn.receive(x.id, f); err != nil {
			return notRevoked, err
		}
		if f.Kind != wire.KindItem {
			return notRevoked, nil
		}
		if c.stopped {
			continue // what was on its way
		}
		item := conn.reply(f)
		now := time.Now()
		if !x.enter(now) {
			return notRevoked, os.ErrDeadlineExceeded
		}
		c.stopped = !c.item(item, now)
		if why := x.reclaim(); why != notRevoked {
			return why, nil
		}
		switch {
		case c.stopped:
			if err := conn.cancel(x.id, x.w.env.cfg.StopGrace); err != nil {
				return notRevoked, err
			}
			x.canceled = true
			conn.leaveCalls()
			conn.tellCalls()
		case c.timeout > 0:
			conn.extend(time.Now().Add(c.timeout))
		}
	}
}

// enter lends the worker for one turn of the body. After the context's end it is a worker that is
// taken away at once.
func (x *streamed) enter(now time.Time) bool {
	if !x.lend(now) {
		return false
	}
	x.turn = now
	if x.ctx.Err() != nil { // contextEnded may have come before lend, and found nothing to revoke
		x.take(revokedEnded)
		return true
	}
	if x.limit > 0 && x.timer == nil {
		x.mu.Lock()
		if !x.over { // the worker may have been taken since it was lent
			x.hooks.Add(1)
			x.timer = time.AfterFunc(x.limit, x.alarm)
		}
		x.mu.Unlock()
	}
	return true
}

// alarm takes the worker from a body that has had it for StallTimeout, or comes again when that can
// be so at the earliest: the turns of a body do not set the timer.
func (x *streamed) alarm() {
	defer x.hooks.Done()
	x.mu.Lock()
	defer x.mu.Unlock()
	left := x.limit
	if !x.since.IsZero() {
		left -= time.Since(x.since)
	}
	switch {
	case x.over || x.revoked != notRevoked:
	case left > 0:
		x.hooks.Add(1)
		x.timer.Reset(left)
	case x.revokeLocked(revokedStalled):
		x.p.winding.Go(x.windUp)
	}
}

// contextEnded takes the worker from a body that runs. A reader is interrupted by the connection.
func (x *streamed) contextEnded() {
	defer x.hooks.Done()
	x.take(revokedEnded)
}

// take takes the worker from a body that runs, if one does.
func (x *streamed) take(why revocation) (taken bool) {
	if taken = x.revoke(why); taken {
		x.p.winding.Go(x.windUp)
	}
	return taken
}

// quiet returns when no hook can run any more.
func (x *streamed) quiet() {
	x.mu.Lock()
	x.over = true
	x.mu.Unlock()
	if x.timer != nil && x.timer.Stop() {
		x.hooks.Done()
	}
	if x.unhook != nil && x.unhook() {
		x.hooks.Done()
	}
	x.hooks.Wait()
}

// unarm is the end of arm, for who has the worker. What comes later arms for itself.
func (x *streamed) unarm() {
	x.quiet()
	x.w.x.end()
}

// detach ends the call at the end of its context or of an item's time, and leaves the worker to
// windUp.
func (x *streamed) detach(c *call) *Error {
	e := x.w.leave(x.ctx, &c.job)
	if c.evidence(x.ctx, &x.p.cfg, e) == lostWorker {
		x.charge = e.clone()
	}
	c.detached, x.ours = true, false
	x.p.winding.Go(x.windUp)
	return e
}

// lost is the error of a call whose worker was taken from the loop's body. It leaves the worker
// alone.
func (x *streamed) lost(c *call, why revocation) *Error {
	var e *Error
	switch why {
	case revokedStalled:
		took := time.Since(x.turn).Round(time.Millisecond)
		e = newError(TypeStreamStalled, MaybeExecuted, fmt.Sprintf("the loop's body took %v for one item, and the worker was taken away after StallTimeout, %v: "+
			"read faster, buffer the items, or raise it", took, x.limit), nil)
	case revokedEnded:
		e = contextError(x.ctx, MaybeExecuted, &HangError{})
	default:
		x.quiet()
		x.w.x.release()
		return x.w.withContext(newError(TypePoolNotAvailable, MaybeExecuted, "the pool was closed during the call", nil), &c.job, x.start)
	}
	c.detached = true
	return x.w.withContext(e, &c.job, x.start)
}

// windUp stops the generator and gives the worker back, on a goroutine that the pool's close joins.
// A generator that does not stop in time costs the worker.
func (x *streamed) windUp() {
	x.unarm()
	x.w.canceling.Store(true)
	u := windUp{
		p: x.p, res: x.res, id: x.id, info: x.info, stream: true, told: x.canceled, admitted: x.admitted, charge: x.charge,
		strike: x.w.cancels(), patience: x.p.cfg.patience(x.start),
	}
	switch {
	case x.charge != nil:
		u.why = "its call hung: " + x.charge.Message
	case x.revoked == revokedStalled:
		u.why = "the loop over the stream stalled"
	case x.revoked == revokedLeft:
		u.why = "the loop over the stream was left"
	default:
		u.why = "the context of the stream ended"
	}
	grace := "StopGrace"
	u.grace = max(x.p.cfg.StopGrace, 1) // none at all is none: 0 would be CancelGrace
	if u.strike && x.revoked != revokedStalled && x.revoked != revokedLeft {
		u.grace, grace = 0, "CancelGrace"
	}
	if x.charge == nil {
		u.why += ", and the generator did not stop within " + grace
	}
	u.run()
}

// giveBack ends the exchange, whose answer came then.
func (x *streamed) giveBack(answered time.Time) {
	x.p.spin.End()
	x.p.giveBack(x.res, answered)
}
