//go:build linux

package pypool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Group A: a worker does not start as it should.
var startFaults = []fault{
	{name: "A1_missing_interpreter_fails_New_at_once", run: func(t *testing.T, r *rig) {
		for name, want := range map[string]error{"/nope/python": fs.ErrNotExist, "python-nope": exec.ErrNotFound, t.TempDir(): syscall.EACCES} {
			cfg := r.config(t)
			cfg.Python = name
			begun := time.Now()
			e, start := opensWithError(t, r, cfg)
			require.Equal(t, "spawn", start.Stage)
			if want != syscall.EACCES {
				require.ErrorIs(t, e, want)
			}
			require.Contains(t, e.Error(), name)
			within(t, begun, time.Second)
		}
	}},
	{name: "A2_missing_working_directory_is_named_as_such", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Dir = "/nonexistent"
		_, err := New(t.Context(), cfg)
		e := failsWith(t, err, ErrInvalidArguments, NotExecuted)
		require.Contains(t, e.Error(), "Config.Dir")
		require.Contains(t, e.Error(), "/nonexistent")
	}},
	{name: "A2b_working_directory_that_vanishes_heals_when_it_is_back", run: func(t *testing.T, r *rig) {
		executedOnly(t)
		cfg := r.config(t)
		cfg.Dir = filepath.Join(t.TempDir(), "work")
		require.NoError(t, os.Mkdir(cfg.Dir, 0o700))
		cfg.Size, cfg.MaxRestarts = 1, 2
		p := r.own(t, cfg)
		require.NoError(t, os.Remove(cfg.Dir))
		killWorkers(p)
		eventually(t, "the circuit is open", func() bool { return p.Stats().Breaker != "closed" })
		_, err := p.ExecuteAnonymous(context.Background(), "pid", nil)
		failsWith(t, err, ErrCircuitOpen, NotExecuted)
		start := detail[*StartError](t, detail[*CircuitError](t, err).Cause)
		require.Equal(t, "spawn", start.Stage)
		require.Contains(t, err.Error(), "Config.Dir: stat "+cfg.Dir)
		require.NoError(t, os.Mkdir(cfg.Dir, 0o700))
	}},
	{name: "A3_missing_script_or_module_is_an_import_error", run: func(t *testing.T, r *rig) {
		for _, set := range []func(*Config){
			func(c *Config) { c.Script = filepath.Join(t.TempDir(), "no_such_worker.py") },
			func(c *Config) { c.Script, c.Module = "", "no_such_worker" },
		} {
			cfg := r.config(t)
			set(&cfg)
			e, start := opensWithError(t, r, cfg)
			require.Equal(t, "import", start.Stage)
			require.Contains(t, e.Error(), "no_such_worker")
			require.NotEmpty(t, detail[*PythonError](t, e).Traceback)
		}
	}},
	{name: "A4_broken_script_gives_its_traceback", run: func(t *testing.T, r *rig) {
		for source, want := range map[string]string{
			"def f(:\n":                     "SyntaxError",
			"import no_such_library\n":      "ModuleNotFoundError",
			"raise RuntimeError('at rest')": "RuntimeError",
			"from pypool import setup\n@setup\ndef load():\n    raise OSError('no model')\n": "OSError",
		} {
			cfg := r.config(t)
			cfg.Script = script(t, source)
			e, start := opensWithError(t, r, cfg)
			py := detail[*PythonError](t, e)
			require.Equal(t, want, py.Type)
			require.Contains(t, py.Traceback, "worker.py")
			require.Contains(t, start.Stderr, want)
			require.Contains(t, e.Error(), want)
			require.Regexp(t, `^/.* \(3\.\d+\.\d+\)$`, start.Python, "the interpreter and its version")
		}
	}},
	{name: "A5_exit_0_during_import_is_a_failure", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Script = script(t, "raise SystemExit(0)")
		e, start := opensWithError(t, r, cfg)
		require.Equal(t, "import", start.Stage)
		require.Equal(t, "SystemExit", detail[*PythonError](t, e).Type)
		cfg.Script = script(t, "import os; os._exit(0)")
		e, _ = opensWithError(t, r, cfg)
		require.Zero(t, detail[*ExitError](t, e).Code)
		require.Contains(t, e.Error(), "exited with code 0")
	}},
	{name: "A6_crash_during_import_has_its_signal_and_stack", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Script = script(t, "import ctypes\nctypes.string_at(0)\n")
		e, start := opensWithError(t, r, cfg)
		exit := detail[*ExitError](t, e)
		require.Equal(t, syscall.SIGSEGV, exit.Signal)
		require.Contains(t, exit.Stacks, "worker.py")
		require.Contains(t, start.Stderr, "Segmentation fault")
		require.Contains(t, e.Error(), "SIGSEGV")
	}},
	{name: "A7_hanging_import_is_stopped_at_StartTimeout_with_its_stack", run: func(t *testing.T, r *rig) {
		gate := newLatch(t)
		cfg := r.config(t)
		cfg.Script, cfg.StartTimeout, cfg.Size, cfg.KillGrace = script(t, fmt.Sprintf("open(%q).read()\n", gate.path)), 1500*time.Millisecond, 1, 2*time.Second
		begun := time.Now()
		e, _ := opensWithError(t, r, cfg)
		within(t, begun, cfg.StartTimeout+cfg.KillGrace)
		require.Contains(t, e.Error(), "StartTimeout")
		require.Contains(t, detail[*HangError](t, e).Stacks, "worker.py")
	}},
	{name: "A8_slow_start_outlives_the_caller_who_waited_for_it", run: func(t *testing.T, r *rig) {
		gate := newLatch(t)
		cfg := r.config(t)
		cfg.Script, cfg.Size, cfg.MinReady = script(t, fmt.Sprintf("open(%q).read()\n", gate.path)), 1, -1
		p := r.own(t, cfg)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		_, err := p.ExecuteAnonymous(ctx, "ping", nil)
		failsWith(t, err, ErrCheckoutTimeout, NotExecuted)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		gate.release(t)
		executed(t, p, "ping", nil)
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "A9_output_during_import_goes_to_the_log", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Size = 1
		cfg.Script = script(t, `
import ctypes, os, sys
print("banner-print", flush=True)
os.write(1, b"banner-write\n")
libc = ctypes.CDLL(None)
libc.printf(b"banner-printf\n")
libc.fflush(None)
os.system("echo banner-system")
sys.stdout.write("banner-unflushed\n")
`)
		r.own(t, cfg)
		for _, how := range []string{"print", "write", "printf", "system", "unflushed"} {
			r.logged(t, "banner-"+how)
		}
	}},
	{name: "A9b_output_before_the_first_line_of_pypool_goes_to_the_log", run: func(t *testing.T, r *rig) {
		dir := t.TempDir()
		require.NoError(t, exec.Command(realPython(), "-m", "venv", "--without-pip", dir).Run())
		sites, _ := filepath.Glob(filepath.Join(dir, "lib", "python3*", "site-packages"))
		require.Len(t, sites, 1)
		require.NoError(t, os.WriteFile(filepath.Join(sites[0], "sitecustomize.py"), []byte("print('sitecustomize was here')\nprint('without an end', end='')\n"), 0o600))
		cfg := r.config(t)
		cfg.Size, cfg.Python = 1, filepath.Join(dir, "bin", "python")
		r.own(t, cfg)
		r.logged(t, "sitecustomize was here")
		r.logged(t, "without an end")
		for _, start := range []string{"banner", "banner without newline", "garbage"} {
			require.NoError(t, r.own(t, r.fakeConfig(t, start)).Close())
		}
		r.logged(t, "Welcome to the tool!")
	}},
	{name: "A10_interpreter_that_is_too_old_or_no_Python_is_named", run: func(t *testing.T, r *rig) {
		dir := t.TempDir()
		// Python 2.7 in what matters here: it knows no -I, and tells its version.
		old := filepath.Join(dir, "old-python")
		require.NoError(t, os.WriteFile(old, []byte("#!/bin/sh\ncase \"$1\" in -I) echo 'Unknown option: -I' >&2; exit 2;; esac\nprintf 2.7.18\n"), 0o700))
		candidates := map[string]string{old: "2.7.18 is too old", "/bin/true": "exited with code 0", "/bin/cat": ""}
		home, _ := os.UserHomeDir()
		for _, version := range []string{"2.7", "3.6", "3.7"} {
			if found, _ := filepath.Glob(filepath.Join(home, ".pyenv", "versions", version+".*", "bin", "python")); len(found) > 0 {
				candidates[found[0]] = "is too old: pypool needs Python 3.8 or later"
			}
		}
		for path, want := range candidates {
			cfg := r.config(t)
			cfg.Python, cfg.Size = path, 1
			e, start := opensWithError(t, r, cfg)
			require.Contains(t, e.Error(), want, path)
			require.Contains(t, start.Python, path)
		}
	}},
	{name: "A11_other_protocol_or_runtime_says_which_side_to_update", run: func(t *testing.T, r *rig) {
		for start, want := range map[string]string{
			"protocol 3":  "speaks protocol 3, this library 1: update the Go module",
			"refuses":     "speaks protocol 3, this library 1: update the Go module",
			"old runtime": "runs the runtime 0.0.9, this library embeds " + Version,
		} {
			e, detail := opensWithError(t, r, r.fakeConfig(t, start))
			require.Equal(t, "hello", detail.Stage)
			require.Contains(t, e.Error(), want)
		}
	}},
	{name: "A12_endless_output_before_hello_is_cut_at_64_KiB", run: func(t *testing.T, r *rig) {
		begun := time.Now()
		e, start := opensWithError(t, r, r.fakeConfig(t, "flood"))
		require.Equal(t, "hello", start.Stage)
		violation := detail[*ProtocolError](t, e)
		require.Contains(t, violation.Sample, "yyyy")
		require.LessOrEqual(t, len(violation.Sample), 4*256+2)
		within(t, begun, 2*time.Second)
	}},
	{name: "A12b_silence_and_a_closed_channel_before_hello", run: func(t *testing.T, r *rig) {
		for start, stage := range map[string]string{"mute": "hello", "mute ping": "ping", "closes stdout": "hello"} {
			cfg := r.fakeConfig(t, start)
			cfg.StartTimeout, cfg.KillGrace = 3*time.Second, 200*time.Millisecond
			begun := time.Now()
			_, d := opensWithError(t, r, cfg)
			require.Equal(t, stage, d.Stage)
			within(t, begun, 5*time.Second)
		}
	}},
	{name: "A13_pools_opened_side_by_side_share_no_file", run: func(t *testing.T, r *rig) {
		tmp := t.TempDir()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				cfg := r.config(t)
				cfg.Size, cfg.ExtraEnv = 1, append(cfg.ExtraEnv, "TMPDIR="+tmp, "HOME="+tmp, "XDG_CACHE_HOME="+tmp)
				p, err := New(context.Background(), cfg)
				if err == nil {
					_, err = p.ExecuteAnonymous(context.Background(), "echo", []any{1})
					err = errors.Join(err, p.Close())
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		left, err := os.ReadDir(tmp)
		require.NoError(t, err)
		require.Empty(t, left)
	}},
	{name: "A14_environment_that_the_kernel_refuses", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.ExtraEnv = append(cfg.ExtraEnv, "BIG="+strings.Repeat("x", 200<<10))
		e, start := opensWithError(t, r, cfg)
		require.Equal(t, "spawn", start.Stage)
		require.ErrorIs(t, e, syscall.E2BIG)
		cfg.ExtraEnv = []string{"NUL=" + secret + "\x00"}
		_, err := New(t.Context(), cfg)
		failsWith(t, err, ErrInvalidArguments, NotExecuted)
		require.NotContains(t, err.Error(), secret)
	}},
	{name: "A15_interpreter_that_vanishes_heals_when_it_is_back", run: func(t *testing.T, r *rig) {
		executedOnly(t)
		link := filepath.Join(t.TempDir(), "python")
		require.NoError(t, os.Symlink(realPython(), link))
		cfg := r.config(t)
		cfg.Python, cfg.Size, cfg.MaxRestarts = link, 2, 2
		p := r.own(t, cfg)
		require.NoError(t, os.Rename(link, link+".away"))
		killWorkers(p)
		eventually(t, "the circuit is open", func() bool { return p.Stats().Breaker != "closed" })
		_, err := p.ExecuteAnonymous(context.Background(), "pid", nil)
		failsWith(t, err, ErrCircuitOpen, NotExecuted)
		require.ErrorIs(t, detail[*CircuitError](t, err).Cause, fs.ErrNotExist)
		h, err := p.HealthCheck(context.Background())
		failsWith(t, err, ErrCircuitOpen, NotExecuted)
		require.False(t, h.Healthy)
		require.NoError(t, os.Rename(link+".away", link))
	}},
	{name: "A16_partial_start_leaves_nothing_or_serves_degraded", run: func(t *testing.T, r *rig) {
		executedOnly(t)
		// The second start and every other one up to the fifth fails; the file counts them.
		count := filepath.Join(t.TempDir(), "count")
		cfg := r.config(t)
		cfg.Size = 4
		cfg.Script = script(t, fmt.Sprintf(`
import os
fd = os.open(%q, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
os.write(fd, b".")
n = os.fstat(fd).st_size
if 2 <= n <= 5:
    raise RuntimeError("start %%d fails" %% n)
`, count))
		e, _ := opensWithError(t, r, cfg)
		require.Contains(t, e.Error(), "fails")
		require.NoError(t, os.Remove(count))
		cfg.MinReady = 1
		p := r.own(t, cfg)
		executed(t, p, "ping", nil)
	}},
}

// killWorkers kills every worker of the pool from outside, and returns when the pool knows.
func killWorkers(p *Pool) {
	for _, w := range p.sup.workers() {
		_ = syscall.Kill(w.proc.PID(), syscall.SIGKILL)
		<-w.watched
	}
}
