package pypool

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const lateFunctionsScript = `
import time
import pypool
from pypool import HostError, command, host

SEEN = []

def ask():
    try:
        host.until_the_end(1)
    except HostError as error:
        SEEN.append("HostError: " + error.type)
    except BaseException as error:
        SEEN.append(type(error).__name__)
        raise

@command
def plain(): ask()
@command
async def coroutine(): await host.aio.until_the_end(1)
@command(concurrency=4)
async def concurrent(): await host.aio.until_the_end(1)
@command
def cleans_up():
    try:
        time.sleep(60)
    finally:
        SEEN.append(host.ended(1))
@command
def items():
    try:
        while True:
            yield 1
    finally:
        SEEN.append(host.until_the_end(1, True))
@command(concurrency=4)
async def concurrent_items():
    try:
        while True:
            yield 1
    finally:
        SEEN.append(await host.aio.until_the_end(1, True))
@command
def seen():
    found = SEEN[:]
    SEEN.clear()
    return found
`

// A function that ends with its call's context answers in the instant in which the call ends: the
// call has ended then, for the handler as for its caller.
func TestAFunctionThatEndsWithItsCallIsNotHeardBeforeTheEnd(t *testing.T) {
	p := newPool(t, Config{Script: script(t, lateFunctionsScript), Size: 1, Overflow: -1, CancelGrace: time.Minute, StopGrace: time.Minute, Functions: Functions{
		"until_the_end": Func(func(ctx context.Context, given any) (string, error) {
			<-ctx.Done()
			if _, two := given.([]any); two {
				return "ended", nil
			}
			return "", ctx.Err()
		}),
		"ended": Func(func(ctx context.Context, _ int) (bool, error) { return ctx.Err() != nil, nil }),
	}})
	seen := func() []any { t.Helper(); return decoded[[]any](t, executed(t, p, "seen", nil)) }
	ends := map[string]func(command string) error{
		"deadline": func(command string) error {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			_, err := p.ExecuteAnonymous(ctx, command, nil)
			return err
		},
		"cancel": func(command string) error {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(20*time.Millisecond, cancel)
			_, err := p.ExecuteAnonymous(ctx, command, nil)
			return err
		},
		"timeout": func(command string) error {
			_, err := p.ExecuteAnonymous(context.Background(), command, nil, WithTimeout(20*time.Millisecond))
			return err
		},
	}
	for name, end := range ends {
		for range 10 {
			for _, command := range []string{"plain", "coroutine", "concurrent"} {
				err := end(command)
				require.Error(t, err, "%s, %s", name, command)
				require.False(t, errors.Is(err, ErrPython), "%s, %s: %v", name, command, err) // it may have found the worker still at its stop
			}
			for _, how := range seen() {
				require.Equal(t, "Canceled", how, name)
			}
		}
		_ = end("cleans_up")
		require.Equal(t, []any{true}, seen(), "%s: a call in finally has a context that has ended", name)
	}
	for _, command := range []string{"items", "concurrent_items"} {
		for range p.Stream(context.Background(), command, nil) {
			break
		}
		eventually(t, "a loop that is left ends the call", func() bool { found := seen(); return len(found) == 1 && found[0] == "ended" })
	}
	require.EqualValues(t, 1, p.Stats().WorkersStarted)
}
