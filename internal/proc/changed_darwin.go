package proc

import (
	"os"
	"syscall"
	"time"
)

// ChangedAt is as on Linux.
func ChangedAt(info os.FileInfo) time.Time {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(s.Ctimespec.Unix())
	}
	return info.ModTime()
}
