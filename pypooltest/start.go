package pypooltest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pypool/pypool"
)

const (
	startPatience = 10 * time.Second // what calls, processes and goroutines may take to end behind the test, on a busy machine
	startLook     = 2 * time.Millisecond
)

// Start opens a real pool of cfg for the test, or fails it, with what Python said. One worker and
// no Overflow are the default here, and so is a log that goes to the test's.
//
// When the test and its subtests are over, and what it has registered with t.Cleanup since, the
// pool is closed, and the test fails if something is left: a call that has not returned, a worker
// process, or a goroutine of the pool's. So the code under test has to end what it does before its
// test does.
func Start(t testing.TB, cfg pypool.Config) *pypool.Pool {
	t.Helper()
	if cfg.Size == 0 {
		cfg.Size = 1
	}
	if cfg.Overflow == 0 {
		cfg.Overflow = -1
	}
	log := &testLog{t: t}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	}
	number := strconv.FormatInt(started.Add(1), 10)
	var pool *pypool.Pool
	var err error
	pprof.Do(t.Context(), pprof.Labels(label, number), func(ctx context.Context) { pool, err = pypool.New(ctx, cfg) })
	if err != nil {
		var start *pypool.StartError
		if errors.As(err, &start) && start.Stderr != "" {
			t.Fatalf("%v\n%s", err, start.Stderr)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		t.Helper()
		for _, left := range finish(pool, number, startPatience) {
			t.Error(left)
		}
		log.end()
	})
	return pool
}

// finish closes the pool, and says what is left of it.
func finish(pool *pypool.Pool, number string, patience time.Duration) (left []string) {
	if !within(patience, func() bool { return pool.Stats().InFlight == 0 }) {
		left = append(left, fmt.Sprintf("the test is over, and calls of its pool have not returned: %d", pool.Stats().InFlight))
	}
	workers := pool.Workers()
	if err := pool.Close(); err != nil {
		left = append(left, err.Error())
	}
	for _, w := range workers {
		if !within(patience, func() bool { return !processExists(w.PID) }) {
			left = append(left, fmt.Sprintf("the pool is closed, and its worker %s, process %d, is still there", w.ID, w.PID))
		}
	}
	var stacks string
	if !within(patience, func() bool { stacks = goroutines(number); return stacks == "" }) {
		left = append(left, "the pool is closed, and goroutines of it are still there:\n"+stacks)
	}
	return left
}

func within(patience time.Duration, condition func() bool) bool {
	for end := time.Now().Add(patience); !condition(); time.Sleep(startLook) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func processExists(pid int) bool {
	process, err := os.FindProcess(pid)
	return err == nil && process.Signal(syscall.Signal(0)) == nil
}

// label is the key of the profiler's label that the goroutines of a pool have: they inherit it.
const label = "pypooltest"

var started atomic.Int64 // pools

// goroutines are the stacks of those with that label, as the profiler writes them.
func goroutines(number string) string {
	var profile strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return err.Error()
	}
	var found []string
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("%q:%q", label, number)) {
			found = append(found, stack)
		}
	}
	return strings.Join(found, "\n\n")
}

// testLog writes to the test's log, until that is over.
type testLog struct {
	mu sync.Mutex // guards t
	t  testing.TB
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t != nil {
		l.t.Logf("%s", strings.TrimSuffix(string(p), "\n"))
	}
	return len(p), nil
}

func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t = nil
}
