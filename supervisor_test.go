//go:build unix

package pypool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Supervision of real processes. What depends on the clock is in supervisor_clock_test.go.

func kill(t testing.TB, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
}

// othersServe waits until others stand in the place of workers that were killed. That the pool is at its
// full size does not say so: it may not know yet that they are dead.
func othersServe(t testing.TB, p *Pool, killed []int) {
	t.Helper()
	eventually(t, "those that were killed are replaced", func() bool {
		return serving(p) && !slices.ContainsFunc(pids(p), func(pid int) bool { return slices.Contains(killed, pid) })
	})
}

func TestCoreAnIdleWorkerKilledFromOutsideIsReplacedAndNoCallFails(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	victim := pids(p)[0]
	kill(t, victim)
	for i := range 20 {
		assert.Equal(t, i, decoded[int](t, executed(t, p, "echo", args{"value": i})))
	}
	eventually(t, "two workers, neither the dead one", func() bool {
		return serving(p) && pids(p)[0] != victim && pids(p)[1] != victim
	})
	st := accounted(t, p)
	assert.Zero(t, st.Failed)
	assert.Equal(t, int64(3), st.WorkersStarted)
	assert.Equal(t, int64(1), st.WorkersExited)
}

func TestAllIdleWorkersKilledJustBeforeCallsFailNone(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	for round := range 15 {
		eventually(t, "at Size", func() bool { return serving(p) })
		kill(t, pids(p)...)
		for i, out := range inBackground(4, func(i int) (Result, error) {
			return p.ExecuteAnonymous(t.Context(), "echo", args{"value": i})
		})() {
			require.NoError(t, out.err, "round %d", round)
			require.Equal(t, i, decoded[int](t, out.res))
		}
	}
	assert.Zero(t, accounted(t, p).Failed)
}

func TestCoreAllWorkersKilledAtOnceThePoolComesBackByItself(t *testing.T) {
	t.Parallel()
	p := corePool(t, 3, 0)
	before := pids(p)
	kill(t, before...)
	eventually(t, "three new workers without a call", func() bool {
		for _, pid := range pids(p) {
			for _, old := range before {
				if pid == old {
					return false
				}
			}
		}
		return serving(p)
	})
	assert.Equal(t, int64(3), p.Stats().WorkersExited)
	assert.Zero(t, p.Stats().Started)
}

func TestAScriptThatAlwaysDiesFailsCallsFastAndHealsWhenItIsMended(t *testing.T) {
	t.Parallel()
	path := script(t, "raise RuntimeError('the model file is missing')\n")
	log := &eventLog{}
	cfg := Config{
		Script: path, Python: realPython(), Size: 2, Overflow: -1, MinReady: -1, Logger: testLogger(t), Observer: &Observer{Event: log.add},
		RestartBackoff: Backoff{Min: 20 * time.Millisecond, Max: 100 * time.Millisecond}, MaxRestarts: 3,
	}
	p := newPool(t, cfg)
	begun := time.Now()
	waiters := inBackground(4, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "ping", nil) })
	for _, out := range waiters() {
		e := failure(t, out.err, ErrCircuitOpen)
		assert.Equal(t, NotExecuted, e.Delivery)
		cause := detail[*CircuitError](t, out.err).Cause
		start := detail[*StartError](t, cause)
		assert.Equal(t, "import", start.Stage)
		assert.Contains(t, start.Stderr, "the model file is missing")
		assert.Contains(t, start.Stderr, "Traceback")
		py := detail[*PythonError](t, cause)
		assert.Equal(t, "RuntimeError", py.Type)
		assert.Contains(t, py.Traceback, filepath.Base(path))
		assert.Empty(t, detail[*CircuitError](t, out.err).Command, "the pool's own circuit")
		assert.Contains(t, out.err.Error(), "the model file is missing")
	}
	assert.Less(t, time.Since(begun), 30*time.Second, "released by the circuit, not by a timeout")

	before := p.Stats()
	assert.NotEqual(t, "closed", before.Breaker)
	asked := time.Now()
	for range 200 {
		_, err := p.ExecuteAnonymous(t.Context(), "ping", nil)
		require.ErrorIs(t, err, ErrCircuitOpen)
	}
	spawned := p.Stats().WorkersStarted - before.WorkersStarted
	assert.LessOrEqual(t, spawned, 2+int64(time.Since(asked)/(50*time.Millisecond)), "calls start no workers")
	h, err := p.HealthCheck(t.Context())
	failure(t, err, ErrCircuitOpen)
	assert.False(t, h.Healthy)
	assert.ErrorIs(t, h.LastError, ErrWorkerStart)

	// In one step: a worker that starts meanwhile must not read a file that is still empty.
	require.NoError(t, os.Rename(script(t, "from pypool import command\n@command\ndef fixed():\n    return 'mended'\n"), path))
	eventually(t, "healed", func() bool { return serving(p) })
	assert.Equal(t, "mended", decoded[string](t, executed(t, p, "fixed", nil)))
	assert.Equal(t, "closed", p.Stats().Breaker)
	h, err = p.HealthCheck(t.Context())
	require.NoError(t, err)
	assert.True(t, h.Healthy)
	assert.NoError(t, h.LastError)
	eventually(t, "both changes are told", func() bool { return len(log.of(EventCircuit)) >= 2 })
	events := log.of(EventCircuit)
	assert.Equal(t, "open", events[0].State)
	assert.Contains(t, events[0].Cause, "the model file is missing")
	assert.Equal(t, "closed", events[len(events)-1].State)
	accounted(t, p)
}

func TestWithOneReadyWorkerThePoolServesThoughOthersCannotStart(t *testing.T) {
	t.Parallel()
	executedOnly(t) // each start is an import
	only := filepath.Join(t.TempDir(), "only")
	path := script(t, fmt.Sprintf("import os\nos.close(os.open(%q, os.O_CREAT | os.O_EXCL))\n", only))
	p := newPool(t, Config{
		Script: path, Python: realPython(), Size: 2, Overflow: -1, MinReady: 1, Logger: testLogger(t),
		RestartBackoff: Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond}, MaxRestarts: 2,
	})
	eventually(t, "more failures than would open the circuit", func() bool { return p.Stats().WorkersExited > 4 })
	for range 5 {
		executed(t, p, "ping", nil)
	}
	st := p.Stats()
	assert.Equal(t, "closed", st.Breaker)
	h, err := p.HealthCheck(t.Context())
	require.NoError(t, err, "it can serve")
	assert.False(t, h.Healthy, "but not at Size")
	assert.Equal(t, 1, h.Responsive)
	assert.ErrorIs(t, h.LastError, ErrWorkerStart)
}

func TestCoreMinReadyNegativeReturnsAtOnceAndTheWorkersComeUpBehind(t *testing.T) {
	t.Parallel()
	executedOnly(t) // a start that waits for a fork server's import has no process yet
	gate := newLatch(t)
	path := script(t, fmt.Sprintf("open(%q).read()\n", gate.path))
	p := newPool(t, Config{Script: path, Python: realPython(), Size: 1, Overflow: -1, MinReady: -1, Logger: testLogger(t)})
	eventually(t, "it is starting", func() bool { return p.Stats().Starting == 1 })
	assert.Zero(t, p.Stats().Idle)
	assert.Equal(t, "starting", p.Workers()[0].State)
	assert.Empty(t, p.Workers()[0].Python, "not known yet")
	call := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "ping", nil) })
	eventually(t, "the call waits for it", func() bool { return p.Stats().Waiting == 1 })
	gate.release(t)
	require.NoError(t, call()[0].err)
}

func TestMinReadyReturnsWhenSoManyAreReady(t *testing.T) {
	t.Parallel()
	executedOnly(t) // each start is an import
	dir := t.TempDir()
	gate := newLatch(t)
	path := script(t, fmt.Sprintf(`import os
try:
    os.mkdir(%q)
except FileExistsError:
    open(%q).read()
`, filepath.Join(dir, "first"), gate.path))
	p := newPool(t, Config{Script: path, Python: realPython(), Size: 2, Overflow: -1, MinReady: 1, Logger: testLogger(t)})
	assert.Equal(t, 1, p.Stats().Idle)
	eventually(t, "the second is starting", func() bool { return p.Stats().Starting == 1 })
	executed(t, p, "ping", nil)
	gate.release(t)
	eventually(t, "the second is ready, too", func() bool { return serving(p) })
}

func TestOverflowGrowsUnderLoadAndRetiresWhenIdle(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 2)
	cfg.overflowIdle = 50 * time.Millisecond
	p := newPool(t, cfg)
	first := pids(p)[0]
	a, b, c := hold(t, t.Context(), p, ""), hold(t, t.Context(), p, ""), hold(t, t.Context(), p, "")
	assert.Equal(t, 3, p.Stats().Busy)
	eventually(t, "two are called overflow", func() bool {
		n := 0
		for _, w := range p.Workers() {
			if w.Overflow {
				n++
			}
		}
		return n == 2
	})
	a.finish(t)
	b.finish(t)
	c.finish(t)
	eventually(t, "back at Size", func() bool { st := p.Stats(); return st.Workers == 1 && st.Idle == 1 })
	st := accounted(t, p)
	assert.Equal(t, int64(3), st.WorkersStarted)
	assert.Equal(t, int64(2), st.WorkersExited)
	assert.Zero(t, st.Failed)
	assert.NotZero(t, first)
	executed(t, p, "ping", nil)
}

func TestCoreAPoisonCommandOpensItsOwnCircuitOnly(t *testing.T) {
	t.Parallel()
	events := &eventLog{}
	cfg := coreConfig(t, 2, 0)
	cfg.Breaker = Breaker{Failures: 3, OpenFor: 2 * time.Second}
	cfg.Observer = &Observer{Event: events.add}
	p := newPool(t, cfg)
	for range 3 {
		_, err := p.ExecuteAnonymous(t.Context(), "crash", nil)
		failure(t, err, ErrWorkerExited)
	}
	_, err := p.ExecuteAnonymous(t.Context(), "crash", nil)
	e := failure(t, err, ErrCircuitOpen)
	assert.Equal(t, NotExecuted, e.Delivery)
	circuit := detail[*CircuitError](t, err)
	assert.Equal(t, "crash", circuit.Command)
	assert.False(t, circuit.RetryAt.IsZero())
	assert.NotErrorIs(t, err, ErrWorkerExited, "that happened to others")
	assert.ErrorIs(t, circuit.Cause, ErrWorkerExited)
	executed(t, p, "pid", nil)
	executed(t, p, "echo", args{"value": 1})
	assert.Equal(t, "closed", p.Stats().Breaker, "the pool's own circuit is another matter")
	eventually(t, "at Size", func() bool { return serving(p) })
	assert.Equal(t, int64(2+3), p.Stats().WorkersStarted, "the refused call cost no worker")

	// After OpenFor one call probes; it costs a worker, and the circuit is open again.
	eventually(t, "a probe", func() bool {
		_, err := p.ExecuteAnonymous(t.Context(), "crash", nil)
		return !errors.Is(err, ErrCircuitOpen)
	})
	_, err = p.ExecuteAnonymous(t.Context(), "crash", nil)
	failure(t, err, ErrCircuitOpen)
	eventually(t, "its changes are told", func() bool { return len(events.of(EventCircuit)) >= 3 })
	for i, state := range []string{"open", "half-open", "open"} {
		assert.Equal(t, state, events.of(EventCircuit)[i].State)
		assert.Equal(t, "crash", events.of(EventCircuit)[i].Command)
	}
	accounted(t, p)
}

func TestProgramsAreChargedEachByItself(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.Breaker = Breaker{Failures: 2, OpenFor: time.Hour}
	p := newPool(t, cfg)
	for range 2 {
		_, err := p.ExecuteProgram(t.Context(), "poison", nil)
		failure(t, err, ErrWorkerExited)
	}
	_, err := p.ExecuteProgram(t.Context(), "poison", nil)
	failure(t, err, ErrCircuitOpen)
	assert.Equal(t, "execute_program:poison", detail[*CircuitError](t, err).Command)
	res, err := p.ExecuteProgram(t.Context(), "healthy", nil)
	require.NoError(t, err)
	assert.Equal(t, "fine", decoded[string](t, res))
}

func TestExceptionsNeverOpenACircuitAndAnAnswerBetweenLossesKeepsItClosed(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.Breaker = Breaker{Failures: 2, OpenFor: time.Hour}
	p := newPool(t, cfg)
	worker := pids(p)[0]
	for range 20 {
		_, err := p.ExecuteAnonymous(t.Context(), "fail", args{"message": "no"})
		failure(t, err, ErrPython)
	}
	assert.Equal(t, []int{worker}, pids(p), "an exception costs nothing")
	// kill_self with signal 0 answers; with 9 it costs the worker.
	for range 4 {
		_, err := p.ExecuteAnonymous(t.Context(), "kill_self", args{"signal": 9})
		failure(t, err, ErrWorkerExited)
		executed(t, p, "kill_self", args{"signal": 0})
	}
}

func TestHealthPingsReplaceAWorkerThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 2, 0)
	cfg.HealthCheckInterval = 20 * time.Millisecond
	p := newPool(t, cfg)
	stopped := pids(p)[0]
	require.NoError(t, syscall.Kill(stopped, syscall.SIGSTOP))
	held := 0
	eventually(t, "the check holds the stopped one, and not for a healthy ping's moment", func() bool {
		if held++; p.sup.checkout.idleNow() == 2 {
			held = 0
		}
		return held > 50
	})
	for range 20 { // the other one serves meanwhile
		executed(t, p, "ping", nil)
	}
	eventually(t, "it is killed", func() bool { return p.Stats().WorkersExited == 1 })
	eventually(t, "it is replaced", func() bool {
		list := pids(p)
		return serving(p) && len(list) == 2 && list[0] != stopped && list[1] != stopped
	})
	assert.Zero(t, accounted(t, p).Failed)
}

// lookedAt waits until the pool itself holds an idle worker and asks it something.
func lookedAt(t *testing.T, p *Pool) {
	t.Helper()
	eventually(t, "an idle worker is looked at", func() bool {
		p.sup.checkout.mu.Lock()
		defer p.sup.checkout.mu.Unlock()
		return len(p.sup.checkout.looked) == 1
	})
}

// Two load balancers probe at once: the ping of the first one tells both.
func TestHealthCheckJoinsAPingThatIsUnderWay(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"HealthCheck", "a regular ping"} {
		for _, end := range []string{"well", "ill", "too late"} {
			t.Run(first+", "+end, func(t *testing.T) {
				t.Parallel()
				place := t.TempDir()
				hold := filepath.Join(place, "hold")
				p := newPool(t, Config{
					Script: script(t, nestedScript), Python: realPython(), Size: 1, Overflow: -1, Logger: testLogger(t), HealthCheckInterval: -1,
					ExtraEnv: []string{"PLACE=" + place}, Functions: Functions{"ask": Func(func(context.Context, string) (int, error) { return 0, nil })},
				})
				newFile(t, hold)
				probe := func(int) (Health, error) { return p.HealthCheck(context.Background()) }
				one := func() []outcomeOf[Health] { return nil }
				if first == "HealthCheck" {
					one = inBackground(1, probe)
				} else {
					p.sup.pingQuiet()
				}
				lookedAt(t, p)
				var outs []outcomeOf[Health]
				switch end {
				case "too late":
					ctx, cancel := context.WithCancel(t.Context())
					cancel() // the hung one has answered nobody yet
					h, err := p.HealthCheck(ctx)
					failure(t, err, ErrOperationTimeout)
					assert.False(t, h.Healthy)
					require.Len(t, h.Checks, 1)
					assert.ErrorIs(t, h.Checks[0].Err, context.Canceled)
					require.NoError(t, os.Remove(hold))
					outs = one()
				default:
					two := inBackground(1, probe)
					if end == "ill" {
						newFile(t, filepath.Join(place, "ill"))
					}
					require.NoError(t, os.Remove(hold))
					outs = append(one(), two()...)
				}
				for _, out := range outs {
					if end == "ill" { // who comes only now finds it gone
						assert.Error(t, out.err)
						assert.Zero(t, out.res.Responsive)
						continue
					}
					assert.NoError(t, out.err)
					assert.True(t, out.res.Healthy)
					assert.Len(t, out.res.Checks, 1)
				}
			})
		}
	}
}

func TestAWorkerLostInACallLeavesTheOthersServing(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	h := hold(t, t.Context(), p, "")
	_, err := p.ExecuteAnonymous(t.Context(), "crash", nil)
	failure(t, err, ErrWorkerExited)
	executed(t, p, "pid", nil)
	h.finish(t)
	eventually(t, "back at Size", func() bool { return serving(p) })
}

func TestSpawnsOfAScriptThatDiesAtStartAreBounded(t *testing.T) {
	t.Parallel()
	marks := filepath.Join(t.TempDir(), "starts")
	path := script(t, fmt.Sprintf("open(%q, 'a').write('x')\nraise SystemExit(3)\n", marks))
	p := newPool(t, Config{
		Script: path, Python: realPython(), Size: 3, Overflow: 2, MinReady: -1, Logger: testLogger(t), MaxRestarts: 2,
		RestartBackoff: Backoff{Min: time.Hour, Max: time.Hour},
	})
	for range 50 {
		_, err := p.ExecuteAnonymous(t.Context(), "ping", nil)
		failure(t, err, ErrCircuitOpen)
	}
	written, err := os.ReadFile(marks)
	require.NoError(t, err)
	assert.LessOrEqual(t, strings.Count(string(written), "x"), 3, "the first round, and then the delay")
}
