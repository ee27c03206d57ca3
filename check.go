package pypool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pypool/pypool/internal/files"
	"github.com/pypool/pypool/internal/foreign"
	"github.com/pypool/pypool/internal/interp"
	"github.com/pypool/pypool/internal/proc"
)

// Check tries a configuration without opening a pool. It starts one worker as New would, asks it
// for its commands, and stops it; what it finds (the interpreter, its virtual environment, how long
// the start took, the commands) goes to cfg.Logger. It returns nil when such a pool would serve.
// Otherwise the error is an *Error that says in words what to do: ErrInvalidArguments for a bad
// field, ErrWorkerStart with its [StartError], which holds the Python traceback, for the rest. ctx
// bounds it as it does New. Nothing is left behind.
func Check(ctx context.Context, cfg Config) error {
	ctx = foreign.Context(ctx)
	r, err := resolveWithin(ctx, cfg)
	if err != nil {
		return startError(&cfg, interp.Interpreter{}, stageSpawn, time.Now(), err)
	}
	if r.err != nil {
		return r.err
	}
	full := r.cfg
	one := cfg
	one.Size, one.Overflow, one.MinReady, one.WatchScripts = 1, -1, 1, false
	one.Observer, one.ErrorRate.Func = nil, nil
	begun := time.Now()
	p, err := New(ctx, one)
	if err != nil {
		better, hung := proc.Bounded(ctx, func() error { return advised(err, &cfg, &r) })
		if hung != nil {
			return err
		}
		return better
	}
	defer p.Close()
	took := time.Since(begun)
	python := p.sup.env.python.Path
	version, runs := "", python
	if workers := p.Workers(); len(workers) > 0 {
		version, runs = workers[0].Python, workers[0].Interpreter
	}
	commands, err := p.Commands(ctx)
	if err != nil {
		return err
	}
	if err := p.Shutdown(ctx); err != nil {
		return err
	}

	log := full.Logger.With(slog.String("pool", full.Name))
	type place struct {
		env     string
		foreign bool // VIRTUAL_ENV is another
	}
	at, err := proc.Bounded(ctx, func() place {
		env := interp.EnvOf(python)
		wanted := os.Getenv("VIRTUAL_ENV")
		return place{env, wanted != "" && !sameFile(wanted, env)}
	})
	if err != nil {
		return startError(&full, p.sup.env.python, stageSpawn, begun, err)
	}
	log.InfoContext(ctx, "check: interpreter", slog.String("path", runs), slog.String("version", version),
		slog.String("from", string(r.python.From)), slog.String("virtual_env", at.env))
	if at.foreign {
		log.WarnContext(ctx, "check: VIRTUAL_ENV is not the interpreter's environment, its packages are not seen",
			slog.String("VIRTUAL_ENV", os.Getenv("VIRTUAL_ENV")), slog.String("from", string(r.python.From)))
	}
	if names := interp.Ignored(full.Env); len(names) > 0 {
		log.WarnContext(ctx, "check: environment variables of Python that have no effect in a worker", slog.Any("names", names))
	}
	for _, entry := range filepath.SplitList(interp.Vars(full.Env)["PYTHONPATH"]) {
		if path := filepath.Join(entry, "sitecustomize.py"); isFile(path) {
			log.WarnContext(ctx, "check: a sitecustomize on PYTHONPATH is not run in a worker: import it in the script", slog.String("path", path))
		}
	}
	if p.files != nil {
		log.InfoContext(ctx, "check: Files written", slog.Int("files", p.files.Files), slog.Int64("bytes", p.files.Bytes))
	}
	if os.Getpid() == 1 {
		log.WarnContext(ctx, "check: this process is PID 1: what workers start and leave behind in a session of its own is never reaped: run an init before it (docker run --init, tini)")
	}
	log.InfoContext(ctx, "check: worker ready", slog.Duration("took", took), slog.String("script", full.target()))
	if limit := full.StartTimeout; limit > 0 && took > limit/2 {
		log.WarnContext(ctx, "check: the start takes more than half of StartTimeout: raise it, or import less", slog.Duration("start_timeout", limit))
	}
	names := make([]string, 0, len(commands))
	for _, c := range commands {
		names = append(names, c.Name)
	}
	log.InfoContext(ctx, "check: commands", slog.Any("names", names))
	if full.target() == "" {
		log.WarnContext(ctx, "check: "+noScript)
	}
	if len(names) == 0 && full.target() != "" {
		detail := &StartError{Stage: stageImport, Python: python, Err: errors.New("no command is registered")}
		e := newError(TypeWorkerStart, NotExecuted, full.target()+" registers no command: decorate a function with @command, and import the modules that hold commands", detail)
		e.Context.Pool = full.Name
		return e
	}
	return nil
}

// target is what the workers import; empty when they have built-in commands only.
func (c *Config) target() string {
	if c.Script != "" {
		return c.Script
	}
	return c.Module
}

// advised adds to a failed start what its reader can do. cfg is as the caller gave it, r as
// resolved.
func advised(err error, cfg *Config, r *resolved) error {
	var e *Error
	var start *StartError
	if !errors.As(err, &e) || e.Type != TypeWorkerStart || !errors.As(err, &start) {
		return err
	}
	advice := advice(start, cfg, r)
	if advice == "" {
		return err
	}
	better := *e
	better.Message = oneLine(e.Message + ". " + advice)
	return &better
}

var quotedName = regexp.MustCompile(`'([^']+)'`)

// fatal is what an interpreter says that cannot begin: "Fatal Python error: preconfig_init_utf8_mode: invalid PYTHONUTF8 environment variable value".
var fatal = regexp.MustCompile(`(?m)^Fatal Python error: (?:\w+: )?(\S.{0,200}?)\s*$`)

func advice(start *StartError, cfg *Config, r *resolved) string {
	var py *PythonError
	var exit *ExitError
	var hang *HangError
	var old *interp.TooOldError
	from, python, full := string(r.python.From), start.interpreter.Path, &r.cfg
	switch {
	case errors.As(start.Err, &old):
		return "The interpreter " + python + " comes from " + from + ": name a newer one in Config.Python"
	case start.Stage == stageFiles:
		return "Files are written below the folder for temporary files, " + os.TempDir() + ": mend it, or name another in the host's environment, as TMPDIR"
	case errors.Is(start.Err, syscall.E2BIG):
		return "The workers' environment is larger than the system allows a program (on Linux 128 KiB for one variable, and a quarter of the stack's limit for all): put what is large into a file, or into the arguments of a call"
	case start.Stage == stageSpawn:
		return noInterpreter(r.python.From, python)
	case full.Script != "" && full.Files == nil && !isFile(full.Script):
		text := "There is no file " + full.Script
		if !filepath.IsAbs(cfg.Script) {
			if cwd, err := os.Getwd(); err == nil {
				text += ": Config.Script is relative to the host's working directory, " + cwd
			}
		}
		return text
	case errors.As(start.Err, &py):
		return pythonAdvice(py, start, python, from, full)
	case errors.As(start.Err, &hang):
		return "Raise Config.StartTimeout, or import less: slow work belongs into a command, or behind a cache"
	case errors.As(start.Err, &exit) && exit.Signal != 0:
		return "A native library crashed, or the system ended the process, during the import: StartError.Stderr holds what it said"
	case errors.As(start.Err, &exit) && fatal.MatchString(exit.Stderr):
		return "Python itself refused to start (" + fatal.FindStringSubmatch(exit.Stderr)[1] + "): look at the values of PYTHONUTF8, PYTHONHASHSEED and their kin in the host's environment, Config.Env and Config.ExtraEnv"
	case errors.As(start.Err, &exit):
		return "The process ended during the import: is " + python + " a CPython 3.8 or later, and does the script call os._exit? StartError.Stderr holds what it said"
	}
	return ""
}

func noInterpreter(from interp.Source, python string) string {
	if from == interp.Path {
		return "Install Python 3.8 or later, or name its interpreter in Config.Python"
	}
	return fmt.Sprintf("%s names %s, which cannot be started: correct it; it must be the path of a CPython 3.8 or later", from, python)
}

// pythonAdvice is for an exception that the import or a setup raised.
func pythonAdvice(py *PythonError, start *StartError, python, from string, full *Config) string {
	switch py.Type {
	case "ModuleNotFoundError":
		name := ""
		if m := quotedName.FindStringSubmatch(py.Message); m != nil {
			name = m[1]
		}
		if top, _, _ := strings.Cut(name, "."); full.Module != "" && top == strings.SplitN(full.Module, ".", 2)[0] {
			if full.Files != nil {
				return "Config.Module is looked for at the top of Config.Files (fs.Sub goes into a folder of an embed.FS), on PYTHONPATH, and among what is installed; " + leftOut
			}
			return "Config.Module is found as `python -m` finds it: in Config.Dir, on PYTHONPATH, or installed"
		}
		text := "If it is a package, " + installAdvice(python, name) + "; if it is a file of yours, put it beside the script or its folder on PYTHONPATH"
		if full.Files != nil {
			text = "If it is a package, " + installAdvice(python, name) + "; if it is a file of yours, put it beside the script in Config.Files: " + leftOut
		}
		if env := os.Getenv("VIRTUAL_ENV"); env != "" && !sameFile(env, interp.EnvOf(python)) {
			text += fmt.Sprintf("; the packages of VIRTUAL_ENV, %s, are not seen, because the interpreter comes from %s: use %s", env, from, interp.In(env))
		}
		return text
	case "SyntaxError", "IndentationError", "TabError":
		return "Correct " + full.where(py.Traceback, "it") + "; the interpreter is " + start.Python
	case "SystemExit":
		return "The script ended itself while it was imported: put what is not for the pool under `if __name__ == \"__main__\":`"
	}
	what := "It was raised while the script was imported"
	if start.Stage == stageSetup {
		what = "It was raised by a @setup function"
	}
	return what + ", at " + full.where(py.Traceback, "an unknown place") + "; StartError.Stderr holds the whole traceback"
}

// leftOut is the usual way to lose an __init__.py or a _private.py.
const leftOut = "of a folder, go:embed leaves out files whose names begin with _ or a dot, unless it is embedded as all:FOLDER"

var tracebackLine = regexp.MustCompile(`File "([^"]+)", line (\d+)`)

// where is the innermost place of a traceback that is a file of the user's.
func (c *Config) where(traceback, otherwise string) string {
	found := tracebackLine.FindAllStringSubmatch(traceback, -1)
	for _, m := range slices.Backward(found) {
		path := m[1]
		if name := files.NameOf(path); name != "" && c.Files != nil {
			return name + " in Config.Files, line " + m[2] // it has been removed
		}
		if isFile(path) {
			return path + ", line " + m[2]
		}
	}
	return otherwise
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}
