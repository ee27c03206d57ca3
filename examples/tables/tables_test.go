package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/apache/arrow-go/v18/arrow/array/arreflect"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/pypool/pypool"
	pypoolarrow "github.com/pypool/pypool/arrow"
	"github.com/pypool/pypool/examples/internal/storytest"
	"github.com/pypool/pypool/pypooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStory(t *testing.T) {
	var out, progress bytes.Buffer
	require.NoError(t, run(t.Context(), config(storytest.Python(t)), 200_000, &out, &progress))
	require.Equal(t, storytest.Output(t), out.String())
	require.Regexp(t, `^200000 rows there, \d+ back in \S+s\n$`, progress.String())
}

// What is found is what was measured, to the bit.
func TestOutliersAreReadingsOfTheirs(t *testing.T) {
	pool := pypooltest.Start(t, config(storytest.Python(t)))
	readings, planted := measure(50_000)
	table, err := arreflect.RecordFromSlice(readings, memory.DefaultAllocator)
	require.NoError(t, err)
	found, err := pypool.Call[pypoolarrow.RecordBatch](t.Context(), pool, "outliers", map[string]any{"readings": pypoolarrow.RecordBatch{RecordBatch: table}})
	require.NoError(t, err)
	outliers, err := arreflect.RecordToSlice[outlier](found)
	require.NoError(t, err)
	require.Len(t, outliers, planted)
	type at struct {
		sensor string
		second int64
	}
	measured := map[at]float64{}
	for _, r := range readings {
		if r.Celsius != nil {
			measured[at{r.Sensor, r.At}] = *r.Celsius
		}
	}
	for _, o := range outliers {
		require.Equal(t, measured[at{o.Sensor, o.At}], o.Celsius)
	}
}

// A table that lacks a column is an error of polars', which says so, and costs no worker.
func TestATableOfAnotherKind(t *testing.T) {
	pool := pypooltest.Start(t, config(storytest.Python(t)))
	table, err := arreflect.RecordFromSlice([]day{{Sensor: "s00"}}, memory.DefaultAllocator)
	require.NoError(t, err)
	_, err = pypool.Call[pypoolarrow.RecordBatch](t.Context(), pool, "outliers", map[string]any{"readings": pypoolarrow.RecordBatch{RecordBatch: table}})
	require.ErrorIs(t, err, pypool.ErrPython)
	require.ErrorContains(t, err, "celsius")
	require.EqualValues(t, 1, pool.Stats().WorkersStarted)
}
