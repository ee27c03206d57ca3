package pypoolarrow_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
	pypoolarrow "github.com/pypool/pypool/arrow"
)

// The tests have one pool: a worker takes seconds to import the three libraries.
var shared struct {
	sync.Once
	pool *pypool.Pool
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.pool != nil {
		shared.err = shared.pool.Close()
	}
	if err := errors.Join(shared.err, goleak.Find()); err != nil && code == 0 {
		os.Stderr.WriteString(err.Error() + "\n")
		code = 1
	}
	os.Exit(code)
}

// interpreter is a Python with the libraries: what make test names, or that of build/arrow.
func interpreter(t testing.TB) string {
	t.Helper()
	python := os.Getenv("PYPOOL_ARROW_PYTHON")
	named := python != ""
	if !named {
		var err error
		python, err = filepath.Abs("../build/arrow/bin/python")
		require.NoError(t, err)
	}
	const asked = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, ('pandas', 'polars', 'pyarrow'))))"
	if out, err := exec.Command(python, "-c", asked).CombinedOutput(); err != nil {
		if named && exec.Command(python, "-c", "import sys; sys.exit((3, 11) <= sys.version_info < (3, 14))").Run() != nil {
			t.Fatalf("%s has not pyarrow, pandas and polars: %v\n%s", python, err, out)
		}
		t.Skip("no Python with pyarrow, pandas and polars here, which has to be 3.11 to 3.13: make test-go installs them")
	}
	return python
}

func pool(t testing.TB) *pypool.Pool {
	t.Helper()
	python := interpreter(t)
	shared.Do(func() {
		shared.pool, shared.err = pypool.New(t.Context(), pypool.Config{
			Script: "testdata/worker.py", Python: python, Size: 1, Overflow: -1, MaxMessageBytes: 256 << 20,
			Functions: pypool.Functions{"double": pypool.Func(double)},
		})
	})
	require.NoError(t, shared.err)
	return shared.pool
}

type args = map[string]any

// numbers is a table of one column n.
func numbers(name string, n ...int64) arrow.Table {
	b := array.NewInt64Builder(memory.DefaultAllocator)
	b.AppendValues(n, nil)
	column := b.NewArray()
	schema := arrow.NewSchema([]arrow.Field{{Name: name, Type: arrow.PrimitiveTypes.Int64, Nullable: true}}, nil)
	return tableOf(schema, []arrow.Array{column})
}

// tableOf is a table of batches, each its columns.
func tableOf(schema *arrow.Schema, batches ...[]arrow.Array) arrow.Table {
	var made []arrow.RecordBatch
	for _, columns := range batches {
		made = append(made, array.NewRecordBatch(schema, columns, int64(columns[0].Len())))
	}
	return array.NewTableFromRecords(schema, made)
}

// double is a function of the host, for tables of one column n.
func double(_ context.Context, in struct{ Table pypoolarrow.Table }) (map[string]any, error) {
	var doubled []int64
	for _, chunk := range in.Table.Column(0).Data().Chunks() {
		for _, n := range chunk.(*array.Int64).Int64Values() {
			doubled = append(doubled, 2*n)
		}
	}
	return map[string]any{"table": pypoolarrow.Table{Table: numbers("n", doubled...)}}, nil
}
