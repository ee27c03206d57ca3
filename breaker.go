package pypool

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// The states of a circuit, as Stats, Health and events name them.
const (
	circuitClosed   = "closed"
	circuitOpen     = "open"
	circuitHalfOpen = "half-open"
)

// startCircuit is the pool's own circuit, over workers' starts. While it is open, calls fail fast.
type startCircuit struct {
	cb    *gobreaker.TwoStepCircuitBreaker[any] // the supervisor's mu guards it
	fresh func() *gobreaker.TwoStepCircuitBreaker[any]
	why   atomic.Pointer[CircuitError] // calls are refused; nil while closed
}

// errNoOutcome ends what says nothing about the circuit it was asked of: a call that was canceled
// or never ran, a start that found no room or was ended by the pool's close.
var errNoOutcome = errors.New("no outcome")

// newStartCircuit trips when trip says so upon a failed start. It is half-open after probe: then
// one start is tried at a time.
func newStartCircuit(probe time.Duration, trip func() bool) *startCircuit {
	c := &startCircuit{fresh: func() *gobreaker.TwoStepCircuitBreaker[any] {
		return gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
			Timeout: max(probe, time.Millisecond), ReadyToTrip: func(gobreaker.Counts) bool { return trip() },
			IsExcluded: func(err error) bool { return errors.Is(err, errNoOutcome) },
		})
	}}
	c.cb = c.fresh()
	return c
}

// close closes it, because a start has gone well: also one that was begun before it opened, which
// gobreaker does not count. What fails beside a worker that serves opens nothing.
func (c *startCircuit) close() {
	if !c.closed() {
		c.cb = c.fresh()
	}
}

func (c *startCircuit) closed() bool { return c.cb.State() == gobreaker.StateClosed }

// refuses returns why calls are refused, nil when they are not.
func (c *startCircuit) refuses() *CircuitError { return c.why.Load() }

const (
	afterAnswer = time.Second // an idle worker that ends so soon after an answer is charged to the command that got it
	exitFactor  = 4           // times Breaker.Failures workers that ended by themselves within OpenFor open the circuit, whatever was answered between
)

// breakers holds a circuit for each command that has lately cost workers. In steady state there is
// none, and asking costs one load.
type breakers struct {
	cfg     Breaker
	changed func(command, state string, err error)
	count   atomic.Int64
	keys    sync.Map // command -> *commandBreaker
}

// commandBreaker is the circuit of one command. It counts the losses itself: gobreaker's count of
// consecutive failures would take an answer for a good sign whose worker dies of that very call a
// moment later.
type commandBreaker struct {
	cfg Breaker
	cb  *gobreaker.TwoStepCircuitBreaker[any]

	mu       sync.Mutex // guards the fields below; it is taken inside gobreaker's lock
	streak   int        // losses since the last answer, in parts of a loss: see guilt
	before   int        // what streak was before that answer
	answered time.Time  // when that was
	last     loss
	struck   time.Time   // the last loss that somebody else may have caused
	exits    []time.Time // of workers that ended by themselves: the latest manyExits() of them, oldest first
	parts    int         // of such ends of which another command may be guilty
}

// guilt is what a call has of the loss of its worker. Of several commands under way on one, who
// kills it mostly does so at once: the call that came last is taken for guilty. But it need not be,
// and a brief command is nearly always the last: so each of the others gets a part of the loss,
// which its next answer takes away again as it does whole ones.
type guilt int

const (
	guiltAlone  guilt = iota // no other command was under way
	guiltLikely              // it came last
	guiltBeside              // a part of the loss: one of lossParts
)

const lossParts = 4

// loss is the last worker that a command has cost.
type loss struct {
	at    time.Time
	cause *Error // fit for strangers; nil: there was none
}

// errLost is what gobreaker gets for a lost worker. The call's own error stays away from its lock:
// it may hold errors of the caller's, with methods.
var errLost = errors.New("a worker was lost")

// evidence is what the end of a call says of its command.
type evidence int

const (
	noEvidence evidence = iota // it did not run, or its caller was too impatient to see
	answered
	lostWorker
)

// evidence judges the call by its end. A caller who cancels, whose context has a deadline, or who
// gives the call less time than the pool would, has not shown that the command hangs.
func (c *call) evidence(ctx context.Context, cfg *Config, err *Error) evidence {
	switch {
	case err == nil && c.stopped: // a stream whose loop was left
		return noEvidence
	case err != nil && (err.stale || err.retires != "" && c.spare):
		return noEvidence
	case err != nil && err.retires != "":
		return lostWorker
	case err == nil || err.Delivery == Executed || err.Category == CategoryExecution:
		return answered
	case err.Delivery == NotExecuted || c.spare:
		return noEvidence
	}
	if err.Type == TypeOperationTimeout && (cfg.OperationTimeout <= 0 || c.timeout < cfg.OperationTimeout || ctx.Err() != nil) {
		return noEvidence
	}
	if err.Type.row().losesWorker {
		return lostWorker
	}
	return noEvidence
}

// admission is a call that its command's circuit has let in. end must be called exactly once.
type admission struct {
	b       *breakers
	command string
	circuit *commandBreaker // nil: the command had none then
	once    *onceDone
}

// onceDone is gobreaker's word for the end of a call.
type onceDone struct {
	done func(error)
	over atomic.Bool
}

// enter asks the command's circuit to let the call in; an error says why it does not.
func (b *breakers) enter(c *call, command string) *Error {
	a := admission{b: b, command: command}
	if a.circuit = b.known(a.command); a.circuit != nil {
		done, err := a.circuit.cb.Allow()
		if err != nil {
			return a.circuit.refusal().error()
		}
		a.once = &onceDone{done: done}
	}
	c.admitted = a
	return nil
}

// end tells the circuit how the call ended.
func (a admission) end(v evidence, err *Error) {
	if a.circuit != nil && a.once.over.Swap(true) {
		a.circuit = nil // a probe that has passed
	}
	switch {
	case a.circuit == nil && v == lostWorker:
		a.b.charge(a.command, err)
	case a.circuit == nil:
	case v == lostWorker:
		a.circuit.lose(err)
		a.once.done(errLost)
	case v == answered:
		a.circuit.answer()
		a.once.done(nil)
	default:
		a.once.done(errNoOutcome)
	}
}

// probes reports whether the circuit waits for what this call shows.
func (a admission) probes() bool {
	return a.circuit != nil && a.circuit.cb.State() == gobreaker.StateHalfOpen && !a.once.over.Load()
}

// pass takes the first item of a stream that is a probe for its answer: the stream may last for
// hours, and all others would be refused as long. What it costs later is charged as that of a call
// that no circuit has let in.
func (a admission) pass() {
	if a.probes() && !a.once.over.Swap(true) {
		a.circuit.answer()
		a.once.done(nil)
	}
}

// answer books an answer in a run of many calls, which goes on: as one that is a probe, pass.
func (a admission) answer() {
	if e := a.b.known(a.command); e != nil {
		e.answer()
	}
	a.pass()
}

// none reports whether no command has a circuit.
func (b *breakers) none() bool { return b.count.Load() == 0 }

// refuses returns why a call of the command would be refused now; nil when it would not be, or
// would be a probe.
func (b *breakers) refuses(command string) *CircuitError {
	if e := b.known(command); e != nil && e.cb.State() == gobreaker.StateOpen {
		return e.refusal()
	}
	return nil
}

// state is that of the command's circuit.
func (b *breakers) state(command string) string {
	if e := b.known(command); e != nil {
		return e.cb.State().String()
	}
	return circuitClosed
}

func (b *breakers) known(command string) *commandBreaker {
	if !b.none() {
		if v, ok := b.keys.Load(command); ok {
			return v.(*commandBreaker)
		}
	}
	return nil
}

// charge books a lost worker that no circuit has let in.
func (b *breakers) charge(command string, err *Error) {
	if b.cfg.Failures <= 0 {
		return
	}
	e := b.entry(command)
	if done, open := e.cb.Allow(); open == nil {
		e.lose(err)
		done(errLost)
	}
}

// chargeAnswered books a worker that ended by itself a moment after it had answered a call of the
// command: that answer was no good sign.
func (b *breakers) chargeAnswered(command string, err *Error) {
	if b.cfg.Failures <= 0 {
		return
	}
	b.entry(command).takeBack(time.Now())
	b.charge(command, err)
}

func (b *breakers) entry(command string) *commandBreaker {
	e := &commandBreaker{cfg: b.cfg}
	e.cb = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Name: command, Timeout: max(b.cfg.OpenFor, time.Millisecond),
		ReadyToTrip: func(gobreaker.Counts) bool { return e.ready() },
		IsExcluded:  func(err error) bool { return err == errNoOutcome },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			var cause error
			if last := e.lastLoss(); last.cause != nil {
				cause = last.cause
			}
			b.changed(command, to.String(), cause)
		},
	})
	if v, loaded := b.keys.LoadOrStore(command, e); loaded {
		return v.(*commandBreaker)
	}
	b.count.Add(1)
	return e
}

func (e *commandBreaker) refusal() *CircuitError {
	last := e.lastLoss()
	refused := &CircuitError{Command: e.cb.Name(), RetryAt: later(last.at.Add(e.cfg.OpenFor), time.Now())} // a probe may be under way
	if last.cause != nil {
		refused.Cause = last.cause
	}
	return refused
}

// lose books a lost worker. Those that are killed side by side, and nobody knows by whom, are one
// loss: the command has not cost one after the other, whatever they had of it.
func (e *commandBreaker) lose(err *Error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	var exit *ExitError
	known := errors.As(err.Err, &exit)
	if known && exit.fromOutside() {
		if err.given.Before(e.struck) {
			return
		}
		e.struck = now
	}
	parts := lossParts
	if err.guilt == guiltBeside {
		parts = 1
	}
	e.streak += parts
	e.last = loss{now, err.forStrangers()}
	if known && exit.itself {
		if err.guilt != guiltAlone {
			if e.parts++; e.parts%lossParts != 0 {
				return
			}
		}
		e.exits = append(e.exits, e.last.at)
		e.exits = e.exits[max(0, len(e.exits)-e.manyExits()):]
	}
}

func (e *commandBreaker) manyExits() int { return exitFactor * e.cfg.Failures }

func (e *commandBreaker) answer() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.streak > 0 {
		e.before, e.streak, e.answered = e.streak, 0, time.Now()
	}
}

// takeBack undoes the last answer, unless that was too long ago for its worker to have ended
// because of it.
func (e *commandBreaker) takeBack(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now.Sub(e.answered) <= afterAnswer {
		e.streak, e.before = max(e.streak, e.before), 0
	}
}

// ready reports whether the circuit opens.
func (e *commandBreaker) ready() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.streak >= lossParts*e.cfg.Failures || len(e.exits) == e.manyExits() && e.last.at.Sub(e.exits[0]) <= e.cfg.OpenFor
}

func (e *commandBreaker) lastLoss() loss {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// inFlight counts the calls that the circuit has let in and that have not ended.
func (e *commandBreaker) inFlight() int64 {
	c := e.cb.Counts()
	return int64(c.Requests) - int64(c.TotalSuccesses) - int64(c.TotalFailures) - int64(c.TotalExclusions)
}

// sweep drops the circuits that have seen no loss for a quiet OpenFor. While a call of the command
// runs it is not quiet: a command that hangs until its timeout loses its workers further apart than
// that.
func (b *breakers) sweep(now time.Time) {
	b.keys.Range(func(key, v any) bool {
		e := v.(*commandBreaker)
		if e.cb.State() != gobreaker.StateOpen && e.inFlight() <= 0 && now.Sub(e.lastLoss().at) > 2*b.cfg.OpenFor && b.keys.CompareAndDelete(key, v) {
			b.count.Add(-1)
		}
		return true
	})
}
