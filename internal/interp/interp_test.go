//go:build unix

package interp

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool/internal/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program writes a shell script that passes for a Python.
func program(t *testing.T, path, body string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700))
	return path
}

func TestFindAsksTheSourcesInOrder(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return program(t, filepath.Join(dir, name), "exit 0") }
	bin := filepath.Join(dir, "on_path")
	t.Setenv("PATH", bin)
	t.Setenv("PYPOOL_PYTHON", "")
	t.Setenv("VIRTUAL_ENV", "")
	found := func(configured string) Interpreter {
		t.Helper()
		i, err := Find(configured, dir)
		require.NoError(t, err)
		return i
	}

	nothing, err := Find("", dir)
	require.ErrorIs(t, err, exec.ErrNotFound)
	assert.Equal(t, Interpreter{Path: "python3", From: Path}, nothing, "what was looked for")

	python := at("on_path/python")
	assert.Equal(t, Interpreter{Path: python, From: Path}, found(""))
	python3 := at("on_path/python3")
	assert.Equal(t, Interpreter{Path: python3, From: Path}, found(""))
	dotVenv := at(".venv/bin/python")
	assert.Equal(t, Interpreter{Path: dotVenv, From: DotVenv}, found(""))
	t.Setenv("VIRTUAL_ENV", filepath.Join(dir, "active"))
	assert.Equal(t, DotVenv, found("").From, "one that has no interpreter is passed over")
	active := at("active/bin/python")
	assert.Equal(t, Interpreter{Path: active, From: VirtualEnv}, found(""))
	t.Setenv("PYPOOL_PYTHON", "python")
	assert.Equal(t, Interpreter{Path: python, From: Variable}, found(""))
	assert.Equal(t, Interpreter{Path: python3, From: Config}, found("python3"))

	wrong, err := Find("/nowhere/python", dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.Equal(t, Interpreter{Path: "/nowhere/python", From: Config}, wrong, "what was named is not replaced")
}

func TestAShimIsAskedWhichInterpreterItStarts(t *testing.T) {
	dir := t.TempDir()
	shim := program(t, filepath.Join(dir, "shims", "python3"), `printf %s "$REAL"`)
	through := func(path, real string) string {
		return Interpreter{Path: path, From: Path}.ThroughShim(t.Context(), dir, []string{"REAL=" + real}).Path
	}
	assert.Equal(t, "/opt/python", through(shim, "/opt/python"))
	assert.Equal(t, shim, through(shim, ""), "it does not say")
	assert.Equal(t, shim, through(shim, "relative"))
	wrapper := program(t, filepath.Join(dir, "bin", "python3"), `printf %s "$REAL"`)
	assert.Equal(t, wrapper, through(wrapper, "/opt/python"), "a wrapper is the user's wish")
}

func TestAnInterpreterThatIsTooOldIsATypedReason(t *testing.T) {
	path := program(t, filepath.Join(t.TempDir(), "python"), `printf %s "$VERSION"`)
	for version, old := range map[string]bool{"2.7.18": true, "3.7.17": true, "3.8.0": false, "3.14.1": false, "": false, "no version": false} {
		said, err := AskVersion(t.Context(), proc.Spec{Path: path, Env: []string{"VERSION=" + version}})
		assert.Equal(t, version, said)
		var reason *TooOldError
		assert.Equal(t, old, err != nil, version)
		if old {
			require.ErrorAs(t, err, &reason)
			assert.Equal(t, version, reason.Version)
			assert.Equal(t, "this Python "+version+" is too old: pypool needs Python 3.8 or later", err.Error())
		}
	}
}

func TestEnvOfIsTheFolderWithThePyvenvCfg(t *testing.T) {
	env := t.TempDir()
	assert.Empty(t, EnvOf(In(env)))
	require.NoError(t, os.WriteFile(filepath.Join(env, "pyvenv.cfg"), nil, 0o600))
	assert.Equal(t, env, EnvOf(In(env)))
}

func TestAnInterpreterIsToldWithItsVersion(t *testing.T) {
	assert.Equal(t, "/usr/bin/python3", Interpreter{Path: "/usr/bin/python3"}.String())
	assert.Equal(t, "/a (b)/python (3.11.7)", Interpreter{Path: "/a (b)/python", Version: "3.11.7"}.String())
}

func TestCommandHidesWhatMayReplaceTheRuntimesImports(t *testing.T) {
	args, env, hidden := Command("boot", []string{"A=1", "PYTHONPATH=/x", "PYTHONUTF8=1", "PYTHONWARNINGS=error,ignore"}, false)
	assert.Equal(t, []string{"-I", "-u", "-X", "utf8=1", "-W", "error", "-W", "ignore", "-X", "faulthandler", "-c", "boot"}, args)
	assert.Len(t, env, 4)
	assert.Nil(t, hidden)
	args, env, hidden = Command("boot", []string{"A=1", "PYTHONPATH=/x", "PYTHONHASHSEED=7"}, true)
	assert.Equal(t, []string{"-s", "-u", "-B", "-X", "faulthandler", "-c", "boot"}, args, "the seed needs the variables to be read")
	assert.Equal(t, []string{"A=1", "PYTHONHASHSEED=7"}, env)
	assert.Equal(t, map[string]string{"PYTHONPATH": "/x"}, hidden)
	assert.Equal(t, []string{"PYTHONHOME"}, Ignored([]string{"PYTHONHOME=/x", "PYTHONPATH=/y", "PYTHONSTARTUP="}))
}
