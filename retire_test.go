//go:build unix

package pypool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// folder is the folder that workers of health.py look into.
type folder struct {
	t   testing.TB
	dir string
}

func (p folder) put(name string) {
	p.t.Helper()
	require.NoError(p.t, os.WriteFile(filepath.Join(p.dir, name), nil, 0o600))
}

func (p folder) take(name string) {
	p.t.Helper()
	require.NoError(p.t, os.Remove(filepath.Join(p.dir, name)))
}

func (p folder) starts() int {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "starts"))
	require.NoError(p.t, err)
	return len(text)
}

func healthPool(t testing.TB, size int, change func(*Config)) (*Pool, folder) {
	t.Helper()
	at := folder{t, t.TempDir()}
	cfg := Config{
		Script: workerScript(t, "health.py"), Python: realPython(), Size: size, Overflow: -1, Logger: quiet(), ExtraEnv: []string{"PLACE=" + at.dir},
		HealthCheckInterval: -1, RestartBackoff: Backoff{Min: 5 * time.Millisecond, Max: 50 * time.Millisecond}, CheckoutTimeout: 30 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	return newPool(t, cfg), at
}

func pidNow(t testing.TB, p *Pool) int {
	t.Helper()
	return decoded[int](t, executed(t, p, "pid", nil))
}

// A CUDA context that a failed assert has taken along: whoever sent that input has the error, and
// nobody else.
func TestADeadContextHasItsWorkerReplaced(t *testing.T) {
	t.Parallel()
	logs, events := &logBuffer{}, &eventLog{}
	p, at := healthPool(t, 2, func(c *Config) {
		c.Logger, c.Observer = logs.logger(-4), &Observer{Event: events.add}
	})
	at.put("hold starts")
	_, err := p.ExecuteAnonymous(t.Context(), "poison", nil)
	const reason = "command poison raised health.DeadContext (retire_on)"
	e := failure(t, err, ErrPython)
	assert.Equal(t, Executed, e.Delivery)
	assert.Equal(t, "CUDA error: device-side assert triggered", detail[*PythonError](t, err).Message)
	assert.Contains(t, e.Message, "DeadContext: CUDA error: device-side assert triggered")
	assert.Contains(t, e.Message, "; its worker is replaced: "+reason)
	dead := e.Context.Worker

	eventually(t, "the replacement is being started", func() bool { return at.starts() == 3 })
	for i := range 40 { // four at a time: some wait for the sound one while the other one is idle
		for _, out := range inBackground(4, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "infer", args{"value": i}) })() {
			require.NoError(t, out.err, "nobody is given the dead one")
			require.NotEqual(t, dead, out.res.Worker())
		}
	}
	st := p.Stats()
	assert.Equal(t, int64(1), st.Retired)
	assert.Equal(t, 2, st.Idle+st.Busy, "make before break: it is still there")
	for _, w := range p.Workers() {
		switch {
		case w.ID == dead:
			assert.Equal(t, reason, w.Retired)
		default:
			assert.Empty(t, w.Retired)
		}
	}
	h, err := p.HealthCheck(t.Context())
	require.NoError(t, err)
	assert.False(t, h.Healthy)
	assert.Equal(t, 1, h.Responsive)
	for _, c := range h.Checks {
		if c.ID == dead {
			require.ErrorContains(t, c.Err, "worker "+dead+" has asked to be replaced: "+reason)
		}
	}

	at.take("hold starts")
	eventually(t, "it is replaced", func() bool {
		return serving(p) && !slices.ContainsFunc(p.Workers(), func(w WorkerInfo) bool { return w.ID == dead })
	})
	require.Equal(t, []int{0, 1}, slotsOf(p))
	retired := toldOf(t, events, EventWorkerRetired, 1)
	assert.Equal(t, dead, retired[0].Worker)
	assert.Equal(t, reason, retired[0].Cause)
	assert.Equal(t, "poison", retired[0].Command)
	assert.Equal(t, e.Context.RequestID, retired[0].RequestID)
	assert.Equal(t, "stopped: it had asked to be replaced: "+reason, toldOf(t, events, EventWorkerExited, 1)[0].Cause)
	record := logs.with(t, "a worker asks to be replaced")
	require.Len(t, record, 1)
	assert.Equal(t, reason, record[0]["cause"])
	assert.NotContains(t, logs.String(), "device-side assert", "no exception text in the pool's own log")
	h, err = p.HealthCheck(t.Context())
	require.NoError(t, err)
	assert.True(t, h.Healthy)
	assert.NoError(t, h.LastError)
	st = accounted(t, p)
	assert.Equal(t, int64(1), st.Failed)
	assert.Equal(t, int64(1), st.Recycled)
}

// The only worker serves on until its replacement is ready.
func TestTheOnlyWorkerServesOnUntilItsReplacementIsReady(t *testing.T) {
	t.Parallel()
	for _, breakFirst := range []bool{false, true} {
		p, at := healthPool(t, 1, func(c *Config) { c.BreakBeforeMake = breakFirst })
		before := pidNow(t, p)
		at.put("hold starts")
		executed(t, p, "leave", nil)
		eventually(t, "the replacement is being started", func() bool { return at.starts() == 2 })
		if !breakFirst {
			for range 20 {
				require.Equal(t, before, pidNow(t, p))
			}
		}
		at.take("hold starts")
		eventually(t, "the new one serves", func() bool { return pidNow(t, p) != before })
		eventually(t, "alone", func() bool { return serving(p) })
		require.Zero(t, accounted(t, p).Failed)
	}
}

// Whatever kind of call it is in which a worker asks: the answers are what they are, and each such
// worker is replaced once.
func TestRetireLeavesTheAnswersAsTheyAre(t *testing.T) {
	t.Parallel()
	events := &eventLog{}
	p, _ := healthPool(t, 1, func(c *Config) { c.Breaker.Failures, c.Observer = -1, &Observer{Event: events.add} })
	python := func(err error, text string) {
		t.Helper()
		require.ErrorIs(t, err, ErrPython)
		require.ErrorContains(t, err, text)
	}
	for n, c := range []struct {
		name   string
		call   func(t *testing.T)
		reason string
	}{
		{"a call", func(t *testing.T) {
			got := decoded[[]any](t, executed(t, p, "leave", args{"reason": "100 % of \"it\"\nis broken é", "size": 10}))
			require.Equal(t, "xxxxxxxxxx", got[1])
		}, `100 % of "it"\nis broken é`},
		{"a large result", func(t *testing.T) {
			got := decoded[[]any](t, executed(t, p, "leave", args{"size": 3 << 20}))
			require.Len(t, got[1], 3<<20)
		}, "it has leaked too much"},
		{"a payload", func(t *testing.T) {
			got, err := Call[[]byte](t.Context(), p, "leave_bytes", args{"size": 1 << 20})
			require.NoError(t, err)
			require.Len(t, got, 1<<20)
		}, "with a payload"},
		{"an exception", func(t *testing.T) {
			_, err := p.ExecuteAnonymous(t.Context(), "leave_and_fail", nil)
			python(err, "of the call itself")
			require.ErrorContains(t, err, "; its worker is replaced: nothing works")
		}, "nothing works"},
		{"a thread", func(t *testing.T) { executed(t, p, "leave_in_a_thread", nil) }, "said in a thread"},
		{"a stream", func(t *testing.T) {
			var got []int
			for item, err := range Each[int](t.Context(), p, "items", args{"n": 7}) {
				require.NoError(t, err)
				got = append(got, item)
			}
			require.Equal(t, upTo(7), got)
		}, "in the midst of a stream"},
		{"a stream that is left", func(t *testing.T) {
			for item, err := range Each[int](t.Context(), p, "items", args{"n": 1000}) {
				require.NoError(t, err)
				if item == 600 {
					break
				}
			}
		}, "in the midst of a stream"},
		{"a stream that fails", func(t *testing.T) {
			var last error
			for _, err := range Each[int](t.Context(), p, "broken_items", nil) {
				last = err
			}
			python(last, "in a stream")
		}, "command broken_items raised health.DeadContext (retire_on)"},
		{"a batch", func(t *testing.T) {
			h := inBackground(6, func(i int) (Result, error) {
				return p.ExecuteAnonymous(context.Background(), "batch", args{"value": i + 1 - 7*(i/5)})
			})
			for i, out := range h() {
				if i == 5 {
					python(out.err, "of one")
				} else {
					require.NoError(t, out.err)
					require.Equal(t, i+1, decoded[int](t, out.res))
				}
			}
		}, "command batch raised health.DeadContext (retire_on)"},
		{"a batch that fails", func(t *testing.T) {
			for _, out := range inBackground(4, func(i int) (Result, error) {
				return p.ExecuteAnonymous(context.Background(), "batch", args{"value": 0})
			})() {
				python(out.err, "of the batch")
			}
		}, "command batch raised health.DeadContext (retire_on)"},
		{"concurrent calls", func(t *testing.T) {
			for i, out := range inBackground(8, func(i int) (Result, error) {
				return p.ExecuteAnonymous(context.Background(), "beside", args{"value": i - 3})
			})() {
				if i < 3 {
					python(out.err, "beside others")
				} else {
					require.NoError(t, out.err)
					require.Equal(t, i-3, decoded[int](t, out.res))
				}
			}
		}, "command beside raised health.DeadContext (retire_on)"},
		{"a thread of concurrent calls", func(t *testing.T) {
			for i, out := range inBackground(8, func(i int) (Result, error) {
				return p.ExecuteAnonymous(context.Background(), "beside_leave", args{"value": i})
			})() {
				require.NoError(t, out.err)
				require.Equal(t, i, decoded[int](t, out.res))
			}
		}, "said beside others"},
		{"a program", func(t *testing.T) {
			_, err := p.ExecuteProgram(t.Context(), "doomed", nil)
			python(err, "MemoryError")
		}, "program doomed raised MemoryError (retire_on)"},
		{"a Map", func(t *testing.T) {
			n := 0
			for got, err := range Map[[]any](t.Context(), p, "leave", slices.Values(make([]args, 40))) {
				require.NoError(t, err)
				require.Equal(t, "", got[1])
				n++
			}
			require.Equal(t, 40, n)
		}, "it has leaked too much"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := p.Stats().Retired
			first := p.Workers()[0].ID
			c.call(t)
			eventually(t, "it is replaced", func() bool { return serving(p) && p.Workers()[0].ID != first && p.Workers()[0].Retired == "" })
			require.Greater(t, p.Stats().Retired, before, "row %d", n)
			eventually(t, "the reason is told", func() bool {
				told := events.of(EventWorkerRetired)
				return len(told) > 0 && told[len(told)-1].Cause == c.reason
			})
			require.Positive(t, pidNow(t, p)) // it serves well
		})
	}
	accounted(t, p)
}

// What is refused, or is no JSON, the handler has not raised.
func TestOnlyWhatAHandlerRaisesRetiresItsWorker(t *testing.T) {
	t.Parallel()
	p, _ := healthPool(t, 1, nil)
	for range 2 { // the first call of a command goes another way
		_, err := p.ExecuteAnonymous(t.Context(), "strict", nil)
		require.ErrorIs(t, err, ErrInvalidArguments)
		_, err = p.ExecuteAnonymous(t.Context(), "strict", args{"value": 1})
		require.ErrorIs(t, err, ErrInvalidResult)
		_, err = p.ExecuteAnonymous(t.Context(), "strict", args{"valu": 1})
		require.ErrorIs(t, err, ErrInvalidArguments)
	}
	require.Zero(t, p.Stats().Retired)
	_, err := p.ExecuteAnonymous(t.Context(), "strict", args{"value": 0})
	require.ErrorIs(t, err, ErrPython)
	require.Equal(t, int64(1), p.Stats().Retired)
}

// Between two calls nobody hears it: the next answer tells, or the next ping.
func TestWhatIsSaidBetweenTwoCallsIsHeard(t *testing.T) {
	t.Parallel()
	said := func(at folder) bool { _, err := os.Stat(filepath.Join(at.dir, "said")); return err == nil }
	for _, by := range []string{"a call", "a ping", "HealthCheck"} {
		p, at := healthPool(t, 1, func(c *Config) {
			if by == "a ping" {
				c.HealthCheckInterval = 20 * time.Millisecond
			}
		})
		at.put("in the call")
		before := decoded[int](t, executed(t, p, "leave_later", nil))
		at.take("in the call")
		eventually(t, "it is said", func() bool { return said(at) })
		switch by {
		case "a call":
			require.Equal(t, before, pidNow(t, p))
		case "HealthCheck":
			_, err := p.HealthCheck(t.Context())
			require.ErrorIs(t, err, ErrWorkerStart)
			require.ErrorContains(t, err, "said between two calls")
		}
		eventually(t, "it is replaced", func() bool { return serving(p) && pids(p)[0] != before })
		require.Equal(t, int64(1), p.Stats().Retired)
		require.Zero(t, accounted(t, p).Failed)
	}
}

// --- health -------------------------------------------------------------------------------------------------------------

// The pings of workers that are idle, and of those that never are.
func TestHealthIsAskedWhetherIdleOrBusy(t *testing.T) {
	t.Parallel()
	for _, callers := range []int{0, 8} {
		p, at := healthPool(t, 2, func(c *Config) { c.HealthCheckInterval = 20 * time.Millisecond })
		before := pids(p)
		stop := traffic(t, p, callers, "pid", nil)
		at.put("device lost")
		eventually(t, "both have said so", func() bool { return p.Stats().Retired >= 2 })
		at.take("device lost")
		eventually(t, "both are replaced", func() bool {
			now := pids(p)
			return len(now) == 2 && !slices.Contains(before, now[0]) && !slices.Contains(before, now[1]) && p.Stats().Breaker == "closed"
		})
		for _, err := range stop() { // while no replacement would start the circuit may have been open
			require.ErrorIs(t, err, ErrCircuitOpen)
		}
	}
}

func TestHealthCheckAsksForHealth(t *testing.T) {
	t.Parallel()
	p, at := healthPool(t, 2, nil)
	at.put("hold starts")
	at.put("device lost")
	h, err := p.HealthCheck(t.Context())
	e := failure(t, err, ErrWorkerStart)
	assert.Contains(t, e.Message, "no worker is fit to serve")
	assert.Contains(t, e.Message, "@health device_answers: DeadContext: the device is lost")
	assert.False(t, h.Healthy)
	assert.Zero(t, h.Responsive)
	for _, c := range h.Checks {
		assert.Equal(t, "@health device_answers: DeadContext: the device is lost", c.Retired)
		require.Error(t, c.Err)
	}
	at.take("device lost")
	at.take("hold starts")
	eventually(t, "the replacements are healthy", func() bool { h, err := p.HealthCheck(t.Context()); return err == nil && h.Healthy })
	assert.Equal(t, int64(2), p.Stats().Retired)
}

// A worker that is unfit from the beginning does not become ready.
func TestAnUnhealthyWorkerDoesNotStart(t *testing.T) {
	t.Parallel()
	at := folder{t, t.TempDir()}
	at.put("device lost")
	cfg := Config{Script: workerScript(t, "health.py"), Python: realPython(), Size: 1, Overflow: -1, Logger: quiet(), ExtraEnv: []string{"PLACE=" + at.dir}}
	_, err := New(t.Context(), cfg)
	e := failure(t, err, ErrWorkerStart)
	assert.Equal(t, "health", detail[*StartError](t, err).Stage)
	assert.Equal(t, "DeadContext", detail[*PythonError](t, err).Type)
	assert.Contains(t, e.Message, "the device is lost")

	cfg.Script, cfg.ExtraEnv = script(t, "import pypool\npypool.retire('no device')\n"), nil
	_, err = New(t.Context(), cfg)
	require.ErrorIs(t, err, ErrWorkerStart)
	require.ErrorContains(t, err, "it has asked to be replaced while it started: no device")
	cfg.Script = script(t, "from pypool import health\n@health\ndef fit(): return False\n")
	_, err = New(t.Context(), cfg)
	require.ErrorContains(t, err, "fit() has returned False")
	cfg.Script = script(t, "from pypool import health\n@health\nasync def fit():\n    import asyncio\n    await asyncio.sleep(0)\n    raise OSError('gone')\n")
	_, err = New(t.Context(), cfg)
	require.ErrorContains(t, err, "OSError: gone")
}

// When all are broken and no replacement starts, the circuit says so: no storm of starts, and calls
// fail at once with the reason, until the cause has ended.
func TestEveryWorkerUnhealthyIsNoRestartStorm(t *testing.T) {
	t.Parallel()
	p, at := healthPool(t, 2, func(c *Config) {
		c.MaxRestarts, c.RestartBackoff, c.HealthCheckInterval = 3, Backoff{Min: 10 * time.Millisecond, Max: 200 * time.Millisecond}, 20*time.Millisecond
	})
	at.put("device lost")
	eventually(t, "the circuit is open", func() bool { return p.Stats().Breaker == "open" })
	_, err := p.ExecuteAnonymous(t.Context(), "infer", nil)
	e := failure(t, err, ErrCircuitOpen)
	assert.Equal(t, NotExecuted, e.Delivery)
	assert.Contains(t, e.Message, "the device is lost")
	_, err = p.HealthCheck(t.Context())
	require.ErrorIs(t, err, ErrCircuitOpen)
	before, begun := at.starts(), time.Now()
	time.Sleep(time.Second)
	assert.LessOrEqual(t, at.starts()-before, 3+int(time.Since(begun)/(100*time.Millisecond)), "one at a time, each after a delay")
	at.take("device lost")
	eventually(t, "it heals by itself", func() bool { return serving(p) })
	executed(t, p, "infer", nil)
}

// Workers that start well, and whose first call has them retire, each time.
func TestACommandThatRetiresEveryWorkerIsNoRestartStorm(t *testing.T) {
	t.Parallel()
	call := func(p *Pool) error { _, err := p.ExecuteAnonymous(context.Background(), "poison", nil); return err }
	t.Run("the pool's circuit", func(t *testing.T) {
		t.Parallel()
		p, at := healthPool(t, 2, func(c *Config) {
			c.Breaker.Failures, c.MaxRestarts, c.RestartBackoff = -1, 3, Backoff{Min: 20 * time.Millisecond, Max: 400 * time.Millisecond}
		})
		var last error
		eventually(t, "the pool's circuit refuses the call", func() bool { last = call(p); return errors.Is(last, ErrCircuitOpen) })
		circuit := detail[*CircuitError](t, last)
		assert.Empty(t, circuit.Command)
		assert.ErrorContains(t, circuit.Cause, "has asked to be replaced: command poison raised health.DeadContext (retire_on)")
		assert.NotContains(t, last.Error(), "device-side assert", "that was another's call")
		before, begun := at.starts(), time.Now()
		for time.Since(begun) < time.Second {
			if err := call(p); !errors.Is(err, ErrPython) {
				require.ErrorIs(t, err, ErrCircuitOpen)
			}
			time.Sleep(time.Millisecond)
		}
		assert.LessOrEqual(t, at.starts()-before, 12, "each slot waits longer from start to start")
		eventually(t, "it serves others when the poison has ended", func() bool {
			res, err := p.ExecuteAnonymous(t.Context(), "infer", args{"value": 5})
			return err == nil && decoded[int](t, res) == 5
		})
	})
	t.Run("the command's circuit", func(t *testing.T) {
		t.Parallel()
		p, at := healthPool(t, 1, func(c *Config) { c.Breaker = Breaker{Failures: 3, OpenFor: time.Hour} })
		var last error
		eventually(t, "the command's circuit refuses the call", func() bool {
			executed(t, p, "pid", nil) // others are served well in between, so the pool's has nothing to say
			last = call(p)
			return errors.Is(last, ErrCircuitOpen)
		})
		circuit := detail[*CircuitError](t, last)
		assert.Equal(t, "poison", circuit.Command)
		assert.ErrorContains(t, circuit.Cause, "a worker has asked to be replaced: command poison raised health.DeadContext (retire_on)")
		assert.NotContains(t, last.Error(), "device-side assert")
		eventually(t, "a sound worker serves", func() bool { return serving(p) && p.Workers()[0].Retired == "" })
		assert.LessOrEqual(t, at.starts(), 1+3)
		for i := range 20 {
			require.Equal(t, i, decoded[int](t, executed(t, p, "infer", args{"value": i})))
		}
		assert.Equal(t, "closed", p.Stats().Breaker)
	})
}

// The circuit says when the first of the slots is tried again, whichever kind of start of no use it
// waits after.
func TestACircuitSaysWhenItsSlotsAreTriedAgain(t *testing.T) {
	t.Parallel()
	p, _ := healthPool(t, 2, func(c *Config) {
		c.Breaker.Failures, c.MaxRestarts, c.RestartBackoff = -1, 2, Backoff{Min: time.Hour, Max: time.Hour}
	})
	for p.Stats().Breaker != circuitOpen {
		_, err := p.ExecuteAnonymous(t.Context(), "poison", nil)
		require.Error(t, err)
	}
	_, err := p.ExecuteAnonymous(t.Context(), "pid", nil)
	told := detail[*CircuitError](t, err).RetryAt
	assert.WithinRange(t, told, time.Now().Add(45*time.Minute), time.Now().Add(75*time.Minute))
	assert.Equal(t, told, p.Circuits()[0].RetryAt)
}

// Who asks to be replaced after each call, all of them answered well, is replaced after each.
func TestAWorkerMayRetireAfterEachCall(t *testing.T) {
	t.Parallel()
	p, at := healthPool(t, 1, nil)
	seen := map[string]bool{}
	for i := range 8 {
		seen[fmt.Sprint(decoded[[]any](t, executed(t, p, "leave", nil))[0])] = true
		eventually(t, "the next one is there", func() bool { return at.starts() == i+2 && serving(p) && p.Workers()[0].Retired == "" })
	}
	require.Len(t, seen, 8)
	require.Equal(t, "closed", p.Stats().Breaker)
	require.Zero(t, accounted(t, p).Failed)
}

// --- against the clock --------------------------------------------------------------------------------------------------

// A slot whose workers are of no use waits for itself; the others are replaced at once.
func TestASlotThatIsOfNoUseDelaysNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var bad atomic.Int64 // spawns of the broken slot
		cfg := f.config(3)
		cfg.WorkerEnv = func(slot int) []string { return []string{fmt.Sprint("SLOT=", slot)} }
		cfg.RestartBackoff = Backoff{Min: time.Second, Max: time.Minute}
		cfg.MaxRestarts = 1000
		f.setup = func(p *fakeProcess) {
			if slices.Contains(p.env, "SLOT=2") {
				bad.Add(1)
			}
		}
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command != "work" || !slices.Contains(p.env, "SLOT=2") {
				return false
			}
			p.say(fmt.Sprintf(`{"id":%d,"retire":"no device"}`+"\n", req.ID))
			p.say(fmt.Sprintf(`{"id":%d,"success":false,"error":{"kind":"python_exception","type":"E","module":"m","message":"x","traceback":"","notes":[]}}`+"\n", req.ID))
			return true
		}
		p := open(t, cfg)
		defer p.Close()
		for range 600 { // each second three calls, of which one is slot 2's if it takes any
			for _, out := range inBackground(3, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "work", nil) })() {
				if out.err != nil {
					require.ErrorIs(t, out.err, ErrPython)
				}
			}
			time.Sleep(time.Second)
		}
		require.Greater(t, bad.Load(), int64(8))
		require.Less(t, bad.Load(), int64(30), "1 s, 2 s, 4 s, and so on, up to a minute")
		for _, w := range p.sup.workers() {
			if w.slot == 0 {
				w.proc.(*fakeProcess).killed()
			}
		}
		time.Sleep(10 * time.Millisecond)
		require.True(t, slices.ContainsFunc(p.Workers(), func(w WorkerInfo) bool { return w.Slot == 0 && w.State == workerIdle }), "at once")
		require.Equal(t, "closed", p.Stats().Breaker)
	})
}
