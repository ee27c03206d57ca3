//go:build !linux

package shm

import (
	"os"
	"time"
)

// Page does not exist here.
type Page struct{}

// New returns nil: there is no memfd.
func New() (*Page, *os.File) { return nil, nil }

func (*Page) ServiceTime() time.Duration { return 0 }
func (*Page) Spin(time.Duration, bool)   {}
func (*Page) Cancel(uint64)              {}
func (*Page) Shielded() bool             { return false }
func (*Page) Ring()                      {}
func (*Page) Close()                     {}
