//go:build unix

// Package fd keeps descriptors out of the way of 0, 1 and 2. In a host that has closed those, the
// kernel gives their numbers to what is opened next, and a write to a broken pipe of such a number
// would end the process, as Go does it for stdout and stderr.
package fd

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// AboveStderr moves a descriptor that is 0, 1 or 2 out of their way, closed on exec. On an error it
// is closed.
func AboveStderr(n int) (int, error) {
	if n > 2 {
		return n, nil
	}
	moved, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, 3)
	return moved, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(n))
}
