package pypool

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestABatchCallsFunctions(t *testing.T) {
	t.Parallel()
	p := newPool(t, functionsConfig(t, Functions{"echo": echoFunction()}))
	for _, command := range []string{"batched", "batched_aio", "batched_threads"} {
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				out, err := Call[[]int](t.Context(), p, command, args{"n": i}, WithSession("s"))
				require.NoError(t, err)
				require.Equal(t, i, out[1])
			})
		}
		all.Wait()
		i := 0
		for out, err := range Map[[]int](t.Context(), p, command, func(yield func(int) bool) {
			for i := range 100 {
				if !yield(i) {
					return
				}
			}
		}) {
			require.NoError(t, err, command)
			require.Equal(t, i, out[1])
			i++
		}
		require.Equal(t, 100, i)
	}
	require.EqualValues(t, 1, p.Stats().WorkersStarted)
}

// A nested call waits for no company either: it has an idle worker, or an error at once.
func TestANestedCallOfABatchCommandThatWaitsForCompany(t *testing.T) {
	t.Parallel()
	var p *Pool
	cfg := functionsConfig(t, Functions{"nested": Func(func(ctx context.Context, in struct{}) (int, error) {
		return Call[int](ctx, p, "double", args{"n": 4})
	})})
	cfg.Script = script(t, `
from pypool import HostError, command, host

@command(max_batch_size=8, max_wait_ms=60_000)
def double(n):
    return [2 * one for one in n]

@command
def asks():
    try:
        return host.nested()
    except HostError as error:
        return error.type
`)
	for size, want := range map[int]any{1: "nested_call", 2: 8.0} {
		cfg.Size = size
		p = newPool(t, cfg)
		got, err := Call[any](t.Context(), p, "asks", nil)
		require.NoError(t, err)
		require.Equal(t, want, got, "of %d workers", size)
	}
}
