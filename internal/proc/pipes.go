package proc

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pypool/pypool/internal/shm"
)

// pipes is the transport over a process's stdin and stdout.
type pipes struct {
	in     *os.File
	out    *outPipe
	ended  atomic.Bool  // the process has: nothing more comes, whoever else may hold its ends
	left   atomic.Int64 // bytes that it can have left behind and that are not read; set before ended, then the reader's
	writes *attempt
	page   *shm.Page // whose doorbell rings when TryWrite is about to write, or nil
}

// RequestRoom is how many bytes the request pipe should hold: hello, so that no start waits for the
// interpreter to read while it is still coming up. It is a power of two, as the kernel wants it.
const RequestRoom = 128 << 10

// pipeRoom is how many bytes a pipe holds that has not been widened (pipe(7)).
const pipeRoom = 64 << 10

// newPipes returns the transport and the child's ends of it.
func newPipes() (_ *pipes, stdin, stdout *os.File, err error) {
	in, stdin, err := newPipe("stdin", true)
	if err != nil {
		return nil, nil, nil, err
	}
	widen(in, RequestRoom)
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
			p.page.Ring()
		}
		return writeNow(fd, b)
	})
	return p, stdin, stdout, nil
}

func (p *pipes) Read(b []byte) (int, error) {
	if !p.ended.Load() {
		if n, err := p.out.Read(b); n > 0 || !p.ended.Load() {
			return n, err
		}
	}
	return p.rest(b)
}

func (p *pipes) TryRead(b []byte) (int, error) {
	if p.ended.Load() { // asked first, so that the look finds all that the process has written
		return p.rest(b)
	}
	n, err := p.out.TryRead(b)
	if n == 0 && err != nil && p.ended.Load() { // the error may be of finish's deadline
		return p.rest(b)
	}
	return n, err
}

// rest reads what the process has left behind, and then tells the end of file: a child of its that
// holds the pipe may write for ever, behind that.
func (p *pipes) rest(b []byte) (int, error) {
	b = b[:min(int64(len(b)), p.left.Load())]
	if len(b) == 0 {
		return 0, io.EOF
	}
	for {
		_ = p.out.SetReadDeadline(time.Time{}) // finish has set one that refuses even this; nobody waits any more
		n, err := p.out.TryRead(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // it has set it only now, or somebody interrupts
		case n == 0 && err == nil:
			return 0, io.EOF
		default:
			p.left.Add(int64(-n))
			return n, err
		}
	}
}

func (p *pipes) Write(b []byte) (int, error) {
	if p.ended.Load() {
		return 0, syscall.EPIPE
	}
	n, err := p.in.Write(b)
	if err != nil && p.ended.Load() {
		err = syscall.EPIPE
	}
	return n, err
}

func (p *pipes) TryWrite(b []byte) (int, error) {
	if p.ended.Load() {
		return 0, syscall.EPIPE
	}
	n, err := p.writes.do(b, false)
	if err != nil && p.ended.Load() { // it may be of finish's deadline
		err = syscall.EPIPE
	}
	return n, err
}

// Pending is how many bytes the process has written and nobody has read; ok is false where that
// cannot be known.
func (p *pipes) Pending() (n int, ok bool) { return p.out.unread() }

func (p *pipes) Unwatch() { p.out.Unwatch() }

// finish says that the process has ended. A child of its that holds its ends of the pipes keeps
// nobody waiting. An exchange sets its deadline before it reads or writes, never during that, so
// that this one reaches whoever waits.
func (p *pipes) finish() {
	left, known := p.out.unread() // by now it has written all that it ever will
	if !known {
		left = pipeRoom
	}
	p.left.Store(int64(left))
	p.ended.Store(true)
	_ = p.SetDeadline(time.Unix(1, 0))
}

// attempt is a non-blocking system call on a file. Its closure is made once, so that a call
// allocates nothing. It is not safe for concurrent use.
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

func (p *pipes) SetReadDeadline(t time.Time) error { return p.out.SetReadDeadline(t) }

func (p *pipes) Close() error { return errors.Join(p.in.Close(), p.out.Close()) }

// lateReader reads a pipe that has a deadline. Once that is over it still takes what is there, as
// far as most bytes: a process that has begun to read too late, on a busy machine, would else be
// refused what was written in time.
type lateReader struct {
	f    *os.File
	most int // bytes that are still taken late: who holds the pipe open may write for ever
}

func (r *lateReader) Read(b []byte) (int, error) {
	n, err := r.f.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		late := whatIsThere(r.f, b[:min(len(b), r.most)])
		r.most -= late
		if late > 0 {
			return late, nil
		}
	}
	return n, err
}

// whatIsThere reads without waiting, whatever the deadline. 0: nothing is, or never will be again.
func whatIsThere(f *os.File, b []byte) (n int) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n, _ = readNow(fd, b) })
	return n
}
