package pypool

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// badStart is a Config with which New must fail, and what the StartError must show.
type badStart struct {
	cfg   func(t *testing.T) Config
	stage string
	shows []string // each in the error's text
	tells []string // each in StartError.Stderr
	check func(t *testing.T, e *Error)
}

func badScript(source string) func(t *testing.T) Config {
	return func(t *testing.T) Config { return Config{Script: script(t, source), Python: realPython()} }
}

// oldPython is a Config with an interpreter below 3.8, from a version manager in the home
// directory.
func oldPython(version string) func(t *testing.T) Config {
	return func(t *testing.T) Config {
		home, err := os.UserHomeDir()
		require.NoError(t, err)
		found, err := filepath.Glob(filepath.Join(home, ".*", "versions", version, "bin", "python"))
		require.NoError(t, err)
		if len(found) == 0 {
			t.Skipf("Python %s is not installed here", version)
		}
		return Config{Script: script(t, ""), Python: found[0]}
	}
}

var badStarts = map[string]badStart{
	"no interpreter of that name": {
		cfg:   func(t *testing.T) Config { return Config{Python: "no-such-python-3.99"} },
		stage: "spawn", shows: []string{"no Python interpreter", "no-such-python-3.99", "Config.Python"},
	},
	"wrong path of the interpreter": {
		cfg:   func(t *testing.T) Config { return Config{Python: "/nonexistent/bin/python3"} },
		stage: "spawn", shows: []string{"/nonexistent/bin/python3", "no such file"},
	},
	"the interpreter is a directory": {
		cfg:   func(t *testing.T) Config { return Config{Python: t.TempDir()} },
		stage: "spawn", shows: []string{"no Python interpreter"},
	},
	"Python 2.7": {cfg: oldPython("2.7.18"), stage: "hello", shows: []string{"Python 2.7.18 is too old", "3.8"}, tells: []string{"-I"}},
	"Python 3.6": {cfg: oldPython("3.6.15"), stage: "bootstrap", shows: []string{"Python 3.6.15 is too old", "3.8"}},
	"Python 3.7": {cfg: oldPython("3.7.16"), stage: "bootstrap", shows: []string{"Python 3.7.16 is too old", "3.8"}},
	"script missing": {
		cfg: func(t *testing.T) Config {
			return Config{Python: realPython(), Script: filepath.Join(t.TempDir(), "nowhere.py")}
		},
		stage: "import", shows: []string{"nowhere.py", "FileNotFoundError"},
	},
	"module missing": {
		cfg:   func(t *testing.T) Config { return Config{Python: realPython(), Module: "no_such_module_here"} },
		stage: "import", shows: []string{"no_such_module_here", "ModuleNotFoundError"}, tells: []string{"ModuleNotFoundError"},
	},
	"syntax error": {
		cfg: badScript("def f(:\n    pass\n"), stage: "import", shows: []string{"worker.py", "SyntaxError"}, tells: []string{"def f(:", "line 1"},
	},
	"exception at import": {
		cfg:   badScript("import os\n\ndef load():\n    raise KeyError('weights')\n\nload()\n"),
		stage: "import", shows: []string{"KeyError: 'weights'"}, tells: []string{"Traceback", "line 4, in load", "KeyError"},
		check: func(t *testing.T, e *Error) {
			assert.Equal(t, "KeyError", detail[*PythonError](t, e).Type)
		},
	},
	"import of what is not installed": {
		cfg:   badScript("import numpy_that_is_not_here\n"),
		stage: "import", shows: []string{"ModuleNotFoundError", "numpy_that_is_not_here"}, tells: []string{"line 1"},
	},
	"SystemExit at import": {
		cfg: badScript("import sys\nsys.exit(3)\n"), stage: "import", shows: []string{"SystemExit", "3"}, tells: []string{"sys.exit(3)"},
	},
	"exit without goodbye at import": {
		cfg:   badScript("import os, sys\nsys.stderr.write('giving up\\n')\nos._exit(4)\n"),
		stage: "hello", shows: []string{"exited with code 4"}, tells: []string{"giving up"},
		check: func(t *testing.T, e *Error) { assert.Equal(t, 4, detail[*ExitError](t, e).Code) },
	},
	"crash at import": {
		cfg:   badScript("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"),
		stage: "hello", shows: []string{"SIGSEGV"}, tells: []string{"Fatal Python error"},
	},
	"setup raises": {
		cfg:   badScript("from pypool import setup\n\n@setup\ndef load():\n    raise OSError('no disk')\n"),
		stage: "setup", shows: []string{"OSError: no disk"}, tells: []string{"in load"},
	},
	"hang at start": {
		cfg: func(t *testing.T) Config {
			return Config{Script: script(t, "import time\ndef wait_for_ever():\n    time.sleep(3600)\nwait_for_ever()\n"), Python: realPython(), StartTimeout: 1500 * time.Millisecond, KillGrace: 5 * time.Second}
		},
		stage: "hello", shows: []string{"StartTimeout", "wait_for_ever"},
		check: func(t *testing.T, e *Error) {
			assert.Contains(t, detail[*HangError](t, e).Stacks, "wait_for_ever")
		},
	},
	"duplicate command": {
		cfg:   badScript("from pypool import command\n@command\ndef f(): pass\n@command(name='f')\ndef g(): pass\n"),
		stage: "import", shows: []string{"f"}, tells: []string{"Traceback"},
	},
	"cat as the interpreter": {
		cfg: func(t *testing.T) Config {
			return Config{Python: filepath.Join(fakeInterpreter(t, "#!/bin/sh\nexec /bin/cat\n"), "python3")}
		},
		stage: "hello", shows: []string{"hello"},
		check: func(t *testing.T, e *Error) {
			assert.Contains(t, detail[*ProtocolError](t, e).Sample, "max_message_bytes", "its own request comes back")
		},
	},
	"/bin/cat": {
		cfg: func(t *testing.T) Config { return Config{Python: "/bin/cat"} }, stage: "hello", shows: []string{"exited with code 1"}, tells: []string{"invalid option"},
	},
	"/bin/true": {
		cfg: func(t *testing.T) Config { return Config{Python: "/bin/true"} }, stage: "hello", shows: []string{"exited with code 0"},
	},
	"an interpreter that prints a banner, and nothing else": {
		cfg: func(t *testing.T) Config {
			dir := fakeInterpreter(t, "#!/bin/sh\necho Welcome to the cluster\nexec sleep 60\n")
			return Config{Python: filepath.Join(dir, "python3"), StartTimeout: time.Second}
		},
		stage: "hello", shows: []string{"StartTimeout"}, tells: []string{"Welcome to the cluster"},
	},
}

// fakeInterpreter is a directory with a shell script named python3.
func fakeInterpreter(t *testing.T, source string) string {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "python3"), []byte(source), 0o700))
	return dir
}

func TestBadInputMakesNewFailWithTheReasonAndLeavesNothingBehind(t *testing.T) {
	for name, c := range badStarts {
		t.Run(name, func(t *testing.T) {
			cfg := c.cfg(t)
			cfg.Size, cfg.Overflow, cfg.Name, cfg.Logger = 2, -1, "bad", quiet()
			log := &eventLog{}
			cfg.Observer = &Observer{Event: log.add}
			limit := cfg.StartTimeout
			if limit == 0 {
				limit = 30 * time.Second
			}
			before, fds := goleak.IgnoreCurrent(), openFDs(t)
			begun := time.Now()
			p, err := New(t.Context(), cfg)
			assert.Less(t, time.Since(begun), limit+slack)
			require.Nil(t, p)
			e := failure(t, err, ErrWorkerStart)
			assert.Equal(t, CategoryResource, e.Category)
			assert.Equal(t, NotExecuted, e.Delivery)
			assert.True(t, SafeToRetry(err))
			assert.Equal(t, "bad", e.Context.Pool)
			start := detail[*StartError](t, err)
			assert.Equal(t, c.stage, start.Stage)
			assert.NotEmpty(t, start.Python, "the interpreter is named")
			assert.NotContains(t, err.Error(), "\n")
			for _, text := range c.shows {
				assert.Contains(t, err.Error(), text)
			}
			for _, text := range c.tells {
				assert.Contains(t, start.Stderr, text)
			}
			if c.check != nil {
				c.check(t, e)
			}
			for _, ev := range log.of(EventWorkerExited) {
				assert.False(t, processExists(ev.PID), "process %d is left", ev.PID)
			}
			goleak.VerifyNone(t, before)
			assert.LessOrEqual(t, openFDs(t), fds, "descriptors")
		})
	}
}

func TestAScriptThatPrintsABannerStartsAllTheSame(t *testing.T) {
	t.Parallel()
	log := &logBuffer{}
	path := script(t, `import os, sys
print("Welcome!")
os.write(1, b"raw banner\n")
os.system("echo from a shell")
sys.__stdout__.write("dunder\n")
from pypool import command
@command
def f():
    return "fine"
`)
	p := newPool(t, Config{Script: path, Python: realPython(), Size: 1, Overflow: -1, Logger: log.logger(-4)})
	assert.Equal(t, "fine", decoded[string](t, executed(t, p, "f", nil)))
	require.NoError(t, p.Shutdown(t.Context()))
	for _, line := range []string{"Welcome!", "raw banner", "from a shell", "dunder"} {
		assert.Len(t, log.with(t, line), 1, "it is in the log instead")
	}
}

func TestAnInterpreterThatPrintsABannerStartsAllTheSame(t *testing.T) {
	t.Parallel()
	for _, pause := range []string{"", "sleep 0.2\n"} { // so that hello comes after the banner, or before
		dir := fakeInterpreter(t, "#!/bin/sh\n"+pause+"echo Welcome to the cluster\n"+pause+"exec "+realPython()+" \"$@\"\n")
		log := &logBuffer{}
		cfg := coreConfig(t, 1, 0)
		cfg.Python, cfg.Logger = filepath.Join(dir, "python3"), log.logger(-4)
		p := newPool(t, cfg)
		executed(t, p, "pid", nil)
		require.NoError(t, p.Shutdown(t.Context()))
		assert.Len(t, log.with(t, "Welcome to the cluster"), 1)
	}
}

func TestNewIsBoundedByItsContextAndLeavesNothingBehind(t *testing.T) {
	path := script(t, "import time\ntime.sleep(3600)\n")
	before, fds := goleak.IgnoreCurrent(), openFDs(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err := New(ctx, Config{Script: path, Python: realPython(), Size: 2, Logger: quiet()})
	assert.Less(t, time.Since(begun), slack)
	failure(t, err, ErrWorkerStart)
	assert.ErrorIs(t, err, context.DeadlineExceeded)

	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = New(ctx, Config{Script: path, Python: realPython(), Size: 2, Logger: quiet()})
	failure(t, err, ErrCanceled)
	assert.ErrorIs(t, err, context.Canceled)
	goleak.VerifyNone(t, before)
	assert.LessOrEqual(t, openFDs(t), fds)
}

func TestThePoolOutlivesTheContextOfNewAndOfItsCalls(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cfg := coreConfig(t, 1, 0)
	p, err := New(ctx, cfg)
	require.NoError(t, err)
	defer p.Close()
	_, err = p.ExecuteAnonymous(ctx, "pid", nil)
	require.NoError(t, err)
	worker := pids(p)
	cancel()
	executed(t, p, "pid", nil)
	assert.Equal(t, worker, pids(p))
}

func TestOneBadStartOfSeveralFailsNewAndEndsTheOthers(t *testing.T) {
	t.Parallel()
	executedOnly(t) // each start is an import
	path := script(t, fmt.Sprintf("import os\nos.close(os.open(%q, os.O_CREAT | os.O_EXCL))\n", filepath.Join(t.TempDir(), "only")))
	log := &eventLog{}
	_, err := New(t.Context(), Config{Script: path, Python: realPython(), Size: 3, Overflow: -1, Logger: quiet(), Observer: &Observer{Event: log.add}})
	failure(t, err, ErrWorkerStart)
	assert.Equal(t, "FileExistsError", detail[*PythonError](t, err).Type)
	exited := log.of(EventWorkerExited)
	assert.NotEmpty(t, exited)
	for _, ev := range exited {
		assert.False(t, processExists(ev.PID))
	}
}

func TestNoFileIsLeftAndAReadOnlyHomeWillDo(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("directory permissions are of another kind there")
	}
	home, tmp := t.TempDir(), t.TempDir()
	require.NoError(t, os.Chmod(home, 0o500))
	cfg := coreConfig(t, 1, 0)
	cfg.ExtraEnv = []string{"HOME=" + home, "TMPDIR=" + tmp, "PYTHONDONTWRITEBYTECODE=1"}
	p := newPool(t, cfg)
	executed(t, p, "loud", args{"text": "x"})
	require.NoError(t, p.Shutdown(t.Context()))
	for _, dir := range []string{home, tmp} {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		assert.Empty(t, entries)
	}
}

func TestAnInvalidConfigNamesEveryBadFieldInOneError(t *testing.T) {
	t.Parallel()
	cfg := Config{
		Script: "a.py", Module: "b", Size: -1, MaxMessageBytes: 10, Dir: "/nonexistent-dir", Name: "a\nb",
		ExtraEnv: []string{"NOEQUALS"}, RestartBackoff: Backoff{Min: time.Hour, Max: time.Second}, ErrorRate: ErrorRate{Threshold: 2}, Logger: quiet(),
	}
	_, err := New(t.Context(), cfg)
	e := failure(t, err, ErrInvalidArguments)
	assert.Equal(t, NotExecuted, e.Delivery)
	for _, field := range []string{"Script", "Size", "MaxMessageBytes", "Dir", "Name", "ExtraEnv", "RestartBackoff", "ErrorRate"} {
		assert.Contains(t, err.Error(), "Config."+field)
	}
	assert.NotContains(t, err.Error(), "\n")
	assert.Equal(t, 8, strings.Count(err.Error(), "Config."))
	_, err = New(t.Context(), Config{Size: 2, MinReady: 3, Logger: quiet()})
	assert.ErrorContains(t, err, "Config.MinReady")
}
