package pypoolnats

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/foreign"
)

// ServeOption is an option of [Serve].
type ServeOption func(*serveOptions)

type serveOptions struct {
	config  micro.Config
	ctx     func(context.Context, nats.Header) context.Context
	logger  *slog.Logger
	maxSize int
}

// WithVersion sets the service's version as discovery shows it: a semantic one. Default: 0.0.0.
func WithVersion(v string) ServeOption { return func(o *serveOptions) { o.config.Version = v } }

// WithDescription sets what discovery says of the service.
func WithDescription(text string) ServeOption {
	return func(o *serveOptions) { o.config.Description = text }
}

// WithMetadata adds what discovery shows beside: the host's name, say.
func WithMetadata(metadata map[string]string) ServeOption {
	return func(o *serveOptions) {
		for key, value := range metadata {
			o.config.Metadata[key] = value
		}
	}
}

// WithContext has f make the context that a call is served with, out of its request's headers: to
// continue a trace, say. nil stands for the context that it was given. The header traceparent
// reaches Python without it.
func WithContext(f func(ctx context.Context, h nats.Header) context.Context) ServeOption {
	return func(o *serveOptions) { o.ctx = f }
}

// WithLogger sets who takes the service's log. Default: slog.Default().
func WithLogger(l *slog.Logger) ServeOption { return func(o *serveOptions) { o.logger = l } }

// WithMaxRequestBytes bounds one request's arguments: a larger one is an ErrMessageTooLarge before
// more than its first part has come. Default: 64 MiB, as Config.MaxMessageBytes.
func WithMaxRequestBytes(n int) ServeOption { return func(o *serveOptions) { o.maxSize = n } }

// Service is a pool that serves on NATS. It is safe for concurrent use. Shutdown or Close must be
// called; the pool and the connection stay its maker's.
type Service struct {
	nc      *nats.Conn
	name    string
	pool    pypool.Caller
	o       serveOptions
	micro   micro.Service
	id      string
	one     string // the subject that calls of this instance have theirs under
	all     *nats.Subscription
	control *nats.Subscription

	base   context.Context // of all calls
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when nothing is served any more
	once   sync.Once     // Shutdown's
	calls  sync.WaitGroup

	closed   chan nats.Status // has a value when the connection has been closed; nil: start has not come so far
	watching sync.WaitGroup   // watch

	ending         atomic.Bool // stop has begun
	served, failed atomic.Int64

	mu      sync.Mutex         // guards the fields below
	byReply map[string]*served // the calls in hand
	byID    map[string]*served
	held    int // bytes of their requests that have come
	over    bool
	left    departed
}

var (
	errShutDown = errors.New("the service was shut down")
	errNobody   = errors.New("the call's client is gone")
	errCanceled = errors.New("the call's client has left")
)

// Serve makes pool a service of that name on NATS: one instance of it, which shares the calls of
// the name's clients with the other instances, as NATS's queue groups do. It is a service of
// nats.go's package micro, which answers its discovery and statistics ($SRV.PING, .INFO, .STATS,
// and `nats micro`). Any [pypool.Caller] can be served. When Serve returns, the NATS server knows of
// the instance, unless nc has no connection just then.
//
// name is of letters, digits, - and _. It works with the subjects pypool.NAME.>. nc must not be
// drained or closed before [Service.Shutdown]; when it is, what runs is stopped. An error is one of
// NATS, as that nc may not subscribe to them, or says what is wrong with name or an option.
func Serve(nc *nats.Conn, name string, pool pypool.Caller, opts ...ServeOption) (*Service, error) {
	o := serveOptions{config: micro.Config{Name: name, Version: "0.0.0", Description: "Python commands, served by pypool", Metadata: map[string]string{}}}
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	switch {
	case nc == nil:
		return nil, errors.New("pypoolnats: there is no connection")
	case isNone(pool):
		return nil, errors.New("pypoolnats: there is no pool")
	case o.maxSize < 0:
		return nil, fmt.Errorf("pypoolnats: WithMaxRequestBytes(%d) is negative", o.maxSize)
	}
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("pypoolnats: %w", err)
	}
	o.logger = foreign.Logger(o.logger)
	if o.maxSize == 0 {
		o.maxSize = defaultMaxMessage
	}
	s := &Service{
		nc: nc, name: name, pool: pool, o: o, done: make(chan struct{}),
		byReply: map[string]*served{}, byID: map[string]*served{}, left: newDeparted(),
	}
	s.base, s.cancel = context.WithCancelCause(context.Background())
	if err := s.start(); err != nil {
		s.stop()
		return nil, fmt.Errorf("pypoolnats: %w", err)
	}
	return s, nil
}

// isNone reports whether there is no pool, or one that New has not made.
func isNone(c pypool.Caller) bool {
	p, ok := c.(*pypool.Pool)
	return c == nil || ok && p.Name() == ""
}

// start subscribes to what the service listens to, requests last.
func (s *Service) start() (err error) {
	if s.nc.IsClosed() || s.nc.IsDraining() { // micro's own way to say so is a panic
		return nats.ErrConnectionClosed
	}
	s.o.config.Metadata["pypool"] = version
	s.o.config.StatsHandler = func(*micro.Endpoint) any { return s.stats() }
	s.closed = s.nc.StatusChanged(nats.CLOSED)
	s.watching.Go(s.watch)
	s.o.config.DoneHandler = func(m micro.Service) {
		if !s.ending.Load() { // by a handler of micro's that the connection had taken while keepHandlers was at work
			s.o.logger.Error("the service takes no calls any more: NATS's package micro has ended it", "service", s.name, "id", m.Info().ID)
		}
	}
	before := s.nc.LastError()
	keepHandlers(s.nc, func() { s.micro, err = micro.AddService(s.nc, s.o.config) })
	if err != nil {
		return err
	}
	s.id = s.micro.Info().ID
	s.one = oneSubject(s.name, s.id)
	if s.control, err = s.nc.Subscribe(s.one+".*", s.onControl); err != nil {
		return err
	}
	if s.all, err = s.nc.Subscribe(allSubject(s.name), s.onAll); err != nil {
		return err
	}
	// The limits are the calls': what is beyond one of pending messages NATS would drop.
	if err := s.micro.AddEndpoint("call", micro.HandlerFunc(s.onRequest),
		micro.WithEndpointSubject("pypool."+s.name+".call.*"), micro.WithEndpointPendingLimits(-1, -1)); err != nil {
		return err
	}
	if s.nc.IsConnected() { // else the subscriptions are sent when it is
		_ = s.nc.FlushTimeout(flushTimeout) // lost with its connection, they are sent to the next one
	}
	if err := s.nc.LastError(); err != before && denies(err, `"pypool.`+s.name+".") { // else it would serve nobody, in silence
		return err
	}
	return nil
}

// exchanges has those who have micro exchange a connection's handlers do so one after the other.
var exchanges = struct {
	mu sync.Mutex // guards of
	of map[*nats.Conn]*exchange
}{of: map[*nats.Conn]*exchange{}}

type exchange struct {
	mu    sync.Mutex // held while micro exchanges the handlers, and speaks with the connection
	users int        // who have it or wait for it; exchanges.mu guards it
}

// keepHandlers has micro do what exchanges the connection's handlers, and puts back what was there.
// Micro's own end a service for one malformed message of anybody's on a subject that it listens to,
// which is all instances for one on $SRV.PING; and what it puts back at a service's end is as old as
// the service.
func keepHandlers(nc *nats.Conn, what func()) {
	exchanges.mu.Lock()
	e := exchanges.of[nc]
	if e == nil {
		e = &exchange{}
		exchanges.of[nc] = e
	}
	e.users++
	exchanges.mu.Unlock()

	e.mu.Lock()
	errs, closed := nc.ErrorHandler(), nc.ClosedHandler()
	what()
	nc.SetErrorHandler(errs)
	nc.SetClosedHandler(closed)
	e.mu.Unlock()

	exchanges.mu.Lock()
	if e.users--; e.users == 0 {
		delete(exchanges.of, nc)
	}
	exchanges.mu.Unlock()
}

// watch stops what runs when the connection has been closed.
func (s *Service) watch() {
	select {
	case <-s.closed:
		s.cancel(nats.ErrConnectionClosed)
	case <-s.base.Done():
	}
}

// ID is the instance's id, as discovery shows it.
func (s *Service) ID() string { return s.id }

// Info is what discovery says of the instance.
func (s *Service) Info() micro.Info { return s.micro.Info() }

// Shutdown ends the service in order: no new calls are taken, which go to the other instances;
// those that were are served to their ends. When ctx ends before that, what still runs is stopped,
// its clients get an ErrPoolClosed, and Shutdown returns ctx's error. It may be called again, and
// beside Close.
func (s *Service) Shutdown(ctx context.Context) error {
	ctx = foreign.Context(ctx)
	s.once.Do(func() { go s.dismantle() })
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
	}
	s.cancel(errShutDown)
	s.refuseIncomplete()
	<-s.done
	return ctx.Err()
}

// refuseIncomplete ends the calls whose requests have not come whole. No others come: enter sees
// that the base context has ended.
func (s *Service) refuseIncomplete() {
	s.mu.Lock()
	calls := slices.Collect(maps.Values(s.byID))
	s.mu.Unlock()
	for _, c := range calls {
		if c.abandon() {
			c.refuse(pypool.NewError(pypool.TypePoolNotAvailable, pypool.NotExecuted, "the service is shut down", nil))
		}
	}
}

// Close ends the service now: what runs is stopped, and its clients get an ErrPoolClosed. It
// returns when nothing runs any more. The error is always nil.
func (s *Service) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.Shutdown(ctx)
	return nil
}

// Done is closed when the service has ended: by Shutdown or Close.
func (s *Service) Done() <-chan struct{} { return s.done }

// dismantle is the goroutine that every Shutdown and Close joins through done.
func (s *Service) dismantle() {
	defer close(s.done)
	s.stop()
}

// stop drains the requests, waits for the calls, and then ends the rest.
func (s *Service) stop() {
	if s.micro != nil {
		s.ending.Store(true)
		var err error
		keepHandlers(s.nc, func() { err = s.micro.Stop() })
		if err != nil {
			s.o.logger.Warn("stopping the service on NATS", "service", s.name, "error", err)
		}
		s.awaitDrained()
	}
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.calls.Wait()
	for _, sub := range []*nats.Subscription{s.control, s.all} {
		if sub != nil {
			_ = sub.Unsubscribe() // it may have ended with its connection
		}
	}
	s.cancel(errShutDown)
	s.watching.Wait()
	if s.closed != nil {
		s.nc.RemoveStatusListener(s.closed)
	}
	_ = s.nc.FlushTimeout(flushTimeout) // the last answers; a connection that is gone has none to send
}

const (
	flushTimeout = 2 * time.Second
	drainTimeout = 5 * time.Second // for other subscriptions' callbacks, which it has to wait for
)

// awaitDrained returns when every request that was delivered is in hand. What comes later, after a
// callback of another subscription has held the connection up for long, is refused.
func (s *Service) awaitDrained() {
	ctx, cancel := context.WithTimeout(s.base, drainTimeout)
	defer cancel()
	if s.nc.FlushWithContext(ctx) != nil {
		return // there is no connection, and nothing comes
	}
	passed := make(chan struct{}) // by what was delivered before the end of the subscription
	if s.nc.Barrier(func() { close(passed) }) != nil {
		return
	}
	select {
	case <-passed:
	case <-ctx.Done():
	}
}

// serviceStats is what $SRV.STATS shows as the endpoint's data.
type serviceStats struct {
	Served   int64         `json:"served"` // calls that have ended
	Failed   int64         `json:"failed"` // those of them that had an error
	InFlight int           `json:"in_flight"`
	Pool     *pypool.Stats `json:"pool,omitempty"`
}

func (s *Service) stats() serviceStats {
	s.mu.Lock()
	inFlight := len(s.byID)
	s.mu.Unlock()
	st := serviceStats{Served: s.served.Load(), Failed: s.failed.Load(), InFlight: inFlight}
	if p, ok := s.pool.(interface{ Stats() pypool.Stats }); ok {
		of := p.Stats()
		st.Pool = &of
	}
	return st
}

// --- what comes in -------------------------------------------------------------------------------

// onRequest takes a request. It runs on the endpoint's goroutine, and is brief.
func (s *Service) onRequest(req micro.Request) {
	reply := req.Reply()
	if reply == "" {
		s.o.logger.Debug("a request without a reply subject was dropped", "service", s.name, "subject", req.Subject())
		return
	}
	c := &served{
		s: s, came: time.Now(), reply: reply, header: nats.Header(req.Headers()), args: req.Data(), told: make(chan struct{}, 1),
	}
	err := c.read(req.Subject())
	if err == nil {
		err = s.enter(c)
	}
	switch {
	case err != nil:
		s.served.Add(1)
		c.answerError(err)
	case c.missing() > 0:
		c.askForMore()
	default:
		c.begin()
	}
}

// enter takes the call in hand, with what of its request has come.
func (s *Service) enter(c *served) *pypool.Error {
	id := rand.Text() // cancels and parts are heard of whoever knows it
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over || s.base.Err() != nil:
		return pypool.NewError(pypool.TypePoolNotAvailable, pypool.NotExecuted, "the service is shut down", nil)
	case s.left.has(c.reply):
		return pypool.NewError(pypool.TypeCanceled, pypool.NotExecuted, "canceled by the caller", context.Canceled)
	case s.byReply[c.reply] != nil:
		return pypool.NewError(pypool.TypeProtocol, pypool.NotExecuted, "", &pypool.ProtocolError{Reason: "another call has this reply subject"})
	case len(s.byID) >= maxServed || s.held > 0 && c.size > maxHeld-s.held:
		return s.fullLocked()
	}
	c.id = id
	s.byReply[c.reply], s.byID[c.id] = c, c
	c.held = len(c.args) + headerSize(c.header)
	s.held += c.held
	s.calls.Add(1) // leave's
	return nil
}

// hold takes more of a call's request in hand. What a request says that it will be counts against
// no other: it is easily said.
func (s *Service) hold(c *served, more int) *pypool.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held > c.held && more > maxHeld-s.held {
		return s.fullLocked()
	}
	c.held += more
	s.held += more
	return nil
}

func (s *Service) fullLocked() *pypool.Error {
	return pypool.NewError(pypool.TypeQueueFull, pypool.NotExecuted, fmt.Sprintf("the server has %d requests of %d bytes in hand", len(s.byID), s.held), nil)
}

// leave is the end of a call that was taken in hand.
func (s *Service) leave(c *served) {
	s.mu.Lock()
	delete(s.byReply, c.reply)
	delete(s.byID, c.id)
	s.held -= c.held
	s.mu.Unlock()
	s.served.Add(1)
	s.calls.Done()
}

// onControl takes what concerns one call. It runs on the subscription's goroutine, and is brief.
func (s *Service) onControl(m *nats.Msg) {
	s.mu.Lock()
	c := s.byID[m.Subject[len(s.one)+1:]]
	s.mu.Unlock()
	if c == nil {
		return // it has ended
	}
	if isNobody(m) {
		c.unheard.Add(1)
		return
	}
	ctl, err := readControl(m.Header)
	if err != nil {
		return // what cannot be read says nothing: the call goes on
	}
	switch ctl.Kind {
	case kindCancel:
		c.cancel(errCanceled)
	case kindCredit:
		c.credit(&ctl)
	case kindPart:
		c.part(&ctl, m.Data)
	}
}

// onAll takes what concerns a call of which the sender does not know who serves it.
func (s *Service) onAll(m *nats.Msg) {
	ctl, err := readControl(m.Header)
	if err != nil || ctl.Kind != kindCancel || ctl.Call == "" || len(ctl.Call) > maxSubject {
		return
	}
	s.mu.Lock()
	c := s.byReply[ctl.Call]
	if c == nil {
		s.left.add(ctl.Call) // its request may come behind
	}
	s.mu.Unlock()
	if c != nil {
		c.cancel(errCanceled)
	}
}

const maxSubject = 1024 // bytes of a reply subject that is remembered

// departed remembers the latest calls that were canceled and are not here.
type departed struct {
	known map[string]bool
	ring  []string
	next  int
}

const maxDeparted = 4096

func newDeparted() departed {
	return departed{known: map[string]bool{}, ring: make([]string, maxDeparted)}
}

func (d *departed) has(call string) bool { return d.known[call] }

func (d *departed) add(call string) {
	if d.known[call] {
		return
	}
	delete(d.known, d.ring[d.next])
	d.ring[d.next] = call
	d.known[call] = true
	d.next = (d.next + 1) % len(d.ring)
}
