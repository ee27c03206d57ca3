package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/examples/internal/storytest"
)

// What the import has computed with threads of OpenBLAS and OpenMP, which a fork does not have: the
// workers compute all the same.
const forked = `import os
import numpy as np
import pandas as pd
from pypool import command
from sklearn.ensemble import HistGradientBoostingClassifier

imported = os.getpid()
a = np.random.RandomState(0).rand(500, 500)
b = a @ a
frame = pd.DataFrame({"g": [1, 2] * 5000, "v": range(10000)})
total = int(frame.groupby("g").sum()["v"].sum())
model = HistGradientBoostingClassifier(max_iter=5).fit(a[:, :5], a[:, 5] > 0.5)
answers = model.predict(a[:, :5])

@command
def same() -> list:
    return [
        imported != os.getpid(),
        bool((a @ a == b).all()),
        int(frame.groupby("g").sum()["v"].sum()) == total,
        bool((model.predict(a[:, :5]) == answers).all()),
        bool((HistGradientBoostingClassifier(max_iter=5).fit(a[:, :5], a[:, 5] > 0.5).predict(a[:, :5]) == answers).all()),
    ]

@command
def draw() -> float:
    return float(np.random.rand())
`

func TestForkedWorkersComputeWithNumpyPandasAndSklearn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "worker.py")
	require.NoError(t, os.WriteFile(path, []byte(forked), 0o600))
	pool, err := pypool.New(t.Context(), pypool.Config{Script: path, Python: storytest.Python(t), Size: 2, Overflow: -1, ForkServer: true, Threads: 2, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	drawn := map[float64]bool{}
	for range 2 {
		got, err := pypool.Call[[]bool](t.Context(), pool, "same", nil)
		require.NoError(t, err)
		require.Equal(t, []bool{true, true, true, true, true}, got)
		x, err := pypool.Call[float64](t.Context(), pool, "draw", nil)
		require.NoError(t, err)
		drawn[x] = true
		require.NoError(t, pool.Reload(t.Context())) // fresh workers, whose generators differ
	}
	require.Len(t, drawn, 2)
}
