package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/pypool/pypool"
)

// leavingGroup is four patient callers of a handler of 10 ms on two workers whose replacement would
// take 3 s, alone and beside 50 callers a second that leave after 0 to 20 ms.
func leavingGroup() group {
	return group{name: "leaving", title: "Four patient callers on two workers with a setup of 3 s, handlers of 10 ms", cells: []cell{
		{"alone", nil, func(b *bench, d time.Duration) (round, error) { return b.patient(d, 0) }},
		{"leavers", []reference{{"alone", "alone"}}, func(b *bench, d time.Duration) (round, error) { return b.patient(d, 50) }},
	}}
}

// patient measures four callers beside so many a second that leave.
func (b *bench) patient(d time.Duration, leavers int) (round, error) {
	p, err := share(b, "pool with a setup", func() (warmPool, error) {
		setup := 3.0 / float64(b.shrink)
		p, err := pypool.New(context.Background(), pypool.Config{
			Script: b.worker, Python: b.Python, Size: 2, Overflow: -1, Logger: quiet, HealthCheckInterval: -1,
			Env: append(os.Environ(), fmt.Sprintf("BENCH_SETUP_S=%g", setup)),
		})
		return warmPool{p}, err
	})
	if err != nil {
		return nil, err
	}
	started := p.Stats().WorkersStarted
	ctx, stop := context.WithCancel(context.Background())
	var leaving sync.WaitGroup
	if leavers > 0 {
		leaving.Go(func() {
			tick := time.NewTicker(time.Second / time.Duration(leavers))
			defer tick.Stop()
			for ctx.Err() == nil {
				leaving.Go(func() {
					brief, cancel := context.WithCancel(ctx)
					defer cancel()
					time.AfterFunc(time.Duration(rand.Int64N(int64(20*time.Millisecond))), cancel)
					_, _ = p.ExecuteAnonymous(brief, "idle", timeArgs{10_000})
				})
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	r, err := drive(4, d, func(int) error {
		_, err := p.ExecuteAnonymous(context.Background(), "idle", timeArgs{10_000})
		return err
	})
	stop()
	leaving.Wait()
	if n := p.Stats().WorkersStarted - started; err == nil && n > 0 {
		err = fmt.Errorf("%d workers were started for callers that left", n)
	}
	return r, err
}
