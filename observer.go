package pypool

import (
	"context"
	"time"
)

// Observer is told what the pool does, as pgx's tracers are: CallStart may return a context that carries a span, and that
// context is the one the call runs with and CallEnd gets. Nil funcs are skipped. All are called without locks held:
// CallStart and CallEnd on the caller's goroutine, CallEnd exactly once for each CallStart; Event on one goroutine of
// the pool, in order.
type Observer struct {
	CallStart func(ctx context.Context, c CallInfo) context.Context
	CallEnd   func(ctx context.Context, c CallInfo, o CallOutcome)
	Event     func(Event)
}

// CallInfo identifies a call.
type CallInfo struct {
	Pool      string
	Command   string
	Program   string // set by ExecuteProgram
	Session   string // empty for an anonymous call
	RequestID uint64 // unique in the pool; the same number is the call's id in Python, in logs and in errors
}

// CallOutcome is how a call ended.
type CallOutcome struct {
	Worker string        // the worker that served it, empty when it never got one
	PID    int           // that worker's process
	Queued time.Duration // the wait for a worker
	Ran    time.Duration // from the first byte written to the last byte read
	Err    error         // nil, or an *Error
}

// EventKind names an [Event].
type EventKind string

// The events.
const (
	EventWorkerStarted EventKind = "worker_started" // a worker is ready
	EventWorkerExited  EventKind = "worker_exited"  // a worker's process has ended, or never became ready; Cause says why
	EventCircuit       EventKind = "circuit"        // a circuit changed its State; Command is empty for the pool's own
	EventPoolState     EventKind = "pool_state"     // State is serving, degraded, unavailable, closing or closed
	EventSessionEnded  EventKind = "session_ended"  // Cause says why
)

// Event is something that happened to the pool. Fields that do not apply are zero.
type Event struct {
	Time      time.Time
	Kind      EventKind
	Pool      string
	Worker    string
	PID       int
	Session   string
	Command   string
	RequestID uint64 // the call during which it happened
	State     string
	Cause     string // one line
	Err       error
}
