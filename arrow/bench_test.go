package pypoolarrow_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
	pypoolarrow "github.com/pypool/pypool/arrow"
)

const benchRows = 1_000_000

// BenchmarkGroup is a million rows of (int64, float64, string) there, grouped, and the groups back.
func BenchmarkGroup(b *testing.B) {
	p, table := pool(b), pypoolarrow.Table{Table: million(benchRows)}
	for b.Loop() {
		got, err := pypoolarrow.Call(b.Context(), p, "group", args{"table": table})
		require.NoError(b, err)
		require.EqualValues(b, 1000, got.NumRows())
	}
}

// BenchmarkGroupInPython is the same on a table that Python has already.
func BenchmarkGroupInPython(b *testing.B) {
	p := pool(b)
	_, err := pypool.Call[int](b.Context(), p, "hold", args{"table": pypoolarrow.Table{Table: million(benchRows)}})
	require.NoError(b, err)
	for b.Loop() {
		_, err := pypool.Call[int](b.Context(), p, "group_held", nil)
		require.NoError(b, err)
	}
}

// BenchmarkWrite is what Go needs to write the table as an Arrow stream.
func BenchmarkWrite(b *testing.B) {
	table := pypoolarrow.Table{Table: million(benchRows)}
	_, data, err := table.PythonPayload()
	require.NoError(b, err)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, _, err := table.PythonPayload(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEcho is the table there and back.
func BenchmarkEcho(b *testing.B) {
	p, table := pool(b), pypoolarrow.Table{Table: million(benchRows)}
	for b.Loop() {
		got, err := pypoolarrow.Call(b.Context(), p, "back", args{"table": table})
		require.NoError(b, err)
		require.EqualValues(b, benchRows, got.NumRows())
	}
}
