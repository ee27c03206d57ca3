package metrics

import (
	"sync/atomic"
	"time"
)

// RateSlots is how many slots a window has: by one of them it moves.
const RateSlots = 20

// Rate counts calls and failures over a sliding window, in slots. Two callers that meet at a slot's
// first use may lose a count: it is a rate, not an account. Init must come before the rest, which
// is safe for concurrent use.
type Rate struct {
	width time.Duration
	slots [RateSlots]struct{ epoch, calls, failures atomic.Int64 }
}

// Init sets the width of the window, at least 20 ms.
func (w *Rate) Init(window time.Duration) {
	w.width = max(window/RateSlots, time.Millisecond)
	for i := range w.slots {
		w.slots[i].epoch.Store(-1)
	}
}

// Add counts n calls that ended at now, a time since the window began.
func (w *Rate) Add(n int64, now time.Duration, failed bool) {
	epoch := int64(now / w.width)
	slot := &w.slots[epoch%RateSlots]
	if old := slot.epoch.Load(); old != epoch && slot.epoch.CompareAndSwap(old, epoch) {
		slot.calls.Store(0)
		slot.failures.Store(0)
	}
	slot.calls.Add(n)
	if failed {
		slot.failures.Add(n)
	}
}

// Sum returns the calls and the failures of the window that ends at now.
func (w *Rate) Sum(now time.Duration) (calls, failures int64) {
	epoch := int64(now / w.width)
	for i := range w.slots {
		if slot := &w.slots[i]; slot.epoch.Load() > epoch-RateSlots {
			calls += slot.calls.Load()
			failures += slot.failures.Load()
		}
	}
	return calls, failures
}
