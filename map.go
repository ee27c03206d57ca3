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

	"github.com/pypool/pypool/internal/foreign"
	"github.com/pypool/pypool/internal/receive"
	"github.com/pypool/pypool/internal/wire"
)

const (
	mapKept     = 4 << 10  // a request's buffer up to this size waits in its slot for the next item
	mapAttempts = 3        // workers that may die before they begin one and the same item
	mapLine     = 16 << 10 // of many requests in one line; one that is longer has its own
	mapBuffer   = 32 << 10 // for the answers that have come together
)

// Map runs the command once for each item and yields the results in the items' order. The items are
// spread over the pool's workers, with many requests in flight on each worker's pipe; a worker
// still runs them one at a time, in order. An item is a call's args; a scalar item, or a []byte, is
// the one positional argument.
//
// One item's error is its own: it is yielded in the item's place, and the loop goes on. When a
// worker dies, the item it had begun gets the error (MaybeExecuted), and those behind it, which
// provably did not begin, run elsewhere. OperationTimeout is for each item and starts when the
// answer before it was read. Statistics, sessions and the Observer count each item. Over a batch
// command the items are sent in batches, without a wait for company; those of a batch that a worker
// dies in get the error.
//
// Memory is bounded: a slow loop stops the feed. Leaving the loop stops the work: nothing more is
// sent, and what is in flight is awaited for StopGrace, then stopped. The end of ctx stops what is
// in flight, kills what that takes longer for than KillGrace, and is yielded as the last error.
// Other callers get their turn at the workers.
//
// Code of the caller runs on goroutines of the Map's: items, CallStart, TraceParent and the
// marshalers of In on one; CallEnd and the unmarshalers of Out on several at the same time. If it
// panics or calls [runtime.Goexit], the work is stopped as if the loop had been left, and the same
// happens in the loop's goroutine. When the loop ends before items has, items is told so at its
// next yield, and Map waits for it to return: for StopGrace after the loop was left, for KillGrace
// (100 ms at least) after the end of ctx. An iterator that blocks for longer goes on running beside
// what follows the loop, until it yields or returns; what it panics with then is logged.
//
// Over a [Caller] that is no *Pool it makes a call of each item, up to 64 at the same time, on
// goroutines of its own. At the end of ctx, or of the loop, the contexts of those that are under way
// end, and Map waits for them to return.
func Map[Out, In any](ctx context.Context, c Caller, command string, items iter.Seq[In], opts ...CallOption) iter.Seq2[Out, error] {
	p, ok := c.(*Pool)
	if !ok && c != nil {
		return mapCalls[Out](ctx, c, command, items, opts)
	}
	return func(yield func(Out, error) bool) {
		if !p.wasStarted() {
			var zero Out
			yield(zero, neverStarted(CallInfo{Command: command}))
			return
		}
		outer := foreign.Context(ctx)
		ctx, cancel := context.WithCancel(outer)
		defer cancel()
		m := newMapper[Out](ctx, p, command, opts)
		m.outer = outer
		m.taking, m.leave = context.WithCancel(ctx)
		stopWaking := context.AfterFunc(ctx, m.ring.stop)
		defer stopWaking()
		go m.feed(encodeItems(items))
		lanes := p.sup.size()
		if p.nested(ctx) { // those that found no worker would fail their items
			lanes = 1
		}
		for range lanes {
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

// join ends the work. It waits for all of it, but not for ever for the items. It returns the
// trouble that there was.
func (m *mapper[Out]) join(cancel func()) *trouble {
	m.ring.stop()
	m.leave()
	impatient := time.AfterFunc(m.p.cfg.StopGrace, cancel)
	m.work.Wait()
	select {
	case <-m.feederDone:
	case <-m.ctx.Done(): // by its caller, or because StopGrace is over
		receive.Within(m.feederDone, max(m.p.cfg.KillGrace, 100*time.Millisecond))
	}
	impatient.Stop()
	cancel()
	m.settleSlots(m.ring.leave()) // so that the counters add up
	return m.trouble.Swap(returned)
}

// mapper is one Map at work: a feeder fills a ring of slots, lanes (one for each worker of the
// pool) serve them, and the caller's goroutine yields them in order. A slot belongs to the feeder
// until it is fed, then to the lane that took it, then to the reader.
type mapper[Out any] struct {
	p          *Pool
	ctx        context.Context
	outer      context.Context // the caller's, of which ctx is made
	taking     context.Context // of ctx: it ends, by leave, when nothing more is to be sent
	leave      func()
	template   call
	lines      wire.Template
	refused    *Error // what every item gets, because of the options
	ring       ring
	blocks     [mapBlocks]*[mapBlock]mapSlot[Out]
	work       sync.WaitGroup          // the lanes
	feederDone chan struct{}           // the feeder's end
	trouble    atomic.Pointer[trouble] // the first of the caller's code: nothing more is yielded. When Map returns there is some in any case

	entering sync.Mutex    // guards probe; held while a lane asks the command's circuit
	probe    chan struct{} // closed when the lane whose run is the circuit's probe has shown something; nil: none is
}

type mapSlot[Out any] struct {
	call     call
	observed context.Context // what the observer's CallStart returned
	attempts int
	size     int  // of the result
	alone    bool // the request has a key of its own beside the arguments, and so a line of its own
	out      Out
	err      error
}

func newMapper[Out any](ctx context.Context, p *Pool, command string, opts []CallOption) *mapper[Out] {
	m := &mapper[Out]{p: p, ctx: ctx, feederDone: make(chan struct{}), template: call{job: job{info: CallInfo{Command: command}}}}
	m.template.tally = p.counters.of(&m.template.info)
	m.refused = m.template.apply(&p.cfg, opts)
	if m.template.takes = m.template.takes || takesBlobs(reflect.TypeFor[Out]()); m.template.takes {
		m.lines = wire.TakesBlobs(command, m.template.info.Session, m.template.timeout)
	} else {
		m.lines = wire.NewTemplate(command, m.template.info.Session, m.template.timeout)
	}
	if m.refused == nil {
		m.refused = p.refusedCommand(command)
	}
	m.ring.init(ctx, p.sup.size())
	if l := p.sup.checkout.lineupOf(m.template.info.breakerKey()); l != nil {
		m.ring.batch = min(p.sup.checkout.batchSize(l), m.ring.share())
	}
	return m
}

func (m *mapper[Out]) slot(i int) *mapSlot[Out] {
	return &m.blocks[i/mapBlock%mapBlocks][i%mapBlock]
}

// returned is the trouble of a Map that has: what goes wrong from then on is nobody's.
var returned = &trouble{}

// failed stops the work, because code of the caller's has panicked with value (nil: it has called
// runtime.Goexit).
func (m *mapper[Out]) failed(value any) {
	t := &trouble{value}
	m.trouble.CompareAndSwap(nil, t)
	m.ring.abort()
	if m.trouble.Load() == returned { // no loop is there any more to have it
		m.p.reporter.failure("the items of a Map that has returned", t)
	}
}

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
	ended, filling := false, false
	defer func() {
		defer close(m.feederDone)
		if !ended { // the items, their MarshalJSON or CallStart have panicked, or ended this goroutine
			m.failed(recover())
		}
		if filling {
			m.settleBroken(next - 1)
		}
		if left := m.ring.endFeed(next, bytes); left >= 0 {
			m.settleSlots(left, next)
		}
	}()
	for item := range items {
		if m.ring.over() {
			break
		}
		if block := &m.blocks[next/mapBlock%mapBlocks]; *block == nil {
			*block = new([mapBlock]mapSlot[Out])
		}
		i := next
		next++ // first: a panic in fill leaves a slot that counts
		filling = true
		bytes += m.fill(i, item)
		filling = false
		m.ring.feed(next)
		if next%mapPublish == 0 || bytes >= mapBytes/16 {
			m.ring.waitForRoom(bytes)
			bytes = 0
		}
	}
	ended = true // not before: items runs on after the loop's break
}

// settleBroken settles a slot that code of the caller's has left half filled.
func (m *mapper[Out]) settleBroken(i int) {
	if m.ring.isMarked(i) {
		return // it was CallEnd
	}
	m.ring.markDone([]int{i})
	m.apart(func() {
		m.settle(m.slot(i), newError(TypeInternal, NotExecuted, "a function of the caller panicked", nil), time.Now())
	})
}

// fill begins the item's call and encodes it, in so many bytes. One that cannot be sent is done.
func (m *mapper[Out]) fill(i int, item any) (bytes int) {
	s := m.slot(i)
	kept := s.call.req.Buf
	if s.observed == nil { // its first item
		s.call = m.template
	}
	var zero Out
	s.call.worker, s.call.pid, s.call.ran, s.call.trace = "", 0, 0, m.template.trace
	s.out, s.err, s.size, s.alone, s.attempts = zero, nil, 0, false, 0
	s.observed = m.ctx
	m.p.begin(&s.observed, &s.call)
	if err := m.encode(s, kept, item); err != nil {
		m.ring.markDone([]int{i}) // first: CallEnd may panic
		m.settle(s, err, time.Now())
		return 0
	}
	return s.call.req.Size()
}

func (m *mapper[Out]) encode(s *mapSlot[Out], kept []byte, item any) *Error {
	if m.refused != nil {
		return m.refused.clone()
	}
	b := m.lines.Begin(kept)
	var blobs []wire.Blob
	if n, ok := item.(int); ok {
		b = append(strconv.AppendInt(append(b, '['), int64(n), 10), ']')
	} else {
		var err error
		var plain bool
		if b, blobs, plain, err = wire.AppendArgs(b, itemArgs(item)); err != nil {
			return newError(TypeInvalidArguments, NotExecuted, "the arguments cannot be sent: "+err.Error(), err)
		}
		s.alone = !plain
	}
	s.call.req = m.lines.Finish(b, s.call.trace)
	s.call.req.Blobs = blobs
	if err := s.call.checkSize(&m.p.cfg); err != nil {
		s.call.req.Blobs = nil
		return err
	}
	wire.Own(blobs) // whoever yields the item may use its memory again
	return nil
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
	case k >= reflect.Bool && k <= reflect.Float64, k == reflect.String, v.IsValid() && wire.IsOne(v.Type()):
		return [1]any{item}
	}
	return item
}

// --- the lanes ------------------------------------------------------------------------------------------------------

// lane serves slots until there are no more. Its worker is taken for a run of them, and given back
// when others wait.
type lane[Out any] struct {
	m      *mapper[Out]
	run    *pipeline[Out] // under way, or nil
	call   call           // for all of the run
	probes bool           // the run is the probe of the command's circuit
}

// serve is the lane's goroutine. When code of the caller's ends it, another goes on in its place:
// nothing that it is in the midst of is lost.
func (l *lane[Out]) serve() {
	ended := false
	defer func() {
		if !ended {
			l.m.work.Go(l.serve)
		}
	}()
	for l.run != nil || l.begin() {
		if l.run != nil {
			l.end(l.run.serve())
		}
	}
	ended = true
}

// begin takes slots and a worker for them; false: there are no more slots. Without a run they have
// failed.
func (l *lane[Out]) begin() bool {
	m := l.m
	slots := m.ring.await()
	if len(slots) == 0 {
		return false
	}
	l.call = m.template
	l.call.info.Pool = m.p.cfg.Name
	l.call.id = m.slot(slots[0]).call.id
	if err := l.enter(); err != nil {
		m.ring.looked(false, nil)
		m.fail(slots, err)
		return true
	}
	res, err := m.p.acquire(m.taking, &l.call)
	if m.ring.over() && (err == nil || m.outer.Err() == nil) { // since the slots were taken
		if err == nil {
			m.p.sup.release(res)
		}
		err = m.unwanted()
	}
	if err != nil {
		m.ring.looked(false, nil)
		m.fail(slots, err)
		l.end(err)
		return true
	}
	alone := m.p.sup.checkout.waiting.Load() == 0 && !res.Value().leaves() // else one item, or one batch, is its turn
	l.run = l.start(res, m.ring.looked(alone, slots))
	return true
}

// enter asks the command's circuit. While another lane's run is its probe, what that shows is
// waited for: as items of one call after the other they would be served.
func (l *lane[Out]) enter() *Error {
	m, breakers, command := l.m, l.m.p.sup.breakers, l.call.info.breakerKey()
	for !breakers.none() {
		m.entering.Lock()
		probe := m.probe
		var err *Error
		if probe == nil {
			if err = breakers.enter(&l.call, command); err == nil && l.call.admitted.probes() {
				l.probes, m.probe = true, make(chan struct{})
			}
		}
		m.entering.Unlock()
		if probe == nil {
			return err
		}
		select {
		case <-probe:
		case <-m.taking.Done():
			return m.unwanted()
		}
	}
	return breakers.enter(&l.call, command)
}

// answered tells the command's circuit that the run has brought an answer.
func (l *lane[Out]) answered() {
	l.call.admitted.answer()
	l.shown()
}

// shown lets those go on who wait for what the probe shows.
func (l *lane[Out]) shown() {
	if !l.probes {
		return
	}
	l.probes = false
	l.m.entering.Lock()
	defer l.m.entering.Unlock()
	close(l.m.probe)
	l.m.probe = nil
}

// end tells the command's circuit how the run has ended, or what it has cost before: a worker that
// an item has had replaced. Its answers have been told.
func (l *lane[Out]) end(err *Error) {
	shows := noEvidence
	if err != nil {
		shows = l.call.evidence(l.m.ctx, &l.m.p.cfg, err)
	}
	if l.run != nil && l.run.charge != nil && shows != lostWorker {
		shows, err = lostWorker, l.run.charge
	}
	l.run = nil
	l.call.admitted.end(shows, err)
	l.shown()
}

// fail settles slots that cannot be served.
func (m *mapper[Out]) fail(batch []int, err *Error) {
	now := time.Now()
	for _, i := range batch {
		m.apart(func() { m.settle(m.slot(i), err.clone(), now) })
	}
	m.commit(batch, 0, now)
	m.ring.showDone()
}

// apart runs code that calls CallEnd where nothing may be left undone if that ends its goroutine.
func (m *mapper[Out]) apart(f func()) {
	if m.p.cfg.Observer.CallEnd == nil {
		f()
	} else {
		foreign.Apart(f)
	}
}

// settle books the item's outcome. The slot is the reader's only when it is done. If CallEnd
// panics, the work is stopped.
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

// succeed books an answered item, whose success is counted already: what does not fit the caller's
// type is another matter.
func (m *mapper[Out]) succeed(s *mapSlot[Out], fr *wire.Frame, now time.Time) {
	decoded, ended := m.trouble.Load() != nil, false
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
		s.err = decodeReply(reply{raw: fr.Body, bigInt: fr.BigInt, blobs: fr.Blobs}, &s.out, true)
		decoded = true
		if s.err != nil {
			res := s.call.result(reply{}, 0)
			res.info.Call.RequestID = s.call.id
			s.err = res.info.named(s.err)
		}
	}
}

// commit hands settled slots to the reader. A worker has taken so long for each; 0: none has served
// them.
func (m *mapper[Out]) commit(slots []int, each time.Duration, now time.Time) (perItem time.Duration, window int) {
	b := batch{slots: slots, each: each, now: now}
	for _, i := range slots {
		s := m.slot(i)
		b.requests += s.call.req.Size()
		b.results += s.size
		if cap(s.call.req.Buf) > mapKept {
			s.call.req.Buf = nil
		}
		s.call.req.Blobs = nil
	}
	return m.ring.commit(b)
}

// requeue gives slots back that provably did not begin; one that has cost too many workers fails
// with err.
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
	m.ring.requeue(rest)
	m.fail(spent, err)
}

// --- the reader -----------------------------------------------------------------------------------------------------

// deliver yields the slots in order.
func (m *mapper[Out]) deliver(yield func(Out, error) bool) {
	next, freed := 0, 0
	var zero Out
	for {
		ready := m.ring.next(next, freed)
		freed = 0
		if ready == next { // the end of the items, or of ctx, or the trouble
			if m.trouble.Load() == nil && m.ctx.Err() != nil {
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
		if s := m.slot(i); !m.ring.isDone(i) {
			m.apart(func() {
				m.settle(s, m.unwanted(), time.Now())
			})
		}
	}
}

// unwanted is the error of an item that is not to be sent any more.
func (m *mapper[Out]) unwanted() *Error {
	if m.outer.Err() != nil {
		return contextError(m.outer, NotExecuted, nil)
	}
	return newError(TypeCanceled, NotExecuted, "the loop over the results had ended", nil)
}
