package pypool

import (
	"context"
	"log/slog"
	"strings"
	"time"
)

// Observer is told what the pool does, as pgx's tracers are. Nil funcs are skipped, and no lock is
// held while one is called.
type Observer struct {
	// CallStart may return a context that carries a span: CallEnd gets it, and the call runs with
	// it (in a Map, with Map's own). nil stands for the context that it was given.
	//
	// CallStart and CallEnd are called on the caller's goroutine, where their panics pass through
	// to the caller; in a [Map] on its goroutines, several at the same time, whose panics come out
	// in the goroutine of the loop. CallEnd is called exactly once for each CallStart, also when
	// that has panicked: when the call has ended for its caller (a stream: when its loop has the
	// error, or is over; its worker may stop a moment later).
	CallStart func(ctx context.Context, c CallInfo) context.Context
	CallEnd   func(ctx context.Context, c CallInfo, o CallOutcome)
	// Event is called on one goroutine of the pool, in the order of the events. While it is slow
	// they wait: 4096 of them, and of [EventSessionEnded] 1024; beyond that they are dropped, and
	// an [EventDropped] in their place says how many. Behind 256 events with an Err, that of
	// further ones has its long texts (stderr, stacks) cut. A panic ends that one call of Event,
	// and the first is logged with its stack.
	Event func(Event)

	// TraceParent returns the W3C traceparent of the context that CallStart has returned (of the
	// call's own where CallStart is nil), which Python sees as current_call().trace; empty for
	// none. It is asked once for each call, and in a Map once for each item, on the goroutine of
	// CallStart. What is no traceparent is not sent, and the log says so once.
	TraceParent func(ctx context.Context) string

	// FunctionStart and FunctionEnd are told of the functions of Config.Functions that Python
	// calls, on the goroutine on which each runs. FunctionStart may return the context that it is to
	// run with; nil stands for the one that it was given. FunctionEnd is called exactly once after
	// it, with the error that the function has returned. A panic of either is the function's.
	FunctionStart func(ctx context.Context, f FunctionInfo) context.Context
	FunctionEnd   func(ctx context.Context, f FunctionInfo, err error)
}

// FunctionInfo identifies a call of a function of Config.Functions.
type FunctionInfo struct {
	CallInfo        // the call on whose behalf it runs; of a batch, without its session
	Function string // its name
	Trace    string // the W3C traceparent of the span in which Python has called it, where it has OpenTelemetry's API loaded; else empty
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

// validTraceParent reports whether s is version-traceid-parentid-flags as W3C Trace Context writes
// it: lower-case hex, ids that are not all zeros. Version 00 has nothing behind the flags; later
// ones may have more, and ff is none.
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

	TraceParent string // WithTraceParent's: the call comes from elsewhere, and this is its caller's span
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
	EventWorkerRetired EventKind = "worker_retired" // a worker has asked to be replaced; Cause says why, and the call is the one that has caused it
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
	Slot      int // the worker's
	PID       int
	Session   string
	Command   string
	RequestID uint64 // the call during which it happened
	State     string
	Cause     string // one line
	Err       error
	Dropped   int64 // of EventDropped
}

// ErrorRate configures the watch over the share of calls that the infrastructure failed (timeouts,
// lost or missing workers, a full queue; never exceptions, bad arguments or cancellations). Func is
// called when the share over Window, with at least MinCalls calls in it, comes to Threshold or
// more, and again when it falls below. Zero values: 1 min, 0.5, 20. With a negative Window or
// Threshold it is never called.
type ErrorRate struct {
	Window    time.Duration
	Threshold float64
	MinCalls  int
	Func      func(ErrorRateAlert)
}

// ErrorRateAlert is one crossing of the threshold.
type ErrorRateAlert struct {
	Pool      string
	Above     bool // crossed upward
	Rate      float64
	Threshold float64
	Calls     int64 // finished in the window
	Failures  int64
	Window    time.Duration
}

// --- what the pool says of itself -----------------------------------------------------------------------------------

// Events go to the Observer, records to the log. No arguments and no results are in them.

func (s *supervisor) reportExit(w *worker, call *CallInfo, wasReady, stopped bool) {
	level, text := slog.LevelDebug, "worker stopped"
	attrs := []slog.Attr{slog.String("worker", w.id), slog.Int("slot", w.slot), slog.Int("pid", w.proc.PID()), slog.Int64("calls", w.calls.Load()), slog.Duration("uptime", time.Since(w.started))}
	ev := Event{Kind: EventWorkerExited, Worker: w.id, Slot: w.slot, PID: w.proc.PID(), Cause: "stopped"}
	if !stopped {
		exit := w.exitError()
		level, text = slog.LevelWarn, "worker exited"
		if !wasReady { // that it did not start, and why, is told for itself
			level, text = slog.LevelDebug, "worker ended before it was ready"
		}
		ev.Cause, ev.Err = exit.Error(), exit
		switch ours := w.proc.Exit().Ours; {
		case ours && (isClosed(w.env.killing) || w.whyKilled() == poolClosed || !wasReady && s.ctx.Err() != nil): // starts end first when a pool closes
			level, ev.Cause = slog.LevelDebug, "killed by pypool: "+poolClosed
		case ours && !wasReady:
			ev.Cause = "killed by pypool: it did not start"
		case ours:
			ev.Cause = "killed by pypool: " + w.whyKilled()
		}
		attrs = append(attrs, slog.String("cause", ev.Cause))
	}
	if r := w.retirement.Load(); r != nil && stopped {
		ev.Cause = "stopped: it had asked to be replaced: " + r.reason
		attrs = append(attrs, slog.String("cause", ev.Cause))
	}
	if call != nil {
		ev.Command, ev.Session, ev.RequestID = call.Command, call.Session, call.RequestID
		attrs = append(attrs, callAttrs(*call)...)
	}
	s.env.reporter.log(level, text, attrs...)
	s.event(ev)
}

func (w *worker) whyKilled() string {
	if why := w.blamed.Load(); why != nil {
		return *why
	}
	return "it was in doubt"
}

func callAttrs(c CallInfo) []slog.Attr {
	attrs := []slog.Attr{slog.String("command", label(c.Command))}
	if c.RequestID != 0 { // else it is a batch
		attrs = append(attrs, slog.Uint64("request", c.RequestID))
	}
	if c.Session != "" {
		attrs = append(attrs, slog.String("session", c.Session))
	}
	if c.Program != "" {
		attrs = append(attrs, slog.String("program", label(c.Program)))
	}
	return attrs
}

// label is a name of the caller's for a record that may wait: bounded, and a copy, as it may be a
// small part of a large request.
func label(name string) string { return strings.Clone(printable(name, 256)) }

func (s *supervisor) event(ev Event) {
	if f := s.cfg.Observer.Event; f != nil {
		ev.Time, ev.Pool = time.Now(), s.cfg.Name
		s.env.reporter.event(f, ev)
	}
}

// commandCircuit runs with gobreaker's lock held: it only queues.
func (s *supervisor) commandCircuit(command, state string, err error) {
	ev := Event{Kind: EventCircuit, Command: command, State: state, Err: err}
	attrs := []slog.Attr{slog.String("command", command), slog.String("state", state)}
	if err != nil {
		ev.Cause = err.Error()
		attrs = append(attrs, slog.String("cause", logCause(err, ev.Cause)))
	}
	s.env.reporter.log(slog.LevelWarn, "the command's circuit is "+state, attrs...)
	s.event(ev)
}

func (s *supervisor) circuitChanged(state string, err error) {
	ev := Event{Kind: EventCircuit, State: state, Err: err}
	attrs := []slog.Attr{slog.String("state", state)}
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelError
		ev.Cause = err.Error()
		attrs = append(attrs, slog.String("cause", ev.Cause))
	}
	s.env.reporter.log(level, "the pool's circuit is "+state, attrs...)
	s.event(ev)
}

// logFailure logs a call that the infrastructure failed.
func (s *supervisor) logFailure(c *call, err *Error) {
	attrs := callAttrs(c.info)
	if c.worker != "" {
		attrs = append(attrs, slog.String("worker", c.worker), slog.Int("pid", c.pid))
	}
	s.env.reporter.log(slog.LevelWarn, "call failed", append(attrs, slog.String("type", string(err.Type)),
		slog.String("delivery", err.Delivery.String()), slog.Duration("elapsed", err.Context.Elapsed), slog.String("cause", logCause(err, err.Message)))...)
}

// logCause takes what a worker has sent in place of an answer out of the text of err: it may be
// part of a result, and no result is ever logged. The caller's error keeps it.
func logCause(err error, text string) string {
	if violation := violationIn(err); violation != nil {
		if before, _, found := strings.Cut(text, violation.Reason); found {
			return before + violation.Reason
		}
	}
	return text
}

// violationIn finds the *ProtocolError in an error of pypool's. It asks no error of the caller's,
// as errors.As would: locks may be held, and nobody would recover its panic.
func violationIn(err error) *ProtocolError {
	switch e := err.(type) {
	case *ProtocolError:
		return e
	case *Error:
		return violationIn(e.Err)
	case *StartError:
		return violationIn(e.Err)
	case *CircuitError:
		return violationIn(e.Cause)
	case *pair:
		if v := violationIn(e.detail); v != nil {
			return v
		}
		return violationIn(e.cause)
	}
	return nil
}

const briefDetail = 1 << 10

// withoutDetails is the error with its long texts cut, for an event that many others wait before.
func withoutDetails(err error) error {
	switch e := err.(type) {
	case *Error:
		brief := *e
		brief.Err = withoutDetails(e.Err)
		return &brief
	case *StartError:
		brief := *e
		brief.Stderr, brief.Err = tail(e.Stderr), withoutDetails(e.Err)
		return &brief
	case *ExitError:
		brief := *e
		brief.Stderr, brief.Stacks = tail(e.Stderr), head(e.Stacks)
		return &brief
	case *HangError:
		brief := *e
		brief.Stacks = head(e.Stacks)
		return &brief
	case *PythonError:
		return &PythonError{Type: label(e.Type), Module: label(e.Module), Message: head(e.Message), Traceback: tail(e.Traceback)}
	case *CircuitError:
		brief := *e
		brief.Cause = withoutDetails(e.Cause)
		return &brief
	case *pair:
		return &pair{withoutDetails(e.detail), e.cause}
	}
	return err
}

func head(s string) string { return strings.Clone(s[:min(len(s), briefDetail)]) }
func tail(s string) string { return strings.Clone(s[max(0, len(s)-briefDetail):]) }
