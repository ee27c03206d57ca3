package pypool

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Stats is a snapshot of a pool. Its counters add up: Started == Succeeded + Failed + InFlight,
// ByType sums to Failed, WorkersStarted - WorkersExited is the number of live processes.
type Stats struct {
	Size, Overflow, MaxSize                 int                 // configured: Size, Overflow, their sum
	Workers, Idle, Busy, Starting           int                 // processes now; the rest of Workers is stopping
	Waiting                                 int                 // callers queued
	Started, Succeeded, Failed, InFlight    int64               // calls; InFlight includes the queued
	ByType                                  map[ErrorType]int64 // Failed by error type
	WorkersStarted, WorkersExited, Recycled int64
	Sessions                                int
	CheckoutWait, Run                       Distribution
	ErrorRate                               float64 // share of the calls of the last ErrorRate.Window that the infrastructure failed
	Breaker                                 string  // the pool's own circuit: closed, open or half-open
	Uptime                                  time.Duration
	Unreapable                              int   // processes that did not end within 5 s of being killed, and have not ended since
	LogsDropped, EventsDropped              int64 // what Config.Logger and the Observer were not given: they were too slow, or the log handler failed
}

// WorkerInfo is a snapshot of one process.
type WorkerInfo struct {
	ID            string
	PID           int
	State         string // starting, idle, busy or stopping
	StartedAt     time.Time
	Calls, Errors int64  // answered, and those of them with an error
	RSS           int64  // resident memory in bytes, pages shared with other processes included; 0 where it cannot be read
	Python        string // the version, like 3.11.7; empty until the worker is ready
	Interpreter   string // what runs it: Python's sys.executable, or the path that was started until the worker is ready
	Overflow      bool
}

// Distribution summarises durations since the pool's start. The quantiles are exact to 1/16 of
// their value.
type Distribution struct {
	Count              int64
	P50, P95, P99, Max time.Duration
}

// Stats returns a snapshot.
func (p *Pool) Stats() Stats {
	st := Stats{
		Size: p.cfg.Size, Overflow: p.cfg.Overflow, MaxSize: p.cfg.Size + p.cfg.Overflow,
		Waiting: int(p.sup.checkout.waiting.Load()), Sessions: p.sessions.size(), Uptime: time.Since(p.born), Unreapable: int(p.unreapable.Load()),
	}
	p.counters.snapshot(&st)
	p.sup.snapshot(&st)
	st.LogsDropped, st.EventsDropped = p.reporter.logsDropped.Load(), p.reporter.eventsDropped.Load()
	calls, failures := p.counters.rate.sum(time.Since(p.born))
	st.ErrorRate = share(failures, calls)
	return st
}

// Workers describes the live processes, oldest first.
func (p *Pool) Workers() []WorkerInfo {
	list := []WorkerInfo{}
	for _, w := range p.sup.workers() {
		list = append(list, p.sup.info(w))
	}
	return list
}

// counters are the pool's running figures.
type counters struct {
	started, succeeded atomic.Int64
	failed             [len(errorTypes)]atomic.Int64
	wait, run          histogram
	rate               rateWindow
}

func newCounters(window time.Duration) *counters {
	c := &counters{}
	c.rate.init(window)
	return c
}

// succeed counts n calls that ended well.
func (c *counters) succeed(n int64, now time.Duration) {
	c.succeeded.Add(n)
	c.rate.add(n, now, false)
}

// fail counts one that did not.
func (c *counters) fail(err *Error, now time.Duration) {
	i := err.Type.index()
	c.failed[i].Add(1)
	c.rate.add(1, now, errorTypes[i].infrastructure)
}

// snapshot fills the call counters. Ends are read before starts, so that InFlight cannot come out
// negative; and again when calls began meanwhile, so that it is not too large by those that came
// and went.
func (c *counters) snapshot(s *Stats) {
	for range 10 {
		before := c.started.Load()
		s.Failed, s.ByType = 0, map[ErrorType]int64{}
		for i := range errorTypes {
			if n := c.failed[i].Load(); n > 0 {
				s.ByType[errorTypes[i].typ] = n
				s.Failed += n
			}
		}
		s.Succeeded = c.succeeded.Load()
		s.Started = c.started.Load()
		if s.Started == before {
			break
		}
	}
	s.InFlight = s.Started - s.Succeeded - s.Failed
	s.CheckoutWait, s.Run = c.wait.distribution(), c.run.distribution()
}

// histogram counts durations in log-linear buckets, 16 to each power of two.
type histogram struct {
	buckets [64 * 16]atomic.Int64
	max     atomic.Int64
}

func bucketOf(ns uint64) int {
	if ns < 16 {
		return int(ns)
	}
	exp := bits.Len64(ns) - 5 // ns>>exp is 16..31
	return exp*16 + int(ns>>exp)
}

// bucketTop is the largest value that falls into bucket i.
func bucketTop(i int) time.Duration {
	if i < 32 {
		return time.Duration(i)
	}
	exp := i/16 - 1
	return time.Duration((uint64(i%16+16)+1)<<exp - 1)
}

func (h *histogram) add(d time.Duration) { h.addMany(d, 1) }

func (h *histogram) addMany(d time.Duration, n int64) {
	d = max(d, 0)
	h.buckets[bucketOf(uint64(d))].Add(n)
	for {
		m := h.max.Load()
		if int64(d) <= m || h.max.CompareAndSwap(m, int64(d)) {
			return
		}
	}
}

func (h *histogram) distribution() Distribution {
	var counts [len(h.buckets)]int64
	d := Distribution{Max: time.Duration(h.max.Load())}
	for i := range counts {
		counts[i] = h.buckets[i].Load()
		d.Count += counts[i]
	}
	quantile := func(q float64) time.Duration {
		rank := int64(q * float64(d.Count))
		for i, n := range counts {
			if rank -= n; rank < 0 {
				return min(bucketTop(i), d.Max)
			}
		}
		return d.Max
	}
	if d.Count > 0 {
		d.P50, d.P95, d.P99 = quantile(0.50), quantile(0.95), quantile(0.99)
	}
	return d
}

const rateSlots = 20

// rateWindow counts calls and failures over a sliding window, in slots. Two callers that meet at a
// slot's first use may lose a count: it is a rate, not an account.
type rateWindow struct {
	width time.Duration
	slots [rateSlots]struct{ epoch, calls, failures atomic.Int64 }
}

func (w *rateWindow) init(window time.Duration) {
	w.width = max(window/rateSlots, time.Millisecond)
	for i := range w.slots {
		w.slots[i].epoch.Store(-1)
	}
}

func (w *rateWindow) add(n int64, now time.Duration, failed bool) {
	epoch := int64(now / w.width)
	slot := &w.slots[epoch%rateSlots]
	if old := slot.epoch.Load(); old != epoch && slot.epoch.CompareAndSwap(old, epoch) {
		slot.calls.Store(0)
		slot.failures.Store(0)
	}
	slot.calls.Add(n)
	if failed {
		slot.failures.Add(n)
	}
}

func (w *rateWindow) sum(now time.Duration) (calls, failures int64) {
	epoch := int64(now / w.width)
	for i := range w.slots {
		if slot := &w.slots[i]; slot.epoch.Load() > epoch-rateSlots {
			calls += slot.calls.Load()
			failures += slot.failures.Load()
		}
	}
	return calls, failures
}
