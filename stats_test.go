package pypool

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheErrorRateIsTheShareOfTheCalls(t *testing.T) {
	t.Parallel()
	assert.Zero(t, share(0, 0))
	assert.Equal(t, 0.25, share(1, 4))
}

func TestStatsAddUpAtEveryMoment(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for !isClosed(stop) {
				if i == 0 {
					_, _ = p.ExecuteAnonymous(t.Context(), "fail", args{"message": "x"})
				} else {
					_, _ = p.ExecuteAnonymous(t.Context(), "echo", args{"value": i})
				}
			}
		})
	}
	for range 300 {
		st := p.Stats()
		require.Equal(t, st.Started, st.Succeeded+st.Failed+st.InFlight)
		require.GreaterOrEqual(t, st.InFlight, int64(0))
		require.LessOrEqual(t, st.InFlight, int64(4))
		require.LessOrEqual(t, st.Idle+st.Busy+st.Starting, st.Workers)
		require.Equal(t, int64(st.Workers), st.WorkersStarted-st.WorkersExited)
		require.LessOrEqual(t, st.Waiting, 4)
		var sum int64
		for _, n := range st.ByType {
			sum += n
		}
		require.Equal(t, st.Failed, sum)
	}
	close(stop)
	wg.Wait()
	accounted(t, p)
}

func TestHealthDescribesBusyWorkersAsResponsiveWithoutPingingThem(t *testing.T) {
	t.Parallel()
	p := corePool(t, 2, 0)
	h := hold(t, t.Context(), p, "")
	health, err := p.HealthCheck(t.Context())
	require.NoError(t, err)
	assert.True(t, health.Healthy)
	assert.Equal(t, 2, health.Responsive)
	require.Len(t, health.Checks, 2)
	for _, c := range health.Checks {
		assert.Equal(t, c.State == "busy", c.RTT == 0, "%+v", c)
	}
	h.finish(t)
	require.NoError(t, p.Close())
	health, err = p.HealthCheck(t.Context())
	failure(t, err, ErrPoolClosed)
	assert.False(t, health.Healthy)
}

func TestHealthOfAPoolThatIsStillStartingIsAnError(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.script = func(p *fakeProcess, req fakeRequest) bool { return p.hang() }
		cfg := f.config(1)
		cfg.MinReady = -1
		p := open(t, cfg)
		defer p.Close()
		h, err := p.HealthCheck(context.Background())
		require.Error(t, err)
		assert.False(t, h.Healthy)
		assert.Zero(t, h.Responsive)
		assert.Equal(t, "closed", h.Breaker)
	})
}
