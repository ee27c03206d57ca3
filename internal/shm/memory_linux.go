package shm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Memory is what payloads travel by, in two halves behind the page: the host alone writes the first,
// and the worker alone the second. Its pages come about when they are written to. Its methods are
// safe for concurrent use.
//
// Whoever writes finds a place and names it to the other side, on the pipe. That side lets go of it
// by changing the place's word, when nothing of it refers to the place any more. Only the writer
// allocates, so that nobody can have a place twice; what a worker does to its words and to the
// memory is to its own payloads.
type Memory struct {
	page    *Page
	in, out []byte // what the worker gets, and what it gives

	mu      sync.Mutex // guards the fields below; payloads are copied into place under it
	places  []place    // that the worker has, by offset
	taken   [Slots]bool
	there   int  // bytes of in that have memory
	outs    int  // bytes of out that have had it since then
	written bool // since what nobody has was last given back
	recent  bool // since Rest was last called
	closed  bool
}

// place is a part of in that the worker has.
type place struct {
	slot, at, end int
	seen          uint64 // the slot's word when it was lent: another one says that it is free
}

// Each place begins at a page's begin, which is best for copying, and right for elements of any type.
const placeAlign = 4 << 10

// memoryAt is where the memory begins in the file: a multiple of the pages of all machines.
const memoryAt = 64 << 10

// fileSize is that of the page with so many bytes of memory in each half. It is less where a file may
// not be so large: the signal of that would end the host.
func fileSize(half int) int {
	size := memoryAt + 2*half
	var limit unix.Rlimit
	if half <= 0 || unix.Getrlimit(unix.RLIMIT_FSIZE, &limit) != nil || limit.Cur < uint64(size) {
		return os.Getpagesize()
	}
	return size
}

func newMemory(p *Page) *Memory {
	if len(p.mem) <= memoryAt {
		return nil
	}
	half := (len(p.mem) - memoryAt) / 2
	return &Memory{page: p, in: p.mem[memoryAt : memoryAt+half], out: p.mem[memoryAt+half:]}
}

// Lend copies data, and what more follows it, to where the worker can read it. False: there is no
// room, or no memory for it.
func (m *Memory) Lend(data []byte, more ...[]byte) (slot, at int, ok bool) {
	total := len(data)
	for _, piece := range more {
		total += len(piece)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || total > len(m.in) {
		return 0, 0, false
	}
	m.collectLocked()
	slot = slices.Index(m.taken[:], false)
	if slot < 0 {
		return 0, 0, false
	}
	size := (total + placeAlign - 1) &^ (placeAlign - 1)
	i := 0
	for ; i < len(m.places) && m.places[i].at-at < size; i++ {
		at = m.places[i].end
	}
	end := at + size
	if end > len(m.in) {
		return 0, 0, false
	}
	m.written, m.recent = true, true
	if end > m.there {
		if !populate(m.in[m.there:end]) {
			return 0, 0, false
		}
		m.there = end
	}
	if !unfaulted(func() {
		to := m.in[at:]
		to = to[copy(to, data):]
		for _, piece := range more {
			to = to[copy(to, piece):]
		}
	}) {
		m.there = 0
		return 0, 0, false
	}
	m.taken[slot] = true
	m.places = slices.Insert(m.places, i, place{slot, at, end, m.page.load(lentWords + slot)})
	return slot, at, true
}

// collectLocked takes back what the worker has let go of.
func (m *Memory) collectLocked() {
	m.dropLocked(func(p place) bool { return m.page.load(lentWords+p.slot) != p.seen })
}

// dropLocked takes back the places that are free.
func (m *Memory) dropLocked(free func(place) bool) {
	m.places = slices.DeleteFunc(m.places, func(p place) bool {
		drop := free(p)
		if drop {
			m.taken[p.slot] = false
		}
		return drop
	})
}

// TakeBack takes back what was lent in the slots, of which the worker has not been told.
func (m *Memory) TakeBack(slots []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dropLocked(func(p place) bool { return slices.Contains(slots, p.slot) })
}

// Take copies what the worker has put at a place, and tells it that this was done.
func (m *Memory) Take(slot, at, size int) (data []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, os.ErrClosed
	}
	if slot < 0 || slot >= Slots || at < 0 || size < 0 || at > len(m.out) || size > len(m.out)-at {
		return nil, fmt.Errorf("a payload of %d bytes at %d, in slot %d, of %d bytes of memory and %d slots", size, at, slot, len(m.out), Slots)
	}
	m.written, m.recent = true, true
	m.outs = max(m.outs, at+size)
	if !unfaulted(func() { data = bytes.Clone(m.out[at : at+size]) }) {
		return nil, errors.New("a payload in memory that is not there")
	}
	m.page.add(tookWords + slot)
	return data, nil
}

// Lent is how many places the worker has, and how many bytes there are in them.
func (m *Memory) Lent() (places, size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, 0
	}
	m.collectLocked()
	for _, p := range m.places {
		size += p.end - p.at
	}
	return len(m.places), size
}

// Size is how many bytes there are of it at most: of the file, and so in the worker.
func (m *Memory) Size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.there + m.outs
}

// Rest gives the memory back that nobody has, unless some was written since it was called last. The
// worker must be idle: it has no payload on its way then.
func (m *Memory) Rest() {
	m.mu.Lock()
	defer m.mu.Unlock()
	recent := m.recent
	m.recent = false
	if m.closed || recent || !m.written {
		return
	}
	m.collectLocked()
	free := 0
	for _, p := range m.places {
		giveBack(m.in[free:p.at])
		free = p.end
	}
	giveBack(m.in[free:])
	giveBack(m.out)
	m.there, m.outs, m.written = 0, 0, false
	m.page.add(emptied)
}

func (m *Memory) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
}

func giveBack(part []byte) {
	if len(part) > 0 {
		_ = unix.Madvise(part, unix.MADV_REMOVE)
	}
}

// populate has the kernel find memory for a part, so that the want of it is an error: a write would
// be answered with SIGBUS. Before Linux 5.14 that is left to unfaulted.
func populate(part []byte) bool {
	err := unix.Madvise(part, unix.MADV_POPULATE_WRITE)
	return err == nil || err == unix.EINVAL
}

// unfaulted runs f, and reports whether the memory that it touches was there: whoever has the file
// can punch holes into it, and there may be no memory to fill them.
func unfaulted(f func()) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if trouble := recover(); trouble != nil {
			if _, fault := trouble.(interface{ Addr() uintptr }); !fault {
				panic(trouble)
			}
			ok = false
		}
	}()
	f()
	return true
}
