//go:build linux

package pypool

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
)

// What strikes all workers at once, in the midst of calls.

func TestACommandIsNotClosedOffBecauseAllItsWorkersAreKilled(t *testing.T) {
	t.Parallel()
	signals := []syscall.Signal{syscall.SIGTERM}
	if _, counted := proc.OOMKills(); counted { // else a SIGKILL may be for want of memory
		signals = append(signals, syscall.SIGKILL)
	}
	for _, forks := range []bool{false, true} {
		for _, signal := range signals {
			cfg := forkConfig(t, 4, `
@command
def hold(mark, gate):
    with open(mark, "a") as notes:
        notes.write("begun\n")
    with open(gate) as fifo:
        fifo.read()
`)
			cfg.ForkServer, cfg.Breaker = forks, Breaker{Failures: 3, OpenFor: time.Hour}
			p := newPool(t, cfg)
			gate, mark := newLatch(t), newNotes(t)
			hold := func(int) (Result, error) {
				return p.ExecuteAnonymous(context.Background(), "hold", []string{mark.path, gate.path})
			}
			wait := inBackground(4, hold)
			eventually(t, "all have begun", func() bool { return len(mark.read()) == 4 })
			for _, w := range p.Workers() {
				require.NoError(t, syscall.Kill(w.PID, signal))
			}
			for _, out := range wait() {
				failsWith(t, out.err, ErrWorkerExited, MaybeExecuted)
			}
			eventually(t, "all are replaced", func() bool { return serving(p) })
			require.Equal(t, "closed", p.sup.breakers.state("hold"), "forks %v, %v", forks, signal)
			end := inBackground(1, hold)
			gate.release(t)
			require.NoError(t, end()[0].err)
		}
	}
}

// Calls that one after the other lose their workers are the command's doing, whoever has sent the
// signal; and so are workers that are lost side by side again and again.
func TestACommandIsClosedOffWhoseWorkersAreKilledAgainAndAgain(t *testing.T) {
	const concurrent = `["page","shared"],"concurrent":{"work":4}`
	for _, tc := range []struct {
		side int
		able string
	}{{1, ""}, {4, ""}, {1, concurrent}, {4, concurrent}} {
		t.Run(fmt.Sprint(tc.side, tc.able != ""), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &fleet{able: tc.able}
				f.script = func(p *fakeProcess, req fakeRequest) bool {
					if req.Command == "work" || req.Shared != nil {
						p.pause(time.Second)
						p.end(proc.ExitState{Code: -1, Signal: syscall.SIGKILL, NoOOM: true})
						return true
					}
					return false
				}
				p := open(t, f.config(4))
				defer p.Close()
				for range 5 {
					wait := inBackground(tc.side, func(int) (Result, error) { return p.ExecuteAnonymous(context.Background(), "work", nil) })
					for _, out := range wait() {
						failsWith(t, out.err, ErrWorkerExited, MaybeExecuted)
					}
					for p.Stats().Idle < 4 {
						time.Sleep(10 * time.Millisecond)
					}
				}
				_, err := p.ExecuteAnonymous(context.Background(), "work", nil)
				failsWith(t, err, ErrCircuitOpen, NotExecuted)
			})
		})
	}
}
