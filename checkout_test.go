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

func bareDesk() *desk { return &desk{maxQueue: 1 << 20, wanted: func() {}} }

// queueUp has a caller wait at the desk and returns where its outcome will be.
func queueUp(d *desk, ctx context.Context, deadline time.Time) <-chan error {
	outcome := make(chan error, 1)
	go func() { outcome <- d.take(ctx, deadline, never) }()
	synctest.Wait()
	return outcome
}

func TestDeskServesInTheOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bareDesk()
		var waiting []<-chan error
		for range 5 {
			waiting = append(waiting, queueUp(d, t.Context(), time.Time{}))
		}
		require.EqualValues(t, 5, d.waiting.Load())
		for i, first := range waiting {
			d.add()
			synctest.Wait()
			require.Len(t, first, 1)
			require.NoError(t, <-first)
			require.EqualValues(t, len(waiting)-1-i, d.waiting.Load())
		}
		require.False(t, d.tryTake())
		d.add()
		require.True(t, d.tryTake())
	})
}

// One timer serves all deadlines, in whatever order they come and go.
func TestDeskEndsEachWaitAtItsOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bareDesk()
		begun := time.Now()
		var callers sync.WaitGroup
		for _, ms := range rand.Perm(100) {
			callers.Go(func() {
				limit := time.Duration(ms) * time.Millisecond
				err := d.take(t.Context(), begun.Add(limit), never)
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
		d.add()
		require.NoError(t, <-forever)
		require.ErrorIs(t, <-later, errTimeout)
		require.Equal(t, begun.Add(time.Hour+99*time.Millisecond+time.Second), time.Now())
		d.close()
	})
}

func TestDeskTurnsAllAwayAndTakesCareOfThoseWhoComeTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := bareDesk()
		waiting := queueUp(d, t.Context(), time.Now().Add(time.Minute))
		d.turnAway()
		require.ErrorIs(t, <-waiting, errStopped)
		require.ErrorIs(t, d.take(t.Context(), time.Time{}, func() bool { return true }), errStopped)
		require.Zero(t, d.waiting.Load())
		d.close() // the timer is still set: synctest fails when it is left
	})
}

// A caller that leaves in the instant in which it is given a token gets one outcome, and the token is not lost.
func TestDeskLosesNoTokenToCallersThatLeave(t *testing.T) {
	const callers, tokens, rounds = 8, 3, 3000
	d := bareDesk()
	for range tokens {
		d.add()
	}
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range rounds {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(20))*time.Microsecond)
				deadline := time.Now().Add(time.Duration(rand.IntN(20)) * time.Microsecond)
				if d.tryTake() || d.take(ctx, deadline, func() bool { return rand.IntN(10) == 0 }) == nil {
					d.add()
				}
				cancel()
			}
		})
	}
	all.Wait()
	d.close()
	require.Equal(t, tokens, d.idleNow())
	require.Zero(t, d.waiting.Load())
	require.Zero(t, d.queue.Len())
}
