// Package metrics counts what a pool did: durations by their distribution, and the share of
// failures in a sliding window. Adding takes a few atomic operations and allocates nothing.
package metrics

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Histogram counts durations in log-linear buckets, 16 to each power of two. The zero value is
// empty and ready. It is safe for concurrent use.
type Histogram struct {
	buckets [64 * 16]atomic.Int64
	max     atomic.Int64
}

func bucketOf(ns uint64) int {
	if ns < 16 {
		return int(ns)
	}
	exp := bits.Len64(ns) - 5 // ns>>exp is 16..31
	return exp*16 + int(ns>>exp)
}

// bucketTop is the largest value that falls into bucket i.
func bucketTop(i int) time.Duration {
	if i < 32 {
		return time.Duration(i)
	}
	exp := i/16 - 1
	return time.Duration((uint64(i%16+16)+1)<<exp - 1)
}

// Add counts one duration; a negative one, of a clock that went back, counts as 0.
func (h *Histogram) Add(d time.Duration) { h.AddMany(d, 1) }

// AddMany is Add, n times.
func (h *Histogram) AddMany(d time.Duration, n int64) {
	d = max(d, 0)
	h.buckets[bucketOf(uint64(d))].Add(n)
	for {
		m := h.max.Load()
		if int64(d) <= m || h.max.CompareAndSwap(m, int64(d)) {
			return
		}
	}
}

// Distribution summarises what a Histogram has counted. Count and Max are exact, the quantiles to
// 1/16 of their value.
type Distribution struct {
	Count              int64
	P50, P95, P99, Max time.Duration
}

// Distribution is a snapshot. What is added meanwhile may be in it in part.
func (h *Histogram) Distribution() Distribution {
	var counts [len(h.buckets)]int64
	d := Distribution{Max: time.Duration(h.max.Load())}
	for i := range counts {
		counts[i] = h.buckets[i].Load()
		d.Count += counts[i]
	}
	quantile := func(q float64) time.Duration {
		rank := int64(q * float64(d.Count))
		for i, n := range counts {
			if rank -= n; rank < 0 {
				return min(bucketTop(i), d.Max)
			}
		}
		return d.Max
	}
	if d.Count > 0 {
		d.P50, d.P95, d.P99 = quantile(0.50), quantile(0.95), quantile(0.99)
	}
	return d
}
