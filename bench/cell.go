package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pypool/pypool/bench/peers"
)

// A cell is one thing that is measured again and again.
type cell struct {
	name    string
	vs      []reference
	measure func(b *bench, d time.Duration) (round, error)
}

// A reference is another cell of the group that this one is set against.
type reference struct {
	Title string `json:"title"`
	Cell  string `json:"cell"`
}

// A group is cells whose rounds are interleaved: A B C A B C. The processes that they need live as
// long as it is measured.
type group struct {
	name  string
	title string
	cells []cell
	pairs bool // cells stand in pairs, and every other round begins with the second of each
	often int  // rounds for each round of the other groups, for cells that vary much; 0: one
}

// A round is what one measurement of a cell gave, by metric.
type round map[string]float64

// The metrics.
const (
	p50       = "p50_us"
	p99       = "p99_us"
	perSecond = "calls_per_s"
	cpu       = "cpu_us"  // of the calling process, a call
	lockWait  = "wait_ns" // of its goroutines, for mutexes, a call
	ms        = "ms"
	dying     = "dying_ms" // from a SIGKILL until the kernel has taken the process apart
	rss       = "rss_mib"
	pss       = "pss_mib"
	kib       = "kib"
	hostPeak  = "host_x" // memory, as a multiple of the message
	workPeak  = "worker_x"
)

// bench is what cells are measured with.
type bench struct {
	peers.Env
	worker string // the pool's script
	shrink int    // divides the large messages: the smoke test's
	shared map[string]io.Closer
}

// newBench unpacks the scripts into a folder of its own; close removes it.
func newBench(ctx context.Context, python, venv string) (*bench, error) {
	real, err := resolve(ctx, python)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pypool-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{Env: peers.Env{Python: real, Venv: venv, Dir: dir}, worker: filepath.Join(dir, "worker.py"), shrink: 1, shared: map[string]io.Closer{}}
	if err := errors.Join(os.CopyFS(dir, peers.Scripts), os.WriteFile(b.worker, workerScript, 0o600)); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *bench) close() error { return errors.Join(b.closeShared(), os.RemoveAll(b.Dir)) }

// closeShared ends what the cells of a group have opened.
func (b *bench) closeShared() error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(b.shared)) {
		errs = append(errs, b.shared[key].Close())
	}
	clear(b.shared)
	return errors.Join(errs...)
}

// share opens what several cells of a group use, once.
func share[T io.Closer](b *bench, key string, open func() (T, error)) (T, error) {
	if s, ok := b.shared[key].(T); ok {
		return s, nil
	}
	s, err := open()
	if err == nil {
		b.shared[key] = s
	}
	return s, err
}

// drive lets callers call for d, after a tenth of d to warm up, and measures each call. What it
// takes to start the callers themselves, to grow their stacks and to make room for what they
// measure, does not count: with a thousand of them it is 3 % of a round.
func drive(callers int, d time.Duration, call func(caller int) error) (round, error) {
	runtime.GC()
	spans := make([][]time.Duration, callers)
	warm, start := time.Now().Add(d/10), make(chan struct{})
	var end time.Time
	var ready sync.WaitGroup
	ready.Add(callers)
	var group errgroup.Group
	for i := range callers {
		group.Go(func() error {
			mine := make([]time.Duration, 0, 1024)
			_, err := spansUntil(warm, mine, func() error { return call(i) })
			ready.Done()
			<-start
			if err == nil {
				spans[i], err = spansUntil(end, mine, func() error { return call(i) })
			}
			if err != nil {
				return fmt.Errorf("caller %d of %d: %w", i, callers, err)
			}
			return nil
		})
	}
	ready.Wait()
	begun, used := time.Now(), cpuTime()
	end = begun.Add(d)
	close(start)
	if err := group.Wait(); err != nil {
		return nil, err
	}
	took, used := time.Since(begun), cpuTime()-used
	all := slices.Concat(spans...)
	slices.Sort(all)
	n := len(all)
	return round{
		p50: micros(all[n/2]), p99: micros(all[n*99/100]),
		perSecond: float64(n) / took.Seconds(), cpu: micros(used) / float64(n),
	}, nil
}

// spansUntil calls until the end, at least once, and appends the time of every call.
func spansUntil(end time.Time, spans []time.Duration, call func() error) ([]time.Duration, error) {
	for last := time.Now(); ; {
		if err := call(); err != nil {
			return nil, err
		}
		now := time.Now()
		spans = append(spans, now.Sub(last))
		if now.After(end) {
			return spans, nil
		}
		last = now
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// cpuTime is what this process has used, in user and kernel.
func cpuTime() time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		return 0
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// quiet drops the pool's log.
var quiet = slog.New(slog.DiscardHandler)
