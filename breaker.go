package pypool

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// startCircuit is the pool's own circuit, over workers' starts. While it is open, calls fail fast.
type startCircuit struct {
	cb  *gobreaker.TwoStepCircuitBreaker[any]
	why atomic.Pointer[CircuitError] // calls are refused; nil while closed
}

// errNoOutcome settles what says nothing about the circuit it was asked of: a call that was canceled or never ran, a start
// that found no room or was ended by the pool's close.
var errNoOutcome = errors.New("no outcome")

// newStartCircuit trips when trip says so upon a failed start. It is half-open after probe: then one start is tried at a time.
func newStartCircuit(probe time.Duration, trip func() bool) *startCircuit {
	return &startCircuit{cb: gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Timeout: max(probe, time.Millisecond), ReadyToTrip: func(gobreaker.Counts) bool { return trip() },
		IsExcluded: func(err error) bool { return errors.Is(err, errNoOutcome) },
	})}
}

func (c *startCircuit) closed() bool { return c.cb.State() == gobreaker.StateClosed }

// refuses returns why calls are refused, nil when they are not.
func (c *startCircuit) refuses() *CircuitError { return c.why.Load() }

// breakers holds a circuit for each command that has lately cost workers. In steady state there is none, and allow costs one load.
type breakers struct {
	cfg     Breaker
	changed func(command, state string, err error)
	count   atomic.Int64
	keys    sync.Map // command -> *commandBreaker
}

type commandBreaker struct {
	cb       *gobreaker.TwoStepCircuitBreaker[any]
	lastLoss atomic.Pointer[loss]
}

type loss struct {
	at  time.Time
	err error
}

// allow asks whether a call of the command may run. settle must be called with the call's end, exactly once, when it is not nil.
func (b *breakers) allow(command string) (settle func(*Error), refused *CircuitError) {
	if b.cfg.Failures <= 0 {
		return nil, nil
	}
	if b.count.Load() > 0 {
		if v, ok := b.keys.Load(command); ok {
			return v.(*commandBreaker).allow(b, command)
		}
	}
	return nil, nil
}

// lost charges the first lost worker to a command that had no circuit yet.
func (b *breakers) lost(command string, err *Error) {
	if b.cfg.Failures <= 0 {
		return
	}
	settle, refused := b.entry(command).allow(b, command)
	if refused == nil {
		settle(err)
	}
}

func (b *breakers) entry(command string) *commandBreaker {
	e := &commandBreaker{}
	e.cb = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
		Name: command, Timeout: max(b.cfg.OpenFor, time.Millisecond),
		ReadyToTrip: func(c gobreaker.Counts) bool { return int(c.ConsecutiveFailures) >= b.cfg.Failures },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNoOutcome) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			var cause error
			if last := e.lastLoss.Load(); last != nil {
				cause = last.err
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

func (e *commandBreaker) allow(b *breakers, command string) (func(*Error), *CircuitError) {
	done, err := e.cb.Allow()
	if err != nil {
		refused := &CircuitError{Command: command}
		if last := e.lastLoss.Load(); last != nil {
			refused.Cause, refused.RetryAt = last.err, last.at.Add(b.cfg.OpenFor)
		}
		return nil, refused
	}
	return func(err *Error) {
		switch {
		case err.costWorker():
			e.lastLoss.Store(&loss{time.Now(), err})
			done(err)
		case err == nil || err.Delivery == Executed || err.Category == CategoryExecution:
			done(nil) // the worker answered
		default:
			done(errNoOutcome)
		}
	}, nil
}

// inFlight counts the calls that the circuit has let in and that have not settled.
func (e *commandBreaker) inFlight() int64 {
	c := e.cb.Counts()
	return int64(c.Requests) - int64(c.TotalSuccesses) - int64(c.TotalFailures) - int64(c.TotalExclusions)
}

// sweep drops the circuits that have seen no loss for a quiet OpenFor. While a call of the command runs it is not quiet: a
// command that hangs until its timeout loses its workers further apart than that.
func (b *breakers) sweep(now time.Time) {
	b.keys.Range(func(key, v any) bool {
		e := v.(*commandBreaker)
		last := e.lastLoss.Load()
		if e.cb.State() != gobreaker.StateOpen && e.inFlight() <= 0 && (last == nil || now.Sub(last.at) > 2*b.cfg.OpenFor) && b.keys.CompareAndDelete(key, v) {
			b.count.Add(-1)
		}
		return true
	})
}

// costWorker reports whether the call that ended with e cost a worker for which its command is to blame: an exit, doubt or
// deadline, but not a cancellation, a closing pool, or a worker that died before it began the request.
func (e *Error) costWorker() bool {
	if e == nil || e.Delivery == NotExecuted {
		return false
	}
	switch e.Type {
	case TypeOperationTimeout, TypeWorkerExited, TypeProtocol, TypeInternal:
		return true
	}
	return false
}
