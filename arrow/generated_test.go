package pypoolarrow_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/pypool/pypool"
	pypoolarrow "github.com/pypool/pypool/arrow"
	"github.com/pypool/pypool/arrow/internal/gentest"
)

// Clients that pypoolgen -tables writes have tables where the hints have them.
func TestGeneratedClients(t *testing.T) {
	python, ctx := interpreter(t), t.Context()
	const script = "internal/gentest/worker.py"
	generated := func(flags ...string) string {
		code, err := exec.Command("go", append([]string{"run", "github.com/pypool/pypool/cmd/pypoolgen", "-script", script, "-package", "gentest", "-python", python}, flags...)...).Output()
		require.NoError(t, err)
		return string(code)
	}
	want, err := os.ReadFile("internal/gentest/workers_gen.go")
	require.NoError(t, err)
	require.Equal(t, string(want), generated("-tables"), "run go generate ./internal/gentest with -python, and read what changed")
	without := generated()
	require.NotContains(t, without, "pypoolarrow")
	require.Contains(t, without, "Rows any `json:\"rows\"` // Python: DataFrame")
	require.Contains(t, without, "args DoubleArgs, opts ...pypool.CallOption) (json.RawMessage, error)")

	p, err := pypool.New(ctx, pypool.Config{Script: script, Python: python, Size: 1, Overflow: -1})
	require.NoError(t, err)
	defer p.Close()
	c := gentest.New(p)
	n := pypoolarrow.Table{Table: numbers("n", 1, 2, 3)}
	rows := func(table arrow.Table) (list []int64) {
		require.NotNil(t, table)
		r := array.NewTableReader(table, 0)
		defer r.Release()
		for r.Next() {
			columns := r.RecordBatch().Columns()
			list = append(list, columns[len(columns)-1].(*array.Int64).Int64Values()...)
		}
		return list
	}

	twice, err := c.Double(ctx, gentest.DoubleArgs{Rows: n})
	require.NoError(t, err)
	require.Equal(t, []int64{2, 4, 6}, rows(twice))

	none, err := c.Maybe(ctx, gentest.MaybeArgs{})
	require.NoError(t, err)
	require.Nil(t, none)
	some, err := c.Maybe(ctx, gentest.MaybeArgs{Rows: &n, Times: gentest.Ptr(int64(2))})
	require.NoError(t, err)
	require.Equal(t, []int64{1, 2, 3, 1, 2, 3}, rows(some))

	for given, want := range map[*pypoolarrow.Table]int64{nil: -1, &n: 3} {
		got, err := c.Late(ctx, gentest.LateArgs{Rows: given})
		require.NoError(t, err)
		require.Equal(t, want, got)
	}

	var pieces [][]int64
	for piece, err := range c.Pieces(ctx, gentest.PiecesArgs{Rows: n, Size: 2}) {
		require.NoError(t, err)
		pieces = append(pieces, rows(piece))
	}
	require.Equal(t, [][]int64{{1, 2}, {3}}, pieces)

	report, err := c.Report(ctx, gentest.ReportArgs{Given: gentest.Report{Title: "t", Rows: n, More: &n}})
	require.NoError(t, err)
	require.Equal(t, "t!", report.Title)
	require.Equal(t, []int64{1}, rows(report.Rows))
	require.Equal(t, []int64{1, 2, 3}, rows(report.More))

	many, err := c.Many(ctx, gentest.ManyArgs{Tables: []pypoolarrow.Table{n}, Named: map[string]pypoolarrow.Table{"a": n}})
	require.NoError(t, err)
	require.Len(t, many["a"], 2)
	require.Equal(t, []int64{1, 2, 3}, rows(many["a"][1]))

	both, err := c.Pair(ctx, gentest.PairArgs{Both: gentest.TupleTableInt64{V0: n, V1: 1}})
	require.NoError(t, err)
	require.Equal(t, int64(2), both.V1)
	require.Equal(t, []int64{1, 2, 3}, rows(both.V0))
}
