//go:build !linux

package shm

import (
	"os"
	"time"
)

// Page does not exist here.
type Page struct{}

// New returns nil: there is no memfd.
func New(int) (*Page, *os.File) { return nil, nil }

// Memory does not exist here.
type Memory struct{}

func (*Memory) Lend([]byte, ...[]byte) (slot, at int, ok bool) { return 0, 0, false }
func (*Memory) TakeBack([]int)                                 {}
func (*Memory) Take(int, int, int) ([]byte, error)             { return nil, os.ErrInvalid }
func (*Memory) Lent() (places, size int)                       { return 0, 0 }
func (*Memory) Size() int                                      { return 0 }
func (*Memory) Rest()                                          {}

func (*Page) Memory() *Memory            { return nil }
func (*Page) ServiceTime() time.Duration { return 0 }
func (*Page) Spin(time.Duration, bool)   {}
func (*Page) Cancel(uint64)              {}
func (*Page) Shielded() bool             { return false }
func (*Page) Retires() bool              { return false }
func (*Page) Ring()                      {}
func (*Page) Close()                     {}
