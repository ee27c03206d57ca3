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
	buckets [buckets]atomic.Int64
	max     atomic.Int64
	sum     atomic.Int64
}

const buckets = 64 * 16

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
	h.sum.Add(int64(d) * n)
	for {
		m := h.max.Load()
		if int64(d) <= m || h.max.CompareAndSwap(m, int64(d)) {
			return
		}
	}
}

// Distribution summarises what Histograms have counted. Count, Sum and Max are exact, the quantiles
// to 1/16 of their value.
type Distribution struct {
	Count              int64
	Sum                time.Duration
	P50, P95, P99, Max time.Duration
	Counts             *Counts // nil: nothing was counted
}

// Counts are how many durations fell into which bucket, ascending.
type Counts []bucketCount

type bucketCount struct {
	top time.Duration // the largest that falls into it
	n   int64
}

// UpTo returns how many were not longer than limit. Those of the bucket that limit falls into count,
// so that some of them may be longer, by 1/16.
func (c *Counts) UpTo(limit time.Duration) (n int64) {
	if c == nil || limit < 0 {
		return 0
	}
	top := bucketTop(bucketOf(uint64(limit)))
	for _, b := range *c {
		if b.top > top {
			break
		}
		n += b.n
	}
	return n
}

// Sum is the durations of several Histograms together, while it is made. The zero Sum is empty.
type Sum struct {
	buckets [buckets]int64
	max     time.Duration
	sum     time.Duration
}

// Add adds a snapshot of what h has counted. What is added to h meanwhile may be in it in part.
func (s *Sum) Add(h *Histogram) {
	for i := range s.buckets {
		s.buckets[i] += h.buckets[i].Load()
	}
	s.max = max(s.max, time.Duration(h.max.Load()))
	s.sum += time.Duration(h.sum.Load())
}

// Distribution is a snapshot of one Histogram.
func (h *Histogram) Distribution() Distribution {
	var s Sum
	s.Add(h)
	return s.Distribution()
}

// Distribution summarises it.
func (s *Sum) Distribution() Distribution {
	d := Distribution{Sum: s.sum, Max: s.max}
	var counts Counts
	for i, n := range s.buckets {
		if n > 0 {
			d.Count += n
			counts = append(counts, bucketCount{bucketTop(i), n})
		}
	}
	quantile := func(q float64) time.Duration {
		rank := int64(q * float64(d.Count))
		for _, b := range counts {
			if rank -= b.n; rank < 0 {
				return min(b.top, d.Max)
			}
		}
		return d.Max
	}
	if d.Count > 0 {
		d.P50, d.P95, d.P99, d.Counts = quantile(0.50), quantile(0.95), quantile(0.99), &counts
	}
	return d
}
