package pypool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
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

func pipeCloexec(ends []int) error { return unix.Pipe2(ends, unix.O_CLOEXEC) }

// childHandle holds on to a process that is no child of ours: a pidfd, which never comes to name another process. The zero value
// names none.
type childHandle struct{ fd, pid int }

// handleOf returns the handle of a process in the group that leader leads; false when it is not in there.
func handleOf(pid, leader int) (childHandle, bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		fd, err = aboveStderr(fd)
	}
	if err != nil {
		fd = -1 // an old kernel, or no descriptor left: there is no way to reach it but with its group
	}
	c := childHandle{fd: fd, pid: pid}
	if !inGroup(pid, leader) {
		c.close()
		return childHandle{}, false
	}
	return c, true
}

func (c childHandle) signal(s syscall.Signal) {
	if c.pid != 0 && c.fd >= 0 {
		_ = unix.PidfdSendSignal(c.fd, s, nil, 0)
	}
}

func (c childHandle) kill()      { c.signal(syscall.SIGKILL) }
func (c childHandle) terminate() { c.signal(syscall.SIGTERM) }

func (c childHandle) close() {
	if c.pid != 0 && c.fd >= 0 {
		_ = unix.Close(c.fd)
	}
}

// stackSignals is how many signals there are for a stack dump.
const stackSignals = 2

// stackSignal is the nth of them: SIGRTMAX-2, which the runtime registers because nobody else is likely to, and SIGUSR1, which programs like to use for
// themselves.
func stackSignal(n int) syscall.Signal { return []syscall.Signal{62, syscall.SIGUSR1}[n] }

// signalStacks asks the interpreter for its stacks by the nth signal. It sends none that the process does not catch: that would end
// it, and all that a slow start has to tell. python is 0 where the process itself is the interpreter, as far as it is known.
func signalStacks(n, leader, python int) (sent bool, why string) {
	s, pid := stackSignal(n), leader
	if python != 0 {
		pid = python
	}
	is, known := signalsOf(pid)
	if known && python == 0 && !is.catches(stackSignal(0)) && !is.catches(s) {
		// A wrapper whose child has not said hello yet?
		for _, member := range groupMembers(leader) {
			if state, ok := signalsOf(member); ok && state.catches(stackSignal(0)) && state.catches(s) {
				pid, is = member, state
			}
		}
	}
	switch {
	case !known:
	case is.state == 'Z', is.state == 'X':
		return false, "the process has ended"
	case !is.catches(s):
		if is.ignored&(1<<(s-1)) != 0 {
			return false, "code in the worker ignores the signals for a stack dump"
		}
		return false, "Python does not listen for a stack dump: it has not started yet, or code in the worker has reset its signals"
	}
	_ = syscall.Kill(pid, s)
	_ = syscall.Kill(pid, syscall.SIGCONT) // one that is stopped would not hear it
	switch is.state {
	case 'D':
		return true, "the process sleeps in the kernel and does not listen"
	case 't':
		return true, "a debugger has stopped the process"
	}
	return true, "code in the worker has taken or blocked the signals for a stack dump, or the process did not run in time"
}

// signals is a process's state letter and what it does with signals, by bits.
type signals struct {
	state           byte
	ignored, caught uint64
}

func (s signals) catches(sig syscall.Signal) bool { return s.caught&(1<<(sig-1)) != 0 }

func signalsOf(pid int) (s signals, ok bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return s, false
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "State":
			s.state = value[0]
		case "SigIgn":
			s.ignored, _ = strconv.ParseUint(value, 16, 64)
		case "SigCgt":
			s.caught, err = strconv.ParseUint(value, 16, 64)
			ok = err == nil
		}
	}
	return s, ok
}

// reapGroup reaps what is left of a group that has been killed, should its orphans have become ours: when this process is PID 1, as in
// a container without an init, or a subreaper. The leader itself must not be reaped yet: nobody else gets the group's number until then.
// It waits for those that are still dying, but not for long: one may be stuck in the kernel.
func reapGroup(leader int) {
	if !adoptsOrphans() {
		return
	}
	for wait, end := 100*time.Microsecond, time.Now().Add(reapOrphans); ; wait = min(2*wait, 20*time.Millisecond) {
		dying := false
		for _, p := range processes() {
			switch {
			case p.group != leader || p.pid == leader:
			case p.state == 'Z' && p.parent == os.Getpid():
				_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
			default:
				dying = true
			}
		}
		if !dying || time.Now().After(end) {
			return
		}
		time.Sleep(wait)
	}
}

const reapOrphans = 500 * time.Millisecond

// adoptsOrphans reports whether processes whose parent has ended become children of this one.
func adoptsOrphans() bool {
	if os.Getpid() == 1 {
		return true
	}
	var is int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&is)), 0, 0, 0)
	return err == nil && is != 0
}

// cpuLimit is the CPU time at which the kernel kills a process; 0: none, or not known. The process must not be reaped.
func cpuLimit(pid int) time.Duration {
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_CPU, nil, &limit); err != nil || limit.Max > uint64(maxCPULimit/time.Second) {
		return 0
	}
	return time.Duration(max(limit.Max, 1)) * time.Second // the kernel takes 0 for 1
}

const maxCPULimit = 24 * 365 * time.Hour // more is none

// oomKills is how many processes the out-of-memory killer has ended on this machine, for a cgroup's limit or the machine's; false where
// the kernel does not count them.
func oomKills() (n uint64, known bool) {
	stat, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0, false
	}
	const key = "\noom_kill "
	i := bytes.Index(stat, []byte(key))
	if i < 0 {
		return 0, false
	}
	digits, _, _ := bytes.Cut(stat[i+len(key):], []byte("\n"))
	n, err = strconv.ParseUint(string(digits), 10, 64)
	return n, err == nil
}

// groupMembers lists the processes of a group, without its leader; nil where there is no /proc.
func groupMembers(leader int) (pids []int) {
	for _, p := range processes() {
		if p.group == leader && p.pid != leader {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// processInfo is the beginning of /proc/PID/stat.
type processInfo struct {
	pid, parent, group int
	state              byte
}

func processes() (list []processInfo) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		p := processInfo{pid: pid}
		if _, err := fmt.Sscanf(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " %c %d %d", &p.state, &p.parent, &p.group); err == nil {
			list = append(list, p)
		}
	}
	return list
}

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
	hung atomic.Bool // a start was abandoned: the thread may never end
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

// start starts the command. When ctx ends before that has come about, late will bring what comes of it.
func (s *spawner) start(ctx context.Context, cmd *exec.Cmd) (late <-chan error, err error) {
	done := make(chan error, 1)
	select {
	case s.jobs <- func() { done <- cmd.Start() }:
	case <-ctx.Done(): // another start hangs
		return nil, context.Cause(ctx)
	}
	result, hung := outcomeOf(ctx, done)
	if hung != nil {
		s.hung.Store(true)
		return done, hung
	}
	return nil, result
}

func (s *spawner) close() {
	close(s.jobs)
	if !s.hung.Load() {
		<-s.done
	}
}

// sharedPage is memory that a worker's runtime and the host share, also after the worker's death: docs/protocol.md, page_fd.
type sharedPage struct{ mem []byte }

// Its words. What one side writes in each call has a cache line of its own.
const (
	wordWorked = 0
	wordLinger = 8
	wordAlone  = 9
	wordBell   = 10
)

const maxWorked = 24 * time.Hour // of one request: more is nonsense

// newSharedPage returns the page and the file to hand to the child; nil when the kernel has no memfd, or does not seal it: whoever
// has the descriptor could take the memory away, and the host would die of SIGBUS when it next looks at it.
func newSharedPage() (*sharedPage, *os.File) {
	fd, err := unix.MemfdCreate("pypool-page", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil
	}
	if fd, err = aboveStderr(fd); err != nil {
		return nil, nil
	}
	file := os.NewFile(uintptr(fd), "pypool-page")
	size := os.Getpagesize()
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		file.Close()
		return nil, nil
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
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

// worked is what the runtime has stored, or some code in its process: 0 when it cannot be a time.
func (p *sharedPage) worked() time.Duration {
	ns := atomic.LoadUint64(p.word(wordWorked))
	if ns > uint64(maxWorked) {
		return 0
	}
	return time.Duration(ns)
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

// widen lets the pipe, of which this is the writing end, hold so many bytes. Where the user has too many pipes already it stays as it is: a
// write then waits for the reader.
func widen(pipe *os.File, bytes int) {
	if raw, err := pipe.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, bytes) })
	}
}

// unreadIn counts the bytes in a pipe, of which this is the writing end; its readers may be gone.
func unreadIn(pipe *os.File) (n int, ok bool) {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return 0, false
	}
	ctlErr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n, ctlErr == nil && err == nil
}

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
