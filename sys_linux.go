package pypool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setParentDeath has the kernel end the child when the thread that forked it ends, which is why a spawner does that. It guards
// the start: the runtime then ignores SIGIO, and has the kernel kill the whole group when our end of the leash closes.
// SIGKILL would end the worker alone, before that can reach its children.
func setParentDeath(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGIO }

// awaitExit returns when the process has ended; it is left unreaped, which is what true says.
func awaitExit(pid int) bool {
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	return true
}

// spawner starts processes on one thread that lives as long as any of them: the parent death signal is bound to the thread
// that forked (golang/go#27505), and Go ends threads.
type spawner struct {
	jobs chan func()
	done chan struct{}
}

// newSpawner starts the thread. close must follow, after the last process has been reaped.
func newSpawner() *spawner {
	s := &spawner{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	s.jobs <- func() { result <- cmd.Start() }
	return <-result
}

func (s *spawner) close() {
	close(s.jobs)
	<-s.done
}

// sharedPage is memory that a worker's runtime and the host share, also after the worker's death: docs/protocol.md, begun_fd.
type sharedPage struct{ mem []byte }

// Its words. What one side writes in each call has a cache line of its own.
const (
	wordBegun  = 0
	wordWorked = 1
	wordLinger = 8
	wordAlone  = 9
	wordBell   = 10
)

// newSharedPage returns the page and the file to hand to the child; nil when the kernel has no memfd.
func newSharedPage() (*sharedPage, *os.File) {
	fd, err := unix.MemfdCreate("pypool-begun", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil
	}
	file := os.NewFile(uintptr(fd), "pypool-begun")
	size := os.Getpagesize()
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		file.Close()
		return nil, nil
	}
	mem, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		file.Close()
		return nil, nil
	}
	return &sharedPage{mem}, file
}

func (p *sharedPage) word(i int) *uint64 { return (*uint64)(unsafe.Pointer(&p.mem[8*i])) }

func (p *sharedPage) begun() uint64 { return atomic.LoadUint64(p.word(wordBegun)) }

func (p *sharedPage) worked() time.Duration {
	return time.Duration(atomic.LoadUint64(p.word(wordWorked)))
}

func (p *sharedPage) linger(d time.Duration, alone bool) {
	p.tell(wordLinger, uint64(d))
	var flag uint64
	if alone {
		flag = 1
	}
	p.tell(wordAlone, flag)
}

// ring tells a worker that its next request is about to be there, if it listens: while calls run one at a time.
func (p *sharedPage) ring() {
	if atomic.LoadUint64(p.word(wordAlone)) != 0 {
		atomic.AddUint64(p.word(wordBell), 1)
	}
}

// tell stores what the word does not hold yet: a store would take the line from the worker's cache.
func (p *sharedPage) tell(i int, value uint64) {
	if w := p.word(i); atomic.LoadUint64(w) != value {
		atomic.StoreUint64(w, value)
	}
}

func (p *sharedPage) close() { _ = unix.Munmap(p.mem) }

// isEnding reports whether the kernel is taking the process down: flags, the seventh field behind the name, has PF_EXITING. The pid must not be reaped.
func isEnding(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	const exiting = 0x4
	var flags uint
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 7 {
		return false
	}
	_, err = fmt.Sscan(fields[6], &flags)
	return err == nil && flags&exiting != 0
}

// giveWay lets another thread that waits for this processor have it. Go's scheduler need not know: it might give what this thread
// has to another, and to get that back takes longer.
func giveWay() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// residentBytes reads a process's resident memory; 0 when it is gone.
func residentBytes(pid int) int64 {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}
