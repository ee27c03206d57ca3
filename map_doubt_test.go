package pypool

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A runtime that fails is not trusted with another item: what it has is answered, and the others go
// to its replacement.
func TestAMapGivesNothingMoreToAWorkerWhoseRuntimeHasFailed(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var failures atomic.Int32
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command != "item" || p.n > 1 {
				return false
			}
			failures.Add(1)
			p.say(fmt.Sprintf(`{"id":%d,"success":false,"error":{"kind":"internal","message":"lost its way"}}`+"\n", req.ID))
			return true
		}
		p := open(t, f.config(1))
		defer p.Close()
		const items = 2000
		failed, n := 0, 0
		for _, err := range Map[any](t.Context(), p, "item", integers(items)) {
			n++
			if err != nil {
				require.ErrorIs(t, err, ErrInternal)
				failed++
			}
		}
		assert.Equal(t, items, n)
		assert.EqualValues(t, failures.Load(), failed)
		assert.Less(t, failed, items/10, "of what it was given before it failed")
		assert.Greater(t, len(f.spawned()), 1)
	})
}

// count yields the integers from the first to before the last: of three digits each.
func count(first, last int) iter.Seq[any] {
	return func(yield func(any) bool) {
		for i := first; i < last && yield(i); i++ {
		}
	}
}

// What was sent behind an item that ends after its grace may have begun by then: it is not repeated.
func TestWhatStandsBehindAnItemThatEndsTooLateIsNotRepeated(t *testing.T) {
	for name, late := range map[string]string{
		"an answer": `{"id":%d,"success":true,"result":null}` + "\n",
		"a failure": `{"id":%d,"success":false,"error":{"kind":"internal","message":"lost its way"}}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex // guards begun
				begun := map[string]int{}
				f := &fleet{able: `["page","cancel"]`}
				f.script = func(p *fakeProcess, req fakeRequest) bool {
					if req.Command != "item" {
						return false
					}
					if isClosed(p.done) {
						return true
					}
					mu.Lock()
					begun[string(req.Args)]++
					mu.Unlock()
					switch {
					case p.n > 1:
						return false
					case string(req.Args) < "[150]":
						return false
					case string(req.Args) == "[150]":
						// Not within the time and the grace, and before it is known to be killed
						p.pause(2*time.Second - time.Millisecond)
						p.say(fmt.Sprintf(late, req.ID))
						return true
					default:
						return p.hang()
					}
				}
				cfg := f.config(1)
				cfg.CancelGrace = time.Second
				p := open(t, cfg)
				defer p.Close()
				n, failed := 0, 0
				for _, err := range Map[any](context.Background(), p, "item", count(100, 200), WithTimeout(time.Second)) {
					if err != nil {
						failed++
					}
					n++
				}
				assert.Equal(t, 100, n)
				assert.Positive(t, failed)
				mu.Lock()
				defer mu.Unlock()
				for item, times := range begun {
					assert.Equal(t, 1, times, item)
				}
				assert.Len(t, begun, 100)
			})
		})
	}
}
