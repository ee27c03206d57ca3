package pypool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/puddle/v2"
)

// How the supervisor has workers constructed, and what it makes of constructions that fail.

// construct is puddle's constructor, reached through desk.create alone.
func (s *supervisor) construct(ctx context.Context) (w *worker, err error) {
	defer func() {
		if r := recover(); r != nil { // puddle calls this; a panic would end the host
			err = newError(TypeInternal, NotExecuted, fmt.Sprint("panic while starting a worker: ", r), nil)
		}
	}()
	seq := s.seq.Add(1)
	return startWorker(ctx, s.env, seq, s.generation.Load())
}

// startLocked has one worker constructed, on a goroutine that close joins.
func (s *supervisor) startLocked(settle func(error)) {
	s.starting++
	s.jobs.Go(func() {
		err := s.desk.create(s.ctx)
		s.started(err, settle)
		s.kick()
	})
}

// started books the end of a construction.
func (s *supervisor) started(err error, settle func(error)) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.broadcastLocked()
	s.starting--
	switch {
	case s.ctx.Err() != nil:
		settle(errNoOutcome)
	case err == nil:
		settle(nil)
		s.failures = s.failures[:0]
		s.startWait.Reset()
		s.notBefore = time.Time{}
		s.publishLocked()
	case errors.Is(err, puddle.ErrNotAvailable):
		settle(errNoOutcome) // workers on their way out still hold their slots
		s.notBefore = later(s.notBefore, now.Add(10*time.Millisecond))
	default:
		s.failed++
		s.lastErr, s.startErr = err, err
		s.failures = append(s.failures, now)
		if excess := len(s.failures) - s.cfg.MaxRestarts; excess > 0 {
			s.failures = slices.Delete(s.failures, 0, excess)
		}
		if !now.Before(s.notBefore) { // one step for starts that fail side by side
			s.notBefore = now.Add(s.startWait.NextBackOff())
		}
		settle(err)
		s.publishLocked()
		s.env.reporter.log(slog.LevelError, "a worker did not start", slog.String("cause", err.Error()),
			slog.Int("failures_in_a_row", len(s.failures)), slog.Time("next_try", s.notBefore))
	}
}

// tripLocked decides whether a failed start opens the circuit: MaxRestarts in a row, none too old, and no worker ready.
func (s *supervisor) tripLocked() bool {
	if len(s.failures) < s.cfg.MaxRestarts || s.readyLocked() > 0 {
		return false
	}
	window := max(s.cfg.RestartWindow, time.Duration(s.cfg.MaxRestarts)*s.cfg.StartTimeout)
	return time.Since(s.failures[0]) <= window
}

// publishLocked tells callers what the circuit's state is.
func (s *supervisor) publishLocked() {
	was := s.circuit.refuses()
	if s.circuit.closed() {
		if was != nil {
			s.circuit.why.Store(nil)
			s.circuitChanged("closed", nil)
		}
		return
	}
	why := &CircuitError{RetryAt: s.notBefore, Cause: s.lastErr}
	s.circuit.why.Store(why)
	s.desk.turnAway()
	if was == nil {
		s.circuitChanged("open", s.lastErr)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (s *supervisor) broadcastLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}
