package pypool

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// summedUp asserts that the commands' figures sum up to the pool's, and returns them.
func summedUp(t *testing.T, p *Pool) map[string]CommandStats {
	t.Helper()
	st := p.Stats()
	var sum CommandStats
	sum.ByType = map[ErrorType]int64{}
	for name, c := range st.ByCommand {
		require.Equal(t, c.Started, c.Succeeded+c.Failed+c.InFlight, name)
		require.Positive(t, c.Started, name)
		sum.Started += c.Started
		sum.Succeeded += c.Succeeded
		sum.Failed += c.Failed
		sum.InFlight += c.InFlight
		for typ, n := range c.ByType {
			sum.ByType[typ] += n
		}
		sum.CheckoutWait.Count += c.CheckoutWait.Count
		sum.CheckoutWait.Sum += c.CheckoutWait.Sum
		sum.Run.Count += c.Run.Count
		sum.Run.Sum += c.Run.Sum
		sum.Run.Max = max(sum.Run.Max, c.Run.Max)
		assert.Equal(t, c.Run.Count, c.Run.UpTo(c.Run.Max), name)
	}
	require.Equal(t, []int64{st.Started, st.Succeeded, st.Failed, st.InFlight}, []int64{sum.Started, sum.Succeeded, sum.Failed, sum.InFlight})
	require.Equal(t, st.ByType, sum.ByType)
	require.Equal(t, []any{st.CheckoutWait.Count, st.CheckoutWait.Sum, st.Run.Count, st.Run.Sum, st.Run.Max},
		[]any{sum.CheckoutWait.Count, sum.CheckoutWait.Sum, sum.Run.Count, sum.Run.Sum, sum.Run.Max})
	return st.ByCommand
}

const commandsOfStats = `
import asyncio
from pypool import command, program

@command
def plain(n=0):
    return n

@command
def bad():
    raise ValueError("bad")

@command
def items(n):
    yield from range(n)

@command(max_batch_size=8)
def batch(n):
    return n

@command(concurrency=8)
async def shared(n=0):
    await asyncio.sleep(0.001)
    return n

@program("p")
def run():
    return 1
`

func TestStatsByCommand(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Script: script(t, commandsOfStats), Python: realPython(), Size: 2, Overflow: -1})
	ctx := t.Context()
	require.Empty(t, summedUp(t, p))
	for range 3 {
		_, err := p.ExecuteAnonymous(ctx, "plain", nil)
		require.NoError(t, err)
		_, err = p.ExecuteInSession(ctx, "s", "bad", nil)
		require.ErrorIs(t, err, ErrPython)
		_, err = p.ExecuteProgram(ctx, "p", nil)
		require.NoError(t, err)
		for _, err := range p.Stream(ctx, "items", []int{3}) {
			require.NoError(t, err)
		}
		_, err = p.ExecuteAnonymous(ctx, "ping", nil)
		require.NoError(t, err)
		_, err = p.ExecuteAnonymous(ctx, "unknown", nil)
		require.ErrorIs(t, err, ErrUnknownCommand)
		_, err = p.ExecuteProgram(ctx, "unknown", nil)
		require.ErrorIs(t, err, ErrUnknownCommand)
		_, err = p.ExecuteAnonymous(ctx, "plain", 7)
		require.ErrorIs(t, err, ErrInvalidArguments)
	}
	for _, command := range []string{"batch", "shared"} {
		for _, o := range inBackground(20, func(i int) (Result, error) { return p.ExecuteAnonymous(ctx, command, []int{i}) })() {
			require.NoError(t, o.err)
		}
	}
	for _, command := range []string{"plain", "batch"} {
		for _, err := range Map[int](ctx, p, command, integers(100)) {
			require.NoError(t, err)
		}
	}
	got := summedUp(t, p)
	require.Len(t, got, 7)
	count := func(name string) []int64 {
		c := got[name]
		return []int64{c.Succeeded, c.Failed, c.Run.Count}
	}
	assert.Equal(t, []int64{103, 3, 103}, count("plain"))
	assert.Equal(t, map[ErrorType]int64{TypeInvalidArguments: 3}, got["plain"].ByType)
	assert.Equal(t, []int64{0, 3, 3}, count("bad"))
	assert.Equal(t, []int64{3, 0, 3}, count("items"))
	assert.Equal(t, []int64{120, 0, 120}, count("batch"))
	assert.Equal(t, []int64{20, 0, 20}, count("shared"))
	assert.Equal(t, []int64{3, 0, 3}, count("execute_program:p"))
	assert.Equal(t, []int64{3, 6, 9}, count(""), "built-in commands and unknown names")
	assert.GreaterOrEqual(t, got["shared"].Run.Sum, 20*time.Millisecond)
	assert.GreaterOrEqual(t, got["shared"].Run.Sum, got["shared"].Run.Max)
	accounted(t, p)
}

// Names that come with a Reload are counted from then on.
func TestStatsOfCommandsThatCome(t *testing.T) {
	t.Parallel()
	c := newCounters(time.Minute)
	c.learn([]string{"a"}, nil)
	a := c.of(&CallInfo{Command: "a"})
	require.NotSame(t, &c.other, a)
	require.Same(t, &c.other, c.of(&CallInfo{Command: "b"}))
	require.Same(t, &c.other, c.of(&CallInfo{Command: commandExecuteProgram, Program: "a"}))
	c.learn([]string{"b"}, []string{"a"})
	require.Same(t, a, c.of(&CallInfo{Command: "a"}), "what was counted is kept")
	require.NotSame(t, &c.other, c.of(&CallInfo{Command: "b"}))
	require.NotSame(t, &c.other, c.of(&CallInfo{Command: commandExecuteProgram, Program: "a"}))
	names := []string{}
	for range 2 * maxTallies {
		names = append(names, time.Duration(len(names)).String())
	}
	c.learn(names, names)
	require.Len(t, c.known.Load().commands, maxTallies)
}

func TestWorkersTellWhatTheyRun(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Script: script(t, `
import asyncio, os, time
from pypool import command, program

def wait(gate):
    while not os.path.exists(gate):
        time.sleep(0.002)

@command
def plain(gate):
    wait(gate)

@command
def items(gate):
    yield 1
    wait(gate)

@command(max_batch_size=2, max_wait_ms=20000)
def batch(gate):
    wait(gate[0])
    return gate

@command(concurrency=8)
async def shared(gate):
    while not os.path.exists(gate):
        await asyncio.sleep(0.002)

@program("p")
def run(gate):
    wait(gate)
`), Python: realPython(), Size: 1, Overflow: -1})
	running := func() []RunningCall {
		workers := p.Workers()
		require.Len(t, workers, 1)
		return workers[0].Running
	}
	require.Empty(t, running())
	ctx := t.Context()
	for name, tc := range map[string]struct {
		call func(gate string) error
		want []CallInfo
	}{
		"a command": {
			func(gate string) error {
				_, err := p.ExecuteInSession(ctx, "s", "plain", args{"gate": gate})
				return err
			},
			[]CallInfo{{Command: "plain", Session: "s"}},
		},
		"a program": {
			func(gate string) error { _, err := p.ExecuteProgram(ctx, "p", args{"gate": gate}); return err },
			[]CallInfo{{Command: "execute_program", Program: "p"}},
		},
		"a stream": {
			func(gate string) error {
				for _, err := range p.Stream(ctx, "items", args{"gate": gate}) {
					if err != nil {
						return err
					}
				}
				return nil
			},
			[]CallInfo{{Command: "items"}},
		},
		"a Map": {
			func(gate string) error {
				for _, err := range Map[any](ctx, p, "plain", slices.Values([]string{gate})) {
					if err != nil {
						return err
					}
				}
				return nil
			},
			[]CallInfo{{Command: "plain"}},
		},
		"a batch": {
			func(gate string) error {
				outs := inBackground(2, func(int) (Result, error) { return p.ExecuteAnonymous(ctx, "batch", args{"gate": gate}) })()
				return outs[0].err
			},
			[]CallInfo{{Command: "batch"}},
		},
		"calls side by side": {
			func(gate string) error {
				outs := inBackground(3, func(int) (Result, error) { return p.ExecuteAnonymous(ctx, "shared", args{"gate": gate}) })()
				return outs[0].err
			},
			[]CallInfo{{Command: "shared"}, {Command: "shared"}, {Command: "shared"}},
		},
	} {
		before := time.Now()
		gate := filepath.Join(t.TempDir(), "gate")
		done := make(chan error, 1)
		go func() { done <- tc.call(gate) }()
		eventually(t, "it runs", func() bool { return len(running()) == len(tc.want) })
		list := running()
		for i, got := range list {
			assert.Equal(t, name == "a batch", got.RequestID == 0, name)
			assert.Equal(t, "pypool", got.Pool, name)
			assert.False(t, got.Since.Before(before) || got.Since.After(time.Now()), name)
			assert.False(t, i > 0 && got.Since.Before(list[i-1].Since), "the oldest first")
			got.RequestID, got.Pool = 0, ""
			assert.Equal(t, tc.want[i], got.CallInfo, name)
		}
		require.NoError(t, os.WriteFile(gate, nil, 0o600))
		require.NoError(t, <-done, name)
		eventually(t, "it is idle", func() bool { return len(running()) == 0 })
	}
}
