package pypool

import (
	"context"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type contextKey struct{}

// callLog is an Observer's CallStart and CallEnd that pair up through the context.
type callLog struct {
	mu     sync.Mutex // guards the maps
	starts map[uint64]CallInfo
	ends   map[uint64]CallOutcome
	wrong  []string
}

func (l *callLog) observer() *Observer {
	l.starts, l.ends = map[uint64]CallInfo{}, map[uint64]CallOutcome{}
	return &Observer{
		CallStart: func(ctx context.Context, c CallInfo) context.Context {
			l.mu.Lock()
			defer l.mu.Unlock()
			if _, twice := l.starts[c.RequestID]; twice {
				l.wrong = append(l.wrong, "started twice")
			}
			l.starts[c.RequestID] = c
			return context.WithValue(ctx, contextKey{}, c.RequestID)
		},
		CallEnd: func(ctx context.Context, c CallInfo, o CallOutcome) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if ctx.Value(contextKey{}) != c.RequestID {
				l.wrong = append(l.wrong, "CallEnd has not the context of CallStart")
			}
			if _, twice := l.ends[c.RequestID]; twice {
				l.wrong = append(l.wrong, "ended twice")
			}
			l.ends[c.RequestID] = o
		},
	}
}

func (l *callLog) count() (starts, ends int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.starts), len(l.ends)
}

func TestCoreTheObserverSeesEachCallStartAndEndExactlyOnce(t *testing.T) {
	t.Parallel()
	var log callLog
	cfg := coreConfig(t, 2, 0)
	cfg.Observer, cfg.MaxMessageBytes = log.observer(), 4096
	p := newPool(t, cfg)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	calls := []func() (Result, error){
		func() (Result, error) { return p.ExecuteInSession(t.Context(), "s", "pid", nil) },
		func() (Result, error) { return p.ExecuteInSession(t.Context(), "bad\n", "pid", nil) },
		func() (Result, error) { return p.ExecuteAnonymous(t.Context(), "pid", nil, WithSession("x")) },
		func() (Result, error) { return p.ExecuteAnonymous(t.Context(), "pid", make(chan int)) },
		func() (Result, error) { return p.ExecuteAnonymous(t.Context(), "pid", 7) },
		func() (Result, error) { return p.ExecuteAnonymous(t.Context(), "fail", args{"message": "x"}) },
		func() (Result, error) { return p.ExecuteAnonymous(t.Context(), "nobody", nil) },
		func() (Result, error) { return p.ExecuteAnonymous(t.Context(), "hello", nil) },
		func() (Result, error) { return p.ExecuteAnonymous(t.Context(), "crash", nil) },
		func() (Result, error) { return p.ExecuteAnonymous(canceled, "pid", nil) },
		func() (Result, error) { return p.ExecuteAnonymous(t.Context(), "big", args{"n": 10000}) },
		func() (Result, error) {
			return p.ExecuteAnonymous(t.Context(), "busy_loop_of_the_test", nil, WithTimeout(30*time.Millisecond))
		},
		func() (Result, error) { return p.ExecuteProgram(t.Context(), "double", args{"x": 2}) },
		func() (Result, error) { return p.ExecuteProgram(t.Context(), "", nil) },
		func() (Result, error) { _, err := Call[string](t.Context(), p, "pid", nil); return Result{}, err },
	}
	for _, call := range calls {
		_, _ = call()
	}
	require.NoError(t, p.Close())
	_, _ = p.ExecuteAnonymous(t.Context(), "pid", nil)
	starts, ends := log.count()
	assert.Equal(t, len(calls)+1, starts)
	assert.Equal(t, starts, ends)
	assert.Empty(t, log.wrong)
	assert.Equal(t, int64(starts), accounted(t, p).Started)
}

func TestTheObserverIsToldWhoServedTheCallAndHowItEnded(t *testing.T) {
	t.Parallel()
	var log callLog
	cfg := coreConfig(t, 1, 0)
	cfg.Name, cfg.Observer = "watched", log.observer()
	p := newPool(t, cfg)
	h := hold(t, t.Context(), p, "first")
	second := queueHold(t, t.Context(), p, "second")
	eventually(t, "the second waits", func() bool { return p.Stats().Waiting == 1 })
	h.finish(t)
	second.awaitStart(t)
	pid := second.finish(t)
	_, err := p.ExecuteProgram(t.Context(), "poison", nil, WithSession("third"))
	e := failure(t, err, ErrWorkerExited)

	bySession := map[string]uint64{}
	for id, c := range log.starts {
		bySession[c.Session] = id
		assert.Equal(t, "watched", c.Pool)
	}
	out := log.ends[bySession["second"]]
	assert.Equal(t, pid, out.PID)
	assert.Equal(t, "w1", out.Worker)
	assert.Positive(t, out.Queued)
	assert.Positive(t, out.Ran)
	assert.NoError(t, out.Err)
	info, out := log.starts[bySession["third"]], log.ends[bySession["third"]]
	assert.Equal(t, "execute_program", info.Command)
	assert.Equal(t, "poison", info.Program)
	assert.Equal(t, e.Context.RequestID, info.RequestID)
	assert.Same(t, e, out.Err, "the caller's own error")
	assert.Equal(t, e.Context.PID, out.PID)
}

func TestTheContextOfCallStartIsTheOneTheCallRunsWith(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.Observer = &Observer{CallStart: func(ctx context.Context, c CallInfo) context.Context {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		return ctx
	}}
	p := newPool(t, cfg)
	_, err := p.ExecuteAnonymous(t.Context(), "pid", nil)
	failure(t, err, ErrCanceled)
}

func TestEventsTellTheStoryOfThePoolInOrderWithIDs(t *testing.T) {
	t.Parallel()
	var log eventLog
	cfg := coreConfig(t, 1, 0)
	cfg.Name, cfg.Observer = "told", &Observer{Event: log.add}
	p := newPool(t, cfg)
	old := pids(p)[0]
	_, err := p.ExecuteInSession(t.Context(), "s", "crash", args{"code": 3})
	e := failure(t, err, ErrWorkerExited)
	eventually(t, "replaced", func() bool { return serving(p) })
	p.EndSession("s")
	require.NoError(t, p.Shutdown(t.Context()))

	for _, ev := range log.events {
		assert.Equal(t, "told", ev.Pool)
		assert.False(t, ev.Time.IsZero())
	}
	started := log.of(EventWorkerStarted)
	require.Len(t, started, 2)
	assert.Equal(t, "w1", started[0].Worker)
	assert.Equal(t, old, started[0].PID)
	assert.Equal(t, "w2", started[1].Worker)
	exited := log.of(EventWorkerExited)
	require.Len(t, exited, 2)
	assert.Equal(t, old, exited[0].PID)
	assert.Equal(t, "exited with code 3", exited[0].Cause)
	assert.Equal(t, 3, detail[*ExitError](t, exited[0].Err).Code)
	assert.Equal(t, "crash", exited[0].Command)
	assert.Equal(t, "s", exited[0].Session)
	assert.Equal(t, e.Context.RequestID, exited[0].RequestID)
	assert.Equal(t, "stopped", exited[1].Cause)
	assert.NoError(t, exited[1].Err)
	ended := log.of(EventSessionEnded)
	require.Len(t, ended, 1)
	assert.Equal(t, "s", ended[0].Session)
	assert.Equal(t, sessionEnded, ended[0].Cause)
	var states []string
	for _, ev := range log.of(EventPoolState) {
		states = append(states, ev.State)
	}
	assert.Equal(t, "serving", states[0], "%v", states)
	assert.Equal(t, []string{"closing", "closed"}, states[len(states)-2:])
	var order []EventKind
	for _, ev := range log.events {
		if ev.Worker == "w1" {
			order = append(order, ev.Kind)
		}
	}
	assert.Equal(t, []EventKind{EventWorkerStarted, EventWorkerExited}, order)
}

func TestLogRecordsOfACallCarrySessionRequestAndWorker(t *testing.T) {
	t.Parallel()
	log := &logBuffer{}
	cfg := coreConfig(t, 1, 0)
	cfg.Logger = log.logger(slog.LevelDebug)
	p := newPool(t, cfg)
	worker := p.Workers()[0]
	res, err := p.ExecuteInSession(t.Context(), "user-42", "log", args{"message": "from Python's logging"})
	require.NoError(t, err)
	_, err = p.ExecuteInSession(t.Context(), "user-43", "crash", nil)
	e := failure(t, err, ErrWorkerExited)
	require.NoError(t, p.Shutdown(t.Context()))

	assert.Equal(t, worker.ID, res.Worker())
	for msg, session := range map[string]string{"from Python's logging": "user-42", "call failed": "user-43", "worker exited": "user-43"} {
		records := log.with(t, msg)
		require.Len(t, records, 1, msg)
		r := records[0]
		assert.Equal(t, session, r["session"], msg)
		assert.Equal(t, worker.ID, r["worker"], msg)
		assert.EqualValues(t, worker.PID, r["pid"], msg)
		assert.NotZero(t, r["request"], msg)
		if session == "user-43" {
			assert.EqualValues(t, e.Context.RequestID, r["request"], msg)
		}
	}
	record := log.with(t, "from Python's logging")[0]
	assert.Equal(t, "WARN", record["level"])
	assert.Equal(t, "core.test", record["logger"])
}

func TestNoArgumentOrResultIsEverLogged(t *testing.T) {
	t.Parallel()
	const secret = "sentinel-8f3a"
	log := &logBuffer{}
	cfg := coreConfig(t, 1, 0)
	cfg.Logger, cfg.MaxMessageBytes = log.logger(slog.LevelDebug-4), 4096
	p := newPool(t, cfg)
	executed(t, p, "echo", args{"value": secret})
	for _, call := range []struct {
		command string
		args    any
		opts    []CallOption
		want    error
	}{
		{"add", args{"a": 1, "b": 2, secret: 3}, nil, ErrInvalidArguments},
		{"busy_loop_of_the_test", args{"x": secret}, nil, ErrInvalidArguments},
		{"fail", args{"message": secret}, nil, ErrPython},
		{"crash", args{"code": secret}, nil, ErrPython}, // not an integer
		{"echo", args{"value": []any{secret, "\xff"}}, nil, ErrInvalidArguments},
		{"echo", args{"value": secret + strings.Repeat("x", 5000)}, nil, ErrMessageTooLarge},
		{"hold", args{"gate": "/dev/zero", "mark": "/dev/null/" + secret}, nil, ErrPython},
		{"noise", args{"text": secret + "\n"}, nil, ErrProtocol},
	} {
		_, err := p.ExecuteAnonymous(t.Context(), call.command, call.args, call.opts...)
		require.ErrorIs(t, err, call.want, call.command)
	}
	require.NoError(t, p.Shutdown(t.Context()))
	require.NotEmpty(t, log.records(t))
	assert.NotContains(t, log.String(), secret)
}

func TestErrorRateAlertsWhenItCrossesTheThresholdBothWays(t *testing.T) {
	t.Parallel()
	alerts := make(chan ErrorRateAlert, 10)
	cfg := coreConfig(t, 1, 0)
	cfg.Name, cfg.Breaker.Failures = "rated", -1
	cfg.ErrorRate = ErrorRate{Window: 20 * time.Second, Threshold: 0.4, MinCalls: 5, Func: func(a ErrorRateAlert) { alerts <- a }}
	p := newPool(t, cfg)
	for range 5 { // exceptions are no failures of the infrastructure
		_, err := p.ExecuteAnonymous(t.Context(), "fail", args{"message": "x"})
		require.ErrorIs(t, err, ErrPython)
	}
	assert.Zero(t, p.Stats().ErrorRate)
	for len(alerts) == 0 {
		_, err := p.ExecuteAnonymous(t.Context(), "crash", nil)
		require.ErrorIs(t, err, ErrWorkerExited)
	}
	up := <-alerts
	assert.True(t, up.Above)
	assert.Equal(t, "rated", up.Pool)
	assert.GreaterOrEqual(t, up.Rate, 0.4)
	assert.Equal(t, 0.4, up.Threshold)
	assert.GreaterOrEqual(t, up.Calls, int64(5))
	assert.InDelta(t, float64(up.Failures)/float64(up.Calls), up.Rate, 1e-9)
	assert.Equal(t, 20*time.Second, up.Window)
	for len(alerts) == 0 {
		executed(t, p, "pid", nil)
	}
	down := <-alerts
	assert.False(t, down.Above)
	assert.Less(t, down.Rate, 0.4)
	assert.Empty(t, alerts)
}

func TestAPanickingObserverOrMarshalerCountsTheCallAndLeaksNoWorker(t *testing.T) {
	t.Parallel()
	var ends atomic.Int64
	cfg := coreConfig(t, 1, 0)
	cfg.Observer = &Observer{CallEnd: func(context.Context, CallInfo, CallOutcome) { ends.Add(1) }}
	p := newPool(t, cfg)
	assert.PanicsWithValue(t, "the caller's own", func() {
		_, _ = p.ExecuteAnonymous(t.Context(), "pid", panics{})
	})
	assert.Equal(t, int64(1), ends.Load())
	st := accounted(t, p)
	assert.Equal(t, map[ErrorType]int64{TypeInternal: 1}, st.ByType)
	executed(t, p, "pid", nil)
	assert.Equal(t, 1, p.Stats().Idle)
}

type panics struct{}

func (panics) MarshalJSON() ([]byte, error) { panic("the caller's own") }

// What an observer hears of the items of a Map adds up to what their handlers took.
func TestObserversHearHowLongTheItemsOfAMapRan(t *testing.T) {
	var ran []time.Duration
	var mu sync.Mutex
	p := newPool(t, Config{Size: 1, Overflow: -1, Script: script(t, `
import time
from pypool import command
@command
def nap(): time.sleep(0.05)
@command(max_batch_size=4)
def naps(xs): time.sleep(0.05); return xs
`), Observer: &Observer{CallEnd: func(_ context.Context, _ CallInfo, o CallOutcome) {
		mu.Lock()
		defer mu.Unlock()
		ran = append(ran, o.Ran)
	}}})
	for command, items := range map[string]iter.Seq[[]any]{"nap": slices.Values([][]any{{}, {}, {}}), "naps": slices.Values([][]any{{1}, {2}, {3}})} {
		ran = nil
		for _, err := range Map[any](t.Context(), p, command, items) {
			require.NoError(t, err)
		}
		var sum time.Duration
		for _, d := range ran {
			require.Positive(t, d)
			sum += d
		}
		require.Len(t, ran, 3)
		require.GreaterOrEqual(t, sum, map[string]time.Duration{"nap": 150 * time.Millisecond, "naps": 50 * time.Millisecond}[command]-time.Millisecond)
	}
}
