package pypool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/pypool/pypool/internal/foreign"
)

const pingTimeout = 5 * time.Second

// Health is the result of [Pool.HealthCheck].
type Health struct {
	Healthy    bool // at least Size workers respond and the circuit is closed
	Workers    int
	Responsive int // idle ones that answered a ping, and busy ones, but for those that a stalled stream holds, or that have asked to be replaced
	Breaker    string
	// LastError is the last start that failed or was of no use since Size workers were last ready;
	// while no worker is started because too many processes do not end, that; else why the first
	// of Checks that did not respond did not.
	LastError error
	Checks    []WorkerHealth
}

// WorkerHealth is one worker's part of [Health].
type WorkerHealth struct {
	WorkerInfo
	Responsive bool
	RTT        time.Duration // of the ping; 0 for a busy worker, which is not pinged
	Err        error
}

// HealthCheck pings every idle worker, side by side, and has it run its @health functions. A busy one,
// which runs a call of its own or shares concurrent ones, is not pinged and counts as responsive,
// unless the loop over its stream has not come back to read on for more than 5 s: a hang is found by
// the timeouts of its calls. One that does not answer within 5 s is replaced, and so is one that is
// not healthy, or has asked to be replaced otherwise: it does not count as responsive. The error is
// nil exactly when the pool can serve: Health.Healthy asks for more, all of Size and a closed circuit.
// A worker that is being pinged already, for another HealthCheck or regularly, is waited for.
func (p *Pool) HealthCheck(ctx context.Context) (Health, error) {
	if !p.wasStarted() {
		return Health{Breaker: circuitClosed}, neverStarted(CallInfo{})
	}
	if isClosed(p.closing) {
		return Health{Breaker: circuitClosed}, p.isClosedError()
	}
	ctx = foreign.Context(ctx)
	checks := p.sup.checkAll(ctx)
	st := p.Stats()
	h := Health{Workers: st.Workers, Breaker: st.Breaker, Checks: checks, LastError: p.sup.lastError()}
	var failed error
	for _, c := range checks {
		if c.Responsive {
			h.Responsive++
		} else if failed == nil {
			failed = c.Err
		}
	}
	h.Healthy = h.Responsive >= st.Size && h.Breaker == circuitClosed
	if h.LastError == nil {
		h.LastError = failed
	}
	if h.Responsive > 0 {
		return h, nil
	}
	e := newError(TypeCheckoutTimeout, NotExecuted, "no worker is ready", failed)
	switch why := p.sup.circuit.refuses(); {
	case why != nil:
		e = why.error()
	case failed != nil && errors.Is(failed, ErrWorkerStart):
		e = newError(TypeWorkerStart, NotExecuted, "no worker is fit to serve: "+failed.Error(), failed)
	case failed != nil:
		e = newError(TypeOperationTimeout, NotExecuted, "no worker answers: "+failed.Error(), failed)
	case h.LastError != nil:
		e = newError(TypeWorkerStart, NotExecuted, "no worker is ready: "+h.LastError.Error(), h.LastError)
	}
	e.Context.Pool = p.cfg.Name
	return h, e
}

// checkAll pings all idle workers, joins the pings that are under way, and describes the busy ones.
// At ctx's end it reports those that have not answered yet as unresponsive; their pings go on, and
// have them replaced if they do not answer at all.
func (s *supervisor) checkAll(ctx context.Context) []WorkerHealth {
	held := s.checkout.inspect(func(*resource) bool { return true })
	joined := s.checkout.looks() // a worker that somebody else looks at looks idle, and need not be well
	for _, res := range held {
		delete(joined, res.Value())
	}
	results := make(chan WorkerHealth, len(held))
	waiting := map[string]WorkerInfo{}
	for _, res := range held {
		waiting[res.Value().id] = s.info(res.Value())
		if !s.goJob(func() { results <- s.pingHeld(res) }) {
			delete(waiting, res.Value().id)
			s.retire(res)
		}
	}
	checks := []WorkerHealth{}
	seen := map[string]bool{}
	answered := func(h WorkerHealth) {
		delete(waiting, h.ID)
		seen[h.ID] = true
		checks = append(checks, h)
	}
	for len(waiting) > 0 {
		select {
		case h := <-results:
			answered(h)
		case <-ctx.Done():
			for len(results) > 0 { // they have come in time
				answered(<-results)
			}
			for id, info := range waiting {
				seen[id] = true
				checks = append(checks, WorkerHealth{WorkerInfo: info, Err: contextError(ctx, NotExecuted, nil)})
			}
			waiting = nil
		}
	}
	for w, l := range joined {
		if !isClosed(l.over) {
			select {
			case <-l.over:
			case <-ctx.Done():
			}
		}
		switch {
		case !isClosed(l.over):
			answered(WorkerHealth{WorkerInfo: s.info(w), Err: contextError(ctx, NotExecuted, nil)})
		case l.health != nil:
			answered(*l.health)
		}
	}
	for _, w := range s.workers() {
		if state := w.state(); !seen[w.id] && (state == workerBusy || state == workerShared || state == workerCanceling || state == workerIdle) {
			h := WorkerHealth{WorkerInfo: s.info(w), Responsive: true} // it is serving, or was a moment ago
			if d := w.lease.Load().lent(time.Now()); d > pingTimeout {
				h.Responsive = false
				h.Err = newError(TypeStreamStalled, MaybeExecuted, fmt.Sprintf("a stalled stream of %v: the loop has not come back to read on", d.Round(time.Second)), nil)
			}
			if e := w.retirementError(); e != nil {
				h.Responsive, h.Err = false, e
			}
			checks = append(checks, h)
		}
	}
	slices.SortFunc(checks, func(a, b WorkerHealth) int { return a.StartedAt.Compare(b.StartedAt) })
	return checks
}

// pingHeld pings a worker that is held and gives it back, or has it replaced. The result is for its
// caller to report.
func (s *supervisor) pingHeld(res *resource) WorkerHealth {
	h, err := s.pinged(res.Value())
	s.checkout.found(res.Value(), h)
	s.release(res)
	if err != nil && s.ctx.Err() == nil {
		s.env.reporter.log(slog.LevelWarn, "an idle worker did not answer a ping and is replaced", slog.String("worker", h.ID), slog.Int("pid", h.PID), slog.String("cause", logCause(err, err.Error())))
	}
	return h
}

// pinged is what comes of a ping of a worker that is held. err is why there was no answer.
func (s *supervisor) pinged(w *worker) (h WorkerHealth, err error) {
	h.WorkerInfo = s.info(w)
	if !w.reusable() {
		h.Err = newError(TypeWorkerExited, NotExecuted, "the worker has exited", nil)
		return h, nil
	}
	if w.retirement.Load() == nil {
		h.RTT, err = w.ping(s.asking, pingTimeout)
	}
	if err != nil {
		h.RTT, h.Err = 0, err
		return h, err
	}
	if w.isUnheard() {
		w.asksToRetire(0, "its shared page says so, and nothing says why")
	}
	if w.x.memory != nil {
		w.x.memory.Rest() // it is held, and has answered all
	}
	if unfit := w.retirementError(); unfit != nil {
		h.Retired, h.Err = w.retirement.Load().reason, unfit
		return h, nil
	}
	h.Responsive = true
	return h, nil
}
