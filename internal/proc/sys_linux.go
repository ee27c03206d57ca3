package proc

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

	"github.com/pypool/pypool/internal/fd"
)

// setParentDeath has the kernel end the child when the thread that forked it ends, which is why a
// Spawner does that. It guards the start: the runtime then ignores SIGIO, and has the kernel kill
// the whole group when our end of the leash closes. SIGKILL would end the worker alone, before that
// can reach its children.
func setParentDeath(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGIO }

func pipeCloexec(ends []int) error { return unix.Pipe2(ends, unix.O_CLOEXEC) }

// childHandle holds on to a process that is no child of ours: a pidfd, which never comes to name
// another process. The zero value names none.
type childHandle struct{ fd, pid int }

// handleOf returns the handle of a process in the group that leader leads; false when it is not in
// there.
func handleOf(pid, leader int) (childHandle, bool) {
	n, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		n, err = fd.AboveStderr(n)
	}
	if err != nil {
		n = -1 // an old kernel, or no descriptor left: there is no way to reach it but with its group
	}
	c := childHandle{fd: n, pid: pid}
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

// stackSignal is the nth of them: SIGRTMAX-2, which the runtime registers because nobody else is
// likely to, and SIGUSR1, which programs like to use for themselves.
func stackSignal(n int) syscall.Signal { return []syscall.Signal{62, syscall.SIGUSR1}[n] }

// newAsks makes both ends of what a process is asked for its stacks by: a pair of sockets. back is
// another descriptor of theirs, where a question that nobody has read can be taken back. The flags of
// that are the worker's too, which may clear O_NONBLOCK: whoever uses it says in each call that it is
// not to wait.
func newAsks() (ours, back, theirs *os.File, err error) {
	ends, err := socketPair(unix.SOCK_STREAM)
	if err != nil {
		return nil, nil, nil, err
	}
	their, err := unix.FcntlInt(uintptr(ends[1]), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, nil, nil, errors.Join(os.NewSyscallError("dup", err), unix.Close(ends[0]), unix.Close(ends[1]))
	}
	// In blocking mode, so that the poller, which what a worker does to its end would wake, has none
	// of them.
	ours, back, theirs = os.NewFile(uintptr(ends[0]), "asks"), os.NewFile(uintptr(ends[1]), "asks"), os.NewFile(uintptr(their), "asks")
	if err = setNonblock(theirs); err != nil { // the thread that comes for a question that has been taken back
		return nil, nil, nil, errors.Join(err, ours.Close(), back.Close(), theirs.Close())
	}
	return ours, back, theirs, nil
}

// socketPair is socketpair(2), its ends closed on exec, and neither of them 0, 1 or 2: see package
// fd.
func socketPair(kind int) (ends [2]int, err error) {
	if ends, err = unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return ends, os.NewSyscallError("socketpair", err)
	}
	for i := range ends {
		if ends[i], err = fd.AboveStderr(ends[i]); err != nil {
			return ends, errors.Join(err, unix.Close(ends[1-i]))
		}
	}
	return ends, nil
}

func ask(asks *os.File) {
	_ = onDescriptor(asks, func(fd int) error {
		return unix.Send(fd, []byte{1}, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
}

// takeBack reports whether nobody has read the question.
func takeBack(back *os.File) (unread bool) {
	_ = onDescriptor(back, func(fd int) error {
		n, _, err := unix.Recvfrom(fd, make([]byte, 64), unix.MSG_DONTWAIT)
		unread = n > 0
		return err
	})
	return unread
}

// signalStacks asks the interpreter for its stacks by the nth signal. It sends none that the
// process does not catch: that would end it, and all that a slow start has to tell. python is 0
// where the process itself is the interpreter, as far as it is known.
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
		return false, HasEnded
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

func isStopped(pid int) bool {
	is, known := signalsOf(pid)
	return known && (is.state == 'T' || is.state == 't')
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

// reapGroup reaps what is left of a group that has been killed, should its orphans have become
// ours: when this process is PID 1, as in a container without an init, or a subreaper. The leader
// itself must not be reaped yet: nobody else gets the group's number until then. It waits for those
// that are still dying, but not for long: one may be stuck in the kernel.
func reapGroup(leader int) {
	if !adoptsOrphans() {
		return
	}
	for wait, end := 100*time.Microsecond, time.Now().Add(reapOrphans); ; wait = min(2*wait, 20*time.Millisecond) {
		dying := false
		for _, p := range All() {
			switch {
			case p.Group != leader || p.PID == leader:
			case p.State == 'Z' && p.Parent == os.Getpid():
				_, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil)
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

// cpuLimit is the CPU time at which the kernel kills a process; 0: none, or not known. The process
// must not be reaped.
func cpuLimit(pid int) time.Duration {
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_CPU, nil, &limit); err != nil || limit.Max > uint64(maxCPULimit/time.Second) {
		return 0
	}
	return time.Duration(max(limit.Max, 1)) * time.Second // the kernel takes 0 for 1
}

const maxCPULimit = 24 * 365 * time.Hour // more is none

// OOMKills is how many processes the out-of-memory killer has ended on this machine, for a cgroup's
// limit or the machine's; false where the kernel does not count them.
func OOMKills() (n uint64, known bool) {
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
	for _, p := range All() {
		if p.Group == leader && p.PID != leader {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

// Info is the beginning of a process's /proc/PID/stat.
type Info struct {
	PID, Parent, Group int
	State              byte // Z is a zombie
}

// All lists the processes of this machine; nil where there is no /proc.
func All() (list []Info) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		p := Info{PID: pid}
		if _, err := fmt.Sscanf(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " %c %d %d", &p.State, &p.Parent, &p.Group); err == nil {
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

// Spawner starts processes on one thread that lives as long as any of them: the parent death signal
// is bound to the thread that forked (golang/go#27505), and Go ends threads.
type Spawner struct {
	jobs chan func()
	done chan struct{}
	hung atomic.Bool // a start was abandoned: the thread may never end
}

// NewSpawner starts the thread. Close must follow, after the last process has been reaped.
func NewSpawner() *Spawner {
	s := &Spawner{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		for job := range s.jobs {
			job()
		}
	}()
	return s
}

// start starts the command. When ctx ends before that has come about, late will bring what comes of
// it.
func (s *Spawner) start(ctx context.Context, cmd *exec.Cmd) (late <-chan error, err error) {
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

// Close ends the thread, unless a start on it hangs. Every process must have been reaped.
func (s *Spawner) Close() {
	close(s.jobs)
	if !s.hung.Load() {
		<-s.done
	}
}

// widen lets the pipe, of which this is the writing end, hold so many bytes. Where the user has too
// many pipes already it stays as it is: a write then waits for the reader.
func widen(pipe *os.File, bytes int) {
	_ = onDescriptor(pipe, func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, bytes)
		return err
	})
}

// unreadIn counts the bytes in a pipe, of which this is the writing end; its readers may be gone.
func unreadIn(pipe *os.File) (n int, ok bool) {
	err := onDescriptor(pipe, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err
	})
	return n, err == nil
}

// isEnding reports whether the kernel is taking the process down: flags, the seventh field behind
// the name, has PF_EXITING. The pid must not be reaped.
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

// ResidentBytes reads a process's resident memory; 0 when it is gone.
func ResidentBytes(pid int) int64 {
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

// interruptProcess has the main thread of the runtime look whether what it runs is to stop. The
// signal is ignored where nobody has set a handler.
func interruptProcess(pid int) { _ = unix.Tgkill(pid, pid, unix.SIGURG) }
