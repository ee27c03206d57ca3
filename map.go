package pypool

import (
	"context"
	"encoding"
	"encoding/json"
	"iter"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	mapBlock    = 64
	mapBlocks   = 96                   // mapBlock*mapBlocks items at most lie between the one fed last and the one yielded last
	mapBytes    = 8 << 20              // of requests fed and not answered, and of results not yielded; one item, and what is in flight, may exceed it
	mapKept     = 4 << 10              // a request's buffer up to this size waits in its slot for the next item
	mapPublish  = 32                   // items fed before the feeder looks for room, unless a lane is hungry
	mapAttempts = 3                    // workers that may die before they begin one and the same item
	mapCrowd    = 128                  // so many items under way, or done, need not be looked at one by one as they come
	mapFlight   = 2048                 // requests in flight on one worker; on all together half of those that are fed at most
	mapLine     = 16 << 10             // of many requests in one line; one that is longer has its own
	mapBuffer   = 32 << 10             // for the answers that have come together
	mapTarget   = 4 * time.Millisecond // of a worker's time: as many items as fill it are kept in flight
	mapNap      = mapTarget / 20       // while answers come together
	mapNaps     = 4                    // such naps, before they are waited for
)

// Map runs the command once for each item and yields the results in the items' order. The items are spread over the pool's
// workers, with many requests in flight on each worker's pipe; a worker still runs them one at a time, in order. An item
// is a call's args; a scalar item is the one positional argument.
//
// One item's error is its own: it is yielded in the item's place, and the loop goes on. When a worker dies, the item it had begun
// gets the error (MaybeExecuted), and those behind it, which provably did not begin, run elsewhere. OperationTimeout is
// for each item and starts when the answer before it was read. Statistics, sessions and the Observer count each item.
//
// Memory is bounded: a slow loop stops the feed. Leaving the loop stops the work: nothing more is sent, and what is in
// flight is awaited for StopGrace, then killed. The end of ctx kills at once what is in flight, and is yielded as the last
// error. items is pulled on another goroutine, and Map does not return before items has. Other callers get their turn at
// the workers.
func Map[Out, In any](ctx context.Context, p *Pool, command string, items iter.Seq[In], opts ...CallOption) iter.Seq2[Out, error] {
	return func(yield func(Out, error) bool) {
		if !p.wasStarted() {
			var zero Out
			yield(zero, neverStarted(CallInfo{Command: command}))
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		m := newMapper[Out](ctx, p, command, opts)
		stopWaking := context.AfterFunc(ctx, m.wakeAll)
		defer stopWaking()
		var work sync.WaitGroup
		work.Go(func() { m.feed(encodeItems(items)) })
		for range p.cfg.Size {
			work.Go(m.lane)
		}
		defer func() {
			m.stop()
			impatient := time.AfterFunc(p.cfg.StopGrace, cancel)
			work.Wait()
			impatient.Stop()
			m.settleRest()
			if m.panicked != nil {
				panic(m.panicked)
			}
		}()
		m.deliver(yield)
	}
}

// mapper is one Map at work: a feeder fills a ring of slots, lanes (one for each worker of the pool) serve them, and the
// caller's goroutine yields them in order. A slot belongs to the feeder until it is fed, then to the lane that took it, then
// to the reader.
type mapper[Out any] struct {
	p        *Pool
	ctx      context.Context
	template call
	head     []byte // of every request, up to its arguments
	tail     []byte // behind them, as far as no worker is needed to know it
	rest     []byte // of a line with many requests, behind them
	refused  *Error // what every item gets, because of the options
	blocks   [mapBlocks]*[mapBlock]mapSlot[Out]
	fed      atomic.Int64 // slots filled
	hungry   atomic.Int64 // lanes that wait for one, or are about to

	mu       sync.Mutex // guards the fields below
	feeder   sync.Cond  // there may be room in the ring
	lanes    sync.Cond  // there may be something to serve
	reader   sync.Cond  // the next slot may be done
	taken    int        // slots handed to lanes
	again    []int      // slots to be handed to another lane
	shown    time.Time  // when the reader was last told of items that are done
	yielded  int        // slots delivered
	bytes    int        // of the requests in slots fed and not done
	held     int        // of the results in slots done and not delivered
	flying   int        // slots that lanes hold
	full     bool       // the feeder waits for room
	ended    bool       // the feeder is done
	stopped  bool       // the loop is over
	panicked any
	perItem  time.Duration // a worker's time for one item, smoothed
}

type mapSlot[Out any] struct {
	call     call
	observed context.Context // what the observer's CallStart returned
	attempts int
	size     int // of the result
	done     bool
	out      Out
	err      error
}

func newMapper[Out any](ctx context.Context, p *Pool, command string, opts []CallOption) *mapper[Out] {
	m := &mapper[Out]{p: p, ctx: ctx, template: call{job: job{info: CallInfo{Command: command}}}}
	m.head = append(beginRequest(nil, command), `,"args":`...)
	m.refused = m.template.apply(&p.cfg, opts)
	tail := endRequest(nil, m.template.info.Session, false)
	m.tail = tail.buf
	m.rest = endSeveral(command, m.tail, m.template.timeout)
	if m.refused == nil {
		m.refused = p.refusedCommand(command)
	}
	m.feeder.L, m.lanes.L, m.reader.L = &m.mu, &m.mu, &m.mu
	return m
}

func (m *mapper[Out]) slot(i int) *mapSlot[Out] {
	return &m.blocks[i/mapBlock%mapBlocks][i%mapBlock]
}

func (m *mapper[Out]) wakeAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.feeder.Broadcast()
	m.lanes.Broadcast()
	m.reader.Broadcast()
}

// stop ends the work: the loop was left, or is over.
func (m *mapper[Out]) stop() {
	m.mu.Lock()
	m.stopped = true
	m.mu.Unlock()
	m.wakeAll()
}

// roomLocked reports whether a feeder that had to wait may go on: it is woken for many items at once.
func (m *mapper[Out]) roomLocked() bool {
	return int(m.fed.Load())-m.yielded <= mapBlock*mapBlocks*3/4 && m.bytes <= mapBytes*3/4
}

func (m *mapper[Out]) wakeFeederLocked() {
	if m.full && m.roomLocked() {
		m.feeder.Signal()
	}
}

func (m *mapper[Out]) overLocked() bool { return m.stopped || m.ctx.Err() != nil }

// --- the feeder -----------------------------------------------------------------------------------------------------

// encodeItems turns items into arguments.
func encodeItems[In any](items iter.Seq[In]) iter.Seq[any] {
	return func(yield func(any) bool) {
		items(func(item In) bool { return yield(item) })
	}
}

// feed pulls the items and encodes them into slots.
func (m *mapper[Out]) feed(items iter.Seq[any]) {
	next, bytes := 0, 0
	publish := func(end bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.bytes += bytes
		bytes = 0
		if end {
			m.ended = true
			m.lanes.Broadcast()
			m.reader.Broadcast()
			return
		}
		if m.hungry.Load() > 0 {
			m.lanes.Signal()
		}
		m.reader.Signal() // what was refused when it was fed is done
		if next-m.yielded > mapBlock*mapBlocks-mapPublish || m.bytes >= mapBytes {
			m.full = true
			for !m.overLocked() && !m.roomLocked() {
				m.feeder.Wait()
			}
			m.full = false
		}
	}
	defer func() {
		if r := recover(); r != nil { // in the items, or in their MarshalJSON: it belongs to the caller's goroutine
			m.mu.Lock()
			m.panicked, m.stopped = r, true
			m.mu.Unlock()
		}
		m.fed.Store(int64(next))
		publish(true)
		m.wakeAll()
	}()
	for item := range items {
		if m.ctx.Err() != nil {
			return
		}
		if block := &m.blocks[next/mapBlock%mapBlocks]; *block == nil {
			*block = new([mapBlock]mapSlot[Out])
		}
		s := m.slot(next)
		next++ // first: a panic in fill leaves a slot that counts
		m.fill(s, item)
		refused := s.done
		if !refused {
			bytes += s.call.req.size()
		}
		m.fed.Store(int64(next)) // from here on the slot is not the feeder's
		if refused || m.hungry.Load() > 0 || next%mapPublish == 0 || bytes >= mapBytes/16 {
			publish(false)
			m.mu.Lock()
			over := m.overLocked()
			m.mu.Unlock()
			if over {
				return
			}
		}
	}
}

// fill begins the item's call and encodes it. One that cannot be sent is done.
func (m *mapper[Out]) fill(s *mapSlot[Out], item any) {
	kept := s.call.req.buf
	if s.observed == nil { // its first item
		s.call = m.template
	}
	var zero Out
	s.call.worker, s.call.pid = "", 0
	s.out, s.err, s.size, s.done, s.attempts = zero, nil, 0, false, 0
	s.observed = m.p.begin(m.ctx, &s.call)
	if err := m.encode(s, kept, item); err != nil {
		m.settle(s, err, time.Now())
		s.done = true
	}
}

func (m *mapper[Out]) encode(s *mapSlot[Out], kept []byte, item any) *Error {
	if m.refused != nil {
		return m.refused.again()
	}
	b := append(kept[:0], m.head...)
	if n, ok := item.(int); ok {
		b = append(strconv.AppendInt(append(b, '['), int64(n), 10), ']')
	} else {
		var err error
		if b, err = encodeArgs(b, itemArgs(item)); err != nil {
			return newError(TypeInvalidArguments, NotExecuted, "the arguments cannot be sent: "+err.Error(), err)
		}
	}
	b = append(b, m.tail...)
	s.call.req = request{buf: b, body: len(b), trace: s.call.trace}
	return s.call.checkSize(&m.p.cfg)
}

// itemArgs is an item as a call's arguments.
func itemArgs(item any) any {
	switch item.(type) {
	case json.Marshaler:
		return item
	case encoding.TextMarshaler:
		return [1]any{item}
	}
	switch k := reflect.ValueOf(item).Kind(); {
	case k >= reflect.Bool && k <= reflect.Float64, k == reflect.String:
		return [1]any{item}
	}
	return item
}

// --- the lanes ------------------------------------------------------------------------------------------------------

// lane serves slots until there are no more. Its worker is taken for a run of them, and given back when others wait.
func (m *mapper[Out]) lane() {
	for {
		batch := m.take(1, true, nil)
		if len(batch) == 0 {
			return
		}
		c := m.template
		c.info.Pool = m.p.cfg.Name
		c.id = m.slot(batch[0]).call.id
		admitted, refused := m.p.sup.breakers.enter(c.info.breakerKey())
		if refused != nil {
			m.fail(batch, refused.error())
			continue
		}
		res, err := m.p.acquire(m.ctx, &c)
		if err == nil {
			err = m.run(res, batch)
		} else {
			m.fail(batch, err)
		}
		admitted.end(c.evidence(m.ctx, &m.p.cfg, err), err)
	}
}

// take hands out up to n slots, in order. With wait it waits for the first one; none means that the work is over.
func (m *mapper[Out]) take(n int, wait bool, into []int) []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	had := len(into)
	for {
		if m.overLocked() {
			return into
		}
		for ; len(m.again) > 0 && len(into) < had+n; m.again = m.again[1:] {
			into = append(into, m.again[0])
		}
		m.taken = max(m.taken, m.yielded) // those between were refused when they were fed, and the slots may be others' by now
		for ; m.held < mapBytes && m.taken < int(m.fed.Load()) && len(into) < had+n; m.taken++ {
			if !m.slot(m.taken).done { // one that was refused when it was fed is done
				into = append(into, m.taken)
			}
		}
		if len(into) > had || !wait {
			m.flying += len(into) - had
			return into
		}
		if m.ended && m.flying == 0 && m.taken >= int(m.fed.Load()) {
			m.lanes.Broadcast()
			return into
		}
		m.wakeReaderLocked()
		m.hungry.Add(1)
		if m.held >= mapBytes || m.taken >= int(m.fed.Load()) { // the feeder feeds first, and then looks who is hungry
			m.lanes.Wait()
		}
		m.hungry.Add(-1)
	}
}

// flight is how many requests to keep in flight on one worker, so that it always has mapTarget's work before it.
func (m *mapper[Out]) flight() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.perItem <= 0 {
		return 1
	}
	most := min(mapFlight, max(mapBlock*mapBlocks/2/m.p.cfg.Size, 1))
	return min(max(int(mapTarget/m.perItem), 1), most)
}

// fail settles slots that cannot be served.
func (m *mapper[Out]) fail(batch []int, err *Error) {
	now := time.Now()
	for _, i := range batch {
		m.settle(m.slot(i), err.again(), now)
	}
	m.finish(batch, now)
	m.show()
}

// settle books the item's outcome. The slot is the reader's only when it is done.
func (m *mapper[Out]) settle(s *mapSlot[Out], err *Error, now time.Time) {
	s.err = m.p.finish(s.observed, &s.call, err, now)
}

// finish hands settled slots to the reader, which is told when there are many, from time to time, and by show.
func (m *mapper[Out]) finish(batch []int, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flying -= len(batch)
	for _, i := range batch {
		s := m.slot(i)
		s.done = true
		m.bytes -= s.call.req.size()
		m.held += s.size
		if cap(s.call.req.buf) > mapKept {
			s.call.req.buf = nil
		}
	}
	if m.taken-m.flying-len(m.again)-m.yielded >= mapCrowd || now.Sub(m.shown) > mapTarget {
		m.shown = now
		m.wakeReaderLocked()
	}
	m.wakeFeederLocked()
	if m.flying == 0 {
		m.lanes.Broadcast()
		m.reader.Signal()
	}
}

// show lets the reader have what there is: a lane is about to wait.
func (m *mapper[Out]) show() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wakeReaderLocked()
}

func (m *mapper[Out]) wakeReaderLocked() {
	if m.yielded < int(m.fed.Load()) && m.slot(m.yielded).done {
		m.reader.Signal()
	}
}

// requeue gives slots back that provably did not begin; one that has cost too many workers fails with err.
func (m *mapper[Out]) requeue(batch []int, err *Error) {
	var spent, rest []int
	for n, i := range batch {
		s := m.slot(i)
		if n == 0 {
			s.attempts++
		}
		if s.attempts >= mapAttempts {
			spent = append(spent, i)
		} else {
			rest = append(rest, i)
		}
	}
	m.mu.Lock()
	m.again = append(rest, m.again...)
	m.flying -= len(rest)
	m.lanes.Broadcast()
	m.reader.Signal()
	m.mu.Unlock()
	m.fail(spent, err)
}

// --- the reader -----------------------------------------------------------------------------------------------------

// deliver yields the slots in order.
func (m *mapper[Out]) deliver(yield func(Out, error) bool) {
	next, freed := 0, 0
	var zero Out
	for {
		m.mu.Lock()
		m.yielded = next
		if m.held -= freed; freed > 0 && m.held < mapBytes {
			m.lanes.Broadcast()
		}
		freed = 0
		m.wakeFeederLocked()
		// At ctx's end the lanes still settle what they hold, and that is waited for.
		for !(next < int(m.fed.Load()) && m.slot(next).done) && !(m.ended && next == int(m.fed.Load())) && !(m.overLocked() && m.flying == 0) {
			m.reader.Wait()
		}
		ready := next
		for ready < int(m.fed.Load()) && m.slot(ready).done {
			ready++
		}
		m.mu.Unlock()
		if ready == next { // the end of the items, or of ctx
			if m.ctx.Err() != nil && m.panicked == nil {
				var zero Out
				yield(zero, m.p.sequenceError(m.ctx, m.template.info))
			}
			return
		}
		for ; next < ready; next++ {
			s := m.slot(next)
			out, err := s.out, s.err
			s.out, s.err = zero, nil // the slot may not be filled again for long
			freed += s.size
			if !yield(out, err) {
				return
			}
		}
	}
}

// settleRest books the items that were fed and never served, so that the counters add up.
func (m *mapper[Out]) settleRest() {
	for i := m.yielded; i < int(m.fed.Load()); i++ {
		if s := m.slot(i); !s.done {
			m.settle(s, newError(TypeCanceled, NotExecuted, "the loop over the results had ended", m.ctx.Err()), time.Now())
		}
	}
}
