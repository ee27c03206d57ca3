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
// that end at the same time one may overwrite what the other has just learned: nothing but speed hangs on it.
type pace struct{ work atomic.Int64 }

// turn is one call's.
type turn struct {
	pace *pace
	poll bool
}

func newPaces() *paces {
	cpus := min(runtime.NumCPU(), runtime.GOMAXPROCS(0))
	if cpus == 1 { // the worker needs one, too
		cpus = 0
	}
	return &paces{cpus: int64(cpus)}
}

// begin decides for a call of a worker that has been idle for so long. end must follow.
func (ps *paces) begin(command string, idle time.Duration) turn {
	running := ps.running.Add(1)
	v, ok := ps.known.Load(command)
	if !ok {
		if ps.count.Load() >= maxPaces {
			return turn{}
		}
		if v, ok = ps.known.LoadOrStore(command, &pace{}); !ok {
			ps.count.Add(1)
		}
	}
	t := turn{pace: v.(*pace)}
	work := time.Duration(t.pace.work.Load())
	t.poll = running <= ps.cpus && idle <= lingerLimit && work > 0 && work <= briefWork
	return t
}

// end learns how long the worker took.
func (ps *paces) end(t turn, work time.Duration) {
	ps.running.Add(-1)
	if t.pace == nil {
		return
	}
	work = min(work, 4*briefWork) // one that took seconds says no more than that it was not brief
	if before := time.Duration(t.pace.work.Load()); before > 0 {
		work = before + (work-before)/8
	}
	t.pace.work.Store(int64(work))
}

// spin is how long the call polls for its answer.
func (t turn) spin() time.Duration {
	if t.poll {
		return spinLimit
	}
	return 0
}

// linger is how long its worker polls for the next request.
func (t turn) linger() time.Duration {
	if t.poll {
		return lingerLimit
	}
	return 0
}
