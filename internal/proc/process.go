// Package proc is the operating system's side of a worker: its process, started, signaled and
// reaped with all that it starts, and the pipes to it. It knows nothing of what is said on them.
package proc

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pypool/pypool/internal/shm"
)

// Process is all that a worker sees of its operating system process. There is one real
// implementation, which Start returns, and a fork server; tests script another.
// Its methods are safe for concurrent use, but for Stacks, which one goroutine at a time may call,
// and Release.
type Process interface {
	// PID is the interpreter's: the process's own, or what Adopt was told.
	PID() int
	// Adopt takes in the pid by which the interpreter says it goes, another one where a wrapper has
	// started it as its child; 0: it did not say. It fails when that is no process which Kill would
	// end.
	Adopt(pid int) error
	Transport() Transport
	// Stderr is the process's standard error, to be read to its end.
	Stderr() io.Reader
	// Stacks asks Python for the stacks of all its threads and waits at most d for them; why says
	// why there are none.
	Stacks(d time.Duration) (text, why string)
	// Unread is how many bytes of what was written nobody has read, so that those of the end were
	// not read; ok is false where that cannot be known. It is final once Ending says true, but for
	// those who have inherited the process's end of the pipe.
	Unread() (n int, ok bool)
	// Spin tells the runtime how long to poll for its next request before it sleeps, and whether
	// calls run one at a time. It is a hint, and needs the page too.
	Spin(d time.Duration, oneAtATime bool)
	// ServiceTime is how long the runtime took for its last request; 0 where there is no page. It
	// is stored a moment after the answer, and costs the transfer of a cache line.
	ServiceTime() time.Duration
	// Memory is what payloads travel by, with the page; nil: there is none.
	Memory() *shm.Memory
	// Cancel asks the runtime to stop the request if that is what it runs; it may have to be asked
	// again, and needs the page. 0 takes that back.
	Cancel(id uint64)
	// Shielded reports whether what runs asks not to be interrupted.
	Shielded() bool
	// Retires reports whether the runtime says that the worker asks to be replaced; false where there
	// is no page.
	Retires() bool
	// Terminate and Kill signal the whole process group, and the interpreter wherever it is. They
	// do nothing once the process is reaped.
	Terminate()
	Kill()
	// Ending reports whether the process has begun to exit, of itself or by a signal, or has
	// exited; false where that cannot be known.
	Ending() bool
	// Exited is closed when the process has been reaped. Exit is final from then on; before that it
	// says how the process has ended where that is known, and else that it is not.
	Exited() <-chan struct{}
	Exit() ExitState
	// Release frees what the host holds of the process. It is called once, after the last use.
	Release()
}

// Transport is a byte stream to a worker and back, for one reader and writer at a time. Deadlines
// apply to reads and writes that are under way, too.
type Transport interface {
	io.Reader
	io.Writer
	// TryRead reads what is there without waiting: 0, nil when that is nothing. TryWrite writes
	// what is accepted without waiting. After a deadline they may fail with os.ErrDeadlineExceeded,
	// as Read and Write do.
	TryRead(p []byte) (int, error)
	TryWrite(p []byte) (int, error)
	// Unwatch says that TryRead will do for now: until the next Read nothing need be woken by what
	// comes. It is a hint.
	Unwatch()
	SetDeadline(t time.Time) error
	// SetReadDeadline is SetDeadline for reads alone. It may be called beside them.
	SetReadDeadline(t time.Time) error
	Close() error
}

// ExitState is how a process ended.
type ExitState struct {
	Code   int // -1 when unknown or ended by a signal
	Signal syscall.Signal
	Ours   bool // we had sent it a KILL or TERM

	Overtime bool // it had used up its limit of CPU time, beyond which the kernel kills
	OOM      bool // a KILL that we had not sent, and the out-of-memory killer has ended something on this machine while it lived
	NoOOM    bool // it has ended nothing
}

// Spec is the command line of one worker.
type Spec struct {
	Path string
	Args []string // without argv[0]
	Dir  string
	Env  []string

	DirIsHosts bool        // Dir is where the host was, and was not asked for
	Host       os.FileInfo // of that directory, which may have no path any more; nil: wherever the host is, if Dir is gone

	Memory int // bytes of payloads that can travel by memory at a time, each way; 0: none
}

// SpawnFunc starts a process. ctx bounds only the start itself.
type SpawnFunc func(ctx context.Context, sp *Spawner, spec Spec) (Process, error)

// The descriptors beyond stderr by which the child has its ends, where ExtraFiles says that it has
// them.
const (
	StackFD = 3 // stack dumps, written by it
	PageFD  = 4 // the shared page; closed where there is none
	LeashFD = 5 // a pipe that is never used: docs/protocol.md, leash_fd
	AskFD   = 6 // by which it is asked for stack dumps
	ForkFD  = 7 // the socket of a fork server
)

// process is a Process: the host's ends of what it was given, and a handle.
type process struct {
	ends   *endpoints
	handle handle

	done  chan struct{}
	state ExitState                 // valid when done is closed
	early atomic.Pointer[ExitState] // what is known of it while it is being reaped; nil: nothing

	oomKills uint64 // on this machine, when it started
	oomKnown bool

	python atomic.Int64 // the interpreter's pid where it is not the process's own; 0: it is

	mu     sync.Mutex // guards the fields below: a signal must never reach a process group that is gone
	reaped bool
	ours   bool
	child  childHandle // of python
}

// handle is what the host holds of a process itself, which leads a group of its own. An exec makes
// one, and so does a fork server. Once collect begins it is not used by others any more, but for
// pid; close follows.
type handle interface {
	pid() int
	// awaitExit returns when the process has ended. held says that its number, and so the group's,
	// cannot be another's until collect.
	awaitExit() (held bool)
	// kill and terminate reach the process and its group; killGroup the group alone.
	kill()
	terminate()
	killGroup()
	// ending reports whether the process has begun to exit; false where that is not known.
	ending() bool
	// left is how the ended process has ended, and the CPU time that it took, while it is not
	// collected; false where that is not known. It asks nobody.
	left() (state ExitState, cpu time.Duration, known bool)
	// collect has the ended process vanish, and returns the same. It follows left, and may take time.
	collect() (state ExitState, cpu time.Duration, known bool)
	close()
}

// endpoints are the host's ends of what a worker is given.
type endpoints struct {
	pipes *pipes
	errs  *os.File // our end of stderr
	stack *os.File // our end of the stack dump pipe, or nil
	asks  *os.File // by which they are asked for, or nil
	back  *os.File // where that is taken back, or nil
	leash *os.File // our end of a pipe that is never used: its closing, at the host's death, is what it is for
	page  *shm.Page
}

// theirs are the worker's ends, in the order of docs/protocol.md, "Fork server".
type theirs struct{ stdin, stdout, stderr, stacks, asks, leash, page *os.File }

func (t *theirs) all() []*os.File {
	return []*os.File{t.stdin, t.stdout, t.stderr, t.stacks, t.asks, t.leash, t.page}
}

func (t *theirs) close() {
	for _, f := range t.all() {
		if f != nil {
			f.Close() // the worker has them; ours would keep the pipes open after its end
		}
	}
}

// newEndpoints makes both sides; see Spec for memory. The caller closes both.
func newEndpoints(memory int) (_ *endpoints, _ *theirs, err error) {
	e, t := &endpoints{}, &theirs{}
	defer func() {
		if err != nil {
			e.close()
			t.close()
		}
	}()
	if e.pipes, t.stdin, t.stdout, err = newPipes(); err != nil {
		return nil, nil, err
	}
	if e.errs, t.stderr, err = newPipe("stderr", false); err != nil {
		return nil, nil, err
	}
	if !ExtraFiles {
		return e, t, nil
	}
	if e.stack, t.stacks, err = newPipe("stacks", false); err != nil {
		return nil, nil, err
	}
	widen(e.stack, maxDump)
	if err = setNonblock(t.stacks); err != nil { // what nobody reads must not hold the worker up
		return nil, nil, err
	}
	if e.asks, e.back, t.asks, err = newAsks(); err != nil {
		return nil, nil, err
	}
	if e.leash, t.leash, err = newPipe("leash", false); err != nil {
		return nil, nil, err
	}
	e.page, t.page = shm.New(memory)
	e.pipes.page = e.page
	return e, t, nil
}

func (e *endpoints) close() {
	if e.pipes != nil {
		_ = e.pipes.Close()
	}
	for _, f := range []*os.File{e.errs, e.stack, e.asks, e.back, e.leash} {
		if f != nil {
			_ = f.Close()
		}
	}
	if e.page != nil {
		e.page.Close()
	}
}

// Start is the SpawnFunc of real processes. It starts the command in a process group of its own and
// a goroutine that reaps it; that goroutine ends with the process, and is joined by waiting for
// Exited.
//
// Neither it nor anything else in the host waits for an exec that hangs: such a start is abandoned
// when ctx ends, and killed if it ever comes about.
func Start(ctx context.Context, sp *Spawner, spec Spec) (Process, error) {
	return start(ctx, sp, spec, nil)
}

// start is Start for a child that gets one more descriptor, ForkFD; nil: it does not. It is closed.
func start(ctx context.Context, sp *Spawner, spec Spec, fork *os.File) (_ Process, err error) {
	var their *theirs
	handedOver := func() {
		if their != nil {
			their.close()
		}
		if fork != nil {
			fork.Close()
		}
	}
	var p *process
	abandoned := false
	defer func() {
		if abandoned {
			return
		}
		handedOver()
		if err != nil && p != nil {
			p.Release()
		}
	}()
	l, err := Bounded(ctx, spec.prepare)
	if err == nil {
		err = l.err
	}
	if err != nil {
		return nil, err
	}
	memory := spec.Memory
	if fork != nil {
		memory = 0 // it serves nobody
	}
	ends, t, err := newEndpoints(memory)
	if err != nil {
		return nil, err
	}
	their = t
	exe := &executed{cmd: l.command()}
	p = newProcess(ends, exe)
	exe.cmd.Stdin, exe.cmd.Stdout, exe.cmd.Stderr = t.stdin, t.stdout, t.stderr
	if ExtraFiles {
		exe.cmd.ExtraFiles = []*os.File{t.stacks, t.page, t.leash, t.asks} // from StackFD to AskFD; nil leaves a number closed
		if fork != nil {
			exe.cmd.ExtraFiles = append(exe.cmd.ExtraFiles, fork) // ForkFD
		}
	}
	setGroup(exe.cmd)
	late, err := sp.start(ctx, exe.cmd)
	if late != nil {
		abandoned = true
		go func() { // ends with the start, for which nobody can wait
			if <-late == nil {
				p.Kill()
				p.reap()
			}
			handedOver()
			p.Release()
		}()
	}
	if err != nil {
		return nil, err
	}
	go p.reap()
	return p, nil
}

func newProcess(ends *endpoints, h handle) *process {
	p := &process{ends: ends, handle: h, done: make(chan struct{})}
	p.oomKills, p.oomKnown = OOMKills()
	return p
}

// executed is the handle of a process started with os/exec, on pipes of our own: exec's StdoutPipe
// loses the last answer when Wait runs beside the reader.
type executed struct{ cmd *exec.Cmd }

func (e *executed) pid() int { return e.cmd.Process.Pid }

func (e *executed) awaitExit() (held bool) {
	held = awaitExit(e.pid())
	if !held {
		_ = e.cmd.Wait() // the exit state says what there is to say
	}
	return held
}

func (e *executed) killGroup() { killGroup(e.pid()) }

func (e *executed) kill() {
	killGroup(e.pid())
	killProcess(e.pid()) // it may have left its group
}

func (e *executed) terminate() {
	terminateGroup(e.pid())
	terminateProcess(e.pid())
}

func (e *executed) ending() bool { return isEnding(e.pid()) }

func (e *executed) left() (ExitState, time.Duration, bool) { return ExitState{Code: -1}, 0, false } // collect takes no time

func (e *executed) collect() (ExitState, time.Duration, bool) {
	_ = e.cmd.Wait()
	ps := e.cmd.ProcessState
	if ps == nil {
		return ExitState{Code: -1}, 0, false // somebody else in this program has waited for our child
	}
	s := ExitState{Code: ps.ExitCode()}
	if status, ok := ps.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		s.Signal = status.Signal()
	}
	return s, ps.UserTime() + ps.SystemTime(), true
}

func (e *executed) close() {}

// reap waits for the process's end, takes its whole group with it, and closes done.
func (p *process) reap() {
	held := p.handle.awaitExit()
	pid := p.handle.pid()
	p.mu.Lock()
	// Where held, the leader is a zombie: its pid, and so the group's id, cannot have been given to
	// a stranger yet.
	p.handle.killGroup()
	p.child.kill()
	p.reaped = true
	ours := p.ours
	p.mu.Unlock()
	var limit time.Duration
	if held {
		reapGroup(pid)
		limit = cpuLimit(pid)
	}
	complete := func(state ExitState, cpu time.Duration, known bool) ExitState {
		state.Ours = ours
		if known && limit > 0 {
			// The limit is on ticks, which on a busy machine are counted also for what did not run
			// through them.
			state.Overtime = cpu >= limit-max(limit/10, 500*time.Millisecond)
		}
		if state.Signal == syscall.SIGKILL && !ours {
			now, known := OOMKills()
			state.OOM = known && p.oomKnown && now != p.oomKills
			state.NoOOM = known && p.oomKnown && !state.OOM
		}
		return state
	}
	if state, cpu, known := p.handle.left(); known {
		state = complete(state, cpu, known)
		p.early.Store(&state)
	}
	// A process that left the group may hold stderr open for ever; what the worker wrote is in the
	// pipe by now.
	_ = p.ends.errs.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	p.state = complete(p.handle.collect())
	p.handle.close()
	close(p.done)
	p.ends.pipes.finish()
}

func (p *process) PID() int {
	if python := p.python.Load(); python != 0 {
		return int(python)
	}
	return p.handle.pid()
}

func (p *process) Adopt(pid int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	leader := p.handle.pid()
	if pid == 0 || pid == leader || p.reaped {
		return nil
	}
	child, mine := handleOf(pid, leader)
	if !mine {
		return fmt.Errorf("the interpreter says that it is process %d, which is not in the process group of process %d, the one that was started: "+
			"a wrapper must start Python with exec, or at least in its own process group and PID namespace", pid, leader)
	}
	p.child = child
	p.python.Store(int64(pid))
	return nil
}

func (p *process) Transport() Transport    { return p.ends.pipes }
func (p *process) Stderr() io.Reader       { return &lateReader{f: p.ends.errs, most: pipeRoom} }
func (p *process) Exited() <-chan struct{} { return p.done }

func (p *process) Exit() ExitState {
	select {
	case <-p.done:
		return p.state
	default:
	}
	if state := p.early.Load(); state != nil {
		return *state
	}
	return ExitState{Code: -1}
}

func (p *process) Unread() (int, bool) { return unreadIn(p.ends.pipes.in) }

func (p *process) Spin(d time.Duration, oneAtATime bool) {
	if p.ends.page != nil {
		p.ends.page.Spin(d, oneAtATime)
	}
}

func (p *process) ServiceTime() time.Duration {
	if p.ends.page == nil {
		return 0
	}
	return p.ends.page.ServiceTime()
}

func (p *process) Cancel(id uint64) {
	if p.ends.page == nil {
		return
	}
	p.ends.page.Cancel(id)
	if id != 0 {
		p.Signal(func(leader int) { interruptProcess(cmp.Or(int(p.python.Load()), leader)) })
	}
}

func (p *process) Memory() *shm.Memory {
	if p.ends.page == nil {
		return nil
	}
	return p.ends.page.Memory()
}

func (p *process) Shielded() bool { return p.ends.page != nil && p.ends.page.Shielded() }
func (p *process) Retires() bool  { return p.ends.page != nil && p.ends.page.Retires() }

func (p *process) Terminate() {
	p.Signal(func(int) {
		p.ours = true
		p.handle.terminate()
		p.child.terminate()
	})
}

func (p *process) Kill() {
	p.Signal(func(int) {
		p.ours = true
		p.handle.kill()
		p.child.kill()
	})
}

// Signal calls send with the process's pid, unless that has been reaped: it may be another's then.
// It is not reaped meanwhile.
func (p *process) Signal(send func(pid int)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		send(p.handle.pid())
	}
}

func (p *process) Ending() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reaped || p.handle.ending()
}

func (p *process) Release() {
	p.ends.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.child.close()
	p.child = childHandle{} // who is given up is killed once more, and reaped, behind this: the descriptor may be another's then
}

// Descriptors are the numbers of what the host holds of the process.
func (p *process) Descriptors() (numbers []uintptr) {
	e := p.ends
	for _, f := range []syscall.Conn{e.pipes.in, e.pipes.out, e.errs, e.stack, e.asks, e.back, e.leash} {
		if raw, err := f.SyscallConn(); err == nil {
			_ = raw.Control(func(n uintptr) { numbers = append(numbers, n) })
		}
	}
	return append(numbers, e.pipes.out.descriptors()...)
}
