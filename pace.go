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
	maxPaces    = 1024                   // commands that are remembered
)

// paces decides whether a caller polls for its answer instead of parking, and the worker for its next request instead of sleeping: to
// wake a processor that has gone idle takes several times as long as a trivial call, and costs more. It pays for commands
// whose work is brief, on a worker that was busy a moment ago, and as long as there are processors enough.
type paces struct {
	cpus    int64
	running atomic.Int64 // calls that a worker has now
	count   atomic.Int64
	known   sync.Map // command -> *pace
}

// pace is how long a worker takes for a request of one command, in nanoseconds, smoothed; 0 when there was none yet. Of two calls
// that learn at the same time one may overwrite what the other has just learned: nothing but speed hangs on it.
type pace struct {
	command string
	work    atomic.Int64
}

func newPaces() *paces {
	cpus := min(runtime.NumCPU(), runtime.GOMAXPROCS(0))
	if cpus == 1 { // the worker needs one, too
		cpus = 0
	}
	return &paces{cpus: int64(cpus)}
}

// of returns the command's pace, nil when there are too many. last is one that may be it, or nil.
func (ps *paces) of(command string, last *pace) *pace {
	if last != nil && last.command == command {
		return last
	}
	v, ok := ps.known.Load(command)
	if !ok {
		if ps.count.Load() >= maxPaces {
			return nil
		}
		if v, ok = ps.known.LoadOrStore(command, &pace{command: command}); !ok {
			ps.count.Add(1)
		}
	}
	return v.(*pace)
}

// begin decides whether a call polls, whose worker has been idle for so long. end must follow.
func (ps *paces) begin(p *pace, idle time.Duration) (poll bool) {
	running := ps.running.Add(1)
	if p == nil {
		return false
	}
	work := time.Duration(p.work.Load())
	return running <= ps.cpus && idle <= lingerLimit && work > 0 && work <= briefWork
}

func (ps *paces) end() { ps.running.Add(-1) }

// learn takes in how long the worker took for a request; 0 when that is not known.
func (p *pace) learn(work time.Duration) {
	if p == nil || work <= 0 {
		return
	}
	work = min(work, 4*briefWork) // one that took seconds says no more than that it was not brief
	if before := time.Duration(p.work.Load()); before > 0 {
		work = before + (work-before)/8
	}
	p.work.Store(int64(work))
}

// spin returns until when a call that began at the given time polls for its answer; zero: not at all.
func spin(poll bool, begun time.Time) time.Time {
	if !poll {
		return time.Time{}
	}
	return begun.Add(spinLimit)
}

// linger is how long the worker of a call polls for the next request.
func linger(poll bool) time.Duration {
	if !poll {
		return 0
	}
	return lingerLimit
}
