package proc

import (
	"os"
	"os/exec"
	"syscall"
)

// ExtraFiles: descriptors beyond stderr cannot be handed to a child.
const ExtraFiles = false

// setGroup keeps ^C at a console from the child. There is no tree kill: docs/guarantees.md.
func setGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

func killGroup(pid int) {
	if p, err := os.FindProcess(pid); err == nil {
		_ = p.Kill()
		_ = p.Release()
	}
}

func killProcess(pid int)      { killGroup(pid) }
func terminateGroup(pid int)   { killGroup(pid) }
func terminateProcess(pid int) { killGroup(pid) }

const stackSignals = 0

func signalStacks(int, int, int) (bool, string) { return false, "" }

// newPipe returns our end of a pipe, which is the writing one if writes, and the child's.
func newPipe(_ string, writes bool) (ours, theirs *os.File, err error) {
	r, w, err := os.Pipe()
	if writes {
		return w, r, err
	}
	return r, w, err
}

func setNonblock(*os.File) error { return nil }

// childHandle: what a launcher such as a virtual environment's python.exe has started is not known.
type childHandle struct{}

func handleOf(int, int) (childHandle, bool) { return childHandle{}, true }

func (childHandle) kill()      {}
func (childHandle) terminate() {}
func (childHandle) close()     {}

func SignalName(s syscall.Signal) string { return s.String() }

// readNow cannot look without waiting on a pipe here; it reports nothing, which costs only the last
// chance of an answer that comes together with the deadline.
func readNow(uintptr, []byte) (int, error) { return 0, nil }

// writeNow accepts nothing: pipelined requests are then written one at a time.
func writeNow(uintptr, []byte) (int, error) { return 0, nil }

// StatFile returns when a file was last modified, in nanoseconds since 1970, and its size.
func StatFile(path string) (changed, size int64, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	return info.ModTime().UnixNano(), info.Size(), nil
}
