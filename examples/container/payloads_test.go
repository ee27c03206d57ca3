//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/pypool/pypool"
)

// The memory that payloads lie in is shared, and counts for the container as the workers' own does.
func TestPayloadsThatPassTheMemoryLimitCostTheirWorker(t *testing.T) {
	c := start(t, limited(t, 400<<20), asPayloads)
	require.NoError(t, c.cmd.Wait(), c.said())
}

const asPayloads = "-payloads" // the service does callWithPayloads instead

const payloadWorker = `
from pypool import command

@command
def make(size: int) -> bytes:
    return b"x" * size

@command
def echo(data: bytes) -> bytes:
    return data

@command
def copies(data: memoryview, n: int) -> int:
    return len([bytearray(data) for _ in range(n)])
`

// callWithPayloads passes the container's limit with payloads in both directions, and has others
// travel in between. What this process itself has of them is small: the race detector keeps several
// times as much beside.
func callWithPayloads() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg := pypool.Config{
		Files: fstest.MapFS{"worker.py": {Data: []byte(payloadWorker)}}, Script: "worker.py",
		Size: 2, Overflow: -1, MaxMessageBytes: 1 << 30, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		RestartBackoff: pypool.Backoff{Min: 10 * time.Millisecond}, Breaker: pypool.Breaker{Failures: -1},
	}
	pool, err := pypool.New(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	killed := func(what string, err error) error {
		var exit *pypool.ExitError
		if !errors.Is(err, pypool.ErrWorkerExited) || !errors.As(err, &exit) || !exit.OOM {
			return fmt.Errorf("%s: not the end of its worker for want of memory: %w", what, err)
		}
		return nil
	}
	for range 3 {
		_, err := pypool.Call[[]byte](ctx, pool, "make", []any{300 << 20})
		if err = killed("a result", err); err != nil {
			return err
		}
		_, err = pypool.Call[int](ctx, pool, "copies", []any{make([]byte, 8<<20), 64})
		if err = killed("an argument", err); err != nil {
			return err
		}
		var calls errgroup.Group
		for i := range 4 {
			calls.Go(func() error {
				want := bytes.Repeat([]byte{byte(i)}, 1<<20)
				got, err := pypool.Call[[]byte](ctx, pool, "echo", []any{want})
				if err == nil && !bytes.Equal(want, got) {
					err = errors.New("bytes of another call's")
				}
				return err
			})
		}
		if err := calls.Wait(); err != nil {
			return err
		}
	}
	return nil
}
