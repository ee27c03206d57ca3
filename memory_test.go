//go:build linux

package pypool

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/wire"
)

const memoryScript = `
import os, sys, threading
import pypool
from pypool import command, host

KEPT = {}

class Cycle:
    def __init__(self, view): self.view, self.me = view, self

@command
def keep(a: pypool.Array, how: int, sum: int):
    "Keep it in a way of many, look at another one that was kept, and give it back."
    view = a.data
    for key in list(KEPT):
        if len(KEPT) > 6: KEPT.pop(key)
    if how % 5 == 1: KEPT[len(KEPT)] = (view[3:], view[3:].tobytes())
    if how % 5 == 2: Cycle(view[5:])
    if how % 5 == 3:
        try: raise ValueError(view)
        except ValueError as error: KEPT[len(KEPT) + 100] = (error.args[0], view.tobytes())
    if how % 5 == 4:
        threading.Thread(target=lambda: view.tobytes()).start()
    for kept, copy in KEPT.values():
        if kept.tobytes() != copy: raise AssertionError("what was kept has changed")
    return a

@command
def forks(a: pypool.Array):
    KEPT["forked"] = (a.data, a.data.tobytes())
    pid = os.fork()
    if not pid: os._exit(0)
    os.waitpid(pid, 0)
    return a

@command
def misuses(a: pypool.Array):
    "Close it, write to it, keep a part: all that is the handler's own trouble."
    part = a.data[100:200]
    wrong = 0
    try: a.data[0] = 1
    except TypeError: wrong += 1
    a.data.release()
    KEPT["part"] = (part, part.tobytes())
    return wrong
`

// memoryPool is a pool of one worker with memory for payloads, of which all are put there.
func memoryPool(t *testing.T, limit int) *Pool {
	t.Helper()
	if os.Getenv("PYPOOL_TEST_PAYLOADS") == "pipe" {
		t.Skip("payloads are to take the pipe alone")
	}
	old := wire.SetMinLent(1)
	t.Cleanup(func() { wire.SetMinLent(old) })
	p := newPool(t, Config{Script: script(t, memoryScript), Size: 1, Overflow: -1, MaxMessageBytes: limit})
	return p
}

// lent is how many places of its memory the pool's one worker has; -1: it has no memory.
func lent(t *testing.T, p *Pool) (places int) {
	t.Helper()
	p.sup.mu.Lock()
	defer p.sup.mu.Unlock()
	for w := range p.sup.live {
		if w.x.memory == nil {
			return -1
		}
		places, _ = w.x.memory.Lent()
		return places
	}
	return -1
}

// PYPOOL_TEST_MEMORY_CALLS makes it longer.
func TestKeptPayloadsInMemoryStayAsTheyWere(t *testing.T) {
	calls := 1500
	if n, err := strconv.Atoi(os.Getenv("PYPOOL_TEST_MEMORY_CALLS")); err == nil {
		calls = n
	}
	p := memoryPool(t, 1<<20)
	require.NotEqual(t, -1, lent(t, p), "the worker has memory")
	random := rand.New(rand.NewPCG(7, 7))
	ctx := context.Background()
	for i := range calls {
		n := 1 + random.IntN(1<<(1+random.IntN(18)))
		x := pattern(n)
		want := bytes.Clone(x)
		got, err := Call[Array](ctx, p, "keep", []any{ArrayOf(x), i, 0})
		clear(x)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got.Data), "call %d of %d bytes", i, n)
	}
}

func TestWhatAForkedChildHasIsNotUsedAgain(t *testing.T) {
	p := memoryPool(t, 1<<20)
	ctx := context.Background()
	before := lent(t, p)
	for i := range 3 {
		x := pattern(5000 + i)
		got, err := Call[Array](ctx, p, "forks", []any{ArrayOf(x)})
		require.NoError(t, err)
		require.True(t, bytes.Equal(x, got.Data))
	}
	require.Equal(t, before+3, lent(t, p))
}

func TestAHandlerMisusesItsView(t *testing.T) {
	p := memoryPool(t, 1<<20)
	n, err := Call[int](context.Background(), p, "misuses", []any{ArrayOf(pattern(5000))})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = Call[Array](context.Background(), p, "keep", []any{ArrayOf(pattern(5000)), 0, 0})
	require.NoError(t, err)
}
