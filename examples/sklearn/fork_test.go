package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/examples/internal/storytest"
)

// What the import has computed with threads of OpenBLAS and OpenMP, which a fork does not have: the
// workers compute all the same.
const forked = `import os
import random
import numpy as np
import pandas as pd
import scipy.fft
import scipy.linalg
import scipy.sparse.linalg
import scipy.spatial
from pypool import command
from sklearn.ensemble import HistGradientBoostingClassifier

imported = os.getpid()
a = np.random.RandomState(0).rand(500, 500)
b = a @ a
frame = pd.DataFrame({"g": [1, 2] * 5000, "v": range(10000)})
total = int(frame.groupby("g").sum()["v"].sum())
band = scipy.sparse.diags_array([1.0, 10.0, 1.0], offsets=[-1, 0, 1], shape=(500, 500), format="csc")

def with_scipy():
    tree = scipy.spatial.KDTree(a[:, :3])
    return [
        scipy.linalg.svdvals(a), np.abs(scipy.fft.fft2(a, workers=2)), scipy.sparse.linalg.spsolve(band, a[0]),
        tree.query(a[:, :3], k=3, workers=2)[0],
    ]

scipys = with_scipy()
model = HistGradientBoostingClassifier(max_iter=5).fit(a[:, :5], a[:, 5] > 0.5)
answers = model.predict(a[:, :5])

@command
def same() -> list:
    return [
        imported != os.getpid(),
        bool((a @ a == b).all()),
        all(np.allclose(x, y) for x, y in zip(scipys, with_scipy())),
        int(frame.groupby("g").sum()["v"].sum()) == total,
        bool((model.predict(a[:, :5]) == answers).all()),
        bool((HistGradientBoostingClassifier(max_iter=5).fit(a[:, :5], a[:, 5] > 0.5).predict(a[:, :5]) == answers).all()),
    ]

@command
def draw() -> list:
    return [os.getppid(), os.getpid(), random.random(), float(np.random.rand())]
`

func TestForkedWorkersComputeWithNumpyPandasScipyAndSklearn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "worker.py")
	require.NoError(t, os.WriteFile(path, []byte(forked), 0o600))
	pool, err := pypool.New(t.Context(), pypool.Config{
		Script: path, Python: storytest.Python(t), Size: 2, Overflow: -1, ForkServer: true, Threads: 2, Logger: slog.New(slog.DiscardHandler),
		StartTimeout: 2 * time.Minute, // the import computes with all processors, which a busy machine lends little of
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	servers, workers, drawn := map[float64]bool{}, map[float64]bool{}, map[float64]bool{}
	for range 3 { // two that were forked at the beginning, and one that came in the place of the first
		got, err := pypool.Call[[]bool](t.Context(), pool, "same", nil)
		require.NoError(t, err)
		require.NotContains(t, got, false, "%v", got)
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
