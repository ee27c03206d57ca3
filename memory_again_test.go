//go:build linux

package pypool

import (
	"bytes"
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// refusedKind is a payload that no script knows.
type refusedKind struct{}

func (refusedKind) PythonPayload() (string, []byte, error) {
	return "nobody knows", pattern(20_000), nil
}

const batchOfPayloadsScript = `
import pypool
from pypool import command

KEPT = []

@command(max_batch_size=4, max_wait_ms=2000)
def keep(values: list):
    KEPT.extend((view_of(value), bytes(view_of(value))) for value in values)
    return values

def view_of(value): return getattr(value, "data", value)

@command
def unchanged(other: pypool.Array): return [bytes(kept) == copy for kept, copy in KEPT]
`

// A batch in which one payload cannot be read is read again, member by member.
func TestPayloadsBesideOneThatIsRefusedStayAsTheyWere(t *testing.T) {
	ctx := context.Background()
	p := newPool(t, Config{Script: script(t, batchOfPayloadsScript), Size: 1, Overflow: -1})
	for round := range 3 {
		payloads := []any{ArrayOf(bytes.Repeat([]byte{1}, 40_000)), bytes.Repeat([]byte{2}, 40_000), ArrayOf(bytes.Repeat([]byte{3}, 40_000)), refusedKind{}}
		outs := inBackground(len(payloads), func(i int) (Result, error) { return p.ExecuteAnonymous(ctx, "keep", []any{payloads[i]}) })()
		for i, out := range outs[:3] {
			require.NoError(t, out.err)
			var got []byte
			require.NoError(t, out.res.Decode(&got))
			require.True(t, bytes.Equal(bytes.Repeat([]byte{byte(i + 1)}, 40_000), got), "call %d", i)
		}
		failsWith(t, outs[3].err, ErrInvalidArguments, NotExecuted)
		same, err := Call[[]bool](ctx, p, "unchanged", []any{ArrayOf(pattern(500_000))})
		require.NoError(t, err)
		require.Len(t, same, 3*(round+1))
		require.NotContains(t, same, false)
	}
}
