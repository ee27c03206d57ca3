package pypool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/files"
	"github.com/pypool/pypool/internal/foreign"
	"github.com/pypool/pypool/internal/interp"
	"github.com/pypool/pypool/internal/proc"
	"github.com/pypool/pypool/internal/spin"
)

// Pool is a pool of Python worker processes. It is safe for concurrent use. Shutdown or Close must
// be called; after either has returned nil no process, goroutine, file descriptor or file of the
// pool is left.
type Pool struct {
	cfg      Config
	born     time.Time
	sup      *supervisor
	sessions *sessionTable
	counters *counters
	spin     *spin.Policy
	deaf     deafCommands
	reporter *reporter
	spawner  *proc.Spawner
	files    *files.Tree // Config.Files, written; nil: there are none

	ids         atomic.Uint64 // request ids: one number names a call here, in Python and in the logs
	unreapable  atomic.Int64
	traceFaulty atomic.Bool // the observer has returned a bad traceparent

	lookers   lookers
	winding   sync.WaitGroup // streams that are wound up behind their loops' backs; begun only by who has a worker
	closing   chan struct{}  // closed when no new call is let in
	killing   chan struct{}  // closed when nothing is waited for any more
	closed    chan struct{}  // closed when all is gone
	closeOnce sync.Once
	killOnce  sync.Once
}

// New starts cfg.Size workers side by side, pings each, and returns when MinReady of them (by
// default all) are ready. ctx bounds only New; each start is also bounded by StartTimeout. An error
// is an *Error: ErrInvalidArguments names the bad fields of cfg, ErrWorkerStart shows why Python
// did not come up in time, ErrCanceled says that ctx was canceled. Nothing is left behind then.
func New(ctx context.Context, cfg Config) (*Pool, error) {
	born := time.Now()
	ctx = foreign.Caller(ctx)
	r, err := resolveWithin(ctx, cfg)
	if err != nil {
		return nil, startError(&cfg, interp.Interpreter{}, stageSpawn, born, err)
	}
	if r.err != nil {
		return nil, r.err
	}
	cfg = r.cfg
	p := &Pool{
		cfg: cfg, born: born, counters: newCounters(cfg.ErrorRate.Window), spin: spin.NewPolicy(),
		closing: make(chan struct{}), killing: make(chan struct{}), closed: make(chan struct{}),
	}
	// A random base keeps ids of different pools, and of one pool before and after a restart of the
	// host, apart in logs.
	p.ids.Store(rand.Uint64N(1 << 32))
	if r.pyErr != nil {
		return nil, startError(&cfg, r.python, stageSpawn, born, fmt.Errorf("no Python interpreter: %w (set Config.Python)", r.pyErr))
	}
	if p.files, err = cfg.writeFiles(ctx); err != nil {
		return nil, unlessCanceled(filesError(&cfg, r.python, born, err), err)
	}
	if p.files != nil {
		p.cfg.filesDir = p.files.Dir
	}
	python := r.python.ThroughShim(foreign.Context(ctx), cfg.Dir, cfg.Env)
	spec := proc.Spec{Path: python.Path, Dir: cfg.Dir, DirIsHosts: cfg.dirIsHosts, Host: cfg.hostDir}
	p.reporter = newReporter(cfg.Logger, slog.String("pool", cfg.Name))
	if cfg.target() == "" {
		p.reporter.log(slog.LevelWarn, noScript)
	}
	p.spawner = proc.NewSpawner()
	p.sessions = newSessionTable(cfg.MaxSessions, p.sessionGone)
	p.sup, err = newSupervisor(p, python, spec)
	if err != nil {
		removeFiles(p.files)
		return nil, newError(TypeInternal, NotExecuted, err.Error(), err)
	}
	p.sup.checkout.batched = func(members []*member) *callBatch { return newBatch(p, members) }
	go p.sup.run()
	opened := false
	defer func() {
		if !opened { // a start has failed, or ctx panics
			_ = p.Close()
		}
	}()
	if err := p.sup.await(ctx, cfg.MinReady); err != nil {
		var e *Error
		if !errors.As(err, &e) {
			e = unlessCanceled(startError(&cfg, python, stageSpawn, born, fmt.Errorf("not ready before New's context ended: %w", err)), err)
		}
		return nil, e
	}
	opened = true
	return p, nil
}

// unlessCanceled has the error of New say that its context was canceled, where that is the cause.
func unlessCanceled(e *Error, cause error) *Error {
	if errors.Is(cause, context.Canceled) {
		e.Type, e.Category = TypeCanceled, CategoryTimeout
	}
	return e
}

func (p *Pool) sessionGone(id, why string) {
	p.sup.event(Event{Kind: EventSessionEnded, Session: id, Cause: why})
}

// ExecuteInSession runs a registered command in a session. The session is a label: it is counted
// (see [Pool.Session]) and Python sees it as current_call().session_id, but any worker may serve
// any call of it, and no state is kept for it.
//
// args is what encoding/json turns into an object (keyword arguments), an array (positional
// arguments) or null (none). The call waits for a worker in the order of arrival, at most
// CheckoutTimeout, then runs for at most OperationTimeout; ctx bounds both together, and its end
// stops a running call: see Config.CancelGrace. The error, if any, is an *Error.
func (p *Pool) ExecuteInSession(ctx context.Context, sessionID, command string, args any, opts ...CallOption) (Result, error) {
	c := call{job: job{info: CallInfo{Command: command, Session: sessionID}}, args: args, fixed: true}
	if !validLabel(sessionID) {
		return p.refuse(ctx, &c, invalidSession(sessionID))
	}
	return p.execute(ctx, &c, opts)
}

// ExecuteAnonymous is ExecuteInSession without a session.
func (p *Pool) ExecuteAnonymous(ctx context.Context, command string, args any, opts ...CallOption) (Result, error) {
	c := call{job: job{info: CallInfo{Command: command}}, args: args, fixed: true}
	return p.execute(ctx, &c, opts)
}

// ExecuteProgram runs a program registered under programID, with inputs as its arguments; in a
// session when WithSession is given.
func (p *Pool) ExecuteProgram(ctx context.Context, programID string, inputs any, opts ...CallOption) (Result, error) {
	c := call{job: job{info: CallInfo{Command: commandExecuteProgram, Program: programID}}, args: inputs}
	if programID == "" {
		return p.refuse(ctx, &c, invalid("the program id is empty"))
	}
	return p.execute(ctx, &c, opts)
}

// Name returns Config.Name: what tells the pool apart in logs, errors and metrics.
func (p *Pool) Name() string {
	if !p.wasStarted() {
		return ""
	}
	return p.cfg.Name
}

// wasStarted is false for a nil or zero Pool: calls of it fail as those of a closed one do, closing
// it does nothing, and what it tells of itself is empty.
func (p *Pool) wasStarted() bool { return p != nil && p.sup != nil }

func neverStarted(info CallInfo) error {
	e := newError(TypePoolNotAvailable, NotExecuted, "the pool was never started: New makes pools", nil)
	e.Context = ErrorContext{Session: info.Session, Command: info.Command, Program: info.Program}
	return e
}

// refuse counts and reports a call that ends before it begins.
func (p *Pool) refuse(ctx context.Context, c *call, err *Error) (Result, error) {
	if !p.wasStarted() {
		return Result{}, neverStarted(c.info)
	}
	if err.Type == TypeInvalidArguments && !validLabel(c.info.Session) {
		c.info.Session = "" // it goes into no log, no observer and no table
	}
	c.refused = err
	return p.execute(ctx, c, nil)
}

// execute is the life of a call: begin, encode, then acquire, use, release; again on another worker
// when the first proves not to have executed it.
func (p *Pool) execute(ctx context.Context, c *call, opts []CallOption) (Result, error) {
	if !p.wasStarted() {
		return Result{}, neverStarted(c.info)
	}
	invalidOption := c.refused
	if invalidOption == nil {
		invalidOption = c.apply(&p.cfg, opts)
	}
	ended := false
	defer func() {
		if !ended { // the caller's MarshalJSON, CallStart, context or loop body panics: count the call, and let it
			_ = p.finish(ctx, c, newError(TypeInternal, MaybeExecuted, "a function of the caller panicked", nil), time.Now())
		}
	}()
	p.begin(&ctx, c)
	rep, err := p.admit(ctx, c, invalidOption)
	ended = true
	c.recycleBuffer()
	if err != nil {
		return Result{}, p.finish(ctx, c, err, time.Now())
	}
	_ = p.finish(ctx, c, nil, c.begun.Add(c.queued+c.ran))
	return c.result(rep, 0), nil
}

// begin counts the call and tells the observer, whose context takes the place of ctx. Exactly one
// finish follows, also when the observer panics.
func (p *Pool) begin(ctx *context.Context, c *call) {
	if c.tally == nil {
		c.tally = p.counters.of(&c.info)
	}
	c.tally.started.Add(1)
	c.begun = time.Now()
	c.id = p.ids.Add(1)
	c.info.RequestID, c.info.Pool = c.id, p.cfg.Name
	if f := p.cfg.Observer.CallStart; f != nil {
		if observed := f(*ctx, c.info); observed != nil {
			*ctx = observed
		}
	}
	if f := p.cfg.Observer.TraceParent; f != nil {
		c.trace = cmp.Or(p.traceOf(*ctx, f), c.trace)
	}
	if c.info.Session != "" {
		c.session = p.sessions.enter(c.info.Session)
	}
}

// finish counts the end, completes the error and tells the observer and the log.
func (p *Pool) finish(ctx context.Context, c *call, err *Error, now time.Time) error {
	if err == nil {
		p.counters.succeed(c.tally, 1, now.Sub(p.born))
	} else {
		p.counters.fail(c.tally, err, now.Sub(p.born))
	}
	return p.tell(ctx, c, err, now)
}

// tell is finish without the count.
func (p *Pool) tell(ctx context.Context, c *call, err *Error, now time.Time) error {
	if c.session != nil {
		p.sessions.leave(c.session, err != nil)
		c.session = nil
	}
	var out error
	if err != nil {
		at := &err.Context
		at.Pool, at.Session, at.Command, at.Program, at.RequestID = p.cfg.Name, c.info.Session, c.info.Command, c.info.Program, c.id
		at.Elapsed = now.Sub(c.begun)
		out = err
		if err.Type.row().infrastructure {
			p.sup.logFailure(c, err)
		}
	}
	if f := p.cfg.Observer.CallEnd; f != nil {
		f(ctx, c.info, CallOutcome{Worker: c.worker, PID: c.pid, Queued: c.queued, Ran: c.ran, Err: out})
	}
	return out
}

// admit refuses what can be refused without a worker, before it encodes what may be large, and asks
// the command's circuit.
func (p *Pool) admit(ctx context.Context, c *call, invalidOption *Error) (rep reply, err *Error) {
	if invalidOption == nil {
		invalidOption = p.refusedCommand(c.info.Command)
	}
	if invalidOption != nil {
		return reply{}, invalidOption
	}
	key := c.info.breakerKey()
	if err := p.refusal(ctx, key); err != nil {
		return reply{}, err
	}
	if err := c.encode(&p.cfg); err != nil {
		return reply{}, err
	}
	if err := p.sup.breakers.enter(c, key); err != nil {
		return reply{}, err
	}
	if c.item == nil {
		c.lineup = p.sup.checkout.lineupOf(key)
	}
	evidence := noEvidence
	defer func() { // also when code of the caller panics
		if !c.detached {
			c.admitted.end(evidence, err)
		}
	}()
	c.shares = p.isConcurrent(&c.info)
	if c.shares {
		c.leaving = ctx.Done() // once: it may panic, and no seat is held yet
	}
	ctx = foreign.Caller(ctx)
	rep, err = p.serve(ctx, c)
	evidence = c.evidence(ctx, &p.cfg, err)
	return rep, err
}

// refusal is what any call of the command would get now.
func (p *Pool) refusal(ctx context.Context, key string) *Error {
	if isClosed(p.closing) {
		return p.isClosedError()
	}
	if why := p.sup.circuit.refuses(); why != nil {
		return why.error()
	}
	if why := p.sup.breakers.refuses(key); why != nil {
		return why.error()
	}
	if err := p.sup.checkout.full(); err != nil && !p.nested(ctx) { // that one would not wait in any case
		return queueFull(err)
	}
	return nil
}

func (p *Pool) isClosedError() *Error {
	e := newError(TypePoolNotAvailable, NotExecuted, "the pool is closed", nil)
	e.Context.Pool = p.cfg.Name
	return e
}

func queueFull(why error) *Error { return newError(TypeQueueFull, NotExecuted, why.Error(), nil) }

// sequenceError is the last error of a Map whose context ended.
func (p *Pool) sequenceError(ctx context.Context, info CallInfo) *Error {
	e := contextError(ctx, NotExecuted, nil)
	e.Context = ErrorContext{Pool: p.cfg.Name, Command: info.Command, Session: info.Session}
	return e
}

// serve takes a worker and has it run the call. A proof that a dying worker did not execute it is
// worth another try, as all that were idle may be dying at once.
func (p *Pool) serve(ctx context.Context, c *call) (rep reply, err *Error) {
	for range p.sup.size() + p.cfg.Overflow + 1 {
		var res *resource
		if res, err = p.acquire(ctx, c); err != nil {
			return reply{}, err
		}
		switch {
		case c.seat != nil && res == nil:
			rep, err = p.sit(ctx, c)
		case res == nil:
			rep, err = p.joinBatch(ctx, c)
		case c.seat != nil || c.shares && res.Value().concurrent[c.info.Command] > 0:
			p.share(c, res)
			rep, err = p.sit(ctx, c)
		default:
			rep, err = p.use(ctx, c, res)
		}
		if c.deep && err == nil {
			return reply{}, c.itemTooDeep()
		}
		if err == nil || err.Delivery != NotExecuted || !err.Type.row().repeated {
			return rep, err
		}
	}
	return rep, err
}

// acquire waits for an idle worker that is alive. Those that died idle are skipped and replaced. It
// returns none for a call that a batch has been sent with. For a call that has a seat on a shared
// worker it returns none, or that worker if it is still to be shared.
func (p *Pool) acquire(ctx context.Context, c *call) (*resource, *Error) {
	queued := c.queued // on the way to another worker, since it has not been executed
	var held *resource
	defer func() {
		c.tally.times().wait.Add(c.queued - queued)
		if held != nil { // ctx.Err panics
			p.sup.release(held)
		}
	}()
	for {
		if why := p.sup.circuit.refuses(); why != nil {
			return nil, why.error()
		}
		if isClosed(p.closing) {
			return nil, p.isClosedError()
		}
		if ctx.Err() != nil {
			return nil, queueError(ctx, c)
		}
		var res *resource
		switch {
		case c.shares:
			if res = p.trySeat(c); c.seat != nil {
				return res, nil
			}
		case c.lineup == nil || c.lineup.patience.Load() == 0 || p.nested(ctx):
			res = p.sup.checkout.tryTake()
		}
		if res == nil {
			var err error
			switch res, err = p.queue(ctx, c); {
			case c.member != nil:
				if c.member.stays() {
					return nil, nil
				}
				continue // the worker had died idle
			case c.seat != nil:
				return nil, nil
			case err == nil:
			case errors.Is(err, errBusy):
				return nil, nestedError()
			case errors.As(err, new(fullQueue)):
				return nil, queueFull(err)
			case errors.Is(err, errTimeout):
				return nil, newError(TypeCheckoutTimeout, NotExecuted, fmt.Sprintf("no worker fell free within %v", c.checkout), nil)
			case errors.Is(err, errEnded):
				return nil, queueError(ctx, c)
			case isClosed(p.closing):
				return nil, newError(TypePoolNotAvailable, NotExecuted, "the pool was closed while the call waited", nil)
			default: // the circuit opened: the next turn says so
				continue
			}
		}
		if !res.Value().reusable() {
			p.sup.release(res)
			continue
		}
		held = res
		over := ctx.Err() != nil // it ended in the same instant: the worker need not suffer for it
		held = nil
		if !over {
			return res, nil
		}
		p.sup.release(res)
	}
}

// queue waits for a worker for as long as the call may still wait, and measures that. A nested call
// waits for those alone that are idle, but for the pool's own looking at them, which ends soon.
func (p *Pool) queue(ctx context.Context, c *call) (*resource, error) {
	begun := time.Now()
	defer func() { c.queued += time.Since(begun) }()
	c.nested = p.nested(ctx)
	var deadline time.Time
	if c.checkout > 0 {
		deadline = begun.Add(c.checkout - c.queued)
	}
	if c.shares {
		v := p.sup.checkout.waitForSeat(ctx, deadline, c, p.refusing)
		c.seat = v.seat
		return v.res, v.err
	}
	switch {
	case c.nested:
		return p.sup.checkout.waitNested(ctx, deadline, c.req.Size(), p.refusing)
	case c.lineup == nil:
		return p.sup.checkout.wait(ctx, deadline, c.req.Size(), p.refusing)
	}
	return p.queueInLine(ctx, deadline, c)
}

// refusing tells those who are about to wait that nobody would wake them.
func (p *Pool) refusing() bool { return isClosed(p.closing) || p.sup.circuit.refuses() != nil }

// queueError is the error of a call whose context ended before it had a worker.
func queueError(ctx context.Context, c *call) *Error {
	e := contextError(ctx, NotExecuted, nil)
	if e.Type == TypeOperationTimeout {
		e = timeoutError(TypeCheckoutTimeout, NotExecuted, "the context's deadline passed while the call waited", nil, e.Err)
	}
	return e
}

// use runs the call on a worker that it holds, and releases it.
func (p *Pool) use(ctx context.Context, c *call, res *resource) (rep reply, err *Error) {
	w := res.Value()
	c.worker, c.pid = w.id, w.proc.PID()
	c.given = time.Now()
	w.service.Learn(w.lastTook())
	w.service = p.spin.Of(c.info.Command, w.service)
	c.idle = c.given.Sub(w.freed)
	c.spin = p.spin.Begin(w.service, c.given, c.idle)
	w.proc.Spin(c.spin.Worker(), c.spin == spin.Spin)
	if c.item != nil {
		return p.stream(ctx, c, res)
	}
	if c.lineup != nil {
		c.spare = false
		p.counters.batches.Add(1)
	}
	ended := false
	var going *windUp // the call goes on without its caller
	defer func() {
		if !ended && c.open { // a method of ctx panics
			w.abandon()
		}
		ran := time.Since(c.given)
		c.ran += ran
		c.tally.times().run.Add(ran)
		if going != nil {
			p.winding.Go(going.run)
			return
		}
		p.spin.End()
		p.giveBack(res, w.served(err, c.given.Add(ran), ran))
	}()
	rep, err = w.call(ctx, &c.job)
	if c.left {
		going, c.detached = p.windUp(ctx, c, res, err), true
	}
	ended = true
	return rep, err
}

// giveBack ends the exchange of a call that a worker had, whose answer came then (zero: it did not
// execute it), and releases the worker.
func (p *Pool) giveBack(res *resource, answered time.Time) {
	w := res.Value()
	w.doneWith(answered)
	w.lease.Store(nil)
	w.x.running = nil
	p.sup.release(res)
}

// --- the end --------------------------------------------------------------------------------------------------------

// Shutdown ends the pool in order: new and waiting calls, and the items of a [Map] that are not
// sent yet, get ErrPoolClosed at once, those that run finish (a loop over a stream whose body
// stalls is waited for until StallTimeout), the workers stop. When ctx ends before that, the rest
// is killed (calls in flight get ErrPoolClosed), and Shutdown returns ctx's error after the last
// process is gone.
//
// It waits for processes, never for code of the caller's once ctx has ended: it may be called in
// the body of a loop over a stream or a Map, in an Observer, a log handler, or a MarshalJSON, and
// returns also while such code blocks. Log handlers and Observer.Event are given a second to take
// what is queued. It may be called again, and beside Close.
func (p *Pool) Shutdown(ctx context.Context) error {
	if !p.wasStarted() {
		return nil
	}
	p.closeOnce.Do(func() {
		close(p.closing)
		p.sup.checkout.rejectWaiters()
		p.sup.announceClosing()
		go p.dismantle()
	})
	ctx = foreign.Context(ctx)
	select {
	case <-p.closed:
		return nil
	case <-ctx.Done():
	}
	if isClosed(p.closed) {
		return nil
	}
	p.killAll()
	<-p.closed
	e := contextError(ctx, MaybeExecuted, nil)
	e.Message = "Shutdown's context ended: what was left was killed"
	e.Context.Pool = p.cfg.Name
	return e
}

// Close ends the pool now: workers are killed, calls in flight get ErrPoolClosed. It returns when
// the last process is gone and what the host held of it is freed, whatever code of the caller is
// still running, as [Pool.Shutdown] does after its context's end; a loop over a stream gets its
// ErrPoolClosed when its body comes back. It is safe to call more than once. The error is always
// nil.
func (p *Pool) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.Shutdown(ctx)
	return nil
}

// repossess takes the workers from calls in the midst of which code of the caller runs: it may
// never come back, or wait for this very close. Who waits for a worker is told: its process may
// never end. It runs once killing is closed, so that no such code and no such wait begins any more.
func (p *Pool) repossess() {
	for w, res := range p.sup.checkout.all() {
		w.x.lookUp()
		if l := w.lease.Load(); l != nil && l.revoke(revokedClosed) {
			w.x.doubt(errStopped)
			p.sup.release(res)
		}
	}
}

func (p *Pool) killAll() {
	p.killOnce.Do(func() {
		close(p.killing)
		p.sup.cancel()
		p.sup.stopAsking()
	})
	for _, w := range p.sup.workers() {
		w.proc.Kill()
	}
}

// dismantle is the goroutine that every Shutdown and Close joins through closed. Each step is
// bounded once killing is closed.
func (p *Pool) dismantle() {
	defer close(p.closed)
	p.sup.close() // no more starts, and no new pings
	p.sup.checkout.close()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		p.sup.checkout.puddle.Close() // returns when every worker has been released and stopped
	}()
	select {
	case <-stopped:
	case <-p.killing:
		p.repossess()
		<-stopped
	}
	p.sup.awaitJobs()
	p.winding.Wait()
	p.lookers.close()
	p.sup.env.functions.wait()
	if servers := p.sup.env.servers; servers != nil {
		servers.close() // their workers are gone: only they could reap them
	}
	if stuck := p.sup.workers(); len(stuck) == 0 {
		p.spawner.Close() // its thread's end would kill what it started
	} else {
		go func() { // given up, but not forgotten
			for _, w := range stuck {
				<-w.watched
			}
			p.spawner.Close()
		}()
	}
	removeFiles(p.files)
	p.sup.event(Event{Kind: EventPoolState, State: stateClosed})
	p.reporter.close()
}
