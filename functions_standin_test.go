package pypool

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const briefFunctionsScript = `
import os
import threading
from pypool import HostError, command, current_call, host

def told(function, *args):
    try:
        return function(*args)
    except HostError as error:
        return error.type

@command
def many(n: int, last: str):
    """Call so many brief functions, and then another one, and more brief ones."""
    before = [host.echo(i) for i in range(n)]
    found = told(getattr(host, last))
    return before, found, [host.echo(i) for i in range(n)]

@command
def beside(n: int):
    """Call a function that waits behind brief ones, and from a thread what it waits for."""
    call = current_call()
    thread = threading.Timer(0.02, lambda: (call.host.echo(0), call.host.open()))
    thread.start()
    for i in range(n):
        host.echo(i)
    found = host.wait()
    thread.join()
    return found

@command
def dies(n: int):
    for i in range(n):
        host.echo(i)
    threading.Timer(0.05, os._exit, [3]).start()
    host.block()

@command
def items(n: int):
    for i in range(n):
        yield [host.echo(k) for k in range(i)]

@command
def endless():
    while True:
        host.echo(1)

@command
def goroutines(n: int):
    return len({host.goroutine() for _ in range(n)})

@command(max_batch_size=4)
def batch(n: list):
    return [[host.echo(i) for i in range(k)] for k in n]

@command
def at_once(n: int):
    """Call a function that takes its time from many threads at once, after brief ones."""
    for i in range(n):
        host.echo(i)
    found = []
    call = current_call()
    threads = [threading.Thread(target=lambda: found.append(call.host.meet())) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found

@command
def large(sizes: list):
    return [len(host.text(size)) for size in sizes]
`

func briefFunctions(t *testing.T) *Pool {
	t.Helper()
	gate := make(chan struct{}, 1)
	var met atomic.Int64
	all := make(chan struct{})
	cfg := functionsConfig(t, Functions{
		"echo":   echoFunction(),
		"panics": Func(func(context.Context, struct{}) (int, error) { panic("brief") }),
		"exits":  Func(func(context.Context, struct{}) (int, error) { runtime.Goexit(); return 0, nil }),
		"fails":  Func(func(context.Context, struct{}) (int, error) { return 0, errors.New("brief") }),
		"takes": Func(func(context.Context, struct{}) (string, error) {
			time.Sleep(5 * standInPatience)
			return "its time", nil
		}),
		"goroutine": Func(func(context.Context, struct{}) (string, error) {
			text := make([]byte, 64)
			name, _, _ := strings.Cut(string(text[:runtime.Stack(text, false)]), " [")
			return name, nil
		}),
		"open": Func(func(context.Context, struct{}) (int, error) { gate <- struct{}{}; return 0, nil }),
		"wait": Func(func(ctx context.Context, _ struct{}) (string, error) {
			select {
			case <-gate:
				return "opened", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}),
		"meet": Func(func(ctx context.Context, _ struct{}) (string, error) { // each waits until all eight are there
			if met.Add(1) == 8 {
				close(all)
			}
			select {
			case <-all:
				return "met", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}),
		"block": Func(func(ctx context.Context, _ struct{}) (int, error) { <-ctx.Done(); return 0, ctx.Err() }),
		"text":  Func(func(_ context.Context, n int) (string, error) { return fmt.Sprintf("%*d", n, n), nil }),
	})
	cfg.Script = script(t, briefFunctionsScript)
	return newPool(t, cfg)
}

func TestFunctionsThatFollowBriefOnes(t *testing.T) {
	t.Parallel()
	p := briefFunctions(t)
	pid := pids(p)[0]
	for last, want := range map[string]string{"panics": "panic", "exits": "goexit", "fails": "error", "takes": "its time"} {
		for _, n := range []int{0, 1, 2, 3, 50} {
			var numbers []int
			for i := range n {
				numbers = append(numbers, i)
			}
			got := decoded[[]any](t, executed(t, p, "many", args{"n": n, "last": last}))
			assert.Len(t, got[0], len(numbers), last)
			assert.Equal(t, got[0], got[2], last)
			assert.Contains(t, fmt.Sprint(got[1]), want, last)
		}
	}
	for n, err := range Each[[]int](t.Context(), p, "items", args{"n": 20}) {
		require.NoError(t, err)
		require.Less(t, len(n), 20)
	}
	sizes := []int{1, 1 << 10, 1 << 16, 1 << 18, 1 << 19, 3, 1 << 19, 1, 1, 1}
	assert.Equal(t, sizes, decoded[[]int](t, executed(t, p, "large", args{"sizes": sizes})))
	assert.Equal(t, pid, pids(p)[0], "no worker was lost")
}

func TestAFunctionThatWaitsForAnotherIsOvertakenByIt(t *testing.T) {
	t.Parallel()
	p := briefFunctions(t)
	for n := range 20 {
		require.Equal(t, "opened", decoded[string](t, executed(t, p, "beside", args{"n": n})))
	}
	require.Len(t, decoded[[]string](t, executed(t, p, "at_once", args{"n": 8})), 8)
}

func TestACallOfBriefFunctionsWithoutEndEnds(t *testing.T) {
	t.Parallel()
	p := briefFunctions(t)
	pid := pids(p)[0]
	for range 5 {
		begun := time.Now()
		_, err := p.ExecuteAnonymous(t.Context(), "endless", nil, WithTimeout(100*time.Millisecond))
		require.ErrorIs(t, err, ErrOperationTimeout)
		assert.Less(t, time.Since(begun), 100*time.Millisecond+p.cfg.KillGrace+slack)

		ctx, cancel := context.WithCancel(t.Context())
		stop := time.AfterFunc(30*time.Millisecond, cancel)
		_, err = p.ExecuteAnonymous(ctx, "endless", nil)
		require.ErrorIs(t, err, ErrCanceled)
		stop.Stop()
	}
	require.Equal(t, pid, pids(p)[0], "no worker was lost")
}

func TestACallEndsWhileAFunctionBehindBriefOnesBlocks(t *testing.T) {
	t.Parallel()
	p := briefFunctions(t)
	for _, n := range []int{1, 2, 10} {
		begun := time.Now()
		_, err := p.ExecuteAnonymous(t.Context(), "many", args{"n": n, "last": "block"}, WithTimeout(200*time.Millisecond))
		require.ErrorIs(t, err, ErrOperationTimeout)
		assert.Less(t, time.Since(begun), 200*time.Millisecond+p.cfg.KillGrace+slack)

		ctx, cancel := context.WithCancel(t.Context())
		stop := time.AfterFunc(50*time.Millisecond, cancel)
		_, err = p.ExecuteAnonymous(ctx, "many", args{"n": n, "last": "block"})
		require.ErrorIs(t, err, ErrCanceled)
		stop.Stop()

		_, err = p.ExecuteAnonymous(t.Context(), "dies", args{"n": n})
		require.ErrorIs(t, err, ErrWorkerExited)
	}
}

func TestBriefFunctionsShareAGoroutine(t *testing.T) {
	t.Parallel()
	p := briefFunctions(t)
	const n = 200
	eventually(t, "a function has run behind another", func() bool {
		return decoded[int](t, executed(t, p, "goroutines", args{"n": n})) < n
	})
	for out, err := range Map[[]int](t.Context(), p, "batch", slices.Values([]int{3, 50, 20, 1, 7})) {
		require.NoError(t, err)
		require.NotEmpty(t, out)
	}
	require.Len(t, decoded[[]int](t, executed(t, p, "batch", []any{50})), 50)
}

func TestAContextThatPanicsDoesSoOnItsCallersGoroutine(t *testing.T) {
	t.Parallel()
	p := briefFunctions(t)
	for range 5 {
		ctx := &panickingContext{Context: context.Background(), done: make(chan struct{})}
		time.AfterFunc(30*time.Millisecond, func() { close(ctx.done) })
		require.PanicsWithValue(t, "Err of a caller's context", func() { _, _ = p.ExecuteAnonymous(ctx, "endless", nil) })
		require.Equal(t, 3, len(decoded[[]any](t, executed(t, p, "many", args{"n": 2, "last": "fails"}))))
	}
}
