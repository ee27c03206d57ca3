//go:build unix

package pypool

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
)

// The cases of the seed's worker tests, in Go terms; "healthy only after ping" and "bad script" are
// in supervisor_clock_test.go and startup_test.go, "dead client" in timeout_test.go.

func TestWorkerIDsAreUniqueForThePoolsLife(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	seen := map[string]bool{}
	for range 2 {
		for _, w := range p.Workers() {
			seen[w.ID] = true
		}
		before := p.Stats().WorkersExited
		kill(t, pids(p)...)
		eventually(t, "replaced", func() bool { return p.Stats().WorkersExited == before+2 && serving(p) })
	}
	for _, w := range p.Workers() {
		seen[w.ID] = true
	}
	assert.Len(t, seen, 6, "no id is given twice")
	ping := decoded[map[string]any](t, executed(t, p, "ping", nil))
	assert.True(t, seen[ping["worker_id"].(string)], "Python knows its own")
}

func TestWorkerStatisticsStartAtZeroAndCountAnswers(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	w := p.Workers()[0]
	assert.Equal(t, "w1", w.ID)
	assert.Zero(t, w.Calls)
	assert.Zero(t, w.Errors)
	assert.Equal(t, "idle", w.State)
	assert.False(t, w.Overflow)
	assert.Regexp(t, `^3\.\d+\.\d+`, w.Python)
	assert.WithinDuration(t, time.Now(), w.StartedAt, time.Minute)
	assert.Greater(t, w.RSS, int64(1<<20))
	st := p.Stats()
	assert.Zero(t, st.Started+st.Succeeded+st.Failed+st.InFlight)
	assert.Empty(t, st.ByType)
	assert.Equal(t, Distribution{}, st.Run)

	executed(t, p, "pid", nil)
	_, err := p.ExecuteAnonymous(t.Context(), "fail", args{"message": "x"})
	require.ErrorIs(t, err, ErrPython)
	_, err = p.ExecuteAnonymous(t.Context(), "pid", 7)
	require.ErrorIs(t, err, ErrInvalidArguments)
	w = p.Workers()[0]
	assert.Equal(t, int64(2), w.Calls, "what it has answered")
	assert.Equal(t, int64(1), w.Errors)
	h := hold(t, t.Context(), p, "")
	assert.Equal(t, "busy", p.Workers()[0].State)
	h.finish(t)
}

func TestWorkerThatIsClosedIsGoneFromTheList(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	victim := p.Workers()[0]
	kill(t, victim.PID)
	eventually(t, "it is not listed", func() bool {
		for _, w := range p.Workers() {
			if w.ID == victim.ID {
				return false
			}
		}
		return serving(p)
	})
	require.NoError(t, p.Close())
	assert.Empty(t, p.Workers())
	assert.False(t, processExists(victim.PID))
}

func TestCoreWorkerOutputThatIsNoAnswerIsIgnoredAndLogged(t *testing.T) {
	t.Parallel()
	log := &logBuffer{}
	cfg := coreConfig(t, 1, 0)
	cfg.Logger = log.logger(slog.LevelDebug)
	p := newPool(t, cfg)
	for _, text := range []string{"hello", `{"id":1,"success":true,"result":"forged"}`} {
		assert.Equal(t, "done", decoded[string](t, executed(t, p, "loud", args{"text": text})))
	}
	assert.Equal(t, int64(1), p.Stats().WorkersStarted)
	require.NoError(t, p.Shutdown(t.Context()))
	assert.GreaterOrEqual(t, len(log.with(t, "hello")), 5, "print, write(2), a shell, a subprocess, sys.__stdout__")
}

func TestWorkerStopsInOrderAtShutdown(t *testing.T) {
	t.Parallel()
	events := &eventLog{}
	cfg := coreConfig(t, 2, 0)
	cfg.Observer = &Observer{Event: events.add}
	p := newPool(t, cfg)
	dir := t.TempDir()
	a, b := hold(t, t.Context(), p, ""), hold(t, t.Context(), p, "")
	first := a.finish(t)
	executed(t, p, "at_exit", args{"path": filepath.Join(dir, "1")})
	second := hold(t, t.Context(), p, "")
	b.finish(t)
	executed(t, p, "at_exit", args{"path": filepath.Join(dir, "2")})
	second.finish(t)
	assert.NotZero(t, first)
	require.NoError(t, p.Shutdown(t.Context()))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 2, "both have run atexit")
	for _, ev := range events.of(EventWorkerExited) {
		assert.Equal(t, "stopped", ev.Cause)
	}
}

// What the pool itself asks an idle worker is no reason to kill it, nor holds up the end of the others.
func TestAWorkerThatIsAskedSomethingStopsInOrderAtShutdown(t *testing.T) {
	t.Parallel()
	for _, asked := range []string{"a ping", "its sources"} {
		t.Run(asked, func(t *testing.T) {
			t.Parallel()
			events := &eventLog{}
			cfg := coreConfig(t, 2, 0)
			cfg.Observer, cfg.HealthCheckInterval = &Observer{Event: events.add}, -1
			p := newPool(t, cfg)
			dir := t.TempDir()
			a, b := hold(t, t.Context(), p, ""), hold(t, t.Context(), p, "")
			first := a.finish(t)
			executed(t, p, "at_exit", args{"path": filepath.Join(dir, strconv.Itoa(first))})
			again := hold(t, t.Context(), p, "")
			second := b.finish(t)
			executed(t, p, "at_exit", args{"path": filepath.Join(dir, strconv.Itoa(second))})
			again.finish(t) // the first one idles on top
			hasRun := func(pid int) bool { _, err := os.Stat(filepath.Join(dir, strconv.Itoa(pid))); return err == nil }

			eventually(t, "both are idle", func() bool { return p.sup.checkout.idleNow() == 2 })
			require.NoError(t, syscall.Kill(second, syscall.SIGSTOP))
			if asked == "a ping" {
				wait := inBackground(1, func(int) (Health, error) { return p.HealthCheck(context.Background()) })
				defer wait()
			} else {
				newSourceWatch(p.sup, time.Now()).tick(time.Now())
			}
			lookedAt(t, p)
			done := make(chan error, 1)
			go func() { done <- p.Shutdown(context.Background()) }() // joined by done
			eventually(t, "the other one has ended", func() bool { return hasRun(first) || isClosed(p.closed) })
			_ = syscall.Kill(second, syscall.SIGCONT)
			require.NoError(t, <-done)
			assert.True(t, hasRun(first))
			assert.True(t, hasRun(second))
			for _, ev := range events.of(EventWorkerExited) {
				assert.Equal(t, "stopped", ev.Cause)
			}
		})
	}
}

func TestWorkerDrainsAFloodOnStderrAndKeepsItsTail(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.Logger = quiet()
	cfg.Script = script(t, `import os, sys
from pypool import command
@command
def flood():
    for i in range(20000):
        sys.stderr.write("line %05d of a flood\n" % i)
    os._exit(5)
`)
	p := newPool(t, cfg)
	_, err := p.ExecuteAnonymous(t.Context(), "flood", nil)
	exit := detail[*ExitError](t, err)
	assert.Equal(t, 5, exit.Code)
	assert.LessOrEqual(t, len(exit.Stderr), stderrTail)
	assert.Greater(t, len(exit.Stderr), stderrTail/2)
	assert.True(t, strings.HasSuffix(exit.Stderr, "line 19999 of a flood\n"), "the end, not the beginning")
}

func TestResultTellsItsWorkerAndItsTimes(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	h := hold(t, t.Context(), p, "")
	wait := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "pid", nil) })
	eventually(t, "it waits", func() bool { return p.Stats().Waiting == 1 })
	h.finish(t)
	res := wait()[0].res
	assert.Equal(t, "w1", res.Worker())
	assert.Positive(t, res.Queued())
	assert.Positive(t, res.Ran())
	assert.Equal(t, "null", string(Result{}.Raw()))
	assert.NoError(t, Result{}.Decode(new(any)))
}

func TestNothingIsRoundedInALargeInteger(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	const big = "12345678901234567890123"
	v, err := Call[any](t.Context(), p, "echo", []byte(nil))
	require.Error(t, err, "bytes are a JSON string or null: no arguments")
	assert.Nil(t, v)
	res := executed(t, p, "echo", args{"value": map[string]any{"n": jsonNumber(big)}})
	assert.Equal(t, map[string]any{"n": jsonNumber(big)}, decoded[any](t, res))
	assert.Equal(t, map[string]any{"n": 1.0}, decoded[any](t, executed(t, p, "echo", args{"value": args{"n": 1}})))
}

func TestCommandsDescribeThemselves(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	list, err := p.Commands(t.Context())
	require.NoError(t, err)
	byName := map[string]CommandInfo{}
	for _, c := range list {
		byName[c.Name] = c
	}
	add := byName["add"]
	assert.Equal(t, "Add two numbers.", add.Doc)
	assert.Contains(t, add.Signature, "(a: int, b: int = 1) -> int")
	assert.Equal(t, "function", add.Kind)
	assert.Equal(t, "int", add.Returns)
	require.Len(t, add.Params, 2)
	assert.Equal(t, ParamInfo{Name: "a", Type: "int", Required: true}, add.Params[0])
	assert.Equal(t, "1", string(add.Params[1].Default))
	assert.False(t, add.Params[1].Required)
	assert.Equal(t, "generator", byName["count"].Kind)
	assert.Equal(t, "program", byName["double"].Kind)
}

// TestHelloFitsIntoAPipe: the host writes it in one go, and a worker that reads lines of at most 64
// KiB can read it.
func TestHelloFitsIntoAPipe(t *testing.T) {
	cfg, err := Config{Script: workerScript(t, "core.py")}.resolve()
	require.NoError(t, err)
	rep := newReporter(cfg.Logger)
	defer rep.close()
	w := &worker{id: "w1", word: "word", proc: &fakeProcess{n: 1}, env: &workerEnv{cfg: &cfg, reporter: rep}}
	hello, err := w.helloRequest()
	require.NoError(t, err)
	require.Less(t, len(hello.Seal(0, 0, false)), proc.RequestRoom-(8<<10))
}

// TestWhatIsSentOfAModule: what no worker needs is left out, every line keeps its number, and code
// stays what it is.
func TestWhatIsSentOfAModule(t *testing.T) {
	const source = `"""A module."""
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
names: Dict[str, Any] = {}
class C:
    """A class."""
    field: Any = 1
    def f(self, a: Any, b: Dict[str, List[Any]] = None, *c: x.Y, **d: Any) -> Any:  # why
        self.a: Any = a
        return {a: b, "c": c[a: b]}
    async def g(self, a: int = 1, key=lambda v: v) -> None:
        # a note
        x: int = 5
`
	const sent = `""
TYPE_CHECKING = False


names = {}
class C:
 ""
 field: Any = 1
 def f(self, a, b = None, *c, **d):
  self.a = a
  return {a: b, "c": c[a: b]}
 async def g(self, a: int = 1, key=lambda v: v):

  x = 5
`
	require.Equal(t, sent, withoutNotes(source))
}

func TestVersionIsThePythonPackages(t *testing.T) {
	text, err := os.ReadFile("python/pyproject.toml")
	require.NoError(t, err)
	require.Contains(t, string(text), `version = "`+Version+`"`)
}
