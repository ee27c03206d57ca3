package shm

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pypool/pypool/internal/fd"
)

// Page is the host's view of the page. Its methods are safe for concurrent use, also during Close
// and after it: who comes late finds a page that is the host's own, with zeros. It is there until
// nobody has the Page any more.
type Page struct {
	mem    []byte
	memory *Memory
	closed sync.Once
}

const maxServed = 24 * time.Hour // of one request: more is nonsense

// New returns a page and the file to hand to the child; nil when the kernel has no memfd, or does
// not seal it: whoever has the descriptor could take the memory away, and the host would die of
// SIGBUS when it next looks at it. half is how many bytes of Memory there are to be each way; there are
// none where that is refused. The caller closes both.
func New(half int) (*Page, *os.File) {
	if page, file := newPage(fileSize(half)); page != nil {
		return page, file
	}
	return newPage(os.Getpagesize())
}

func newPage(size int) (*Page, *os.File) {
	n, err := unix.MemfdCreate("pypool-page", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil
	}
	if n, err = fd.AboveStderr(n); err != nil {
		return nil, nil
	}
	file := os.NewFile(uintptr(n), "pypool-page")
	if err := unix.Ftruncate(n, int64(size)); err != nil {
		file.Close()
		return nil, nil
	}
	if _, err := unix.FcntlInt(uintptr(n), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		file.Close()
		return nil, nil
	}
	at, err := unix.MmapPtr(n, 0, nil, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		file.Close()
		return nil, nil
	}
	p := &Page{mem: unsafe.Slice((*byte)(at), size)}
	runtime.AddCleanup(p, unmap, p.mem[:os.Getpagesize()])
	p.memory = newMemory(p)
	return p, file
}

func unmap(part []byte) {
	if len(part) > 0 {
		_ = unix.MunmapPtr(unsafe.Pointer(&part[0]), uintptr(len(part)))
	}
}

// Memory is what payloads travel by; nil: there is none.
func (p *Page) Memory() *Memory { return p.memory }

// word is there for as long as the Page is: load, store and add keep it so.
func (p *Page) word(i int) *uint64 { return (*uint64)(unsafe.Pointer(&p.mem[8*i])) }

func (p *Page) load(i int) uint64 {
	value := atomic.LoadUint64(p.word(i))
	runtime.KeepAlive(p)
	return value
}

func (p *Page) add(i int) {
	atomic.AddUint64(p.word(i), 1)
	runtime.KeepAlive(p)
}

// ServiceTime is how long the last request took, as the runtime has stored it, or some code in its
// process: 0 when it cannot be a time. It is stored a moment after the answer, and reading it costs
// the transfer of a cache line.
func (p *Page) ServiceTime() time.Duration {
	ns := p.load(served)
	if ns > uint64(maxServed) {
		return 0
	}
	return time.Duration(ns)
}

// Spin tells the runtime how long to poll for its next request before it sleeps, and whether calls
// run one at a time.
func (p *Page) Spin(d time.Duration, oneAtATime bool) {
	p.tell(spin, uint64(d))
	var flag uint64
	if oneAtATime {
		flag = 1
	}
	p.tell(alone, flag)
}

// Cancel tells the runtime which request is to stop; 0: none. It looks when it is signaled.
func (p *Page) Cancel(id uint64) { p.tell(canceled, id) }

// Shielded reports whether what runs says that it may not be interrupted. Code in the worker may
// say so for ever.
func (p *Page) Shielded() bool { return p.load(shielded) != 0 }

// Retires reports whether the worker says that it asks to be replaced. Code in the worker may say so,
// and take it back.
func (p *Page) Retires() bool { return p.load(retires) != 0 }

// Ring tells a worker that its next request is about to be there, if it listens: while calls run
// one at a time.
func (p *Page) Ring() {
	if p.load(alone) != 0 {
		p.add(doorbell)
	}
}

// tell stores what the word does not hold yet: a store would take the line from the worker's cache.
func (p *Page) tell(i int, value uint64) {
	if w := p.word(i); atomic.LoadUint64(w) != value {
		atomic.StoreUint64(w, value)
	}
	runtime.KeepAlive(p)
}

// Close takes the file out of the host's memory. What asks for the words of a worker that has just
// gone, a timer say, must not end the host: a page of the host's own takes their place, which the
// kernel does in one step.
func (p *Page) Close() {
	p.closed.Do(func() {
		if p.memory != nil {
			p.memory.close()
		}
		n := os.Getpagesize()
		_, _ = unix.MmapPtr(-1, 0, unsafe.Pointer(&p.mem[0]), uintptr(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED)
		unmap(p.mem[n:])
	})
}
