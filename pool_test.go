//go:build unix

package pypool

import (
	"context"
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// The 26 cases of the seed's pool tests, in Go terms; 12 to 16 and 26 are in sessions_test.go.

func TestSeed01NewWithOnlyAScriptReportsItsSizeAndNoSessions(t *testing.T) {
	p := newPool(t, Config{Script: workerScript(t, "core.py")})
	st := p.Stats()
	assert.Positive(t, st.Workers)
	assert.Equal(t, st.Size, st.Workers)
	assert.GreaterOrEqual(t, st.MaxSize, st.Size)
	assert.Zero(t, st.Sessions)
	assert.Positive(t, st.Uptime)
}

func TestSeed02SizeAndOverflowRunAtOnceAndTheNextCallWaits(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 1)
	st := p.Stats()
	assert.Equal(t, 2, st.Size)
	assert.Equal(t, 1, st.Overflow)
	assert.Equal(t, 3, st.MaxSize)

	a, b, c := hold(t, t.Context(), p, ""), hold(t, t.Context(), p, ""), hold(t, t.Context(), p, "")
	d := queueHold(t, t.Context(), p, "")
	eventually(t, "the fourth waits", func() bool { return p.Stats().Waiting == 1 })
	st = p.Stats()
	assert.Equal(t, 3, st.Busy)
	assert.Equal(t, 3, st.Workers)
	assert.Equal(t, int64(4), st.InFlight)
	assert.False(t, d.started(), "no more than Size + Overflow handlers run")

	freed := a.finish(t)
	d.awaitStart(t)
	served := map[int]bool{b.finish(t): true, c.finish(t): true}
	last := d.finish(t)
	assert.Equal(t, freed, last, "the fourth call got the worker that fell free")
	assert.Len(t, served, 2)
	accounted(t, p)
}

func TestSeed03NamesTellPoolsApartInErrorsAndLogs(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"alpha", "beta"} {
		log := &logBuffer{}
		cfg := coreConfig(t, 1, 0)
		cfg.Name, cfg.Logger = name, log.logger(slog.LevelDebug)
		p := newPool(t, cfg)
		_, err := p.ExecuteAnonymous(t.Context(), "crash", nil)
		assert.Equal(t, name, failure(t, err, ErrWorkerExited).Context.Pool)
		require.NoError(t, p.Close())
		records := log.records(t)
		require.NotEmpty(t, records)
		for _, r := range records {
			assert.Equal(t, name, r["pool"], "record %v", r)
		}
	}
}

func TestSeed04ACallInASessionIsTracked(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	res, err := p.ExecuteInSession(t.Context(), "user-42", "ping", nil)
	require.NoError(t, err)
	assert.Equal(t, "ok", decoded[map[string]any](t, res)["status"])
	list := p.Sessions()
	require.Len(t, list, 1)
	assert.Equal(t, "user-42", list[0].ID)
	assert.Equal(t, int64(1), list[0].Operations)
}

func TestSeed05CheckoutTimeoutInASessionCarriesPoolAndSession(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.Name, cfg.CheckoutTimeout = "busy", time.Millisecond
	p := newPool(t, cfg)
	h := hold(t, t.Context(), p, "")
	_, err := p.ExecuteInSession(t.Context(), "late", "pid", nil)
	e := failure(t, err, ErrCheckoutTimeout)
	assert.Equal(t, "busy", e.Context.Pool)
	assert.Equal(t, "late", e.Context.Session)
	assert.Equal(t, NotExecuted, e.Delivery)
	h.finish(t)
}

func TestSeed06ACallInASessionOnAClosedPoolFailsWithThePoolsName(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	require.NoError(t, p.Close())
	_, err := p.ExecuteInSession(t.Context(), "s", "ping", nil)
	e := failure(t, err, ErrPoolClosed)
	assert.Equal(t, "pypool", e.Context.Pool)
	assert.Equal(t, "s", e.Context.Session)
	assert.True(t, SafeToRetry(err))
}

func TestSeed06APoolThatNeverStartedFailsEachCallAndClosesWithoutPanic(t *testing.T) {
	for _, p := range []*Pool{nil, {}} {
		_, err := p.ExecuteInSession(t.Context(), "s", "ping", nil)
		e := failure(t, err, ErrPoolClosed)
		assert.Equal(t, "s", e.Context.Session)
		assert.Equal(t, "ping", e.Context.Command)
		_, err = p.ExecuteProgram(t.Context(), "double", nil)
		failure(t, err, ErrPoolClosed)
		_, err = p.ExecuteInSession(t.Context(), "", "ping", nil)
		failure(t, err, ErrPoolClosed)
		_, err = Call[int](t.Context(), p, "ping", nil)
		failure(t, err, ErrPoolClosed)
		_, err = p.HealthCheck(t.Context())
		failure(t, err, ErrPoolClosed)
		assert.NoError(t, p.Shutdown(t.Context()))
		assert.NoError(t, p.Close())
	}
}

func TestSeed07PythonSeesTheSessionID(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	res, err := p.ExecuteInSession(t.Context(), "user-7 é", "echo_meta", nil)
	require.NoError(t, err)
	assert.Equal(t, "user-7 é", decoded[map[string]any](t, res)["session_id"])
}

func TestSeed08AnAnonymousCallCreatesNoSession(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	assert.Equal(t, "ok", decoded[map[string]any](t, executed(t, p, "ping", nil))["status"])
	assert.Empty(t, p.Sessions())
	assert.Zero(t, p.Stats().Sessions)
}

func TestSeed09CheckoutTimeoutOfAnAnonymousCallHasNoSession(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.Name, cfg.CheckoutTimeout = "busy", time.Millisecond
	p := newPool(t, cfg)
	h := hold(t, t.Context(), p, "")
	_, err := p.ExecuteAnonymous(t.Context(), "pid", nil)
	e := failure(t, err, ErrCheckoutTimeout)
	assert.Equal(t, "busy", e.Context.Pool)
	assert.Empty(t, e.Context.Session)
	h.finish(t)
}

func TestSeed10AnAnonymousCallOnAClosedPoolFails(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	require.NoError(t, p.Close())
	_, err := p.ExecuteAnonymous(t.Context(), "ping", nil)
	e := failure(t, err, ErrPoolClosed)
	assert.Equal(t, "pypool", e.Context.Pool)
	assert.Empty(t, e.Context.Session)
}

func TestSeed11AnAnonymousCallSendsNoSessionID(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	meta := decoded[map[string]any](t, executed(t, p, "echo_meta", nil))
	assert.Nil(t, meta["session_id"])
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{}
		p, err := New(t.Context(), f.config(1))
		require.NoError(t, err)
		defer p.Close()
		executed(t, p, "work", nil)
		lines := f.alive()[0].lines()
		assert.NotContains(t, lines[len(lines)-1], "session_id", "absent, not empty and not a word for nobody")
		assert.NotContains(t, lines[len(lines)-1], "anonymous")
	})
}

func TestSeed17HealthCheckIsATrueRoundTripAndFailsWhenNoWorkerAnswers(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	calls := func() (n int) { // as Python itself has counted them
		for range 2 {
			res, err := p.ExecuteAnonymous(t.Context(), "get_stats", nil)
			require.NoError(t, err)
			n = max(n, int(decoded[map[string]any](t, res)["calls"].(float64)))
		}
		return n
	}
	before := calls()
	const checks = 10
	for range checks {
		h, err := p.HealthCheck(t.Context())
		require.NoError(t, err)
		assert.True(t, h.Healthy)
		assert.Equal(t, 2, h.Responsive)
		for _, c := range h.Checks {
			assert.True(t, c.Responsive)
			assert.Positive(t, c.RTT)
			assert.NoError(t, c.Err)
		}
	}
	assert.GreaterOrEqual(t, calls(), before+checks, "Python has answered each ping")

	for _, pid := range pids(p) {
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	h, err := p.HealthCheck(ctx)
	require.Error(t, err)
	assert.Equal(t, "pypool", detail[*Error](t, err).Context.Pool)
	assert.False(t, h.Healthy)
	assert.Zero(t, h.Responsive)
	assert.Len(t, h.Checks, 2)
}

func TestSeed18ManySessionsOverTwoWorkersUseBoth(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	a := hold(t, t.Context(), p, "s0") // one worker is busy: the other serves
	seen := map[int]bool{}
	for i := 1; i < 5; i++ {
		res, err := p.ExecuteInSession(t.Context(), fmt.Sprint("s", i), "pid", nil)
		require.NoError(t, err)
		seen[decoded[int](t, res)] = true
	}
	seen[a.finish(t)] = true
	assert.Len(t, seen, 2)
	assert.Len(t, p.Sessions(), 5)
}

func TestSeed19OneSessionIsServedByMoreThanOneWorker(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	seen := map[int]bool{}
	for range 10 {
		a, b := hold(t, t.Context(), p, "s"), hold(t, t.Context(), p, "s")
		seen[a.finish(t)] = true
		seen[b.finish(t)] = true
	}
	assert.Len(t, seen, 2, "there is no affinity")
	info, ok := p.Session("s")
	require.True(t, ok)
	assert.Equal(t, int64(20), info.Operations)
}

func TestSeed20OperationsOfASessionAreCountedExactly(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	call := func(int) (Result, error) { return p.ExecuteInSession(t.Context(), "s", "pid", nil) }
	for _, out := range inBackground(3, call)() {
		require.NoError(t, out.err)
	}
	for i := range 3 {
		_, err := call(i)
		require.NoError(t, err)
	}
	info, ok := p.Session("s")
	require.True(t, ok)
	assert.Equal(t, int64(6), info.Operations)
	assert.Zero(t, info.Errors)
}

func TestSeed21EachFailureClassHasItsCategory(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.OperationTimeout, cfg.MaxQueue = time.Minute, 1
	p := newPool(t, cfg)
	got := map[Category]ErrorType{}
	provoke := func(_ Result, err error) {
		e := detail[*Error](t, err)
		got[e.Category] = e.Type
	}
	executed(t, p, "list_commands", nil) // loads what sabotage breaks
	executed(t, p, "sabotage", nil)
	provoke(p.ExecuteAnonymous(t.Context(), "list_commands", nil))
	provoke(p.ExecuteAnonymous(t.Context(), "busy_loop_of_the_test", nil, WithTimeout(50*time.Millisecond)))
	provoke(p.ExecuteAnonymous(t.Context(), "crash", nil))
	h := hold(t, t.Context(), p, "")
	q := queueHold(t, t.Context(), p, "")
	eventually(t, "the queue is full", func() bool { return p.Stats().Waiting == 1 })
	provoke(p.ExecuteAnonymous(t.Context(), "pid", nil))
	h.finish(t)
	q.finish(t)
	assert.Equal(t, map[Category]ErrorType{
		CategorySystem: TypeInternal, CategoryTimeout: TypeOperationTimeout, CategoryCommunication: TypeWorkerExited, CategoryResource: TypeQueueFull,
	}, got)
}

func TestSeed22TheErrorOfAClosedPoolTellsPoolAndCommandAndNoWorker(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.Name = "closed-one"
	p := newPool(t, cfg)
	require.NoError(t, p.Close())
	_, err := p.ExecuteInSession(t.Context(), "s", "summarize", nil)
	e := failure(t, err, ErrPoolClosed)
	assert.Equal(t, "closed-one", e.Context.Pool)
	assert.Equal(t, "summarize", e.Context.Command)
	assert.Equal(t, "s", e.Context.Session)
	assert.Empty(t, e.Context.Worker)
	assert.Zero(t, e.Context.PID)
	assert.NotZero(t, e.Context.RequestID)
	assert.Equal(t, "pypool: pool_not_available: summarize: the pool is closed", e.Error())
}

func TestSeed23FiftyGoroutinesInSessionsOnThreeWorkersAllSucceed(t *testing.T) {
	t.Parallel()
	p := corePool(t, 3, 0)
	for i, out := range inBackground(50, func(i int) (Result, error) {
		return p.ExecuteInSession(t.Context(), fmt.Sprint("s", i%10), "echo", args{"value": i})
	})() {
		require.NoError(t, out.err)
		assert.Equal(t, i, decoded[int](t, out.res))
	}
	st := accounted(t, p)
	assert.Equal(t, int64(50), st.Succeeded)
	assert.Equal(t, 10, st.Sessions)
}

func TestSeed24MixedSessionAndAnonymousCallsCountTheSessionsExactly(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	for i, out := range inBackground(40, func(i int) (Result, error) {
		if i%2 == 0 {
			return p.ExecuteAnonymous(t.Context(), "echo", args{"value": i})
		}
		return p.ExecuteInSession(t.Context(), fmt.Sprint("s", i%8), "echo", args{"value": i})
	})() {
		require.NoError(t, out.err)
		assert.Equal(t, i, decoded[int](t, out.res))
	}
	assert.Equal(t, 4, p.Stats().Sessions)
	var ops int64
	for _, s := range p.Sessions() {
		ops += s.Operations
	}
	assert.Equal(t, int64(20), ops)
}

func TestSeed25ShutdownLeavesNoProcessAndNoGoroutine(t *testing.T) {
	fds := openFDs(t)
	before := goleak.IgnoreCurrent()
	cfg := coreConfig(t, 3, 0)
	p, err := New(t.Context(), cfg)
	require.NoError(t, err)
	for _, out := range inBackground(9, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "pid", nil) })() {
		require.NoError(t, out.err)
	}
	list := pids(p)
	require.Len(t, list, 3)
	require.NoError(t, p.Shutdown(t.Context()))
	for _, pid := range list {
		assert.False(t, processExists(pid))
	}
	_, err = p.ExecuteAnonymous(t.Context(), "ping", nil)
	failure(t, err, ErrPoolClosed)
	assert.Empty(t, p.Workers())
	st := accounted(t, p)
	assert.Equal(t, st.WorkersStarted, st.WorkersExited)
	goleak.VerifyNone(t, before)
	assert.LessOrEqual(t, openFDs(t), fds)
}

func TestCoreEndToEndThroughEveryLayer(t *testing.T) {
	t.Parallel()
	var events eventLog
	var calls callLog
	log := &logBuffer{}
	cfg := coreConfig(t, 2, 0)
	cfg.Name, cfg.Logger, cfg.Observer = "whole", log.logger(slog.LevelDebug), calls.observer()
	cfg.Observer.Event = events.add
	p := newPool(t, cfg)

	commands, err := p.Commands(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, commands)
	health, err := p.HealthCheck(t.Context())
	require.NoError(t, err)
	require.True(t, health.Healthy)

	sum, err := Call[int](t.Context(), p, "add", args{"a": 40, "b": 2}, WithSession("user-1"))
	require.NoError(t, err)
	assert.Equal(t, 42, sum)
	res, err := p.ExecuteProgram(t.Context(), "double", args{"x": sum}, WithSession("user-1"))
	require.NoError(t, err)
	assert.Equal(t, 84, decoded[int](t, res))
	_, err = p.ExecuteInSession(t.Context(), "user-2", "fail", args{"message": "no"})
	failure(t, err, ErrPython)
	_, err = p.ExecuteInSession(t.Context(), "user-2", "crash", nil)
	failure(t, err, ErrWorkerExited)
	_, err = p.ExecuteAnonymous(t.Context(), "busy_loop_of_the_test", nil, WithTimeout(50*time.Millisecond))
	failure(t, err, ErrOperationTimeout)
	for i, out := range inBackground(12, func(i int) (Result, error) {
		return p.ExecuteInSession(t.Context(), "user-3", "echo", args{"value": i})
	})() {
		require.NoError(t, out.err)
		assert.Equal(t, i, decoded[int](t, out.res))
	}
	eventually(t, "whole again", func() bool { st := p.Stats(); return st.Idle >= st.Size && st.WorkersExited == 1 })

	st := accounted(t, p)
	assert.Equal(t, int64(1+2+3+12), st.Started)
	assert.Equal(t, map[ErrorType]int64{TypePython: 1, TypeWorkerExited: 1, TypeOperationTimeout: 1}, st.ByType)
	assert.Equal(t, 3, st.Sessions)
	user2, ok := p.Session("user-2")
	require.True(t, ok)
	assert.Equal(t, int64(2), user2.Operations)
	assert.Equal(t, int64(2), user2.Errors)
	require.NoError(t, p.Shutdown(t.Context()))

	starts, ends := calls.count()
	assert.Equal(t, int64(starts), st.Started)
	assert.Equal(t, starts, ends)
	started := p.Stats().WorkersStarted
	assert.Len(t, events.of(EventWorkerStarted), int(started))
	assert.Len(t, events.of(EventWorkerExited), int(started))
	assert.Len(t, log.with(t, "call failed"), 2, "the infrastructure's two")
}
