package pypool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ringWorld lets a feeder, lanes and a reader go round a ring, each at its own random pace, and
// watches over each slot. A bubble sees when nothing moves any more.
type ringWorld struct {
	t       *testing.T
	ring    ring
	seed    uint64
	items   int
	lanes   int
	service time.Duration // for an item
	size    int           // of an item, and of its result
	stopAt  int           // items, then the loop is left; 0: it is not

	mu      sync.Mutex // guards the fields below
	state   map[int]string
	reads   int
	highest int // slots between the one fed last and the one yielded last
}

// pass moves a slot from one state to the next.
func (w *ringWorld) pass(slot int, from, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state[slot] != from {
		w.t.Errorf("slot %d becomes %q, but was %q and not %q", slot, to, w.state[slot], from)
	}
	w.state[slot] = to
	switch to {
	case "yielded":
		if slot != w.reads {
			w.t.Errorf("slot %d is yielded, and %d should be", slot, w.reads)
		}
		w.reads++
	case "fed", "refused":
		w.highest = max(w.highest, slot+1-w.reads)
	}
}

func (w *ringWorld) random(who int) *rand.Rand { return rand.New(rand.NewPCG(w.seed, uint64(who))) }

// dawdle lets the others go ahead, for a time that is often none.
func dawdle(r *rand.Rand) {
	if r.IntN(20) == 0 {
		time.Sleep(time.Duration(r.IntN(1000)) * time.Microsecond)
	}
}

func (w *ringWorld) feed() {
	r, bytes, next := w.random(0), 0, 0
	for ; next < w.items && !w.ring.over(); next++ {
		dawdle(r)
		if r.IntN(10) == 0 {
			w.pass(next, "", "refused")
			w.ring.markDone([]int{next})
			dawdle(r)
		} else {
			w.pass(next, "", "fed")
			bytes += w.size
		}
		w.ring.feed(next + 1)
		if (next+1)%mapPublish == 0 || bytes >= mapBytes/16 {
			w.ring.waitForRoom(bytes)
			bytes = 0
		}
	}
	w.ring.endFeed(next, bytes)
}

func (w *ringWorld) lane(who int) {
	r := w.random(who)
	for {
		slots := w.ring.await()
		if len(slots) == 0 {
			return
		}
		dawdle(r)
		slots = w.ring.looked(r.IntN(10) > 0, slots)
		for _, i := range slots {
			w.pass(i, "fed", "taken")
		}
		for len(slots) > 0 {
			if r.IntN(30) == 0 { // the worker has died
				for _, i := range slots {
					w.pass(i, "taken", "fed")
				}
				w.ring.requeue(append([]int(nil), slots...))
				break
			}
			n := 1 + r.IntN(len(slots))
			time.Sleep(time.Duration(n) * w.service)
			for _, i := range slots[:n] {
				w.pass(i, "taken", "done")
			}
			w.ring.commit(batch{
				slots: slots[:n], requests: n * w.size, results: n * w.size,
				each: max(w.service, 1), now: time.Now(),
			})
			slots = slots[n:]
			had := len(slots)
			if r.IntN(2) == 0 {
				slots = w.ring.more(had, slots)
			}
			for _, i := range slots[had:] {
				w.pass(i, "fed", "taken")
			}
			if r.IntN(2) == 0 {
				w.ring.showDone()
			}
		}
		w.ring.showDone()
	}
}

// read returns how many slots it was given.
func (w *ringWorld) read() (next int) {
	r := w.random(-1)
	for freed := 0; ; {
		ready := w.ring.next(next, freed)
		if freed = 0; ready == next {
			return next
		}
		for ; next < ready; next++ {
			dawdle(r)
			w.mu.Lock()
			was := w.state[next]
			w.mu.Unlock()
			if was == "done" {
				freed += w.size
			} else if was != "refused" {
				w.t.Errorf("slot %d is yielded, and was %q", next, was)
			}
			w.pass(next, was, "yielded")
			if w.stopAt > 0 && next >= w.stopAt {
				return next + 1
			}
		}
	}
}

func (w *ringWorld) run(ctx context.Context) (yielded int) {
	w.state = map[int]string{}
	w.ring.init(ctx, w.lanes)
	defer context.AfterFunc(ctx, w.ring.stop)()
	var work sync.WaitGroup
	work.Go(w.feed)
	for i := range w.lanes {
		work.Go(func() { w.lane(1 + i) })
	}
	yielded = w.read()
	w.ring.stop()
	work.Wait()
	return yielded
}

// TestRingKeepsOrderBoundsAndProgress: each slot is served by one lane at a time and yielded once,
// in order, whatever is refused, requeued or slow; and nobody waits for ever.
func TestRingKeepsOrderBoundsAndProgress(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 99))
				w := &ringWorld{
					t: t, seed: seed, items: r.IntN(3 * mapBlock * mapBlocks), lanes: 1 + r.IntN(20),
					service: []time.Duration{0, time.Microsecond, time.Millisecond}[r.IntN(3)],
					size:    []int{10, mapBytes / 100}[r.IntN(2)],
				}
				if w.service == time.Millisecond {
					w.items /= 8
				}
				yielded := w.run(t.Context())
				require.Equal(t, w.items, yielded)
				require.LessOrEqual(t, w.highest, mapBlock*mapBlocks)
				require.Zero(t, w.ring.outstanding)
				require.Zero(t, w.ring.bytes)
				require.LessOrEqual(t, w.ring.held, w.items*w.size)
				require.Empty(t, w.ring.again)
				require.Zero(t, w.ring.lookers+w.ring.idlers+w.ring.called)
			})
		})
	}
}

// TestRingEndsWithItsLoopAndItsContext: whoever waits is told, and what lanes hold is settled or
// handed back.
func TestRingEndsWithItsLoopAndItsContext(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 98))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w := &ringWorld{
					t: t, seed: seed, items: 1 << 30, lanes: 1 + r.IntN(20),
					service: time.Duration(r.IntN(100)) * time.Microsecond, size: 10,
				}
				if seed%2 == 0 {
					w.stopAt = 1 + r.IntN(10_000)
					require.Equal(t, w.stopAt+1, w.run(ctx))
				} else {
					time.AfterFunc(time.Duration(r.IntN(20_000))*time.Microsecond, cancel)
					w.run(ctx)
				}
				require.Zero(t, w.ring.outstanding)
				require.Zero(t, w.ring.lookers+w.ring.idlers+w.ring.called)
			})
		})
	}
}

// TestRingCallsAsManyLanesAsThereIsWorkFor: one for each window of items, however many are idle.
func TestRingCallsAsManyLanesAsThereIsWorkFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lanes = 16
		var r ring
		r.init(t.Context(), lanes)
		r.perItem = 50 * time.Microsecond
		window := r.windowLocked()
		require.Equal(t, 80, window)
		awake := make(chan []int, lanes)
		var work sync.WaitGroup
		for range lanes {
			work.Go(func() { awake <- r.await() })
		}
		synctest.Wait()
		fed := 0
		feed := func(n int) {
			for range n {
				fed++
				r.feed(fed)
			}
			synctest.Wait()
		}
		feed(1)
		assert.Len(t, awake, 1, "one item")
		feed(window)
		assert.Len(t, awake, 1, "the first lane is about to take a window")
		feed(1)
		assert.Len(t, awake, 2)
		assert.Len(t, r.looked(true, <-awake), window)
		assert.Equal(t, 2, len(awake)+1)
		r.stop()
		work.Wait()
	})
}

// TestRingLetsWhatTricklesComeTogether: items that come faster than a lane is awake are taken many
// at a time, and one that comes alone at once.
func TestRingLetsWhatTricklesComeTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r ring
		r.init(t.Context(), 4)
		r.perItem = time.Microsecond
		var work sync.WaitGroup
		var mu sync.Mutex
		var runs []int // guarded by mu
		for range 4 {
			work.Go(func() {
				for slots := r.await(); len(slots) > 0; slots = r.await() {
					slots = r.looked(true, slots)
					mu.Lock()
					runs = append(runs, len(slots))
					mu.Unlock()
					r.commit(batch{slots: slots, each: time.Microsecond, now: time.Now()})
				}
			})
		}
		synctest.Wait()
		r.feed(1)
		synctest.Wait()
		mu.Lock()
		require.Equal(t, []int{1}, runs)
		mu.Unlock()
		for next := 11; next <= 1001; next += 10 {
			r.feed(next) // ten at once: between them no time would pass on the clock, and much on a busy machine
			time.Sleep(10 * time.Microsecond)
		}
		r.endFeed(1001, 0)
		work.Wait()
		require.Len(t, runs, 6, "the first, and one for each mapCoalesce: %v", runs)
	})
}

// TestRingIsBounded: nobody yields, and the feeder stops; results that nobody has yielded stop the
// lanes; what is requeued comes first.
func TestRingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r ring
		r.init(t.Context(), 1)
		fed := 0
		var feeder sync.WaitGroup
		feeder.Go(func() {
			for !r.over() {
				fed++
				r.feed(fed)
				if fed%mapPublish == 0 {
					r.waitForRoom(0)
				}
			}
		})
		synctest.Wait()
		require.Equal(t, mapBlock*mapBlocks, fed)
		r.perItem = mapTarget / 4
		slots := r.looked(true, r.await())
		require.Equal(t, []int{0, 1, 2, 3}, slots)
		r.requeue([]int{2, 3})
		r.requeue([]int{1})
		require.Equal(t, []int{1, 2, 3}, r.more(1, nil))
		r.commit(batch{slots: []int{0}, results: mapBytes})
		require.Empty(t, r.more(0, nil))
		r.requeue([]int{1, 2, 3})
		require.Equal(t, []int{1, 2, 3}, r.more(0, nil), "the reader may wait for them")
		require.Equal(t, 1, r.next(0, 0))
		r.commit(batch{slots: []int{1, 2, 3}})
		require.Equal(t, 4, r.next(1, mapBytes))
		require.Equal(t, []int{4, 5, 6, 7}, r.more(0, nil))
		require.Equal(t, mapBlock*mapBlocks, fed)
		r.stop()
		feeder.Wait()
	})
}

// TestRingBits compares the words with a plain table.
func TestRingBits(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var r ring
		plain := map[int]bool{}
		from := random.IntN(3 * mapBlock * mapBlocks)
		to := from + 2 + random.IntN(200)
		fed := to - random.IntN(3) // what is refused is marked before it is fed
		r.fed.Store(int64(fed))
		var slots []int
		for i := from; i < to; i++ {
			if random.IntN(30) > 0 {
				slots = append(slots, i)
				plain[i] = true
			}
		}
		random.Shuffle(len(slots), func(a, b int) {
			if random.IntN(4) == 0 {
				slots[a], slots[b] = slots[b], slots[a]
			}
		})
		r.markDone(slots)
		row := from
		for row < fed && plain[row] {
			row++
		}
		require.Equal(t, min(row, fed), r.doneFrom(from))
		require.Equal(t, len(slots), r.countMarked(from, to))
		for i := from; i < to; i++ {
			require.Equal(t, plain[i] && i < fed, r.isDone(i))
		}
		r.clearDone(from, to)
		for i := range r.done {
			require.Zero(t, r.done[i].Load())
		}
	}
}

// Slots that are refused when they are fed are no lane's, however a lane's look for work ends.
func TestNoLaneGetsASlotThatWasRefused(t *testing.T) {
	for range 20_000 {
		var r ring
		r.init(t.Context(), 2)
		var work sync.WaitGroup
		for range 2 {
			work.Go(func() {
				if slots := r.await(); len(slots) > 0 {
					t.Errorf("a lane has the slots %v", slots)
				}
			})
		}
		const n = 8
		work.Go(func() {
			for i := range n {
				r.markDone([]int{i})
				r.feed(i + 1)
			}
			r.endFeed(n, 0)
		})
		for at := 0; at < n; {
			at = r.next(at, 0)
		}
		r.next(n, 0)
		r.stop()
		work.Wait()
		if t.Failed() {
			return
		}
	}
}
