package pypool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Streams against the clock: when a worker is taken from a loop, and what becomes of it.

// generator scripts the command gen: it yields as many items at once as its argument says, and
// stops, stopsAfter the cancel line.
func generator(f *fleet, stopsAfter time.Duration) {
	last := map[*fakeProcess]uint64{} // each process has one goroutine, and these tests one process at a time
	f.script = func(p *fakeProcess, req fakeRequest) bool {
		switch {
		case strings.Contains(req.line, `"cancel":true`):
			if req.ID == last[p] { // one for a call that is over is ignored
				delete(last, p)
				p.pause(stopsAfter)
				p.reply(req.ID, "null")
			}
			return true
		case req.Command == "gen":
			var n [1]int
			if err := json.Unmarshal(req.Args, &n); err != nil {
				panic(err)
			}
			last[p] = req.ID
			for i := range n[0] {
				p.say(fmt.Sprintf(`{"id":%d,"item":%d}`+"\n", req.ID, i))
			}
			return true
		}
		return false
	}
}

func TestAStallIsTimedFromTheBeginningOfEachTurnOfTheBody(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		generator(f, time.Second)
		cfg := f.config(1)
		cfg.StallTimeout = 10 * time.Second
		p := open(t, cfg)
		defer p.Close()
		begun := time.Now()
		served := make(chan time.Duration, 1)
		turns := 0
		var last error
		for _, err := range p.Stream(t.Context(), "gen", []int{5}) {
			if last = err; err != nil {
				break
			}
			switch turns++; turns {
			case 1, 2:
				time.Sleep(9 * time.Second)
			case 3:
				go func() {
					_, err := p.ExecuteAnonymous(t.Context(), "work", nil)
					assert.NoError(t, err)
					served <- time.Since(begun)
				}()
				time.Sleep(time.Minute)
			}
		}
		assert.Equal(t, 3, turns)
		e := failure(t, last, ErrStalled)
		assert.Contains(t, e.Message, "the loop's body took 1m0s")
		assert.Equal(t, 29*time.Second, (<-served).Round(time.Millisecond), "two turns of 9 s, a stall of 10, and one to stop")
		assert.Len(t, f.spawned(), 1)
		accounted(t, p)
	})
}

func TestAStallThatDoesNotStopIsKilledAfterStopGrace(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		generator(f, time.Hour)
		cfg := f.config(1)
		cfg.OperationTimeout, cfg.StopGrace = 10*time.Second, 2*time.Second // StallTimeout is OperationTimeout
		p := open(t, cfg)
		defer p.Close()
		var last error
		for _, err := range p.Stream(t.Context(), "gen", []int{2}) {
			if last = err; err == nil {
				time.Sleep(12*time.Second - time.Millisecond)
				assert.Len(t, f.alive(), 1)
				assert.Equal(t, 1, f.alive()[0].n)
				time.Sleep(2 * time.Millisecond)
				assert.Equal(t, syscall.SIGKILL, f.nth(1).Exit().Signal)
			}
		}
		failure(t, last, ErrStalled)
		executed(t, p, "work", nil)
		assert.Len(t, f.spawned(), 2)
	})
}

func TestAStallIsKilledAtOnceWithoutStopGrace(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		generator(f, time.Hour)
		cfg := f.config(1)
		cfg.OperationTimeout, cfg.StopGrace = 10*time.Second, -1
		p := open(t, cfg)
		defer p.Close()
		for _, err := range p.Stream(t.Context(), "gen", []int{2}) {
			if err == nil {
				time.Sleep(10*time.Second + time.Millisecond)
				assert.Equal(t, syscall.SIGKILL, f.nth(1).Exit().Signal)
			}
		}
	})
}

func TestAStallAndTheBodysReturnInTheSameInstant(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		generator(f, 0)
		cfg := f.config(1)
		cfg.StallTimeout = time.Second
		p := open(t, cfg)
		defer p.Close()
		stalled := 0
		for i := range 300 {
			var last error
			got := 0
			for _, err := range p.Stream(t.Context(), "gen", []int{3}, WithTimeout(2*time.Second)) {
				if last = err; err != nil {
					break
				}
				if got++; got == 1 {
					time.Sleep(time.Second)
				}
				if got == 3 {
					break
				}
			}
			switch {
			case errors.Is(last, ErrStalled):
				stalled++
				assert.Equal(t, 1, got)
			default:
				require.NoError(t, last)
				assert.Equal(t, 3, got)
			}
			assert.Contains(t, string(executed(t, p, "work", []int{i}).Raw()), fmt.Sprint(i))
		}
		t.Logf("%d of 300 stalled", stalled)
		assert.Len(t, f.spawned(), 1, "no worker is lost")
		assert.EqualValues(t, stalled, accounted(t, p).ByType[TypeStreamStalled])
	})
}

func TestAStreamsWaitEndsWithItsContextAndTheWorkerGoesOn(t *testing.T) {
	for _, cause := range []string{"canceled", "deadline", "item"} {
		t.Run(cause, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				f.setup = func(p *fakeProcess) {
					p.dumpTakes, p.dump = 50*time.Millisecond, "Current thread\n  File \"x.py\", line 1 in gen"
				}
				generator(f, time.Second)
				cfg := f.config(1)
				cfg.OperationTimeout, cfg.StopGrace = time.Hour, 2*time.Second
				p := open(t, cfg)
				defer p.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				want, took, opts := ErrCanceled, 3*time.Second, []CallOption(nil)
				switch cause {
				case "canceled":
					time.AfterFunc(3*time.Second, cancel)
				case "deadline":
					ctx, cancel = context.WithTimeout(ctx, 3*time.Second)
					defer cancel()
					want, took = ErrOperationTimeout, took+50*time.Millisecond
				case "item":
					opts = append(opts, WithTimeout(3*time.Second))
					want, took = ErrOperationTimeout, took+50*time.Millisecond
				}
				begun := time.Now()
				var last error
				items := 0
				for _, err := range p.Stream(ctx, "gen", []int{1}, opts...) {
					if last = err; err == nil {
						items++
					}
				}
				assert.Equal(t, 1, items)
				assert.Equal(t, took, time.Since(begun).Round(time.Millisecond))
				hang := detail[*HangError](t, failure(t, last, want))
				assert.False(t, hang.Killed)
				assert.Equal(t, cause != "canceled", hang.Stacks != "")
				accounted(t, p)
				executed(t, p, "work", nil)
				assert.Equal(t, took+time.Second, time.Since(begun).Round(time.Millisecond), "it has taken a second to stop")
				assert.Len(t, f.spawned(), 1)
			})
		})
	}
}

func TestShutdownWaitsForAStalledStreamUntilItIsStalled(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		generator(f, time.Second)
		cfg := f.config(1)
		cfg.StallTimeout = 20 * time.Second
		p := open(t, cfg)
		begun := time.Now()
		var last error
		for _, err := range p.Stream(t.Context(), "gen", []int{2}) {
			if last = err; err == nil {
				require.NoError(t, p.Shutdown(t.Context())) // in the body
				assert.Equal(t, 21*time.Second, time.Since(begun).Round(time.Millisecond))
				assert.Empty(t, f.alive())
				assert.Zero(t, f.nth(1).Exit().Signal, "it was asked, not killed")
			}
		}
		failure(t, last, ErrStalled)
		accounted(t, p)
	})
}

func TestWithStallTimeoutReplacesTheConfigs(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		generator(f, 0)
		cfg := f.config(1)
		cfg.StallTimeout = time.Second
		p := open(t, cfg)
		defer p.Close()
		for _, d := range []time.Duration{0, -1, time.Hour} {
			for _, err := range p.Stream(t.Context(), "gen", []int{1}, WithStallTimeout(d)) {
				require.NoError(t, err)
				time.Sleep(time.Minute)
				break
			}
		}
		var last error
		for _, err := range p.Stream(t.Context(), "gen", []int{1}, WithStallTimeout(time.Millisecond)) {
			if last = err; err == nil {
				time.Sleep(2 * time.Millisecond)
			}
		}
		failure(t, last, ErrStalled)
		executed(t, p, "work", nil)
		assert.Len(t, f.spawned(), 1)
	})
}

// The worker may be taken between the moment it is lent and the moment the timer would be set.
func TestNoTimerIsSetOverAWorkerThatWasTaken(t *testing.T) {
	x := &streamed{ctx: t.Context(), limit: time.Hour}
	x.quiet()
	require.True(t, x.enter(time.Now()))
	require.Nil(t, x.timer, "nobody would stop it")
}
