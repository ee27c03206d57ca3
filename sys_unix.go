//go:build unix

package pypool

import (
	"io"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// extraFiles: descriptors beyond stderr can be handed to a child.
const extraFiles = true

// setGroup puts the child into a process group of its own: ^C at a terminal reaches the host alone, and the group can be
// killed with all that the worker has started.
func setGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	setParentDeath(cmd.SysProcAttr)
}

func killGroup(pid int)      { _ = syscall.Kill(-pid, syscall.SIGKILL) }
func terminateGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGTERM) }
func signalStacks(pid int)   { _ = syscall.Kill(pid, syscall.SIGUSR1) }

func signalName(s syscall.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return s.String()
}

// The errors of package syscall are bare Errnos: compared as such, since errors.Is takes as long as some system calls.

// readNow reads what is there without waiting; the descriptor is in non-blocking mode.
func readNow(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return 0, nil
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// writeNow writes what the pipe takes without waiting.
func writeNow(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), p)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return 0, nil
		case err != nil:
			return 0, err
		}
		return n, nil
	}
}
