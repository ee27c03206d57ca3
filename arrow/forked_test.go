//go:build linux

package pypoolarrow_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// What the import has computed with threads of OpenBLAS and Arrow, which a fork does not have: the
// workers compute all the same. polars may only have been imported.
const forked = `import math
import os
import random
import numpy
import pandas
import polars
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from pypool import command

imported = os.getpid()
a = numpy.random.RandomState(0).rand(400, 400)
table = pyarrow.table({"g": numpy.arange(100_000) % 7, "v": numpy.arange(100_000) * 1.0})
sink = pyarrow.BufferOutputStream()
pyarrow.parquet.write_table(table, sink, row_group_size=10_000)
stored = sink.getvalue()
frame = polars.DataFrame({"g": [1, 2] * 5000, "v": range(10_000)})

def compute():
    read = pyarrow.parquet.read_table(pyarrow.BufferReader(stored), use_threads=True)
    groups = read.group_by("g").aggregate([("v", "sum")]).sort_by("g")
    return [
        float((a @ a).sum()), float(numpy.linalg.svd(a, compute_uv=False)[0]), float(abs(numpy.fft.fft2(a)).sum()),
        groups.to_pydict(), pyarrow.compute.sum(read["v"]).as_py(),
        read.to_pandas(use_threads=True).groupby("g")["v"].mean().to_dict(), pandas.DataFrame(a).corr().sum().sum(),
    ]

computed = compute()

@command
def same() -> list:
    return [imported != os.getpid()] + [math.isclose(x, y) if isinstance(x, float) else x == y for x, y in zip(computed, compute())]

@command
def with_polars() -> list:
    return frame.lazy().group_by("g").agg(polars.col("v").sum()).sort("g").collect()["v"].to_list()

@command
def draw() -> list:
    return [os.getppid(), os.getpid(), random.random(), float(numpy.random.rand())]
`

func forkConfig(t *testing.T, source string) pypool.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "worker.py")
	require.NoError(t, os.WriteFile(path, []byte(source), 0o600))
	return pypool.Config{Script: path, Python: interpreter(t), Size: 2, Overflow: -1, ForkServer: true, Threads: 2, Logger: slog.New(slog.DiscardHandler)}
}

func TestForkedWorkersComputeWithArrowAndPolars(t *testing.T) {
	pool, err := pypool.New(t.Context(), forkConfig(t, forked))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	servers, workers, drawn := map[float64]bool{}, map[float64]bool{}, map[float64]bool{}
	for range 3 { // two that were forked at the beginning, and one that came in the place of the first
		got, err := pypool.Call[[]bool](t.Context(), pool, "same", nil)
		require.NoError(t, err)
		require.NotContains(t, got, false, "%v", got)
		sums, err := pypool.Call[[]int](t.Context(), pool, "with_polars", nil)
		require.NoError(t, err)
		require.Equal(t, []int{24_995_000, 25_000_000}, sums)
		numbers, err := pypool.Call[[]float64](t.Context(), pool, "draw", nil)
		require.NoError(t, err)
		servers[numbers[0]], workers[numbers[1]] = true, true
		for _, x := range numbers[2:] {
			require.False(t, drawn[x], "each worker draws numbers of its own")
			drawn[x] = true
		}
		worker, err := os.FindProcess(int(numbers[1]))
		require.NoError(t, err)
		require.NoError(t, worker.Kill())
	}
	require.Len(t, servers, 1)
	require.Len(t, workers, 3)
}

// A worker would wait for polars' threads for ever.
func TestAnImportThatComputesWithPolarsIsRefused(t *testing.T) {
	pool, err := pypool.New(t.Context(), forkConfig(t, "import polars\npolars.DataFrame({'g': [1, 2]}).lazy().group_by('g').len().collect()\n"))
	require.Nil(t, pool)
	require.ErrorIs(t, err, pypool.ErrWorkerStart)
	require.ErrorContains(t, err, "polars-0")
	require.ErrorContains(t, err, "@setup")
}
