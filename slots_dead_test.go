//go:build linux

package pypool

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// deadSlots is a pool of workers that do not start where a file lies that has their slot's number.
func deadSlots(t *testing.T, size int, change func(*Config)) (p *Pool, dead func(slot int) (path string)) {
	t.Helper()
	place := t.TempDir()
	cfg := Config{
		Script: script(t, `
import os, time
import pypool
from pypool import command, current_worker
def lies(name):
    return os.path.exists(os.path.join(os.environ["PLACE"], os.environ["SLOT"] + name))

while lies("hold"):
    time.sleep(0.005)
if lies(""):
    raise OSError("the device is lost")

@command
def slot(): return current_worker().slot

@command
def retire(): pypool.retire("said")
`),
		Python: realPython(), Size: size, Overflow: -1, Logger: testLogger(t), RestartBackoff: Backoff{5 * time.Millisecond, 50 * time.Millisecond},
		ExtraEnv: []string{"PLACE=" + place}, WorkerEnv: func(slot int) []string { return []string{fmt.Sprint("SLOT=", slot)} },
	}
	if change != nil {
		change(&cfg)
	}
	return newPool(t, cfg), func(slot int) string { return filepath.Join(place, fmt.Sprint(slot)) }
}

// killSlot ends the worker that has the slot.
func killSlot(t *testing.T, p *Pool, slot int) {
	t.Helper()
	for _, w := range p.Workers() {
		if w.Slot == slot {
			kill(t, w.PID)
			eventually(t, "it is gone", func() bool {
				return !slices.ContainsFunc(p.Workers(), func(other WorkerInfo) bool { return other.ID == w.ID })
			})
		}
	}
}

// workerIn returns the ready worker that has the slot, and its id; not one that is called so.
func workerIn(p *Pool, slot int, not string) (info WorkerInfo, id string) {
	for _, w := range p.Workers() {
		if w.Slot == slot && w.State != workerStarting && w.State != workerStopping && w.ID != not {
			return w, w.ID
		}
	}
	return WorkerInfo{}, ""
}

// A slot where nothing starts, for want of its device, holds up no other's worker: neither one that
// is worn out, nor one that asks to be replaced.
func TestASlotWhereNothingStartsHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	for _, breaks := range []bool{false, true} {
		t.Run(fmt.Sprint("BreakBeforeMake ", breaks), func(t *testing.T) {
			t.Parallel()
			p, dead := deadSlots(t, 3, func(c *Config) { c.BreakBeforeMake = breaks })
			newFile(t, dead(0))
			killSlot(t, p, 0)
			eventually(t, "a start has failed", func() bool { return p.sup.lastError() != nil })
			for range 3 {
				executed(t, p, "retire", nil)
				eventually(t, "it is replaced", func() bool {
					_, one := workerIn(p, 1, "")
					_, two := workerIn(p, 2, "")
					list := p.Workers()
					for _, w := range list {
						if w.Retired != "" {
							return false
						}
					}
					return one != "" && two != ""
				})
			}
			require.NoError(t, os.Remove(dead(0)))
			eventually(t, "all are there", func() bool { return serving(p) })
		})
	}
	t.Run("MaxCalls", func(t *testing.T) {
		t.Parallel()
		p, dead := deadSlots(t, 2, func(c *Config) { c.MaxCalls = 3 })
		newFile(t, dead(0))
		killSlot(t, p, 0)
		eventually(t, "a start has failed", func() bool { return p.sup.lastError() != nil })
		for range 3 {
			w, id := workerIn(p, 1, "")
			for range 3 - w.Calls {
				executed(t, p, "slot", nil)
			}
			eventually(t, "it is replaced", func() bool {
				_, other := workerIn(p, 1, id)
				_, old := workerIn(p, 1, other)
				return other != "" && old == ""
			})
		}
	})
}

// While one start is tried at a time, each slot has its turn.
func TestASlotWhereNothingStartsLeavesTheOthersTheirTurn(t *testing.T) {
	t.Parallel()
	p, dead := deadSlots(t, 3, func(c *Config) { c.MaxRestarts = 2 })
	for slot := range 3 {
		newFile(t, dead(slot))
	}
	kill(t, pids(p)...)
	eventually(t, "the circuit is open", func() bool { return p.Stats().Breaker == circuitOpen })
	require.NoError(t, os.Remove(dead(2)))
	eventually(t, "it serves", func() bool {
		var slot int
		res, err := p.ExecuteAnonymous(t.Context(), "slot", nil)
		if err != nil {
			require.ErrorIs(t, err, ErrCircuitOpen)
			return false
		}
		require.NoError(t, res.Decode(&slot))
		return slot == 2
	})
}

// The pool's circuit opens when nothing can start, and closes with the first worker that is there:
// also when its start was begun before, and other slots go on failing.
func TestTheCircuitClosesWithAWorkerWhoseStartWasBegunBefore(t *testing.T) {
	t.Parallel()
	p, dead := deadSlots(t, 2, func(c *Config) { c.MaxRestarts = 2 })
	failed := func() int {
		p.sup.mu.Lock()
		defer p.sup.mu.Unlock()
		return p.sup.history.failed
	}
	newFile(t, dead(0))
	killSlot(t, p, 0)
	eventually(t, "its starts have failed", func() bool { return failed() > 2 })
	newFile(t, dead(1)+"hold")
	killSlot(t, p, 1)
	eventually(t, "the circuit is open", func() bool { return p.Stats().Breaker != circuitClosed })
	require.NoError(t, os.Remove(dead(1)+"hold"))
	eventually(t, "the worker is there", func() bool { _, id := workerIn(p, 1, ""); return id != "" })
	eventually(t, "it serves", func() bool { _, err := p.ExecuteAnonymous(t.Context(), "slot", nil); return err == nil })
	for before := failed(); failed() < before+4; time.Sleep(time.Millisecond) {
		executed(t, p, "slot", nil)
		require.Equal(t, circuitClosed, p.Stats().Breaker)
	}
}
