//go:build linux

package pypool

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func sharedPool(t testing.TB, size int, change func(*Config)) *Pool {
	t.Helper()
	cfg := Config{
		Script: workerScript(t, "concurrent.py"), Python: realPython(), Size: size, Overflow: -1, Logger: quiet(), CancelGrace: 20 * time.Second,
		Breaker: Breaker{Failures: 2, OpenFor: time.Hour}, CheckoutTimeout: 20 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	return newPool(t, cfg)
}

// sideBySide starts n calls that wait at one gate, and returns when all run; open lets them end.
func sideBySide(t testing.TB, p *Pool, n int, command string) (open func() []outcome) {
	t.Helper()
	gate, mark := newLatch(t), newNotes2(t)
	wait := inBackground(n, func(int) (Result, error) {
		return p.ExecuteAnonymous(context.Background(), command, args{"mark": mark.path, "gate": gate.path})
	})
	eventually(t, fmt.Sprintf("%d calls of %s run", n, command), func() bool { return len(mark.read()) == n })
	return func() []outcome {
		gate.release(t)
		return wait()
	}
}

func newNotes2(t testing.TB) notebook { return notebook{t.(*testing.T), t.TempDir() + "/notes"} }

func TestConcurrentCallsShareAWorker(t *testing.T) {
	p := sharedPool(t, 1, nil)
	open := sideBySide(t, p, 64, "hold")
	require.Equal(t, "shared", p.Workers()[0].State)
	st := p.Stats()
	require.Equal(t, 1, st.Busy)
	require.EqualValues(t, 64, st.InFlight)
	want := pids(p)[0]
	for _, out := range open() {
		require.NoError(t, out.err)
		require.Equal(t, want, decoded[int](t, out.res))
	}
	eventually(t, "the worker is idle again", func() bool { return p.Workers()[0].State == "idle" })
	require.Equal(t, want, pidOf(t, p))
}
