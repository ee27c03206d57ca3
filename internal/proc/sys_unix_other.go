//go:build unix && !linux

package proc

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// setParentDeath: there is no parent death signal; workers end at end of file on their stdin.
func setParentDeath(*syscall.SysProcAttr) {}

// pipeCloexec: a child that is forked in between must not inherit the ends.
func pipeCloexec(ends []int) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := unix.Pipe(ends); err != nil {
		return err
	}
	unix.CloseOnExec(ends[0])
	unix.CloseOnExec(ends[1])
	return nil
}

const stackSignals = 1

func signalStacks(_, leader, python int) (sent bool, why string) {
	pid := leader
	if python != 0 {
		pid = python
	}
	_ = syscall.Kill(pid, syscall.SIGUSR1)
	_ = syscall.Kill(pid, syscall.SIGCONT) // one that is stopped would not hear it
	return true, "code in the worker has taken, ignored or blocked SIGUSR1, or the process did not run"
}

// childHandle names a process that is no child of ours, 0: none. Its pid may be another's once it
// is reaped, so that it is signaled only as long as it is in its group.
type childHandle struct{ pid, leader int }

func handleOf(pid, leader int) (childHandle, bool) {
	return childHandle{pid, leader}, inGroup(pid, leader)
}

func (c childHandle) signal(s syscall.Signal) {
	if c.pid != 0 && inGroup(c.pid, c.leader) {
		_ = syscall.Kill(c.pid, s)
	}
}

func (c childHandle) kill()      { c.signal(syscall.SIGKILL) }
func (c childHandle) terminate() { c.signal(syscall.SIGTERM) }
func (c childHandle) close()     {}
