package pypool

import (
	"context"
	"math/rand"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A context may end between any two of a call's steps: a request that the pipe takes is written at
// once, payloads and all.
func TestCallersWhoLeaveWithSmallPayloadsCostNoWorker(t *testing.T) {
	p := newPool(t, Config{Size: 2, Overflow: -1, CancelGrace: time.Minute, Script: script(t, `
from pypool import command
@command
def same(a, b): return None
@command
def items(a, b):
    yield None
    yield None
`)})
	var callers sync.WaitGroup
	for caller := range 6 {
		callers.Go(func() {
			r := rand.New(rand.NewSource(int64(caller)))
			for i := range 500 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.Intn(1500))*time.Microsecond)
				given := args{"a": ArrayOf(pattern(100)), "b": pattern(1 << (3 * (i % 5)))} // to 4 KiB, and beyond
				if caller%2 == 0 {
					given["b"] = pattern(12_000)
				}
				if i%3 == 0 {
					for range p.Stream(ctx, "items", given) {
					}
				} else {
					_, _ = p.ExecuteAnonymous(ctx, "same", given)
				}
				cancel()
			}
		})
	}
	callers.Wait()
	eventually(t, "all are idle again", func() bool { return p.Stats().Idle == 2 })
	require.EqualValues(t, 2, p.Stats().WorkersStarted)
}
