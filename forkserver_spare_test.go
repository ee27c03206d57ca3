//go:build linux

package pypool

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// theSpare waits until a pool has forked one process ahead, and returns it.
func theSpare(t testing.TB, p *Pool) (pid int) {
	t.Helper()
	eventually(t, "there is one spare", func() bool {
		list := sparesOf(p)
		if len(list) == 1 {
			pid = list[0]
		}
		return len(list) == 1
	})
	return pid
}

// What the script has made of the sockets' default must not end a spare that waits for long.
const whoDraws = `
import random, socket
socket.setdefaulttimeout(0.05)
imported = os.getpid()
prepared = []
os.register_at_fork(after_in_child=lambda: prepared.append(os.getpid()))
@command
def who():
    return [os.getpid(), os.getpgrp(), os.getppid()]
@command
def draw():
    return random.random()
@command
def forked():
    return [os.getpid(), prepared[-1]]
@command
def version():
    return 1
@command
def leave():
    os._exit(3)
`

func TestASpareBecomesTheNextWorker(t *testing.T) {
	p := newPool(t, forkConfig(t, 1, whoDraws))
	server := theServer(t, p)
	drawn := map[float64]bool{}
	for range 3 {
		drawn[decoded[float64](t, executed(t, p, "draw", nil))] = true
		spare := theSpare(t, p)
		require.NotContains(t, pids(p), spare, "it is no worker")
		require.Equal(t, 1, p.Stats().Workers)
		_, err := p.ExecuteAnonymous(t.Context(), "leave", nil)
		failure(t, err, ErrWorkerExited)
		require.Equal(t, []int{spare, spare, server}, decoded[[]int](t, executed(t, p, "who", nil)), "in a group of its own")
		require.Equal(t, []int{spare, spare}, decoded[[]int](t, executed(t, p, "forked", nil)))
	}
	require.Len(t, drawn, 3, "each has a seed of its own")
	require.EqualValues(t, 4, p.Stats().WorkersStarted)
}

// A spare that is killed leaves no zombie, and whoever asks for a worker next notices nothing.
func TestALostSpareIsMissedByNobody(t *testing.T) {
	p := newPool(t, forkConfig(t, 2, whoDraws))
	spare := theSpare(t, p)
	require.NoError(t, syscall.Kill(spare, syscall.SIGKILL))
	eventually(t, "it is reaped, and no other is made for nobody", func() bool { return len(sparesOf(p)) == 0 })
	_, err := p.ExecuteAnonymous(t.Context(), "leave", nil)
	failure(t, err, ErrWorkerExited)
	eventually(t, "the worker is replaced", func() bool { return serving(p) })
	require.NotEqual(t, spare, theSpare(t, p))
	require.EqualValues(t, 3, p.Stats().WorkersStarted, "no start has failed")
}

// A spare has what its server has imported, so that it goes with it.
func TestASpareGoesWithItsServer(t *testing.T) {
	cfg := forkConfig(t, 2, whoDraws)
	p, err := New(t.Context(), cfg)
	require.NoError(t, err)
	defer p.Close()
	first := theSpare(t, p)

	text, err := os.ReadFile(cfg.Script)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cfg.Script, []byte(strings.Replace(string(text), "return 1", "return 22", 1)), 0o600))
	require.NoError(t, p.Reload(t.Context()))
	gone(t, first)
	for range 3 {
		require.Equal(t, 22, decoded[int](t, executed(t, p, "version", nil)))
		_, err := p.ExecuteAnonymous(t.Context(), "leave", nil)
		failure(t, err, ErrWorkerExited)
	}

	eventually(t, "the workers are replaced", func() bool { return serving(p) })
	server := theServer(t, p)
	second := theSpare(t, p)
	require.NoError(t, syscall.Kill(server, syscall.SIGKILL))
	gone(t, second)
	_, err = p.ExecuteAnonymous(t.Context(), "leave", nil)
	failure(t, err, ErrWorkerExited)
	eventually(t, "there is another server", func() bool { list := serversOf(p); return serving(p) && len(list) == 1 && list[0] != server })

	third := theSpare(t, p)
	require.NoError(t, p.Shutdown(t.Context()))
	gone(t, third)
}
