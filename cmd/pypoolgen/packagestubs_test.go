package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestStubsHaveWhatThePackageOffersAndNoCode(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "typings")
	require.NoError(t, run(t.Context(), []string{"stubs", dir}, io.Discard, io.Discard))
	init, err := os.ReadFile(filepath.Join(dir, "pypool", "__init__.pyi"))
	require.NoError(t, err)
	source, err := os.ReadFile("../../python/pypool/__init__.py")
	require.NoError(t, err)
	_, all, _ := strings.Cut(string(source), "__all__ = [")
	all, _, _ = strings.Cut(all, "]")
	names := regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(all, -1)
	require.Greater(t, len(names), 9)
	for _, name := range names {
		assert.Regexp(t, `import `+name[1]+` as `+name[1]+`\b`, string(init))
	}
	assert.NotContains(t, string(init), "__getattr__")
	files, err := filepath.Glob(filepath.Join(dir, "pypool", "*"))
	require.NoError(t, err)
	for _, path := range files {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, ".pyi", filepath.Ext(path), "nothing that could be imported")
		assert.True(t, strings.HasPrefix(string(text), stubMark))
		assert.NotRegexp(t, `(?m)^ +return .*\(`, string(text), path) // __init__ has none
		assert.NotRegexp(t, `(?m) $`, string(text), path)
	}
}

func TestStubsReplaceTheirOwnAndNobodyElses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := filepath.Join(dir, "pypool", "_old.pyi")
	require.NoError(t, os.MkdirAll(filepath.Dir(old), 0o700))
	require.NoError(t, os.WriteFile(old, []byte(stubMark+"0.0.1\n"), 0o600))
	require.NoError(t, writePackageStubs(dir))
	require.NoError(t, writePackageStubs(dir))
	assert.NoFileExists(t, old)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pypool", "__init__.py"), []byte("mine = 1\n"), 0o600))
	require.ErrorContains(t, writePackageStubs(dir), "__init__.py is not a stub of pypoolgen's: name another folder than "+dir)
	for _, args := range [][]string{{"stubs"}, {"stubs", "a", "b"}, {"stubs", "-o"}} {
		_, err := parse(args, io.Discard)
		require.ErrorContains(t, err, "usage: pypoolgen stubs DIR")
	}
}

func TestTypeCheckersReadTheStubs(t *testing.T) {
	t.Parallel()
	python, err := filepath.Abs("../../build/venv/bin/python")
	require.NoError(t, err)
	if _, err := os.Stat(python); err != nil {
		t.Skip("mypy is not here: make build/venv/ready installs it (make test does)")
	}
	dir := t.TempDir()
	require.NoError(t, writePackageStubs(dir))
	worker := filepath.Join(dir, "worker.py")
	require.NoError(t, os.WriteFile(worker, []byte(`import pypool
from pypool import Canceled, command, current_call, host, program, setup, shield


@command
def good(x: int) -> str:
    with shield():
        host.lookup(id=x)
    return str(current_call().remaining())


@command(max_batch_size=3)
def many(x: "list[int]") -> "list[str]":
    return []


reveal_type(good)
reveal_type(current_call().session_id)
pypool.comand


@command(max_bach_size=3)
def bad() -> None: ...
`), 0o600))
	mypy := exec.Command(python, "-m", "mypy", "--strict", "--cache-dir", filepath.Join(dir, "cache"), worker, filepath.Join(dir, "pypool"))
	mypy.Env = append(os.Environ(), "MYPYPATH="+dir)
	out, _ := mypy.CombinedOutput()
	said := string(out)
	assert.Contains(t, said, `Revealed type is "def (x: int) -> str"`)
	assert.Regexp(t, `Revealed type is "(str \| None|Union\[builtins.str, None\])"`, said)
	assert.Contains(t, said, `Module has no attribute "comand"`)
	assert.Contains(t, said, `"max_bach_size"`)
	assert.NotContains(t, said, ".pyi:", "no trouble in the stubs themselves")
	assert.Contains(t, said, "Found 3 errors in 1 file")
}
