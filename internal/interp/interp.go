// Package interp finds the Python interpreter of a pool, says why it is that one, and how it is
// started.
package interp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/pypool/pypool/internal/proc"
)

// Source is where an interpreter was named, in the words of who may have named it.
type Source string

// The sources, in the order in which Find asks them. All but Path name one thing.
const (
	Config     Source = "Config.Python"
	Variable   Source = "$PYPOOL_PYTHON"
	VirtualEnv Source = "$VIRTUAL_ENV"
	DotVenv    Source = ".venv"
	Path       Source = "PATH"
)

// Interpreter is a Python, and why it is that one.
type Interpreter struct {
	Path    string // absolute, symbolic links unresolved; a bare name where there is no such program
	From    Source
	Version string // like 3.11.7; empty as long as it has not said
}

// String is the path, and the version when known.
func (i Interpreter) String() string {
	if i.Version == "" {
		return i.Path
	}
	return i.Path + " (" + i.Version + ")"
}

// Find looks for the interpreter: the one that is configured, if any is, or in the order of the
// sources, of which dir is where .venv may be. An error says why the one that was named, or
// python3, cannot be executed; the Interpreter then says which. It may hang: see proc.Bounded.
func Find(configured, dir string) (Interpreter, error) {
	if configured != "" {
		return look(configured, Config)
	}
	if name := os.Getenv("PYPOOL_PYTHON"); name != "" {
		return look(name, Variable)
	}
	for _, env := range []struct {
		path string
		from Source
	}{{os.Getenv("VIRTUAL_ENV"), VirtualEnv}, {filepath.Join(dir, ".venv"), DotVenv}} {
		if env.path == "" {
			continue
		}
		path := In(env.path)
		if _, err := os.Stat(path); err == nil {
			path, err = filepath.Abs(path)
			return Interpreter{Path: path, From: env.from}, err
		}
	}
	found, err := look("python3", Path)
	if err != nil {
		if other, otherErr := look("python", Path); otherErr == nil {
			return other, nil
		}
	}
	return found, err
}

func look(name string, from Source) (Interpreter, error) {
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return Interpreter{Path: name, From: from}, err
	}
	path, err = filepath.Abs(path)
	return Interpreter{Path: path, From: from}, err
}

// In is the path of a virtual environment's interpreter.
func In(env string) string {
	if runtime.GOOS == "windows" {
		return filepath.Join(env, "Scripts", "python.exe")
	}
	return filepath.Join(env, "bin", "python")
}

// EnvOf is the folder of the virtual environment that the interpreter at path belongs to; empty
// when it belongs to none.
func EnvOf(path string) string {
	env := filepath.Dir(filepath.Dir(path))
	if _, err := os.Stat(filepath.Join(env, "pyvenv.cfg")); err != nil {
		return ""
	}
	return env
}

// ThroughShim asks a version manager's shim (pyenv, asdf, mise), run in dir with env, which
// interpreter it starts: going through it would cost each worker's start as much again. Any other
// interpreter is returned as it is, a user's wrapper script above all.
func (i Interpreter) ThroughShim(ctx context.Context, dir string, env []string) Interpreter {
	if filepath.Base(filepath.Dir(i.Path)) != "shims" {
		return i
	}
	real := ask(ctx, proc.Spec{Path: i.Path, Dir: dir, Env: env}, "import sys; sys.stdout.write(sys.executable or '')")
	if filepath.IsAbs(real) {
		i.Path = real
	}
	return i
}

// ask runs one line of Python, of any version, where and as the spec says, and returns what it
// prints; empty when that fails.
func ask(ctx context.Context, spec proc.Spec, code string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	spec.Args, spec.DirIsHosts = []string{"-E", "-s", "-c", code}, true
	out, err := spec.Output(ctx)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// TooOldError says that an interpreter is not one that pypool supports.
type TooOldError struct{ Version string }

func (e *TooOldError) Error() string {
	return fmt.Sprintf("this Python %s is too old: pypool needs Python 3.8 or later", e.Version)
}

// AskVersion asks an interpreter that ended before hello for its version, empty where it does not
// say it. The error is a *TooOldError, or nil: Python 2 does not even know the option -I.
func AskVersion(ctx context.Context, spec proc.Spec) (version string, err error) {
	version = ask(ctx, spec, "import sys; sys.stdout.write('.'.join(map(str, sys.version_info[:3])))")
	var major, minor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n == 2 && (major < 3 || major == 3 && minor < 8) {
		return version, &TooOldError{version}
	}
	return version, nil
}
