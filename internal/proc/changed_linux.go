package proc

import (
	"os"
	"syscall"
	"time"
)

// ChangedAt is when a file, its content or its name, was last changed; no program can set it back.
func ChangedAt(info os.FileInfo) time.Time {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(s.Ctim.Unix())
	}
	return info.ModTime()
}
