//go:build !linux

package pypool

import (
	"os"
	"os/exec"
	"time"
)

// spawner: only Linux has a parent death signal, and so a thread to bind it to.
type spawner struct{}

func newSpawner() *spawner                 { return &spawner{} }
func (*spawner) start(cmd *exec.Cmd) error { return cmd.Start() }
func (*spawner) close()                    {}

// awaitExit does not wait: the process is reaped before its group is killed.
func awaitExit(int) bool { return false }

// sharedPage does not exist here: whether a request had begun when its worker died is not known.
type sharedPage struct{}

func newSharedPage() (*sharedPage, *os.File) { return nil, nil }

func (*sharedPage) begun() uint64              { return 0 }
func (*sharedPage) worked() time.Duration      { return 0 }
func (*sharedPage) linger(time.Duration, bool) {}
func (*sharedPage) ring()                      {}
func (*sharedPage) close()                     {}

func giveWay() {}

func isEnding(int) bool { return false }

// residentBytes: not known here, and so MaxRSS has no effect.
func residentBytes(int) int64 { return 0 }
