package pypool

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestQuantilesAreExactToASixteenth(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	for _, spread := range []time.Duration{10, 1000, time.Millisecond, time.Hour} {
		var h histogram
		var all []time.Duration
		for range 5000 {
			d := time.Duration(r.Int64N(int64(spread)))
			h.add(d)
			all = append(all, d)
		}
		slices.Sort(all)
		d := h.distribution()
		assert.Equal(t, int64(5000), d.Count)
		assert.Equal(t, all[4999], d.Max, "the maximum is exact")
		for q, got := range map[int]time.Duration{2500: d.P50, 4750: d.P95, 4950: d.P99} {
			want := all[q]
			assert.GreaterOrEqual(t, got, want)
			assert.LessOrEqual(t, got, want+want/16+1)
		}
	}
}

func TestHistogramBucketsCoverEveryDurationWithoutGap(t *testing.T) {
	t.Parallel()
	assert.Equal(t, Distribution{}, new(histogram).distribution())
	var h histogram
	h.add(-time.Second) // a clock that went back
	h.add(1<<63 - 1)
	assert.Equal(t, time.Duration(1<<63-1), h.distribution().Max)
	last := 0
	for ns := uint64(0); ns < 1<<62; ns += 1 + ns/50 {
		i := bucketOf(ns)
		require.GreaterOrEqual(t, i, last)
		require.LessOrEqual(t, i, last+1, "no bucket is skipped before %d", ns)
		require.GreaterOrEqual(t, uint64(bucketTop(i)), ns)
		if i > 0 {
			require.Less(t, uint64(bucketTop(i-1)), ns)
		}
		last = i
	}
}

func TestOneValueIsAllItsQuantiles(t *testing.T) {
	t.Parallel()
	var h histogram
	h.add(1234567)
	assert.Equal(t, Distribution{Count: 1, P50: 1234567, P95: 1234567, P99: 1234567, Max: 1234567}, h.distribution())
}

func TestTheRateWindowSlides(t *testing.T) {
	t.Parallel()
	var w rateWindow
	w.init(20 * time.Second) // slots of one second
	for s := range 10 {
		now := time.Duration(s) * time.Second
		w.add(1, now, s%2 == 0)
	}
	sum := func(at time.Duration) [2]int64 {
		calls, failures := w.sum(at)
		return [2]int64{calls, failures}
	}
	assert.Equal(t, [2]int64{10, 5}, sum(10*time.Second))
	assert.Equal(t, [2]int64{10, 5}, sum(19*time.Second))
	assert.Equal(t, [2]int64{9, 4}, sum(20*time.Second), "the first second has left")
	assert.Equal(t, [2]int64{5, 2}, sum(24*time.Second))
	assert.Equal(t, [2]int64{0, 0}, sum(29*time.Second))
	w.add(1, 40*time.Second, true) // a slot is used again
	assert.Equal(t, [2]int64{1, 1}, sum(40*time.Second))
	assert.Equal(t, [2]int64{1, 1}, sum(59*time.Second))
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
