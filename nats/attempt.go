package pypoolnats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pypool/pypool"
)

const (
	deadlineGrace = 250 * time.Millisecond // what a server's word may take after the deadline, as KillGrace
	outage        = time.Minute            // what the client's own connection may be interrupted for
)

// attempt is one request, and its answer as far as that has come.
type attempt struct {
	c   *Client
	p   *pending
	r   *request
	ctx context.Context

	before     error  // the connection's last one, when the attempt began
	reconnects uint64 // the connection's, then

	fate     atomic.Int32 // of the request: what is below
	sent     bool         // the request has begun to go out
	rest     []byte       // of it, still to be sent
	parts    uint64       // of it, sent beside the first
	answered bool         // a last message came, nobody was there, or the server is told that nobody waits
	stuck    bool         // what the connection was asked last goes on without the caller, and all but fate is its own

	told   atomic.Bool   // the server is told that nobody waits, or about to be
	inBody atomic.Bool   // the loop's body runs
	over   chan struct{} // closed at the end; nil: no body has run
	beside chan struct{} // closed when nobody watches beside the body any more

	seq        uint64  // of the last message that has a place
	seen       uint64  // seq, when the server was last watched
	head       control // of the payload that is coming in
	body       []byte
	coming     int // bytes of it that are still to come
	window     int // bytes that the server may send beyond what it knows to be taken
	takenItems int
	takenBytes int
	toldItems  int // of these the server knows
	toldBytes  int
	apart      time.Duration // how long the connection has been seen interrupted, since something was heard
	silentFrom time.Duration // since p.begun: before that silence does not count
	watched    time.Duration // since p.begun: when watch last looked
}

// attempt sends a request and has its answer.
func (c *Client) attempt(ctx context.Context, r *request) (pypool.Result, *pypool.Error) {
	if ctx.Err() != nil {
		return pypool.Result{}, ended(ctx, pypool.NotExecuted)
	}
	if n := c.stuck.Load(); n > maxStuck {
		return pypool.Result{}, unavailable(pypool.NotExecuted, fmt.Sprintf("the connection takes nothing, and %d bytes of requests wait for it", n), nil)
	}
	a := &attempt{c: c, r: r, ctx: ctx}
	defer a.finish() // also when the loop's body panics
	if err := a.ask(a.send); err != nil {
		return pypool.Result{}, err
	}
	return a.receive()
}

// ended is the error of a call whose context has.
func ended(ctx context.Context, d pypool.Delivery) *pypool.Error {
	why := ctx.Err()
	if cause := context.Cause(ctx); cause != nil && cause != why {
		why = errors.Join(why, cause)
	}
	t, message := pypool.TypeCanceled, "canceled by the caller"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t, message = pypool.TypeOperationTimeout, "the context's deadline passed, and the server said nothing"
		if d == pypool.NotExecuted {
			t, message = pypool.TypeCheckoutTimeout, "the context's deadline passed before the call was made"
		}
	}
	if d != pypool.NotExecuted {
		why = errors.Join(&pypool.HangError{NoStacks: "its server has said nothing of it"}, why)
	}
	return pypool.NewError(t, d, message, why)
}

// delivery is what is known of the handler when no answer tells: a request of which something was
// never sent has not run.
func (a *attempt) delivery() pypool.Delivery {
	if a.fate.Load() == out {
		return pypool.MaybeExecuted
	}
	return pypool.NotExecuted
}

// send sends the request, or its first part.
func (a *attempt) send() *pypool.Error {
	frames := maxFrames
	if a.r.item == nil {
		frames = maxCallFrames
	}
	p, err := a.c.open(frames)
	if err != nil {
		return err
	}
	a.p = p
	nc, ctl := a.c.nc, a.r.ctl
	a.before, a.reconnects = nc.LastError(), nc.Stats().Reconnects
	if size, most := headerSize(a.r.header), maxPayload(nc); int64(size) > most/2 {
		return invalid(fmt.Sprintf("the headers that WithHeaders adds are %d bytes, and a message of this connection takes %d", size, most))
	}
	_, part := limits(nc, 0)
	a.window = min(windowBytes, windowItems*part)
	ctl.Items, ctl.Bytes = windowItems, a.window
	if end, ok := a.ctx.Deadline(); ok {
		ctl.Deadline = max(time.Until(end), 1)
	}
	message := func(payload []byte) *nats.Msg {
		m := ctl.message(callSubject(a.c.name, ctl.Command), a.c.reply(a.p), payload)
		for key, values := range a.r.header {
			if m.Header[key] == nil {
				m.Header[key] = values
			}
		}
		return m
	}
	m := message(a.r.encoded)
	if alone, part := limits(nc, headerSize(m.Header)); len(m.Data) > alone {
		ctl.Size = len(a.r.encoded)
		m, a.rest = message(a.r.encoded[:part]), a.r.encoded[part:]
	}
	return a.publish(m, len(a.rest))
}

// publish sends a message of the request, behind which so many bytes of it are left.
func (a *attempt) publish(m *nats.Msg, left int) *pypool.Error {
	if a.fate.Load() == abandoned || left == 0 && !a.fate.CompareAndSwap(unsent, out) {
		return nil // nobody waits for it any more
	}
	if err := a.c.nc.PublishMsg(m); err != nil {
		return unavailable(pypool.NotExecuted, "the request cannot be sent", err)
	}
	a.sent = true
	return nil
}

// sendParts sends more of the request, when the server has so much of it.
func (a *attempt) sendParts(has int) *pypool.Error {
	_, part := limits(a.c.nc, 0)
	for len(a.rest) > 0 && len(a.r.encoded)-len(a.rest)-has < windowBytes {
		n := min(part, len(a.rest))
		a.parts++
		m := (&control{Kind: kindPart, Seq: a.parts}).message(*a.p.from.Load(), a.c.reply(a.p), a.rest[:n])
		if err := a.publish(m, len(a.rest)-n); err != nil {
			return err
		}
		a.rest = a.rest[n:]
	}
	return nil
}

// cancel tells the server that nobody waits any more, or all servers where it is not known.
func (a *attempt) cancel() {
	if a.told.Swap(true) {
		return
	}
	ctl := control{Kind: kindCancel}
	subject := allSubject(a.c.name)
	if from := a.p.from.Load(); from != nil {
		subject = *from
	} else {
		ctl.Call = a.c.reply(a.p)
	}
	_ = a.c.nc.PublishMsg(ctl.message(subject, "", nil)) // else there is no connection, and the server will find that out
}

// receive takes what comes until the end of the answer, of the context, or of all hope.
func (a *attempt) receive() (pypool.Result, *pypool.Error) {
	tick := time.NewTicker(a.c.o.lostAfter / patience)
	defer tick.Stop()
	done := a.ctx.Done()
	var late <-chan time.Time
	for {
		if err := a.left(); err != nil { // not by chance behind what has come
			return pypool.Result{}, err
		}
		if done != nil && a.ctx.Err() != nil {
			done = nil // the server's word may still come: it knows more
			grace := time.NewTimer(deadlineGrace)
			defer grace.Stop()
			late = grace.C
		}
		select {
		case m := <-a.p.frames:
			if end, res, err := a.take(m); end {
				return res, err
			}
		case <-done:
		case <-late:
			for len(a.p.frames) > 0 { // they have come in time
				if end, res, err := a.take(<-a.p.frames); end {
					return res, err
				}
			}
			return pypool.Result{}, ended(a.ctx, a.delivery())
		case <-a.p.full:
			return pypool.Result{}, a.violation("more came than was asked for")
		case <-a.c.closing:
		case <-tick.C:
			if err := a.ask(a.watch); err != nil {
				return pypool.Result{}, err
			}
			if err := a.creditAgain(); err != nil {
				return pypool.Result{}, err
			}
		}
	}
}

// left is the error of a call whose caller has left it, or has closed the client. That its deadline
// has passed the server knows itself.
func (a *attempt) left() *pypool.Error {
	if why := a.ctx.Err(); why != nil && !errors.Is(why, context.DeadlineExceeded) {
		return ended(a.ctx, a.delivery())
	}
	select {
	case <-a.c.closing:
		return unavailable(a.delivery(), "the client was closed during the call", nil)
	default:
		return nil
	}
}

// watch finds out whether the server still is there.
func (a *attempt) watch() *pypool.Error {
	nc, period := a.c.nc, a.c.o.lostAfter/patience
	now, heard := time.Since(a.p.begun), time.Duration(a.p.heard.Load())
	if now-a.watched > 2*period { // this machine has not run meanwhile, and what has come is not read yet
		a.silentFrom = now
	}
	a.watched = now
	switch {
	case nc.IsClosed():
		return unavailable(a.delivery(), "the connection was closed during the call", nats.ErrConnectionClosed)
	case !nc.IsConnected():
		if heard > a.silentFrom { // that was another interruption
			a.apart = 0
		}
		if a.apart += period; a.apart > outage {
			return unavailable(a.delivery(), fmt.Sprintf("the connection has been interrupted for %v", outage), nats.ErrDisconnected)
		}
		a.silentFrom = now
	case now-max(a.silentFrom, heard) > a.c.o.lostAfter:
		lost := fmt.Sprintf("the call's server is lost: nothing was heard of it for %v", a.c.o.lostAfter)
		if nc.Stats().Reconnects != a.reconnects { // NATS keeps nothing for who is away
			lost = fmt.Sprintf("the server, the request or the answer is lost: the client's connection was interrupted during the call, and nothing was heard for %v", a.c.o.lostAfter)
		}
		return unavailable(a.delivery(), lost, a.forbidden())
	}
	return nil
}

// forbidden is NATS's word that the request may not be published, its answer not be heard, or its
// server not be told of it. It comes beside the connection, and to no call.
func (a *attempt) forbidden() error {
	err := a.c.nc.LastError()
	for _, subject := range []string{callSubject(a.c.name, a.r.ctl.Command), a.c.inbox + "*"} {
		if denies(err, `"`+subject+`"`) {
			return err
		}
	}
	if a.p.from.Load() != nil {
		return a.mute()
	}
	// A subject mapping comes before the permissions, which are of what it leads to. That is known to
	// NATS alone: it is a request of another name's, and refused since this one was sent.
	own := `"` + callSubject(a.c.name, "")
	if err != a.before && denies(err, `Publish to "pypool.`) && denies(err, ".call.") && !denies(err, own) {
		return err
	}
	return nil
}

// mute is NATS's word that what concerns a call may not be published to this call's server, be it
// this call or another one: those of a mapping to another name's service are not of the client's own
// name. One from before the attempt says nothing, as permissions change.
func (a *attempt) mute() error {
	from := *a.p.from.Load()
	const one = ".one."
	part := `"` + from + `"`
	if i := strings.LastIndex(from, one); i >= 0 {
		part = `"` + from[:i+len(one)]
	}
	if err := a.c.nc.LastError(); err != a.before && denies(err, part) {
		return err
	}
	return nil
}

// unsaid is the error of a call whose server waits for what it may not be told: for the rest of the
// request, or for credit. It goes on saying that it serves the call.
func (a *attempt) unsaid() *pypool.Error {
	from := a.p.from.Load()
	if from == nil {
		return nil
	}
	why := a.mute()
	alone, _ := limits(a.c.nc, 0)
	switch {
	case why == nil:
	case a.seq == 0:
		if denies(why, `"`+*from+`"`) { // else it was another call's
			return unavailable(pypool.NotExecuted, "the call's server may not be sent the rest of the request", why)
		}
	case a.takenItems >= windowItems || a.takenBytes > 0 && a.takenBytes+alone > a.window:
		return unavailable(a.delivery(), "the call's server may not be told how much of the answer has come", why)
	}
	return nil
}

// refused is the error with NATS's word for why the server does not have the whole request, if there
// is one.
func (a *attempt) refused(e *pypool.Error) *pypool.Error {
	if a.parts == 0 || e.Type != pypool.TypePoolNotAvailable || e.Delivery != pypool.NotExecuted || a.p.from.Load() == nil {
		return e
	}
	told := a.ask(func() *pypool.Error {
		why := a.mute()
		if why == nil {
			return nil
		}
		told := unavailable(e.Delivery, e.Message, why)
		told.Context = e.Context
		return told
	})
	if told == nil || a.stuck { // the connection does not even say that, and the server's word is there
		return e
	}
	return told
}

func (a *attempt) violation(reason string) *pypool.Error {
	return pypool.NewError(pypool.TypeProtocol, a.delivery(), "", &pypool.ProtocolError{Reason: "the server's answer: " + reason})
}

// take takes one message in, and reports whether it was the last.
func (a *attempt) take(m *nats.Msg) (end bool, res pypool.Result, err *pypool.Error) {
	if isNobody(m) {
		a.answered = true
		if a.p.from.Load() == nil {
			return true, res, unavailable(pypool.NotExecuted, fmt.Sprintf("nobody serves %q on NATS", a.c.name), nats.ErrNoResponders)
		}
		// A part of the request has found nobody: it is not whole.
		return true, res, unavailable(pypool.NotExecuted, "the call's server was lost before it had the request", nats.ErrNoResponders)
	}
	ctl, bad := readControl(m.Header)
	if bad != nil {
		return true, res, a.violation(bad.Error())
	}
	if ctl.From != "" && a.p.from.Load() == nil {
		a.p.from.Store(&ctl.From)
	}
	if ctl.Seq > 0 {
		if a.seq++; ctl.Seq != a.seq {
			return true, res, unavailable(a.delivery(), fmt.Sprintf("a part of the answer was lost on the way: message %d came in the place of message %d", ctl.Seq, a.seq), nil)
		}
	}
	switch ctl.Kind {
	case kindMore:
		if a.p.from.Load() == nil {
			return true, res, a.violation("it takes more, and does not say where")
		}
		err := a.ask(func() *pypool.Error { return a.sendParts(ctl.Bytes) })
		return err != nil, res, err
	case kindPart:
		if len(m.Data) == 0 || len(m.Data) > a.coming {
			return true, res, a.violation("a part does not belong to it")
		}
		a.body = append(a.body, m.Data...)
		a.coming -= len(m.Data)
		a.takenBytes += len(m.Data)
		if a.coming > 0 {
			err := a.credit()
			return err != nil, res, err
		}
		return a.whole()
	case kindItem, kindResult, kindError, kindEnd:
		a.head, a.body, a.coming = ctl, m.Data, 0
		a.takenBytes += len(m.Data)
		limit := a.c.o.maxSize
		if ctl.Kind == kindError {
			limit = max(limit, maxErrorBytes)
		}
		if size := max(ctl.Size, len(m.Data)); size > limit {
			return true, res, pypool.NewError(pypool.TypeMessageTooLarge, a.delivered(&ctl), fmt.Sprintf("the result is %d bytes, WithMaxResultBytes is %d", size, limit), nil)
		}
		if ctl.Size > len(m.Data) {
			a.coming = ctl.Size - len(m.Data)
			a.body = append(make([]byte, 0, min(ctl.Size, 2*windowBytes)), m.Data...) // as it comes: a size is easily said
			err := a.credit()
			return err != nil, res, err
		}
		return a.whole()
	}
	return false, res, nil // of a later version
}

// delivered is what a payload of that kind says of the handler: an item is one of more to come.
func (a *attempt) delivered(ctl *control) pypool.Delivery {
	if ctl.Kind == kindResult {
		return pypool.Executed
	}
	return a.delivery()
}

const maxErrorBytes = 64 << 20 // of an error: a traceback can be as long as any message

// whole takes a complete payload in.
func (a *attempt) whole() (end bool, res pypool.Result, err *pypool.Error) {
	call := pypool.CallInfo{Pool: a.c.name, Session: a.r.ctl.Session, Command: a.r.ctl.Command, Program: a.r.ctl.Program}
	info := pypool.ResultInfo{Worker: a.head.Worker, Queued: a.head.Queued, Ran: a.head.Ran, Call: call}
	body := a.body
	a.body = nil
	switch a.head.Kind {
	case kindResult:
		a.answered = true
		return true, pypool.DecodeResult(body, info), nil
	case kindEnd:
		a.answered = true
		return true, res, nil
	case kindError:
		e, bad := pypool.DecodeError(body)
		if bad != nil {
			return true, res, a.violation(bad.Error())
		}
		a.answered = true
		return true, res, a.refused(e)
	}
	if a.r.item == nil {
		return true, res, a.violation("an item came, and the call is no stream")
	}
	a.takenItems++
	switch stays, err := a.lend(pypool.DecodeResult(body, info)); {
	case err != nil:
		return true, res, err
	case !stays:
		a.r.left = true
		return true, res, nil
	}
	a.silentFrom = time.Since(a.p.begun) // nobody has looked at the connection while the loop's body ran
	err = a.credit()
	return err != nil, res, err
}

// lend has the loop's body run for an item, and reports whether the loop goes on. Where its caller
// has left already it does not run: who watches beside it may have looked before.
func (a *attempt) lend(item pypool.Result) (stays bool, err *pypool.Error) {
	if a.over == nil {
		a.watchBody()
	}
	a.inBody.Store(true) // if the body panics it stays so until finish
	if err = a.left(); err == nil {
		a.r.yielded = true
		stays = a.r.item(item)
	}
	a.inBody.Store(false)
	return stays, err
}

// watchBody tells the server that the caller has left, while the goroutine that would is in the
// loop's body. It begins once for a stream, with the first item. leave joins it.
func (a *attempt) watchBody() {
	a.over, a.beside = make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(a.ctx) // the caller's own may have methods of his
	go func() {
		defer close(a.beside)
		defer cancel()
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return // the server knows it
			}
		case <-a.c.closing:
		case <-a.over:
			return
		}
		if a.inBody.Load() {
			a.cancel()
		}
	}()
}

// credit tells the server now and then how much has been taken in.
func (a *attempt) credit() *pypool.Error {
	if a.takenItems-a.toldItems < windowItems/2 && a.takenBytes-a.toldBytes < a.window/4 {
		return nil
	}
	return a.tell()
}

// creditAgain tells it when nothing has come for a while: the last word may have been lost, and the
// server be waiting for it, while it says that it is serving.
func (a *attempt) creditAgain() *pypool.Error {
	quiet := a.seq == a.seen && len(a.p.frames) == 0
	if a.seen = a.seq; !quiet {
		return nil
	}
	if a.seq == 0 && a.parts == 0 { // the server has been told nothing, and needs nothing
		return nil
	}
	if err := a.ask(a.unsaid); err != nil || a.seq == 0 {
		return err
	}
	return a.tell()
}

func (a *attempt) tell() *pypool.Error {
	from := a.p.from.Load()
	if from == nil {
		return nil
	}
	a.toldItems, a.toldBytes = a.takenItems, a.takenBytes
	m := (&control{Kind: kindCredit, Items: a.takenItems, Bytes: a.takenBytes}).message(*from, "", nil)
	return a.ask(func() *pypool.Error {
		_ = a.c.nc.PublishMsg(m) // else there is no connection: it is told again
		return nil
	})
}
