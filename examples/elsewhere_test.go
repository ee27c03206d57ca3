package examples

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// TestWhatGoesWrongElsewhere does to pypool what public reports of other systems did to those:
// docs/comparison.md says what came of it there. Each is named after its report.
func TestWhatGoesWrongElsewhere(t *testing.T) {
	open := func(t *testing.T, size int) *pypool.Pool {
		pool, err := pypool.New(t.Context(), pypool.Config{Script: "testdata/elsewhere.py", Size: size, Overflow: -1, Logger: silent})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, pool.Close()) })
		return pool
	}
	pid := func(t *testing.T, pool *pypool.Pool) int {
		pid, err := pypool.Call[int](t.Context(), pool, "pid", nil)
		require.NoError(t, err)
		return pid
	}

	t.Run("triton server#8604: os._exit(0) in a handler", func(t *testing.T) {
		pool := open(t, 1)
		before := pid(t, pool)
		require.ErrorIs(t, execute(t.Context(), pool, "leave", nil), pypool.ErrWorkerExited)
		require.NotEqual(t, before, pid(t, pool)) // waits for the replacement
		_, err := pool.HealthCheck(t.Context())
		require.NoError(t, err)
	})

	t.Run("cog#795: cancellations, and whose output comes next", func(t *testing.T) {
		pool := open(t, 2)
		for i := range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Duration(i%5)*time.Millisecond, cancel)
			_ = execute(ctx, pool, "echo", map[string]any{"value": -i, "seconds": 0.002}) // in time, or canceled
			cancel()
			got, err := pypool.Call[map[string]int](t.Context(), pool, "echo", map[string]any{"value": i})
			require.NoError(t, err)
			require.Equal(t, map[string]int{"value": i}, got)
		}
	})

	t.Run("LitServe#165, grpc#22874: the client has gone", func(t *testing.T) {
		pool := open(t, 1)
		before := pid(t, pool)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for pool.Stats().Busy == 0 {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(50 * time.Millisecond) // it may be anywhere in the call: each ends it
			cancel()
		}()
		require.ErrorIs(t, execute(ctx, pool, "echo", map[string]any{"value": 1, "seconds": 600}), pypool.ErrCanceled)
		for _, err := range pypool.Each[int](t.Context(), pool, "numbers", nil) {
			require.NoError(t, err)
			break
		}
		require.Equal(t, before, pid(t, pool))
		stopped, err := pypool.Call[int](t.Context(), pool, "how_many_stopped", nil)
		require.NoError(t, err)
		require.LessOrEqual(t, 1, stopped) // the generator's; and the call's, unless it had not begun
	})

	t.Run("roadrunner#873: stdout", func(t *testing.T) {
		answer, err := pypool.Call[string](t.Context(), open(t, 1), "talk", nil)
		require.NoError(t, err)
		require.Equal(t, "yes", answer)
	})

	t.Run("cpython#94777, go-python3#20: a crash beside large calls", func(t *testing.T) {
		pool := open(t, 2)
		data := make([]byte, 4<<20)
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for range 5 {
					n, err := pypool.Call[int](t.Context(), pool, "size", map[string]any{"data": data})
					assert.NoError(t, err)
					assert.Equal(t, len(data), n)
				}
			})
		}
		for range 3 {
			require.ErrorIs(t, execute(t.Context(), pool, "crash", map[string]any{"data": data}), pypool.ErrWorkerExited)
		}
		group.Wait()
	})
}
