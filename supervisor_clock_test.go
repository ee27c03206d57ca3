package pypool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Supervision against the clock: scripted processes in a bubble, where hours pass in no time.

// bubble runs f with a fleet in a bubble; what f opens it must close.
func bubble(t *testing.T, f func(t *testing.T, fl *fleet)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { f(t, &fleet{}) })
}

// open is New inside a bubble.
func open(t *testing.T, cfg Config) *Pool {
	p, err := New(t.Context(), cfg)
	require.NoError(t, err)
	return p
}

func broken(int) error { return errors.New("no such interpreter any more") }

// failsWhile has the fleet's starts fail while failing is set.
func failsWhile(f *fleet) (failing *atomic.Bool) {
	failing = &atomic.Bool{}
	f.fails = func(int) error {
		if failing.Load() {
			return broken(0)
		}
		return nil
	}
	return failing
}

func TestFailingStartsBackOffExponentiallyUpToTheMaximum(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.fails = broken
		cfg := f.config(1)
		cfg.MinReady, cfg.MaxRestarts = -1, 1000
		cfg.RestartBackoff = Backoff{Min: 100 * time.Millisecond, Max: time.Second}
		p := open(t, cfg)
		defer p.Close()
		time.Sleep(time.Minute)
		at := f.spawned()
		require.Greater(t, len(at), 10)
		for i, want := range []time.Duration{100, 200, 400, 800, 1000, 1000, 1000} {
			want *= time.Millisecond
			gap := at[i+1].Sub(at[i])
			assert.InDelta(t, want.Seconds(), gap.Seconds(), 0.21*want.Seconds(), "gap %d", i)
		}
		assert.Less(t, len(at), 80, "about one a second")
	})
}

func TestADegradedStartBackoffBeginsAnewAfterAReadyWorker(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		failing := failsWhile(f)
		cfg := f.config(1)
		cfg.RestartBackoff, cfg.MaxRestarts = Backoff{Min: 100 * time.Millisecond, Max: time.Hour}, 1000
		p := open(t, cfg)
		defer p.Close()
		for range 2 {
			failing.Store(true)
			before := len(f.spawned())
			f.alive()[0].killed()
			time.Sleep(5 * time.Second)
			failing.Store(false)
			time.Sleep(10 * time.Second)
			assert.True(t, serving(p))
			at := f.spawned()[before:]
			assert.InDelta(t, 0.1, at[1].Sub(at[0]).Seconds(), 0.021, "the first delay is the shortest, each time")
		}
	})
}

func TestTheOpenCircuitProbesWithOneStartAtATimeAndCallersStayRefused(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var probing atomic.Bool
		failing := failsWhile(f)
		failing.Store(true)
		gate := make(chan struct{})
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "hello" && probing.Load() {
				<-gate
			}
			return false
		}
		cfg := f.config(3)
		cfg.MinReady, cfg.MaxRestarts = -1, 4
		cfg.RestartBackoff = Backoff{Min: 100 * time.Millisecond, Max: time.Second}
		p := open(t, cfg)
		defer p.Close()
		time.Sleep(10 * time.Second)
		assert.Equal(t, "open", p.Stats().Breaker)
		_, err := p.ExecuteAnonymous(t.Context(), "work", nil)
		failure(t, err, ErrCircuitOpen)
		assert.Contains(t, err.Error(), "no such interpreter any more")
		circuit := detail[*CircuitError](t, err)
		assert.WithinDuration(t, time.Now(), circuit.RetryAt, 2*time.Second)

		failing.Store(false)
		probing.Store(true)
		time.Sleep(5 * time.Second)
		assert.Len(t, f.alive(), 1, "one probe, not three")
		assert.Equal(t, "half-open", p.Stats().Breaker)
		for range 10 {
			_, err := p.ExecuteAnonymous(t.Context(), "work", nil)
			failure(t, err, ErrCircuitOpen)
		}
		probing.Store(false)
		close(gate)
		time.Sleep(time.Millisecond)
		assert.Equal(t, "closed", p.Stats().Breaker, "the first ready worker ends it")
		executed(t, p, "work", nil)
		time.Sleep(time.Second)
		assert.True(t, serving(p))
	})
}

func TestSpawnsOfAnOpenCircuitAreBoundedForHours(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.fails = broken
		cfg := f.config(8)
		cfg.MinReady = -1
		p := open(t, cfg)
		defer p.Close()
		time.Sleep(time.Hour)
		assert.LessOrEqual(t, len(f.spawned()), 8+8+int(time.Hour/(24*time.Second)), "one probe each 30 s, a fifth of jitter")
		assert.GreaterOrEqual(t, len(f.spawned()), 50, "but it goes on trying")
	})
}

func TestFailuresOlderThanTheWindowDoNotOpenTheCircuit(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.fails = broken
		cfg := f.config(1)
		cfg.MinReady, cfg.MaxRestarts, cfg.RestartWindow, cfg.StartTimeout = -1, 3, time.Second, 100*time.Millisecond
		cfg.RestartBackoff = Backoff{Min: 10 * time.Second, Max: 10 * time.Second}
		p := open(t, cfg)
		defer p.Close()
		time.Sleep(5 * time.Minute)
		assert.Equal(t, "closed", p.Stats().Breaker, "each failure is alone in its window")
	})
}

func TestAStartTimeoutWithoutEndKeepsTheWindowOpen(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.fails = broken
		cfg := f.config(1)
		cfg.MinReady, cfg.MaxRestarts, cfg.RestartWindow, cfg.StartTimeout = -1, 5, time.Second, math.MaxInt64
		cfg.RestartBackoff = Backoff{Min: 10 * time.Second, Max: 10 * time.Second}
		p := open(t, cfg)
		defer p.Close()
		time.Sleep(5 * time.Minute)
		synctest.Wait() // a probe may begin in this instant
		assert.Equal(t, "open", p.Stats().Breaker, "no start can have taken too long")
	})
}

func TestReplacementsThatKeepDyingIdleBackOff(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "ping" {
				p.reply(req.ID, `{"status":"ok"}`)
				p.pause(time.Millisecond)
				p.killed()
				return true
			}
			return false
		}
		cfg := f.config(2)
		cfg.MinReady = -1
		p := open(t, cfg)
		defer p.Close()
		time.Sleep(10 * time.Minute)
		assert.Less(t, len(f.spawned()), 200, "no spin")
		assert.Greater(t, len(f.spawned()), 10, "it goes on")
	})
}

func TestAWorkerKilledIdleIsReplacedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		p := open(t, f.config(2))
		defer p.Close()
		time.Sleep(time.Minute)
		before := time.Now()
		f.alive()[0].killed()
		synctest.Wait()
		for !serving(p) {
			time.Sleep(100 * time.Microsecond)
		}
		assert.Less(t, time.Since(before), 10*time.Millisecond, "no delay")
	})
}

func TestIdleWorkersArePingedEachIntervalAndThoseInUseAreLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var pings atomic.Int64
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			switch req.Command {
			case "ping":
				pings.Add(1)
			case "long":
				p.pause(95 * time.Second)
			}
			return false
		}
		cfg := f.config(2)
		cfg.HealthCheckInterval = 10 * time.Second
		p := open(t, cfg)
		defer p.Close()
		atStart := pings.Load()
		long := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "long", nil) })
		time.Sleep(95 * time.Second)
		synctest.Wait()
		assert.InDelta(t, 9, pings.Load()-atStart, 1, "one idle worker, nine intervals")
		require.NoError(t, long()[0].err)
		assert.Len(t, f.spawned(), 2)
	})
}

func TestAWorkerThatDoesNotAnswerItsPingIsReplacedWithoutHoldingUpCallers(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var deaf atomic.Bool
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			return deaf.Load() && p.n == 1 && p.hang()
		}
		cfg := f.config(2)
		cfg.HealthCheckInterval = time.Second
		p := open(t, cfg)
		defer p.Close()
		deaf.Store(true)
		time.Sleep(2500 * time.Millisecond) // its ping is under way, for five seconds
		for range 10 {
			begun := time.Now()
			executed(t, p, "work", nil)
			assert.Less(t, time.Since(begun), 10*time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		assert.True(t, serving(p))
		assert.Len(t, f.spawned(), 3)
		for _, w := range f.alive() {
			assert.NotEqual(t, 1, w.n)
		}
	})
}

func TestOverflowRetiresAfterItsIdleTimeAndNotBefore(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "work" {
				p.pause(time.Second)
			}
			return false
		}
		cfg := f.config(1)
		cfg.Overflow = 2
		p := open(t, cfg)
		defer p.Close()
		for _, out := range inBackground(3, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "work", nil) })() {
			require.NoError(t, out.err)
		}
		assert.Len(t, f.alive(), 3)
		time.Sleep(29 * time.Second)
		assert.Len(t, f.alive(), 3)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Len(t, f.alive(), 1)
		time.Sleep(time.Hour)
		assert.Len(t, f.alive(), 1, "Size is never reaped for idleness")
		assert.Equal(t, 1, p.Stats().Idle)
	})
}

func TestACommandsCircuitLetsOneProbeInAfterOpenForAndClosesOnAnAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var poisoned atomic.Bool
		poisoned.Store(true)
		var ran atomic.Int64
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command != "poison" {
				return false
			}
			ran.Add(1)
			p.pause(time.Second)
			if poisoned.Load() {
				p.killed()
				return true
			}
			return false
		}
		cfg := f.config(4)
		cfg.Breaker = Breaker{Failures: 2, OpenFor: 10 * time.Second}
		p := open(t, cfg)
		defer p.Close()
		call := func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "poison", nil) }
		for i := range 2 {
			_, err := call(i)
			failure(t, err, ErrWorkerExited)
		}
		_, err := call(0)
		failure(t, err, ErrCircuitOpen)
		assert.WithinDuration(t, time.Now().Add(10*time.Second), detail[*CircuitError](t, err).RetryAt, time.Second)
		time.Sleep(11 * time.Second)
		ran.Store(0)
		refused := 0
		for _, out := range inBackground(4, call)() { // all at once: one is the probe
			if errors.Is(out.err, ErrCircuitOpen) {
				refused++
			} else {
				failure(t, out.err, ErrWorkerExited)
			}
		}
		assert.Equal(t, 3, refused)
		assert.Equal(t, int64(1), ran.Load())
		_, err = call(0)
		failure(t, err, ErrCircuitOpen)

		time.Sleep(11 * time.Second)
		poisoned.Store(false)
		_, err = call(0)
		require.NoError(t, err, "the probe")
		for _, out := range inBackground(4, call)() {
			require.NoError(t, out.err)
		}
	})
}

func TestACanceledProbeLetsTheNextCallProbe(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var poisoned atomic.Bool
		poisoned.Store(true)
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command != "poison" {
				return false
			}
			if poisoned.Load() {
				p.killed()
				return true
			}
			p.pause(time.Second)
			return false
		}
		cfg := f.config(1)
		cfg.Breaker = Breaker{Failures: 1, OpenFor: 10 * time.Second}
		p := open(t, cfg)
		defer p.Close()
		_, err := p.ExecuteAnonymous(t.Context(), "poison", nil)
		failure(t, err, ErrWorkerExited)
		time.Sleep(11 * time.Second)
		poisoned.Store(false)
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, err = p.ExecuteAnonymous(ctx, "poison", nil, WithCheckoutTimeout(time.Minute))
			cancel()
			e := detail[*Error](t, err)
			if e.Type == TypeOperationTimeout {
				break // a deadline is the command's own loss
			}
		}
		time.Sleep(11 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		_, err = p.ExecuteAnonymous(ctx, "poison", nil)
		failure(t, err, ErrCanceled)
		_, err = p.ExecuteAnonymous(t.Context(), "poison", nil)
		require.NoError(t, err, "a cancellation says nothing about the command: the next one probes")
	})
}

func TestACommandThatHangsForLongerThanOpenForOpensItsCircuitAllTheSame(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool { return req.Command == "hang" && p.hang() }
		cfg := f.config(2)
		cfg.OperationTimeout = time.Minute
		cfg.Breaker = Breaker{Failures: 3, OpenFor: 10 * time.Second}
		p := open(t, cfg)
		defer p.Close()
		call := func() error { _, err := p.ExecuteAnonymous(t.Context(), "hang", nil); return err }
		for range 3 {
			failure(t, call(), ErrOperationTimeout)
		}
		failure(t, call(), ErrCircuitOpen)
		time.Sleep(11 * time.Second)
		failure(t, call(), ErrOperationTimeout) // the probe, a minute long
		failure(t, call(), ErrCircuitOpen)
	})
}

func TestAQuietCircuitIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "crash" {
				p.killed()
				return true
			}
			return false
		}
		cfg := f.config(1)
		cfg.Breaker = Breaker{Failures: 3, OpenFor: time.Second}
		p := open(t, cfg)
		defer p.Close()
		for range 10 {
			_, err := p.ExecuteAnonymous(t.Context(), "crash", nil)
			failure(t, err, ErrWorkerExited)
			time.Sleep(10 * time.Second) // one loss now and then is no row of losses
		}
	})
}

func TestTheErrorRateForgetsWhatIsOlderThanItsWindow(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "crash" {
				p.killed()
				return true
			}
			return false
		}
		alerts := make(chan ErrorRateAlert, 10)
		cfg := f.config(1)
		cfg.Breaker.Failures = -1
		cfg.ErrorRate = ErrorRate{Window: time.Minute, MinCalls: 4, Func: func(a ErrorRateAlert) { alerts <- a }}
		p := open(t, cfg)
		defer p.Close()
		crash := func() { _, err := p.ExecuteAnonymous(t.Context(), "crash", nil); failure(t, err, ErrWorkerExited) }
		for range 3 {
			crash()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		assert.Empty(t, alerts, "fewer than MinCalls")
		crash()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Len(t, alerts, 1)
		assert.True(t, (<-alerts).Above)
		assert.Equal(t, 1.0, p.Stats().ErrorRate)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.Empty(t, alerts, "once, not each time it looks")
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Len(t, alerts, 1)
		assert.False(t, (<-alerts).Above, "the window has slid past")
		assert.Zero(t, p.Stats().ErrorRate)
	})
}

func TestNewReturnsOnlyAfterThePingIsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		gate := make(chan struct{})
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "ping" {
				<-gate
			}
			return false
		}
		opened := make(chan *Pool)
		go func() { opened <- open(t, f.config(1)) }()
		time.Sleep(10 * time.Second) // hello is answered long since
		select {
		case <-opened:
			t.Fatal("New has returned a pool whose worker has not answered a ping")
		default:
		}
		close(gate)
		p := <-opened
		assert.Equal(t, 1, p.Stats().Idle)
		require.NoError(t, p.Close())
	})
}

func TestAPingThatIsAnsweredWrongFailsTheStart(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "ping" {
				p.reply(req.ID, `{"status":"tired"}`)
				return true
			}
			return false
		}
		_, err := New(t.Context(), f.config(1))
		failure(t, err, ErrWorkerStart)
		assert.Equal(t, "ping", detail[*StartError](t, err).Stage)
		assert.Contains(t, err.Error(), "tired")
		assert.Empty(t, f.alive())
	})
}

func TestAVersionMismatchNamesBothAndTheSideToUpdate(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		for answer, want := range map[string]string{
			`{"protocol":2,"runtime":"9.0.0"}`: "Go module",
			`{"protocol":1,"runtime":"0.0.1"}`: "0.0.1",
		} {
			f.script = func(p *fakeProcess, req fakeRequest) bool { p.reply(req.ID, answer); return true }
			_, err := New(t.Context(), f.config(1))
			failure(t, err, ErrWorkerStart)
			assert.Contains(t, err.Error(), want)
		}
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			p.say(fmt.Sprintf(`{"id":%d,"success":false,"error":{"kind":"protocol_mismatch","message":"m","supported":[7]}}`+"\n", req.ID))
			return true
		}
		_, err := New(t.Context(), f.config(1))
		failure(t, err, ErrWorkerStart)
		assert.Contains(t, err.Error(), "protocol 7")
		assert.Contains(t, err.Error(), "Go module")
	})
}

// A pool that is degraded already and loses its last worker is a total outage: whoever alerts on
// Warn is to hear of it.
func TestThePoolWarnsOfEachStateThatIsWorse(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		failing := failsWhile(f)
		var logs logBuffer
		cfg := f.config(2)
		cfg.Logger = logs.logger(slog.LevelDebug)
		cfg.RestartBackoff = Backoff{Min: time.Second, Max: time.Second}
		p := open(t, cfg)
		defer p.Close()
		synctest.Wait() // it has said that it serves
		failing.Store(true)
		for range 2 {
			f.alive()[0].killed()
			time.Sleep(10 * time.Second)
		}
		failing.Store(false)
		time.Sleep(10 * time.Second)
		var told []string
		for _, r := range logs.records(t) {
			if msg, is := strings.CutPrefix(r["msg"].(string), "the pool is "); is {
				told = append(told, r["level"].(string)+" "+msg)
			}
		}
		assert.Equal(t, []string{"DEBUG serving", "WARN degraded", "WARN unavailable", "INFO degraded", "INFO serving"}, told)
	})
}

// A look that comes due while another is under way is part of that one: who has joined the first
// learns of its end.
func TestALookThatComesDueDuringAnotherKeepsNobodyWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			switch req.Command {
			case "hello":
				p.reply(req.ID, `{"protocol":1,"runtime":"`+Version+`","python":"3.99.0","commands":["work"],"capabilities":["page"],"health":true}`)
				return true
			case "ping":
				p.pause(time.Second)
			}
			return false
		}
		cfg := f.config(1)
		cfg.HealthCheckInterval = -1
		p := open(t, cfg)
		defer p.Close()
		probes := inBackground(2, func(i int) (Health, error) {
			time.Sleep(time.Duration(i) * 100 * time.Millisecond)
			return p.HealthCheck(context.Background())
		})
		time.Sleep(200 * time.Millisecond)
		p.sup.pingQuiet() // finds the worker looked at
		for _, out := range probes() {
			require.NoError(t, out.err)
			require.Len(t, out.res.Checks, 1)
			require.True(t, out.res.Checks[0].Responsive)
		}
	})
}
