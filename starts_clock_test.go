package pypool

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
)

// How many workers are started side by side: against the clock, as supervisor_clock_test.go.

// slowStarts has each start of the fleet take d, and counts how many are under way at most.
func slowStarts(f *fleet, d time.Duration) (most *atomic.Int64) {
	var now atomic.Int64
	most = &atomic.Int64{}
	f.script = func(p *fakeProcess, req fakeRequest) bool {
		if req.Command == "hello" {
			n := now.Add(1)
			for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
			}
			p.pause(d)
			now.Add(-1)
		}
		return false
	}
	return most
}

func TestWorkersThatAreAllKilledComeBackAsNewBringsThemUp(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		slowStarts(f, 3*time.Second)
		begun := time.Now()
		p := open(t, f.config(32))
		defer p.Close()
		up := time.Since(begun)
		time.Sleep(time.Minute)
		begun = time.Now()
		for _, w := range f.alive() {
			w.killed()
		}
		synctest.Wait()
		for !serving(p) {
			time.Sleep(10 * time.Millisecond)
		}
		assert.LessOrEqual(t, time.Since(begun), 13*up/10)
		assert.Len(t, f.spawned(), 64)
	})
}

func TestBesideWorkersThatServeAsManyStartAsThereAreProcessors(t *testing.T) {
	t.Parallel()
	for _, size := range []int{16, 64 * runtime.GOMAXPROCS(0)} {
		synctest.Test(t, func(t *testing.T) {
			f := &fleet{}
			most := slowStarts(f, 3*time.Second)
			p := open(t, f.config(size))
			defer p.Close()
			most.Store(0)
			time.Sleep(time.Minute)
			for _, w := range f.alive()[:size/2] {
				w.killed()
			}
			time.Sleep(time.Minute)
			assert.True(t, serving(p))
			assert.EqualValues(t, min(size/2, max(runtime.GOMAXPROCS(0), size/4)), most.Load())
			assert.Len(t, f.spawned(), size+size/2)
		})
	}
}

// The quarter is one of the Size that Resize has set, not of New's.
func TestAfterAResizeAQuarterOfTheNewSizeStartsSideBySide(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		most, size := slowStarts(f, 3*time.Second), 8*runtime.GOMAXPROCS(0)
		p := open(t, f.config(1))
		defer p.Close()
		require.NoError(t, p.Resize(t.Context(), size))
		most.Store(0)
		time.Sleep(time.Minute)
		for _, w := range f.alive()[:size/2] {
			w.killed()
		}
		time.Sleep(time.Minute)
		assert.True(t, serving(p))
		assert.EqualValues(t, size/4, most.Load())
	})
}

func TestReloadReplacesAQuarterOfSizeAtATime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ size, surge, rounds int }{{1, 0, 1}, {3, 0, 3}, {8, 0, 4}, {16, 0, 4}, {8, 8, 1}, {8, 3, 3}, {8, -1, 8}, {2, 5, 1}} {
		synctest.Test(t, func(t *testing.T) {
			f := &fleet{}
			slowStarts(f, time.Second)
			cfg := f.config(c.size)
			cfg.ReloadSurge = c.surge
			p := open(t, cfg)
			defer p.Close()
			done, fewest, most := make(chan error, 1), c.size, 0
			begun := time.Now()
			go func() { done <- p.Reload(context.Background()) }() // joined by done
			for len(done) == 0 {
				st := p.Stats()
				fewest, most = min(fewest, st.Idle+st.Busy), max(most, st.Workers)
				time.Sleep(10 * time.Millisecond)
			}
			require.NoError(t, <-done)
			assert.InDelta(t, float64(c.rounds), time.Since(begun).Seconds(), 0.2, "%+v", c)
			assert.Equal(t, c.size, fewest, "%+v: never fewer than Size are ready", c)
			assert.LessOrEqual(t, most, c.size+p.cfg.surge(c.size)+1, "%+v", c) // one that is leaving
			assert.Len(t, f.spawned(), 2*c.size)
		})
	}
}

// A version that does not start is tried by as many as the surge once, then by one at a time.
func TestAReloadThatDoesNotStartIsTriedByOneAtATime(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		failing := failsWhile(f)
		cfg := f.config(16)
		cfg.RestartBackoff = Backoff{Min: time.Second, Max: time.Second}
		p := open(t, cfg)
		defer p.Close()
		failing.Store(true)
		before := len(f.spawned())
		require.ErrorIs(t, p.Reload(t.Context()), ErrWorkerStart)
		time.Sleep(100 * time.Millisecond)
		assert.LessOrEqual(t, len(f.spawned())-before, 4)
		time.Sleep(time.Minute)
		assert.LessOrEqual(t, len(f.spawned())-before, 4+80, "one each second, a fifth of jitter")
		assert.True(t, serving(p), "the old ones serve")
		failing.Store(false)
		time.Sleep(time.Minute)
		for _, w := range p.sup.workers() {
			assert.EqualValues(t, 1, w.generation)
		}
	})
}

// Where no worker is left, or one has ended by itself, Reload is not over with the last old one: it
// returns when the new ones are there, or says why they are not.
func TestReloadIsNotOverBeforeTheNewWorkersAreThere(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var failing atomic.Bool
		failing.Store(true)
		f.fails = func(int) error {
			time.Sleep(time.Second)
			if failing.Load() {
				return broken(0)
			}
			return nil
		}
		cfg := f.config(2)
		cfg.MinReady = -1
		p := open(t, cfg)
		defer p.Close()
		time.Sleep(10 * time.Second)
		require.Empty(t, p.Workers())
		require.ErrorIs(t, p.Reload(t.Context()), ErrWorkerStart)

		failing.Store(false)
		require.NoError(t, p.Reload(t.Context()))
		assert.True(t, serving(p))

		failing.Store(true)
		done := make(chan error, 1)
		go func() { done <- p.Reload(t.Context()) }() // joined by done
		synctest.Wait()
		for _, w := range f.alive() {
			w.killed() // by somebody else, before they are replaced
		}
		require.ErrorIs(t, <-done, ErrWorkerStart)
		failing.Store(false)
		require.NoError(t, p.Reload(t.Context()))
		assert.True(t, serving(p))
	})
}

// A start that was begun before Reload, and fails after it, had the old code.
func TestAStartOfTheOldCodeFailsNoReload(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var version atomic.Int64
		f.fails = func(int) error {
			imported := version.Load()
			time.Sleep(10 * time.Second)
			if imported == 0 {
				return broken(0)
			}
			return nil
		}
		cfg := f.config(1)
		cfg.MinReady = -1
		p := open(t, cfg)
		defer p.Close()
		for range 3 {
			before := len(f.spawned())
			for len(f.spawned()) == before {
				time.Sleep(time.Second)
			}
			time.Sleep(2 * time.Second)
			version.Add(1)
			require.NoError(t, p.Reload(t.Context()))
			assert.True(t, serving(p))
			version.Store(0)
			f.alive()[0].killed()
		}
	})
}

// While a slot's start fails again and again, for want of its device, others that lose their worker
// do not wait with it.
func TestASlotWhereNothingStartsDelaysNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var dead atomic.Int64 // slots below
		cfg := f.config(4)
		cfg.WorkerEnv = func(slot int) []string { return []string{fmt.Sprint("SLOT=", slot)} }
		cfg.spawn = func(ctx context.Context, sp *proc.Spawner, spec proc.Spec) (proc.Process, error) {
			for slot := range dead.Load() {
				if slices.Contains(spec.Env, fmt.Sprint("SLOT=", slot)) {
					return nil, broken(0)
				}
			}
			return f.spawn(ctx, sp, spec)
		}
		p := open(t, cfg)
		defer p.Close()
		killed := func(slot int) {
			for _, w := range p.Workers() {
				if w.Slot == slot {
					f.nth(w.PID - 1<<30).killed()
				}
			}
		}
		dead.Store(1)
		killed(0)
		time.Sleep(10 * time.Minute)
		before := len(f.spawned())
		for slot := 1; slot < 4; slot++ {
			time.Sleep(7 * time.Second)
			killed(slot)
			time.Sleep(time.Second)
			assert.Equal(t, 3, p.Stats().Idle)
		}
		assert.Equal(t, 3, len(f.spawned())-before)

		dead.Store(4) // it is no device: nothing starts any more
		begun := p.Stats().WorkersStarted
		for slot := 1; slot < 4; slot++ {
			killed(slot)
		}
		time.Sleep(10 * time.Minute)
		assert.Equal(t, begun, p.Stats().WorkersStarted)
		assert.LessOrEqual(t, p.sup.history.failed, 4*(2*10*60/24+10), "each has its first, and then they back off")
		dead.Store(0)
		time.Sleep(time.Minute)
		assert.True(t, serving(p))
	})
}

// Likewise while a slot's workers end as soon as they are there.
func TestASlotWhoseWorkersEndAtOnceDelaysNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var dead atomic.Bool
		f.setup = func(p *fakeProcess) {
			if dead.Load() && slices.Contains(p.env, "SLOT=0") {
				time.AfterFunc(100*time.Millisecond, func() { p.end(proc.ExitState{Code: 3}) })
			}
		}
		cfg := f.config(3)
		cfg.WorkerEnv = func(slot int) []string { return []string{fmt.Sprint("SLOT=", slot)} }
		p := open(t, cfg)
		defer p.Close()
		killed := func(slot int) {
			for _, w := range p.Workers() {
				if w.Slot == slot {
					f.nth(w.PID - 1<<30).killed()
				}
			}
		}
		dead.Store(true)
		time.Sleep(time.Minute)
		killed(0)
		time.Sleep(10 * time.Minute)
		assert.Less(t, len(f.spawned()), 3+10*60/24+20, "it waits longer each time")
		for round := range 4 {
			time.Sleep(7 * time.Second)
			slot := 1 + round%2
			executed(t, p, "work", nil)
			before := p.Stats().WorkersExited
			killed(slot)
			time.Sleep(time.Second)
			assert.GreaterOrEqual(t, p.Stats().WorkersExited, before+1)
			assert.GreaterOrEqual(t, p.Stats().Idle, 2)
		}
		dead.Store(false)
		time.Sleep(time.Minute)
		assert.True(t, serving(p))
	})
}

func TestASurgeBeyondReasonIsRefused(t *testing.T) {
	_, err := Config{ReloadSurge: 5000}.resolve()
	require.ErrorContains(t, err, "Config.ReloadSurge: 5000 is beyond 4096 workers")
}
