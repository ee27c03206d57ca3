package pypool

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/puddle/v2"
)

type resource = puddle.Resource[*worker]

// desk hands out idle workers. puddle holds the workers; idle holds one token for each that is certainly idle. Taking a
// token first means that puddle never constructs on behalf of a caller, and that callers are served in their order: Go
// wakes a channel's receivers first in, first out. A token is added after Release, never before.
//
// puddle's AcquireAllIdle, TryAcquire and Reset are never used: they would break the count.
type desk struct {
	puddle   *puddle.Pool[*worker]
	idle     chan struct{}
	maxQueue int64
	waiting  atomic.Int64
	borrowed atomic.Int64 // tokens that the supervisor holds for a moment: callers then wait who would not have to
	wanted   func()       // called when a caller begins to wait
	suspect  func()       // called when a worker that is put back turns out to be dead: nobody else may look for it
}

func newDesk(size, maxQueue int, construct puddle.Constructor[*worker], wanted, suspect func()) (*desk, error) {
	p, err := puddle.NewPool(&puddle.Config[*worker]{
		Constructor: construct, Destructor: (*worker).stop, MaxSize: int32(size),
	})
	if err != nil {
		return nil, err
	}
	return &desk{puddle: p, idle: make(chan struct{}, size), maxQueue: int64(maxQueue), wanted: wanted, suspect: suspect}, nil
}

// Why take gave up, beside a context's error.
var (
	errQueueFull = errors.New("queue full")
	errTimeout   = errors.New("timeout")
	errStopped   = errors.New("stopped")
)

// tryTake takes a token if there is one.
func (d *desk) tryTake() bool {
	select {
	case <-d.idle:
		return true
	default:
		return false
	}
}

// take waits for a token: at most timeout (0: no bound), until ctx ends, or until one of the stop channels is closed.
func (d *desk) take(ctx context.Context, timeout time.Duration, closing, refused <-chan struct{}) error {
	if n := d.waiting.Add(1); n > d.maxQueue+d.borrowed.Load() {
		d.waiting.Add(-1)
		return errQueueFull
	}
	defer d.waiting.Add(-1)
	d.wanted()
	var expired <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(timeout)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-d.idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-expired:
		return errTimeout
	case <-closing:
		return errStopped
	case <-refused:
		return errStopped
	}
}

// acquire turns a token into the worker that it stands for; it does not wait. It fails only once puddle is closed.
func (d *desk) acquire() (*resource, error) { return d.puddle.Acquire(context.Background()) }

// put returns a worker that may serve again.
func (d *desk) put(res *resource) {
	w := res.Value()
	res.Release()
	d.available(w)
}

// available adds the token of a worker that puddle has. The worker may have died in the meantime, and been looked for before there was a token.
func (d *desk) available(w *worker) {
	d.idle <- struct{}{}
	if w.isExited() {
		d.suspect()
	}
}

// putUnused is put, without counting as a use: the worker stays as long idle as it was.
func (d *desk) putUnused(res *resource) {
	w := res.Value()
	res.ReleaseUnused()
	d.available(w)
}

// create constructs one worker and makes it available. It returns puddle.ErrNotAvailable while slots are still held by
// workers on their way out.
func (d *desk) create(ctx context.Context) error {
	err := d.puddle.CreateResource(ctx)
	if err == nil {
		d.idle <- struct{}{}
		d.suspect() // it may have died since
	}
	return err
}

// inspect takes all tokens that there are, and the workers to them; keep decides for each whether it is held (the caller
// then puts or destroys it) or goes back at once.
func (d *desk) inspect(keep func(*resource) bool) (held []*resource) {
	var taken []*resource
	for more := true; more; {
		select {
		case <-d.idle:
			d.borrowed.Add(1)
			res, err := d.acquire()
			if err != nil { // closed
				d.borrowed.Add(-1)
				more = false
				break
			}
			taken = append(taken, res)
		default:
			more = false
		}
	}
	// puddle's idle list is a stack: the last taken is the coldest, and goes back first.
	for i := len(taken) - 1; i >= 0; i-- {
		if keep(taken[i]) {
			held = append(held, taken[i])
		} else {
			d.putUnused(taken[i])
		}
		d.borrowed.Add(-1)
	}
	return held
}
