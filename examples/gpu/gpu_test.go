package main

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool/examples/internal/storytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNoGPU: torch is a fake here, which has no GPU; nothing but the refusal is tested without one.
func TestNoGPU(t *testing.T) {
	fake, err := filepath.Abs("testdata/nogpu")
	require.NoError(t, err)
	var out bytes.Buffer
	err = run(t.Context(), settings{python: storytest.Python(t), device: "cuda", workers: 2, env: []string{"PYTHONPATH=" + fake}}, &out)
	require.Error(t, err)
	require.Equal(t, "torch 0.0 finds no NVIDIA GPU on this machine; examples/vision is the same on a CPU", explain(err))
	require.Empty(t, out.String())
}

// TestNoTorch: the story's other libraries have none.
func TestNoTorch(t *testing.T) {
	err := run(t.Context(), settings{python: storytest.Python(t), device: "cuda", workers: 1}, &bytes.Buffer{})
	require.Error(t, err)
	require.Contains(t, explain(err), "No module named 'torch'")
}
