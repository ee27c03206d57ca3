package pypool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/puddle/v2"

	"github.com/pypool/pypool/internal/foreign"
)

// How the supervisor has workers constructed, and what it makes of constructions that fail.

// startHistory is what has become of starts. The supervisor's mu guards it.
type startHistory struct {
	failed    int         // since New
	inARow    []time.Time // the latest MaxRestarts failures since a start went well, or since an edit
	useless   []time.Time // the latest MaxRestarts starts that were of no use, since one was
	last      error       // the last failure; nil: there was none
	newest    failedStart // the last one of the latest generation of which a start has failed
	mended    bool        // Size workers have been ready since
	told      toldStart   // what the log has said of it
	wait      *backoff.ExponentialBackOff
	notBefore time.Time // the next start
}

// failedStart is why a start of a generation has failed; the zero one is of none.
type failedStart struct {
	generation int64
	err        error
}

// fail books a start of the generation that failed now.
func (h *startHistory) fail(generation int64, err error, now time.Time, kept int) {
	h.failed++
	h.last, h.mended = err, false
	if generation >= h.newest.generation {
		h.newest = failedStart{generation, err}
	}
	h.inARow = append(h.inARow, now)
	h.inARow = h.inARow[max(0, len(h.inARow)-kept):]
	if !now.Before(h.notBefore) { // one step for starts that fail side by side
		h.notBefore = now.Add(h.wait.NextBackOff())
	}
}

// uselessStart books a start that went well, and whose worker then asked to be replaced.
func (h *startHistory) uselessStart(err error, now time.Time, kept int) {
	h.last, h.mended = err, false
	h.useless = append(h.useless, now)
	h.useless = h.useless[max(0, len(h.useless)-kept):]
}

// forgive has earlier failures delay the next start no more.
func (h *startHistory) forgive() {
	h.inARow, h.notBefore = nil, time.Time{}
	h.wait.Reset()
}

// construct is puddle's constructor, reached through checkout.create alone.
func (s *supervisor) construct(ctx context.Context) (w *worker, err error) {
	defer func() {
		if r := recover(); r != nil { // puddle calls this; a panic would end the host
			err = newError(TypeInternal, NotExecuted, "panic while starting a worker: "+oneLine(foreign.Describe(r)), nil)
		}
	}()
	begun, _ := ctx.Value(startKey{}).(start)
	w, err = startWorker(ctx, s.env, s.seq.Add(1), begun.generation, begun.slot)
	if err != nil && s.cfg.WatchScripts && raisedByPython(err) {
		s.mu.Lock()
		s.broken = max(s.broken, begun.generation+1)
		s.mu.Unlock()
	}
	return w, err
}

// raisedByPython reports whether a failed start is the doing of the user's source files: they would
// have to change first.
func raisedByPython(err error) bool {
	var py *PythonError
	return errors.As(err, &py)
}

// brokenLocked reports whether, with WatchScripts, the source files as they are have failed to
// start already: what is ready goes on serving, and nothing is tried again until one of them
// changes.
func (s *supervisor) brokenLocked() bool { return s.broken > s.generation.Load() }

// start is what a construction is for.
type start struct {
	slot       int
	generation int64
}

// startKey leads to a construction's start in its context, which puddle hands through.
type startKey struct{}

// startLocked has one worker constructed for the slot, on a goroutine that close joins.
func (s *supervisor) startLocked(slot int, done func(error)) {
	s.starting++
	s.building[slot] = slot >= s.size()
	begun := start{slot, s.generation.Load()}
	s.starts.Go(func() {
		err := s.checkout.create(context.WithValue(s.ctx, startKey{}, begun))
		s.started(begun, err, done)
		s.kick()
	})
}

// started books the end of a construction. One that went well forgives no failure of a later
// generation, which may have been booked before it.
func (s *supervisor) started(begun start, err error, done func(error)) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.broadcastLocked()
	s.starting--
	delete(s.building, begun.slot)
	switch {
	case s.ctx.Err() != nil:
		done(errNoOutcome)
	case err == nil:
		done(nil)
		s.circuit.close()
		delete(s.refused, begun.slot)
		s.arrivedLocked(begun.slot)
		if begun.generation == s.generation.Load() {
			s.history.forgive()
		}
		s.publishLocked()
	case errors.Is(err, puddle.ErrNotAvailable):
		done(errNoOutcome) // workers on their way out still hold their slots
		s.noRoom = now.Add(10 * time.Millisecond)
	default:
		s.refused[begun.slot] = now
		s.history.fail(begun.generation, err, now, s.cfg.MaxRestarts)
		done(err)
		s.publishLocked()
		s.reportFailedStartLocked(err)
	}
}

// reportFailedStartLocked logs a failed start: with the traceback, unless the one before failed the
// same way. With WatchScripts that is told once for each edit.
func (s *supervisor) reportFailedStartLocked(err error) {
	told := toldStart{s.generation.Load(), err.Error()}
	again := s.history.told == told
	s.history.told = told
	level := slog.LevelError
	if again && s.cfg.WatchScripts {
		level = slog.LevelDebug
	}
	attrs := []slog.Attr{slog.String("cause", told.cause), slog.Int("failures_in_a_row", len(s.history.inARow))}
	if s.brokenLocked() && s.readyLocked() >= s.size() {
		attrs = append(attrs, slog.String("next_try", "when a source file changes"))
	} else {
		attrs = append(attrs, slog.Time("next_try", s.history.notBefore))
	}
	var py *PythonError
	if errors.As(err, &py) && !again {
		if py.File != "" {
			attrs = append(attrs, slog.String("at", fmt.Sprintf("%s:%d", py.File, py.Line)))
		}
		attrs = append(attrs, slog.String("traceback", py.Traceback))
	}
	s.env.reporter.log(level, "a worker did not start", attrs...)
}

// toldStart is a failed start that the log has told of.
type toldStart struct {
	generation int64
	cause      string
}

// tripLocked decides whether a failed start, or one of no use, opens the circuit: MaxRestarts of the
// kind in a row, none too old, and no sound worker ready.
func (s *supervisor) tripLocked() bool {
	if s.soundLocked() > 0 {
		return false
	}
	for _, row := range [][]time.Time{s.history.inARow, s.history.useless} {
		if len(row) < s.cfg.MaxRestarts {
			continue
		}
		window := longest // a StartTimeout of years, MaxRestarts times, is beyond what a Duration holds
		if n := time.Duration(s.cfg.MaxRestarts); s.cfg.StartTimeout <= longest/n {
			window = max(s.cfg.RestartWindow, n*s.cfg.StartTimeout)
		}
		if time.Since(row[0]) <= window {
			return true
		}
	}
	return false
}

// publishLocked tells callers whether workers can be started.
func (s *supervisor) publishLocked() {
	var why *CircuitError
	switch {
	case s.frozen != nil && s.readyLocked() == 0:
		why = &CircuitError{Cause: s.frozen}
	case !s.circuit.closed():
		why = &CircuitError{RetryAt: s.nextTryLocked(), Cause: s.history.last}
	}
	switch was := s.circuit.why.Swap(why); {
	case why == nil && was != nil:
		s.circuitChanged(circuitClosed, nil)
	case why != nil && was == nil:
		s.circuitChanged(circuitOpen, why.Cause)
	}
	if why != nil {
		s.checkout.rejectWaiters()
	}
}

// nextTryLocked is when the next start may be, in the first of the slots below Size.
func (s *supervisor) nextTryLocked() time.Time {
	var first time.Time
	for slot := range s.size() {
		var until time.Time
		if d := s.delays[slot]; d != nil {
			until = d.until
		}
		if slot == 0 || until.Before(first) {
			first = until
		}
	}
	return later(first, later(s.history.notBefore, s.notAgain))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sooner is the earlier of two times, of which either may be zero: none.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (s *supervisor) broadcastLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}
