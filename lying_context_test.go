//go:build linux

package pypool

import (
	"context"
	"iter"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// lyingContext ends, and has no error even so.
type lyingContext struct {
	context.Context
	done chan struct{}
}

func (c lyingContext) Done() <-chan struct{} { return c.done }
func (c lyingContext) Err() error            { return nil }

// lyingAround is one whose end is that of a context of package context's.
type lyingAround struct{ context.Context }

func (c lyingAround) Err() error { return nil }

// liars make contexts of both kinds, and end them.
var liars = map[string]func() (context.Context, func()){
	"its own": func() (context.Context, func()) {
		c := lyingContext{context.Background(), make(chan struct{})}
		return c, func() { close(c.done) }
	},
	"around": func() (context.Context, func()) {
		c, cancel := context.WithCancel(context.Background())
		return context.WithValue(lyingAround{c}, contextKey{}, 1), cancel
	},
}

// Whoever waits is told that the context was canceled, and nothing else is blamed.
func TestAContextThatEndsWithoutAnErrorIsTakenForACanceledOne(t *testing.T) {
	for name, liar := range liars {
		t.Run(name, func(t *testing.T) { testLiar(t, liar) })
	}
}

func testLiar(t *testing.T, liar func() (context.Context, func())) {
	endingSoon := func() context.Context {
		ctx, end := liar()
		time.AfterFunc(20*time.Millisecond, end)
		return ctx
	}
	p := newPool(t, Config{Size: 1, Overflow: -1, Breaker: Breaker{Failures: 1}, Script: script(t, `
import asyncio, time
from pypool import command
def begin(mark):
    if mark:
        open(mark, "a").write("begun\n")
@command
def plain(mark=""):
    begin(mark)
    time.sleep(60)
@command(concurrency=4)
async def concurrent(mark=""):
    begin(mark)
    await asyncio.sleep(60)
@command(max_batch_size=4)
def batch(marks: list):
    begin(marks[0])
    time.sleep(60)
@command
def items(x=0):
    yield 0
    time.sleep(60)
`)})
	for range 2 {
		for _, command := range []string{"plain", "concurrent", "batch"} {
			begun := newNotes(t)
			ctx, end := liar()
			go func() {
				for len(begun.read()) == 0 {
					time.Sleep(time.Millisecond)
				}
				end()
			}()
			_, err := p.ExecuteAnonymous(ctx, command, []any{begun.path})
			failsWith(t, err, ErrCanceled, MaybeExecuted)
			require.ErrorIs(t, err, context.Canceled, command)
		}
		for name, loop := range map[string]iter.Seq2[any, error]{
			"a stream": Each[any](endingSoon(), p, "items", nil),
			"a map":    Map[any](endingSoon(), p, "plain", func(yield func(any) bool) { yield([]any{""}) }),
		} {
			var last error
			for _, err := range loop {
				last = err
			}
			require.ErrorIs(t, last, ErrCanceled, name)
		}
	}
	release := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(endingSoon(), "plain", nil) })
	_, err := p.ExecuteAnonymous(endingSoon(), "plain", nil) // one of the two waits for the worker
	require.ErrorIs(t, err, ErrCanceled)
	require.ErrorIs(t, release()[0].err, ErrCanceled)

	ended, end := liar()
	end()
	_, err = p.ExecuteAnonymous(ended, "plain", nil)
	failsWith(t, err, ErrCanceled, NotExecuted)
	require.ErrorIs(t, p.Reload(ended), context.Canceled)
	require.ErrorIs(t, p.Resize(ended, 2), ErrCanceled)
	_, err = New(ended, Config{Script: script(t, "import time; time.sleep(60)")})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, p.Shutdown(ended), context.Canceled)
}
