package pypooltest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// trial is a test's T whose failures a test reads.
type trial struct {
	testing.TB
	cleanups []func()
	errors   []string
}

func (r *trial) Helper()             {}
func (r *trial) Cleanup(f func())    { r.cleanups = append(r.cleanups, f) }
func (r *trial) Error(values ...any) { r.errors = append(r.errors, fmt.Sprint(values...)) }
func (r *trial) Fatal(values ...any) { r.Error(values...); runtime.Goexit() }
func (r *trial) Fatalf(format string, values ...any) {
	r.Fatal(fmt.Sprintf(format, values...))
}

func (r *trial) end() {
	for i := range r.cleanups {
		r.cleanups[len(r.cleanups)-1-i]()
	}
}

var config = pypool.Config{Script: "testdata/worker.py", Python: os.Getenv("PYPOOL_PYTHON")}

func TestStartLeavesNothing(t *testing.T) {
	t.Parallel()
	r := &trial{TB: t}
	pool := Start(r, config)
	require.Equal(t, []int{1, 0}, []int{pool.Stats().Size, pool.Stats().Overflow})
	require.NotEmpty(t, goroutinesOf(t, pool), "its goroutines are known")
	sum, err := pypool.Call[int](t.Context(), pool, "add", []int{40, 2})
	require.NoError(t, err)
	require.Equal(t, 42, sum)
	r.end()
	require.Empty(t, r.errors)
	_, err = pypool.Call[int](t.Context(), pool, "add", []int{40, 2})
	require.ErrorIs(t, err, pypool.ErrPoolClosed)
}

// goroutinesOf are those of the pool that was started last.
func goroutinesOf(t *testing.T, _ *pypool.Pool) (stacks string) {
	t.Helper()
	for n := started.Load(); n > 0 && stacks == ""; n-- {
		stacks = goroutines(label, fmt.Sprint(n))
	}
	return stacks
}

func TestStartFailsWithWhatPythonSaid(t *testing.T) {
	t.Parallel()
	cfg := config
	cfg.Script = t.TempDir() + "/worker.py"
	require.NoError(t, os.WriteFile(cfg.Script, []byte("import nmupy\n"), 0o600))
	r, done := &trial{TB: t}, make(chan bool)
	go func() {
		defer close(done)
		Start(r, cfg)
		done <- true
	}()
	require.False(t, <-done)
	require.Len(t, r.errors, 1)
	require.Contains(t, r.errors[0], "worker_start_failed")
	require.Contains(t, r.errors[0], "Traceback (most recent call last)")
	require.Contains(t, r.errors[0], "No module named 'nmupy'")
	r.end()
}

func TestACallThatIsForgottenFailsTheTest(t *testing.T) {
	t.Parallel()
	pool, err := pypool.New(t.Context(), config)
	require.NoError(t, err)
	done := make(chan error)
	go func() {
		_, err := pool.ExecuteAnonymous(context.Background(), "sleep", map[string]any{"seconds": 60})
		done <- err
	}()
	for pool.Stats().Busy == 0 {
		time.Sleep(startLook)
	}
	require.Equal(t, []string{"the test is over, and calls of its pool have not returned: 1"}, finish(pool, "none", startLook))
	require.ErrorIs(t, <-done, pypool.ErrPoolClosed)
}

func TestAGoroutineThatIsLeftFailsTheTest(t *testing.T) {
	t.Parallel()
	pool, err := pypool.New(t.Context(), config)
	require.NoError(t, err)
	gate := make(chan struct{})
	defer close(gate)
	pprof.Do(t.Context(), pprof.Labels(label, "of a test's"), func(context.Context) {
		go func() { <-gate }()
	})
	left := finish(pool, "of a test's", time.Second)
	require.Len(t, left, 1)
	require.True(t, strings.HasPrefix(left[0], "the pool is closed, and goroutines of it are still there:\n"))
	require.Contains(t, left[0], "TestAGoroutineThatIsLeftFailsTheTest")
}
