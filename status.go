package pypool

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Stats returns a snapshot.
func (p *Pool) Stats() Stats {
	st := Stats{
		Size: p.cfg.Size, Overflow: p.cfg.Overflow, MaxSize: p.cfg.Size + p.cfg.Overflow,
		Waiting: int(p.desk.waiting.Load()), Sessions: p.sessions.size(), Uptime: time.Since(p.born), Unreapable: int(p.unreapable.Load()),
	}
	p.counters.snapshot(&st)
	p.sup.snapshot(&st)
	st.LogsDropped, st.EventsDropped = p.reporter.logsDropped.Load(), p.reporter.eventsDropped.Load()
	calls, failures := p.counters.rate.Sum(time.Since(p.born))
	st.ErrorRate = share(failures, calls)
	return st
}

// Workers describes the live processes, oldest first.
func (p *Pool) Workers() []WorkerInfo {
	list := []WorkerInfo{}
	for _, w := range p.sup.workers() {
		list = append(list, w.info())
	}
	return list
}

// HealthCheck pings every idle worker, side by side; a busy one counts as responsive, unless the loop over its stream has not come back to
// read on for more than 5 s. One that does not answer within 5 s is replaced. The error is nil exactly when the pool can serve: Health.Healthy asks for more, all of Size and a closed circuit.
func (p *Pool) HealthCheck(ctx context.Context) (Health, error) {
	if !p.wasStarted() {
		return Health{Breaker: "closed"}, neverStarted(CallInfo{})
	}
	if isClosed(p.closing) {
		e := newError(TypePoolNotAvailable, NotExecuted, "the pool is closed", nil)
		e.Context.Pool = p.cfg.Name
		return Health{Breaker: "closed"}, e
	}
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
	h.Healthy = h.Responsive >= p.cfg.Size && h.Breaker == "closed"
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
	case failed != nil:
		e = newError(TypeOperationTimeout, NotExecuted, "no worker answers: "+failed.Error(), failed)
	case h.LastError != nil:
		e = newError(TypeWorkerStart, NotExecuted, "no worker is ready: "+h.LastError.Error(), h.LastError)
	}
	e.Context.Pool = p.cfg.Name
	return h, e
}

// Commands describes the registered commands and programs, as a worker tells them.
func (p *Pool) Commands(ctx context.Context) ([]CommandInfo, error) {
	return Call[[]CommandInfo](ctx, p, "list_commands", nil)
}

// commandNames lists the commands that a ready worker has registered.
func (p *Pool) commandNames() []string {
	for _, w := range p.sup.workers() {
		if isClosed(w.ready) {
			names := slices.Clone(w.commands)
			slices.Sort(names)
			return names
		}
	}
	return nil
}

// Sessions describes the known sessions, oldest first.
func (p *Pool) Sessions() []SessionInfo { return p.sessions.list() }

// Session describes one session; false when it is not known (any more).
func (p *Pool) Session(id string) (SessionInfo, bool) { return p.sessions.get(id) }

// EndSession forgets a session and reports whether it was known. Calls in it go on; the next call in it starts a new count.
func (p *Pool) EndSession(id string) bool { return p.sessions.end(id) }

// Reload replaces every worker, rolling: a new one is ready before an old one goes, so that at no time fewer than Size are
// ready, and no call fails for it. It returns when the last old worker is gone; one that a stalled stream holds is taken after StallTimeout. If a new one does not start, it returns that
// error: the old ones go on serving, and the pool goes on trying.
func (p *Pool) Reload(ctx context.Context) error {
	err := errStopped
	if !isClosed(p.closing) {
		err = p.sup.reload(ctx)
	}
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.Is(err, errStopped):
		e = newError(TypePoolNotAvailable, NotExecuted, "the pool is closed", nil)
	default:
		e = contextError(ctx, NotExecuted, nil)
	}
	e.Context.Pool = p.cfg.Name
	return e
}
