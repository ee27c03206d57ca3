package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

func TestFunctionsBecomeAPythonModule(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"testdata/functions", "testdata/odd"} {
		want, err := os.ReadFile(filepath.Join(dir, "host_functions.py"))
		require.NoError(t, err)
		out := filepath.Join(t.TempDir(), "host_functions.py")
		require.NoError(t, run(t.Context(), []string{"-functions", dir, "-o", out}, io.Discard, io.Discard))
		got, err := os.ReadFile(out)
		require.NoError(t, err)
		assert.Equal(t, string(want), string(got))
		var stdout bytes.Buffer
		require.NoError(t, run(t.Context(), []string{"-functions", dir}, &stdout, io.Discard))
		assert.Equal(t, string(want), stdout.String())
		output, err := exec.Command("python3", "-c", "import ast, sys; ast.parse(open(sys.argv[1], encoding='utf-8').read())", out).CombinedOutput()
		require.NoError(t, err, "%s", output)
	}
}

func TestTheModuleOfFunctionsCallsThem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text, err := os.ReadFile("testdata/functions/host_functions.py")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "host_functions.py"), text, 0o600))
	script := filepath.Join(dir, "worker.py")
	require.NoError(t, os.WriteFile(script, []byte("from pypool import command\nfrom host_functions import host\n\n@command\ndef ask(text: str):\n    return host.note(text)\n"), 0o600))
	pool, err := pypool.New(t.Context(), pypool.Config{Script: script, Size: 1, Overflow: -1, Functions: pypool.Functions{
		"note": pypool.Func(func(_ context.Context, text string) (string, error) { return "noted " + text, nil }),
	}})
	require.NoError(t, err)
	defer pool.Close()
	got, err := pypool.Call[string](t.Context(), pool, "ask", map[string]any{"text": "this"})
	require.NoError(t, err)
	assert.Equal(t, "noted this", got)
}

func TestFunctionsThatCannotBeFound(t *testing.T) {
	t.Parallel()
	for dir, part := range map[string]string{".": "no function", t.TempDir(): "go list"} {
		_, err := stubs(dir)
		require.ErrorContains(t, err, part)
	}
	_, err := stubs("testdata/badname")
	require.ErrorContains(t, err, `"class" cannot be a function's name in Python: rename it`)
	_, err = parse([]string{"-functions", ".", "-script", "x.py"}, io.Discard)
	require.Error(t, err)
}
