package pypooltest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"runtime/pprof"
	"slices"
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
// process, or a goroutine: the pool's own, or one that a call has begun for code of the test's,
// which is a function of Config.Functions or the items of a Map. Of calls, those are seen that
// were made on the test's goroutine or on one begun from there after Start, whichever pool they
// were made of. So the code under test has to end what it does before its test does. What still
// ends within 10 s is waited for.
func Start(t testing.TB, cfg pypool.Config) *pypool.Pool {
	if t == nil {
		panic("pypooltest: Start needs the test's T, and got nil")
	}
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
	test := attend(t)
	var pool *pypool.Pool
	var err error
	pprof.Do(t.Context(), pprof.Labels(label, number), func(ctx context.Context) { pool, err = pypool.New(ctx, cfg) })
	if err != nil {
		test.leave()
		var start *pypool.StartError
		if errors.As(err, &start) && start != nil && start.Stderr != "" {
			t.Fatalf("%v\n%s", err, start.Stderr)
		}
		t.Fatal(err)
	}
	test.label()
	t.Cleanup(func() {
		t.Helper()
		for _, left := range finish(pool, number, startPatience) {
			t.Error(left)
		}
		if test.leave() {
			for _, left := range test.left(startPatience) {
				t.Error(left)
			}
		}
		log.end()
	})
	return pool
}

// attended is a test that has pools, whose goroutine has a label: what it begins inherits that.
type attended struct {
	key    any
	number string
	pools  int // that have not been closed; the mutex of tests guards it
}

var tests = struct {
	mu    sync.Mutex // guards the fields below
	known map[any]*attended
	last  int
}{known: map[any]*attended{}}

// attend is for one more pool of the test's.
func attend(t testing.TB) *attended {
	var key any = t
	if !reflect.TypeOf(t).Comparable() {
		key = new(int)
	}
	tests.mu.Lock()
	defer tests.mu.Unlock()
	a := tests.known[key]
	if a == nil {
		tests.last++
		a = &attended{key: key, number: strconv.Itoa(tests.last)}
		tests.known[key] = a
	}
	a.pools++
	return a
}

// leave reports whether that was the last of the pools.
func (a *attended) leave() (last bool) {
	tests.mu.Lock()
	defer tests.mu.Unlock()
	if a.pools--; a.pools > 0 {
		return false
	}
	delete(tests.known, a.key)
	return true
}

// label marks the goroutine.
func (a *attended) label() {
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(testLabel, a.number)))
}

// left says which goroutines the test's calls have left behind, and takes the label off.
func (a *attended) left(patience time.Duration) (left []string) {
	var stacks string
	if !within(patience, func() bool { stacks = goroutines(testLabel, a.number, ofCalls...); return stacks == "" }) {
		left = append(left, "the test is over, and goroutines that its calls have begun are still there:\n"+stacks)
	}
	pprof.SetGoroutineLabels(context.Background())
	return left
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
	if !within(patience, func() bool { stacks = goroutines(label, number); return stacks == "" }) {
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

// The keys of the profiler's labels that the goroutines of a pool, and those of a test, have: they
// inherit them.
const (
	label     = "pypooltest"
	testLabel = "pypooltest_test"
)

// ofCalls are the functions of the goroutines that a call begins on its caller's, and that run
// code of the caller's.
var ofCalls = []string{
	"github.com/pypool/pypool.(*mapper[...]).feed+", "github.com/pypool/pypool.(*mapper[...]).call+", "github.com/pypool/pypool.(*functionRun).do+",
}

var started atomic.Int64 // pools

// goroutines are the stacks of those with that label, as the profiler writes them; of those that run
// one of the functions, where there are any.
func goroutines(key, number string, functions ...string) string {
	var profile strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return err.Error()
	}
	var found []string
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		runs := func(function string) bool { return strings.Contains(stack, function) }
		if runs(fmt.Sprintf("%q:%q", key, number)) && (len(functions) == 0 || slices.ContainsFunc(functions, runs)) {
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
