//go:build linux

package pypool

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What a Map's items show of their command counts as that of calls does.

func dyingPool(t *testing.T, size int, breaker Breaker) *Pool {
	t.Helper()
	return newPool(t, Config{
		Script: script(t, "import os\nfrom pypool import command\n@command\ndef f(x):\n    if x < 0: os._exit(3)\n    return x\n"),
		Python: realPython(), Size: size, Overflow: -1, Logger: testLogger(t), Breaker: breaker, RestartBackoff: Backoff{time.Millisecond, 10 * time.Millisecond},
	})
}

// endlessly yields the items again and again.
func endlessly[T any](items ...T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for {
			for _, item := range items {
				if !yield(item) {
					return
				}
			}
		}
	}
}

// Workers that are lost with answers between are not lost in a row, also where a Map has had all of
// these answers from them.
func TestTheAnswersOfAMapComeBetweenTheWorkersThatItLoses(t *testing.T) {
	t.Parallel()
	p := dyingPool(t, 1, Breaker{Failures: 2, OpenFor: time.Hour})
	var lost, n int
	for out, err := range Map[int](t.Context(), p, "f", slices.Values([]int{0, 1, -1, 3, 4, -1, 6, 7, -1, 9, 10, -1, 12})) {
		if err == nil {
			require.Equal(t, n, out)
		} else {
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			lost++
		}
		n++
	}
	assert.Equal(t, 13, n)
	assert.Equal(t, 4, lost)

	var last error
	for _, err := range Map[int](t.Context(), p, "f", slices.Values([]int{-1, -1, -1, -1})) {
		last = err
	}
	require.ErrorIs(t, last, ErrCircuitOpen, "those are in a row")
}

// A Map may last for hours: when it is the circuit's probe, its first answer is what that waits
// for. Until then its other workers wait, too.
func TestAMapThatIsAProbePassesWithItsFirstAnswer(t *testing.T) {
	t.Parallel()
	p := dyingPool(t, 3, Breaker{Failures: 1, OpenFor: time.Second})
	halfOpen := func() {
		_, err := Call[int](t.Context(), p, "f", []int{-1})
		require.ErrorIs(t, err, ErrWorkerExited)
		eventually(t, "the pool has all its workers", func() bool { return serving(p) })
		eventually(t, "the circuit lets one call in", func() bool { return p.Circuits()[1].State == circuitHalfOpen })
	}
	halfOpen()
	n := 0
	for _, err := range Map[int](t.Context(), p, "f", endlessly(1, 2, 3)) {
		require.NoError(t, err)
		if n++; n == 1 {
			_, err := Call[int](t.Context(), p, "f", []int{7})
			require.NoError(t, err, "beside the Map")
		}
		if n == 5000 {
			break
		}
	}

	halfOpen()
	lost := 0
	for _, err := range Map[int](t.Context(), p, "f", slices.Values([]int{-1, -1, -1, -1, -1, -1})) {
		if !errors.Is(err, ErrCircuitOpen) {
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			lost++
		}
	}
	assert.Equal(t, 1, lost, "the probe has shown that nothing is mended")
}

// A command that has its workers replaced is refused alone, also in a Map.
func TestAMapWhoseItemsRetireTheirWorkersIsRefused(t *testing.T) {
	t.Parallel()
	p, at := healthPool(t, 1, func(c *Config) {
		c.Breaker, c.MaxRestarts, c.RestartBackoff = Breaker{Failures: 3, OpenFor: time.Hour}, -1, Backoff{time.Millisecond, 10 * time.Millisecond}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, err := range Map[int](ctx, p, "poison", endlessly(1)) {
		if errors.Is(err, ErrCircuitOpen) {
			circuit := detail[*CircuitError](t, err)
			assert.Equal(t, "poison", circuit.Command)
			assert.ErrorContains(t, circuit.Cause, "command poison raised health.DeadContext (retire_on)")
			break
		}
		require.ErrorIs(t, err, ErrPython)
	}
	assert.LessOrEqual(t, at.starts(), 1+3)
}

// A Map that does not end holds up no Shutdown: what is sent is served, and the rest is refused as
// calls are.
func TestShutdownDoesNotWaitForTheRestOfAMap(t *testing.T) {
	t.Parallel()
	p := dyingPool(t, 2, Breaker{})
	var done chan error
	n := 0
	for _, err := range Map[int](t.Context(), p, "f", endlessly(1, 2, 3)) {
		if n++; n == 1000 {
			done = make(chan error, 1)
			go func() { done <- p.Shutdown(context.Background()) }() // joined by done
		}
		if err != nil {
			failsWith(t, err, ErrPoolClosed, NotExecuted)
			break
		}
	}
	require.NoError(t, <-done)
	st := p.Stats()
	assert.Equal(t, st.Started, st.Succeeded+st.Failed)
	assert.Equal(t, st.ByType[TypePoolNotAvailable]+st.ByType[TypeCanceled], st.Failed, "%v", st.ByType)
}
