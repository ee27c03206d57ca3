package pypool

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func never() bool { return false }

// bareCheckout is a checkout with so many idle workers, which nobody will call.
func bareCheckout(t *testing.T, workers int) *checkout {
	construct := func(context.Context) (*worker, error) {
		return &worker{proc: &fakeProcess{done: make(chan struct{})}}, nil
	}
	d, err := newCheckout(10, &Config{MaxQueue: 1 << 20, MaxQueueBytes: 1 << 30}, construct, func() {}, func() {})
	require.NoError(t, err)
	for range workers {
		require.NoError(t, d.create(t.Context()))
	}
	return d
}

// queueUp has a caller wait and returns what becomes of it.
func queueUp(d *checkout, ctx context.Context, deadline time.Time) <-chan grant {
	outcome := make(chan grant, 1)
	go func() {
		res, err := d.wait(ctx, deadline, 1, never)
		outcome <- grant{res: res, err: err}
	}()
	synctest.Wait()
	return outcome
}

func TestDeskServesInTheOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bareCheckout(t, 2)
		cold, warm := d.idle[0], d.idle[1]
		require.Same(t, warm, d.tryTake())
		require.Same(t, cold, d.tryTake())
		require.Nil(t, d.tryTake())
		var waiting []<-chan grant
		for range 5 {
			waiting = append(waiting, queueUp(d, t.Context(), time.Time{}))
		}
		require.EqualValues(t, 5, d.waiting.Load())
		for i, first := range waiting {
			d.put(warm)
			synctest.Wait()
			require.Len(t, first, 1)
			require.Equal(t, grant{res: warm}, <-first)
			require.EqualValues(t, len(waiting)-1-i, d.waiting.Load())
		}
		require.Nil(t, d.tryTake())
		d.put(cold)
		d.put(warm)
		require.Equal(t, []*resource{cold}, d.inspect(func(res *resource) bool { return res == cold }))
		require.Same(t, warm, d.tryTake())
	})
}

// A worker is put by who has found it fit to serve a moment before: what ends or retires it in that
// moment comes too early to find it among the idle.
func TestDeskTellsOfAWorkerThatGoesWhileItIsPut(t *testing.T) {
	told := 0
	d := bareCheckout(t, 2)
	d.onDead = func() { told++ }
	exited, retired := d.tryTake(), d.tryTake()
	d.put(exited)
	require.Zero(t, told)
	require.Same(t, exited, d.tryTake())
	close(exited.Value().proc.(*fakeProcess).done)
	d.put(exited)
	require.Equal(t, 1, told)
	retired.Value().retired.Store(true)
	d.put(retired)
	require.Equal(t, 2, told)
}

// One timer serves all deadlines, in whatever order they come and go.
func TestDeskEndsEachWaitAtItsOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bareCheckout(t, 1)
		only := d.tryTake()
		begun := time.Now()
		var callers sync.WaitGroup
		for _, ms := range rand.Perm(100) {
			callers.Go(func() {
				limit := time.Duration(ms) * time.Millisecond
				_, err := d.wait(t.Context(), begun.Add(limit), 1, never)
				assert.ErrorIs(t, err, errTimeout)
				assert.Equal(t, limit, time.Since(begun))
			})
			if ms%3 == 0 {
				synctest.Wait()
			}
		}
		forever := queueUp(d, t.Context(), time.Time{})
		callers.Wait()
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, forever, "one without a deadline waits on")
		later := queueUp(d, t.Context(), time.Now().Add(time.Second))
		d.put(only)
		require.Equal(t, grant{res: only}, <-forever)
		require.ErrorIs(t, (<-later).err, errTimeout)
		require.Equal(t, begun.Add(time.Hour+99*time.Millisecond+time.Second), time.Now())
		d.close()
	})
}

func TestDeskTurnsAllAwayAndTakesCareOfThoseWhoComeTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bareCheckout(t, 0)
		waiting := queueUp(d, t.Context(), time.Now().Add(time.Minute))
		d.rejectWaiters()
		require.ErrorIs(t, (<-waiting).err, errStopped)
		_, err := d.wait(t.Context(), time.Time{}, 1, func() bool { return true })
		require.ErrorIs(t, err, errStopped)
		require.Zero(t, d.waiting.Load())
		d.close() // the timer is still set: synctest fails when it is left
	})
}

// A closed checkout leaves the workers to puddle, whose Close waits for them.
func TestDeskGivesItsWorkersBackWhenClosed(t *testing.T) {
	d := bareCheckout(t, 2)
	busy := d.tryTake()
	d.close()
	require.EqualValues(t, 1, d.puddle.Stat().AcquiredResources())
	d.put(busy)
	require.Zero(t, d.puddle.Stat().AcquiredResources())
	require.Zero(t, d.idleNow())
}

// A caller that leaves in the instant in which it is given a worker gets one outcome, and the
// worker is not lost.
func TestDeskLosesNoWorkerToCallersThatLeave(t *testing.T) {
	const callers, workers, rounds = 8, 3, 3000
	d := bareCheckout(t, workers)
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range rounds {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(20))*time.Microsecond)
				res := d.tryTake()
				if res == nil {
					deadline := time.Now().Add(time.Duration(rand.IntN(20)) * time.Microsecond)
					res, _ = d.wait(ctx, deadline, 1, func() bool { return rand.IntN(10) == 0 })
				}
				if res != nil {
					d.put(res)
				}
				cancel()
			}
		})
	}
	all.Wait()
	require.Equal(t, workers, d.idleNow())
	require.Zero(t, d.waiting.Load())
	require.Zero(t, d.queue.length)
	d.close()
}
