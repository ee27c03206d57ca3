package metrics

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestQuantilesAreExactToASixteenth(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	for _, spread := range []time.Duration{10, 1000, time.Millisecond, time.Hour} {
		var h Histogram
		var all []time.Duration
		for range 5000 {
			d := time.Duration(r.Int64N(int64(spread)))
			h.Add(d)
			all = append(all, d)
		}
		slices.Sort(all)
		d := h.Distribution()
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
	assert.Equal(t, Distribution{}, new(Histogram).Distribution())
	var h Histogram
	h.Add(-time.Second) // a clock that went back
	h.Add(1<<63 - 1)
	assert.Equal(t, time.Duration(1<<63-1), h.Distribution().Max)
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
	var h Histogram
	h.Add(1234567)
	d := h.Distribution()
	assert.EqualValues(t, 1, d.Counts.UpTo(1234567))
	assert.Zero(t, d.Counts.UpTo(1234567*15/16))
	d.Counts = nil
	assert.Equal(t, Distribution{Count: 1, Sum: 1234567, P50: 1234567, P95: 1234567, P99: 1234567, Max: 1234567}, d)
}

func TestDurationsAreCountedUpToALimit(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	var a, b Histogram
	var all []time.Duration
	var total time.Duration
	for i := range 4000 {
		d := time.Duration(r.Int64N(int64(time.Minute)))
		if i%2 == 0 {
			a.AddMany(d, 3)
			all = append(all, d, d, d)
			total += 3 * d
		} else {
			b.Add(d)
			all = append(all, d)
			total += d
		}
	}
	var s Sum
	s.Add(&a)
	s.Add(&b)
	d := s.Distribution()
	assert.EqualValues(t, len(all), d.Count)
	assert.Equal(t, total, d.Sum, "the sum is exact")
	assert.Equal(t, slices.Max(all), d.Max)
	upTo := func(limit time.Duration) (n int64) {
		for _, v := range all {
			if v <= limit {
				n++
			}
		}
		return n
	}
	for _, limit := range []time.Duration{0, 1, time.Millisecond, time.Second, 10 * time.Second, 59 * time.Second, time.Hour, 1<<63 - 1} {
		got := d.Counts.UpTo(limit)
		assert.GreaterOrEqual(t, got, upTo(limit), "%v", limit)
		longer := limit + limit/16 + 1
		if longer < limit {
			longer = limit
		}
		assert.LessOrEqual(t, got, upTo(longer), "%v", limit)
	}
	assert.Zero(t, d.Counts.UpTo(-1))
	assert.Zero(t, new(Histogram).Distribution().Counts.UpTo(time.Hour))
}

func TestTheRateWindowSlides(t *testing.T) {
	t.Parallel()
	var w Rate
	w.Init(20 * time.Second) // slots of one second
	for s := range 10 {
		now := time.Duration(s) * time.Second
		w.Add(1, now, s%2 == 0)
	}
	sum := func(at time.Duration) [2]int64 {
		calls, failures := w.Sum(at)
		return [2]int64{calls, failures}
	}
	assert.Equal(t, [2]int64{10, 5}, sum(10*time.Second))
	assert.Equal(t, [2]int64{10, 5}, sum(19*time.Second))
	assert.Equal(t, [2]int64{9, 4}, sum(20*time.Second), "the first second has left")
	assert.Equal(t, [2]int64{5, 2}, sum(24*time.Second))
	assert.Equal(t, [2]int64{0, 0}, sum(29*time.Second))
	w.Add(1, 40*time.Second, true) // a slot is used again
	assert.Equal(t, [2]int64{1, 1}, sum(40*time.Second))
	assert.Equal(t, [2]int64{1, 1}, sum(59*time.Second))
}
