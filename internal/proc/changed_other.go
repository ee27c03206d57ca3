//go:build !linux && !darwin

package proc

import (
	"os"
	"time"
)

// ChangedAt is when a file was last modified, or said to be.
func ChangedAt(info os.FileInfo) time.Time { return info.ModTime() }
