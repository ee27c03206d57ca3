package peers

import (
	"fmt"
	"strconv"
	"syscall"
)

// Floor is the least that a round trip to Python can cost: bytes over a pipe and back, with
// blocking system calls on the caller's goroutine. Each caller has its own process. It cannot be
// interrupted, so it is no way to build a pool.
type Floor struct {
	processes []*process
	fds       [][2]int // to write to, to read from
	buffers   [][]byte
}

// NewFloor starts n processes that echo messages of size bytes.
func NewFloor(env Env, n, size int) (*Floor, error) {
	all, err := env.startAll(n, env.Python, "floor.py", strconv.Itoa(size))
	if err != nil {
		return nil, err
	}
	f := &Floor{processes: all}
	for _, p := range all {
		fds := [2]int{int(p.in.Fd()), int(p.out.Fd())}
		for _, fd := range fds {
			if err := syscall.SetNonblock(fd, false); err != nil {
				return nil, err
			}
		}
		f.fds = append(f.fds, fds)
		f.buffers = append(f.buffers, make([]byte, size))
	}
	return f, nil
}

// Call sends the buffer and receives it back; the text does not matter.
func (f *Floor) Call(caller int, _ string) error {
	fds, buf := f.fds[caller], f.buffers[caller]
	if err := whole(syscall.Write, fds[0], buf); err != nil {
		return err
	}
	return whole(syscall.Read, fds[1], buf)
}

func whole(op func(int, []byte) (int, error), fd int, buf []byte) error {
	for len(buf) > 0 {
		n, err := op(fd, buf)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return fmt.Errorf("the pipe has ended: %v", err)
		}
		buf = buf[n:]
	}
	return nil
}

func (f *Floor) Close() error { return closeAll(f.processes) }
