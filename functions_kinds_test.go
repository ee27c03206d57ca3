package pypool

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestABatchCallsFunctions(t *testing.T) {
	t.Parallel()
	p := newPool(t, functionsConfig(t, Functions{"echo": echoFunction()}))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			out, err := Call[[]int](t.Context(), p, "batched", args{"n": i}, WithSession("s"))
			require.NoError(t, err)
			require.Equal(t, i, out[1])
		})
	}
	all.Wait()
	i := 0
	for out, err := range Map[[]int](t.Context(), p, "batched", func(yield func(int) bool) {
		for i := range 100 {
			if !yield(i) {
				return
			}
		}
	}) {
		require.NoError(t, err)
		require.Equal(t, i, out[1])
		i++
	}
	require.Equal(t, 100, i)
	require.EqualValues(t, 1, p.Stats().WorkersStarted)
}
