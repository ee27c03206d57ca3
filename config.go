package pypool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pypool/pypool/internal/interp"
	"github.com/pypool/pypool/internal/proc"
)

// Config says what to run and how. The zero value of a field means its default; a negative number
// means off, or none, but for Size, which is positive, and MaxMessageBytes, which is 1024 at least:
// others are refused. A duration below a millisecond (RestartBackoff: a microsecond) is refused: 5
// is five nanoseconds, and 5*time.Second was meant. New copies the Config and never changes the
// caller's; it names every invalid field in one error.
type Config struct {
	// Script is the path of the Python file that registers commands, below the host's working
	// directory where it is relative; Module is the name of such a module, found as `python -m`
	// would find it. At most one is set; with neither, only the built-in commands exist, and New
	// says so in the log.
	Script string
	Module string
	// Files is the workers' code, for a program that carries it in itself: an [embed.FS], or any
	// other. Script is the slash-separated path of a file in it then, and Module the name of a
	// module at its top. New, and Check, write all of it once into a folder of its own below
	// [os.TempDir], read-only and for the host's user alone, so that packages, data files beside the
	// code and __file__ are as on any disk; the pool's end removes that. [Pool.Reload] starts
	// workers from the same files: what changes in Files later is not seen, and WatchScripts, which
	// has nothing to watch there, is refused. Names that could leave the folder are refused, and so
	// is what is neither a file nor a folder; __pycache__ is left out. Default: nil, the disk.
	Files fs.FS

	// Python is the interpreter: a path, or a name looked up in PATH. Default: $PYPOOL_PYTHON, then
	// the interpreter of $VIRTUAL_ENV, then of .venv in Dir, where there is one, then python3 in
	// PATH, and python where that is not there. It must be CPython 3.8 or later. Symbolic links are
	// never resolved, so a virtual environment's interpreter stays one.
	Python string
	// Args become the script's sys.argv[1:]. They are UTF-8.
	Args []string
	// Dir is the workers' working directory. Default: the host's, as it is when New is called. When
	// that is removed, workers start in it as long as the host stays there, and none afterwards.
	Dir string
	// Env is the workers' whole environment, as in [os/exec.Cmd]: nil inherits the host's. ExtraEnv
	// is added to it.
	Env      []string
	ExtraEnv []string
	// WorkerEnv adds to that what a worker is given because of its slot: 0 to Size-1, and beyond
	// that for overflow workers, of which there are Overflow at most. A replacement has its
	// predecessor's slot, so that each can have a device of its own:
	//
	//	func(slot int) []string { return []string{fmt.Sprint("CUDA_VISIBLE_DEVICES=", slot)} }
	//
	// It is called for each start, several at a time, on goroutines of the pool. A panic of it, an
	// entry that is no KEY=value, or that it does not return within StartTimeout fails the start.
	// In Python pypool.current_worker().slot is the same number. Default: none.
	WorkerEnv func(slot int) []string
	// Threads is how many threads a library of a worker's may compute with, where it reads one of
	// these variables, and neither Env, ExtraEnv nor WorkerEnv sets it: OMP_NUM_THREADS,
	// OPENBLAS_NUM_THREADS, MKL_NUM_THREADS, BLIS_NUM_THREADS, NUMEXPR_NUM_THREADS (where
	// OMP_NUM_THREADS is set, but with ForkServer not by WorkerEnv, these all follow it),
	// VECLIB_MAXIMUM_THREADS, RAYON_NUM_THREADS and POLARS_MAX_THREADS. Default: the worker's share
	// of the processors, runtime.GOMAXPROCS(0) / Size when it starts, at least 1. Negative: none is
	// set.
	Threads int

	// ForkServer has the workers forked from a process that has imported the script, instead of
	// each importing it: a start then takes milliseconds, and workers share the memory of what was
	// imported, as long as they do not write to it. @setup functions run in each worker, and
	// WorkerEnv is applied before them. The import must leave no Python thread running and must not
	// initialise CUDA, which is refused; both belong into a @setup. MaxRSS counts what a worker
	// shares with nobody. Linux only. Default: off.
	ForkServer bool

	// Size is the number of workers kept ready, until [Pool.Resize] changes it. Default: 2 ×
	// runtime.GOMAXPROCS(0) at the time of New, which is what the container's CPU limit (cgroup)
	// lets the host use at once.
	Size int
	// Overflow is how many more workers may be started while callers wait; they are retired when
	// idle for 30 s. Default: 2.
	Overflow int
	// BreakBeforeMake has a replacement start when its predecessor's process has gone, and never two
	// processes in one slot: for devices that hold one model only. Recycling and Reload then take
	// one worker away at a time, while the others serve. Where overflow must not share a device,
	// either, set Overflow to -1.
	BreakBeforeMake bool
	// MinReady is how many workers must be ready before New returns. Default: Size. Negative: New
	// returns at once, and the workers come up behind it.
	MinReady int

	// MaxQueue is how many callers may wait for a worker; the next gets ErrQueueFull. Default:
	// 1024. Negative: no bound.
	MaxQueue int
	// MaxQueueBytes bounds the requests of those who wait, in bytes together: the next that would
	// exceed it gets ErrQueueFull. One that waits alone may be larger. Default: 256 MiB. Negative:
	// no bound.
	MaxQueueBytes int
	// CheckoutTimeout bounds a call's wait for a worker. Default: 45 s.
	CheckoutTimeout time.Duration
	// OperationTimeout bounds a call's run, from the first byte written to the last byte read.
	// Default: 120 s.
	OperationTimeout time.Duration
	// StallTimeout bounds each turn of the body of a loop over a stream, which holds a worker
	// meanwhile: after it the worker is taken away, and the loop gets an ErrStalled. Default:
	// OperationTimeout. Negative: a body may hold its worker for ever.
	StallTimeout time.Duration
	// StartTimeout bounds a worker's start: spawn, import, setup, first ping. Default: 30 s.
	StartTimeout time.Duration
	// KillGrace is the most that a timed-out call may take beyond its deadline to collect the
	// Python stacks and return. Default: 250 ms.
	KillGrace time.Duration
	// CancelGrace is how long a call may take to stop after its caller has gone, because its
	// context has ended or its time is over. The caller has its error at once; in the worker,
	// pypool.Canceled is raised in the handler. What stops in time keeps its worker, what does not
	// is killed. Zero: as long as the worker took to start, at least 1 s; but where three calls of a
	// command (none that is concurrent) in a row have not stopped in that time, the next ones have
	// KillGrace, until one stops or a minute is over. Negative: it is killed at once, as it is outside Linux, where a call
	// cannot be stopped. A call of a concurrent command, which can be stopped everywhere, shares its
	// worker: one that does not stop in time closes that to newcomers, and it is killed when the
	// other calls on it have ended.
	CancelGrace time.Duration
	// StopGrace is how long each step of a worker's orderly stop may take before the next, harsher
	// one. Default: 2 s.
	StopGrace time.Duration
	// HealthCheckInterval is how often workers that were idle since the last time are pinged. Those
	// whose script has @health functions are asked for them each time, a busy one when it next
	// falls idle, which one that shares concurrent calls does when the last of them has ended; one
	// that is not healthy is replaced. Default: 30 s. Negative: never.
	HealthCheckInterval time.Duration

	// SessionCleanupInterval is how often sessions unused for SessionTTL are forgotten. Defaults: 5
	// min and 1 h.
	SessionCleanupInterval time.Duration
	SessionTTL             time.Duration
	// MaxSessions bounds the session table: beyond it the longest unused are forgotten. Default: 10
	// 000.
	MaxSessions int

	// MaxCalls, MaxLifetime (± 10 %) and MaxRSS (bytes, pages shared with other processes included
	// unless ForkServer is set) say when a worker is worn out: it is replaced, the replacement ready first (but see
	// BreakBeforeMake), never during a call. Default: off.
	MaxCalls    int64
	MaxLifetime time.Duration
	MaxRSS      int64
	// ReloadSurge is how many workers beyond Size there may be while workers that are worn out, or
	// that Reload or WatchScripts replaces, are still serving: so many replacements are started
	// side by side. After a start that failed it is one at a time. Default: a quarter of Size, at
	// least 1. Negative: one at a time.
	ReloadSurge int

	// RestartBackoff is the delay between failing starts, doubled each time. Default: 100 ms to 30
	// s.
	RestartBackoff Backoff
	// MaxRestarts failing starts in a row, the first of them no longer ago than RestartWindow, or
	// MaxRestarts × StartTimeout if that is longer, as it is by default (150 s), open the pool's
	// circuit when no worker is ready. So do as many starts of no use: a worker that asks to be
	// replaced within RestartWindow of being ready, with no call answered well, is one. A ready
	// worker that has asked for that does not count. Defaults: 5 and 30 s.
	MaxRestarts   int
	RestartWindow time.Duration
	// Breaker is the circuit breaker of each single command (and program). Default: 5 lost workers
	// in a row, 10 s.
	Breaker Breaker

	// MaxMessageBytes bounds one request and one result. Default: 64 MiB.
	MaxMessageBytes int

	// WatchScripts has the workers replaced, rolling as [Pool.Reload] does it, whenever a source
	// file of theirs changes: the script and what it imports from outside the standard library and
	// site-packages, 8192 files at most. They are looked at twice a second. After an edit that does not import,
	// the old workers go on serving, the log says why (once, with the traceback), and the next edit
	// is tried at once, nothing before it. It is for a developer's desk; neither Production nor
	// Development turns it on.
	WatchScripts bool

	// Functions are what Python may call in the host, as pypool.host.NAME: see [Func]. Default:
	// none.
	Functions Functions

	// Name tells pools apart in logs and errors. Default: "pypool".
	Name string
	// Logger takes the pool's log and the workers' output. What Python prints comes at Info, what
	// needs attention at Warn and Error, the pool's own routine at Debug. The handler is called on
	// one goroutine of the pool, Enabled as well as Handle, and holds nobody up: while it is slow
	// 1024 records wait, and what comes beyond is dropped. A panic of it costs that one record.
	// What was lost is counted in Stats.LogsDropped and told by the next record. Default:
	// slog.Default().
	Logger *slog.Logger
	// Observer is told of calls and events. Default: none.
	Observer *Observer
	// ErrorRate watches the share of calls that the infrastructure failed. Its Func is called on
	// the goroutine that calls Observer.Event; the first panic of it is logged, with its stack.
	ErrorRate ErrorRate

	dirIsHosts   bool           // Dir was not set
	hostDir      os.FileInfo    // and this is the host's
	filesDir     string         // where New has written Files
	overflowIdle time.Duration  // how long an overflow worker stays; tests shorten it
	watchEvery   time.Duration  // how often WatchScripts looks; tests shorten it
	spawn        proc.SpawnFunc // where processes come from; tests replace it
}

// Backoff is an exponential delay from Min to Max.
type Backoff struct{ Min, Max time.Duration }

// Breaker configures the circuit breaker of one command: Failures workers lost in a row, with no
// answer between, open it for OpenFor, then one call probes. So do four times as many workers that
// ended by themselves (an exit, a crash) within OpenFor, whatever was answered between. A worker is
// lost by a command when it ends, breaks the protocol or hangs until OperationTimeout in a call of
// it, ends by itself within a second after the answer, or asks to be replaced in a call of it that
// fails. Workers that are killed side by side by a signal of unknown origin are lost once. That a
// caller canceled, that its context's deadline passed, or that it gave the call less time than
// OperationTimeout says nothing of the command. Failures < 0 turns it off.
type Breaker struct {
	Failures int
	OpenFor  time.Duration
}

// Production returns the settings for a service: Size is runtime.GOMAXPROCS(0), calls may wait 30 s
// and run 60 s.
func Production() Config {
	return Config{
		Size: runtime.GOMAXPROCS(0), Overflow: 2,
		CheckoutTimeout: 30 * time.Second, OperationTimeout: 60 * time.Second,
		HealthCheckInterval: 30 * time.Second, SessionCleanupInterval: 5 * time.Minute,
	}
}

// Development returns the settings for a desk: 2 workers and 1 more under load, patient timeouts,
// frequent checks.
func Development() Config {
	return Config{
		Size: 2, Overflow: 1,
		CheckoutTimeout: 45 * time.Second, OperationTimeout: 120 * time.Second,
		HealthCheckInterval: 10 * time.Second, SessionCleanupInterval: time.Minute,
	}
}

const defaultStartTimeout = 30 * time.Second

// noScript is what the log says of a Config without Script and Module: nearly always one was
// forgotten.
const noScript = "neither Config.Script nor Config.Module is set: there are only the built-in commands"

// pickSource lets tests play what they have with another source of workers; nil: they do not.
var pickSource func(*Config)

// faults collects what is wrong with a Config.
type faults []error

func (f *faults) add(field, format string, args ...any) {
	*f = append(*f, fmt.Errorf("Config."+field+": "+format, args...))
}

// resolve returns a copy with all defaults filled in, "off" turned into the value that the code
// reads as off, and paths made absolute; or one error that names every bad field.
func (c Config) resolve() (Config, error) {
	var bad faults
	if pickSource != nil {
		pickSource(&c)
	}
	if c.ForkServer {
		if err := proc.CanFork(); err != nil {
			bad.add("ForkServer", "%v", err)
		}
	}
	c.resolveSizes(&bad)
	c.resolveTimes(&bad)
	c.resolveWatchers(&bad)
	c.resolveEnvironment(&bad)
	c.resolveFunctions(&bad)
	c.resolvePaths(&bad)
	if c.spawn == nil {
		c.spawn = proc.Start
	}
	if len(bad) == 0 {
		return c, nil
	}
	cause := errors.Join(bad...)
	e := newError(TypeInvalidArguments, NotExecuted, "", cause)
	e.Message = "invalid Config: " + strings.ReplaceAll(cause.Error(), "\n", "; ")
	e.Context.Pool = c.Name
	return c, e
}

// resolveSizes resolves what is counted, in workers, callers, failures or bytes.
func (c *Config) resolveSizes(bad *faults) {
	if c.Size < 0 {
		bad.add("Size", "%d workers are not possible; 0 means the default", c.Size)
	}
	intDefault(&c.Size, 2*runtime.GOMAXPROCS(0))
	offInt(&c.Overflow, 2, 0)
	if c.Size > maxWorkers || c.Overflow > maxWorkers {
		bad.add("Size", "Size %d and Overflow %d are beyond 4096 workers", c.Size, c.Overflow)
	}
	if c.MinReady > max(c.Size, 0) { // a negative Size has been named already
		bad.add("MinReady", "%d is more than Size, %d", c.MinReady, c.Size)
	}
	offInt(&c.MinReady, c.Size, 0)
	if c.ReloadSurge < 0 {
		c.ReloadSurge = 1
	}
	if c.ReloadSurge > maxWorkers {
		bad.add("ReloadSurge", "%d is beyond 4096 workers", c.ReloadSurge)
	}
	offInt(&c.MaxQueue, 1024, math.MaxInt32)
	offInt(&c.MaxQueueBytes, 256<<20, math.MaxInt)
	offInt(&c.MaxSessions, 10_000, math.MaxInt32)
	offInt(&c.MaxRestarts, 5, math.MaxInt32)
	offInt(&c.Breaker.Failures, 5, 0)
	intDefault(&c.MaxMessageBytes, 64<<20)
	if c.MaxMessageBytes < 1024 {
		bad.add("MaxMessageBytes", "%d is less than 1024", c.MaxMessageBytes)
	}
	// No memory holds more, nobody counts further, and what these are added to, or multiplied with,
	// must not overflow.
	c.MaxMessageBytes, c.MaxQueueBytes = min(c.MaxMessageBytes, math.MaxInt/4), min(c.MaxQueueBytes, math.MaxInt/2)
	c.MaxQueue, c.MaxSessions, c.MaxRestarts = min(c.MaxQueue, math.MaxInt32), min(c.MaxSessions, math.MaxInt32), min(c.MaxRestarts, math.MaxInt32)
	c.Breaker.Failures = min(c.Breaker.Failures, math.MaxInt32/exitFactor)
	c.MaxCalls, c.MaxRSS = max(c.MaxCalls, 0), max(c.MaxRSS, 0)
}

// surge is ReloadSurge in a pool of that Size.
func (c *Config) surge(size int) int { return cmp.Or(c.ReloadSurge, max(1, size/4)) }

// resolveTimes resolves the durations, and refuses those that nobody can mean: a bare number is
// nanoseconds.
func (c *Config) resolveTimes(bad *faults) {
	const ms, us = time.Millisecond, time.Microsecond
	operation := c.OperationTimeout
	offDuration(&operation, 120*time.Second)
	for _, d := range []struct {
		field string
		value *time.Duration
		def   time.Duration
		least time.Duration
	}{
		{"CheckoutTimeout", &c.CheckoutTimeout, 45 * time.Second, ms},
		{"OperationTimeout", &c.OperationTimeout, operation, ms},
		{"StallTimeout", &c.StallTimeout, operation, ms},
		{"StartTimeout", &c.StartTimeout, defaultStartTimeout, ms},
		{"KillGrace", &c.KillGrace, 250 * ms, ms},
		{"StopGrace", &c.StopGrace, 2 * time.Second, ms},
		{"HealthCheckInterval", &c.HealthCheckInterval, 30 * time.Second, ms},
		{"SessionCleanupInterval", &c.SessionCleanupInterval, 5 * time.Minute, ms},
		{"SessionTTL", &c.SessionTTL, time.Hour, ms},
		{"MaxLifetime", &c.MaxLifetime, 0, ms},
		{"RestartWindow", &c.RestartWindow, 30 * time.Second, ms},
		{"Breaker.OpenFor", &c.Breaker.OpenFor, 10 * time.Second, ms},
		{"ErrorRate.Window", &c.ErrorRate.Window, time.Minute, ms},
		{"RestartBackoff.Min", &c.RestartBackoff.Min, 100 * ms, us},
		{"RestartBackoff.Max", &c.RestartBackoff.Max, 30 * time.Second, us},
		{"overflowIdle", &c.overflowIdle, 30 * time.Second, 0},
		{"watchEvery", &c.watchEvery, 500 * ms, 0},
	} {
		bad.addBare(d.field, *d.value, d.least)
		offDuration(d.value, d.def)
	}
	bad.addBare("CancelGrace", c.CancelGrace, ms) // 0 and below have meanings of their own
	c.CancelGrace = min(c.CancelGrace, longest)
	if c.RestartBackoff.Min > c.RestartBackoff.Max {
		bad.add("RestartBackoff", "Min %v is more than Max %v", c.RestartBackoff.Min, c.RestartBackoff.Max)
	}
}

// addBare adds a duration that is too short to be meant. Most have been written as a bare number:
// a small one of seconds, a larger one of milliseconds. One that is longer still, in nanoseconds,
// has been written with its unit, or could as well have been: nothing is guessed of it.
func (f *faults) addBare(field string, v, least time.Duration) {
	if v <= 0 || v >= least {
		return
	}
	advice := fmt.Sprintf("%v is the least, and a number without a unit is nanoseconds: write it as in 30*time.Second", least)
	switch {
	case v < 100:
		advice = fmt.Sprintf("did you mean %d*time.Second?", int64(v))
	case v < 10_000:
		advice = fmt.Sprintf("did you mean %d*time.Millisecond?", int64(v))
	}
	f.add(field, "%v is less than %v: %s", v, least, advice)
}

// resolveWatchers resolves who is told what, and under which name.
func (c *Config) resolveWatchers(bad *faults) {
	intDefault(&c.ErrorRate.MinCalls, 20)
	if c.ErrorRate.Threshold == 0 {
		c.ErrorRate.Threshold = 0.5
	}
	if c.ErrorRate.Threshold > 1 || math.IsNaN(c.ErrorRate.Threshold) {
		bad.add("ErrorRate", "Threshold %v is not a share of 0 to 1", c.ErrorRate.Threshold)
	}
	if c.ErrorRate.Threshold < 0 || c.ErrorRate.Window == 0 { // off: every share would be above the one, and none is over the other
		c.ErrorRate.Func = nil
	}
	if c.Name == "" {
		c.Name = "pypool"
	}
	if !validLabel(c.Name) {
		bad.add("Name", "%q is not 1 to 256 bytes of printable UTF-8", c.Name)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Observer == nil {
		c.Observer = &Observer{}
	}
}

// resolveEnvironment resolves what the workers are given: the caller's slices are copied.
func (c *Config) resolveEnvironment(bad *faults) {
	for _, list := range []struct {
		field   string
		entries []string
	}{{"Env", c.Env}, {"ExtraEnv", c.ExtraEnv}} {
		bad.addEntries(list.field, list.entries)
	}
	c.Args = append([]string(nil), c.Args...)
	for i, arg := range c.Args {
		if !utf8.ValidString(arg) {
			bad.add("Args", "entry %d, %q, is not UTF-8", i, arg)
		}
	}
	c.Env = append([]string{}, c.environ()...) // never nil: to os/exec that means inherit
	c.ExtraEnv = nil
}

// resolvePaths makes paths absolute. It asks the file system, which may not answer.
func (c *Config) resolvePaths(bad *faults) {
	if c.Dir == "" {
		c.Dir, c.dirIsHosts = workingDirectory(), true
		c.hostDir, _ = os.Stat(".")
	} else {
		absolute(&c.Dir, "Dir", bad)
		if info, err := os.Stat(c.Dir); err != nil {
			bad.add("Dir", "%v", err)
		} else if !info.IsDir() {
			bad.add("Dir", "%s is not a directory", c.Dir)
		}
	}
	if c.Script != "" && c.Module != "" {
		bad.add("Script", "Script and Module are both set; set one")
	}
	for _, name := range []struct{ field, value string }{{"Script", c.Script}, {"Module", c.Module}} {
		if !utf8.ValidString(name.value) {
			bad.add(name.field, "%q is not UTF-8", name.value)
			return
		}
	}
	if c.Files != nil {
		c.resolveFiles(bad)
	} else if c.Script != "" {
		absolute(&c.Script, "Script", bad)
	}
}

// resolved is a Config with its defaults and its interpreter.
type resolved struct {
	cfg    Config
	err    error // of cfg
	python interp.Interpreter
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
			r.python, r.pyErr = interp.Find(r.cfg.Python, r.cfg.Dir)
		}
		return r
	})
}

// environ is the workers' environment: Env, or the host's when that is nil, and ExtraEnv.
func (c *Config) environ() []string {
	env := c.Env
	if env == nil {
		env = os.Environ()
	}
	return append(env[:len(env):len(env)], c.ExtraEnv...)
}

// workingDirectory is the host's, so that a later os.Chdir does not move the workers; empty where
// it has no path any more, or none that can be entered: then it can only be inherited.
func workingDirectory() string {
	path, err := os.Getwd()
	if err != nil || !sameFile(path+string(filepath.Separator)+".", ".") {
		return ""
	}
	return path
}

func sameFile(a, b string) bool {
	left, err := os.Stat(a)
	if err != nil {
		return false
	}
	right, err := os.Stat(b)
	return err == nil && os.SameFile(left, right)
}

func absolute(path *string, field string, bad *faults) {
	abs, err := filepath.Abs(*path)
	if err != nil {
		bad.add(field, "%v", err)
		return
	}
	*path = abs
}

func intDefault(v *int, def int) {
	if *v == 0 {
		*v = def
	}
}

// offInt sets the default for zero, and off for a negative value.
func offInt(v *int, def, off int) {
	intDefault(v, def)
	if *v < 0 {
		*v = off
	}
}

// longest is as long as any duration is taken for, 73 years: two may be added.
const longest time.Duration = math.MaxInt64 / 4

// offDuration sets the default for zero; a negative duration becomes zero, which all code here
// reads as off.
func offDuration(v *time.Duration, def time.Duration) {
	if *v == 0 {
		*v = def
	}
	*v = min(max(*v, 0), longest)
}
