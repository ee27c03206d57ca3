package pypoolnats

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/foreign"
)

// served is one call on its server: from its request to the last message of its answer. Once its
// request is complete its goroutine runs it, and is the only one that sends what has a place in the
// answer.
type served struct {
	s      *Service
	id     string    // the last token of the subject that it listens on
	came   time.Time // when the request's first message did: its deadline counts from there
	reply  string
	header nats.Header
	ctl    control // the request's
	plain  bool    // the client is no pypool's: it gets one message
	size   int     // of the arguments when they are complete
	ctx    context.Context
	stop   context.CancelCauseFunc
	seq    uint64        // of the last message sent that has a place
	told   chan struct{} // has a token when credit has come

	unheard atomic.Int64 // times that nobody was there to hear that it is alive

	hooks sync.WaitGroup // alive, as long as it may run

	held int // bytes of the request that have come, as the service counts them; its mu guards it

	mu                     sync.Mutex // guards the fields below
	args                   []byte
	parts                  uint64    // of the request that have come, beside the first
	acked                  int       // bytes of the request that the client was told of
	moved                  time.Time // when the last part came
	running                bool
	over                   bool        // it has ended before it ran
	timer                  *time.Timer // runs alive; nil: it is not set
	quieted                bool        // the timer is not to be set again
	takenItems, takenBytes int         // of the answer, by the client
	sentItems, sentBytes   int
	nobody                 int64 // unheard, when it was last looked at
	deaf                   int   // how often in a row it had grown by then
}

// The bounds of what a client may ask for.
const (
	minAlive     = 20 * time.Millisecond
	maxAlive     = time.Minute
	defaultAlive = 2 * time.Second
	patience     = 5 // of these without a word: the other side is gone
)

// read reads the request.
func (c *served) read(subject string) *pypool.Error {
	if c.header.Get(headerControl) == "" {
		c.plain = true
	} else {
		ctl, err := readControl(c.header)
		if err != nil {
			return pypool.NewError(pypool.TypeProtocol, pypool.NotExecuted, "", &pypool.ProtocolError{Reason: "the client's request: " + err.Error()})
		}
		if ctl.Kind != "" {
			return pypool.NewError(pypool.TypeProtocol, pypool.NotExecuted, "",
				&pypool.ProtocolError{Reason: fmt.Sprintf("the server does not know requests of the kind %.32q: is the client of a later version?", ctl.Kind)})
		}
		c.ctl = ctl
	}
	wrong := c.ctl.calls(subject)
	if len(c.ctl.Command) > maxCommand || len(c.ctl.Program) > maxProgram || len(c.ctl.Session) > maxCommand {
		c.ctl = control{}
		return pypool.NewError(pypool.TypeInvalidArguments, pypool.NotExecuted, "the name of the command, the program or the session is too long", nil)
	}
	if wrong != nil {
		return wrong
	}
	c.size = max(c.ctl.Size, len(c.args))
	if c.size > c.s.o.maxSize {
		return pypool.NewError(pypool.TypeMessageTooLarge, pypool.NotExecuted,
			fmt.Sprintf("the request's arguments are %d bytes, WithMaxRequestBytes is %d", c.size, c.s.o.maxSize), nil)
	}
	if c.ctl.Alive == 0 {
		c.ctl.Alive = defaultAlive
	}
	c.ctl.Alive = min(max(c.ctl.Alive, minAlive), maxAlive)
	c.ctl.Items = min(max(c.ctl.Items, 1), windowItems)
	c.ctl.Bytes = min(max(c.ctl.Bytes, 1), windowBytes)
	return nil
}

// missing is how much of the request is still to come.
func (c *served) missing() int { return c.size - len(c.args) }

// from is the subject that the call listens on.
func (c *served) from() string { return c.s.one + "." + c.id }

// --- the request's parts -------------------------------------------------------------------------

// askForMore tells the client where to send the rest of its request.
func (c *served) askForMore() {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return
	}
	c.args = append(make([]byte, 0, min(c.size, 2*len(c.args))), c.args...) // as it comes: a size is easily said
	c.moved = time.Now()
	c.acked = len(c.args)
	c.setTimerLocked()
	have := c.acked
	c.mu.Unlock()
	c.send(&control{Kind: kindMore, From: c.from(), Bytes: have}, nil)
}

// part takes a part of the request.
func (c *served) part(ctl *control, data []byte) {
	c.mu.Lock()
	if c.running || c.over {
		c.mu.Unlock()
		return
	}
	c.parts++
	var err *pypool.Error
	switch {
	case ctl.Seq != c.parts:
		err = lostRequest(fmt.Sprintf("part %d of the request came in the place of part %d", ctl.Seq, c.parts))
	case len(data) == 0 || len(data) > c.missing():
		err = lostRequest(fmt.Sprintf("the request's parts are not the %d bytes that it has", c.size))
	default:
		err = c.s.hold(c, len(data))
	}
	if err != nil {
		c.over = true
		c.mu.Unlock()
		c.refuse(err)
		return
	}
	c.args = append(c.args, data...)
	c.moved = time.Now()
	complete := c.missing() == 0
	more := 0
	if have := len(c.args); !complete && have-c.acked >= windowBytes/4 {
		c.acked, more = have, have
	}
	c.mu.Unlock()
	switch {
	case complete:
		c.begin()
	case more > 0:
		c.send(&control{Kind: kindMore, From: c.from(), Bytes: more}, nil)
	}
}

// lostRequest is the error of a request that has not come whole.
func lostRequest(reason string) *pypool.Error {
	return pypool.NewError(pypool.TypePoolNotAvailable, pypool.NotExecuted, "the request was lost on the way: "+reason, nil)
}

// refuse is the end of a call that has not begun. Who calls it has set over.
func (c *served) refuse(err *pypool.Error) {
	c.quiet()
	c.answerError(err)
	c.s.leave(c)
}

// --- the call ------------------------------------------------------------------------------------

// begin runs the call, whose request is complete, on a goroutine that leave joins.
func (c *served) begin() {
	c.mu.Lock()
	if c.over {
		c.mu.Unlock()
		return
	}
	c.ctx, c.stop = context.WithCancelCause(c.s.base)
	c.running = true
	c.setTimerLocked()
	c.mu.Unlock()
	go c.run()
}

// abandon ends a call that has not begun to run, and reports whether it was one: whoever is told so
// has to take leave of it.
func (c *served) abandon() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running || c.over {
		return false
	}
	c.over = true
	return true
}

// cancel ends the call for its client.
func (c *served) cancel(why error) {
	if c.abandon() { // the rest of its request has not come
		c.quiet()
		c.s.leave(c)
		return
	}
	c.mu.Lock()
	stop := c.stop
	c.mu.Unlock()
	if stop != nil {
		stop(why)
	}
}

func (c *served) run() {
	defer c.s.leave(c)
	defer c.quiet()
	defer c.stop(nil)
	err := foreign.Try(c.execute) // the pool has an Observer, or is the caller's own
	switch fault, ended := err.(*foreign.Failure); {
	case ended:
		c.s.o.logger.Error("a call's server panicked", "service", c.s.name, "command", c.ctl.Command, "cause", fault.Cause, "stack", string(fault.Stack))
		c.answerError(pypool.NewError(pypool.TypeInternal, pypool.MaybeExecuted, "the call's server panicked", nil))
	case err != nil:
		c.answerError(c.explain(err))
	}
}

// execute makes the call, and answers it if it ends well.
func (c *served) execute() error {
	args, err := pypool.DecodeArgs(c.args)
	if err != nil {
		return err
	}
	ctx := c.ctx
	if d := c.ctl.Deadline; d != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, c.came.Add(d))
		defer cancel()
	}
	if f := c.s.o.ctx; f != nil {
		if made := f(ctx, c.header); made != nil {
			ctx = made
		}
	}
	opts := c.options()
	if c.ctl.Stream {
		return c.stream(ctx, args, opts)
	}
	res, err := c.call(ctx, args, opts)
	if err != nil {
		return err
	}
	return c.sendWhole(c.ctx, &control{Kind: kindResult, Worker: res.Worker(), Queued: res.Queued(), Ran: res.Ran()}, pypool.EncodeResult(res))
}

func (c *served) options() (opts []pypool.CallOption) {
	if c.ctl.Blobs {
		opts = append(opts, pypool.WithBlobs())
	}
	if trace := traceOf(c.header); trace != "" {
		opts = append(opts, pypool.WithTraceParent(trace))
	}
	for _, o := range []struct {
		d      time.Duration
		option func(time.Duration) pypool.CallOption
	}{{c.ctl.Timeout, pypool.WithTimeout}, {c.ctl.Checkout, pypool.WithCheckoutTimeout}, {c.ctl.Stall, pypool.WithStallTimeout}} {
		if o.d != 0 {
			opts = append(opts, o.option(o.d))
		}
	}
	return opts
}

func (c *served) call(ctx context.Context, args any, opts []pypool.CallOption) (pypool.Result, error) {
	switch ctl := &c.ctl; {
	case ctl.Program != "":
		if ctl.Session != "" {
			opts = append(opts, pypool.WithSession(ctl.Session))
		}
		return c.s.pool.ExecuteProgram(ctx, ctl.Program, args, opts...)
	case ctl.Session != "":
		return c.s.pool.ExecuteInSession(ctx, ctl.Session, ctl.Command, args, opts...)
	default:
		return c.s.pool.ExecuteAnonymous(ctx, ctl.Command, args, opts...)
	}
}

// stream answers with a stream's items. When ctx ends while one waits for credit, that one and those
// behind it are not sent. The pool says so, unless it has come to the end of the stream already.
func (c *served) stream(ctx context.Context, args any, opts []pypool.CallOption) error {
	if c.ctl.Session != "" {
		opts = append(opts, pypool.WithSession(c.ctl.Session))
	}
	var cut error // why an item was not sent
	for res, err := range c.s.pool.Stream(ctx, c.ctl.Command, args, opts...) {
		if err != nil {
			return err
		}
		if cut == nil {
			cut = c.sendWhole(ctx, &control{Kind: kindItem, Worker: res.Worker(), Queued: res.Queued(), Ran: res.Ran()}, pypool.EncodeResult(res))
		}
	}
	if cut != nil {
		why, t := ctx.Err(), pypool.TypeCanceled
		if errors.Is(why, context.DeadlineExceeded) {
			t = pypool.TypeOperationTimeout
		}
		return pypool.NewError(t, pypool.MaybeExecuted, "items were still on their way", why)
	}
	c.send(&control{Kind: kindEnd, Seq: c.next()}, nil)
	return nil
}

// explain makes the error the client's: that its call was stopped for the server's reasons is no
// cancellation of its own.
func (c *served) explain(err error) *pypool.Error {
	var e *pypool.Error
	if !errors.As(err, &e) || e == nil {
		return pypool.NewError(pypool.TypeInternal, pypool.MaybeExecuted, fmt.Sprint(err), nil)
	}
	why := context.Cause(c.ctx)
	if e.Type != pypool.TypeCanceled || why == nil || errors.Is(why, errCanceled) || errors.Is(why, errNobody) {
		return e
	}
	var hang *pypool.HangError
	var detail error
	if errors.As(e, &hang) {
		detail = hang
	}
	told := pypool.NewError(pypool.TypePoolNotAvailable, e.Delivery, why.Error()+" during the call", detail)
	told.Context = e.Context
	return told
}

// --- the answer ----------------------------------------------------------------------------------

// setTimerLocked has alive come again and again. It is not for a plain client, which would take
// what that sends for its answer.
func (c *served) setTimerLocked() {
	if c.timer == nil && !c.plain && !c.quieted {
		c.hooks.Add(1)
		c.timer = time.AfterFunc(c.pauseLocked(), c.alive)
	}
}

// pauseLocked is how long it is until alive comes again. Whatever its client asks for, a request that
// is not whole is soon seen to have stopped coming.
func (c *served) pauseLocked() time.Duration {
	if c.running {
		return c.ctl.Alive
	}
	return min(c.ctl.Alive, defaultAlive)
}

// alive tells the client that its call is being served, and learns whether the client is there.
func (c *served) alive() {
	defer c.hooks.Done()
	c.mu.Lock()
	if c.quieted || c.over { // who has set over takes leave
		c.mu.Unlock()
		return
	}
	stale := !c.running && time.Since(c.moved) > patience*c.pauseLocked()
	if stale {
		c.over, c.quieted = true, true
	} else {
		c.hooks.Add(1)
		c.timer.Reset(c.pauseLocked())
	}
	if n := c.unheard.Load(); n != c.nobody {
		c.nobody = n
		c.deaf++
	} else {
		c.deaf = 0
	}
	gone, stop := c.deaf >= patience, c.stop
	c.mu.Unlock()
	switch {
	case stale:
		c.answerError(lostRequest("its parts have stopped coming"))
		c.s.leave(c)
	case gone && stop != nil:
		stop(errNobody)
	default:
		c.publish((&control{Kind: kindAlive, From: c.from()}).message(c.reply, c.from(), nil))
	}
}

// quiet returns when alive does not run any more.
func (c *served) quiet() {
	c.mu.Lock()
	c.quieted = true
	timer := c.timer
	c.mu.Unlock()
	if timer != nil && timer.Stop() {
		c.hooks.Done()
	}
	c.hooks.Wait()
}

// next numbers what has a place in the answer.
func (c *served) next() uint64 {
	c.seq++
	return c.seq
}

// send sends one message.
func (c *served) send(ctl *control, payload []byte) {
	m := ctl.message(c.reply, "", payload)
	if c.plain {
		m.Header = nil
	}
	c.publish(m)
}

// publish gives a message to NATS. One that cannot be sent is lost, and the client finds that out.
func (c *served) publish(m *nats.Msg) {
	if err := c.s.nc.PublishMsg(m); err != nil {
		c.s.o.logger.Warn("an answer cannot be sent on NATS", "service", c.s.name, "error", err)
	}
}

// sendWhole sends a payload, in parts where it is large, as the client takes them in. An error says
// that ctx has ended before that.
func (c *served) sendWhole(ctx context.Context, ctl *control, payload []byte) error {
	alone, part := limits(c.s.nc, 0)
	if len(payload) <= alone {
		part = alone
	} else if ctl.Size = len(payload); c.plain {
		return pypool.NewError(pypool.TypeMessageTooLarge, pypool.Executed,
			fmt.Sprintf("the result is %d bytes, and a message takes %d: take pypool's client, or a smaller result", len(payload), alone), nil)
	}
	isItem := ctl.Kind == kindItem
	if isItem || ctl.Size > 0 {
		ctl.From = c.from() // where credit goes
	}
	for first := true; first || len(payload) > 0; first = false {
		n := min(len(payload), part)
		if err := c.await(ctx, n, first && isItem, !first || isItem); err != nil {
			return err
		}
		ctl.Seq = c.next()
		c.send(ctl, payload[:n])
		payload, ctl = payload[n:], &control{Kind: kindPart}
	}
	return nil
}

// await counts a message of so many bytes as sent. One that waits does so until that much may be on
// its way.
func (c *served) await(ctx context.Context, bytes int, item, waits bool) error {
	for {
		c.mu.Lock()
		items, onWay := c.sentItems-c.takenItems, c.sentBytes-c.takenBytes
		if !waits || (!item || items < c.ctl.Items) && (onWay <= 0 || onWay+bytes <= c.ctl.Bytes) {
			c.sentBytes += bytes
			if item {
				c.sentItems++
			}
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
		select {
		case <-c.told:
		case <-ctx.Done():
			return pypool.NewError(pypool.TypeCanceled, pypool.Executed, "the answer was on its way", context.Canceled)
		}
	}
}

// credit takes in how much of the answer the client has.
func (c *served) credit(ctl *control) {
	c.mu.Lock()
	c.takenItems = min(max(c.takenItems, ctl.Items), c.sentItems)
	c.takenBytes = min(max(c.takenBytes, ctl.Bytes), c.sentBytes)
	c.mu.Unlock()
	select {
	case c.told <- struct{}{}:
	default:
	}
}

// answerError ends the answer with an error.
func (c *served) answerError(err *pypool.Error) {
	c.s.failed.Add(1)
	if at := &err.Context; at.Command == "" {
		at.Command, at.Program, at.Session = c.ctl.Command, c.ctl.Program, c.ctl.Session
	}
	if c.plain {
		c.publish(&nats.Msg{Subject: c.reply, Data: []byte(err.Error()), Header: microError(err)})
		return
	}
	ctx := c.ctx
	if ctx == nil {
		ctx = c.s.base
	}
	_ = c.sendWhole(ctx, &control{Kind: kindError, status: microError(err)}, pypool.EncodeError(err)) // else the client has left
}

// microError is the error as micro's clients know errors.
func microError(err *pypool.Error) nats.Header {
	text := err.Error()
	return nats.Header{micro.ErrorCodeHeader: {strconv.Itoa(statusOf(err))}, micro.ErrorHeader: {text[:min(len(text), maxStatus)]}}
}

const maxStatus = 512 // bytes of an error's line in a header

// statusOf is the error's HTTP status, as docs/errors.md has it.
func statusOf(err *pypool.Error) int {
	switch err.Type {
	case pypool.TypeCheckoutTimeout, pypool.TypeStreamStalled, pypool.TypePoolNotAvailable, pypool.TypeQueueFull, pypool.TypeNestedCall, pypool.TypeCircuitOpen:
		return http.StatusServiceUnavailable
	case pypool.TypeOperationTimeout:
		return http.StatusGatewayTimeout
	case pypool.TypeCanceled:
		return statusClosed
	case pypool.TypeWorkerExited, pypool.TypeProtocol:
		return http.StatusBadGateway
	case pypool.TypeMessageTooLarge:
		if err.Delivery == pypool.NotExecuted {
			return http.StatusRequestEntityTooLarge
		}
	case pypool.TypeInvalidArguments:
		return http.StatusBadRequest
	case pypool.TypeUnknownCommand:
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

const statusClosed = 499 // nginx's: the client has left
