package pypoolnats

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/foreign"
)

// ClientOption is an option of [NewClient] and [Client.With].
type ClientOption func(*clientOptions)

type clientOptions struct {
	retry     Retry
	lostAfter time.Duration
	maxSize   int
	headers   func(context.Context, nats.Header)
}

// Retry says which calls a client makes again, on any server, which may be another one.
type Retry struct {
	// Attempts is how often a call is made at the most, the first time included. Default: 3;
	// negative, or 1: once.
	//
	// Again are made calls that provably did not begin, because of their server: it is shut down or
	// not there, its queue is full, it cannot start workers, or they were lost. A stream is so
	// until its loop has had an item. Errors of the call's own (arguments, an unknown command,
	// timeouts, exceptions) end it.
	Attempts int
	// Backoff is the wait before the next attempt, doubled each time. Default: 50 ms to 1 s.
	Backoff pypool.Backoff
	// MaybeExecuted has calls made again whose server, or worker, was lost while they may have been
	// running: they may run twice. It is for commands that bear it. The error of such a call is that
	// of its last attempt, and a MaybeExecuted also where that one has not run.
	MaybeExecuted bool
}

// WithRetry sets which calls are made again.
func WithRetry(r Retry) ClientOption { return func(o *clientOptions) { o.retry = r } }

// WithLostAfter sets for how long a call waits for a word of its server, which says five times in
// that time that it is serving: then the server counts as lost, and the error is an ErrPoolClosed
// with the delivery MaybeExecuted. While the client's own connection is interrupted that does not
// count, for up to a minute. Default: 10 s; at least 100 ms, at most 5 min.
func WithLostAfter(d time.Duration) ClientOption { return func(o *clientOptions) { o.lostAfter = d } }

// WithMaxResultBytes bounds one result, and one item of a stream: a larger one is an
// ErrMessageTooLarge. Default: 64 MiB, as Config.MaxMessageBytes.
func WithMaxResultBytes(n int) ClientOption { return func(o *clientOptions) { o.maxSize = n } }

// WithHeaders has f add headers to each request: the trace of ctx, say, as OpenTelemetry's
// propagators do. What it writes to traceparent is what Python sees.
func WithHeaders(f func(ctx context.Context, h nats.Header)) ClientOption {
	return func(o *clientOptions) { o.headers = f }
}

// Client is a [pypool.Caller] whose calls are served by the services of a name. It is safe for
// concurrent use. Close must be called.
type Client struct {
	*mailbox
	o clientOptions
}

var _ pypool.Caller = (*Client)(nil)

// NewClient makes a client of the services of that name. It does nothing yet: what is wrong with
// name, or with nc, is the error of each call.
//
// A call is as one of a [pypool.Pool]. It goes to one server that NATS chooses. The options' zero
// values stand for the server's pool's own. ctx's deadline bounds it everywhere, and its end stops
// what runs. Without a deadline, and when the server's timeouts are off, it takes as long as the
// server says that it is serving. Beside the errors that the server's pool has made, whose Pool and
// Worker are that one's, a call may fail with:
//
//   - ErrPoolClosed, NotExecuted: there is no server, or the request cannot be sent.
//   - ErrPoolClosed, MaybeExecuted: the server was lost or shut down, a part of the answer was lost on
//     the way, or the client was closed.
//   - ErrProtocol: what came is no answer, or of a version that this client does not speak.
//   - ErrMessageTooLarge: the result is larger than WithMaxResultBytes.
func NewClient(nc *nats.Conn, name string, opts ...ClientOption) *Client {
	c := &Client{mailbox: &mailbox{nc: nc, name: name, calls: map[string]*pending{}, closing: make(chan struct{})}}
	return c.With(opts...)
}

// With is the same client with other options: for one call, say.
//
//	twice := client.With(pypoolnats.WithRetry(pypoolnats.Retry{MaybeExecuted: true}))
//	n, err := pypool.Call[int](ctx, twice, "count", nil)
//
// It shares the connection, and Close: one is enough.
func (c *Client) With(opts ...ClientOption) *Client {
	other := *c
	for _, opt := range opts {
		if opt != nil {
			opt(&other.o)
		}
	}
	o := &other.o
	switch {
	case o.retry.Attempts == 0:
		o.retry.Attempts = 3
	case o.retry.Attempts < 0:
		o.retry.Attempts = 1
	}
	if o.retry.Backoff.Min <= 0 {
		o.retry.Backoff.Min = 50 * time.Millisecond
	}
	if o.retry.Backoff.Max <= 0 {
		o.retry.Backoff.Max = max(time.Second, o.retry.Backoff.Min)
	}
	if o.lostAfter <= 0 {
		o.lostAfter = patience * defaultAlive
	}
	o.lostAfter = min(max(o.lostAfter, patience*minAlive), patience*maxAlive)
	if o.maxSize <= 0 {
		o.maxSize = defaultMaxMessage
	}
	return &other
}

// Close ends the client. Its calls, and those of clients that With has made of it, get an
// ErrPoolClosed. The connection stays its maker's. It may be called again. The error is always nil.
func (c *Client) Close() error {
	c.close()
	return nil
}

// ExecuteInSession is [pypool.Pool.ExecuteInSession], on a server.
func (c *Client) ExecuteInSession(ctx context.Context, sessionID, command string, args any, opts ...pypool.CallOption) (pypool.Result, error) {
	r := &request{ctl: control{Command: command, Session: sessionID}, args: args, fixed: true}
	if sessionID == "" { // InSession takes it for none
		return c.call(ctx, r, append(opts[:len(opts):len(opts)], pypool.WithSession("")))
	}
	return c.call(ctx, r, opts)
}

// ExecuteAnonymous is [pypool.Pool.ExecuteAnonymous], on a server.
func (c *Client) ExecuteAnonymous(ctx context.Context, command string, args any, opts ...pypool.CallOption) (pypool.Result, error) {
	return c.call(ctx, &request{ctl: control{Command: command}, args: args, fixed: true}, opts)
}

// ExecuteProgram is [pypool.Pool.ExecuteProgram], on a server.
func (c *Client) ExecuteProgram(ctx context.Context, programID string, inputs any, opts ...pypool.CallOption) (pypool.Result, error) {
	return c.call(ctx, &request{ctl: control{Command: commandProgram, Program: programID}, args: inputs, program: true}, opts)
}

// Stream is [pypool.Pool.Stream], on a server. Up to 64 items, or 2 MiB of them, come ahead of the
// loop; a slow loop halts the generator then, and StallTimeout counts from there. Leaving the loop
// stops the generator, and does not wait for that. So does the end of ctx, or Close, also while the
// loop's body runs: the loop gets its error when it comes back.
func (c *Client) Stream(ctx context.Context, command string, args any, opts ...pypool.CallOption) iter.Seq2[pypool.Result, error] {
	return func(yield func(pypool.Result, error) bool) {
		r := &request{ctl: control{Command: command, Stream: true}, args: args}
		r.item = func(res pypool.Result) bool { return yield(res, nil) }
		if _, err := c.call(ctx, r, opts); err != nil && !r.left {
			yield(pypool.Result{}, err)
		}
	}
}

// request is one call of a client's.
type request struct {
	ctl     control
	args    any
	program bool
	fixed   bool // the session is fixed by the method
	item    func(pypool.Result) bool

	encoded []byte
	header  nats.Header
	begun   time.Time
	yielded bool // the loop has had an item
	left    bool // the loop was left
}

// call makes a call, again where that is allowed.
func (c *Client) call(ctx context.Context, r *request, opts []pypool.CallOption) (pypool.Result, error) {
	ctx = foreign.Context(ctx)
	r.begun = time.Now()
	if err := c.prepare(ctx, r, opts); err != nil {
		return pypool.Result{}, c.complete(r, err)
	}
	pause := c.o.retry.Backoff.Min
	maybe := false // an attempt may have run
	for attempt := 1; ; attempt++ {
		res, err := c.attempt(ctx, r)
		if err == nil || r.left {
			return res, nil
		}
		if attempt >= c.o.retry.Attempts || r.yielded || !c.o.retry.again(err) || !c.rest(ctx, pause) {
			if maybe {
				err = mayHaveRun(err)
			}
			return pypool.Result{}, c.complete(r, err)
		}
		maybe = maybe || err.Delivery != pypool.NotExecuted
		pause = min(2*pause, c.o.retry.Backoff.Max)
	}
}

// mayHaveRun is the last attempt's error as that of all attempts, of which one before may have run.
func mayHaveRun(err *pypool.Error) *pypool.Error {
	if err.Delivery != pypool.NotExecuted {
		return err
	}
	all := *err // others may have it, too
	all.Delivery = pypool.MaybeExecuted
	all.Message = strings.TrimPrefix(all.Message+"; an attempt before may have run", "; ")
	return &all
}

// again reports whether a call that ended so is to be made again.
func (r *Retry) again(err *pypool.Error) bool {
	if err.Delivery != pypool.NotExecuted && !(r.MaybeExecuted && err.Delivery == pypool.MaybeExecuted) {
		return false
	}
	switch err.Type {
	case pypool.TypePoolNotAvailable, pypool.TypeQueueFull, pypool.TypeWorkerStart, pypool.TypeWorkerExited:
		return true
	case pypool.TypeCircuitOpen: // a command's would be open elsewhere, too, or be opened
		var circuit *pypool.CircuitError
		return errors.As(err, &circuit) && circuit != nil && circuit.Command == ""
	}
	return false
}

// rest waits before the next attempt, and reports whether there is to be one.
func (c *Client) rest(ctx context.Context, pause time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < pause {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
	case <-c.closing:
	}
	return false
}

// prepare checks and encodes what the caller gave.
func (c *Client) prepare(ctx context.Context, r *request, opts []pypool.CallOption) *pypool.Error {
	o, err := pypool.ReadCallOptions(opts...)
	if err == nil && r.fixed {
		err = o.InSession(r.ctl.Session)
	} else if err == nil {
		r.ctl.Session = o.Session
	}
	if err != nil {
		r.ctl.Session = ""
		return own(err)
	}
	if err := checkName(c.name); err != nil {
		return invalid(err.Error())
	}
	ctl := &r.ctl
	switch {
	case ctl.Command == "" || len(ctl.Command) > maxCommand:
		unknown := &pypool.UnknownCommandError{Name: ctl.Command}
		return pypool.NewError(pypool.TypeUnknownCommand, pypool.NotExecuted, "", unknown)
	case r.program && ctl.Program == "":
		return invalid("the program id is empty")
	case len(ctl.Program) > maxProgram:
		unknown := &pypool.UnknownCommandError{Name: ctl.Program}
		return pypool.NewError(pypool.TypeUnknownCommand, pypool.NotExecuted, "", unknown)
	}
	ctl.Timeout, ctl.Checkout, ctl.Stall = o.Timeout, o.CheckoutTimeout, o.StallTimeout
	ctl.Blobs = o.Blobs
	ctl.Alive = c.o.lostAfter / patience
	if r.encoded, err = pypool.EncodeArgs(r.args); err != nil {
		return own(err)
	}
	r.header = nats.Header{}
	if o.TraceParent != "" {
		r.header.Set(headerTrace, o.TraceParent)
	}
	if c.o.headers != nil {
		c.o.headers(ctx, r.header)
	}
	return nil
}

func invalid(message string) *pypool.Error {
	return pypool.NewError(pypool.TypeInvalidArguments, pypool.NotExecuted, message, nil)
}

func own(err error) *pypool.Error {
	var e *pypool.Error
	if !errors.As(err, &e) || e == nil {
		e = pypool.NewError(pypool.TypeInternal, pypool.MaybeExecuted, err.Error(), err)
	}
	return e
}

// complete fills in what an error says of the call.
func (c *Client) complete(r *request, err *pypool.Error) error {
	at := &err.Context
	if at.Pool == "" {
		at.Pool = c.name
	}
	at.Command, at.Program, at.Session = r.ctl.Command, r.ctl.Program, r.ctl.Session
	at.Elapsed = time.Since(r.begun)
	return err
}

// mailbox is where the answers to a client's calls come in.
type mailbox struct {
	nc      *nats.Conn
	name    string
	closing chan struct{} // closed by Close
	once    sync.Once     // Close's
	leaving atomic.Bool   // a server is being told that nobody waits
	stuck   atomic.Int64  // bytes of requests that the connection does not take, and nobody waits for

	mu     sync.Mutex // guards the fields below; held while the connection subscribes
	inbox  string     // the subject of the answers, without the calls' last token; empty: not opened
	sub    *nats.Subscription
	calls  map[string]*pending // by that token
	nextID uint64
}

// pending is a call whose answer is awaited.
type pending struct {
	token  string
	frames chan *nats.Msg // what came and was not looked at
	full   chan struct{}  // closed when more came than may
	once   sync.Once      // full's

	begun time.Time
	heard atomic.Int64           // when something came last, since begun
	from  atomic.Pointer[string] // the subject that the call's server listens on; nil: nobody knows
}

// open registers a call, and subscribes to the answers if nobody has.
func (b *mailbox) open(frames int) (*pending, *pypool.Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.closing:
		return nil, unavailable(pypool.NotExecuted, "the client is closed", nil)
	default:
	}
	if b.nc == nil {
		return nil, unavailable(pypool.NotExecuted, "the client has no connection", nats.ErrInvalidConnection)
	}
	if b.sub == nil {
		inbox := b.nc.NewInbox() + "."
		sub, err := b.nc.Subscribe(inbox+"*", b.deliver)
		if err == nil {
			err = sub.SetPendingLimits(-1, -1) // the calls' windows are the limits
		}
		if err != nil {
			return nil, unavailable(pypool.NotExecuted, "NATS takes no subscription", err)
		}
		b.inbox, b.sub = inbox, sub
	}
	b.nextID++
	p := &pending{token: strconv.FormatUint(b.nextID, 36), frames: make(chan *nats.Msg, frames), full: make(chan struct{}), begun: time.Now()}
	b.calls[p.token] = p
	return p, nil
}

func (b *mailbox) forget(p *pending) {
	b.mu.Lock()
	delete(b.calls, p.token)
	b.mu.Unlock()
}

// reply is the subject that the call's answer comes to.
func (b *mailbox) reply(p *pending) string { return b.inbox + p.token }

// deliver takes a message in. It runs on the subscription's goroutine, and blocks for no call.
func (b *mailbox) deliver(m *nats.Msg) {
	b.mu.Lock()
	p := b.calls[m.Subject[len(b.inbox):]]
	b.mu.Unlock()
	if p == nil { // its caller has gone
		b.leave(m)
		return
	}
	p.heard.Store(int64(time.Since(p.begun)))
	if isAlive(m) {
		p.from.CompareAndSwap(nil, &m.Reply)
		return
	}
	select {
	case p.frames <- m:
	default:
		p.once.Do(func() { close(p.full) })
	}
}

// leave tells a server that serves a call which nobody waits for: it has not heard so. One is told
// at a time, on a goroutine that ends when the connection has taken that; the others speak again.
func (b *mailbox) leave(m *nats.Msg) {
	if !isAlive(m) || m.Reply == "" || !b.leaving.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer b.leaving.Store(false)
		_ = b.nc.PublishMsg((&control{Kind: kindCancel}).message(m.Reply, "", nil)) // else it speaks again
	}()
}

func (b *mailbox) close() {
	b.once.Do(func() { close(b.closing) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.sub != nil {
			_ = b.sub.Unsubscribe() // it may have ended with its connection, or before
		}
	}()
	grace := time.NewTimer(deadlineGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C: // the connection is stuck, and has its own end
	}
}

func unavailable(d pypool.Delivery, message string, cause error) *pypool.Error {
	if cause != nil {
		message += ": " + cause.Error()
	}
	return pypool.NewError(pypool.TypePoolNotAvailable, d, message, cause)
}
