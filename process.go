package pypool

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// process is all that a worker sees of its operating system process. There is one real implementation, execProcess; tests
// script another, and a fork server can become a third.
type process interface {
	pid() int
	transport() transport
	// stderr is the process's standard error, to be read to its end.
	stderr() io.Reader
	// stacks asks Python for the stacks of all its threads and waits at most d for them; empty when it cannot.
	stacks(d time.Duration) string
	// begun returns the id of the last request that the runtime began. It is final once ending says true; ok is false
	// where there is no shared page.
	begun() (id uint64, ok bool)
	// linger tells the runtime how long to poll for its next request before it sleeps, and whether calls run one at
	// a time. It is a hint, and needs the page too.
	linger(d time.Duration, alone bool)
	// worked is how long the runtime took for its last request; 0 where there is no page. It is stored a moment after the answer,
	// and costs the transfer of a cache line.
	worked() time.Duration
	// terminate and kill signal the whole process group. They do nothing once the process is reaped.
	terminate()
	kill()
	// ending reports whether the process has begun to exit, of itself or by a signal, or has exited; false where that cannot be known.
	ending() bool
	// exited is closed when the process has been reaped; exit is valid from then on.
	exited() <-chan struct{}
	exit() exitState
	// release frees what the host holds of the process. It is called once, after the last use.
	release()
}

// exitState is how a process ended.
type exitState struct {
	code   int // -1 when unknown or ended by a signal
	signal syscall.Signal
	ours   bool // we had sent it a KILL or TERM
}

// spawnSpec is the command line of one worker.
type spawnSpec struct {
	path string
	args []string // without argv[0]
	dir  string
	env  []string
}

// spawnFunc starts a process. ctx bounds only the start itself.
type spawnFunc func(ctx context.Context, sp *spawner, spec spawnSpec) (process, error)

// execProcess is a process started with os/exec, on pipes of our own: exec's StdoutPipe loses the last answer when Wait
// runs beside the reader.
type execProcess struct {
	cmd   *exec.Cmd
	pipes *pipes
	errs  *os.File // our end of stderr
	stack *os.File // our end of the stack dump pipe, or nil
	leash *os.File // our end of a pipe that is never used: its closing, at the host's death, is what it is for
	page  *sharedPage

	done  chan struct{}
	state exitState // valid when done is closed

	mu     sync.Mutex // guards the fields below: a signal must never reach a process group that is gone
	reaped bool
	ours   bool
}

// execSpawn starts the command in a process group of its own and a goroutine that reaps it; that goroutine ends with
// the process, and is joined by waiting for exited.
func execSpawn(_ context.Context, sp *spawner, spec spawnSpec) (_ process, err error) {
	p := &execProcess{cmd: exec.Command(spec.path, spec.args...), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = spec.dir, spec.env

	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			f.Close() // the child has them; ours would keep the pipes open after its end
		}
		if err != nil {
			p.release()
		}
	}()
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	var stdin, stdout *os.File
	if p.pipes, stdin, stdout, err = newPipes(); err != nil {
		return nil, err
	}
	theirs = append(theirs, stdin, stdout)
	errR, errW := pipe()
	if err != nil {
		return nil, err
	}
	p.errs = errR
	theirs = append(theirs, errW)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, stdout, errW
	if extraFiles { // fd 3: stack dumps; fd 4: the page of begun ids; fd 5: the leash
		stackR, stackW := pipe()
		leashR, leashW := pipe()
		p.stack, p.leash = stackR, leashR
		page, file := newSharedPage() // a nil file leaves its number closed
		p.page, p.pipes.page = page, page
		for _, f := range []*os.File{stackW, file, leashW} {
			if f != nil {
				theirs = append(theirs, f)
			}
		}
		if err != nil {
			return nil, err
		}
		p.cmd.ExtraFiles = []*os.File{stackW, file, leashW}
	}
	setGroup(p.cmd)
	if err := sp.start(p.cmd); err != nil {
		return nil, err
	}
	go p.reap()
	return p, nil
}

// reap waits for the process's end, takes its whole group with it, and closes done.
func (p *execProcess) reap() {
	pid := p.cmd.Process.Pid
	held := awaitExit(pid)
	if !held {
		_ = p.cmd.Wait() // the exit state says what there is to say
	}
	p.mu.Lock()
	// Where held, the leader is a zombie: its pid, and so the group's id, cannot have been given to a stranger yet.
	killGroup(pid)
	p.reaped = true
	ours := p.ours
	p.mu.Unlock()
	if held {
		_ = p.cmd.Wait()
	}
	p.state = stateOf(p.cmd.ProcessState)
	p.state.ours = ours
	// A process that left the group may hold stderr open for ever; what the worker wrote is in the pipe by now.
	_ = p.errs.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	close(p.done)
}

func stateOf(state *os.ProcessState) exitState {
	if state == nil {
		return exitState{code: -1} // somebody else in this program has waited for our child: how it ended is unknown
	}
	s := exitState{code: state.ExitCode()}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		s.signal = status.Signal()
	}
	return s
}

func (p *execProcess) pid() int                { return p.cmd.Process.Pid }
func (p *execProcess) transport() transport    { return p.pipes }
func (p *execProcess) stderr() io.Reader       { return p.errs }
func (p *execProcess) exited() <-chan struct{} { return p.done }
func (p *execProcess) exit() exitState         { return p.state }

func (p *execProcess) begun() (uint64, bool) {
	if p.page == nil {
		return 0, false
	}
	return p.page.begun(), true
}

func (p *execProcess) linger(d time.Duration, alone bool) {
	if p.page != nil {
		p.page.linger(d, alone)
	}
}

func (p *execProcess) worked() time.Duration {
	if p.page == nil {
		return 0
	}
	return p.page.worked()
}

func (p *execProcess) stacks(d time.Duration) string {
	if p.stack == nil || d <= 0 {
		return ""
	}
	buf := make([]byte, 16<<10)
	_ = p.stack.SetReadDeadline(time.Now().Add(time.Millisecond))
	for err := error(nil); err == nil; { // what came too late for a stream that was only asked to stop
		_, err = p.stack.Read(buf)
	}
	p.signal(func(pid int) { signalStacks(pid) })
	end := time.Now().Add(d)
	var text []byte
	for len(text) < 256<<10 {
		// Once something has come, a pause means that the dump is complete: faulthandler writes it in one go.
		wait := end
		if quiet := time.Now().Add(30 * time.Millisecond); len(text) > 0 && quiet.Before(end) {
			wait = quiet
		}
		_ = p.stack.SetReadDeadline(wait)
		n, err := p.stack.Read(buf)
		text = append(text, buf[:n]...)
		if err != nil {
			break
		}
	}
	return string(text)
}

func (p *execProcess) terminate() { p.signal(func(pid int) { p.ours = true; terminateGroup(pid) }) }
func (p *execProcess) kill()      { p.signal(func(pid int) { p.ours = true; killGroup(pid) }) }

func (p *execProcess) signal(send func(pid int)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		send(p.cmd.Process.Pid)
	}
}

func (p *execProcess) ending() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reaped || isEnding(p.cmd.Process.Pid)
}

func (p *execProcess) release() {
	if p.pipes != nil {
		_ = p.pipes.Close()
	}
	for _, f := range []*os.File{p.errs, p.stack, p.leash} {
		if f != nil {
			_ = f.Close()
		}
	}
	if p.page != nil {
		p.page.close()
	}
}

// pipes is the transport over a process's stdin and stdout.
type pipes struct {
	in     *os.File
	out    *outPipe
	writes *attempt
	page   *sharedPage // whose bell rings when TryWrite is about to write, or nil
}

// newPipes returns the transport and the child's ends of it.
func newPipes() (_ *pipes, stdin, stdout *os.File, err error) {
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	out, stdout, err := newOutPipe()
	if err != nil {
		return nil, nil, nil, errors.Join(err, stdin.Close(), in.Close())
	}
	p := &pipes{in: in, out: out}
	raw, err := in.SyscallConn()
	if err != nil {
		return nil, nil, nil, errors.Join(err, p.Close(), stdin.Close(), stdout.Close())
	}
	p.writes = newAttempt(raw.Write, func(fd uintptr, b []byte) (int, error) {
		if p.page != nil {
			p.page.ring()
		}
		return writeNow(fd, b)
	})
	return p, stdin, stdout, nil
}

func (p *pipes) Read(b []byte) (int, error)     { return p.out.Read(b) }
func (p *pipes) Write(b []byte) (int, error)    { return p.in.Write(b) }
func (p *pipes) TryRead(b []byte) (int, error)  { return p.out.TryRead(b) }
func (p *pipes) TryWrite(b []byte) (int, error) { return p.writes.do(b, false) }
func (p *pipes) Unwatch()                       { p.out.Unwatch() }

// attempt is a non-blocking system call on a file. Its closure is made once, so that a call allocates nothing. It is not safe for
// concurrent use.
type attempt struct {
	through func(func(fd uintptr) bool) error
	call    func(fd uintptr) bool
	wait    bool
	p       []byte
	n       int
	err     error
}

// newAttempt: through is the Read or the Write of the file's RawConn.
func newAttempt(through func(func(fd uintptr) bool) error, call func(fd uintptr, p []byte) (int, error)) *attempt {
	a := &attempt{through: through}
	a.call = func(fd uintptr) bool {
		a.n, a.err = call(fd, a.p)
		return !a.wait || a.n > 0 || a.err != nil
	}
	return a
}

// do makes the call; with wait as often as the file is said to be ready, until bytes have moved.
func (a *attempt) do(p []byte, wait bool) (int, error) {
	a.wait, a.p, a.n, a.err = wait, p, 0, nil
	err := a.through(a.call)
	a.p = nil
	if err != nil {
		return 0, err
	}
	return a.n, a.err
}

func (p *pipes) SetDeadline(t time.Time) error {
	return errors.Join(p.in.SetWriteDeadline(t), p.out.SetReadDeadline(t))
}

func (p *pipes) Close() error { return errors.Join(p.in.Close(), p.out.Close()) }
