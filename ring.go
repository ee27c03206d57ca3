package pypool

import (
	"context"
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	mapBlock    = 64      // slots, with a bit each in one word
	mapBlocks   = 96      // mapBlock*mapBlocks items at most lie between those fed and yielded last
	mapBytes    = 8 << 20 // of requests not answered, and of results not yielded, about
	mapPublish  = 128     // items between two looks of the feeder for room
	mapCrowd    = 128     // from so many items under way, or done, on, wake-ups are batched
	mapWindow   = 2048    // requests outstanding on one worker; on all half of the ring at most
	mapPatience = 4       // times of mapCoalesce, before one takes what there is, or is woken
	mapTrickle  = 8       // items that came before a lane was awake: more follow at once

	mapTarget   = 4 * time.Millisecond   // of a worker's time: so much is kept before it
	mapCoalesce = 200 * time.Microsecond // for items or answers to come together: some wake-ups' worth
)

// ring is the order in which a Map's slots go round: the feeder fills them, lanes take and settle
// them, the reader yields them.
//
//	yielded ≤ taken ≤ fed ≤ yielded + mapBlock*mapBlocks
//
// One item, and what is under way, may exceed mapBytes. Between yielded and taken a slot is a
// lane's (outstanding), done, or to be served again. One mutex guards it. It is taken for many
// slots at a time: what changes with each slot, fed and done, is atomic.
//
// A lane is idle (it waits), looking (for the first slots of its run, and for a worker) or serving.
// There are as many lookers as what is there gives windows to. One is woken for each that lacks,
// and none for what others are about to take.
type ring struct {
	ctx    context.Context
	lanes  int                      // among which half of the ring is shared out
	batch  int                      // slots that a worker serves together; 1: each is served alone
	fed    atomic.Int64             // slots filled
	done   [mapBlocks]atomic.Uint64 // a bit for each slot that is settled and not yielded
	wakeAt atomic.Int64             // the feeder wakes a lane when so many are fed
	halted atomic.Bool              // the work is over
	reads  atomic.Bool              // the reader waits

	mu          sync.Mutex // guards the fields below
	idle        sync.Cond  // lanes
	feeder      sync.Cond
	reader      sync.Cond
	idlers      int
	called      int // of those that were idle, and have not noticed yet
	lookers     int
	taken       int           // slots handed to lanes
	again       []int         // slots to be handed to another lane
	yielded     int           // slots given back by the reader
	outstanding int           // slots that lanes hold
	bytes       int           // of the requests in slots fed and not done
	held        int           // of the results in slots done and not yielded
	perItem     time.Duration // a worker's time for one item, smoothed; 0: not known
	shown       time.Time     // when the reader was last told of slots that are done
	show        bool          // the reader is to have what there is
	blocked     bool          // the feeder waits for room
	ended       bool          // the feeder is done
	aborted     bool          // nothing more is yielded
	left        int           // slots fed when Map left the feeder to itself; -1: it has not
}

func (r *ring) init(ctx context.Context, lanes int) {
	r.ctx, r.lanes, r.batch, r.left = ctx, lanes, 1, -1
	r.idle.L, r.feeder.L, r.reader.L = &r.mu, &r.mu, &r.mu
	r.wakeAt.Store(math.MaxInt64)
}

// update makes one change of what mu guards, and wakes whom it concerns. No slot is touched under
// mu, and but for requeue nothing allocated: sixteen lanes waited 100 ns an item for a small slice.
func (r *ring) update(change func()) {
	r.mu.Lock()
	defer r.unlock()
	change()
}

// unlock ends a change. To wake somebody may take a system call: not with the lock held.
func (r *ring) unlock() {
	calls := r.callLocked()
	feeder := r.blocked && (r.over() || r.roomLocked())
	reader := r.reads.Load() && (r.readerEndsLocked() || r.show && r.isDone(r.yielded))
	r.mu.Unlock()
	for range calls {
		r.idle.Signal()
	}
	if feeder {
		r.feeder.Signal()
	}
	if reader {
		r.reader.Signal()
	}
}

// callLocked makes lookers of as many idle lanes as are needed, or of all when the work is over,
// and says how many.
func (r *ring) callLocked() (calls int) {
	for r.idlers > 0 {
		wakeAt := math.MaxInt64
		if r.held < mapBytes { // else the reader makes room
			wakeAt = r.taken - len(r.again) + r.lookers*r.windowLocked() + 1
		}
		r.wakeAt.Store(int64(wakeAt)) // first: the feeder feeds, and then looks here
		if r.lookers >= r.lookersNeededLocked() && !r.over() && !r.exhaustedLocked() {
			return calls
		}
		r.idlers--
		r.lookers++
		r.called++
		calls++
	}
	r.wakeAt.Store(math.MaxInt64)
	return calls
}

// share is a lane's of half of the ring.
func (r *ring) share() int { return max(mapBlock*mapBlocks/2/r.lanes, 1) }

// windowLocked is how many requests to keep outstanding on one worker, so that it always has
// mapTarget's work before it: whole batches.
func (r *ring) windowLocked() int {
	if r.perItem <= 0 {
		return r.batch
	}
	return roundUp(min(max(int(mapTarget/r.perItem), 1), mapWindow, r.share()), r.batch)
}

// roundUp is the least multiple of unit that is no less than n.
func roundUp(n, unit int) int { return (n + unit - 1) / unit * unit }

// --- conditions ----------------------------------------------------------------------------------

func (r *ring) over() bool { return r.halted.Load() || r.ctx.Err() != nil }

// exhaustedLocked: all is fed, and settled.
func (r *ring) exhaustedLocked() bool {
	return r.ended && r.outstanding == 0 && len(r.again) == 0 && r.taken == int(r.fed.Load())
}

// availableLocked is the number of slots that can be taken. Those that were refused when they were
// fed count, until a lane has seen them.
func (r *ring) availableLocked() int {
	n := len(r.again)
	if r.held < mapBytes {
		n += int(r.fed.Load()) - r.taken
	}
	return n
}

func (r *ring) lookersNeededLocked() int {
	window := r.windowLocked()
	return (r.availableLocked() + window - 1) / window
}

// tricklesLocked: what is there is little work, and the feeder is about to bring more.
func (r *ring) tricklesLocked() bool {
	n := r.availableLocked()
	little := n < r.windowLocked() && time.Duration(n)*r.perItem < mapCoalesce
	return mapTrickle <= n && little && !r.ended && !r.blocked && len(r.again) == 0
}

func (r *ring) fullLocked() bool {
	return int(r.fed.Load())-r.yielded > mapBlock*mapBlocks-mapPublish || r.bytes >= mapBytes
}

// roomLocked: a feeder that had to wait may go on. It is woken for many items at once.
func (r *ring) roomLocked() bool {
	return int(r.fed.Load())-r.yielded <= mapBlock*mapBlocks*3/4 && r.bytes <= mapBytes*3/4
}

// readerEndsLocked: no slot will be done any more. At ctx's end the lanes still settle what they
// hold, and that is waited for.
func (r *ring) readerEndsLocked() bool {
	return r.aborted || r.ended && r.yielded == int(r.fed.Load()) || r.over() && r.outstanding == 0
}

// --- the feeder ----------------------------------------------------------------------------------

// feed says that so many slots are filled. From here on the last one is not the feeder's. One that
// was refused is marked done before.
func (r *ring) feed(next int) {
	refused := r.isMarked(next - 1)
	r.fed.Store(int64(next))
	if int64(next) >= r.wakeAt.Load() {
		r.update(func() {})
	}
	if refused {
		r.showDone()
	}
}

// waitForRoom adds what the requests fed since have in bytes, and waits while the ring is full.
func (r *ring) waitForRoom(bytes int) {
	r.mu.Lock()
	defer r.unlock()
	if r.bytes += bytes; !r.fullLocked() {
		return
	}
	for r.blocked = true; !r.over() && !r.roomLocked(); {
		r.feeder.Wait()
	}
	r.blocked = false
}

// endFeed is the feeder's end. It returns how many slots were fed when it was left to itself, -1 if
// it was not.
func (r *ring) endFeed(next, bytes int) (left int) {
	r.update(func() {
		r.fed.Store(int64(next))
		r.bytes += bytes
		r.ended = true
		left = r.left
	})
	return left
}

// --- the lanes -----------------------------------------------------------------------------------

// await waits for the first slot of a run; none: the work is over. The lane is looking until it
// says looked.
func (r *ring) await() (slots []int) { return r.slots(r.first(), nil) }

func (r *ring) first() (first run) {
	r.mu.Lock()
	defer r.unlock()
	r.lookers++
	for waited, seen := 0, -1; !r.over() && !r.exhaustedLocked(); {
		switch fed := int(r.fed.Load()); {
		case r.lookersNeededLocked() < r.lookers:
			r.idleLocked()
			waited, seen = 0, -1
		case waited < mapPatience && fed > seen && r.tricklesLocked():
			waited, seen = waited+1, fed
			r.mu.Unlock()
			time.Sleep(mapCoalesce)
			r.mu.Lock()
		default:
			if first = r.takeLocked(1); first.n > 0 {
				return first
			}
		}
	}
	r.lookers--
	return run{} // the last look may have found slots that were refused, which are the reader's
}

// idleLocked turns a looking lane idle, until it is called to look again.
func (r *ring) idleLocked() {
	r.lookers--
	r.idlers++
	for range r.callLocked() {
		r.idle.Signal()
	}
	for r.called == 0 {
		r.idle.Wait()
	}
	r.called--
}

// looked ends what await has begun: the lane has failed, or serves now, and has its share.
func (r *ring) looked(share bool, slots []int) []int {
	var rest run
	r.update(func() {
		r.lookers--
		switch {
		case r.over():
		case share:
			rest = r.takeLocked(r.windowLocked() - len(slots))
		case len(slots) > 0:
			rest = r.takeLocked(r.batch - len(slots))
		}
	})
	return r.slots(rest, slots)
}

// more returns slots for a lane that serves, and has some: up to a window with them, in whole
// batches. What trickles is left to come together for one that looks.
func (r *ring) more(has int, into []int) []int {
	var rest run
	r.update(func() {
		if !r.over() && !(r.lookers > 0 && r.tricklesLocked()) {
			rest = r.takeLocked(r.windowLocked() - roundUp(has, r.batch))
		}
	})
	return r.slots(rest, into)
}

// run is n slots for one lane: some again, and those from from to to that were not refused.
type run struct {
	again       []int
	from, to, n int
}

func (r *ring) takeLocked(n int) (t run) {
	n = max(n, 0)
	again := min(n, len(r.again))
	t.again, r.again = r.again[:again:again], r.again[again:]
	r.taken = r.doneFrom(r.taken)
	t.from, t.to = r.taken, r.taken
	if r.held < mapBytes {
		t.to = min(r.taken+n-again, int(r.fed.Load()))
	}
	t.n = again + t.to - t.from - r.countMarked(t.from, t.to)
	r.taken = t.to
	r.outstanding += t.n
	return t
}

// slots appends the slots of a run. Those that were refused stay marked: none is yielded before the
// first of the run.
func (r *ring) slots(t run, into []int) []int {
	into = append(into, t.again...)
	for i := t.from; i < t.to; i++ {
		if !r.isMarked(i) {
			into = append(into, i)
		}
	}
	return into
}

// batch is what a lane hands back.
type batch struct {
	slots    []int
	requests int           // bytes
	results  int           // bytes
	each     time.Duration // a worker's time for one of them; 0: none has served them
	now      time.Time
}

// commit hands settled slots to the reader, which is told when there are many, from time to time,
// and by showDone. It returns a worker's time for an item, smoothed, and how many it should have
// outstanding.
func (r *ring) commit(b batch) (perItem time.Duration, window int) {
	r.markDone(b.slots) // from here on they are not the lane's
	r.update(func() {
		r.outstanding -= len(b.slots)
		r.bytes -= b.requests
		r.held += b.results
		if b.each > 0 {
			r.perItem = max(r.perItem+(b.each-r.perItem)/4, 1)
		}
		perItem, window = r.perItem, r.windowLocked()
		if r.taken-r.outstanding-len(r.again)-r.yielded >= mapCrowd || b.now.Sub(r.shown) > mapTarget {
			r.shown, r.show = b.now, true
		}
	})
	return perItem, window
}

// requeue hands slots back that provably did not begin: they are the first to be taken again.
func (r *ring) requeue(slots []int) {
	r.update(func() {
		r.again = append(slots, r.again...)
		r.outstanding -= len(slots)
	})
}

// showDone lets the reader have what there is: a lane is about to wait.
func (r *ring) showDone() {
	if r.reads.Load() { // else it looks before it waits
		r.update(func() { r.show = true })
	}
}

// --- the reader ----------------------------------------------------------------------------------

// next gives the slots below from back to the feeder, with so many bytes of results, and waits
// until there are more that are done: those below to. There are none at the end.
func (r *ring) next(from, freed int) (to int) {
	r.update(func() {
		r.clearDone(r.yielded, from)
		r.yielded = from
		r.taken = max(r.taken, from) // those between were refused, and are the feeder's again
		r.held -= freed
	})
	r.mu.Lock()
	defer r.unlock()
	r.show = false
	r.reads.Store(true)
	for !r.isDone(from) && !r.readerEndsLocked() {
		r.reader.Wait()
	}
	r.reads.Store(false)
	if r.aborted {
		return from
	}
	return r.doneFrom(from)
}

// stop ends the work: the loop was left, is over, or ctx has ended.
func (r *ring) stop() {
	r.halted.Store(true)
	r.update(func() {})
}

// abort is stop, and nothing more is yielded.
func (r *ring) abort() {
	r.halted.Store(true)
	r.update(func() { r.aborted = true })
}

// leave leaves the feeder to itself. It returns what is neither yielded nor ever fed by then.
func (r *ring) leave() (from, to int) {
	r.update(func() {
		from, to = r.yielded, int(r.fed.Load())
		r.left = to
	})
	return from, to
}

// --- the bits ------------------------------------------------------------------------------------

func (r *ring) word(slot int) *atomic.Uint64 { return &r.done[slot/mapBlock%len(r.done)] }

func (r *ring) isMarked(slot int) bool { return r.word(slot).Load()>>(slot%mapBlock)&1 == 1 }

func (r *ring) isDone(slot int) bool { return slot < int(r.fed.Load()) && r.isMarked(slot) }

// markDone sets the slots' bits, with one operation for neighbours.
func (r *ring) markDone(slots []int) {
	for len(slots) > 0 {
		first, mask := slots[0], uint64(0)
		for len(slots) > 0 && slots[0]/mapBlock == first/mapBlock {
			mask |= 1 << (slots[0] % mapBlock)
			slots = slots[1:]
		}
		r.word(first).Or(mask)
	}
}

// words calls f with each word that has bits of the slots from from to to, and the mask of these.
func (r *ring) words(from, to int, f func(word *atomic.Uint64, mask uint64)) {
	for from < to {
		n := min(to-from, mapBlock-from%mapBlock)
		f(r.word(from), ^uint64(0)>>(mapBlock-n)<<(from%mapBlock))
		from += n
	}
}

func (r *ring) clearDone(from, to int) {
	r.words(from, to, func(word *atomic.Uint64, mask uint64) { word.And(^mask) })
}

func (r *ring) countMarked(from, to int) (n int) {
	r.words(from, to, func(word *atomic.Uint64, mask uint64) {
		n += bits.OnesCount64(word.Load() & mask)
	})
	return n
}

// doneFrom is the end of the row of done slots that begins at slot.
func (r *ring) doneFrom(slot int) int {
	fed := int(r.fed.Load()) // the one behind may be marked already
	for slot < fed && r.isMarked(slot) {
		slot += bits.TrailingZeros64(^(r.word(slot).Load() >> (slot % mapBlock)))
		if slot%mapBlock != 0 {
			break
		}
	}
	return min(slot, fed)
}
