package pypool

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	briefWork   = 25 * time.Microsecond  // a request that takes its worker longer is better waited for asleep
	spinLimit   = 120 * time.Microsecond // a call that polls gives up after it: long enough for a worker that must first be woken
	lingerLimit = 50 * time.Microsecond  // the worker of such a call polls for its next request before it sleeps
	aloneAfter  = time.Millisecond       // since two calls ran at the same time
	maxPaces    = 1024                   // commands that are remembered
)

// polling is how a call waits for its answer, and its worker for the next request.
type polling int

const (
	asleep polling = iota // parked, as who waits for a file is
	polite                // looking for it, and giving the processor away after each look: another call or its worker may need it
	alone                 // looking several times before that: calls run one at a time
)

// looks is how often to look before giving the processor away.
func (p polling) looks() int {
	if p == alone {
		return 4
	}
	return 1
}

// paces decides whether a caller polls for its answer instead of parking, and the worker for its next request instead of sleeping: to
// wake a processor that has gone idle takes several times as long as a trivial call, and costs more. It pays for commands
// whose work is brief, on a worker that was busy a moment ago, and as long as there are processors enough.
type paces struct {
	cpus    int64
	born    time.Time
	running atomic.Int64 // calls that a worker has now
	crowded atomic.Int64 // when two calls last ran at the same time, in nanoseconds since born
	count   atomic.Int64
	known   sync.Map // command -> *pace
}

// pace is how long a worker takes for a request of one command, in nanoseconds, smoothed; 0 when there was none yet. Of two calls
// that learn at the same time one may overwrite what the other has just learned: nothing but speed hangs on it.
type pace struct {
	command string
	home    *paces
	work    atomic.Int64
}

func newPaces() *paces {
	cpus := min(runtime.NumCPU(), runtime.GOMAXPROCS(0))
	if cpus == 1 { // the worker needs one, too
		cpus = 0
	}
	return &paces{cpus: int64(cpus), born: time.Now()}
}

// of returns the command's pace. last is one that may be it, or nil. One that is new is remembered once it has learned something:
// what a caller calls may not exist.
func (ps *paces) of(command string, last *pace) *pace {
	if last != nil && last.command == command {
		return last
	}
	if v, ok := ps.known.Load(command); ok {
		return v.(*pace)
	}
	return &pace{command: command, home: ps}
}

// remember keeps the pace for later calls, unless there are too many already.
func (ps *paces) remember(p *pace) {
	if ps.count.Load() >= maxPaces {
		return
	}
	if _, known := ps.known.LoadOrStore(p.command, p); !known {
		ps.count.Add(1)
	}
}

// begin decides how a call waits, whose worker has been idle for so long. end must follow.
func (ps *paces) begin(p *pace, now time.Time, idle time.Duration) polling {
	running, age := ps.running.Add(1), now.Sub(ps.born)
	if running > 1 {
		ps.crowded.Store(int64(age))
	}
	if p == nil || running > ps.cpus || idle > lingerLimit {
		return asleep
	}
	switch work := time.Duration(p.work.Load()); {
	case work <= 0 || work > briefWork:
		return asleep
	case age-time.Duration(ps.crowded.Load()) > aloneAfter:
		return alone
	}
	return polite
}

func (ps *paces) end() { ps.running.Add(-1) }

// learn takes in how long the worker took for a request; 0 when that is not known. The first time has the command remembered.
func (p *pace) learn(work time.Duration) {
	if p == nil || work <= 0 {
		return
	}
	work = min(work, 4*briefWork) // one that took seconds says no more than that it was not brief
	before := time.Duration(p.work.Load())
	if before > 0 {
		work = before + (work-before)/8
	} else {
		p.home.remember(p)
	}
	p.work.Store(int64(work))
}

// linger is how long the worker of a call polls for the next request.
func (p polling) linger() time.Duration {
	if p == asleep {
		return 0
	}
	return lingerLimit
}
