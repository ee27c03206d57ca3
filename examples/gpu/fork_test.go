//go:build linux

package main

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// torchPython is an interpreter that has torch: PYPOOL_TORCH_PYTHON, or the examples' own if torch
// was installed there. It is too large to be installed for a test.
func torchPython(t *testing.T) string {
	t.Helper()
	python := os.Getenv("PYPOOL_TORCH_PYTHON")
	named := python != ""
	if !named {
		var err error
		python, err = filepath.Abs("../.venv/bin/python")
		require.NoError(t, err)
	}
	if out, err := exec.Command(python, "-c", "import numpy, torch").CombinedOutput(); err != nil {
		if named {
			t.Fatalf("%s cannot import numpy and torch: %v\n%s", python, err, out)
		}
		t.Skip("no torch in examples/.venv: PYPOOL_TORCH_PYTHON names an interpreter that has it, and numpy")
	}
	return python
}

// forkedTorch has the import compute with the threads of OpenMP, MKL and oneDNN, which a fork does
// not have, and gradients, and the workers do the same.
const forkedTorch = `import os
import random
import numpy
import torch
from pypool import command

imported = os.getpid()
torch.manual_seed(0)
x = torch.rand(300, 512)
images = torch.rand(4, 3, 64, 64)
model = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
conv = torch.nn.Conv2d(3, 16, 3)

def compute():
    model.zero_grad()
    model(x).square().mean().backward()
    with torch.no_grad():
        return [
            x @ x.T, model(x), conv(images), torch.fft.fft(x).abs(), torch.sort(x.flatten())[0],
            torch.linalg.solve(x[:, :300] + torch.eye(300), x), model[0].weight.grad.clone(),
        ]

computed = compute()

@command
def same() -> list:
    return [imported != os.getpid(), torch.get_num_threads() == 2] + [bool(torch.allclose(a, b, 1e-3, 1e-4)) for a, b in zip(computed, compute())]

@command
def draw() -> list:
    return [os.getppid(), os.getpid(), random.random(), float(numpy.random.rand()), float(torch.rand(1)), float(torch.randn(3)[2])]
`

func torchConfig(t *testing.T, python, source string) pypool.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "worker.py")
	require.NoError(t, os.WriteFile(path, []byte(source), 0o600))
	return pypool.Config{
		Script: path, Python: python, Size: 2, Overflow: -1, ForkServer: true, Threads: 2, Logger: slog.New(slog.DiscardHandler), StartTimeout: 2 * time.Minute,
	}
}

func TestForkedWorkersComputeWithTorch(t *testing.T) {
	pool, err := pypool.New(t.Context(), torchConfig(t, torchPython(t), forkedTorch))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	servers, workers, drawn := map[float64]bool{}, map[float64]bool{}, map[float64]bool{}
	for range 4 { // two that were forked at the beginning, and two that came in their places
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
	require.Len(t, workers, 4)
}

// Those of torch's threads that nobody starts again in a fork are told, and no worker waits for them.
func TestAnImportThatHasTorchForkIsRefused(t *testing.T) {
	pool, err := pypool.New(t.Context(), torchConfig(t, torchPython(t), `import torch

@torch.jit.script
def both(x: torch.Tensor) -> torch.Tensor:
    negative = torch.jit.fork(torch.neg, x)
    return torch.sin(x) + torch.jit.wait(negative)

both(torch.ones(10))
`))
	require.Nil(t, pool)
	require.ErrorIs(t, err, pypool.ErrWorkerStart)
	require.ErrorContains(t, err, "PTThreadPool")
	require.ErrorContains(t, err, "@setup")
}
