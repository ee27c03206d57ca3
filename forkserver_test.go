//go:build linux

package pypool

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// forkConfig is a Config with a fork server for a script of the test's own.
func forkConfig(t testing.TB, size int, source string) Config {
	t.Helper()
	return Config{Script: script(t, "import os\nfrom pypool import command, setup\n"+source), Python: realPython(), Size: size, Overflow: -1, Logger: testLogger(t), ForkServer: true,
		RestartBackoff: Backoff{Min: 5 * time.Millisecond, Max: 50 * time.Millisecond}}
}

// theServer waits for a pool's one fork server, and returns its process.
func theServer(t testing.TB, p *Pool) (pid int) {
	t.Helper()
	eventually(t, "there is one fork server", func() bool {
		list := serversOf(p)
		if len(list) == 1 {
			pid = list[0]
		}
		return len(list) == 1
	})
	return pid
}

const whoImported = `
imported = os.getpid()
@command
def who():
    return [imported, os.getpid(), os.getpgrp(), os.getppid()]
`

func TestForkedWorkersAreImportedOnce(t *testing.T) {
	p := newPool(t, forkConfig(t, 4, whoImported))
	server := theServer(t, p)
	for range 8 {
		ids := decoded[[]int](t, executed(t, p, "who", nil))
		require.Contains(t, pids(p), ids[1])
		require.Equal(t, []int{server, ids[1], ids[1], server}, ids, "imported by the server, in a group of its own")
	}
}

func TestSetupsRunInEachForkedWorker(t *testing.T) {
	p := newPool(t, forkConfig(t, 3, `
import contextvars
var = contextvars.ContextVar("var")
var.set("import")
done = []
@setup
def one():
    done.append(os.getpid())
    assert var.get() == "import"
    var.set("setup")
@setup
async def two():
    done.append(os.getpid())
@command
def what():
    return [done, os.getpid(), var.get()]
`))
	for range 6 {
		var got struct {
			done []int
			pid  int
			v    string
		}
		require.NoError(t, executed(t, p, "what", nil).Decode(&[]any{&got.done, &got.pid, &got.v}))
		require.Equal(t, []int{got.pid, got.pid}, got.done)
		require.Equal(t, "setup", got.v)
	}
}

// A slot's variables are set before the setups, and the limits of threads before the import.
func TestForkedWorkersHaveTheEnvironmentOfTheirSlots(t *testing.T) {
	cfg := forkConfig(t, 3, `
from pypool import current_worker
threads = os.environ["OMP_NUM_THREADS"]
imported = os.environ.get("DEVICE")
@setup
def one():
    global device
    device = os.environ["DEVICE"]
@command
def what():
    return [imported, device, threads, str(current_worker().slot)]
@command
def leave():
    os._exit(1)
`)
	cfg.WorkerEnv, cfg.Threads = func(slot int) []string { return []string{fmt.Sprint("DEVICE=", slot)} }, 7
	p := newPool(t, cfg)
	_, err := p.ExecuteAnonymous(t.Context(), "leave", nil)
	failure(t, err, ErrWorkerExited)
	eventually(t, "it is replaced", func() bool { return serving(p) })
	slots := map[int]bool{}
	for _, w := range p.Workers() {
		slots[w.Slot] = true
	}
	require.Len(t, slots, 3)
	for range 6 {
		got := decoded[[]any](t, executed(t, p, "what", nil))
		require.Equal(t, []any{nil, got[1], "7", got[1]}, got)
	}
}

func TestAReplacementIsForked(t *testing.T) {
	p := newPool(t, forkConfig(t, 2, whoImported+"@command\ndef leave(code):\n    os._exit(code)\n"))
	server := theServer(t, p)
	for _, code := range []int{0, 1, 7, 255} {
		_, err := p.ExecuteAnonymous(t.Context(), "leave", []any{code})
		failure(t, err, ErrWorkerExited)
		require.Equal(t, code, detail[*ExitError](t, err).Code)
		eventually(t, "it is replaced", func() bool { return serving(p) })
		require.Equal(t, server, decoded[[]int](t, executed(t, p, "who", nil))[0])
	}
}

func TestHowAForkedWorkerEndedIsTold(t *testing.T) {
	cfg := forkConfig(t, 1, `
import ctypes, signal
@command
def crash():
    ctypes.string_at(0)
@command
def kill(number):
    os.kill(os.getpid(), number)
@command
def nap():
    import time
    while True: time.sleep(0.01)
`)
	cfg.KillGrace = stackGrace
	p := newPool(t, cfg)
	_, err := p.ExecuteAnonymous(t.Context(), "crash", nil)
	failure(t, err, ErrWorkerExited)
	exit := detail[*ExitError](t, err)
	assert.Equal(t, syscall.SIGSEGV, exit.Signal)
	assert.Contains(t, exit.Stacks, "in crash", "faulthandler writes to the worker's own stderr")
	_, err = p.ExecuteAnonymous(t.Context(), "kill", []any{syscall.SIGKILL})
	failure(t, err, ErrWorkerExited)
	assert.Equal(t, syscall.SIGKILL, detail[*ExitError](t, err).Signal)
	_, err = p.ExecuteAnonymous(t.Context(), "nap", nil, WithTimeout(200*time.Millisecond))
	failure(t, err, ErrOperationTimeout)
	assert.Contains(t, detail[*HangError](t, err).Stacks, "in nap", "and so does a stack dump to its own pipe")
	executed(t, p, "ping", nil)
}

// What is dumped of a worker's stacks, logged and printed is told as that worker's, also where what
// writes it was made at the import.
func TestAForkedWorkersOutputIsItsOwn(t *testing.T) {
	logs := &logBuffer{}
	cfg := forkConfig(t, 2, `
import logging, sys
log = logging.getLogger("mine")
print("at import", flush=True)
print("not ended", end="")
@setup
def one():
    print("at setup")
@command
def say(text):
    print(text)
    log.warning("logged " + text)
    os.write(1, b"raw " + text.encode() + b"\n")
`)
	cfg.Logger = logs.logger(-4)
	p := newPool(t, cfg)
	executed(t, p, "say", []any{"hello"})
	for _, text := range []string{"hello", "logged hello"} {
		eventually(t, text+" is logged", func() bool { return len(logs.with(t, text)) == 1 })
		record := logs.with(t, text)[0]
		require.Equal(t, "say", record["command"])
		require.Contains(t, record["worker"], "w")
	}
	eventually(t, "raw output is logged", func() bool { return len(logs.with(t, "raw hello")) == 1 })
	require.Contains(t, logs.with(t, "raw hello")[0]["worker"], "w")
	eventually(t, "each setup's output is logged", func() bool { return len(logs.with(t, "at setup")) == 2 })
	for _, text := range []string{"at import", "not ended"} {
		eventually(t, text+" is logged once", func() bool { return len(logs.with(t, text)) == 1 })
		require.Equal(t, "f1", logs.with(t, text)[0]["worker"])
	}
}

func TestWhatAForkedWorkerInherits(t *testing.T) {
	source := `
import random, signal, stat, tempfile
number = random.random()
folder = tempfile.TemporaryDirectory()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
kept = open("/dev/zero")
@command
def drawn():
    return random.random()
@command
def has_folder():
    return os.path.isdir(folder.name)
@command
def folder_name():
    return folder.name
@command
def descriptors():
    kinds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            kind = os.readlink("/proc/self/fd/" + name).split(":")[0]
        except OSError:
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds
@command
def signals():
    lines = open("/proc/self/status").read().splitlines()
    return [line for line in lines if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
@command
def limits():
    import resource
    return [resource.getrlimit(resource.RLIMIT_CORE)[0], int(open("/proc/self/oom_score_adj").read())]
@command
def threads():
    import threading
    return [threading.current_thread() is threading.main_thread(), threading.active_count()]
@command
def child():
    import subprocess
    return subprocess.check_output(["echo", "hello"]).decode()
`
	p := newPool(t, forkConfig(t, 4, source))
	cfg := forkConfig(t, 1, source)
	cfg.ForkServer = false
	if pickSource != nil {
		t.Skip("compares with workers that are executed")
	}
	exec := newPool(t, cfg)
	for _, command := range []string{"descriptors", "signals", "limits", "threads", "child"} {
		assert.Equal(t, decoded[any](t, executed(t, exec, command, nil)), decoded[any](t, executed(t, p, command, nil)), command)
	}
	// The global generators of numpy and torch are seeded anew in each, by themselves.
	dir := t.TempDir()
	for name, text := range map[string]string{"numpy/__init__.py": "", "numpy/random.py": "seeded = []\ndef seed(*args): seeded.append((os.getpid(), args))\nimport os\n", "torch.py": "seeded = []\ndef seed(*args): seeded.append((os.getpid(), args))\nimport os\n"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	seeding := forkConfig(t, 2, "import numpy.random, torch\n@command\ndef seeded():\n    return [numpy.random.seeded == [(os.getpid(), ())], torch.seeded == [(os.getpid(), ())]]\n")
	seeding.ExtraEnv = []string{"PYTHONPATH=" + dir}
	require.Equal(t, []bool{true, true}, decoded[[]bool](t, executed(t, newPool(t, seeding), "seeded", nil)))
	drawn := map[float64]bool{}
	for range 3 {
		killed := pids(p)
		kill(t, killed...)
		othersServe(t, p, killed)
		x := decoded[float64](t, executed(t, p, "drawn", nil))
		require.False(t, drawn[x], "each worker draws numbers of its own")
		drawn[x] = true
	}
	// What the import has made for all stays when a worker ends in order, and goes with the server.
	name := decoded[string](t, executed(t, p, "folder_name", nil))
	require.NoError(t, p.Reload(t.Context()))
	eventually(t, "the old server cleans up", func() bool { _, err := os.Stat(name); return os.IsNotExist(err) })
	require.True(t, decoded[bool](t, executed(t, p, "has_folder", nil)))
	name = decoded[string](t, executed(t, p, "folder_name", nil))
	require.NoError(t, p.Shutdown(t.Context()))
	require.NoDirExists(t, name)
}

func TestAtexitFunctionsRunInWorkersOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ended")
	p := newPool(t, forkConfig(t, 3, fmt.Sprintf("import atexit\n@atexit.register\ndef note():\n    with open(%q, 'a') as f: f.write('%%d\\n' %% os.getpid())\n", path)))
	want := pids(p)
	require.NoError(t, p.Shutdown(t.Context()))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var got []int
	for line := range strings.Lines(string(text)) {
		var pid int
		_, err := fmt.Sscan(line, &pid)
		require.NoError(t, err)
		got = append(got, pid)
	}
	require.ElementsMatch(t, want, got)
}

func TestAnImportThatCannotBeForkedIsRefused(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "torch.py"), []byte("class cuda:\n    @staticmethod\n    def is_initialized(): return True\n"), 0o600))
	for _, c := range []struct {
		source string
		words  []string
	}{
		{"import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), name='the monitor', daemon=True).start()\n", []string{"Python threads run after the import", "'the monitor' in run", "@setup"}},
		{"import _thread, time\ndef poll():\n    while True: time.sleep(1)\n_thread.start_new_thread(poll, ())\n", []string{"a thread in poll", "worker.py:5", "@setup"}},
		{"with open('/proc/self/comm', 'w') as f: f.write('polars-0')\n", []string{"native threads", "polars-0", "@setup"}},
		{"with open('/proc/self/comm', 'w') as f: f.write('PTThreadPool')\n", []string{"native threads", "PTThreadPool", "@setup"}},
		{"import torch\n", []string{"has initialised CUDA", "torch.cuda.is_initialized()", "@setup"}},
	} {
		cfg := forkConfig(t, 2, c.source)
		cfg.ExtraEnv = []string{"PYTHONPATH=" + dir}
		p, err := New(t.Context(), cfg)
		require.Nil(t, p)
		failure(t, err, ErrWorkerStart)
		require.Equal(t, "import", detail[*StartError](t, err).Stage)
		for _, words := range c.words {
			require.ErrorContains(t, err, words)
		}
	}
	// One that ends by itself is waited for, and what a setup starts is none of the server's.
	p := newPool(t, forkConfig(t, 2, "import threading, time\nthreading.Thread(target=time.sleep, args=(0.1,)).start()\n@setup\ndef one():\n    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"))
	executed(t, p, "ping", nil)
}

func TestAFailedImportOrSetupOfForkedWorkersIsTold(t *testing.T) {
	for stage, source := range map[string]string{"import": "1 / 0\n", "setup": "@setup\ndef one():\n    1 / 0\n"} {
		p, err := New(t.Context(), forkConfig(t, 3, source))
		require.Nil(t, p)
		failure(t, err, ErrWorkerStart)
		start := detail[*StartError](t, err)
		require.Equal(t, stage, start.Stage)
		require.Contains(t, start.Stderr, "ZeroDivisionError")
		require.Equal(t, "ZeroDivisionError", detail[*PythonError](t, err).Type)
	}
	gate := newLatch(t)
	for stage, source := range map[string]string{"hello": fmt.Sprintf("open(%q).read()\n", gate.path), "setup": fmt.Sprintf("@setup\ndef one():\n    open(%q).read()\n", gate.path)} {
		cfg := forkConfig(t, 2, source)
		cfg.StartTimeout, cfg.KillGrace = 2*time.Second, 5*time.Second
		p, err := New(t.Context(), cfg)
		require.Nil(t, p)
		failure(t, err, ErrWorkerStart)
		require.Contains(t, detail[*HangError](t, err).Stacks, "worker.py", stage)
	}
}

func TestReloadForksFromANewServer(t *testing.T) {
	cfg := forkConfig(t, 3, whoImported+"@command\ndef version():\n    return 1\n")
	p := newPool(t, cfg)
	old := theServer(t, p)
	text, err := os.ReadFile(cfg.Script)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cfg.Script, []byte(strings.Replace(string(text), "return 1", "return 22", 1)), 0o600))
	require.NoError(t, p.Reload(t.Context()))
	require.Equal(t, 22, decoded[int](t, executed(t, p, "version", nil)))
	gone(t, old)
	require.NotEqual(t, old, theServer(t, p))
	// A version that does not import leaves the old one serving.
	require.NoError(t, os.WriteFile(cfg.Script, []byte("1 / 0\n"), 0o600))
	require.ErrorIs(t, p.Reload(t.Context()), ErrWorkerStart)
	require.Equal(t, 22, decoded[int](t, executed(t, p, "version", nil)))
}

func TestWatchScriptsReloadsForkedWorkers(t *testing.T) {
	cfg := forkConfig(t, 2, "@command\ndef version():\n    return 1\n")
	cfg.WatchScripts, cfg.watchEvery = true, 20*time.Millisecond
	p := newPool(t, cfg)
	require.Equal(t, 1, decoded[int](t, executed(t, p, "version", nil)))
	text, err := os.ReadFile(cfg.Script)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cfg.Script, []byte(strings.Replace(string(text), "return 1", "return 22", 1)), 0o600))
	eventually(t, "the edit is served", func() bool { return decoded[int](t, executed(t, p, "version", nil)) == 22 })
}

func TestMaxRSSOfForkedWorkersCountsTheirOwnMemory(t *testing.T) {
	cfg := forkConfig(t, 2, "shared = bytearray(os.urandom(1)) * (200 << 20)\nown = []\n@command\ndef grow(n):\n    own.append(bytearray(b'x') * (n << 20))\n    return os.getpid()\n")
	cfg.MaxRSS = 100 << 20
	p := newPool(t, cfg)
	first := pids(p)
	time.Sleep(1500 * time.Millisecond) // memory is sampled once a second
	require.Zero(t, p.Stats().Recycled, "what is shared does not count")
	pid := decoded[int](t, executed(t, p, "grow", []any{150}))
	require.Contains(t, first, pid)
	eventually(t, "what is its own does", func() bool { return p.Stats().Recycled == 1 && serving(p) })
	require.NotContains(t, pids(p), pid)
}

func TestOverflowIsForked(t *testing.T) {
	cfg := coreConfig(t, 1, 2)
	cfg.ForkServer = true
	p := newPool(t, cfg)
	a, b := hold(t, t.Context(), p, ""), hold(t, t.Context(), p, "")
	require.NotEqual(t, a.finish(t), b.finish(t))
	require.Len(t, serversOf(p), 1)
}

// One that lived for a while is followed by another before anybody needs it.
func TestAForkServerThatDiesIsReplacedAtOnce(t *testing.T) {
	p, err := New(t.Context(), forkConfig(t, 2, whoImported))
	require.NoError(t, err)
	defer p.Close()
	server, before := theServer(t, p), pids(p)
	time.Sleep(young)
	require.NoError(t, syscall.Kill(server, syscall.SIGKILL))
	eventually(t, "there is another", func() bool { list := serversOf(p); return len(list) == 1 && list[0] != server })
	require.ElementsMatch(t, before, pids(p))
	require.Zero(t, p.Stats().WorkersExited)
}

// A server that has died is asked once: who starts a worker waits until all know that it is lost.
func TestADeadForkServerIsAskedOnceForAWorker(t *testing.T) {
	logs := &logBuffer{}
	cfg := forkConfig(t, 1, whoImported)
	cfg.Logger = logs.logger(slog.LevelInfo)
	p := newPool(t, cfg)
	servers := p.sup.env.servers
	servers.mu.Lock()
	n := servers.newest
	servers.mu.Unlock()
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	t.Cleanup(release)
	// Whoever says that its process has ended stays here, as on a machine that is too busy for it.
	n.process.x.replies.Store(&replies{calls: &calls{cancel: func() { <-held }, gone: make(chan struct{})}})

	before, server := pids(p)[0], theServer(t, p)
	killed(server)
	gone(t, server)
	killed(before)
	eventually(t, "it has been asked for the replacement", func() bool { return isClosed(n.process.forks.Lost()) })
	time.Sleep(50 * time.Millisecond) // who asks it again and again has failed by then
	release()
	eventually(t, "another has made it", func() bool { return serving(p) && pids(p)[0] != before })
	require.Empty(t, logs.with(t, "a worker did not start"))
	require.NotEqual(t, server, theServer(t, p))
}

// The end of its children that a script does not want to hear of, or reaps, is the server's.
func TestAScriptThatReapsDoesNotReapWorkers(t *testing.T) {
	for _, handler := range []string{"signal.SIG_IGN", "lambda *_: os.waitpid(-1, 0)"} {
		p := newPool(t, forkConfig(t, 2, "import signal\nsignal.signal(signal.SIGCHLD, "+handler+")\n@command\ndef leave(code):\n    os._exit(code)\n"))
		for range 3 {
			_, err := p.ExecuteAnonymous(t.Context(), "leave", []any{9})
			failure(t, err, ErrWorkerExited)
			require.Equal(t, 9, detail[*ExitError](t, err).Code)
			eventually(t, "it is replaced", func() bool { return serving(p) })
		}
	}
}

// What a worker has started ends with it, though the server lives.
func TestWhatAForkedWorkerHasStartedEndsWithIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	p := newPool(t, forkConfig(t, 1, "import subprocess\n@command\ndef begin(path):\n    child = subprocess.Popen(['sleep', '1000'])\n    with open(path, 'w') as f: f.write(str(child.pid))\n    os._exit(1)\n"))
	_, err := p.ExecuteAnonymous(t.Context(), "begin", []any{path})
	failure(t, err, ErrWorkerExited)
	gone(t, pidIn(t, path))
}

func TestCheckTriesAForkServer(t *testing.T) {
	require.NoError(t, Check(t.Context(), forkConfig(t, 2, whoImported)))
	require.ErrorContains(t, Check(t.Context(), forkConfig(t, 2, "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n")), "Thread-1")
}
