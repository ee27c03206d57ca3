//go:build !linux

package proc

import (
	"context"
	"errors"
)

// CanFork says why there can be no fork server here.
func CanFork() error { return errors.New("there are fork servers on Linux only") }

// ForkServer does not exist here.
type ForkServer struct{}

// StartServer fails.
func StartServer(context.Context, *Spawner, Spec) (Process, *ForkServer, error) {
	return nil, nil, CanFork()
}

// Fork fails.
func (*ForkServer) Fork(context.Context) (Process, error) { return nil, CanFork() }

// Lost is never closed.
func (*ForkServer) Lost() <-chan struct{} { return nil }

// PrivateBytes: not known here.
func PrivateBytes(int) int64 { return 0 }

// Close does nothing.
func (*ForkServer) Close() {}
