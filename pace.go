package pypool

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	spinLimit  = 25 * time.Microsecond // an answer that takes longer is better waited for asleep
	spinProbes = 128                   // one in so many calls of a slow command polls, to see whether it still is slow
	spinScore  = 4
	maxPaces   = 1024 // commands that are remembered
)

// paces remembers which commands answer so fast that their caller should poll for the answer instead of parking: being
// woken from the network poller costs several times the work of a trivial command. Polling pays only while there is a processor
// for the caller beside the one for its worker.
type paces struct {
	cpus    int64
	running atomic.Int64 // calls that a worker has now
	count   atomic.Int64
	known   sync.Map // command -> *pace
}

type pace struct {
	score atomic.Int32 // above 0: recent answers came within spinLimit
	calls atomic.Uint32
}

func newPaces() *paces { return &paces{cpus: int64(runtime.NumCPU())} }

// begin says how long the call may poll for its answer; end must follow.
func (ps *paces) begin(command string) (pc *pace, spin time.Duration) {
	if ps.running.Add(1)*2 > ps.cpus {
		return nil, 0
	}
	v, ok := ps.known.Load(command)
	if !ok {
		if ps.count.Load() >= maxPaces {
			return nil, 0
		}
		if v, ok = ps.known.LoadOrStore(command, &pace{}); !ok {
			ps.count.Add(1)
		}
	}
	pc = v.(*pace)
	if pc.score.Load() > 0 || pc.calls.Add(1)%spinProbes == 1 {
		return pc, spinLimit
	}
	return nil, 0
}

// end learns from a call that polled.
func (ps *paces) end(pc *pace, ran time.Duration) {
	ps.running.Add(-1)
	switch {
	case pc == nil:
	case ran > spinLimit:
		pc.score.Store(max(pc.score.Load()-2, 0))
	case pc.score.Load() < spinScore:
		pc.score.Add(1)
	}
}
