package pypool

import (
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/metrics"
)

// Stats is a snapshot of a pool. Its counters add up: Started == Succeeded + Failed + InFlight,
// ByType sums to Failed, WorkersStarted - WorkersExited is the number of live processes.
type Stats struct {
	Size, Overflow, MaxSize                 int                 // configured: Size, Overflow, their sum
	Workers, Idle, Busy, Starting           int                 // processes now; Busy: canceling ones too; the rest of Workers is stopping
	Waiting                                 int                 // callers queued
	Started, Succeeded, Failed, InFlight    int64               // calls; InFlight includes the queued
	ByType                                  map[ErrorType]int64 // Failed by error type
	WorkersStarted, WorkersExited, Recycled int64
	Sessions                                int
	CheckoutWait, Run                       Distribution
	Batches                                 SizeDistribution // the batches of calls that were sent (one call alone counts), by how many they had
	ErrorRate                               float64          // share of the calls of the last ErrorRate.Window that the infrastructure failed
	Breaker                                 string           // the pool's own circuit: closed, open or half-open
	Uptime                                  time.Duration
	Unreapable                              int   // processes that did not end within 5 s of being killed, and have not ended since
	LogsDropped, EventsDropped              int64 // what Config.Logger and the Observer were not given: they were too slow, or the log handler failed
}

// WorkerInfo is a snapshot of one process.
type WorkerInfo struct {
	ID            string
	Slot          int // its place in the pool: 0 to Size-1, beyond that for overflow; a replacement has its predecessor's
	PID           int
	State         string // starting, idle, busy, shared (with calls of concurrent commands, side by side), canceling or stopping
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

// SizeDistribution summarises numbers since the pool's start. The quantiles are exact to 1/16 of
// their value.
type SizeDistribution struct {
	Count              int64
	P50, P95, P99, Max int
}

// Stats returns a snapshot.
func (p *Pool) Stats() Stats {
	st := Stats{
		Overflow: p.cfg.Overflow,
		Waiting:  int(p.sup.checkout.waiting.Load()), Sessions: p.sessions.size(), Uptime: time.Since(p.born), Unreapable: int(p.unreapable.Load()),
	}
	st.Size = p.sup.size()
	st.MaxSize = st.Size + st.Overflow
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
		list = append(list, p.sup.info(w))
	}
	return list
}

// counters are the pool's running figures.
type counters struct {
	started, succeeded atomic.Int64
	failed             [len(errorTypes)]atomic.Int64
	wait, run          metrics.Histogram
	batches            metrics.Histogram // of sizes
	rate               metrics.Rate
}

func newCounters(window time.Duration) *counters {
	c := &counters{}
	c.rate.Init(window)
	return c
}

// succeed counts n calls that ended well.
func (c *counters) succeed(n int64, now time.Duration) {
	c.succeeded.Add(n)
	c.rate.Add(n, now, false)
}

// fail counts one that did not.
func (c *counters) fail(err *Error, now time.Duration) {
	i := err.Type.index()
	c.failed[i].Add(1)
	c.rate.Add(1, now, errorTypes[i].infrastructure)
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
	s.CheckoutWait, s.Run = Distribution(c.wait.Distribution()), Distribution(c.run.Distribution())
	sizes := c.batches.Distribution()
	s.Batches = SizeDistribution{sizes.Count, int(sizes.P50), int(sizes.P95), int(sizes.P99), int(sizes.Max)}
}
