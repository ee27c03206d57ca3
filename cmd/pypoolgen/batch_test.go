package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A batch command is called with one call's arguments, and so its method takes those.
func TestABatchCommandsMethodIsOfOneCall(t *testing.T) {
	script := filepath.Join(t.TempDir(), "worker.py")
	require.NoError(t, os.WriteFile(script, []byte(`
import dataclasses
from typing import List
from pypool import command, program

@dataclasses.dataclass
class Point:
    x: float

@command(max_batch_size=32)
def embed(text: List[str], point: List[Point]) -> List[List[float]]:
    """Embed a text."""
    return [[0.0] for _ in text]

@program("plus", max_batch_size=4)
def plus(x: List[int]) -> List[int]:
    return x
`), 0o600))
	got := generated(t, "-script", script, "-package", "p")
	for _, want := range []string{
		"type EmbedArgs struct {\n\tText  string `json:\"text\"`\n\tPoint Point  `json:\"point\"`\n}",
		"args EmbedArgs, opts ...pypool.CallOption) ([]float64, error) {",
		"type PlusArgs struct {\n\tX int64 `json:\"x\"`\n}",
		"args PlusArgs, opts ...pypool.CallOption) (int64, error) {",
	} {
		require.Contains(t, got, want)
	}
}
