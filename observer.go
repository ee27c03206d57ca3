package pypool

import (
	"context"
	"log/slog"
	"strings"
	"time"
)

// Observer is told what the pool does, as pgx's tracers are. Nil funcs are skipped, and no lock is held while one is called.
type Observer struct {
	// CallStart may return a context that carries a span: CallEnd gets it, and the call runs with it (in a Map, with Map's own).
	// nil stands for the context that it was given.
	//
	// CallStart and CallEnd are called on the caller's goroutine, where their panics pass through to the caller; in a [Map] on its
	// goroutines, several at the same time, whose panics come out in the goroutine of the loop. CallEnd is called exactly once
	// for each CallStart, also when that has panicked: when the call has ended for its caller (a stream: when its loop has the error,
	// or is over; its worker may stop a moment later).
	CallStart func(ctx context.Context, c CallInfo) context.Context
	CallEnd   func(ctx context.Context, c CallInfo, o CallOutcome)
	// Event is called on one goroutine of the pool, in the order of the events. While it is slow they wait: 4096 of them, and of
	// [EventSessionEnded] 1024; beyond that they are dropped, and an [EventDropped] in their place says how many. Behind 256 events
	// with an Err, that of further ones has its long texts (stderr, stacks) cut. A panic ends that one call of Event, and
	// the first is logged with its stack.
	Event func(Event)

	// TraceParent returns the W3C traceparent of the context that CallStart has returned (of the call's own where CallStart is nil), which
	// Python sees as current_call().trace; empty for none. It is asked once for each call, and in a Map once for each
	// item, on the goroutine of CallStart. What is no traceparent is not sent, and the log says so once.
	TraceParent func(ctx context.Context) string
}

// traceOf asks the observer for the call's traceparent.
func (p *Pool) traceOf(ctx context.Context, ask func(context.Context) string) string {
	trace := ask(ctx)
	if trace == "" || validTraceParent(trace) {
		return trace
	}
	if !p.traceFaulty.Swap(true) {
		p.reporter.log(slog.LevelWarn, "Observer.TraceParent returned what is no W3C traceparent: such calls are sent without", slog.String("value", printable(trace, 128)))
	}
	return ""
}

// validTraceParent reports whether s is version-traceid-parentid-flags as W3C Trace Context writes it: lower-case hex, ids that are
// not all zeros. Version 00 has nothing behind the flags; later ones may have more, and ff is none.
func validTraceParent(s string) bool {
	const traceAt, parentAt, flagsAt, end = 3, 36, 53, 55
	if len(s) < end || len(s) > maxTraceParent || s[traceAt-1] != '-' || s[parentAt-1] != '-' || s[flagsAt-1] != '-' {
		return false
	}
	version, traceID, parentID, flags := s[:traceAt-1], s[traceAt:parentAt-1], s[parentAt:flagsAt-1], s[flagsAt:end]
	for _, field := range []string{version, traceID, parentID, flags} {
		if strings.Trim(field, "0123456789abcdef") != "" {
			return false
		}
	}
	if version == "ff" || strings.Trim(traceID, "0") == "" || strings.Trim(parentID, "0") == "" {
		return false
	}
	if len(s) == end {
		return true
	}
	for _, c := range []byte(s[end:]) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return version != "00" && s[end] == '-'
}

const maxTraceParent = 512 // bytes: no version says how long its own may be

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
	EventDropped       EventKind = "dropped"        // as many events as Dropped says came faster than Event took them, and are lost; Cause says of which kind
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
	Dropped   int64 // of EventDropped
}
