package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out))
	require.Equal(t, "22.49 EUR with [SPRING], arrives 2026-03-02\nA-17: in transit\nA-17: delivered\n", out.String())
}

// The client in the repository is the one that `go generate` writes.
func TestGenerated(t *testing.T) {
	out := filepath.Join(t.TempDir(), "shop_gen.go")
	text, err := exec.Command("go", "run", "github.com/pypool/pypool/cmd/pypoolgen", "-script", "worker.py", "-package", "shop", "-o", out).CombinedOutput()
	require.NoError(t, err, string(text))
	want, err := os.ReadFile(out)
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join("shop", "shop_gen.go"))
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "run go generate ./...")
}
