//go:build linux

package pypool

import (
	"context"
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/wire"
)

// The largest number there is means that there is no bound: nothing that it is added to, or
// multiplied with, may come out below zero.
func TestTheLargestNumbersAreNoBounds(t *testing.T) {
	t.Parallel()
	const ever = time.Duration(math.MaxInt64)
	source := script(t, `
import asyncio, os
from pypool import command, host

@command
def ask(): return host.answer()

@command(concurrency=2)
async def ask_aio(): return await host.aio.answer()

@command
def leave(): os._exit(3)

@command(concurrency=2)
async def hold(mark, gate):
    open(mark, "a").write("begun\n")
    while not os.path.exists(gate):
        try: await asyncio.sleep(0.01)
        except asyncio.CancelledError: pass
`)
	functions := Functions{"answer": Func(func(ctx context.Context, _ struct{}) (int, error) { return 42, ctx.Err() })}
	for name, cfg := range map[string]Config{
		"none": {MaxQueue: -1, MaxQueueBytes: -1, MaxSessions: -1, MaxRestarts: -1, Breaker: Breaker{Failures: -1}, CancelGrace: ever},
		"largest": {
			MaxQueue: math.MaxInt, MaxQueueBytes: math.MaxInt, MaxSessions: math.MaxInt, MaxRestarts: math.MaxInt, MaxMessageBytes: math.MaxInt,
			MaxCalls: math.MaxInt64, MaxRSS: math.MaxInt64, MaxLifetime: ever, Breaker: Breaker{Failures: math.MaxInt, OpenFor: ever},
			CheckoutTimeout: ever, OperationTimeout: ever, StallTimeout: ever, StartTimeout: ever, CancelGrace: ever,
			HealthCheckInterval: ever, SessionCleanupInterval: ever, SessionTTL: ever, RestartWindow: ever,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg.Script, cfg.Python, cfg.Size, cfg.Overflow, cfg.Logger, cfg.Functions = source, realPython(), 1, -1, testLogger(t), functions
			p := newPool(t, cfg)
			ever := []CallOption{WithTimeout(ever), WithCheckoutTimeout(ever), WithSession("one")}
			for _, command := range []string{"ask", "ask_aio"} {
				got, err := Call[int](t.Context(), p, command, nil, ever...)
				require.NoError(t, err, command)
				assert.Equal(t, 42, got, command)
			}

			gate, mark := newLatchFile(t), newNotes(t)
			ctx, cancel := context.WithCancel(t.Context())
			left := make(chan error, 1)
			go func() {
				_, err := Call[any](ctx, p, "hold", args{"mark": mark.path, "gate": string(gate)}, ever...)
				left <- err
			}()
			eventually(t, "the handler has begun", func() bool { return len(mark.read()) == 1 })
			cancel()
			failsWith(t, <-left, ErrCanceled, MaybeExecuted)
			held := p.Workers()
			require.Len(t, held, 1)
			assert.Equal(t, workerShared, held[0].State, "it has all the time there is to stop")
			gate.open(t)
			eventually(t, "it has stopped", func() bool { return p.Stats().Idle == 1 })
			assert.EqualValues(t, 1, p.Stats().WorkersStarted)

			_, err := Call[any](t.Context(), p, "leave", nil, ever...)
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		})
	}
}

// A call that is refused because too many run holds none of the bytes that those may hold.
func TestAFunctionThatIsRefusedHoldsNothing(t *testing.T) {
	t.Parallel()
	answer := Func(func(context.Context, any) (int, error) { return 42, nil })
	h := &functions{cfg: &Config{MaxQueueBytes: 100, Functions: Functions{"answer": answer}}}
	var refusals []string
	c := &calls{functions: h, info: &CallInfo{}, reply: func(line replyLine) { refusals = append(refusals, string(line.text)) }}
	for _, is := range []struct{ running, held int64 }{{maxFunctions, 0}, {0, 101}} {
		h.running.Store(is.running)
		h.held.Store(is.held)
		c.begin(&wire.Frame{Host: 1, Function: json.RawMessage(`"answer"`)}, arguments{reply{raw: json.RawMessage(`[1234567]`)}}, time.Time{})
		assert.Equal(t, is.running, h.running.Load())
		assert.Equal(t, is.held, h.held.Load())
	}
	require.Len(t, refusals, 2)
	for _, refusal := range refusals {
		assert.Contains(t, refusal, hostTooMany)
	}
}
