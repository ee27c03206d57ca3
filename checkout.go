package pypool

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/puddle/v2"
)

type resource = puddle.Resource[*worker]

// desk hands out idle workers. puddle holds the workers; idle counts tokens, one for each that is certainly idle. Taking a
// token first means that puddle never constructs on behalf of a caller, and that callers are served in their order. A
// token is added after Release, never before. The queue is our own: a select over a channel of tokens, a timer and the signals that end
// a wait took a tenth of the throughput of a thousand callers.
//
// puddle's AcquireAllIdle, TryAcquire and Reset are never used: they would break the count.
type desk struct {
	puddle   *puddle.Pool[*worker]
	maxQueue int64
	wanted   func()         // called when a caller begins to wait
	suspect  func()         // called when a worker that is put back turns out to be dead: nobody else may look for it
	waiting  atomic.Int64   // written under mu
	alarms   sync.WaitGroup // the timer is set, or expire runs
	waiters  sync.Pool      // of *waiter, to be used again

	mu       sync.Mutex // guards the fields below
	idle     int
	queue    list.List // of *waiter, who came first in front; empty when a token is idle
	borrowed int64     // tokens that the supervisor holds for a moment: callers then wait who would not have to
	timer    *time.Timer
	alarm    time.Time // when the timer fires: with the earliest deadline or before; zero: it is not set
	closed   bool
}

// waiter is a caller in the queue.
type waiter struct {
	place    *list.Element // nil once it has left the queue
	deadline time.Time     // zero: none
	outcome  chan error    // gets one value from whoever takes it out of the queue: nil is a token
}

func newDesk(size, maxQueue int, construct puddle.Constructor[*worker], wanted, suspect func()) (*desk, error) {
	p, err := puddle.NewPool(&puddle.Config[*worker]{
		Constructor: construct, Destructor: (*worker).stop, MaxSize: int32(size),
	})
	if err != nil {
		return nil, err
	}
	return &desk{puddle: p, maxQueue: int64(maxQueue), wanted: wanted, suspect: suspect}, nil
}

// Why take gave up, beside a context's error.
var (
	errQueueFull = errors.New("queue full")
	errTimeout   = errors.New("timeout")
	errStopped   = errors.New("stopped")
)

// tryTake takes a token if there is one.
func (d *desk) tryTake() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.idle == 0 {
		return false
	}
	d.idle--
	return true
}

// take waits for a token: until the deadline (zero: no bound), until ctx ends, or until turnAway. refused tells whether callers
// are turned away since a moment ago.
func (d *desk) take(ctx context.Context, deadline time.Time, refused func() bool) error {
	w, _ := d.waiters.Get().(*waiter)
	if w == nil {
		w = &waiter{outcome: make(chan error, 1)}
	}
	defer d.waiters.Put(w) // out of the queue, its outcome received
	if taken, err := d.enqueue(w, deadline); taken || err != nil {
		return err
	}
	d.wanted()
	if refused() { // turnAway may have come before us
		d.leave(w, errStopped)
	}
	if ctx.Done() != nil {
		select {
		case err := <-w.outcome:
			return err
		case <-ctx.Done():
			d.leave(w, ctx.Err())
		}
	}
	return <-w.outcome
}

// enqueue takes a token after all, or puts w into the queue.
func (d *desk) enqueue(w *waiter, deadline time.Time) (taken bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.idle > 0:
		d.idle--
		return true, nil
	case int64(d.queue.Len()) >= d.maxQueue+d.borrowed:
		return false, errQueueFull
	}
	w.deadline, w.place = deadline, d.queue.PushBack(w)
	d.waiting.Add(1)
	d.setAlarmLocked(deadline)
	return false, nil
}

// leave takes w out of the queue, unless somebody else has just done so: there is one outcome in any case.
func (d *desk) leave(w *waiter, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.place != nil {
		d.dismissLocked(w, why)
	}
}

func (d *desk) dismissLocked(w *waiter, outcome error) {
	d.queue.Remove(w.place)
	w.place = nil
	d.waiting.Add(-1)
	w.outcome <- outcome
}

// add adds a token: the first in the queue gets it.
func (d *desk) add() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if first := d.queue.Front(); first != nil {
		d.dismissLocked(first.Value.(*waiter), nil)
		return
	}
	d.idle++
}

// turnAway ends all waits.
func (d *desk) turnAway() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for first := d.queue.Front(); first != nil; first = d.queue.Front() {
		d.dismissLocked(first.Value.(*waiter), errStopped)
	}
}

// setAlarmLocked sees to it that expire runs at the deadline, or before. One timer serves all who wait: as a rule they come in the
// order of their deadlines, and it is set again no sooner than it has fired.
func (d *desk) setAlarmLocked(deadline time.Time) {
	if deadline.IsZero() || d.closed || (!d.alarm.IsZero() && !deadline.Before(d.alarm)) {
		return
	}
	d.alarm = deadline
	switch left := time.Until(deadline); {
	case d.timer == nil:
		d.alarms.Add(1)
		d.timer = time.AfterFunc(left, d.expire)
	case !d.timer.Reset(left):
		d.alarms.Add(1)
	}
}

// expire ends the waits whose deadline has passed. It looks at all; a long queue is looked at less often, so that this takes no
// more than a tenth of the time.
func (d *desk) expire() {
	defer d.alarms.Done()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alarm = time.Time{}
	now := time.Now()
	var earliest time.Time
	for e := d.queue.Front(); e != nil; {
		w := e.Value.(*waiter)
		e = e.Next()
		switch {
		case w.deadline.IsZero():
		case !w.deadline.After(now):
			d.dismissLocked(w, errTimeout)
		case earliest.IsZero() || w.deadline.Before(earliest):
			earliest = w.deadline
		}
	}
	if !earliest.IsZero() {
		d.setAlarmLocked(later(earliest, now.Add(10*time.Since(now))))
	}
}

// close ends the timer. Nobody waits any more.
func (d *desk) close() {
	d.mu.Lock()
	d.closed = true
	if d.timer != nil && d.timer.Stop() {
		d.alarms.Done()
	}
	d.mu.Unlock()
	d.alarms.Wait()
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
	d.add()
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
		d.add()
		d.suspect() // it may have died since
	}
	return err
}

// inspect takes all tokens that there are, and the workers to them; keep decides for each whether it is held (the caller
// then puts or destroys it) or goes back at once.
func (d *desk) inspect(keep func(*resource) bool) (held []*resource) {
	d.mu.Lock()
	n := d.idle
	d.idle = 0
	d.borrowed += int64(n)
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.borrowed -= int64(n)
		d.mu.Unlock()
	}()
	var taken []*resource
	for range n {
		res, err := d.acquire()
		if err != nil { // closed
			break
		}
		taken = append(taken, res)
	}
	// puddle's idle list is a stack: the last taken is the coldest, and goes back first.
	for i := len(taken) - 1; i >= 0; i-- {
		if keep(taken[i]) {
			held = append(held, taken[i])
		} else {
			d.putUnused(taken[i])
		}
	}
	return held
}

// idleNow is the number of tokens.
func (d *desk) idleNow() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.idle
}
