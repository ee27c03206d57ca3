package pypool

import (
	"log/slog"
	"strings"
	"time"
)

// What the pool says of itself: events to the Observer, records to the log. No arguments and no results are in them.

func (s *supervisor) reportExit(w *worker, call *CallInfo, wasReady, stopped bool) {
	level, text := slog.LevelDebug, "worker stopped"
	attrs := []slog.Attr{slog.String("worker", w.id), slog.Int("pid", w.proc.PID()), slog.Int64("calls", w.calls.Load()), slog.Duration("uptime", time.Since(w.started))}
	ev := Event{Kind: EventWorkerExited, Worker: w.id, PID: w.proc.PID(), Cause: "stopped"}
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
	attrs := []slog.Attr{slog.String("command", label(c.Command)), slog.Uint64("request", c.RequestID)}
	if c.Session != "" {
		attrs = append(attrs, slog.String("session", c.Session))
	}
	if c.Program != "" {
		attrs = append(attrs, slog.String("program", label(c.Program)))
	}
	return attrs
}

// label is a name of the caller's for a record that may wait: bounded, and a copy, as it may be a small part of a large request.
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

// logCause takes what a worker has sent in place of an answer out of the text of err: it may be part of a result, and no
// result is ever logged. The caller's error keeps it.
func logCause(err error, text string) string {
	if violation := violationIn(err); violation != nil {
		if before, _, found := strings.Cut(text, violation.Reason); found {
			return before + violation.Reason
		}
	}
	return text
}

// violationIn finds the *ProtocolError in an error of pypool's. It asks no error of the caller's, as errors.As would: locks may be held,
// and nobody would recover its panic.
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
