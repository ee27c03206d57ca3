//go:build linux

package pypool

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A worker that is idle, and says that it is broken, is not there for those who come then.
func TestWhoSaysIdlyThatItIsBrokenServesNothing(t *testing.T) {
	t.Parallel()
	for _, forked := range []bool{false, true} {
		events := &eventLog{}
		p, at := retirementPool(t, 2, func(c *Config) { c.ForkServer, c.Observer = forked, &Observer{Event: events.add} })
		broken := sayBetween(t, p, at)
		at.put("hold starts")
		for range 20 {
			require.NotEqual(t, broken, pidNow(t, p))
			for _, out := range inBackground(3, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "pid", nil) })() {
				require.NoError(t, out.err)
				require.NotEqual(t, broken, decoded[int](t, out.res))
			}
			for _, out := range inBackground(3, func(int) (Result, error) {
				return p.ExecuteAnonymous(t.Context(), "beside", args{"how": "good"})
			})() {
				require.NoError(t, out.err)
			}
		}
		ev := toldOf(t, events, EventWorkerRetired, 1)[0]
		assert.Equal(t, broken, ev.PID)
		assert.Equal(t, "said between two calls", ev.Cause)
		assert.Zero(t, ev.RequestID)
		at.take("hold starts")
		eventually(t, "it is replaced", func() bool { return serving(p) && p.Stats().Recycled == 1 })
		require.Zero(t, accounted(t, p).Failed)
	}
}

// All of them: whoever comes is served all the same.
func TestAllSayIdlyThatTheyAreBroken(t *testing.T) {
	t.Parallel()
	p, at := retirementPool(t, 2, nil)
	at.put("in the call")
	broken := map[int]bool{}
	for len(broken) < 2 {
		for _, out := range inBackground(2, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "leave_later", nil) })() {
			require.NoError(t, out.err)
			broken[decoded[int](t, out.res)] = true
		}
	}
	at.put("hold starts")
	at.take("in the call")
	eventually(t, "they say so", func() bool { return broken[pidNow(t, p)] && p.Stats().Retired == 2 })
	for range 10 {
		require.True(t, broken[pidNow(t, p)])
	}
	at.take("hold starts")
	eventually(t, "they are replaced", func() bool { return serving(p) && p.Stats().Recycled == 2 })
	require.Zero(t, accounted(t, p).Failed)
}

// Code in a worker may write what it likes into its page.
func TestWhatAWorkerWritesIntoItsPageCostsItAlone(t *testing.T) {
	t.Parallel()
	events := &eventLog{}
	p, at := retirementPool(t, 2, func(c *Config) { c.Breaker.Failures, c.Observer = 1, &Observer{Event: events.add} })
	before := pids(p)
	liar := decoded[int](t, executed(t, p, "lie", args{"value": uint64(1) << 63}))
	for range 20 {
		require.NotEqual(t, liar, pidNow(t, p))
	}
	eventually(t, "it is replaced", func() bool { return serving(p) && p.Stats().Recycled == 1 })
	ev := toldOf(t, events, EventWorkerRetired, 1)[0]
	assert.Equal(t, liar, ev.PID)
	assert.Equal(t, "its shared page says so, and nothing says why", ev.Cause)
	assert.Empty(t, ev.Command)
	kept := 0
	for _, pid := range before {
		if pid != liar {
			assert.Contains(t, pids(p), pid)
			kept++
		}
	}
	require.Equal(t, 1, kept)

	executed(t, p, "leave_in_a_child", nil)
	for range 4 { // both of them, by turns or not
		inBackground(2, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "pid", nil) })()
	}
	require.Equal(t, int64(1), p.Stats().Retired, "a child is no worker")

	// What overwrites it keeps nothing from being heard.
	broken := sayBetween(t, p, at)
	_, err := p.HealthCheck(t.Context())
	require.NoError(t, err)
	eventually(t, "it is replaced", func() bool { return serving(p) && p.Stats().Recycled == 2 })
	require.NotContains(t, pids(p), broken)
	require.Zero(t, accounted(t, p).Failed)
}
