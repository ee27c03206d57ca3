package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pypool/pypool/internal/fd"
)

// CanFork says why there can be no fork server here; nil: there can.
func CanFork() error {
	n, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("the system gives no handles of processes (pidfd_open, Linux 5.3 and later): %w", err)
	}
	return unix.Close(n)
}

const (
	forkWait = 10 * time.Second       // what a fork server may take to fork: it is killed then, and costs an import
	reapWait = 2 * time.Second        // what it may take to reap, likewise
	goneWait = 500 * time.Millisecond // what a worker may take to end of which nobody knows, or that is to be adopted

	strangersWait = 10 * time.Millisecond // what init may take to reap what a lost fork server has left
)

// ForkServer is the host's end of the socket of a process that makes workers by forking itself:
// docs/protocol.md, "Fork server". One question is asked at a time. Its methods are safe for
// concurrent use.
type ForkServer struct {
	process Process
	memory  int // of each worker: see Spec
	sock    *os.File
	raw     syscall.RawConn
	turn    chan struct{} // who has taken its element may ask
	lost    chan struct{} // closed when nothing can be asked any more
	once    sync.Once
}

// StartServer is Start for a fork server. Close must follow, which does not end the process.
func StartServer(ctx context.Context, sp *Spawner, spec Spec) (Process, *ForkServer, error) {
	ends, err := socketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.SetNonblock(ends[0], true); err != nil {
		return nil, nil, errors.Join(err, unix.Close(ends[0]), unix.Close(ends[1]))
	}
	f := &ForkServer{memory: spec.Memory, sock: os.NewFile(uintptr(ends[0]), "fork server"), turn: make(chan struct{}, 1), lost: make(chan struct{})}
	f.turn <- struct{}{}
	if f.raw, err = f.sock.SyscallConn(); err != nil {
		return nil, nil, errors.Join(err, f.sock.Close(), unix.Close(ends[1]))
	}
	f.process, err = start(ctx, sp, spec, os.NewFile(uintptr(ends[1]), "fork server"))
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f.process, f, nil
}

// Lost is closed when the server cannot be asked any more.
func (f *ForkServer) Lost() <-chan struct{} { return f.lost }

func (f *ForkServer) lose() { f.once.Do(func() { close(f.lost) }) }

// Close frees the socket, whose end tells the server to leave. Whoever waits for an answer gets
// none.
func (f *ForkServer) Close() {
	f.lose()
	_ = f.sock.Close()
}

// Fork has the server make a worker, which then waits for its hello, and a goroutine that has it
// reaped: it ends with the process, and is joined by waiting for Exited. When ctx ends the server
// has little time left to answer.
func (f *ForkServer) Fork(ctx context.Context) (Process, error) {
	ends, t, err := newEndpoints(f.memory)
	if err != nil {
		return nil, err
	}
	defer t.close()
	var files []int
	for _, file := range t.all() {
		if file != nil {
			files = append(files, int(file.Fd()))
		}
	}
	said, err := f.ask(ctx, "fork", files, forkWait)
	if why, failed := strings.CutPrefix(said, "failed "); failed {
		ends.close()
		return nil, errors.New(why)
	}
	if why, unfit := strings.CutPrefix(said, "unfit "); unfit {
		ends.close()
		return nil, &UnfitError{why}
	}
	pid, pidfd := 0, -1
	if err == nil {
		if _, bad := fmt.Sscanf(said, "forked %d", &pid); bad != nil {
			err = f.violation("it says %.40q when it is to fork", said)
		} else {
			pidfd, err = f.childHandle(pid)
		}
	}
	if err != nil {
		t.close()
		ends.forsake()
		if !errors.Is(err, ErrForkServerLost) {
			_, _ = f.ask(context.Background(), fmt.Sprint("reap ", pid), nil, reapWait)
		}
		return nil, err
	}
	h := &forked{server: f, number: pid, file: os.NewFile(uintptr(pidfd), "pidfd"), fd: pidfd}
	p := newProcess(ends, h)
	go p.reap()
	return p, nil
}

// violation is the error of an answer that no server gives that follows the protocol: code that the
// script has imported may give any. Nothing can be asked any more.
func (f *ForkServer) violation(format string, args ...any) error {
	f.lose()
	return fmt.Errorf("%w: %s", ErrForkServerLost, fmt.Sprintf(format, args...))
}

// childHandle opens a pidfd of a child of the server, which keeps its number as long as the server
// lives; -1 with an error. What the server says is not believed: the process will be killed.
func (f *ForkServer) childHandle(pid int) (int, error) {
	if pid <= 1 || pid > math.MaxInt32 || pid == os.Getpid() { // to kill(2) some are not one process
		return -1, f.violation("it says that it has forked process %d", pid)
	}
	n, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		n, err = fd.AboveStderr(n)
	}
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		return -1, os.NewSyscallError("pidfd_open", err)
	case err != nil:
		return -1, f.violation("it says that it has forked process %d: pidfd_open: %v", pid, err)
	}
	err = unix.SetNonblock(n, true)
	// One that is there behind the look had its number during it.
	if err == nil && (!isChildOf(f.process.PID(), pid) || unix.PidfdSendSignal(n, 0, nil, 0) == unix.ESRCH) {
		err = f.violation("it says that it has forked process %d, which is no child of its", pid)
	}
	if err != nil {
		_ = unix.Close(n)
		return -1, err
	}
	return n, nil
}

// forsake closes the endpoints of a worker that may have come about, of which nobody knows: its
// leash ends it. Nobody has the other end of its stderr any more then.
func (e *endpoints) forsake() {
	_ = e.leash.Close()
	_ = e.pipes.Close()
	_ = e.errs.SetReadDeadline(time.Now().Add(goneWait))
	_, _ = io.Copy(io.Discard, e.errs)
	e.close()
}

// ask sends the server a message, with descriptors, and returns its answer. After an error that is
// ErrForkServerLost nothing can be asked any more.
func (f *ForkServer) ask(ctx context.Context, message string, files []int, limit time.Duration) (said string, err error) {
	select {
	case <-f.turn:
	case <-f.lost:
		return "", ErrForkServerLost
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if ctx.Err() != nil { // it would have hungGrace alone to answer
		f.turn <- struct{}{}
		return "", context.Cause(ctx)
	}
	defer func() {
		if err != nil {
			f.lose()
		}
		f.turn <- struct{}{}
	}()
	_ = f.sock.SetDeadline(time.Now().Add(limit))
	hurried := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(hurried)
		_ = f.sock.SetDeadline(time.Now().Add(hungGrace))
	})
	defer func() {
		if !stop() {
			<-hurried
		}
	}()
	if err = f.send(message, files); err == nil {
		said, err = f.receive()
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrForkServerLost, err)
	}
	return said, nil
}

func (f *ForkServer) send(message string, files []int) error {
	var rights []byte
	if len(files) > 0 {
		rights = unix.UnixRights(files...)
	}
	var sent error
	err := f.raw.Write(func(s uintptr) bool {
		sent = unix.Sendmsg(int(s), []byte(message), rights, nil, unix.MSG_NOSIGNAL)
		return sent != unix.EAGAIN && sent != unix.EINTR
	})
	return errors.Join(err, sent)
}

// receive reads an answer. Descriptors may come with it, since the server may send what it wants:
// read(2) has the kernel close them.
func (f *ForkServer) receive() (said string, err error) {
	buf := make([]byte, 2048)
	n, err := (&lateReader{f: f.sock, most: len(buf)}).Read(buf)
	return string(buf[:n]), err
}

// forked is the handle of a worker that a fork server has forked: its pid, and a pidfd, which never
// comes to name another process. The server is the parent, and reaps when it is told to. Once it is
// dead others do, at any time: what is signaled by number is looked at through the pidfd before.
type forked struct {
	server *ForkServer
	number int
	file   *os.File // of the pidfd, for the poller
	fd     int

	// What it has left while it is a zombie: reap's goroutine alone uses these.
	status unix.WaitStatus
	cpu    time.Duration
	known  bool
}

func (h *forked) pid() int { return h.number }

// there reports whether the process has not been reaped.
func (h *forked) there() bool { return unix.PidfdSendSignal(h.fd, 0, nil, 0) == nil }

func (h *forked) awaitExit() (held bool) {
	raw, err := h.file.SyscallConn()
	if err == nil {
		err = raw.Read(func(pidfd uintptr) bool { return ended(int(pidfd), 0) })
	}
	if err != nil { // the poller does not take it
		for !ended(h.fd, -1) {
		}
	}
	return h.there()
}

// ended reports whether the process of the pidfd has ended, having waited for that for so many
// milliseconds; -1: for ever.
func ended(pidfd, wait int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, wait)
	return n > 0 && err == nil
}

// signalGroup signals the group without its number, where the system can (Linux 6.9 and later).
func (h *forked) signalGroup(s syscall.Signal) {
	const group = 1 << 2 // PIDFD_SIGNAL_PROCESS_GROUP
	if err := unix.PidfdSendSignal(h.fd, s, nil, group); err == unix.EINVAL {
		_ = syscall.Kill(-h.number, s)
	}
}

func (h *forked) killGroup() { h.signalGroup(syscall.SIGKILL) }

func (h *forked) kill() { h.both(syscall.SIGKILL) }

func (h *forked) terminate() { h.both(syscall.SIGTERM) }

func (h *forked) both(s syscall.Signal) {
	h.signalGroup(s)
	_ = unix.PidfdSendSignal(h.fd, s, nil, 0)
}

func (h *forked) ending() bool { return ended(h.fd, 0) || h.there() && isEnding(h.number) }

// left reads how the process has ended while it is a zombie: its server may take its time.
func (h *forked) left() (ExitState, time.Duration, bool) {
	h.status, h.cpu, h.known = zombie(h.number)
	h.known = h.known && h.there() // and so it was this one's
	return h.soFar()
}

// soFar is what is known of its end by now.
func (h *forked) soFar() (state ExitState, cpu time.Duration, known bool) {
	if !h.known {
		return ExitState{Code: -1}, 0, false
	}
	state = ExitState{Code: h.status.ExitStatus()}
	if h.status.Signaled() {
		state.Signal = h.status.Signal()
	}
	return state, h.cpu, true
}

// collect has the process reaped, by its server where that answers.
func (h *forked) collect() (state ExitState, cpu time.Duration, known bool) {
	ctx := context.Background()
	if said, err := h.server.ask(ctx, fmt.Sprint("reap ", h.number), nil, reapWait); err == nil {
		var pid, code int
		var user, system int64
		n, _ := fmt.Sscanf(said, "reaped %d %d %d %d", &pid, &code, &user, &system)
		switch {
		case n == 4 && pid == h.number:
			h.status, h.cpu, h.known = unix.WaitStatus(code), time.Duration(user+system)*time.Microsecond, true
		case said != fmt.Sprint("lost ", h.number): // it is of another one, or of another question
			h.server.lose()
		}
	}
	limit := strangersWait
	if adoptsOrphans() {
		limit = goneWait // as soon as the server is dead this process is the parent
	}
	for wait, end := 100*time.Microsecond, time.Now().Add(limit); h.there() && time.Now().Before(end); wait = min(2*wait, 10*time.Millisecond) {
		var left unix.WaitStatus
		if pid, err := unix.Wait4(h.number, &left, unix.WNOHANG, nil); err == nil && pid == h.number {
			h.status, h.known = left, true
			break
		}
		time.Sleep(wait)
	}
	return h.soFar()
}

func (h *forked) close() { _ = h.file.Close() }

// isChildOf reports whether the process is a child of its parent. Where there is no /proc, or that of
// another PID namespace, it is enough that it leads a group, as each forked worker does.
func isChildOf(parent, pid int) bool {
	if self, _ := os.Readlink("/proc/self"); self != strconv.Itoa(os.Getpid()) {
		return inGroup(pid, pid)
	}
	return parentOf(pid) == parent
}

// parentOf is a process's parent; 0 when that is not known.
func parentOf(pid int) (parent int) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	var state byte
	_, _ = fmt.Sscanf(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " %c %d", &state, &parent)
	return parent
}

// zombie reads what a process that nobody has reaped has left: its status, and the CPU time that it
// took.
func zombie(pid int) (status unix.WaitStatus, cpu time.Duration, known bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, false
	}
	// Behind the name stand the state, which is the third field, and so on.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const user, system, exit, first = 14, 15, 52, 3
	if len(fields) <= exit-first || fields[0] != "Z" {
		return 0, 0, false
	}
	var code uint32
	var ticks [2]int64
	_, err = fmt.Sscan(strings.Join([]string{fields[user-first], fields[system-first], fields[exit-first]}, " "), &ticks[0], &ticks[1], &code)
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all machines that Go knows
	return unix.WaitStatus(code), time.Duration(ticks[0]+ticks[1]) * tick, err == nil
}

// PrivateBytes is the memory that a process shares with no other, which is what its end would free;
// 0 when it is gone, or the system does not say.
func PrivateBytes(pid int) int64 {
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	var sum int64
	for line := range strings.Lines(string(rollup)) {
		var kib int64
		name, rest, _ := strings.Cut(line, ":")
		switch name {
		case "Private_Clean", "Private_Dirty", "Private_Hugetlb":
			if _, err := fmt.Sscan(rest, &kib); err == nil {
				sum += kib << 10
			}
		}
	}
	return sum
}
