package pypool

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/metrics"
)

// Stats is a snapshot of a pool. Its counters add up: Started == Succeeded + Failed + InFlight,
// ByType sums to Failed, ByCommand to the pool's own figures, WorkersStarted - WorkersExited is the
// number of live processes.
type Stats struct {
	Size, Overflow, MaxSize                 int                     // Size (as configured, or by Resize), Overflow, their sum
	Workers, Idle, Busy, Starting           int                     // processes now; Busy: canceling ones too; the rest of Workers is stopping
	Waiting                                 int                     // callers queued
	Started, Succeeded, Failed, InFlight    int64                   // calls; InFlight includes the queued
	ByType                                  map[ErrorType]int64     // Failed by error type
	ByCommand                               map[string]CommandStats // by command; a program's key is "execute_program:" and its id
	WorkersStarted, WorkersExited, Recycled int64
	Retired                                 int64 // workers that have asked to be replaced: pypool.retire, retire_on, @health
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
	Calls, Errors int64         // answered, and those of them with an error
	RSS           int64         // resident memory in bytes, pages shared with other processes included; 0 where it cannot be read
	Running       []RunningCall // what it serves now, the oldest first; also while that is to stop
	Python        string        // the version, like 3.11.7; empty until the worker is ready
	Interpreter   string        // what runs it: Python's sys.executable, or the path that was started until the worker is ready
	Overflow      bool
	Retired       string // why it has asked to be replaced, while it still is there; empty: it has not
}

// CommandStats are the figures of one command, or of one program: those of a pool's that are about
// calls. There are none of a command that was not called. Calls of names that no worker has
// registered, as of the built-in commands and of mistakes, are counted together, under the empty
// name.
type CommandStats struct {
	Started, Succeeded, Failed, InFlight int64
	ByType                               map[ErrorType]int64
	CheckoutWait, Run                    Distribution
	Circuit                              string // the command's own: closed, open or half-open
}

// RunningCall is a call that a worker has.
type RunningCall struct {
	CallInfo           // RequestID and Session are zero for a batch; of a Map it is the item that it began with
	Since    time.Time // when the worker got it
}

// Distribution summarises durations since the pool's start. Count, Sum and Max are exact, the
// quantiles to 1/16 of their value.
type Distribution struct {
	Count              int64
	Sum                time.Duration
	P50, P95, P99, Max time.Duration

	counts *metrics.Counts
}

// UpTo returns how many of the durations were not longer than limit, which is exact to 1/16 of it:
// with several limits, a histogram.
func (d Distribution) UpTo(limit time.Duration) int64 { return d.counts.UpTo(limit) }

func distribution(d metrics.Distribution) Distribution {
	return Distribution{d.Count, d.Sum, d.P50, d.P95, d.P99, d.Max, d.Counts}
}

// SizeDistribution summarises numbers since the pool's start. Count, Sum and Max are exact, the
// quantiles to 1/16 of their value.
type SizeDistribution struct {
	Count, Sum         int64
	P50, P95, P99, Max int
}

// Stats returns a snapshot; of a pool that New has not made it is zero.
func (p *Pool) Stats() Stats {
	if !p.wasStarted() {
		return Stats{}
	}
	st := Stats{
		Overflow: p.cfg.Overflow,
		Waiting:  int(p.sup.checkout.waiting.Load()), Sessions: p.sessions.size(), Uptime: time.Since(p.born), Unreapable: int(p.unreapable.Load()),
	}
	st.Size = p.sup.size()
	st.MaxSize = st.Size + st.Overflow
	p.counters.snapshot(&st)
	for name, one := range st.ByCommand {
		one.Circuit = p.sup.breakers.state(name)
		st.ByCommand[name] = one
	}
	p.sup.snapshot(&st)
	st.LogsDropped, st.EventsDropped = p.reporter.logsDropped.Load(), p.reporter.eventsDropped.Load()
	calls, failures := p.counters.rate.Sum(time.Since(p.born))
	st.ErrorRate = share(failures, calls)
	return st
}

// Workers describes the live processes, oldest first.
func (p *Pool) Workers() []WorkerInfo {
	list := []WorkerInfo{}
	if !p.wasStarted() {
		return list
	}
	for _, w := range p.sup.workers() {
		list = append(list, p.sup.info(w))
	}
	return list
}

// counters are the pool's running figures. Those of calls are kept for each command that a worker
// has registered, which costs a call one look into a map, and summed up for who asks.
type counters struct {
	batches metrics.Histogram // of sizes
	rate    metrics.Rate
	known   atomic.Pointer[tallies]
	other   tally // calls of all other names

	learning sync.Mutex // held while known is replaced
}

// tallies are the figures of each command and program. A new one is made for each change.
type tallies struct{ commands, programs map[string]*tally }

// tally is the figures of the calls of one command.
type tally struct {
	started, succeeded atomic.Int64
	failed             [len(errorTypes)]atomic.Int64
	durations          atomic.Pointer[durations] // 16 KiB, for a command that is called
}

type durations struct{ wait, run metrics.Histogram }

func (t *tally) times() *durations {
	d := t.durations.Load()
	if d == nil {
		t.durations.CompareAndSwap(nil, new(durations))
		d = t.durations.Load()
	}
	return d
}

const maxTallies = 4096 // commands, and as many programs, whatever scripts come and go by Reload

func newCounters(window time.Duration) *counters {
	c := &counters{}
	c.rate.Init(window)
	c.known.Store(&tallies{})
	return c
}

// learn takes in which commands and programs a worker has registered.
func (c *counters) learn(commands, programs []string) {
	c.learning.Lock()
	defer c.learning.Unlock()
	known := c.known.Load()
	c.known.Store(&tallies{withTallies(known.commands, commands), withTallies(known.programs, programs)})
}

// withTallies is m, or a copy of it, with those names.
func withTallies(m map[string]*tally, names []string) map[string]*tally {
	copied := false
	for _, name := range names {
		if m[name] != nil || len(m) >= maxTallies {
			continue
		}
		if !copied {
			if m = maps.Clone(m); m == nil {
				m = map[string]*tally{}
			}
			copied = true
		}
		m[name] = &tally{}
	}
	return m
}

// of returns where a call is counted.
func (c *counters) of(info *CallInfo) *tally {
	known, t := c.known.Load(), (*tally)(nil)
	if info.Program == "" {
		t = known.commands[info.Command]
	} else {
		t = known.programs[info.Program]
	}
	if t == nil {
		return &c.other
	}
	return t
}

// succeed counts n calls that ended well.
func (c *counters) succeed(t *tally, n int64, now time.Duration) {
	t.succeeded.Add(n)
	c.rate.Add(n, now, false)
}

// fail counts one that did not.
func (c *counters) fail(t *tally, err *Error, now time.Duration) {
	i := err.Type.index()
	t.failed[i].Add(1)
	c.rate.Add(1, now, errorTypes[i].infrastructure)
}

// each yields all tallies by the names that ByCommand has for them.
func (c *counters) each(yield func(name string, t *tally)) {
	known := c.known.Load()
	for name, t := range known.commands {
		yield(name, t)
	}
	for id, t := range known.programs {
		info := CallInfo{Command: commandExecuteProgram, Program: id}
		yield(info.breakerKey(), t)
	}
	yield("", &c.other)
}

func (c *counters) started() (n int64) {
	c.each(func(_ string, t *tally) { n += t.started.Load() })
	return n
}

// snapshot fills the call counters. Ends are read before starts, so that InFlight cannot come out
// negative; and again when calls began meanwhile, so that it is not too large by those that came
// and went.
func (c *counters) snapshot(s *Stats) {
	for range 10 {
		before := c.started()
		s.Started, s.Succeeded, s.Failed, s.InFlight = 0, 0, 0, 0
		s.ByType, s.ByCommand = map[ErrorType]int64{}, map[string]CommandStats{}
		c.each(func(name string, t *tally) {
			one := t.snapshot()
			if one.Started == 0 {
				return
			}
			s.ByCommand[name] = one
			s.Started += one.Started
			s.Succeeded += one.Succeeded
			s.Failed += one.Failed
			s.InFlight += one.InFlight
			for typ, n := range one.ByType {
				s.ByType[typ] += n
			}
		})
		if s.Started == before {
			break
		}
	}
	var wait, run metrics.Sum
	c.each(func(name string, t *tally) {
		one, called := s.ByCommand[name]
		d := t.durations.Load()
		if d == nil || !called {
			return
		}
		one.CheckoutWait, one.Run = distribution(d.wait.Distribution()), distribution(d.run.Distribution())
		s.ByCommand[name] = one
		wait.Add(&d.wait)
		run.Add(&d.run)
	})
	s.CheckoutWait, s.Run = distribution(wait.Distribution()), distribution(run.Distribution())
	sizes := c.batches.Distribution()
	s.Batches = SizeDistribution{sizes.Count, int64(sizes.Sum), int(sizes.P50), int(sizes.P95), int(sizes.P99), int(sizes.Max)}
}

// snapshot is the counts without the durations.
func (t *tally) snapshot() CommandStats {
	s := CommandStats{ByType: map[ErrorType]int64{}}
	for i := range errorTypes {
		if n := t.failed[i].Load(); n > 0 {
			s.ByType[errorTypes[i].typ] = n
			s.Failed += n
		}
	}
	s.Succeeded = t.succeeded.Load()
	s.Started = t.started.Load()
	s.InFlight = s.Started - s.Succeeded - s.Failed
	return s
}
