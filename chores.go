package pypool

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/pypool/pypool/internal/metrics"
	"github.com/pypool/pypool/internal/proc"
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

// pingQuiet pings the idle workers that have served nothing since they were last looked at. Only those are held meanwhile.
func (s *supervisor) pingQuiet() {
	for _, res := range s.desk.inspect(func(res *resource) bool {
		w := res.Value()
		return w.pinged.Swap(w.calls.Load()) == w.calls.Load()
	}) {
		if !s.goJob(func() { s.pingHeld(res) }) {
			s.retire(res)
		}
	}
}

// pingHeld pings a worker that is held and gives it back, or has it replaced. The result is for its caller to report.
func (s *supervisor) pingHeld(res *resource) WorkerHealth {
	w := res.Value()
	info := w.info()
	if !w.reusable() {
		s.release(res)
		return WorkerHealth{WorkerInfo: info, Err: newError(TypeWorkerExited, NotExecuted, "the worker has exited", nil)}
	}
	rtt, err := w.ping(s.ctx, pingTimeout)
	s.release(res)
	if err == nil {
		return WorkerHealth{WorkerInfo: info, Responsive: true, RTT: rtt}
	}
	if s.ctx.Err() == nil {
		s.env.reporter.log(slog.LevelWarn, "an idle worker did not answer a ping and is replaced", slog.String("worker", w.id), slog.Int("pid", w.proc.PID()), slog.String("cause", logCause(err, err.Error())))
	}
	return WorkerHealth{WorkerInfo: info, Err: err}
}

// retireOverflow lets workers beyond Size go that were idle for overflowIdle.
func (s *supervisor) retireOverflow() {
	s.mu.Lock()
	surplus := s.readyLocked() - s.cfg.Size
	s.mu.Unlock()
	if surplus <= 0 {
		return
	}
	for _, res := range s.desk.inspect(func(res *resource) bool {
		if surplus > 0 && time.Since(res.Value().freed) >= s.cfg.overflowIdle {
			surplus--
			return true
		}
		return false
	}) {
		s.retire(res)
	}
}

// sampleMemory reads the workers' resident memory, for MaxRSS. It is acted on when they are next released.
func (s *supervisor) sampleMemory() {
	if s.cfg.MaxRSS <= 0 {
		return
	}
	s.mu.Lock()
	workers := s.readyWorkersLocked()
	s.mu.Unlock()
	for _, w := range workers {
		rss := proc.ResidentBytes(w.proc.PID())
		w.rss.Store(rss)
		if w.heavy && !s.heavyKnown {
			s.heavyKnown = true
			s.env.reporter.log(slog.LevelWarn, "MaxRSS is less than a fresh worker takes, and is not applied to such workers: raise it, or import less",
				slog.String("worker", w.id), slog.Int64("rss", rss), slog.Int64("max_rss", s.cfg.MaxRSS))
		}
	}
}

// watchErrorRate compares the rate with the threshold and reports a crossing. above is the side it was on, and the result the side it is on.
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

// checkAll pings all idle workers and describes the busy ones. At ctx's end it reports those that have not answered yet as
// unresponsive; their pings go on, and have them replaced if they do not answer at all.
func (s *supervisor) checkAll(ctx context.Context) []WorkerHealth {
	held := s.desk.inspect(func(*resource) bool { return true })
	results := make(chan WorkerHealth, len(held))
	waiting := map[string]WorkerInfo{}
	for _, res := range held {
		waiting[res.Value().id] = res.Value().info()
		if !s.goJob(func() { results <- s.pingHeld(res) }) {
			delete(waiting, res.Value().id)
			s.retire(res)
		}
	}
	checks := []WorkerHealth{}
	seen := map[string]bool{}
	for len(waiting) > 0 {
		select {
		case h := <-results:
			delete(waiting, h.ID)
			seen[h.ID] = true
			checks = append(checks, h)
		case <-ctx.Done():
			for id, info := range waiting {
				seen[id] = true
				checks = append(checks, WorkerHealth{WorkerInfo: info, Err: contextError(ctx, NotExecuted, nil)})
			}
			waiting = nil
		}
	}
	for _, w := range s.workers() {
		if state := w.state(); !seen[w.id] && (state == "busy" || state == "idle") {
			h := WorkerHealth{WorkerInfo: w.info(), Responsive: true} // it is serving, or was a moment ago
			if d := w.lease.Load().lent(time.Now()); d > pingTimeout {
				h.Responsive = false
				h.Err = newError(TypeStreamStalled, MaybeExecuted, fmt.Sprintf("a stalled stream of %v: the loop has not come back to read on", d.Round(time.Second)), nil)
			}
			checks = append(checks, h)
		}
	}
	slices.SortFunc(checks, func(a, b WorkerHealth) int { return a.StartedAt.Compare(b.StartedAt) })
	return checks
}

func (s *supervisor) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastErr
}
