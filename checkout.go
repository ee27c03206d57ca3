package pypool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/puddle/v2"
)

type resource = puddle.Resource[*worker]

// desk hands out idle workers. puddle constructs them, bounds their number and destroys them; in between the desk holds all of them
// acquired, so that a caller never makes puddle construct one, gets one that is certainly idle, and in the order of
// arrival. With puddle's Acquire and Release in each call, and a channel with a token for each idle worker to wait
// at, eight callers on two workers made a quarter fewer calls, and so did a thousand on four.
type desk struct {
	puddle   *puddle.Pool[*worker]
	maxQueue int64
	maxBytes int64          // of the requests that wait; one alone may have more
	wanted   func()         // called when a caller begins to wait
	suspect  func()         // called when a worker that is put back turns out to be dead: nobody else may look for it
	waiting  atomic.Int64   // written under mu
	alarms   sync.WaitGroup // the timer is set, or expire runs
	waiters  sync.Pool      // of *waiter, to be used again

	mu       sync.Mutex // guards the fields below
	members  map[*worker]*resource
	idle     []*resource // a stack: who was put back last serves next, and the others can be retired
	queue    queue       // empty when a worker is idle
	bytes    int64       // of the requests in it
	borrowed int64       // workers that the supervisor holds for a moment: callers then wait who would not have to
	timer    *time.Timer
	alarm    time.Time // when the timer fires: with the earliest deadline or before; zero: it is not set
	closed   bool
}

// waiter is a caller in the queue.
type waiter struct {
	ahead    *waiter // in the queue, as the next two
	behind   *waiter
	queued   bool
	deadline time.Time    // zero: none
	bytes    int64        // of the request
	outcome  chan verdict // gets one from whoever takes it out of the queue
}

// queue is the waiters, who came first in front. They are linked through themselves: with an element of container/list for each
// wait, a thousand callers kept the garbage collector busy.
type queue struct {
	first, last *waiter
	length      int
}

func (q *queue) push(w *waiter) {
	w.ahead, w.queued = q.last, true
	if q.last == nil {
		q.first = w
	} else {
		q.last.behind = w
	}
	q.last = w
	q.length++
}

func (q *queue) remove(w *waiter) {
	if w.ahead == nil {
		q.first = w.behind
	} else {
		w.ahead.behind = w.behind
	}
	if w.behind == nil {
		q.last = w.ahead
	} else {
		w.behind.ahead = w.ahead
	}
	w.ahead, w.behind, w.queued = nil, nil, false
	q.length--
}

// verdict is a worker, or why there is none.
type verdict struct {
	res *resource
	err error
}

func newDesk(size int, cfg *Config, construct puddle.Constructor[*worker], wanted, suspect func()) (*desk, error) {
	d := &desk{maxQueue: int64(cfg.MaxQueue), maxBytes: int64(cfg.MaxQueueBytes), wanted: wanted, suspect: suspect, members: map[*worker]*resource{}}
	var err error
	d.puddle, err = puddle.NewPool(&puddle.Config[*worker]{Constructor: construct, Destructor: d.destroy, MaxSize: int32(size)})
	return d, err
}

// destroy is puddle's destructor.
func (d *desk) destroy(w *worker) {
	d.mu.Lock()
	delete(d.members, w)
	d.mu.Unlock()
	w.stop()
}

// all returns the workers that are ready and have not been destroyed, idle or not.
func (d *desk) all() map[*worker]*resource {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.members)
}

// Why take gave up, beside a fullQueue.
var (
	errTimeout = errors.New("timeout")
	errStopped = errors.New("stopped")
	errEnded   = errors.New("ctx has ended")
)

// fullQueue says, in words for the caller, why nobody more may wait.
type fullQueue string

func (q fullQueue) Error() string { return string(q) }

// tryTake takes a worker if one is idle; else it returns nil.
func (d *desk) tryTake() *resource {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.popLocked()
}

func (d *desk) popLocked() *resource {
	last := len(d.idle) - 1
	if last < 0 {
		return nil
	}
	res := d.idle[last]
	d.idle[last] = nil
	d.idle = d.idle[:last]
	return res
}

// take waits for a worker: until the deadline (zero: no bound), until ctx ends, or until turnAway. refused tells whether callers
// are turned away since a moment ago.
func (d *desk) take(ctx context.Context, deadline time.Time, bytes int, refused func() bool) (*resource, error) {
	w, _ := d.waiters.Get().(*waiter)
	if w == nil {
		w = &waiter{outcome: make(chan verdict, 1)}
	}
	defer d.waiters.Put(w) // out of the queue, its outcome received
	w.deadline, w.bytes = deadline, int64(max(bytes, 0))
	if res, err := d.enqueue(w); res != nil || err != nil {
		return res, err
	}
	d.wanted()
	if refused() { // turnAway may have come before us
		d.leave(w, errStopped)
	}
	if ctx.Done() != nil {
		select {
		case v := <-w.outcome:
			return v.res, v.err
		case <-ctx.Done():
			d.leave(w, errEnded) // ctx is not asked why in the queue: its Err is the caller's, and may panic
		}
	}
	v := <-w.outcome
	return v.res, v.err
}

// enqueue takes a worker after all, or puts w into the queue.
func (d *desk) enqueue(w *waiter) (*resource, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if res := d.popLocked(); res != nil {
		return res, nil
	}
	if err := d.fullLocked(w.bytes); err != nil {
		return nil, err
	}
	d.queue.push(w)
	d.bytes += w.bytes
	d.waiting.Add(1)
	d.setAlarmLocked(w.deadline)
	return nil, nil
}

// full says why a caller would be turned away who came now; nil when there is room, or a worker.
func (d *desk) full() error {
	if d.waiting.Load() == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fullLocked(0)
}

// fullLocked says why a request of so many bytes cannot wait. One that finds nobody there may be as large as it likes.
func (d *desk) fullLocked(bytes int64) error {
	switch waiting := int64(d.queue.length); {
	case waiting >= d.maxQueue+d.borrowed:
		return fullQueue(fmt.Sprintf("%d callers wait already (MaxQueue)", d.maxQueue))
	case waiting > 0 && d.bytes+bytes > d.maxBytes:
		return fullQueue(fmt.Sprintf("%d callers wait already, with %d bytes of requests, and no more than %d bytes may wait (MaxQueueBytes)", waiting, d.bytes, d.maxBytes))
	}
	return nil
}

// leave takes w out of the queue, unless somebody else has just done so: there is one outcome in any case.
func (d *desk) leave(w *waiter, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.queued {
		d.dismissLocked(w, verdict{err: why})
	}
}

func (d *desk) dismissLocked(w *waiter, v verdict) {
	d.queue.remove(w)
	d.bytes -= w.bytes
	d.waiting.Add(-1)
	w.outcome <- v
}

// put takes a worker back that may serve again, or takes a new one in: the first in the queue gets it. It may have died in the
// meantime, and been looked for while it was not idle.
func (d *desk) put(res *resource) {
	w := res.Value()
	if !d.handOver(res) {
		res.Release()
	}
	if w.isExited() {
		d.suspect()
	}
}

// handOver gives the worker to the first in the queue, or to the idle; false: the desk is closed.
func (d *desk) handOver(res *resource) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	if first := d.queue.first; first != nil {
		d.dismissLocked(first, verdict{res: res})
	} else {
		d.idle = append(d.idle, res)
	}
	return true
}

// turnAway ends all waits.
func (d *desk) turnAway() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.queue.first != nil {
		d.dismissLocked(d.queue.first, verdict{err: errStopped})
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
	for w, next := d.queue.first, (*waiter)(nil); w != nil; w = next {
		next = w.behind
		switch {
		case w.deadline.IsZero():
		case !w.deadline.After(now):
			d.dismissLocked(w, verdict{err: errTimeout})
		case earliest.IsZero() || w.deadline.Before(earliest):
			earliest = w.deadline
		}
	}
	if !earliest.IsZero() {
		d.setAlarmLocked(later(earliest, now.Add(10*time.Since(now))))
	}
}

// close ends the timer, and gives the idle back to puddle, as put then does: puddle's Close ends them. Nobody waits any more.
func (d *desk) close() {
	d.mu.Lock()
	d.closed = true
	idle := d.idle
	d.idle = nil
	if d.timer != nil && d.timer.Stop() {
		d.alarms.Done()
	}
	d.mu.Unlock()
	d.alarms.Wait()
	for _, res := range idle {
		res.Release()
	}
}

// create constructs one worker and puts it. It returns puddle.ErrNotAvailable while slots are still held by
// workers on their way out.
func (d *desk) create(ctx context.Context) error {
	if err := d.puddle.CreateResource(ctx); err != nil {
		return err
	}
	// Whoever creates one acquires one: puddle never has to construct here.
	res, err := d.puddle.Acquire(context.Background())
	if err != nil { // closed
		return err
	}
	d.mu.Lock()
	d.members[res.Value()] = res
	d.mu.Unlock()
	d.put(res)
	return nil
}

// inspect takes all idle workers; keep decides for each whether it is held (the caller then puts or destroys it) or goes back at
// once.
func (d *desk) inspect(keep func(*resource) bool) (held []*resource) {
	d.mu.Lock()
	taken := d.idle
	d.idle = nil
	d.borrowed += int64(len(taken))
	d.mu.Unlock()
	for _, res := range taken { // the coldest first, so that the stack is as it was
		if keep(res) {
			held = append(held, res)
		} else {
			d.put(res)
		}
	}
	d.mu.Lock()
	d.borrowed -= int64(len(taken))
	d.mu.Unlock()
	return held
}

// idleNow is the number of idle workers.
func (d *desk) idleNow() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.idle)
}
