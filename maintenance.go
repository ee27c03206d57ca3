package pypool

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/pypool/pypool/internal/foreign"
	"github.com/pypool/pypool/internal/metrics"
)

// chore is something the supervisor does regularly.
type chore struct {
	every time.Duration
	due   time.Time
	do    func(now time.Time)
}

// newChores lists the chores that the configuration asks for.
func (s *supervisor) newChores(now time.Time) (chores []chore) {
	add := func(every time.Duration, do func(time.Time)) {
		if every > 0 {
			chores = append(chores, chore{every, now.Add(every), do})
		}
	}
	add(s.cfg.HealthCheckInterval, func(time.Time) { s.pingQuiet() })
	if s.cfg.SessionTTL > 0 {
		add(s.cfg.SessionCleanupInterval, func(time.Time) { s.sessions.sweep(s.cfg.SessionTTL) })
	}
	if s.cfg.Overflow > 0 {
		add(max(s.cfg.overflowIdle/4, time.Millisecond), func(time.Time) { s.retireOverflow() })
	}
	if s.cfg.Breaker.Failures > 0 {
		add(s.cfg.Breaker.OpenFor, s.breakers.sweep)
	}
	if s.cfg.MaxRSS > 0 || s.cfg.MaxLifetime > 0 {
		every := time.Second
		if s.cfg.MaxLifetime > 0 {
			every = min(every, max(s.cfg.MaxLifetime/4, 10*time.Millisecond))
		}
		add(every, func(time.Time) { s.sampleMemory() }) // lifetimes are looked at in each reconcile, and this causes one
	}
	if s.cfg.WatchScripts {
		add(s.cfg.watchEvery, newSourceWatch(s, now).tick)
	}
	if s.cfg.ErrorRate.Func != nil {
		above := false
		add(max(s.cfg.ErrorRate.Window/metrics.RateSlots, 10*time.Millisecond), func(time.Time) { above = s.watchErrorRate(above) })
	}
	return chores
}

// doChores does what is due and returns when the next thing is.
func (s *supervisor) doChores(now time.Time) time.Time {
	next := now.Add(time.Hour)
	for i := range s.chores {
		c := &s.chores[i]
		if !now.Before(c.due) {
			c.do(now)
			c.due = now.Add(c.every)
		}
		if c.due.Before(next) {
			next = c.due
		}
	}
	return next
}

// pingQuiet pings the idle workers that have served nothing since they were last looked at, and
// asks those that have @health functions in any case: the busy ones when they next fall idle. Only
// those are held meanwhile.
func (s *supervisor) pingQuiet() {
	var asked []*worker
	for _, res := range s.checkout.inspect(func(res *resource) bool {
		w := res.Value()
		quiet := w.pinged.Swap(w.calls.Load()) == w.calls.Load()
		asked = append(asked, w)
		return w.retirement.Load() == nil && (quiet || w.checks)
	}) {
		if !s.goJob(func() { s.pingHeld(res) }) {
			s.retire(res)
		}
	}
	for w := range s.checkout.all() {
		if w.checks && !slices.Contains(asked, w) {
			w.due.Store(true)
		}
	}
}

// retireOverflow lets overflow workers go: as many as there are workers that were idle for
// overflowIdle, whichever those are, for who was put back last serves next.
func (s *supervisor) retireOverflow() {
	s.mu.Lock()
	surplus := s.readyLocked() - s.size()
	s.mu.Unlock()
	if surplus <= 0 {
		return
	}
	cold := 0
	for _, res := range s.checkout.inspect(func(res *resource) bool { // the coldest first
		if time.Since(res.Value().freed) >= s.cfg.overflowIdle {
			cold++
		}
		if res.Value().slot < s.size() || cold == 0 || surplus == 0 {
			return false
		}
		cold--
		surplus--
		return true
	}) {
		s.retire(res)
	}
}

// sampleMemory reads the workers' memory, for MaxRSS. It is acted on when they are next
// released.
func (s *supervisor) sampleMemory() {
	if s.cfg.MaxRSS <= 0 {
		return
	}
	s.mu.Lock()
	workers := s.readyWorkersLocked()
	s.mu.Unlock()
	for _, w := range workers {
		rss := w.memory()
		w.rss.Store(rss)
		if w.heavy && !s.heavyKnown {
			s.heavyKnown = true
			s.env.reporter.log(slog.LevelWarn, "MaxRSS is less than a fresh worker takes, and is not applied to such workers: raise it, or import less",
				slog.String("worker", w.id), slog.Int64("rss", rss), slog.Int64("max_rss", s.cfg.MaxRSS))
		}
	}
}

// watchErrorRate compares the rate with the threshold and reports a crossing. above is the side it
// was on, and the result the side it is on.
func (s *supervisor) watchErrorRate(above bool) bool {
	cfg := s.cfg.ErrorRate
	calls, failures := s.counters.rate.Sum(s.sessions.now())
	rate := share(failures, calls)
	now := rate >= cfg.Threshold && (above || calls >= int64(cfg.MinCalls)) // few calls do not raise an alarm, nor end one
	if now == above {
		return above
	}
	alert := ErrorRateAlert{Pool: s.cfg.Name, Above: now, Rate: rate, Threshold: cfg.Threshold, Calls: calls, Failures: failures, Window: cfg.Window}
	s.env.reporter.tell("ErrorRate.Func", func() { cfg.Func(alert) })
	return now
}

func share(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

// --- replacing what is worn, or old ----------------------------------------------------------------------------------

// worn reports whether the worker has done its share.
func (w *worker) worn(generation int64, now time.Time) bool {
	cfg := w.env.cfg
	return w.generation < generation || w.retirement.Load() != nil ||
		cfg.MaxCalls > 0 && w.calls.Load() >= cfg.MaxCalls ||
		w.lifetime > 0 && now.Sub(w.started) >= w.lifetime ||
		cfg.MaxRSS > 0 && !w.heavy && w.rss.Load() > cfg.MaxRSS
}

// Reload replaces every worker, rolling: a new one is ready before an old one goes, so that at no
// time fewer than Size are ready, and no call fails for it. (With BreakBeforeMake one at a time is
// away, and calls wait.) It returns when the last old worker is gone, and replaced, also one that
// had ended by itself; one that a stalled stream holds is taken after StallTimeout. If a new one
// does not start, it returns that error: the old ones go on serving, and the pool goes on trying.
func (p *Pool) Reload(ctx context.Context) error {
	if !p.wasStarted() {
		return neverStarted(CallInfo{})
	}
	if isClosed(p.closing) {
		return p.isClosedError()
	}
	ctx = foreign.Context(ctx)
	err := p.sup.reload(ctx)
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return e
	case errors.Is(err, errStopped):
		return p.isClosedError()
	}
	e = contextError(ctx, NotExecuted, nil)
	e.Context.Pool = p.cfg.Name
	return e
}

// reload has every worker that is there now replaced, and returns when the last of them is gone, or
// given up, and each slot has had a new one: an old one may have ended by itself, or none been
// there. A start of the new generation that fails ends it with that error: the old workers go on
// serving, and the supervisor goes on trying. A start that was begun before, and fails, says nothing
// of the new code.
func (s *supervisor) reload(ctx context.Context) error {
	generation := s.generation.Add(1)
	s.kick()
	for {
		s.mu.Lock()
		stale, err, changed := 0, error(nil), s.changed
		for w := range s.live {
			if w.generation < generation && !w.isGivenUp() {
				stale++
			}
		}
		if failed := s.history.newest; failed.generation >= generation {
			err = failed.err
		}
		if stuck := s.stuck(); stuck != nil {
			err = stuck
		}
		there := s.allArrivedLocked(generation)
		s.mu.Unlock()
		switch {
		case stale == 0 && there:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return errStopped
		}
	}
}
