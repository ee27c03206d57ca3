//go:build linux

package pypool

import (
	"context"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A worker that has ended is told of at once, or is found by who asks for its stacks; whichever
// comes first, it is not there any more.
func TestStacksOfAWorkerThatHasJustEnded(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Script: script(t, "import os\nfrom pypool import command\n@command\ndef f(): return 1\n"), Size: 1, Overflow: -1})
	for range 3 {
		w := p.Workers()[0]
		process, err := os.FindProcess(w.PID)
		require.NoError(t, err)
		require.NoError(t, process.Signal(syscall.SIGKILL))
		eventually(t, "its process has ended", func() bool {
			_, err := p.Stacks(t.Context(), w.ID)
			if err == nil {
				return false
			}
			e := failure(t, err, ErrInvalidArguments)
			require.Contains(t, e.Message, "there is no worker "+w.ID+"; there are: ")
			require.NotContains(t, e.Message, "there are: "+w.ID)
			return true
		})
		eventually(t, "it is replaced", func() bool {
			list := p.Workers()
			return len(list) == 1 && list[0].ID != w.ID && list[0].State == workerIdle
		})
	}
}

// Who is told by Shutdown's silence that something runs on may ask what.
func TestStacksOfTheCallThatShutdownWaitsFor(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	held := hold(t, t.Context(), p, "")
	w := p.Workers()[0]
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(context.Background()) }() // joined by done
	eventually(t, "the pool is closing", func() bool { return isClosed(p.sup.done) })
	require.Contains(t, stacksOf(t, p, w.ID), "in hold")
	held.finish(t)
	require.NoError(t, <-done)
	_, err := p.Stacks(t.Context(), w.ID)
	failsWith(t, err, ErrPoolClosed, NotExecuted)
}
