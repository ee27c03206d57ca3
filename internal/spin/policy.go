// Package spin decides when to poll for something that comes soon instead of parking: to be parked
// and woken takes several times as long as a trivial call.
package spin

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Brief: a request that takes its worker longer is better waited for parked.
	Brief = 25 * time.Microsecond
	// Limit: a call that spins parks after it. It is long enough for a worker that must first be
	// woken.
	Limit = 120 * time.Microsecond
	// WorkerLimit: the worker of such a call spins so long for its next request before it parks.
	WorkerLimit = 50 * time.Microsecond
	// MaxCommands is how many commands are remembered.
	MaxCommands = 1024

	aloneAfter = time.Millisecond // since two calls ran at the same time
)

// Mode is how a call waits for its answer, and its worker for the next request.
type Mode int

const (
	Park      Mode = iota // as who waits for a file does
	SpinYield             // poll, and give the processor away after each look: another call or its worker may need it
	Spin                  // poll, several looks before that: calls run one at a time
)

// Looks is how often to look before giving the processor away.
func (m Mode) Looks() int {
	if m == Spin {
		return 4
	}
	return 1
}

// Worker is how long the worker of a call spins for the next request; 0 when the call parks.
func (m Mode) Worker() time.Duration {
	if m == Park {
		return 0
	}
	return WorkerLimit
}

// Policy decides whether a caller spins for its answer instead of parking, and the worker for its
// next request: to wake a processor that has gone idle takes several times as long as a trivial
// call, and costs more. It pays for commands whose work is brief, on a worker that was busy a
// moment ago, and as long as there are processors enough. It is safe for concurrent use.
type Policy struct {
	cpus    int64
	born    time.Time
	running atomic.Int64 // calls that a worker has now
	crowded atomic.Int64 // when two calls last ran at the same time, in nanoseconds since born
	count   atomic.Int64
	known   sync.Map // command -> *ServiceTime
}

// ServiceTime is how long a worker takes for a request of one command, in nanoseconds, smoothed; 0
// when there was none yet. Of two calls that learn at the same time one may overwrite what the
// other has just learned: nothing but speed hangs on it.
type ServiceTime struct {
	command string
	home    *Policy
	work    atomic.Int64
}

// NewPolicy returns a Policy for the processors that this program may use.
func NewPolicy() *Policy {
	cpus := min(runtime.NumCPU(), runtime.GOMAXPROCS(0))
	if cpus == 1 { // the worker needs one, too
		cpus = 0
	}
	return &Policy{cpus: int64(cpus), born: time.Now()}
}

// Of returns the command's service time. last is one that may be it, or nil. One that is new is
// remembered once it has learned something: what a caller calls may not exist.
func (p *Policy) Of(command string, last *ServiceTime) *ServiceTime {
	if last != nil && last.command == command {
		return last
	}
	if v, ok := p.known.Load(command); ok {
		return v.(*ServiceTime)
	}
	return &ServiceTime{command: command, home: p}
}

// remember keeps the service time for later calls, unless there are too many already.
func (p *Policy) remember(s *ServiceTime) {
	if p.count.Load() >= MaxCommands {
		return
	}
	if _, known := p.known.LoadOrStore(s.command, s); !known {
		p.count.Add(1)
	}
}

// Learned returns what is remembered, by command.
func (p *Policy) Learned() map[string]time.Duration {
	all := map[string]time.Duration{}
	p.known.Range(func(command, s any) bool {
		all[command.(string)] = time.Duration(s.(*ServiceTime).work.Load())
		return true
	})
	return all
}

// Begin decides how a call waits, whose worker has been idle for so long by now. s may be nil: then
// it parks. End must follow, once.
func (p *Policy) Begin(s *ServiceTime, now time.Time, idle time.Duration) Mode {
	running, age := p.running.Add(1), now.Sub(p.born)
	if running > 1 {
		p.crowded.Store(int64(age))
	}
	if s == nil || running > p.cpus || idle > WorkerLimit {
		return Park
	}
	switch work := time.Duration(s.work.Load()); {
	case work <= 0 || work > Brief:
		return Park
	case age-time.Duration(p.crowded.Load()) > aloneAfter:
		return Spin
	}
	return SpinYield
}

// End ends what Begin began.
func (p *Policy) End() { p.running.Add(-1) }

// Learn takes in how long the worker took for a request; 0 when that is not known. The first time
// has the command remembered. s may be nil: then it does nothing.
func (s *ServiceTime) Learn(work time.Duration) {
	if s == nil || work <= 0 {
		return
	}
	work = min(work, 4*Brief) // one that took seconds says no more than that it was not brief
	before := time.Duration(s.work.Load())
	if before > 0 {
		work = before + (work-before)/8
	} else {
		s.home.remember(s)
	}
	s.work.Store(int64(work))
}
