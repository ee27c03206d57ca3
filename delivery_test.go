//go:build linux

package pypool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ledger knows what the pool said of each call; the journal knows what the handlers did: each
// appends its call's nonce, with one write, before it does anything else.
type ledger struct {
	path string

	mu    sync.Mutex // guards ends
	ends  map[string]Delivery
	began int
}

func newLedger(t testing.TB) *ledger {
	t.Helper()
	l := &ledger{path: filepath.Join(t.TempDir(), "journal"), ends: map[string]Delivery{}}
	require.NoError(t, os.WriteFile(l.path, nil, 0o600))
	return l
}

// begin names a call.
func (l *ledger) begin() (nonce string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.began++
	return fmt.Sprintf("call-%d", l.began)
}

// end notes what the pool said of it. A call that has ended before is an error.
func (l *ledger) end(t testing.TB, nonce string, err error) {
	delivery := Executed
	if err != nil {
		e, ok := err.(*Error)
		if !ok {
			t.Errorf("%s: %T is no *Error: %v", nonce, err, err)
			return
		}
		delivery = e.Delivery
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, twice := l.ends[nonce]; twice {
		t.Errorf("%s has ended twice", nonce)
	}
	l.ends[nonce] = delivery
}

// check compares the two. The pool must be closed: no handler runs any more.
func (l *ledger) check(t testing.TB) {
	t.Helper()
	text, err := os.ReadFile(l.path)
	require.NoError(t, err)
	executions := map[string]int{}
	for line := range strings.Lines(string(text)) {
		executions[strings.TrimSuffix(line, "\n")]++
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Len(t, l.ends, l.began, "every call has ended, once")
	count := map[Delivery]int{}
	for nonce, delivery := range l.ends {
		n := executions[nonce]
		count[delivery]++
		switch {
		case delivery == NotExecuted && n != 0, delivery == Executed && n != 1, n > 1:
			t.Errorf("%s is said to be %v, and ran %d times", nonce, delivery, n)
		}
		delete(executions, nonce)
	}
	require.Empty(t, executions, "handlers that no call asked for")
	t.Logf("%d calls: %d executed, %d not, %d maybe", l.began, count[Executed], count[NotExecuted], count[MaybeExecuted])
}

// TestFaultDeliveryIsTrue has callers make calls that end in every way there is while workers are
// killed, and compares what the pool says of each with what the handlers did.
func TestFaultDeliveryIsTrue(t *testing.T) {
	p := newPool(t, Config{
		Script: workerScript(t, "faults.py"), Python: realPython(), Size: 3, Overflow: -1, Logger: quiet(), MaxQueue: 5, KillGrace: 20 * time.Millisecond, StartTimeout: 20 * time.Second,
		Breaker: Breaker{Failures: -1}, MaxRestarts: -1, RestartBackoff: Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond},
	})
	l := newLedger(t)
	gate := newLatch(t)
	stop := make(chan struct{})
	var killer sync.WaitGroup
	killer.Go(func() {
		for seed := uint64(0); ; seed++ {
			select {
			case <-stop:
				return
			case <-time.After(120 * time.Millisecond):
			}
			r := rand.New(rand.NewPCG(seed, 1))
			if ws := p.Workers(); len(ws) > 0 {
				_ = syscall.Kill(ws[r.IntN(len(ws))].PID, []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[r.IntN(2)])
			}
		}
	})
	kinds := []string{"return", "return", "return", "return", "return", "nap", "nap", "nap", "nap", "raise", "raise", "exit", "kill", "nan", "block", "loop", "unknown", "misfit", "bad", "canceled", "large"}
	var callers sync.WaitGroup
	for i := range 6 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 2))
			for range 40 {
				nonce, kind := l.begin(), kinds[r.IntN(len(kinds))]
				ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
				command, in := "journal", args{"path": l.path, "nonce": nonce, "then": kind, "latch": gate.path}
				opts := []CallOption{WithTimeout(time.Duration(20+r.IntN(200)) * time.Millisecond), WithCheckoutTimeout(300 * time.Millisecond)}
				switch kind {
				case "unknown":
					command = "jornal"
				case "misfit":
					in["extra"] = 1
				case "bad":
					in["extra"] = func() {}
				case "canceled":
					in["then"] = "nap"
					time.AfterFunc(time.Duration(r.IntN(4000))*time.Microsecond, cancel)
				case "large":
					in["then"], in["latch"] = "return", strings.Repeat("x", 300_000)
				}
				_, err := p.ExecuteAnonymous(ctx, command, in, opts...)
				cancel()
				l.end(t, nonce, err)
			}
		})
	}
	callers.Wait()
	close(stop)
	killer.Wait()
	eventually(t, "the pool is at its full size again", func() bool { return serving(p) })
	t.Log(accounted(t, p).ByType)
	require.NoError(t, p.Close())
	l.check(t)
}
