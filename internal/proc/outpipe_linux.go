package proc

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pypool/pypool/internal/fd"
)

// outPipe is our end of a worker's stdout. A pipe that Go's network poller watches wakes one of the
// poller's threads at each write, which costs the worker as much again as the write; in vain, when
// the answer is polled for, or gathered with others. So the poller gets an epoll set in place of
// the pipe, and the set watches the pipe only while somebody waits for it.
type outPipe struct {
	set     *os.File        // Close waits until nobody is inside a method of it, and the pipe is used nowhere else
	raw     syscall.RawConn // of set
	pipe    int             // in non-blocking mode
	watched bool            // by the set
	reads   *attempt
}

// newOutPipe returns our end of a pipe and the child's.
func newOutPipe() (_ *outPipe, theirs *os.File, err error) {
	ends, err := rawPipe()
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(ends[1]), "stdout")
	o := &outPipe{pipe: ends[0], watched: true}
	if o.set, err = newWatch(o.pipe); err != nil {
		return nil, nil, errors.Join(err, unix.Close(o.pipe), theirs.Close())
	}
	if o.raw, err = o.set.SyscallConn(); err != nil {
		return nil, nil, errors.Join(err, o.Close(), theirs.Close())
	}
	o.reads = newAttempt(o.raw.Read, func(_ uintptr, p []byte) (int, error) { return readNow(uintptr(o.pipe), p) })
	return o, theirs, nil
}

// newWatch returns an epoll set that watches the pipe. Being in non-blocking mode, as the pipe from
// now on, it is the poller's.
func newWatch(pipe int) (*os.File, error) {
	set, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err == nil {
		set, err = fd.AboveStderr(set)
	}
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	err = errors.Join(unix.SetNonblock(pipe, true), unix.SetNonblock(set, true),
		os.NewSyscallError("epoll_ctl", unix.EpollCtl(set, unix.EPOLL_CTL_ADD, pipe, &unix.EpollEvent{Events: unix.EPOLLIN})))
	if err != nil {
		return nil, errors.Join(err, unix.Close(set))
	}
	return os.NewFile(uintptr(set), "stdout"), nil
}

// Read waits for bytes.
func (o *outPipe) Read(p []byte) (int, error) {
	o.watch(true)
	return o.reads.do(p, true)
}

// TryRead reads what is there.
func (o *outPipe) TryRead(p []byte) (int, error) { return o.reads.do(p, false) }

// Unwatch lets nothing be woken by what comes, until the next Read.
func (o *outPipe) Unwatch() { o.watch(false) }

func (o *outPipe) watch(on bool) {
	if o.watched == on {
		return
	}
	o.watched = on
	var events uint32 // none: of the pipe's end alone the poller is told even so
	if on {
		events = unix.EPOLLIN
	}
	_ = o.raw.Control(func(set uintptr) {
		_ = unix.EpollCtl(int(set), unix.EPOLL_CTL_MOD, o.pipe, &unix.EpollEvent{Events: events})
	})
}

func (o *outPipe) SetReadDeadline(t time.Time) error { return o.set.SetReadDeadline(t) }

// Close interrupts a Read. Once the set is closed it does nothing: the pipe's number may be another
// file's by then.
func (o *outPipe) Close() error {
	err := o.set.Close()
	if errors.Is(err, os.ErrClosed) {
		return err
	}
	return errors.Join(err, unix.Close(o.pipe))
}

// SyscallConn is the set's.
func (o *outPipe) SyscallConn() (syscall.RawConn, error) { return o.set.SyscallConn() }

// descriptors are those that SyscallConn does not tell.
func (o *outPipe) descriptors() []uintptr { return []uintptr{uintptr(o.pipe)} }

// unread counts the bytes in the pipe.
func (o *outPipe) unread() (n int, ok bool) {
	var err error
	ctlErr := o.raw.Control(func(uintptr) { n, err = unix.IoctlGetInt(o.pipe, unix.TIOCINQ) })
	return n, ctlErr == nil && err == nil
}
