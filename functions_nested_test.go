//go:build unix

package pypool

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const nestedScript = `
import os, time
from pypool import command, health, host

@health
def well():
    while os.path.exists(os.environ["PLACE"] + "/hold"):
        time.sleep(0.005)
    return not os.path.exists(os.environ["PLACE"] + "/ill")

@command
def ask(how): return host.ask(how)
@command
def plain(x): return x
@command(max_batch_size=4, max_wait_ms=60000)
def batch(x): return x
@command(concurrency=4)
async def shared(x): return x
`

// A worker is idle while the pool itself looks at it: a call that waits for no other waits for
// that. It gives up when somebody else gets that worker, or it is not to serve any more.
func TestANestedCallWaitsWhileIdleWorkersAreLookedAt(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"plain", "batch", "shared", "map"} {
		for _, end := range []string{"well", "ill", "somebody else is first"} {
			t.Run(how+", "+end, func(t *testing.T) {
				t.Parallel()
				place := t.TempDir()
				hold := filepath.Join(place, "hold")
				var p *Pool
				nested := func(ctx context.Context) (got int, err error) {
					if how != "map" {
						return Call[int](ctx, p, how, []int{7})
					}
					for got, err = range Map[int](ctx, p, "plain", slices.Values([]int{7})) {
					}
					return got, err
				}
				ask := Func(func(ctx context.Context, how string) (int, error) {
					newFile(t, hold)
					healthy := make(chan error, 1)
					go func() { _, err := p.HealthCheck(context.Background()); healthy <- err }() // joined by healthy
					defer func() { <-healthy }()
					lookedAt(t, p)
					waiting := 1
					first := func() []outcomeOf[int] { return nil }
					if end == "somebody else is first" {
						first = inBackground(1, func(int) (int, error) { return Call[int](context.Background(), p, "plain", []int{1}) })
						eventually(t, "somebody waits", func() bool { return p.Stats().Waiting == 1 })
						waiting = 2
					}
					wait := inBackground(1, func(int) (int, error) { return nested(ctx) })
					eventually(t, "the nested call waits", func() bool { return p.Stats().Waiting == waiting })
					if end == "ill" {
						newFile(t, filepath.Join(place, "ill"))
					}
					assert.NoError(t, os.Remove(hold))
					out := wait()[0]
					for _, other := range first() {
						assert.NoError(t, other.err)
					}
					return out.res, out.err
				})
				p = newPool(t, Config{
					Script: script(t, nestedScript), Python: realPython(), Size: 2, Overflow: -1, Logger: testLogger(t), HealthCheckInterval: -1,
					ExtraEnv: []string{"PLACE=" + place}, Functions: Functions{"ask": ask},
				})
				got, err := Call[int](t.Context(), p, "ask", []string{how})
				if end == "well" {
					require.NoError(t, err)
					require.Equal(t, 7, got)
				} else {
					require.Contains(t, detail[*PythonError](t, err).Message, "nested_call")
				}
			})
		}
	}
}
