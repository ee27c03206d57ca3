//go:build linux

package pypool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// stacksOf is the worker's stacks, asked for again where a busy machine has not let them come in time.
func stacksOf(t testing.TB, p *Pool, id string) (text string) {
	t.Helper()
	var err error
	eventually(t, "stacks come", func() bool {
		text, err = p.Stacks(t.Context(), id)
		return !errors.Is(err, ErrOperationTimeout)
	})
	require.NoError(t, err)
	require.Contains(t, text, "most recent call first")
	return text
}

func TestStacksOfAnIdleAndABusyWorker(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	before := pids(p)
	h := hold(t, t.Context(), p, "")
	for range 20 {
		for _, w := range p.Workers() {
			text := stacksOf(t, p, w.ID)
			assert.Equal(t, w.State == workerBusy, strings.Contains(text, "in hold"), "%s: %s", w.State, text)
			if w.State == workerIdle { // its answer may still be on its way out of write(2)
				assert.Contains(t, text, "in serve\n")
			}
		}
		executed(t, p, "echo", args{"value": 1}) // on the idle one
	}
	h.finish(t)
	assert.Equal(t, before, pids(p), "nobody was disturbed")
	assert.Zero(t, accounted(t, p).Failed)
}

// While a call hangs, and at its deadline, when the pool itself asks.
func TestStacksOfAHungWorker(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.CancelGrace, cfg.KillGrace = -1, 10*time.Second // a busy machine takes its time
	p := newPool(t, cfg)
	id := p.Workers()[0].ID
	hung := inBackground(1, func(int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "busy_loop_of_the_test", nil, WithTimeout(700*time.Millisecond))
	})
	eventually(t, "the handler runs", func() bool { return strings.Contains(stacksOf(t, p, id), "busy_loop_of_the_test") })
	stop := make(chan struct{})
	asked := inBackground(4, func(int) (Result, error) {
		for !isClosed(stop) {
			if text, err := p.Stacks(context.Background(), id); err == nil {
				assert.Contains(t, text, "busy_loop_of_the_test")
			}
		}
		return Result{}, nil
	})
	err := hung()[0].err
	close(stop)
	asked()
	require.ErrorIs(t, err, ErrOperationTimeout)
	require.Contains(t, detail[*HangError](t, err).Stacks, "busy_loop_of_the_test")
	eventually(t, "it is replaced", func() bool { return serving(p) })
	e := failure(t, func() error { _, err := p.Stacks(t.Context(), id); return err }(), ErrInvalidArguments)
	assert.Contains(t, e.Message, "there is no worker "+id+"; there are: "+p.Workers()[0].ID)
}

func TestStacksOfAWorkerWithConcurrentCalls(t *testing.T) {
	t.Parallel()
	p := sharedPool(t, 1, nil)
	id := p.Workers()[0].ID
	open := sideBySide(t, p, 8, "hold")
	for range 5 {
		text := stacksOf(t, p, id)
		assert.Equal(t, 8, strings.Count(text, ", hold:\nTask of the call"), text)
		assert.Contains(t, []int{8, 9}, strings.Count(text, "in hold"), text) // one of them may be what the loop runs
	}
	// Calls that come and go meanwhile: whoever ends has no stack.
	stop := traffic(t, p, 8, "nap", args{"seconds": 0})
	for range 30 {
		stacksOf(t, p, id)
	}
	require.Empty(t, stop())
	allWell(t, open())
	require.Zero(t, accounted(t, p).Failed)
}

// Who is asked for its stack while its deadline passes has both.
func TestStacksBesideTheEndOfAConcurrentCall(t *testing.T) {
	t.Parallel()
	p := sharedPool(t, 1, func(c *Config) { c.KillGrace = stackGrace })
	id := p.Workers()[0].ID
	stop := make(chan struct{})
	asked := inBackground(1, func(int) (Result, error) {
		for !isClosed(stop) {
			if _, err := p.Stacks(context.Background(), id); err != nil {
				return Result{}, err
			}
		}
		return Result{}, nil
	})
	for _, out := range inBackground(8, func(int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "nap", args{"seconds": 60}, WithTimeout(500*time.Millisecond))
	})() {
		require.ErrorIs(t, out.err, ErrOperationTimeout)
		require.Contains(t, detail[*HangError](t, out.err).Stacks, "in nap")
	}
	close(stop)
	allWell(t, asked())
	executed(t, p, "nap", args{"seconds": 0})
}

func TestStacksOfAWorkerThatIsStarting(t *testing.T) {
	executedOnly(t)
	t.Parallel()
	gate := newLatch(t)
	p := newPool(t, Config{Script: script(t, "def load():\n    open("+strconv.Quote(gate.path)+").read()\nload()\n"), Python: realPython(), Size: 1, Overflow: -1, MinReady: -1, Logger: testLogger(t)})
	eventually(t, "it imports", func() bool {
		workers := p.Workers()
		if len(workers) == 0 {
			return false
		}
		text, _ := p.Stacks(t.Context(), workers[0].ID)
		return strings.Contains(text, "in load")
	})
	gate.release(t)
	eventually(t, "it serves", func() bool { return serving(p) })
}

func TestStacksThatDoNotCome(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Script: script(t, deafWorker), Python: realPython(), Size: 1, Overflow: -1, Logger: testLogger(t)})
	id := p.Workers()[0].ID
	gate, begun := newLatch(t), newNotes(t)
	done := inBackground(1, func(int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "hold_gil", args{"gate": gate.path, "mark": begun.path})
	})
	eventually(t, "it runs", func() bool { return len(begun.read()) == 1 })
	var err error
	eventually(t, "it holds the GIL", func() bool {
		_, err = p.Stacks(t.Context(), id)
		return err != nil
	})
	e := failure(t, err, ErrOperationTimeout)
	assert.Equal(t, id, e.Context.Worker)
	assert.Contains(t, e.Message, "no stacks: code in the worker ignores the signals for a stack dump")
	assert.NotEmpty(t, detail[*HangError](t, err).NoStacks)
	gate.release(t)
	allWell(t, done())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.Stacks(ctx, id)
	require.Error(t, err)
	require.NoError(t, p.Close())
	_, err = p.Stacks(t.Context(), id)
	require.ErrorIs(t, err, ErrPoolClosed)
	var none *Pool
	_, err = none.Stacks(t.Context(), id)
	require.ErrorIs(t, err, ErrPoolClosed)
}

func TestStacksOfAStoppedWorkerAreThoseOfWhereItWas(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	h := hold(t, t.Context(), p, "")
	require.NoError(t, syscall.Kill(pids(p)[0], syscall.SIGSTOP))
	eventually(t, "each of its threads has stopped", func() bool { return allThreadsAre("T", pids(p)[0]) })
	assert.Contains(t, stacksOf(t, p, p.Workers()[0].ID), "in hold")
	h.finish(t)
}

func allThreadsAre(state string, pid int) bool {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range stats {
		stat, _ := os.ReadFile(path)
		if _, after, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(after, state) {
			return false
		}
	}
	return len(stats) > 0
}

// A forked worker is in its slot from its @setup on; the import is for all of them.
func TestAForkedWorkerHasItsSlotFromItsSetupOn(t *testing.T) {
	t.Parallel()
	cfg := forkConfig(t, 2, `
import os
from pypool import command, current_worker, setup

try:
    AT_IMPORT = current_worker().slot
except LookupError as error:
    AT_IMPORT = str(error)
IN_SETUP = []

@setup
def note():
    IN_SETUP.extend([current_worker().slot, os.environ["DEVICE"]])

@command
def place():
    return [AT_IMPORT, *IN_SETUP, current_worker().slot, os.environ["DEVICE"], current_worker().id]
`)
	cfg.WorkerEnv = func(slot int) []string { return []string{"DEVICE=" + strconv.Itoa(slot)} }
	p := newPool(t, cfg)
	seen := map[float64]bool{}
	eventually(t, "both slots have answered", func() bool {
		for _, out := range inBackground(2, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "place", nil) })() {
			require.NoError(t, out.err)
			got := decoded[[]any](t, out.res)
			assert.Contains(t, got[0], "the script is imported once for all workers")
			slot := got[1].(float64)
			assert.Equal(t, []any{slot, strconv.Itoa(int(slot)), slot, strconv.Itoa(int(slot)), out.res.Worker()}, got[1:])
			seen[slot] = true
		}
		return len(seen) == 2
	})
	for _, w := range p.Workers() {
		assert.Contains(t, stacksOf(t, p, w.ID), "most recent call first")
	}
	require.NoError(t, p.Resize(t.Context(), 3))
	hasSize(t, p, 3)
}

// deafWorker ignores the signals for a stack dump.
const deafWorker = `
import ctypes, os, signal, threading
from pypool import command

for number in (signal.SIGUSR1, 62):
    signal.signal(number, signal.SIG_IGN)

@command
def hold_gil(gate: str, mark: str):
    "Wait for the gate, a FIFO, in C code that does not give the GIL back."
    with open(mark, "a") as out:
        out.write("begun\n")
    os.close(ctypes.PyDLL(None).open(gate.encode(), os.O_RDONLY))

@command
def spin(gate: str, mark: str):
    with open(mark, "a") as out:
        out.write("begun\n")
    while not os.path.exists(gate):
        pass

@command
def spread(threads: int, depth: int):
    "Threads that are this deep each, and end when the process does."
    begun = threading.Barrier(threads + 1)
    def down(left: int):
        if left:
            return down(left - 1)
        begun.wait()
        threading.Event().wait()
    for _ in range(threads):
        threading.Thread(target=down, args=(depth,), daemon=True).start()
    begun.wait()

@command
def take_asks():
    "Put a pipe of the handler's own in the place of the runtime's."
    import fcntl, stat
    from pypool._channel import OURS
    mine, out = os.pipe()
    os.write(out, b"kept")
    for number in map(int, os.listdir("/dev/fd")):
        try:
            mode = os.fstat(number).st_mode
            pipe = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY and stat.S_ISFIFO(mode)
            if number >= 100 and (pipe or stat.S_ISSOCK(mode)) and number != OURS.channel.fd_in:
                os.dup2(mine, number)
                return number
        except OSError:
            pass

@command
def read(number: int):
    return os.read(number, 100).decode()
`

// A thread of the runtime writes them, which has the GIL: code that has taken the signals does not
// hinder it, and the frames of the others stand still.
func TestStacksNeedNoSignal(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Script: script(t, deafWorker), Python: realPython(), Size: 1, Overflow: -1, Logger: testLogger(t)})
	id := p.Workers()[0].ID
	gate, begun := newLatchFile(t), newNotes(t)
	done := inBackground(1, func(int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "spin", args{"gate": string(gate), "mark": begun.path})
	})
	eventually(t, "it runs", func() bool { return len(begun.read()) == 1 })
	for range 20 {
		text := stacksOf(t, p, id)
		require.Contains(t, text, "in spin")
		require.Equal(t, 1, strings.Count(text, "Current thread"), text)
		current := text[strings.Index(text, "Current thread"):]
		require.Contains(t, current, "in spin", "the main thread is called so")
		require.NotContains(t, text, "in watch", "the thread that writes them is left out")
	}
	gate.open(t)
	allWell(t, done())
}

func TestStacksOfManyDeepThreadsHoldNobodyUp(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Script: script(t, deafWorker), Python: realPython(), Size: 1, Overflow: -1, Logger: testLogger(t)})
	id := p.Workers()[0].ID
	executed(t, p, "spread", args{"threads": 90, "depth": 90})
	for range 5 {
		require.GreaterOrEqual(t, strings.Count(stacksOf(t, p, id), "hread 0x"), 20)
		require.Equal(t, id, p.Workers()[0].ID)
		executed(t, p, "ping", nil)
	}
}

// The runtime reads nothing that is a handler's.
func TestStacksWhenTheirPipeIsAnotherFile(t *testing.T) {
	executedOnly(t)
	t.Parallel()
	listening := strings.Replace(deafWorker, "in (signal.SIGUSR1, 62)", "in ()", 1)
	p := newPool(t, Config{Script: script(t, listening), Python: realPython(), Size: 1, Overflow: -1, Logger: testLogger(t)})
	id := p.Workers()[0].ID
	number := decoded[int](t, executed(t, p, "take_asks", nil))
	require.GreaterOrEqual(t, number, 100)
	for range 2 {
		stacksOf(t, p, id)
	}
	require.Equal(t, "kept", decoded[string](t, executed(t, p, "read", []any{number})))
}
