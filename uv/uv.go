// Package pypooluv makes the Python environment that a worker script asks for, with uv.
//
//	python, err := pypooluv.Python(ctx, "worker.py")
//	if err != nil {
//		log.Fatal(err)
//	}
//	pool, err := pypool.New(ctx, pypool.Config{Script: "worker.py", Python: python})
//
// The script says what it needs in a block of inline metadata (PEP 723):
//
//	# /// script
//	# requires-python = ">=3.11"
//	# dependencies = ["numpy>=2"]
//	# ///
//
// or a pyproject.toml beside it, or in a folder above, does. The first call makes the environment,
// which takes as long as the downloads; from then on it is found in milliseconds, without uv and
// without a network, until the script's block, the project or its lock file change.
package pypooluv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/pypool/pypool/internal/foreign"
)

// The reasons that a program may want to tell apart. Each is wrapped in an error that says what to
// do.
var (
	ErrNoUV     = errors.New("uv is not there")
	ErrOffline  = errors.New("a package index could not be reached")
	ErrNothing  = errors.New("nothing says what the script needs")
	ErrResolve  = errors.New("the requirements cannot be met")
	ErrMetadata = errors.New("the inline metadata cannot be read")
)

// Python is [Tool.Python] of a zero Tool.
func Python(ctx context.Context, script string) (string, error) { return Tool{}.Python(ctx, script) }

// Tool makes environments. Its zero value is ready for use, and may be used by many goroutines and
// processes at the same time: who comes second waits for the first.
type Tool struct {
	// UV is the uv binary. Default: $PYPOOL_UV; else uv in PATH, in the virtual environment
	// $VIRTUAL_ENV or ./.venv (`pip install uv` puts it there), or in ~/.local/bin, where its
	// installer puts it.
	UV string
	// Dir is the folder that the environments are in. Default: $PYPOOL_UV_DIR, else pypool/uv in
	// [os.UserCacheDir]. One that no longer is of use may be deleted when no worker runs in it.
	Dir string
	// Args are further arguments for `uv sync`, as --extra=gpu, --locked or --offline. Different
	// ones make different environments.
	Args []string
	// Files is where the script is, and the pyproject.toml, when the program carries them in itself:
	// see [github.com/pypool/pypool.Config]. The project is not installed then, only what it depends
	// on. Default: nil, the disk.
	Files fs.FS
	// Logger is told, at Info, when an environment is made and how long it took. Default:
	// slog.Default().
	Logger *slog.Logger
}

// Python returns the path of the interpreter, for pypool.Config.Python, of the environment that the
// script asks for, and makes it if it is not there yet. What counts is the script's block of inline
// metadata (PEP 723) with the lock file beside it (worker.py.lock) if it has one; else the nearest
// pyproject.toml, beside the script or above, with uv.lock, which `uv sync` writes if it is missing
// or behind; and the nearest .python-version. Development dependencies are left out.
//
// An environment is never changed once it is ready: workers may be running in it. So versions that
// are not pinned stay as they were resolved first. When ctx ends uv is ended, and Python returns
// ctx's error; the next call begins anew.
func (t Tool) Python(ctx context.Context, script string) (python string, err error) {
	ctx = foreign.Context(ctx)
	defer func() {
		if err != nil {
			err = fmt.Errorf("pypooluv: %s: %w", script, err)
		}
	}()
	if t.Logger == nil {
		t.Logger = slog.Default()
	}
	dir, err := t.dir()
	if err != nil {
		return "", err
	}
	wanted, err := t.find(script)
	if err != nil {
		return "", err
	}
	env := environment{dir: dir, key: wanted.key(t.Args)}
	if python, err := env.ready(); python != "" || err != nil {
		return python, err
	}
	uv, err := t.uv()
	if err != nil {
		return "", fmt.Errorf("%w; what %s asks for is not in %s", err, wanted.what, dir)
	}
	lock, err := acquire(ctx, filepath.Join(dir, env.key+".lock"))
	switch {
	case errors.Is(err, errWaited):
		return "", fmt.Errorf("waiting for another process that makes the same environment: %w", context.Cause(ctx))
	case err != nil: // a file system that is read-only, or full, or one without locks
		return "", fmt.Errorf("what %s asks for is not in %s, and cannot be made there: %w", wanted.what, dir, err)
	}
	defer lock.Close()
	if python, err := env.ready(); python != "" || err != nil {
		return python, err // the other one has made it
	}
	begun := time.Now()
	t.Logger.InfoContext(ctx, "making the Python environment", slog.String("script", script), slog.String("for", wanted.what), slog.String("dir", env.path()))
	if err := t.make(ctx, uv, lock, &env, wanted); err != nil {
		return "", err
	}
	t.Logger.InfoContext(ctx, "the Python environment is ready", slog.String("script", script), slog.Duration("took", time.Since(begun)))
	return env.python(), nil
}

// dir makes the folder of the environments.
func (t Tool) dir() (string, error) {
	dir := t.Dir
	if dir == "" {
		dir = os.Getenv("PYPOOL_UV_DIR")
	}
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no folder for the environments: %w; set Tool.Dir, or PYPOOL_UV_DIR", err)
		}
		dir = filepath.Join(cache, "pypool", "uv")
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o755) // who uses them need not be who makes them
	}
	if err != nil {
		return "", fmt.Errorf("no folder for the environments: %w; set Tool.Dir, or PYPOOL_UV_DIR", err)
	}
	return dir, nil
}

// uv finds the binary.
func (t Tool) uv() (string, error) {
	const install = "install it (https://docs.astral.sh/uv, or `pip install uv` in the virtual environment), or name the binary in PYPOOL_UV or Tool.UV"
	for _, named := range []struct{ path, by string }{{t.UV, "Tool.UV"}, {os.Getenv("PYPOOL_UV"), "PYPOOL_UV"}} {
		if named.path == "" {
			continue
		}
		path, err := exec.LookPath(named.path)
		if err != nil {
			return "", fmt.Errorf("%w: %s names %s: %w", ErrNoUV, named.by, named.path, err)
		}
		return filepath.Abs(path)
	}
	if path, err := exec.LookPath("uv"); err == nil {
		return filepath.Abs(path)
	}
	folders := []string{binaries(".venv")}
	if env := os.Getenv("VIRTUAL_ENV"); env != "" {
		folders = append([]string{binaries(env)}, folders...)
	}
	if home, err := os.UserHomeDir(); err == nil {
		folders = append(folders, filepath.Join(home, ".local", "bin"))
	}
	for _, folder := range folders {
		if path, err := exec.LookPath(filepath.Join(folder, "uv")); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", fmt.Errorf("%w: neither in PATH nor in %s: %s", ErrNoUV, strings.Join(folders, ", "), install)
}

// binaries is the folder of a virtual environment's programs.
func binaries(env string) string {
	if runtime.GOOS == "windows" {
		return filepath.Join(env, "Scripts")
	}
	return filepath.Join(env, "bin")
}

// environment is one of the folders in dir. Beside it stand a file that says that it is whole, and
// one that is locked while it is made.
type environment struct{ dir, key string }

func (e environment) path() string { return filepath.Join(e.dir, e.key) }
func (e environment) mark() string { return e.path() + ".ready" }

func (e environment) python() string {
	if runtime.GOOS == "windows" {
		return filepath.Join(binaries(e.path()), "python.exe")
	}
	return filepath.Join(binaries(e.path()), "python")
}

// ready is the interpreter of an environment that is whole; empty: it is to be made. Its
// interpreter may be a link to one that is gone.
func (e environment) ready() (python string, err error) {
	target, err := os.ReadFile(e.mark())
	if err == nil {
		made := environment{e.dir, strings.TrimSpace(string(target))}
		var info os.FileInfo
		if info, err = os.Stat(made.python()); err == nil && info.Mode().IsRegular() {
			return made.python(), nil
		}
	}
	if errors.Is(err, fs.ErrPermission) {
		return "", fmt.Errorf("the environment is there, and this user may not use it: %w", err)
	}
	return "", nil
}

// markReady says that the environment called key is what is asked for by this one's key.
func (e environment) markReady(key string) error {
	temp := e.mark() + ".new"
	if err := os.WriteFile(temp, []byte(key+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, e.mark())
}

// make has uv make the environment. The caller holds the lock.
func (t Tool) make(ctx context.Context, uv string, lock *os.File, env *environment, wanted *wanted) error {
	// What was not finished, or has lost its interpreter
	if err := errors.Join(remove(env.mark()), os.RemoveAll(env.path())); err != nil {
		return err
	}
	place, done, err := wanted.onDisk()
	if err != nil {
		return err
	}
	defer done()
	args := []string{"sync", "--color=never", "--no-progress"}
	environ := os.Environ()
	if wanted.script {
		args = append(args, "--script", place, "--active")
		environ = append(environ, "VIRTUAL_ENV="+env.path())
	} else {
		args = append(args, "--project", place, "--no-dev")
		environ = append(without(environ, "VIRTUAL_ENV"), "UV_PROJECT_ENVIRONMENT="+env.path())
		if wanted.files != nil {
			args = append(args, "--no-install-project")
		}
	}
	if err := run(ctx, uv, append(args, t.Args...), environ, lock); err != nil {
		var failed *Error
		if wanted.script && errors.As(err, &failed) && strings.Contains(failed.Stderr, "nspect Python interpreter") {
			// It takes the environment that is not there for the only interpreter: ask which there is
			if better := run(ctx, uv, []string{"python", "find", "--color=never", "--script", place}, without(environ, "VIRTUAL_ENV"), lock); errors.Is(better, ErrResolve) {
				return better
			}
		}
		return err
	}
	if _, err := os.Stat(env.python()); err != nil {
		return fmt.Errorf("uv has made no interpreter: %w", err)
	}
	if err := env.markReady(env.key); err != nil {
		return err
	}
	if wanted.files == nil { // it may have written the lock file, which is part of the key
		if again, err := t.find(wanted.asked); err == nil {
			if other := (environment{env.dir, again.key(t.Args)}); other.key != env.key {
				return other.markReady(env.key)
			}
		}
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func without(environ []string, name string) (rest []string) {
	for _, entry := range environ {
		if !strings.HasPrefix(entry, name+"=") {
			rest = append(rest, entry)
		}
	}
	return rest
}
