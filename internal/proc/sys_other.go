//go:build !linux

package proc

import (
	"context"
	"os"
	"os/exec"
	"time"
)

// Spawner: only Linux has a parent death signal, and so a thread to bind it to.
type Spawner struct{}

func NewSpawner() *Spawner { return &Spawner{} }

// start starts the command. When ctx ends before that has come about, late will bring what comes of
// it.
func (*Spawner) start(ctx context.Context, cmd *exec.Cmd) (late <-chan error, err error) {
	done := make(chan error, 1)
	go func() { done <- cmd.Start() }() // ends with the start
	result, hung := outcomeOf(ctx, done)
	if hung != nil {
		return done, hung
	}
	return nil, result
}

// Close does nothing.
func (*Spawner) Close() {}

// awaitExit does not wait: the process is reaped before its group is killed.
func awaitExit(int) bool { return false }

// newAsks makes both ends of what a process is asked for its stacks by.
func newAsks() (ours, back, theirs *os.File, err error) {
	ours, theirs, err = newPipe("asks", true)
	return ours, nil, theirs, err
}

func ask(asks *os.File) {
	_ = asks.SetWriteDeadline(time.Now().Add(time.Millisecond))
	_, _ = asks.Write([]byte{1})
}

func isStopped(int) bool { return false }

// takeBack: what has been written cannot be taken back.
func takeBack(*os.File) (unread bool) { return false }

// widen: a pipe's size is not to be set.
func widen(*os.File, int) {}

// unreadIn: whether a request had been read when its worker died is not known.
func unreadIn(*os.File) (int, bool) { return 0, false }

func reapGroup(int) {}

func cpuLimit(int) time.Duration { return 0 }

func OOMKills() (uint64, bool) { return 0, false }

func isEnding(int) bool { return false }

// ResidentBytes: not known here, and so MaxRSS has no effect.
func ResidentBytes(int) int64 { return 0 }

func interruptProcess(int) {}
