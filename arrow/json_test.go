package pypoolarrow_test

import (
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
	pypoolarrow "github.com/pypool/pypool/arrow"
)

// What JSON has of a table is told by all of its rows, whichever library makes one of them.
func TestTablesOfJSON(t *testing.T) {
	p := pool(t)
	rows := make([]args, 150, 151)
	for i := range rows {
		rows[i] = args{"n": 1}
	}
	rows = append(rows, args{"n": 2.5, "late": args{"x": 1 << 60, "y": []any{args{"z": 1}, args{"w": 0.5}}}})
	for _, hint := range []string{"as_table", "as_pandas", "as_polars", "as_lazy"} {
		got, err := pypool.Call[struct{ Values map[string]string }](t.Context(), p, hint, args{"table": rows})
		require.NoError(t, err, hint)
		require.Contains(t, got.Values["n"], "1.0, 2.5]", hint)
		require.Contains(t, got.Values["late"], "'x': 1152921504606846976", hint)
		require.Contains(t, got.Values["late"], "'w': 0.5", hint)

		got, err = pypool.Call[struct{ Values map[string]string }](t.Context(), p, hint, args{"table": []args{{"n": 1<<60 + 1}, {}}})
		require.NoError(t, err, hint)
		require.Contains(t, got.Values["n"], "[1152921504606846977, ", hint)

		_, err = pypool.Call[any](t.Context(), p, hint, args{"table": []args{{"n": 1<<60 + 1}, {"n": 0.5}}})
		require.ErrorIs(t, err, pypool.ErrInvalidArguments, hint)
		require.ErrorContains(t, err, "a float would round it", hint)
	}
}

// What polars panics of is refused, and a column of integers with nulls is no array of floats.
func TestWhatALibraryCannotHold(t *testing.T) {
	p := pool(t)
	wide := arrow.NewSchema([]arrow.Field{{Name: "d", Type: &arrow.Decimal256Type{Precision: 60}}}, nil)
	numbers, _, err := array.FromJSON(memory.DefaultAllocator, wide.Field(0).Type, strings.NewReader(`["1"]`))
	require.NoError(t, err)
	_, err = pypool.Call[any](t.Context(), p, "as_polars", args{"table": pypoolarrow.Table{Table: tableOf(wide, []arrow.Array{numbers})}})
	require.ErrorIs(t, err, pypool.ErrInvalidArguments)
	require.ErrorContains(t, err, "PanicException")
	for _, library := range []string{"pyarrow", "pandas", "polars"} {
		_, err = pypool.Call[pypool.Array](t.Context(), p, "column", args{"library": library})
		require.ErrorIs(t, err, pypool.ErrInvalidResult, library)
		require.ErrorContains(t, err, "which has nulls, would have its integers rounded", library)
	}
}
