package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/examples/internal/storytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStory runs the job, which itself compares pandas' totals with Go's.
func TestStory(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), storytest.Python(t), 500_000, &out))
	require.Equal(t, storytest.Output(t), out.String())
}

func TestJob(t *testing.T) {
	pool, err := pypool.New(t.Context(), config(storytest.Python(t)))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	path := filepath.Join(t.TempDir(), "orders.csv")
	expected, err := makeOrders(path, 12_345)
	require.NoError(t, err)
	stream := func(ctx context.Context, path string, chunkRows int) func(func(chunk, error) bool) {
		return pypool.Each[chunk](ctx, pool, "sales", map[string]any{"path": path, "chunk_rows": chunkRows})
	}

	t.Run("comes in chunks and moves on", func(t *testing.T) {
		sum, chunks, done := totals{regions: map[string]sales{}}, 0, 0.0
		for part, err := range stream(t.Context(), path, 1000) {
			require.NoError(t, err)
			require.GreaterOrEqual(t, part.Done, done)
			require.LessOrEqual(t, part.Rows, int64(1000))
			chunks, done = chunks+1, part.Done
			sum.add(part)
		}
		require.Equal(t, 13, chunks)
		require.Equal(t, 1.0, done)
		require.Equal(t, *expected, sum)
	})

	t.Run("can be left early, and costs no worker", func(t *testing.T) {
		for range 20 {
			for part, err := range stream(t.Context(), path, 100) {
				require.NoError(t, err)
				require.EqualValues(t, 100, part.Rows)
				break
			}
		}
		pid := pool.Workers()[0].PID
		open, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
		require.NoError(t, err)
		require.Equal(t, runtime.GOOS == "linux", len(open) > 0)
		for _, fd := range open {
			target, _ := os.Readlink(fd)
			require.NotEqual(t, path, target, "the generator was not closed")
		}
		require.EqualValues(t, 1, pool.Stats().WorkersStarted)
	})

	t.Run("ends with what pandas says, after the chunks that were good", func(t *testing.T) {
		broken := filepath.Join(t.TempDir(), "broken.csv")
		require.NoError(t, os.WriteFile(broken, []byte("region,quantity,price\neast,1,1.00\nwest,2,cheap\n"), 0o600))
		var good []chunk
		var last error
		for part, err := range stream(t.Context(), broken, 1) {
			if last = err; err == nil {
				good = append(good, part)
			}
		}
		require.Len(t, good, 1)
		require.Equal(t, map[string]sales{"east": {1, 100}}, good[0].Regions)
		var raised *pypool.PythonError
		require.ErrorAs(t, last, &raised)
		require.NotEmpty(t, raised.Traceback)

		_, err := job(t.Context(), pool, "no such file", 1, &bytes.Buffer{})
		require.ErrorAs(t, err, &raised)
		require.Equal(t, "FileNotFoundError", raised.Type)
		require.EqualValues(t, 1, pool.Stats().WorkersStarted)
	})

	t.Run("ends with its context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		begun, last := time.Now(), error(nil)
		for _, err := range stream(ctx, path, 100) {
			cancel()
			last = err
		}
		require.ErrorIs(t, last, pypool.ErrCanceled)
		require.Less(t, time.Since(begun), 10*time.Second)
		_, err := job(t.Context(), pool, path, 5000, &bytes.Buffer{})
		require.NoError(t, err)
	})
}
