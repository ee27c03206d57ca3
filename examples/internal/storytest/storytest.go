// Package storytest is what the tests of the stories share.
package storytest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Python returns the interpreter that has the stories' libraries. Without it the test fails, or,
// outside of `make examples` (which sets PYPOOL_EXAMPLES), is skipped.
func Python(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../.venv/bin/python") // a test runs in its story's folder
	require.NoError(t, err)
	_, err = os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		const advice = "this story needs its Python libraries in examples/.venv: run `make examples` once"
		if os.Getenv("PYPOOL_EXAMPLES") != "" {
			t.Fatal(advice)
		}
		t.Skip(advice)
	}
	require.NoError(t, err)
	return path
}

// Output returns what the story's README says that it prints: the README's last block of text.
func Output(t testing.TB) string {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	parts := strings.Split(string(readme), "\n```text\n")
	require.Greater(t, len(parts), 1, "README.md shows no output")
	output, _, _ := strings.Cut(parts[len(parts)-1], "```")
	return output
}
