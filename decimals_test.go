package pypool

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// A Decimal is no float: what no float holds arrives too, whatever lies beside it, and however it is sent; a float is refused what it cannot hold.
func TestDecimalsThatNoFloatHolds(t *testing.T) {
	p, ctx := valuesPool(t, 1), t.Context()
	for _, price := range []string{"1e400", "-1E+999999", "1e-400"} {
		want := map[string]string{"1e400": "1E+400", "-1E+999999": "-1E+999999", "1e-400": "1E-400"}[price]
		for range 2 {
			got, err := Call[string](ctx, p, "exact", args{"price": json.Number(price)})
			require.NoError(t, err)
			require.Equal(t, want+" NoneType None", got)
			got, err = Call[string](ctx, p, "exact", []any{json.RawMessage(price), 1.5})
			require.NoError(t, err)
			require.Equal(t, want+" float 1.5", got)
		}
		res, err := p.ExecuteProgram(ctx, "exact", args{"price": json.Number(price)})
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("%q", want), string(res.Raw()))
	}
	_, err := Call[string](ctx, p, "exact", args{"price": 1, "rest": json.Number("1e400")})
	require.ErrorIs(t, err, ErrInvalidArguments)
	require.ErrorContains(t, err, "expected numbers that a float holds, got a number 1e400")
	_, err = p.ExecuteProgram(ctx, "keep", args{"data": []byte{1}, "more": json.Number("1e400")})
	require.ErrorIs(t, err, ErrInvalidArguments)

	items := make([]any, 200) // small enough to share lines
	for i := range items {
		items[i] = args{"prices": []any{json.Number(fmt.Sprintf("%de400", i+1))}, "at": 1.5}
	}
	i := 0
	for got, err := range Map[[]string](ctx, p, "exact_all", slices.Values(items)) {
		require.NoError(t, err)
		require.Len(t, got, 2)
		require.Contains(t, got[0], "E+40")
		i++
	}
	require.Equal(t, len(items), i)
}
