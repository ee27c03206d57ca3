//go:build unix

package pypool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// upTo lists 0 to n-1.
func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// hasSize asserts what is so when Resize(n) has returned.
func hasSize(t testing.TB, p *Pool, n int) {
	t.Helper()
	st := p.Stats()
	require.Equal(t, n, st.Size)
	require.Equal(t, upTo(n), slotsOf(p))
	require.Equal(t, n, st.Workers, "those beyond are gone: %+v", p.Workers())
	require.EqualValues(t, n, st.WorkersStarted-st.WorkersExited)
}

func TestResizeUpAndDownUnderLoad(t *testing.T) {
	t.Parallel()
	cfg := slotsConfig(t, 2)
	cfg.Threads = 1
	p := newPool(t, cfg)
	stop := traffic(t, p, 64, "work", args{"seconds": 0.001})
	for _, n := range []int{4, 1, 3, 3, 2} {
		require.NoError(t, p.Resize(t.Context(), n))
		hasSize(t, p, n)
	}
	require.Empty(t, stop())
	require.NotZero(t, accounted(t, p).Succeeded)
	require.Zero(t, p.Stats().Recycled)
	h, err := p.HealthCheck(t.Context())
	require.NoError(t, err)
	require.True(t, h.Healthy)
}

func TestResizeBesideReloadAndMap(t *testing.T) {
	t.Parallel()
	p := newPool(t, slotsConfig(t, 2))
	stop := traffic(t, p, 8, "work", nil)
	var beside sync.WaitGroup
	beside.Go(func() {
		for range 2 {
			assert.NoError(t, p.Reload(context.Background()))
		}
	})
	beside.Go(func() {
		n := 0
		for got, err := range Map[int](context.Background(), p, "work", slices.Values(make([]args, 500))) {
			assert.NoError(t, err)
			assert.GreaterOrEqual(t, got, 0)
			n++
		}
		assert.Equal(t, 500, n)
	})
	for _, n := range []int{3, 1, 2} {
		require.NoError(t, p.Resize(t.Context(), n))
	}
	beside.Wait()
	require.Empty(t, stop())
	eventually(t, "the pool has its Size", func() bool { return serving(p) })
	hasSize(t, p, 2)
	accounted(t, p)
}

// Commands that cost workers keep nobody from the new Size, and the others do not notice.
func TestResizeBesideACrashLoop(t *testing.T) {
	t.Parallel()
	cfg := slotsConfig(t, 2)
	cfg.Breaker.Failures = -1
	cfg.RestartBackoff = Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond}
	cfg.Logger = quiet()
	p := newPool(t, cfg)
	stop := traffic(t, p, 8, "work", nil)
	over := make(chan struct{})
	var crashing sync.WaitGroup
	end := sync.OnceFunc(func() { close(over); crashing.Wait() })
	t.Cleanup(end)
	for range 4 { // as many as slots: hardly ever are all served at once
		crashing.Go(func() {
			for !isClosed(over) {
				_, err := p.ExecuteAnonymous(context.Background(), "crash", nil)
				assert.ErrorIs(t, err, ErrWorkerExited)
			}
		})
	}
	for _, n := range []int{4, 1, 3} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		require.NoError(t, p.Resize(ctx, n))
		cancel()
		require.Equal(t, n, p.Stats().Size)
	}
	end()
	require.Empty(t, stop())
	eventually(t, "three serve", func() bool { return serving(p) })
	hasSize(t, p, 3)
	accounted(t, p)
}

func TestResizeWaitsForCallsAndReturnsWithItsContext(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	a, b := hold(t, t.Context(), p, ""), hold(t, t.Context(), p, "")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := p.Resize(ctx, 1)
	e := failure(t, err, ErrOperationTimeout)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, "the pool goes on towards its new Size: 1 of 1 workers have been ready, and 1 have still to go: the context's deadline passed", e.Message)
	assert.Equal(t, 1, p.Stats().Size, "the target stays")
	canceled, cancelNow := context.WithCancel(t.Context())
	cancelNow()
	require.ErrorIs(t, p.Resize(canceled, 1), ErrCanceled)

	done := make(chan error, 1)
	go func() { done <- p.Resize(context.Background(), 1) }() // joined by done
	a.finish(t)
	b.finish(t)
	require.NoError(t, <-done)
	hasSize(t, p, 1)
}

func TestResizeSaysWhyItDoesNotComeAbout(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	cfg := slotsConfig(t, 1)
	cfg.Logger, cfg.RestartBackoff = quiet(), Backoff{Min: time.Millisecond, Max: 5 * time.Millisecond}
	cfg.WorkerEnv = func(slot int) []string {
		if broken.Load() {
			panic(fmt.Sprint("no device for ", slot))
		}
		return nil
	}
	p := newPool(t, cfg)
	broken.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := p.Resize(ctx, 2)
	require.ErrorIs(t, err, ErrOperationTimeout)
	require.ErrorContains(t, err, "1 of 2 workers have been ready")
	require.ErrorContains(t, err, "no device for 1")
	executed(t, p, "work", nil)
	broken.Store(false)
	require.NoError(t, p.Resize(t.Context(), 2))
	hasSize(t, p, 2)
}

func TestResizeRefusesWhatIsNoSize(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	for _, n := range []int{0, -1, maxWorkers + 1} {
		e := failure(t, p.Resize(t.Context(), n), ErrInvalidArguments)
		assert.Contains(t, e.Message, fmt.Sprintf("a pool cannot have %d workers: 1 to 4096 are possible", n))
	}
	assert.Equal(t, 1, p.Stats().Size)
	require.NoError(t, p.Close())
	require.ErrorIs(t, p.Resize(t.Context(), 2), ErrPoolClosed)
	var none *Pool
	require.ErrorIs(t, none.Resize(t.Context(), 2), ErrPoolClosed)
	require.ErrorIs(t, none.Reload(t.Context()), ErrPoolClosed)
}

func TestShutdownEndsAResize(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	a, b := hold(t, t.Context(), p, ""), hold(t, t.Context(), p, "")
	resized := make(chan error, 2)
	go func() { resized <- p.Resize(context.Background(), 1) }() // joined by resized
	go func() { resized <- p.Resize(context.Background(), 3) }()
	eventually(t, "both wait", func() bool { return p.Stats().Size != 2 })
	down := make(chan error, 1)
	go func() { down <- p.Shutdown(context.Background()) }()
	for range 2 {
		if err := <-resized; err != nil { // that to 3 may have come about
			require.ErrorIs(t, err, ErrPoolClosed)
		}
	}
	a.finish(t)
	b.finish(t)
	require.NoError(t, <-down)
}

func TestResizeMakesOverflowRegular(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 1)
	cfg.overflowIdle = time.Hour
	p := newPool(t, cfg)
	a, b := hold(t, t.Context(), p, ""), hold(t, t.Context(), p, "")
	overflow := inSlot(t, p, 1)
	require.True(t, overflow.Overflow)
	require.NoError(t, p.Resize(t.Context(), 2))
	hasSize(t, p, 2)
	require.Equal(t, overflow.ID, inSlot(t, p, 1).ID, "it is there already")
	require.False(t, inSlot(t, p, 1).Overflow)
	a.finish(t)
	b.finish(t)
	require.NoError(t, p.Resize(t.Context(), 1))
	hasSize(t, p, 1)
}

// --- against the clock ------------------------------------------------------------------------------------------------

// While workers are added nothing is amiss, and no alarm is given.
func TestAResizeUpIsNoDegradation(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		slowStarts(f, 3*time.Second)
		events := &eventLog{}
		cfg := f.config(2)
		cfg.Observer = &Observer{Event: events.add}
		p := open(t, cfg)
		defer p.Close()
		require.NoError(t, p.Resize(t.Context(), 6))
		synctest.Wait()
		for _, e := range events.of(EventPoolState) {
			require.Equal(t, "serving", e.State)
		}
		f.alive()[0].killed()
		synctest.Wait()
		states := events.of(EventPoolState)
		require.Equal(t, "degraded", states[len(states)-1].State)
	})
}

// What was being started when the pool shrank goes when it is ready.
func TestAResizeDownOvertakesOneUp(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		slowStarts(f, 10*time.Second)
		p := open(t, f.config(1))
		defer p.Close()
		done := make(chan error, 2)
		begun := time.Now()
		go func() { done <- p.Resize(context.Background(), 8) }() // joined by done
		time.Sleep(time.Second)
		go func() { done <- p.Resize(context.Background(), 2) }()
		require.NoError(t, <-done)
		require.NoError(t, <-done)
		require.Less(t, time.Since(begun), 11*time.Second)
		hasSize(t, p, 2)
		require.Zero(t, p.Stats().Recycled)
		time.Sleep(time.Minute)
		hasSize(t, p, 2)
	})
}

func TestAShrinkingPoolStillReplacesWhatItNeeds(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "long" {
				p.pause(time.Hour)
			}
			return false
		}
		p := open(t, f.config(32))
		defer p.Close()
		wait := inBackground(31, func(int) (Result, error) {
			return p.ExecuteAnonymous(context.Background(), "long", nil, WithTimeout(2*time.Hour))
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := p.Resize(ctx, 2)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		for range 5 {
			for _, w := range p.sup.workers() {
				if w.slot < 2 {
					w.proc.(*fakeProcess).killed()
				}
			}
			time.Sleep(10 * time.Second)
			require.Equal(t, upTo(2), slotsOf(p))
		}
		lost := 0
		for _, out := range wait() {
			if errors.Is(out.err, ErrWorkerExited) {
				lost++
			} else {
				require.NoError(t, out.err)
			}
		}
		require.LessOrEqual(t, lost, 2)
		time.Sleep(time.Minute)
		hasSize(t, p, 2)
	})
}
