package pypool

import (
	"bytes"
	"compress/zlib"
	"context"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pypool/pypool/internal/proc"
)

// Version is the version of this library and of the Python runtime that it embeds.
const Version = "0.1.0"

// The glob, not the folder: go:embed leaves out files that begin with an underscore when it is given a folder.
//
//go:embed python/pypool/*.py
var pythonFiles embed.FS

// pythonRuntime is the embedded package, ready to be sent: no file is ever written. The bootstrap is given to `python -c`;
// it reads the hello line, and in it the other modules' sources: packed, so that the line fits into the pipe (proc.RequestRoom).
var pythonRuntime = sync.OnceValues(func() (boot, packed string) {
	modules := map[string]string{}
	_ = fs.WalkDir(pythonFiles, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		source, err := pythonFiles.ReadFile(path)
		switch name := strings.TrimSuffix(d.Name(), ".py"); name {
		case "_boot":
			boot = string(source)
		case "__main__", "_packages": // the command line, which runs from files, and what it and Check know
		default:
			modules[name] = withoutNotes(string(source))
		}
		return err
	})
	var buf bytes.Buffer
	w := zlib.NewWriter(&buf) // into memory: nothing here can fail
	_ = json.NewEncoder(w).Encode(modules)
	_ = w.Close()
	return boot, base64.StdEncoding.EncodeToString(buf.Bytes())
})

// withoutNotes leaves comments, docstrings, and what is for type checkers alone out of a module, so that hello fits into a pipe and each
// start compiles less. Every line keeps its number.
func withoutNotes(source string) string {
	const quotes = `"""`
	lines := strings.Split(source, "\n")
	checking, doc := false, false
	for i, line := range lines {
		text := strings.TrimSpace(line)
		checking = line == "if TYPE_CHECKING:" || checking && (text == "" || line[0] == ' ')
		switch {
		case doc:
			doc = !strings.HasSuffix(text, quotes)
			lines[i] = ""
		case strings.HasPrefix(text, quotes):
			doc = text == quotes || !strings.HasSuffix(text, quotes)
			lines[i] = line[:strings.Index(line, quotes)] + `""` // it may be all that a class has
		case checking, strings.HasPrefix(text, "#"):
			lines[i] = ""
		}
	}
	return strings.Join(lines, "\n")
}

// pythonCommand is how the interpreter is started. -I keeps the environment and the working directory from replacing what the
// runtime imports; what Python's own variables ask for, and does no such harm, is asked for by options instead. -u keeps output from
// waiting in a buffer at a crash. With WatchScripts, -B: a .pyc knows its source by second and size, so that of two quick edits the
// second would not be read.
//
// No option sets the seed of hashes: for it Python must see its variable, and then none of the others. hidden is what the runtime puts back.
func pythonCommand(cfg *Config) (args, env []string, hidden map[string]string) {
	boot, _ := pythonRuntime()
	vars := pythonVars(cfg.Env)
	args, env = []string{"-I", "-u"}, cfg.Env
	if _, err := strconv.ParseUint(vars["PYTHONHASHSEED"], 10, 32); err == nil {
		args[0], env, hidden = "-s", nil, map[string]string{}
		for _, v := range cfg.Env {
			name, value, _ := strings.Cut(v, "=")
			if strings.HasPrefix(name, "PYTHON") && name != "PYTHONHASHSEED" {
				hidden[name] = value
				continue
			}
			env = append(env, v)
		}
	}
	if cfg.WatchScripts {
		args = append(args, "-B")
	}
	args = append(args, optionsFor(vars)...)
	return append(args, "-X", "faulthandler", "-c", boot), env, hidden
}

// pythonVars are the variables that Python itself reads, and that say something.
func pythonVars(env []string) map[string]string {
	vars := map[string]string{}
	for _, v := range env {
		if name, value, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PYTHON") && value != "" {
			vars[name] = value
		}
	}
	return vars
}

// optionsFor says by options what the variables say.
func optionsFor(vars map[string]string) (options []string) {
	if value := vars["PYTHONOPTIMIZE"]; value != "" && value != "0" {
		option := "-O"
		if n, err := strconv.Atoi(value); err == nil && n > 1 {
			option = "-OO"
		}
		options = append(options, option)
	}
	for _, x := range []struct{ name, option string }{
		{"PYTHONDEVMODE", "dev"}, {"PYTHONPROFILEIMPORTTIME", "importtime"}, {"PYTHONNODEBUGRANGES", "no_debug_ranges"},
		{"PYTHONWARNDEFAULTENCODING", "warn_default_encoding"},
	} {
		if vars[x.name] != "" {
			options = append(options, "-X", x.option)
		}
	}
	for _, x := range []struct{ name, option string }{
		{"PYTHONTRACEMALLOC", "tracemalloc"}, {"PYTHONUTF8", "utf8"}, {"PYTHONINTMAXSTRDIGITS", "int_max_str_digits"},
	} {
		// Of what is no number Python would say so and end.
		if _, err := strconv.ParseUint(vars[x.name], 10, 31); err == nil {
			options = append(options, "-X", x.option+"="+vars[x.name])
		}
	}
	for filter := range strings.SplitSeq(vars["PYTHONWARNINGS"], ",") {
		if filter != "" {
			options = append(options, "-W", filter)
		}
	}
	return options
}

// honoured are Python's variables that have their effect in a worker: by optionsFor, by the runtime, or because a worker is so always.
var honoured = []string{
	"PYTHONOPTIMIZE", "PYTHONDEVMODE", "PYTHONPROFILEIMPORTTIME", "PYTHONNODEBUGRANGES", "PYTHONWARNDEFAULTENCODING", "PYTHONTRACEMALLOC", "PYTHONUTF8",
	"PYTHONINTMAXSTRDIGITS", "PYTHONWARNINGS", "PYTHONHASHSEED", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONNOUSERSITE",
	"PYTHONUNBUFFERED", "PYTHONFAULTHANDLER", "PYTHONSAFEPATH",
}

// ignoredVars names Python's variables in env that have no effect in a worker.
func ignoredVars(env []string) (names []string) {
	for name := range pythonVars(env) {
		if !slices.Contains(honoured, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// resolved is a Config with its defaults and its interpreter.
type resolved struct {
	cfg    Config
	err    error // of cfg
	python string
	pyErr  error // of python
}

// resolveWithin looks up what a Config names, for as long as ctx and StartTimeout allow.
func resolveWithin(ctx context.Context, cfg Config) (r resolved, err error) {
	limit := cfg.StartTimeout
	offDuration(&limit, defaultStartTimeout)
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return proc.Bounded(ctx, func() (r resolved) {
		if r.cfg, r.err = cfg.resolve(); r.err == nil {
			r.python, r.pyErr = findPython(&r.cfg)
		}
		return r
	})
}

// findPython resolves Config.Python to an absolute path, symbolic links unresolved.
func findPython(cfg *Config) (string, error) {
	if cfg.Python != "" {
		return lookPython(cfg.Python)
	}
	if path := os.Getenv("PYPOOL_PYTHON"); path != "" {
		return lookPython(path)
	}
	var envs []string
	if env := os.Getenv("VIRTUAL_ENV"); env != "" {
		envs = append(envs, env)
	}
	envs = append(envs, filepath.Join(cfg.Dir, ".venv"))
	for _, env := range envs {
		path := filepath.Join(env, "bin", "python")
		if runtime.GOOS == "windows" {
			path = filepath.Join(env, "Scripts", "python.exe")
		}
		if _, err := os.Stat(path); err == nil {
			return filepath.Abs(path)
		}
	}
	path, err := lookPython("python3")
	if err != nil {
		if alt, altErr := lookPython("python"); altErr == nil {
			return alt, nil
		}
	}
	return path, err
}

func lookPython(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return name, err
	}
	return filepath.Abs(path)
}

// throughShim asks a version manager's shim (pyenv, asdf, mise) which interpreter it starts: going through it would cost each
// worker's start as much again. Any other path is returned as it is, a user's wrapper script above all.
func throughShim(ctx context.Context, path, dir string, env []string) string {
	if filepath.Base(filepath.Dir(path)) != "shims" {
		return path
	}
	real := askPython(ctx, path, dir, env, "import sys; sys.stdout.write(sys.executable or '')")
	if !filepath.IsAbs(real) {
		return path
	}
	return real
}

// askPython runs one line of Python, of any version, and returns what it prints; empty when that fails.
func askPython(ctx context.Context, path, dir string, env []string, code string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := proc.Spec{Path: path, Args: []string{"-E", "-s", "-c", code}, Dir: dir, Env: env, DirIsHosts: true}.Output(ctx)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// tooOld says so when an interpreter that ended before hello is not one that pypool supports: Python 2 does not even know -I.
func tooOld(ctx context.Context, spec proc.Spec) (version string, err error) {
	version = askPython(ctx, spec.Path, spec.Dir, spec.Env, "import sys; sys.stdout.write('.'.join(map(str, sys.version_info[:3])))")
	var major, minor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n == 2 && (major < 3 || major == 3 && minor < 8) {
		return version, fmt.Errorf("this Python %s is too old: pypool needs Python 3.8 or later", version)
	}
	return version, nil
}
