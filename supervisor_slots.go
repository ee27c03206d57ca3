package pypool

import "time"

// A slot is a worker's place in the pool: 0 to Size-1, and beyond that for overflow. Which of them
// are to be filled is computed from the workers there are; a replacement inherits its
// predecessor's.

// size is how many workers are to be ready.
func (s *supervisor) size() int { return int(s.target.Load()) }

// occupancy is who has which slot, at one moment.
type occupancy struct {
	filled map[int]bool // somebody serves there and stays, or is being started
	worn   map[int]bool // somebody serves there and is to be replaced
	held   map[int]bool // a process is there, perhaps one on its way out
}

// occupancyLocked looks at all workers.
func (s *supervisor) occupancyLocked(now time.Time) occupancy {
	o := occupancy{map[int]bool{}, map[int]bool{}, map[int]bool{}}
	for slot := range s.building {
		o.filled[slot], o.held[slot] = true, true
	}
	generation := s.generation.Load()
	for w := range s.live {
		if !w.isGivenUp() {
			o.held[w.slot] = true
		}
		switch {
		case !w.isReady():
		case w.worn(generation, now):
			o.worn[w.slot] = true
		default:
			o.filled[w.slot] = true
		}
	}
	return o
}

// arrivedLocked takes in that a worker has become ready in the slot: a fork server may have made it
// of a later generation than its start was begun for.
func (s *supervisor) arrivedLocked(slot int) {
	for w := range s.live {
		if w.slot == slot && w.isReady() {
			s.arrived[slot] = max(s.arrived[slot], w.generation)
		}
	}
}

// allArrivedLocked reports whether each slot below Size has had a worker of the generation, or of a
// later one.
func (s *supervisor) allArrivedLocked(generation int64) bool {
	for slot := range s.size() {
		if s.arrived[slot] < generation {
			return false
		}
	}
	return true
}

// beyond counts the slots from size on in which somebody serves, or is being started.
func (o occupancy) beyond(size int) (n int) {
	for slot := range o.filled {
		if slot >= size {
			n++
		}
	}
	for slot := range o.worn {
		if slot >= size && !o.filled[slot] {
			n++
		}
	}
	return n
}

// vacantLocked lists the slots below Size that nobody serves in, the lowest first. With
// BreakBeforeMake a slot is not vacant while a process has it, whatever that does.
func (s *supervisor) vacantLocked(o occupancy) (slots []int) {
	for slot := range s.size() {
		if o.filled[slot] || o.worn[slot] || s.cfg.BreakBeforeMake && o.held[slot] {
			continue
		}
		slots = append(slots, slot)
	}
	return slots
}

// beyondLocked lists free slots for n more overflow workers, as far as Overflow allows.
func (s *supervisor) beyondLocked(o occupancy, n int) (slots []int) {
	n = min(n, s.cfg.Overflow-o.beyond(s.size()))
	for slot := s.size(); len(slots) < n; slot++ {
		if !o.held[slot] {
			slots = append(slots, slot)
		}
	}
	return slots
}

// wornSlotsLocked lists the slots below Size whose worker is to be replaced, and for whose
// replacement it need not go first.
func (s *supervisor) wornSlotsLocked(o occupancy) (slots []int) {
	if s.cfg.BreakBeforeMake {
		return nil
	}
	for slot := range s.size() {
		if o.worn[slot] && !o.filled[slot] {
			slots = append(slots, slot)
		}
	}
	return slots
}

// replacingLocked counts the starts under way in slots whose worker is to be replaced.
func (s *supervisor) replacingLocked(o occupancy) (n int) {
	for slot := range s.building {
		if o.worn[slot] {
			n++
		}
	}
	return n
}

// retireReplacedLocked lets go of the workers that have a successor, of those beyond Size that are
// no overflow, of worn-out overflow that Size does not need, and, with BreakBeforeMake, of a
// worn-out worker when all others are there, or of one that asks to be replaced when some sound one
// is.
func (s *supervisor) retireReplacedLocked(now time.Time) {
	generation := s.generation.Load()
	ready := s.readyWorkersLocked()
	left := len(ready)
	heirs := map[int]int64{} // by slot, the youngest: it may be worn out itself by now, and is younger all the same
	for _, w := range ready {
		heirs[w.slot] = max(heirs[w.slot], w.seq)
	}
	let := func(w *worker) {
		left--
		w.retired.Store(true) // it ends at its next release, or now when it is idle
		s.lookForDead()
	}
	var worn, broken *worker
	for _, w := range ready {
		switch isWorn := w.worn(generation, now); {
		case w.slot >= s.size() && !w.overflow:
			let(w)
		case heirs[w.slot] > w.seq, isWorn && w.slot >= s.size() && left > s.size():
			s.recycled++
			let(w)
		case !isWorn, w.slot >= s.size():
		default:
			if worn == nil || w.state() == workerIdle { // as a rule one that nobody has to wait for
				worn = w
			}
			if w.retirement.Load() != nil {
				broken = w
			}
		}
	}
	if worn == nil || !s.cfg.BreakBeforeMake || s.brokenLocked() || s.starting > 0 || !s.circuit.closed() && s.soundLocked() > 0 {
		return
	}
	o := s.occupancyLocked(now)
	for slot := range s.size() {
		if !o.filled[slot] && !o.worn[slot] { // one at a time, but for who serves nothing that another can
			if worn = broken; broken == nil || s.soundLocked() == 0 {
				return
			}
		}
	}
	s.recycled++
	let(worn)
}
