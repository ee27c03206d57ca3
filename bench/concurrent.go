package main

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pypool/pypool/bench/peers"
)

// concurrentGroup is calls of concurrent commands: many that wait, and many that do nothing, beside
// a loop that somebody wrote by hand.
func concurrentGroup() group {
	return group{name: "concurrent", title: "Concurrent commands: callers that share workers", cells: []cell{
		{"64c-1w/wait250ms", nil, func(b *bench, _ time.Duration) (round, error) { return b.waitTogether(1, 64, 250*time.Millisecond) }},
		{"1000c-2w/wait1s", nil, func(b *bench, _ time.Duration) (round, error) { return b.waitTogether(2, 1000, time.Second) }},
		peerCell("streams/64c", "streams", 64, small, func(b *bench) (*peers.Streams, error) { return peers.NewStreams(b.Env) }),
		{"pool/64c-1w", []reference{{"streams", "streams/64c"}}, func(b *bench, d time.Duration) (round, error) {
			p, err := b.pool(1)
			if err != nil {
				return nil, err
			}
			args := echoed{strings.Repeat("x", small)}
			return drive(64, d, func(int) error {
				_, err := p.ExecuteAnonymous(context.Background(), "aecho", args)
				return err
			})
		}},
	}}
}

// waitTogether measures how long it takes so many calls, begun at once, that each wait so long, and
// what they add to the workers' memory.
func (b *bench) waitTogether(workers, callers int, each time.Duration) (round, error) {
	p, err := b.pool(workers)
	if err != nil {
		return nil, err
	}
	memory := func() (sum float64) {
		for _, w := range p.Workers() {
			sum += float64(w.RSS) / (1 << 20)
		}
		return sum
	}
	if b.shrink > 1 {
		each /= time.Duration(b.shrink)
	}
	key := fmt.Sprintf("memory before %d", callers)
	before, err := share(b, key, func() (figure, error) { return figure(memory()), nil })
	if err != nil {
		return nil, err
	}
	runtime.GC()
	begun := time.Now()
	var calls errgroup.Group
	for range callers {
		calls.Go(func() error {
			_, err := p.ExecuteAnonymous(context.Background(), "aidle", timeArgs{int(each.Microseconds())})
			return err
		})
	}
	err = calls.Wait()
	return round{ms: millis(time.Since(begun)), rss: memory() - float64(before)}, err
}

// figure is a number that cells of a group share.
type figure float64

func (figure) Close() error { return nil }
