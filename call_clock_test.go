package pypool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Calls against the clock, and the end of the pool in each of their phases.

func TestWaitersAreServedInTheOrderOfTheirArrival(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var mu sync.Mutex
		var order []string
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "work" {
				mu.Lock()
				order = append(order, string(req.Args))
				mu.Unlock()
				p.pause(time.Second)
			}
			return false
		}
		p := open(t, f.config(1))
		defer p.Close()
		var wg sync.WaitGroup
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprintf(`[%d]`, i))
			wg.Go(func() {
				_, err := p.ExecuteAnonymous(t.Context(), "work", []int{i})
				assert.NoError(t, err)
			})
			time.Sleep(time.Millisecond) // it stands in the queue now
		}
		wg.Wait()
		assert.Equal(t, want, order)
	})
}

func TestACanceledWaiterLeavesTheQueueAndTheOthersKeepTheirOrder(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var order []string
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "work" {
				order = append(order, string(req.Args)) // one process: one goroutine
				p.pause(time.Second)
			}
			return false
		}
		p := open(t, f.config(1))
		defer p.Close()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				c := t.Context()
				if i%2 == 1 {
					c = ctx
				}
				_, err := p.ExecuteAnonymous(c, "work", []int{i})
				assert.Equal(t, i%2 == 1, errors.Is(err, ErrCanceled))
			})
			time.Sleep(time.Millisecond)
		}
		cancel()
		wg.Wait()
		assert.Equal(t, []string{"[0]", "[2]", "[4]"}, order)
		assert.Zero(t, p.Stats().Waiting)
	})
}

func TestTheCheckoutTimeoutIsExactAndItsClockIsTheQueues(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool { return req.Command == "hang" && p.hang() }
		cfg := f.config(1)
		cfg.CheckoutTimeout, cfg.OperationTimeout = 3*time.Second, time.Hour
		p := open(t, cfg)
		defer p.Close()
		go p.ExecuteAnonymous(t.Context(), "hang", nil) //nolint:errcheck // ends with the pool
		time.Sleep(time.Second)
		begun := time.Now()
		_, err := p.ExecuteAnonymous(t.Context(), "work", nil)
		failure(t, err, ErrCheckoutTimeout)
		assert.Equal(t, 3*time.Second, time.Since(begun))
		assert.Contains(t, err.Error(), "3s")
		_, err = p.ExecuteAnonymous(t.Context(), "work", nil, WithCheckoutTimeout(time.Second))
		assert.Equal(t, time.Second, failure(t, err, ErrCheckoutTimeout).Context.Elapsed)
	})
}

func TestTheOperationTimeoutBeginsWithTheRunAndTheCallReturnsByKillGrace(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.setup = func(p *fakeProcess) { p.dumpTakes = time.Hour } // Python does not even answer the signal
		f.script = func(p *fakeProcess, req fakeRequest) bool { return req.Command == "hang" && p.hang() }
		cfg := f.config(1)
		cfg.OperationTimeout, cfg.KillGrace = 10*time.Second, 250*time.Millisecond
		p := open(t, cfg)
		defer p.Close()
		outs := inBackground(2, func(int) (Result, error) {
			begun := time.Now()
			res, err := p.ExecuteAnonymous(t.Context(), "hang", nil)
			e := failure(t, err, ErrOperationTimeout)
			assert.Equal(t, e.Context.Elapsed.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
			return res, err
		})()
		short := min(detail[*Error](t, outs[0].err).Context.Elapsed, detail[*Error](t, outs[1].err).Context.Elapsed)
		long := max(detail[*Error](t, outs[0].err).Context.Elapsed, detail[*Error](t, outs[1].err).Context.Elapsed)
		assert.GreaterOrEqual(t, short, 10*time.Second)
		assert.LessOrEqual(t, short, 10*time.Second+250*time.Millisecond)
		assert.GreaterOrEqual(t, long, 20*time.Second, "the second's clock began when it had a worker")
		assert.LessOrEqual(t, long, 20*time.Second+time.Second)
	})
}

func TestPythonIsToldWhatIsLeftOfTheTime(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var told []int64
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "work" {
				left := int64(-1)
				if req.Timeout != nil {
					left = *req.Timeout
				}
				told = append(told, left)
			}
			return false
		}
		p := open(t, f.config(1))
		defer p.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		for _, call := range []struct {
			ctx     context.Context
			timeout time.Duration
		}{{t.Context(), time.Minute}, {ctx, time.Minute}, {ctx, time.Second}, {t.Context(), 0}} {
			_, err := p.ExecuteAnonymous(call.ctx, "work", nil, WithTimeout(call.timeout))
			require.NoError(t, err)
		}
		assert.InDeltaSlice(t, []int64{60_000, 7_000, 1_000, -1}, told, 1)
	})
}

func TestAnAnswerOfTheSameInstantAsTheDeadlineWinsAndKeepsTheWorker(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "work" {
				p.pipe.mu.Lock()
				p.pipe.atDeadline = fmt.Appendf(nil, `{"id":%d,"success":true,"result":"just in time"}`+"\n", req.ID)
				p.pipe.mu.Unlock()
				return true
			}
			return false
		}
		p := open(t, f.config(1))
		defer p.Close()
		for range 3 {
			res, err := p.ExecuteAnonymous(t.Context(), "work", nil, WithTimeout(time.Second))
			require.NoError(t, err)
			assert.Equal(t, "just in time", decoded[string](t, res))
		}
		assert.Len(t, f.spawned(), 1)
	})
}

func TestARaceOfAnswerAndDeadlineHasOneOutcomeAndTheNextCallItsOwnAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "work" {
				p.pause(time.Second) // until exactly the deadline
				p.reply(req.ID, string(req.Args))
				return true
			}
			return false
		}
		cfg := f.config(1)
		cfg.Breaker.Failures = -1
		p := open(t, cfg)
		defer p.Close()
		for i := range 60 {
			res, err := p.ExecuteAnonymous(t.Context(), "work", []int{i}, WithTimeout(time.Second))
			if err != nil {
				failure(t, err, ErrOperationTimeout)
			} else {
				assert.Equal(t, []int{i}, decoded[[]int](t, res))
			}
		}
		time.Sleep(time.Minute)
		st := accounted(t, p)
		assert.Equal(t, 1+st.ByType[TypeOperationTimeout], st.WorkersStarted, "each timeout cost one worker, and nothing else did")
	})
}

func TestAContextThatEndedBeforehandCostsNoWorkerAndIsCounted(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		p := open(t, f.config(1))
		defer p.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 10 {
			_, err := p.ExecuteAnonymous(ctx, "work", nil)
			assert.Equal(t, NotExecuted, failure(t, err, ErrCanceled).Delivery)
		}
		assert.Len(t, f.alive()[0].lines(), 2, "hello and ping, nothing else")
		assert.Equal(t, int64(10), accounted(t, p).ByType[TypeCanceled])
	})
}

func TestAWorkerThatDiedBeforeItBeganTheRequestIsWorthAnotherTry(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "work" && p.n == 1 {
				p.mu.Lock()
				p.left = len(req.line) + 1 // the runtime died before it read it
				p.mu.Unlock()
				p.killed()
				return true
			}
			return false
		}
		p := open(t, f.config(2))
		defer p.Close()
		for range 4 {
			executed(t, p, "work", nil)
		}
		assert.Zero(t, accounted(t, p).Failed)
	})
}

func TestARequestIsNeverRepeatedOnceItMayHaveBegun(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var ran atomic.Int64
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "work" {
				ran.Add(1)
				p.killed()
				return true
			}
			return false
		}
		p := open(t, f.config(3))
		defer p.Close()
		_, err := p.ExecuteAnonymous(t.Context(), "work", nil)
		assert.Equal(t, MaybeExecuted, failure(t, err, ErrWorkerExited).Delivery)
		assert.False(t, SafeToRetry(err))
		assert.Equal(t, int64(1), ran.Load())
	})
}

// The end of the channel comes first. On a busy machine the exit may take longer than the call can
// wait.
func TestAWorkerThatTakesLongToExitIsNotSaidToGoOn(t *testing.T) {
	for _, ending := range []bool{false, true} {
		t.Run(fmt.Sprint("ending ", ending), func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				f.script = func(p *fakeProcess, req fakeRequest) bool {
					if req.Command == "work" && p.n == 1 {
						p.slowExit = ending
						p.pipe.put(nil, true)
						return p.hang()
					}
					return false
				}
				p := open(t, f.config(1))
				defer p.Close()
				_, err := p.ExecuteAnonymous(t.Context(), "work", nil)
				if ending {
					assert.Equal(t, MaybeExecuted, failure(t, err, ErrWorkerExited).Delivery)
				} else {
					assert.ErrorContains(t, failure(t, err, ErrProtocol), "closed its channel and went on")
				}
				executed(t, p, "work", nil)
			})
		})
	}
}

func TestAnAnswerToAnotherRequestDestroysTheWorker(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "work" {
				p.reply(req.ID-1, `"yesterday's"`)
				return true
			}
			return false
		}
		p := open(t, f.config(1))
		defer p.Close()
		_, err := p.ExecuteAnonymous(t.Context(), "work", nil)
		failure(t, err, ErrProtocol)
		time.Sleep(time.Second)
		assert.Equal(t, 2, f.alive()[0].n)
	})
}

func TestCloseEndsCallsInEveryPhaseAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool { return req.Command == "hang" && p.hang() }
		cfg := f.config(2)
		cfg.MaxQueue = 100
		p := open(t, cfg)
		calls := inBackground(10, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "hang", nil) })
		time.Sleep(time.Second)
		begun := time.Now()
		var wg sync.WaitGroup
		for range 3 { // from several goroutines, and again
			wg.Go(func() { assert.NoError(t, p.Close()) })
		}
		wg.Wait()
		assert.NoError(t, p.Close())
		assert.Less(t, time.Since(begun), time.Second)
		running := 0
		for _, out := range calls() {
			e := failure(t, out.err, ErrPoolClosed)
			if e.Delivery == MaybeExecuted {
				running++
				assert.NotEmpty(t, e.Context.Worker)
			} else {
				assert.Equal(t, NotExecuted, e.Delivery)
			}
		}
		assert.Equal(t, 2, running, "the rest waited")
		assert.Empty(t, f.alive())
		accounted(t, p)
	})
}

func TestShutdownLetsRunningCallsFinishAndReleasesTheQueueAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "work" {
				p.pause(10 * time.Second)
			}
			return false
		}
		p := open(t, f.config(1))
		running := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "work", nil) })
		time.Sleep(time.Second)
		queued := inBackground(3, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "work", nil) })
		time.Sleep(time.Second)
		done := make(chan error, 1)
		go func() { done <- p.Shutdown(t.Context()) }()
		begun := time.Now()
		for _, out := range queued() {
			assert.Equal(t, NotExecuted, failure(t, out.err, ErrPoolClosed).Delivery)
		}
		assert.Less(t, time.Since(begun), time.Millisecond)
		_, err := p.ExecuteAnonymous(t.Context(), "work", nil)
		failure(t, err, ErrPoolClosed)
		require.NoError(t, running()[0].err)
		require.NoError(t, <-done)
		assert.Empty(t, f.alive())
		assert.Contains(t, strings.Join(f.procs[0].lines(), "\n"), `"command":"shutdown"`, "it was asked, not killed")
		assert.Zero(t, f.procs[0].Exit().Signal)
	})
}

func TestShutdownObeysItsContext(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool { return req.Command == "hang" && p.hang() }
		p := open(t, f.config(2))
		call := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "hang", nil) })
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begun := time.Now()
		err := p.Shutdown(ctx)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.InDelta(t, 3, time.Since(begun).Seconds(), 0.5)
		e := failure(t, call()[0].err, ErrPoolClosed)
		assert.Equal(t, MaybeExecuted, e.Delivery)
		assert.Empty(t, f.alive())
		assert.NoError(t, p.Shutdown(t.Context()), "it is closed: nothing is left to do")
	})
}

func TestTheStopLadderAsksThenTerminatesThenKills(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.setup = func(p *fakeProcess) { p.ignoreTerm = p.n == 2 }
		f.script = func(p *fakeProcess, req fakeRequest) bool { return req.Command == "shutdown" && p.hang() }
		cfg := f.config(2)
		cfg.StopGrace = time.Second
		p := open(t, cfg)
		begun := time.Now()
		require.NoError(t, p.Shutdown(t.Context()))
		assert.InDelta(t, 3, time.Since(begun).Seconds(), 0.1, "a grace for each rung, side by side")
		assert.Equal(t, syscall.SIGTERM, f.nth(1).Exit().Signal)
		assert.Equal(t, syscall.SIGKILL, f.nth(2).Exit().Signal)
	})
}

func TestCloseDuringStartsHangsNothingAndLeavesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool { return p.hang() }
		cfg := f.config(3)
		cfg.MinReady = -1
		p := open(t, cfg)
		call := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "work", nil) })
		time.Sleep(time.Second)
		assert.Len(t, f.alive(), 3)
		begun := time.Now()
		require.NoError(t, p.Close())
		assert.Less(t, time.Since(begun), time.Second, "long before StartTimeout")
		failure(t, call()[0].err, ErrPoolClosed)
		assert.Empty(t, f.alive())
	})
}

func TestACallerThatGivesUpDuringAStartLeavesTheWorkerToTheNext(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		gate := make(chan struct{})
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "hello" {
				<-gate
			}
			return false
		}
		cfg := f.config(1)
		cfg.MinReady = -1
		p := open(t, cfg)
		defer p.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.ExecuteAnonymous(ctx, "work", nil)
		failure(t, err, ErrCheckoutTimeout)
		close(gate)
		executed(t, p, "work", nil)
		assert.Len(t, f.spawned(), 1, "the start went on")
	})
}

func TestACallersWaitIsNotProlongedByAnotherWorkersStart(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			switch {
			case req.Command == "hello" && p.n > 1:
				p.pause(20 * time.Second) // a heavy import
			case req.Command == "work":
				p.pause(time.Second)
			}
			return false
		}
		cfg := f.config(1)
		cfg.Overflow = 1
		p := open(t, cfg)
		defer p.Close()
		begun := time.Now()
		for _, out := range inBackground(3, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "work", nil) })() {
			require.NoError(t, out.err)
		}
		assert.InDelta(t, 3, time.Since(begun).Seconds(), 0.5, "the first worker served all three; no caller waited for the import")
		synctest.Wait()
	})
}
