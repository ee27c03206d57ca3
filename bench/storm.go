package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pypool/pypool"
)

const (
	stormWorkers = 32
	stormSetup   = 3 * time.Second

	hangWorkers = 4
	hangSetup   = time.Second
	hangTimeout = 100 * time.Millisecond
	hangEvery   = 100                  // of so many calls one hangs
	hangHandler = 2 * time.Millisecond // of the others
	hangGap     = 4 * time.Millisecond // between two calls: an eighth of what four workers can do
	hangLength  = 5 * time.Second
)

// stormGroup is trouble that strikes many workers, or one after another: how long a pool takes to
// be whole again when all its workers are killed, against New of the same pool; and what callers
// notice of calls of others that hang.
func stormGroup() group {
	g := group{name: "storm", title: fmt.Sprintf("%d workers with a setup of %v that are all killed; one call of %d that hangs, on %d workers with a setup of %v, an eighth of what they can do", stormWorkers, stormSetup, hangEvery, hangWorkers, hangSetup)}
	for _, way := range []string{"executed", "forked"} {
		forks, fresh, key := way == "forked", way+"/new", "storm of the "+way
		g.cells = append(g.cells,
			cell{fresh, nil, func(b *bench, _ time.Duration) (round, error) {
				if old := b.shared[key]; old != nil {
					delete(b.shared, key)
					if err := old.Close(); err != nil {
						return nil, err
					}
				}
				s, err := share(b, key, func() (*storm, error) { return b.newStorm(forks) })
				if err != nil {
					return nil, err
				}
				return round{ms: millis(s.took)}, nil
			}},
			cell{way + "/killed", []reference{{"new", fresh}}, func(b *bench, _ time.Duration) (round, error) {
				s, err := share(b, key, func() (*storm, error) { return b.newStorm(forks) })
				if err != nil {
					return nil, err
				}
				return s.killAll()
			}})
	}
	none := reference{"none", "hangs/none"}
	g.cells = append(g.cells,
		cell{none.Cell, nil, func(b *bench, _ time.Duration) (round, error) { return b.besideHangs("") }},
		cell{"hangs/stop", []reference{none}, func(b *bench, _ time.Duration) (round, error) { return b.besideHangs("hang") }},
		cell{"hangs/deaf", []reference{none}, func(b *bench, _ time.Duration) (round, error) { return b.besideHangs("deaf") }},
	)
	return g
}

// storm is a pool whose workers are to be killed.
type storm struct {
	warmPool
	took  time.Duration // by New
	ready chan time.Time
}

func (b *bench) setup(d time.Duration) []string {
	return append(os.Environ(), fmt.Sprintf("BENCH_SETUP_S=%g", d.Seconds()/float64(b.shrink)))
}

func (b *bench) newStorm(forks bool) (*storm, error) {
	s := &storm{ready: make(chan time.Time, 4*stormWorkers)}
	begun := time.Now()
	p, err := pypool.New(context.Background(), pypool.Config{
		Script: b.worker, Python: b.Python, Size: max(2, stormWorkers/b.shrink), Overflow: -1, ForkServer: forks, Logger: quiet, HealthCheckInterval: -1,
		Env: b.setup(stormSetup),
		Observer: &pypool.Observer{Event: func(e pypool.Event) {
			if e.Kind == pypool.EventWorkerStarted {
				s.ready <- time.Now()
			}
		}},
	})
	s.warmPool, s.took = warmPool{p}, time.Since(begun)
	return s, err
}

// killAll measures the time from the death of all workers until as many are ready.
func (s *storm) killAll() (round, error) {
	workers := s.Workers()
	for range workers {
		<-s.ready
	}
	begun := time.Now()
	for _, w := range workers {
		if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
			return nil, err
		}
	}
	back := begun
	for range workers {
		select {
		case back = <-s.ready:
		case <-time.After(2 * time.Minute):
			return nil, fmt.Errorf("%d workers were killed, and after two minutes not as many are back", len(workers))
		}
	}
	for range workers {
		s.ready <- back // for the next time
	}
	return round{ms: millis(back.Sub(begun))}, nil
}

// besideHangs measures calls that come at a steady pace, each from when it was to begin. One of
// hangEvery is of the command that hangs instead, until its time is over; empty: none is.
func (b *bench) besideHangs(hangs string) (round, error) {
	p, err := share(b, "pool with hangs "+hangs, func() (warmPool, error) {
		p, err := pypool.New(context.Background(), pypool.Config{
			Script: b.worker, Python: b.Python, Size: hangWorkers, Logger: quiet, HealthCheckInterval: -1, Env: b.setup(hangSetup),
		})
		return warmPool{p}, err
	})
	if err != nil {
		return nil, err
	}
	var (
		calls errgroup.Group
		mu    sync.Mutex // guards took
		took  []time.Duration
	)
	ctx := context.Background()
	begun, used := time.Now(), cpuTime()
	for i := range int(hangLength/hangGap) / b.shrink {
		due := begun.Add(time.Duration(i) * hangGap)
		time.Sleep(time.Until(due))
		if hangs != "" && i%hangEvery == hangEvery/2 {
			calls.Go(func() error {
				_, err := p.ExecuteAnonymous(ctx, hangs, nil, pypool.WithTimeout(hangTimeout))
				if err == nil {
					return fmt.Errorf("%s has returned", hangs)
				}
				return nil
			})
			continue
		}
		calls.Go(func() error {
			_, err := p.ExecuteAnonymous(ctx, "idle", timeArgs{int(hangHandler.Microseconds())})
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(due))
			return err
		})
	}
	if err := calls.Wait(); err != nil {
		return nil, err
	}
	slices.Sort(took)
	n := len(took)
	return round{p50: micros(took[n/2]), p99: micros(took[n*99/100]), cpu: micros(cpuTime()-used) / float64(n)}, nil
}
