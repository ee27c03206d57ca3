package pypool

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slack is what a machine with other work to do may add to a guaranteed bound.
const slack = 5 * time.Second

func TestCoreATimedOutWorkerIsKilledAndReplacedAndItsLateAnswerReachesNobody(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.CancelGrace = -1
	p := newPool(t, cfg)
	old := p.Workers()[0]
	gate := newLatch(t)
	_, err := p.ExecuteAnonymous(t.Context(), "hold", args{"gate": gate.path}, WithTimeout(50*time.Millisecond))
	e := failure(t, err, ErrOperationTimeout)
	assert.Equal(t, old.PID, e.Context.PID)
	// The gate is open from here on: a handler that still ran would answer now, into the next
	// calls.
	f, openErr := os.OpenFile(gate.path, os.O_RDWR, 0)
	require.NoError(t, openErr)
	defer f.Close()
	for i := range 20 {
		res := executed(t, p, "echo", args{"value": i})
		assert.Equal(t, i, decoded[int](t, res))
		assert.NotEqual(t, old.ID, res.Worker())
	}
	eventually(t, "the old process is gone", func() bool { return !processExists(old.PID) })
	eventually(t, "and is none of the pool's", func() bool { return !slices.Contains(pids(p), old.PID) })
}

func TestAnAnswerInTheMomentOfTheDeadlineNeverReachesTheNextCall(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 2, 0)
	cfg.Breaker.Failures, cfg.KillGrace = -1, 50*time.Millisecond
	p := newPool(t, cfg)
	typical := time.Hour
	for range 50 {
		typical = min(typical, executed(t, p, "echo", args{"value": 0}).Ran())
	}
	var wg sync.WaitGroup
	for caller := range 2 {
		wg.Go(func() {
			for i := range 25 {
				own := fmt.Sprintf("%d/%d", caller, i)
				timeout := typical * time.Duration(15+i) / 25 // from half to one and a half
				res, err := p.ExecuteAnonymous(t.Context(), "echo", args{"value": own}, WithTimeout(timeout))
				if err != nil {
					assert.ErrorIs(t, err, ErrOperationTimeout)
					continue
				}
				assert.Equal(t, own, decoded[string](t, res))
			}
		})
	}
	wg.Wait()
	accounted(t, p)
	eventually(t, "whole again", func() bool { return serving(p) })
}

func TestACallReturnsByItsDeadlineAndKillGraceWhateverPythonDoes(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.KillGrace = 100 * time.Millisecond
	p := newPool(t, cfg)
	begun := time.Now()
	_, err := p.ExecuteAnonymous(t.Context(), "busy_loop_of_the_test", nil, WithTimeout(100*time.Millisecond))
	took := time.Since(begun)
	failure(t, err, ErrOperationTimeout)
	assert.GreaterOrEqual(t, took, 100*time.Millisecond)
	assert.Less(t, took, 200*time.Millisecond+slack)
}

func TestACancelWhileQueuedCostsNothingAndWithoutCancelGraceARunningOneCostsTheWorker(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.CancelGrace = -1
	p := newPool(t, cfg)
	worker := pids(p)[0]
	h := hold(t, t.Context(), p, "")
	ctx, cancel := context.WithCancel(t.Context())
	queued := queueHold(t, ctx, p, "")
	eventually(t, "it waits", func() bool { return p.Stats().Waiting == 1 })
	cancel()
	e := failure(t, (<-queued.done).err, ErrCanceled)
	assert.Equal(t, NotExecuted, e.Delivery)
	assert.ErrorIs(t, e, context.Canceled)
	assert.False(t, queued.started(), "it never ran")
	assert.Equal(t, worker, h.finish(t))
	assert.Equal(t, []int{worker}, pids(p))

	ctx, cancel = context.WithCancel(t.Context())
	running := hold(t, ctx, p, "")
	cancel()
	e = failure(t, (<-running.done).err, ErrCanceled)
	assert.Equal(t, MaybeExecuted, e.Delivery)
	assert.Equal(t, worker, e.Context.PID)
	eventually(t, "replaced", func() bool { return serving(p) && pids(p)[0] != worker })
	accounted(t, p)
}

func TestAContextsDeadlineGivesTheTimeoutOfItsPhaseAndMatchesDeadlineExceeded(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.KillGrace = slack // the stacks are what is asked for, not the speed
	p := newPool(t, cfg)
	h := hold(t, t.Context(), p, "")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := p.ExecuteAnonymous(ctx, "pid", nil)
	e := failure(t, err, ErrCheckoutTimeout)
	assert.Equal(t, NotExecuted, e.Delivery)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	h.finish(t)

	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = p.ExecuteAnonymous(ctx, "busy_loop_of_the_test", nil)
	e = failure(t, err, ErrOperationTimeout)
	assert.Equal(t, MaybeExecuted, e.Delivery)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Contains(t, detail[*HangError](t, err).Stacks, "busy_loop_of_the_test")
}

func TestOwnTimeoutsDoNotMatchContextErrors(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	h := hold(t, t.Context(), p, "")
	_, queued := p.ExecuteAnonymous(t.Context(), "pid", nil, WithCheckoutTimeout(time.Millisecond))
	h.finish(t)
	_, ran := p.ExecuteAnonymous(t.Context(), "busy_loop_of_the_test", nil, WithTimeout(20*time.Millisecond))
	require.ErrorIs(t, queued, ErrCheckoutTimeout)
	require.ErrorIs(t, ran, ErrOperationTimeout)
	for _, err := range []error{queued, ran} {
		assert.NotErrorIs(t, err, context.DeadlineExceeded)
		assert.NotErrorIs(t, err, context.Canceled)
		assert.NotErrorIs(t, err, os.ErrDeadlineExceeded, "an inner matter")
	}
}

func TestCoreTheQueueTakesExactlyMaxQueueCallers(t *testing.T) {
	t.Parallel()
	const maxQueue = 5
	cfg := coreConfig(t, 1, 0)
	cfg.MaxQueue = maxQueue
	p := newPool(t, cfg)
	h := hold(t, t.Context(), p, "")
	call := func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "pid", nil) }
	waiting := inBackground(maxQueue, call)
	eventually(t, "the queue is full", func() bool { return p.Stats().Waiting == maxQueue })
	for _, out := range inBackground(7, call)() {
		failure(t, out.err, ErrQueueFull)
	}
	h.finish(t)
	for _, out := range waiting() {
		require.NoError(t, out.err)
	}
	st := accounted(t, p)
	assert.Equal(t, map[ErrorType]int64{TypeQueueFull: 7}, st.ByType)
	assert.Equal(t, int64(1+maxQueue), st.Succeeded)
}

func TestCallsThatTimeOutInTheQueueNeverExecute(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	marks := t.TempDir()
	h := hold(t, t.Context(), p, "")
	for i, out := range inBackground(10, func(i int) (Result, error) {
		in := args{"gate": "/dev/null", "mark": filepath.Join(marks, fmt.Sprint(i))}
		return p.ExecuteAnonymous(t.Context(), "hold", in, WithCheckoutTimeout(time.Duration(i+1)*time.Millisecond))
	})() {
		e := failure(t, out.err, ErrCheckoutTimeout)
		assert.True(t, SafeToRetry(e), "call %d", i)
	}
	h.finish(t)
	executed(t, p, "pid", nil)
	entries, err := os.ReadDir(marks)
	require.NoError(t, err)
	assert.Empty(t, entries)
}

func TestADeadCallersCheckoutDoesNotLeakItsWorker(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		a, b := hold(t, ctx, p, ""), hold(t, ctx, p, "")
		c := queueHold(t, ctx, p, "")
		cancel()
		for _, h := range []*held{a, b, c} {
			require.ErrorIs(t, (<-h.done).err, ErrCanceled)
		}
		eventually(t, "both are back", func() bool { return serving(p) })
	}
	a, b := hold(t, t.Context(), p, ""), hold(t, t.Context(), p, "")
	assert.NotEqual(t, a.finish(t), b.finish(t))
	accounted(t, p)
}

func TestTimeoutOptionsOfZeroOrLessAreOff(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.OperationTimeout, cfg.CheckoutTimeout = time.Millisecond, time.Millisecond
	p := newPool(t, cfg)
	for _, off := range []time.Duration{0, -1} {
		meta, err := Call[map[string]any](t.Context(), p, "echo_meta", nil, WithTimeout(off), WithCheckoutTimeout(off))
		require.NoError(t, err)
		assert.Equal(t, false, meta["deadline"], "Python is told of none")
	}
}

func TestCancelRacesSettleEachCallExactlyOnce(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 2, 0)
	cfg.Breaker.Failures, cfg.KillGrace = -1, 10*time.Millisecond
	p := newPool(t, cfg)
	var wg sync.WaitGroup
	for caller := range 4 {
		wg.Go(func() {
			for i := range 100 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%5 == 0 {
					go cancel()
				}
				own := fmt.Sprintf("%d/%d", caller, i)
				res, err := p.ExecuteAnonymous(ctx, "echo", args{"value": own})
				cancel()
				if err != nil {
					assert.ErrorIs(t, err, ErrCanceled)
					continue
				}
				assert.Equal(t, own, decoded[string](t, res))
			}
		})
	}
	wg.Wait()
	assert.Equal(t, int64(400), accounted(t, p).Started)
	eventually(t, "whole again", func() bool { return serving(p) })
}
