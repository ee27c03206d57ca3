//go:build unix

package proc

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pypool/pypool/internal/fd"
)

// ExtraFiles: descriptors beyond stderr can be handed to a child.
const ExtraFiles = true

// setGroup puts the child into a process group of its own: ^C at a terminal reaches the host alone,
// and the group can be killed with all that the worker has started. Not into a session of its own:
// Linux (autogroup) would share the processors out between the sessions then, and a worker would
// wait several times as long for one on a busy machine. The runtime gives up the terminal itself.
func setGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	setParentDeath(cmd.SysProcAttr)
}

// rawPipe is pipe(2), its ends closed on exec, reading end first, and neither of them 0, 1 or 2:
// see package fd.
func rawPipe() (ends [2]int, err error) {
	if err = pipeCloexec(ends[:]); err != nil {
		return ends, os.NewSyscallError("pipe", err)
	}
	if ends[0], err = fd.AboveStderr(ends[0]); err != nil {
		return ends, errors.Join(err, unix.Close(ends[1]))
	}
	if ends[1], err = fd.AboveStderr(ends[1]); err != nil {
		return ends, errors.Join(err, unix.Close(ends[0]))
	}
	return ends, nil
}

// newPipe returns our end of a pipe, which is the writing one if writes, and the child's.
func newPipe(name string, writes bool) (ours, theirs *os.File, err error) {
	ends, err := rawPipe()
	if err != nil {
		return nil, nil, err
	}
	our, their := ends[0], ends[1]
	if writes {
		our, their = their, our
	}
	if err := unix.SetNonblock(our, true); err != nil { // so that it has deadlines
		return nil, nil, errors.Join(err, unix.Close(our), unix.Close(their))
	}
	return os.NewFile(uintptr(our), name), os.NewFile(uintptr(their), name), nil
}

// onDescriptor does something with the file's number, while it cannot be closed. The file stays as
// it is, which (*os.File).Fd does not promise.
func onDescriptor(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = do(int(fd)) })
	return errors.Join(err, failed)
}

func setNonblock(f *os.File) error {
	return onDescriptor(f, func(fd int) error { return unix.SetNonblock(fd, true) })
}

func killGroup(pid int)        { _ = syscall.Kill(-pid, syscall.SIGKILL) }
func killProcess(pid int)      { _ = syscall.Kill(pid, syscall.SIGKILL) }
func terminateGroup(pid int)   { _ = syscall.Kill(-pid, syscall.SIGTERM) }
func terminateProcess(pid int) { _ = syscall.Kill(pid, syscall.SIGTERM) }

// inGroup reports whether the process is in the group that leader leads.
func inGroup(pid, leader int) bool {
	group, err := unix.Getpgid(pid)
	return err == nil && group == leader
}

func SignalName(s syscall.Signal) string {
	if name := unix.SignalName(s); name != "" {
		return name
	}
	return s.String()
}

// The errors of package syscall are bare Errnos: compared as such, since errors.Is takes as long as
// some system calls.

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

// StatFile returns when a file was last changed in any way, in nanoseconds since 1970, which no
// program can set back, and its size.
func StatFile(path string) (changed, size int64, err error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return s.Ctim.Nano(), s.Size, nil
}
