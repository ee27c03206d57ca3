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

// checkout hands out idle workers. puddle constructs them, bounds their number and destroys them;
// in between the checkout holds all of them acquired, so that a caller never makes puddle construct
// one, gets one that is certainly idle, and in the order of arrival. Measured: puddle's Acquire and
// Release plus a token channel cost a quarter of the throughput (8 callers, 2 workers; likewise
// 1000 on 4).
type checkout struct {
	puddle   *puddle.Pool[*worker]
	maxQueue int64
	maxBytes int64          // of the requests that wait; one alone may have more
	onWait   func()         // called when a caller begins to wait
	onDead   func()         // called when an idle worker turns out to be dead, or to ask for a replacement; mu may be held
	waiting  atomic.Int64   // written under mu
	alarms   sync.WaitGroup // the timer is set, or expire runs
	waiters  sync.Pool      // of *waiter, to be used again

	// Of batch commands, by breakerKey: a new map for each change, made under mu. Nil: there are
	// none.
	lineups atomic.Pointer[map[string]*lineup]
	batched func([]*member) *callBatch
	maxLine int // bytes of a batch's line

	mu        sync.Mutex // guards the fields below
	members   map[*worker]*resource
	idle      []*resource       // a stack: who was put back last serves next, and the others can be retired
	looked    map[*worker]*look // idle workers that the pool itself looks at for a moment: callers then wait who would not have to
	queue     queue             // has none but who wait for company when a worker is idle
	bytes     int64             // of the requests in it
	shared    []*sharing        // workers with several calls
	plain     int               // of the queue, who wants a worker of its own
	nested    int               // of the queue, who waits for those that are looked at alone
	timer     *time.Timer
	alarm     time.Time // when the timer fires: with the earliest deadline or before; zero: it is not set
	closed    bool
	room      int // processes that there may be at most
	processes int // that there are, or that are being started
}

// look is one that the pool itself takes at an idle worker, which it holds meanwhile.
type look struct {
	over   chan struct{} // closed when the worker is put back, or destroyed
	health *WorkerHealth // what came of it, set before over is closed; nil: it was no ping
}

func newLook() *look { return &look{over: make(chan struct{})} }

// waiter is a caller in the queue.
type waiter struct {
	links    [inLists]links
	queued   bool
	deadline time.Time  // zero: none
	bytes    int64      // of the request
	sharer   *call      // of a concurrent command, which a seat on a shared worker will do for; nil: of none
	nested   bool       // it waits for no other call: only while the pool itself looks at idle workers
	outcome  chan grant // gets one from whoever takes it out of the queue

	member  *member // of a batch command, as the next two; nil: of none
	lineup  *lineup
	company time.Time // until then it waits for company; zero: it does not
}

// ripe reports whether a worker may be given to w: it does not wait for company.
func (w *waiter) ripe() bool {
	return w.lineup == nil || w.company.IsZero() || w.lineup.length >= w.lineup.size || !time.Now().Before(w.company)
}

// The lists that a waiter can be in.
const (
	inQueue  = iota // the checkout's, of all
	inLineup        // of those who wait for the same batch command
	inLists
)

// links are a waiter's neighbours in one list.
type links struct{ ahead, behind *waiter }

// queue is a list of waiters, first come first. They are linked through themselves: an element of
// container/list for each wait kept the garbage collector busy (1000 callers).
type queue struct {
	in          int // which of their links
	first, last *waiter
	length      int
}

func (q *queue) push(w *waiter) {
	w.links[q.in].ahead = q.last
	if q.last == nil {
		q.first = w
	} else {
		q.last.links[q.in].behind = w
	}
	q.last = w
	q.length++
}

func (q *queue) remove(w *waiter) {
	l := &w.links[q.in]
	if l.ahead == nil {
		q.first = l.behind
	} else {
		l.ahead.links[q.in].behind = l.behind
	}
	if l.behind == nil {
		q.last = l.ahead
	} else {
		l.behind.links[q.in].ahead = l.ahead
	}
	*l = links{}
	q.length--
}

// grant is a worker, or a seat on a shared one, or why there is none.
type grant struct {
	res    *resource // of a batch: for its first member alone, who launches it
	err    error
	member *member // of a batch; nil: the worker is for one call
	seat   *seat
}

func newCheckout(room int, cfg *Config, construct puddle.Constructor[*worker], onWait, onDead func()) (*checkout, error) {
	c := &checkout{maxLine: cfg.MaxMessageBytes, maxQueue: int64(cfg.MaxQueue), maxBytes: int64(cfg.MaxQueueBytes), onWait: onWait, onDead: onDead, members: map[*worker]*resource{}, looked: map[*worker]*look{}, room: room}
	var err error
	c.puddle, err = puddle.NewPool(&puddle.Config[*worker]{Constructor: construct, Destructor: c.destroy, MaxSize: maxProcesses})
	return c, err
}

// maxProcesses is more than setRoom is ever called with: puddle's own bound cannot be moved.
const maxProcesses = 4*maxWorkers + 4

// setRoom bounds the processes, those that are dying included.
func (c *checkout) setRoom(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room = n
}

// destroy is puddle's destructor.
func (c *checkout) destroy(w *worker) {
	c.mu.Lock()
	delete(c.members, w)
	c.seenLocked(w)
	c.mu.Unlock()
	w.stop()
	c.vacate()
}

// occupy takes the room of one process; false: there is none. vacate gives it back.
func (c *checkout) occupy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.processes >= c.room {
		return false
	}
	c.processes++
	return true
}

func (c *checkout) vacate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.processes--
}

// all returns the workers that are ready and have not been destroyed, idle or not.
func (c *checkout) all() map[*worker]*resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.members)
}

// Why wait gave up, beside a fullQueue.
var (
	errTimeout = errors.New("timeout")
	errStopped = errors.New("stopped")
	errEnded   = errors.New("ctx has ended")
	errBusy    = errors.New("no worker is idle")
)

// fullQueue says, in words for the caller, why nobody more may wait.
type fullQueue string

func (q fullQueue) Error() string { return string(q) }

// tryTake takes a worker if one is idle; else it returns nil.
func (c *checkout) tryTake() *resource {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.popLocked()
}

func (c *checkout) popLocked() *resource {
	if !c.readyLocked() {
		return nil
	}
	last := len(c.idle) - 1
	res := c.idle[last]
	c.idle[last] = nil
	c.idle = c.idle[:last]
	return res
}

// wait waits for a worker: until the deadline (zero: no bound), until ctx ends, or until
// rejectWaiters. refused tells whether callers are turned away since a moment ago.
func (c *checkout) wait(ctx context.Context, deadline time.Time, bytes int, refused func() bool) (*resource, error) {
	v := c.await(ctx, c.newWaiter(deadline, bytes), refused)
	return v.res, v.err
}

// waitNested is wait for a call that must not wait for others: it gives up with errBusy when no idle
// worker is looked at any more that it could get.
func (c *checkout) waitNested(ctx context.Context, deadline time.Time, bytes int, refused func() bool) (*resource, error) {
	w := c.newWaiter(deadline, bytes)
	w.nested = true
	v := c.await(ctx, w, refused)
	return v.res, v.err
}

// waitInLine is wait for a call of a batch command, which waits for company for so long.
func (c *checkout) waitInLine(ctx context.Context, deadline time.Time, l *lineup, m *member, company time.Duration, refused func() bool) grant {
	w := c.newWaiter(deadline, m.job.req.Size())
	w.member, w.lineup = m, l
	if company > 0 {
		w.company = time.Now().Add(company)
	}
	return c.await(ctx, w, refused)
}

// waitForSeat is wait for a call of a concurrent command.
func (c *checkout) waitForSeat(ctx context.Context, deadline time.Time, k *call, refused func() bool) grant {
	w := c.newWaiter(deadline, k.req.Size())
	w.sharer, w.nested = k, k.nested
	return c.await(ctx, w, refused)
}

func (c *checkout) newWaiter(deadline time.Time, bytes int) *waiter {
	w, _ := c.waiters.Get().(*waiter)
	if w == nil {
		w = &waiter{outcome: make(chan grant, 1)}
	}
	w.deadline, w.bytes = deadline, int64(max(bytes, 0))
	w.company, w.sharer, w.nested = time.Time{}, nil, false
	return w
}

func (c *checkout) await(ctx context.Context, w *waiter, refused func() bool) grant {
	ended := ctx.Done() // once: it may panic, and w would stay in the queue
	defer func() {      // out of the queue, its outcome received
		w.member, w.lineup = nil, nil
		c.waiters.Put(w)
	}()
	if v := c.enqueue(w); v != (grant{}) {
		return v
	}
	c.onWait()
	if refused() { // rejectWaiters may have come before us
		c.leave(w, errStopped)
	}
	if ended != nil {
		select {
		case v := <-w.outcome:
			return v
		case <-ended:
			c.leave(w, errEnded) // ctx is not asked why in the queue: its Err is the caller's, and may panic
		}
	}
	return <-w.outcome
}

// enqueue takes a worker after all, or puts w into the queue.
func (c *checkout) enqueue(w *waiter) grant {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.sharer != nil {
		c.closeLocked()
		if seat := c.seatLocked(w.sharer); seat != nil {
			return grant{seat: seat}
		}
	}
	full := c.fullLocked(w.bytes)
	if w.company.IsZero() || full != nil {
		if res := c.popLocked(); res != nil {
			return grant{res: res}
		}
	}
	switch {
	case w.nested && len(c.looked) == 0:
		return grant{err: errBusy}
	case full != nil:
		return grant{err: full}
	case w.nested:
		c.nested++
	}
	c.queue.push(w)
	w.queued = true
	c.bytes += w.bytes
	c.waiting.Add(1)
	c.setAlarmLocked(w.deadline)
	if w.sharer == nil {
		c.plain++
	}
	if w.lineup != nil {
		w.lineup.push(w)
		c.setAlarmLocked(w.company)
		c.dispatchLocked()
	}
	c.closeLocked()
	return grant{}
}

// full says why a caller would be turned away who came now; nil when there is room, or a worker.
func (c *checkout) full() error {
	if c.waiting.Load() == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readyLocked() {
		return nil
	}
	return c.fullLocked(0)
}

// fullLocked says why a request of so many bytes cannot wait. One that finds nobody there may be as
// large as it likes.
func (c *checkout) fullLocked(bytes int64) error {
	switch waiting := int64(c.queue.length); {
	case waiting >= c.maxQueue+int64(len(c.looked)):
		return fullQueue(fmt.Sprintf("%d callers wait already (MaxQueue)", c.maxQueue))
	case waiting > 0 && c.bytes+bytes > c.maxBytes:
		return fullQueue(fmt.Sprintf("%d callers wait already, with %d bytes of requests, and no more than %d bytes may wait (MaxQueueBytes)", waiting, c.bytes, c.maxBytes))
	}
	return nil
}

// leave takes w out of the queue, unless somebody else has just done so: there is one outcome in
// any case.
func (c *checkout) leave(w *waiter, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.queued {
		c.dismissLocked(w, grant{err: why})
		c.reopenLocked()
	}
}

func (c *checkout) dismissLocked(w *waiter, v grant) {
	c.queue.remove(w)
	w.queued = false
	if w.lineup != nil {
		w.lineup.remove(w)
	}
	c.bytes -= w.bytes
	c.waiting.Add(-1)
	if w.sharer == nil {
		c.plain--
	}
	if w.nested {
		c.nested--
	}
	w.outcome <- v // w is somebody else's from here on
}

// put takes a worker back that may serve again, or takes a new one in: the first in the queue gets
// it. If it died while it was out, or was told to go just now, the supervisor's sweep of the idle
// missed it: onDead reports it.
func (c *checkout) put(res *resource) {
	w := res.Value()
	if !c.handOver(res) {
		res.Release()
	}
	if w.isExited() || w.retired.Load() {
		c.onDead()
	}
}

// handOver gives the worker to the first in the queue, or to the idle; false: the checkout is
// closed.
func (c *checkout) handOver(res *resource) bool {
	w := res.Value()
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.seenLocked(w)
	if c.closed {
		return false
	}
	first := c.nextLocked()
	switch {
	case first != nil && !c.sparedLocked(w):
		c.grantLocked(first, res)
		c.reopenLocked()
	case first != nil || w.retirement.Load() != nil:
		c.shelveLocked(res)
	default:
		c.idle = append(c.idle, res)
	}
	return true
}

// rejectWaiters ends all waits.
func (c *checkout) rejectWaiters() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.queue.first != nil {
		c.dismissLocked(c.queue.first, grant{err: errStopped})
	}
}

// setAlarmLocked sees to it that expire runs at the deadline, or before. One timer serves all who
// wait: as a rule they come in the order of their deadlines, and it is set again no sooner than it
// has fired.
func (c *checkout) setAlarmLocked(deadline time.Time) {
	if deadline.IsZero() || c.closed || (!c.alarm.IsZero() && !deadline.Before(c.alarm)) {
		return
	}
	c.alarm = deadline
	switch left := time.Until(deadline); {
	case c.timer == nil:
		c.alarms.Add(1)
		c.timer = time.AfterFunc(left, c.expire)
	case !c.timer.Reset(left):
		c.alarms.Add(1)
	}
}

// expire ends the waits whose deadline has passed. It looks at all; a long queue is looked at less
// often, so that this takes no more than a tenth of the time.
func (c *checkout) expire() {
	defer c.alarms.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm = time.Time{}
	c.dispatchLocked()
	c.closeLocked() // for those whose wait for company is over
	now := time.Now()
	var earliest time.Time
	for w, next := c.queue.first, (*waiter)(nil); w != nil; w = next {
		next = w.links[inQueue].behind
		if w.company.After(now) && (earliest.IsZero() || w.company.Before(earliest)) {
			earliest = w.company
		}
		switch {
		case w.deadline.IsZero():
		case !w.deadline.After(now):
			c.dismissLocked(w, grant{err: errTimeout})
		case earliest.IsZero() || w.deadline.Before(earliest):
			earliest = w.deadline
		}
	}
	c.reopenLocked()
	if !earliest.IsZero() {
		c.setAlarmLocked(later(earliest, now.Add(10*time.Since(now))))
	}
}

// close ends the timer, and gives the idle back to puddle, as put then does: puddle's Close ends
// them. Nobody waits any more.
func (c *checkout) close() {
	c.mu.Lock()
	c.closed = true
	idle := c.idle
	c.idle = nil
	if c.timer != nil && c.timer.Stop() {
		c.alarms.Done()
	}
	c.mu.Unlock()
	c.alarms.Wait()
	for _, res := range idle {
		res.Release()
	}
}

// create constructs one worker and puts it. It returns puddle.ErrNotAvailable while workers on their
// way out leave no room.
func (c *checkout) create(ctx context.Context) error {
	if !c.occupy() {
		return puddle.ErrNotAvailable
	}
	if err := c.puddle.CreateResource(ctx); err != nil {
		c.vacate()
		return err
	}
	// Whoever creates one acquires one: puddle never has to construct here.
	res, err := c.puddle.Acquire(context.Background())
	if err != nil { // closed
		return err
	}
	c.mu.Lock()
	c.members[res.Value()] = res
	c.mu.Unlock()
	c.put(res)
	return nil
}

// look says that the pool itself looks at a worker that is held, and would be idle; until it is put
// or destroyed. A look that is under way goes on: who has joined it waits for its end.
func (c *checkout) look(res *resource) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := res.Value(); c.looked[w] == nil {
		c.looked[w] = newLook()
	}
}

// found says what has come of the look at a worker that is still held, for who has joined it.
func (c *checkout) found(w *worker, h WorkerHealth) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.looked[w]; l != nil {
		l.health = &h
	}
}

// looks returns the looks at idle workers that are under way.
func (c *checkout) looks() map[*worker]*look {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.looked)
}

// seenLocked is the end of look. After the last one those go who have waited for that alone.
func (c *checkout) seenLocked(w *worker) {
	if l := c.looked[w]; l != nil {
		close(l.over)
		delete(c.looked, w)
	}
	if len(c.looked) > 0 || c.nested == 0 {
		return
	}
	for w, next := c.queue.first, (*waiter)(nil); w != nil; w = next {
		next = w.links[inQueue].behind
		if w.nested {
			c.dismissLocked(w, grant{err: errBusy})
		}
	}
	c.reopenLocked()
}

// inspect takes all idle workers; keep decides for each whether it is held (the caller then puts or
// destroys it) or goes back at once.
func (c *checkout) inspect(keep func(*resource) bool) (held []*resource) {
	c.mu.Lock()
	taken := c.idle
	c.idle = nil
	for _, res := range taken {
		c.looked[res.Value()] = newLook()
	}
	c.mu.Unlock()
	for _, res := range taken { // the coldest first, so that the stack is as it was
		if keep(res) {
			held = append(held, res)
		} else {
			c.put(res)
		}
	}
	return held
}

// idleNow is the number of idle workers.
func (c *checkout) idleNow() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.idle)
}
