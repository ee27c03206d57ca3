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

	"github.com/pypool/pypool/internal/wire"
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
// is a call's args; a scalar item, or a []byte, is the one positional argument.
//
// One item's error is its own: it is yielded in the item's place, and the loop goes on. When a worker dies, the item it had begun
// gets the error (MaybeExecuted), and those behind it, which provably did not begin, run elsewhere. OperationTimeout is
// for each item and starts when the answer before it was read. Statistics, sessions and the Observer count each item.
//
// Memory is bounded: a slow loop stops the feed. Leaving the loop stops the work: nothing more is sent, and what is in
// flight is awaited for StopGrace, then killed. The end of ctx kills at once what is in flight, and is yielded as the last
// error. Other callers get their turn at the workers.
//
// Code of the caller runs on goroutines of the Map's: items, CallStart, TraceParent and the marshalers of In on one; CallEnd and the unmarshalers of
// Out on several at the same time. If it panics or calls [runtime.Goexit], the work is stopped as if the loop had been left, and the same happens
// in the loop's goroutine. When the loop ends before items has, items is told so at its next yield, and Map waits for it
// to return: for StopGrace after the loop was left, for KillGrace (100 ms at least) after the end of ctx. An iterator that blocks for
// longer goes on running beside what follows the loop, until it yields or returns; what it panics with then is logged.
func Map[Out, In any](ctx context.Context, p *Pool, command string, items iter.Seq[In], opts ...CallOption) iter.Seq2[Out, error] {
	return func(yield func(Out, error) bool) {
		if !p.wasStarted() {
			var zero Out
			yield(zero, neverStarted(CallInfo{Command: command}))
			return
		}
		ctx, cancel := context.WithCancel(watchable(ctx))
		defer cancel()
		m := newMapper[Out](ctx, p, command, opts)
		stopWaking := context.AfterFunc(ctx, m.wakeAll)
		defer stopWaking()
		go m.feed(encodeItems(items))
		for range p.cfg.Size {
			m.work.Go((&lane[Out]{m: m}).serve)
		}
		over := false
		defer func() {
			if t := m.join(cancel); over && t != nil { // else the loop's body has trouble of its own
				t.raise()
			}
		}()
		m.deliver(yield)
		over = true
	}
}

// join ends the work. It waits for all of it, but not for ever for the items. It returns the trouble that there was.
func (m *mapper[Out]) join(cancel func()) *trouble {
	m.stop()
	impatient := time.AfterFunc(m.p.cfg.StopGrace, cancel)
	m.work.Wait()
	select {
	case <-m.feederDone:
	case <-m.ctx.Done(): // by its caller, or because StopGrace is over
		timer := time.NewTimer(max(m.p.cfg.KillGrace, 100*time.Millisecond))
		select {
		case <-m.feederDone:
		case <-timer.C:
		}
		timer.Stop()
	}
	impatient.Stop()
	cancel()
	m.mu.Lock()
	m.left, m.settled = true, int(m.fed.Load())
	m.mu.Unlock()
	m.settleSlots(m.yielded, m.settled) // so that the counters add up
	m.mu.Lock()
	defer m.mu.Unlock()
	m.returned = true
	return m.trouble
}

// mapper is one Map at work: a feeder fills a ring of slots, lanes (one for each worker of the pool) serve them, and the
// caller's goroutine yields them in order. A slot belongs to the feeder until it is fed, then to the lane that took it, then
// to the reader.
type mapper[Out any] struct {
	p          *Pool
	ctx        context.Context
	template   call
	lines      wire.Template
	refused    *Error // what every item gets, because of the options
	blocks     [mapBlocks]*[mapBlock]mapSlot[Out]
	fed        atomic.Int64   // slots filled
	hungry     atomic.Int64   // lanes that wait for one, or are about to
	work       sync.WaitGroup // the lanes
	feederDone chan struct{}  // the feeder's end

	mu       sync.Mutex    // guards the fields below
	feeder   sync.Cond     // there may be room in the ring
	lanes    sync.Cond     // there may be something to serve
	reader   sync.Cond     // the next slot may be done
	taken    int           // slots handed to lanes
	again    []int         // slots to be handed to another lane
	shown    time.Time     // when the reader was last told of items that are done
	yielded  int           // slots delivered
	bytes    int           // of the requests in slots fed and not done
	held     int           // of the results in slots done and not delivered
	flying   int           // slots that lanes hold
	full     bool          // the feeder waits for room
	ended    bool          // the feeder is done
	stopped  bool          // the loop is over
	returned bool          // Map has: what goes wrong now is nobody's
	left     bool          // Map returns: what the feeder has not fed by now is its own to settle
	settled  int           // slots below it are not
	trouble  *trouble      // the first of the caller's code
	troubled atomic.Bool   // there is some: nothing more is yielded
	perItem  time.Duration // a worker's time for one item, smoothed
}

type mapSlot[Out any] struct {
	call     call
	observed context.Context // what the observer's CallStart returned
	attempts int
	size     int  // of the result
	alone    bool // the request has a key of its own beside the arguments, and so a line of its own
	done     bool
	out      Out
	err      error
}

func newMapper[Out any](ctx context.Context, p *Pool, command string, opts []CallOption) *mapper[Out] {
	m := &mapper[Out]{p: p, ctx: ctx, feederDone: make(chan struct{}), template: call{job: job{info: CallInfo{Command: command}}}}
	m.refused = m.template.apply(&p.cfg, opts)
	m.lines = wire.NewTemplate(command, m.template.info.Session, m.template.timeout)
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

// failed stops the work, because code of the caller's has panicked with value (nil: it has called runtime.Goexit).
func (m *mapper[Out]) failed(value any) {
	t := &trouble{value}
	m.mu.Lock()
	returned := m.returned
	if m.trouble == nil && !returned {
		m.trouble = t
		m.troubled.Store(true)
	}
	m.stopped = true
	m.mu.Unlock()
	m.wakeAll()
	if returned { // no loop is there any more to have it
		m.p.reporter.failure("the items of a Map that has returned", t)
	}
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
	ended, filling := false, false
	defer func() {
		if !ended { // the items, their MarshalJSON or CallStart have panicked, or ended this goroutine
			m.failed(recover())
		}
		if filling {
			m.settleBroken(m.slot(next - 1))
		}
		m.endFeed(next, publish)
	}()
	for item := range items {
		if m.ctx.Err() != nil {
			break
		}
		if block := &m.blocks[next/mapBlock%mapBlocks]; *block == nil {
			*block = new([mapBlock]mapSlot[Out])
		}
		s := m.slot(next)
		next++ // first: a panic in fill leaves a slot that counts
		filling = true
		m.fill(s, item)
		filling = false
		refused := s.done
		if !refused {
			bytes += s.call.req.Size()
		}
		m.fed.Store(int64(next)) // from here on the slot is not the feeder's
		if refused || m.hungry.Load() > 0 || next%mapPublish == 0 || bytes >= mapBytes/16 {
			publish(false)
			m.mu.Lock()
			over := m.overLocked()
			m.mu.Unlock()
			if over {
				break
			}
		}
	}
	ended = true // not before: items runs on after the loop's break
}

// settleBroken settles a slot that code of the caller's has left half filled.
func (m *mapper[Out]) settleBroken(s *mapSlot[Out]) {
	if s.done {
		return // it was CallEnd
	}
	s.done = true
	m.apart(func() {
		m.settle(s, newError(TypeInternal, NotExecuted, "a function of the caller panicked", nil), time.Now())
	})
}

// endFeed is the feeder's end. The slots that were not fed when Map returned are settled here.
func (m *mapper[Out]) endFeed(next int, publish func(end bool)) {
	defer close(m.feederDone)
	m.mu.Lock()
	left, settled := m.left, m.settled
	m.fed.Store(int64(next))
	m.mu.Unlock()
	publish(true)
	m.wakeAll()
	if left {
		m.settleSlots(settled, next)
	}
}

// fill begins the item's call and encodes it. One that cannot be sent is done.
func (m *mapper[Out]) fill(s *mapSlot[Out], item any) {
	kept := s.call.req.Buf
	if s.observed == nil { // its first item
		s.call = m.template
	}
	var zero Out
	s.call.worker, s.call.pid = "", 0
	s.out, s.err, s.size, s.alone, s.done, s.attempts = zero, nil, 0, false, false, 0
	s.observed = m.ctx
	m.p.begin(&s.observed, &s.call)
	if err := m.encode(s, kept, item); err != nil {
		s.done = true // first: CallEnd may panic
		m.settle(s, err, time.Now())
	}
}

func (m *mapper[Out]) encode(s *mapSlot[Out], kept []byte, item any) *Error {
	if m.refused != nil {
		return m.refused.clone()
	}
	b := m.lines.Begin(kept)
	if n, ok := item.(int); ok {
		b = append(strconv.AppendInt(append(b, '['), int64(n), 10), ']')
	} else {
		var err error
		args := itemArgs(item)
		if b, err = wire.EncodeArgs(b, args); err != nil {
			return newError(TypeInvalidArguments, NotExecuted, "the arguments cannot be sent: "+err.Error(), err)
		}
		end := len(b)
		b = wire.AppendBytesPaths(b, args)
		s.alone = len(b) > end
	}
	s.call.req = m.lines.Finish(b, s.call.trace)
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
	v := reflect.ValueOf(item)
	switch k := v.Kind(); {
	case k >= reflect.Bool && k <= reflect.Float64, k == reflect.String, v.IsValid() && wire.IsBytes(v.Type()):
		return [1]any{item}
	}
	return item
}

// --- the lanes ------------------------------------------------------------------------------------------------------

// lane serves slots until there are no more. Its worker is taken for a run of them, and given back when others wait.
type lane[Out any] struct {
	m        *mapper[Out]
	run      *flight[Out] // under way, or nil
	call     call         // for all of the run
	admitted admission
}

// serve is the lane's goroutine. When code of the caller's ends it, another goes on in its place: nothing that it is in the midst of is lost.
func (l *lane[Out]) serve() {
	ended := false
	defer func() {
		if !ended {
			l.m.work.Go(l.serve)
		}
	}()
	for l.run != nil || l.begin() {
		if l.run != nil {
			l.end(l.run.finish())
		}
	}
	ended = true
}

// begin takes slots and a worker for them; false: there are no more slots. Without a run they have failed.
func (l *lane[Out]) begin() bool {
	m := l.m
	batch := m.take(1, true, nil)
	if len(batch) == 0 {
		return false
	}
	l.call = m.template
	l.call.info.Pool = m.p.cfg.Name
	l.call.id = m.slot(batch[0]).call.id
	var refused *CircuitError
	l.admitted, refused = m.p.sup.breakers.enter(l.call.info.breakerKey())
	if refused != nil {
		m.fail(batch, refused.error())
		return true
	}
	res, err := m.p.acquire(m.ctx, &l.call)
	if err != nil {
		m.fail(batch, err)
		l.end(err)
		return true
	}
	l.run = m.fly(res, batch)
	return true
}

// end tells the command's circuit how the run has ended.
func (l *lane[Out]) end(err *Error) {
	l.run = nil
	l.admitted.end(l.call.evidence(l.m.ctx, &l.m.p.cfg, err), err)
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
		m.apart(func() { m.settle(m.slot(i), err.clone(), now) })
	}
	m.finish(batch, now)
	m.show()
}

// apart runs code that calls CallEnd where nothing may be left undone if that ends its goroutine.
func (m *mapper[Out]) apart(f func()) {
	if m.p.cfg.Observer.CallEnd == nil {
		f()
	} else {
		apart(f)
	}
}

// settle books the item's outcome. The slot is the reader's only when it is done. If CallEnd panics, the work is stopped.
func (m *mapper[Out]) settle(s *mapSlot[Out], err *Error, now time.Time) {
	ended := false
	defer func() {
		if !ended {
			m.failed(recover())
		}
	}()
	s.err = m.p.finish(s.observed, &s.call, err, now)
	ended = true
}

// succeed books an answered item, whose success is counted already: what does not fit the caller's type is another matter.
func (m *mapper[Out]) succeed(s *mapSlot[Out], fr *wire.Frame, now time.Time) {
	decoded, ended := m.troubled.Load(), false
	defer func() {
		if !ended {
			m.failed(recover())
		}
	}()
	defer func() {
		if !decoded {
			m.failed(recover())
		}
		_ = m.p.tell(s.observed, &s.call, nil, now) // also when the unmarshaler has panicked
		ended = true
	}()
	if !decoded {
		s.err = decodeReply(fr.Body, fr.BigInt, &s.out)
		decoded = true
	}
}

// finish hands settled slots to the reader, which is told when there are many, from time to time, and by show.
func (m *mapper[Out]) finish(batch []int, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flying -= len(batch)
	for _, i := range batch {
		s := m.slot(i)
		s.done = true
		m.bytes -= s.call.req.Size()
		m.held += s.size
		if cap(s.call.req.Buf) > mapKept {
			s.call.req.Buf = nil
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
		for !(next < int(m.fed.Load()) && m.slot(next).done) && !(m.ended && next == int(m.fed.Load())) && !(m.overLocked() && m.flying == 0) && m.trouble == nil {
			m.reader.Wait()
		}
		if m.trouble != nil {
			m.mu.Unlock()
			return
		}
		ready := next
		for ready < int(m.fed.Load()) && m.slot(ready).done {
			ready++
		}
		m.mu.Unlock()
		if ready == next { // the end of the items, or of ctx
			if m.ctx.Err() != nil {
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

// settleSlots books the items that were fed and never served.
func (m *mapper[Out]) settleSlots(from, to int) {
	for i := from; i < to; i++ {
		if s := m.slot(i); !s.done {
			m.apart(func() {
				m.settle(s, newError(TypeCanceled, NotExecuted, "the loop over the results had ended", m.ctx.Err()), time.Now())
			})
		}
	}
}
