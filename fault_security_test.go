//go:build linux

package pypool

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// trap is a module that leaves a trace when it is imported.
const trap = "import os\nopen(os.environ['PYPOOL_TRAP'], 'a').write(__name__ + '\\n')\n"

// Group F: security.
var securityFaults = []fault{
	{name: "F1_Env_is_all_that_a_worker_sees", run: func(t *testing.T, r *rig) {
		t.Setenv("PYPOOL_HOST_SECRET", secret)
		cfg := r.config(t)
		cfg.Size, cfg.Threads = 1, -1
		p := r.own(t, cfg)
		require.Equal(t, secret, decoded[map[string]string](t, executed(t, p, "environment", nil))["PYPOOL_HOST_SECRET"], "nil inherits, as in os/exec")
		cfg.Env = []string{"ONLY=this"}
		p = r.own(t, cfg)
		env := decoded[map[string]string](t, executed(t, p, "environment", nil))
		delete(env, "LC_CTYPE") // Python's own, where it takes the C locale for UTF-8
		delete(env, "PWD")
		mark, value, _ := strings.Cut(r.mark, "=")
		require.Equal(t, map[string]string{"ONLY": "this", mark: value}, env)
	}},
	{name: "F2_no_descriptor_of_the_host_is_in_a_worker_and_none_of_a_worker_in_its_children", run: func(t *testing.T, r *rig) {
		for range 50 {
			f, err := os.Open(workerScript(t, "faults.py"))
			require.NoError(t, err)
			defer f.Close()
			leaky, err := syscall.Dup(int(f.Fd())) // not close-on-exec, as what a C library opens
			require.NoError(t, err)
			defer syscall.Close(leaky)
		}
		cfg := r.config(t)
		cfg.Size = 8 // side by side
		p := r.own(t, cfg)
		for range 8 {
			fds := decoded[map[string]string](t, executed(t, p, "descriptors", nil))
			for fd, target := range fds {
				n, err := strconv.Atoi(fd)
				require.NoError(t, err)
				require.NotContains(t, target, "faults.py")
				ours := n >= 100 || strings.HasPrefix(target, "/memfd:pypool-page") // the latter is mmap's own
				require.True(t, n < 3 || ours || strings.HasPrefix(target, "/proc/"), "descriptor %d is %s", n, target)
			}
			require.LessOrEqual(t, len(fds), 3+7+1, "%v", fds) // the leash is there twice
			children := decoded[[]string](t, executed(t, p, "child_descriptors", nil))
			require.Subset(t, []string{"0", "1", "2", "3"}, children, "3 is the listing's own")
		}
	}},
	{name: "F3_modules_beside_the_script_and_in_the_cwd_do_not_shadow_the_standard_library", run: func(t *testing.T, r *rig) {
		dir, trace := t.TempDir(), filepath.Join(t.TempDir(), "trace")
		for _, name := range []string{"json", "socket", "ctypes", "struct", "logging", "traceback", "difflib", "inspect", "select", "signal", "asyncio", "pypool", "site", "sitecustomize", "usercustomize"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name+".py"), []byte(trap), 0o600))
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, "helper.py"), []byte("value = 42\n"), 0o600))
		path := filepath.Join(dir, "worker.py")
		require.NoError(t, os.WriteFile(path, []byte(`
import asyncio, ctypes, difflib, inspect, json, logging, select, signal, socket, struct, traceback
import helper
from pypool import command

@command
def answer():
    logging.getLogger("x").warning("still logging")
    return json.dumps(helper.value)

@command
def fail(): raise ValueError("v")
`), 0o600))
		cfg := r.config(t)
		cfg.Script, cfg.Dir, cfg.Size, cfg.ExtraEnv = path, dir, 1, append(cfg.ExtraEnv, "PYPOOL_TRAP="+trace)
		p := r.own(t, cfg)
		require.Equal(t, "42", decoded[string](t, executed(t, p, "answer", nil)))
		_, err := p.ExecuteAnonymous(context.Background(), "fail", nil)
		failsWith(t, err, ErrPython, Executed)
		_, err = p.ExecuteAnonymous(context.Background(), "unknown", nil)
		failsWith(t, err, ErrUnknownCommand, NotExecuted)
		_, err = p.ExecuteAnonymous(context.Background(), "fail", []any{1})
		failsWith(t, err, ErrInvalidArguments, NotExecuted)
		require.NoFileExists(t, trace)
	}},
	{name: "F4_PYTHON_variables_do_not_reach_the_runtime", run: func(t *testing.T, r *rig) {
		dir, trace := t.TempDir(), filepath.Join(t.TempDir(), "trace")
		for _, name := range []string{"json", "traceback", "difflib", "inspect", "logging", "sitecustomize", "usercustomize", "startup", "pypool"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name+".py"), []byte(trap), 0o600))
		}
		cfg := r.config(t)
		cfg.Size = 1
		cfg.ExtraEnv = append(cfg.ExtraEnv, "PYPOOL_TRAP="+trace, "PYTHONPATH="+dir, "PYTHONSTARTUP="+filepath.Join(dir, "startup.py"), "PYTHONINSPECT=1",
			"PYTHONHOME=/nonexistent", "PYTHONBREAKPOINT=startup", "PYTHONWARNINGS=error", "PYTHONUSERBASE="+dir, "PYTHONIOENCODING=ascii", "PYTHONHASHSEED=x")
		p := r.own(t, cfg)
		executed(t, p, "print_all", []any{"f4"})
		_, err := p.ExecuteAnonymous(context.Background(), "raise_value_error", nil)
		failsWith(t, err, ErrPython, Executed)
		require.Equal(t, []int{1, 1, 1}, decoded[[]int](t, executed(t, p, "flags", nil)))
		require.NoFileExists(t, trace)
	}},
	{name: "F5_runtime_is_never_on_disk_and_needs_no_writable_directory", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Size = 1
		cfg.ExtraEnv = append(cfg.ExtraEnv, "HOME=/proc/nonexistent", "TMPDIR=/proc/nonexistent", "XDG_CACHE_HOME=/proc/nonexistent", "PYTHONDONTWRITEBYTECODE=1")
		p := r.own(t, cfg)
		executed(t, p, "echo", nil)
		cmdline := procFile(t, fmt.Sprintf("/proc/%d/cmdline", p.Workers()[0].PID))
		require.Contains(t, cmdline, "\x00-I\x00")
		require.NotContains(t, cmdline, secret)
		require.NotContains(t, cmdline, "faults.py", "nothing of the user's is in the process list")
	}},
	{name: "F6_no_pickle_marshal_or_eval_in_the_runtime", run: func(t *testing.T, r *rig) {
		banned := regexp.MustCompile(`(?m)^\s*(import|from) +_?(pickle|marshal|shelve|dill)\b|\b(eval|pickle\.loads?|marshal\.loads?|__import__\(request|getattr\(.*\b(name|command)\b)\(`)
		for path, source := range productSources(t) {
			if strings.HasSuffix(path, ".py") {
				require.Empty(t, banned.FindString(source), path)
			}
		}
	}},
	{name: "F7_only_registered_commands_run", run: func(t *testing.T, r *rig) {
		names := append([]string{
			"__import__", "os.system", "os", "sys", "eval", "exec", "hello", "shutdown", "_dispatch", "faults.echo", "echo.__globals__", "command", "setup", "Echo", "ECHO",
			" echo", "echo ", "echo\n", "echo\x00", "hold", "double", "__main__", "COMMANDS", "..", "/bin/sh", "serve", "escaped", "execute_program:x",
		}, hostileNames...)
		for _, name := range names {
			_, err := r.pool.ExecuteAnonymous(context.Background(), name, nil)
			if strings.ContainsRune(name, '\xff') || strings.Contains(name, "\xff") {
				require.Error(t, err)
				require.True(t, SafeToRetry(err), "%q", name)
				continue
			}
			failsWith(t, err, ErrUnknownCommand, NotExecuted)
			_, err = r.pool.ExecuteProgram(context.Background(), name, nil)
			require.Error(t, err)
			require.True(t, SafeToRetry(err), "program %q: %v", name, err)
		}
		_, err := r.pool.ExecuteAnonymous(context.Background(), "ecko", nil)
		require.Equal(t, "echo", detail[*UnknownCommandError](t, err).Names[0], "the nearest is named first")
	}},
	{name: "F8_arguments_are_values_and_override_nothing", run: func(t *testing.T, r *rig) {
		require.JSONEq(t, `[1,2]`, string(executed(t, r.pool, "two", args{"self": 1, "value": 2}).Raw()))
		require.JSONEq(t, `["__class__","__globals__","self"]`, string(executed(t, r.pool, "keyword", args{"self": 1, "__class__": 2, "__globals__": 3}).Raw()))
		for _, bad := range []any{args{"self": 1, "value": 2, "__class__": 3}, args{"value": 2}, []any{1, 2, 3}, args{"": 1}, args{"self": 1, "value ": 2}} {
			res, err := r.execute("two", bad, 0)
			failsWith(t, err, ErrInvalidArguments, NotExecuted)
			r.fate(t, kept, res, err)
		}
	}},
	{name: "F9_no_shell_sees_a_name", run: func(t *testing.T, r *rig) {
		dir := t.TempDir()
		path := filepath.Join(dir, "wo rk;touch pwned$(touch pwned)`touch pwned`&.py")
		require.NoError(t, os.WriteFile(path, []byte("from pypool import command\n@command\ndef hi(): return 'hi'\n"), 0o600))
		cfg := r.config(t)
		cfg.Script, cfg.Dir, cfg.Size, cfg.Args = path, dir, 1, []string{"$(touch pwned)", "; touch pwned"}
		p := r.own(t, cfg)
		executed(t, p, "hi", nil)
		require.NoFileExists(t, filepath.Join(dir, "pwned"))
	}},
	{name: "F10_what_a_handler_spawns_ends_with_the_pool", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		p := r.own(t, cfg)
		executed(t, p, "fork_bomb_lite", []any{20})
		require.NoError(t, p.Close())
		eventually(t, "all of them are gone", func() bool { return len(r.strangers()) == 0 })
	}},
	{name: "F11_what_a_worker_sends_is_in_no_log", fake: true, command: "secret garbage", args: []any{secret}, want: ErrProtocol, is: MaybeExecuted, worker: replaced,
		check: func(t *testing.T, r *rig, _ Result, err error) {
			require.Contains(t, detail[*ProtocolError](t, err).Sample, secret, "the caller may see it")
		}},
	{name: "F11b_arguments_results_and_exceptions_are_in_no_log", run: func(t *testing.T, r *rig) {
		executed(t, r.pool, "echo", []any{secret})
		for _, c := range []struct {
			command string
			args    any
		}{{"raise_text", []any{secret}}, {"no_such_command", []any{secret}}, {"two", args{"x": secret}}, {"journal", args{"path": "/nonexistent", "nonce": secret}}, {"loop", []any{secret}}} {
			_, err := r.execute(c.command, c.args, hangTime)
			require.Error(t, err)
		}
		_, err := r.execute("nap", args{"seconds": "x" + secret}, 0)
		require.Error(t, err)
	}},
	{name: "F12_no_core_dump", command: "core_limit", worker: kept,
		check: func(t *testing.T, r *rig, res Result, err error) { require.JSONEq(t, "0", string(res.Raw())) }},
	{name: "F13_JSON_bombs", run: func(t *testing.T, r *rig) {
		for _, text := range []string{"[1e999]", "[-1e999]", `[` + strings.Repeat("9", 4301) + `]`} {
			res, err := r.execute("echo", json.RawMessage(text), 0)
			failsWith(t, err, ErrInvalidArguments, NotExecuted)
			r.fate(t, kept, res, err)
		}
		for _, text := range []string{"[NaN]", "[Infinity]", "[01]", "[1,]", `{"a":1`, "[1] [2]", "nul", `["` + "\x01" + `"]`, strings.Repeat("[", 100_000)} {
			res, err := r.execute("echo", json.RawMessage(text), 0)
			failsWith(t, err, ErrInvalidArguments, NotExecuted)
			r.fate(t, noWorker, res, err)
		}
	}},
	{name: "F15_text_from_Python_cannot_drive_a_terminal", fake: true, command: "escape codes", want: ErrPython, is: Executed, worker: kept,
		check: func(t *testing.T, r *rig, _ Result, err error) {
			for _, c := range err.Error() {
				require.True(t, c >= 0x20 && c != 0x7f, "%q", err.Error())
			}
			require.Contains(t, err.Error(), `\x1b[31mred\nlevel=ERROR`)
			require.Contains(t, detail[*PythonError](t, err).Message, "\x1b[31m", "the detail is what Python sent")
		}},
}
