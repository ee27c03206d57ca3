package pypoolarrow_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"testing"

	"github.com/apache/arrow-go/v18/arrow/array/arreflect"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
	pypoolarrow "github.com/pypool/pypool/arrow"
)

// Rows of Go structs go to a polars.DataFrame, and come back as structs.
func Example() {
	type Trip struct {
		City string  `arrow:"city"`
		Fare float64 `arrow:"fare"`
	}
	type Total struct {
		City  string  `arrow:"city"`
		Fare  float64 `arrow:"fare"`
		Trips uint32  `arrow:"trips"`
	}
	ctx := context.Background()
	pool, err := pypool.New(ctx, pypool.Config{Script: "testdata/trips.py", Size: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	trips, err := arreflect.RecordFromSlice([]Trip{{"Rome", 12.5}, {"Oslo", 30}, {"Rome", 7.5}}, memory.DefaultAllocator)
	if err != nil {
		log.Fatal(err)
	}
	found, err := pypool.Call[pypoolarrow.RecordBatch](ctx, pool, "by_city", map[string]any{"trips": pypoolarrow.RecordBatch{RecordBatch: trips}})
	if err != nil {
		log.Fatal(err)
	}
	totals, err := arreflect.RecordToSlice[Total](found)
	if err != nil {
		log.Fatal(err)
	}
	for _, total := range totals {
		fmt.Printf("%s: %d trips, %.2f\n", total.City, total.Trips, total.Fare)
	}
}

// It is no example with an output of its own: those run where there is no polars, too.
func TestExample(t *testing.T) {
	t.Setenv("PYPOOL_PYTHON", interpreter(t))
	r, w, err := os.Pipe()
	require.NoError(t, err)
	stdout := os.Stdout
	os.Stdout = w
	Example()
	os.Stdout = stdout
	require.NoError(t, w.Close())
	printed, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, "Oslo: 1 trips, 30.00\nRome: 2 trips, 20.00\n", string(printed))
}
