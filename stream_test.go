package pypool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func sequences(t testing.TB, size int) *Pool {
	return newPool(t, Config{Script: workerScript(t, "sequences.py"), Size: size, Overflow: -1, KillGrace: stackGrace})
}

func TestStreamYieldsItemsInOrderFromOneWorker(t *testing.T) {
	p := sequences(t, 2)
	type item struct {
		I, PID  int
		Session string
	}
	next, pid := 0, 0
	for it, err := range Each[item](context.Background(), p, "count", map[string]any{"n": 1000}, WithSession("s")) {
		require.NoError(t, err)
		require.Equal(t, next, it.I)
		require.Equal(t, "s", it.Session)
		if next > 0 {
			require.Equal(t, pid, it.PID)
		}
		next, pid = next+1, it.PID
	}
	require.Equal(t, 1000, next)
	info, _ := p.Session("s")
	require.EqualValues(t, 1, info.Operations)
	require.EqualValues(t, 1, p.Stats().Succeeded)
}

func TestStreamOfAnAsyncGeneratorAndOfAPlainCommand(t *testing.T) {
	p := sequences(t, 1)
	var got []int
	for n, err := range Each[int](context.Background(), p, "gently", []any{3}) {
		require.NoError(t, err)
		got = append(got, n)
	}
	for n, err := range Each[int](context.Background(), p, "square", []any{9}) {
		require.NoError(t, err)
		got = append(got, n)
	}
	require.Equal(t, []int{0, 1, 2, 81}, got)
}

func TestAnItemSaysHowLongTheWorkerHadItsStream(t *testing.T) {
	p := newPool(t, Config{Script: script(t, `
import asyncio, time
from pypool import command

@command
def plain():
    for i in range(3):
        time.sleep(0.02)
        yield i

@command(concurrency=2)
async def shared():
    for i in range(3):
        await asyncio.sleep(0.02)
        yield i
`), Size: 1, Overflow: -1})
	for _, name := range []string{"plain", "shared"} {
		slept := time.Duration(0)
		for res, err := range p.Stream(context.Background(), name, nil) {
			require.NoError(t, err)
			slept += 20 * time.Millisecond
			require.GreaterOrEqual(t, res.Ran(), slept, name)
		}
		require.Equal(t, 60*time.Millisecond, slept, name)
	}
}

func TestLeavingAStreamClosesTheGeneratorAndKeepsTheWorker(t *testing.T) {
	p := sequences(t, 1)
	journal := filepath.Join(t.TempDir(), "journal")
	before := p.Workers()[0].PID
	for range 3 {
		for res, err := range p.Stream(context.Background(), "endless", []any{journal}) {
			require.NoError(t, err)
			if string(res.Raw()) == "100" {
				break
			}
		}
	}
	text, err := os.ReadFile(journal)
	require.NoError(t, err)
	require.Equal(t, "closed\nclosed\nclosed\n", string(text))
	require.JSONEq(t, "4", string(executed(t, p, "square", []any{2}).Raw()))
	require.Equal(t, before, p.Workers()[0].PID)
	require.Zero(t, p.Stats().Failed)
}

func TestStreamEndsWithTheExceptionAfterTheItemsBeforeIt(t *testing.T) {
	p := sequences(t, 1)
	var got []int
	var last error
	for n, err := range Each[int](context.Background(), p, "breaks", []any{2}) {
		if err != nil {
			last = err
			continue
		}
		got = append(got, n)
	}
	require.Equal(t, []int{0, 1}, got)
	require.ErrorIs(t, last, ErrPython)
	var py *PythonError
	require.ErrorAs(t, last, &py)
	require.Equal(t, "enough", py.Message)
	executed(t, p, "square", []any{2})
	require.EqualValues(t, 1, p.Stats().WorkersStarted)
}

func TestGeneratorCalledWithoutStreamIsRefused(t *testing.T) {
	p := sequences(t, 1)
	_, err := p.ExecuteAnonymous(context.Background(), "count", []any{3})
	require.ErrorIs(t, err, ErrInvalidArguments)
	require.ErrorContains(t, err, "Stream")
	require.True(t, SafeToRetry(err))
}

func TestStreamTimeoutIsForEachItemAndNotForTheLoopBody(t *testing.T) {
	p := sequences(t, 1)
	n := 0
	for _, err := range p.Stream(context.Background(), "count", []any{4}, WithTimeout(400*time.Millisecond)) {
		require.NoError(t, err)
		n++
		time.Sleep(150 * time.Millisecond) // a slow consumer: 600 ms in all
	}
	require.Equal(t, 4, n)

	var last error
	for _, err := range p.Stream(context.Background(), "stalls", nil, WithTimeout(100*time.Millisecond)) {
		last = err
	}
	require.ErrorIs(t, last, ErrOperationTimeout)
	var hang *HangError
	require.ErrorAs(t, last, &hang)
	require.Contains(t, hang.Stacks, "stalls")
	eventually(t, "the worker replaced", func() bool { return serving(p) })
}

func TestCancelingAStreamsContextEndsIt(t *testing.T) {
	p := sequences(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var last error
	n := 0
	for _, err := range p.Stream(ctx, "stalls", nil) {
		n++
		last = err
		cancel()
	}
	require.Equal(t, 2, n)
	require.ErrorIs(t, last, ErrCanceled)
	require.ErrorIs(t, last, context.Canceled)
	eventually(t, "the worker replaced", func() bool { return serving(p) })
}

func TestPanicInAStreamsLoopBodyCostsNothing(t *testing.T) {
	p := sequences(t, 1)
	require.PanicsWithValue(t, "mine", func() {
		for range p.Stream(context.Background(), "count", []any{10}) {
			panic("mine")
		}
	})
	require.JSONEq(t, "9", string(executed(t, p, "square", []any{3}).Raw()))
	require.EqualValues(t, 1, accounted(t, p).WorkersStarted)
}

func TestGoexitInAStreamsLoopBodyCostsNothing(t *testing.T) {
	p := sequences(t, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range p.Stream(context.Background(), "count", []any{10}) {
			runtime.Goexit() // as t.FailNow does
		}
	}()
	<-done
	require.JSONEq(t, "9", string(executed(t, p, "square", []any{3}).Raw()))
	require.EqualValues(t, 1, accounted(t, p).WorkersStarted)
}

// A stream that is a probe has passed with its first item: others do not wait for its end.
func TestAStreamThatIsAProbeLetsOthersInWithItsFirstItem(t *testing.T) {
	mended := filepath.Join(t.TempDir(), "mended")
	p := newPool(t, Config{Size: 2, Overflow: -1, Breaker: Breaker{Failures: 2, OpenFor: 50 * time.Millisecond}, Script: script(t, `
import os
from pypool import command
@command
def rows(path):
    if not os.path.exists(path): os._exit(1)
    yield 1
    yield 2
`)})
	rows := func(body func()) (err error) {
		for _, err = range Each[int](t.Context(), p, "rows", []any{mended}) {
			if err == nil {
				body()
			}
		}
		return err
	}
	eventually(t, "the circuit is open", func() bool { return errors.Is(rows(func() {}), ErrCircuitOpen) })
	require.NoError(t, os.WriteFile(mended, nil, 0o600))
	inside := 0
	eventually(t, "a probe passes", func() bool {
		return rows(func() {
			inside++
			require.NoError(t, rows(func() {}), "others are let in while it lasts")
		}) == nil
	})
	require.Equal(t, 2, inside)
}
