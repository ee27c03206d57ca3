// Command pandas runs a streaming job from Go: pandas reads a large CSV file in chunks, and Go sees
// each chunk's totals as they come.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/pypool/pypool"
)

func main() {
	python := flag.String("python", "../.venv/bin/python", "the interpreter that has pandas")
	rows := flag.Int("rows", 500_000, "how many orders to make up")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *python, *rows, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pandas:", err)
		var start *pypool.StartError
		if errors.As(err, &start) {
			fmt.Fprint(os.Stderr, start.Stderr)
		}
		os.Exit(1)
	}
}

// sales and chunk are what worker.py yields: dataclasses there, structs here.
type sales struct {
	Orders int64 `json:"orders"`
	Cents  int64 `json:"cents"`
}

type chunk struct {
	Rows    int64            `json:"rows"`
	Skipped int64            `json:"skipped"`
	Done    float64          `json:"done"`
	Regions map[string]sales `json:"regions"`
}

// totals are the sums over a file.
type totals struct {
	rows, skipped int64
	regions       map[string]sales
}

func (t *totals) add(c chunk) {
	t.rows += c.Rows
	t.skipped += c.Skipped
	for region, more := range c.Regions {
		sum := t.regions[region]
		t.regions[region] = sales{sum.Orders + more.Orders, sum.Cents + more.Cents}
	}
}

func config(python string) pypool.Config {
	return pypool.Config{
		Script:           "worker.py",
		Python:           python,
		Size:             1,                // one job at a time
		Overflow:         -1,               // and no more
		OperationTimeout: 20 * time.Second, // for one chunk: a job may take as long as it likes while it moves on
		StartTimeout:     time.Minute,      // importing pandas, on a cold disk
		Logger:           slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

func run(ctx context.Context, python string, rows int, out io.Writer) error {
	dir, err := os.MkdirTemp("", "orders")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "orders.csv")
	expected, err := makeOrders(path, rows)
	if err != nil {
		return err
	}
	pool, err := pypool.New(ctx, config(python))
	if err != nil {
		return err
	}
	defer pool.Close()

	got, err := job(ctx, pool, path, rows/10, out)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d orders, %d of them without a price\n", got.rows, got.skipped)
	for _, region := range slices.Sorted(maps.Keys(got.regions)) {
		sum := got.regions[region]
		fmt.Fprintf(out, "%-6s %7d orders %12d.%02d\n", region, sum.Orders, sum.Cents/100, sum.Cents%100)
	}
	if got.rows != expected.rows || got.skipped != expected.skipped || !maps.Equal(got.regions, expected.regions) {
		return fmt.Errorf("pandas and Go disagree: Go counted %+v", *expected)
	}
	fmt.Fprintln(out, "Go counted the same")
	return pool.Shutdown(ctx)
}

// job streams the file's chunks. The loop may be left at any time: that stops the generator, which
// closes its file.
func job(ctx context.Context, pool *pypool.Pool, path string, chunkRows int, out io.Writer) (*totals, error) {
	sum := &totals{regions: map[string]sales{}}
	args := map[string]any{"path": path, "chunk_rows": chunkRows}
	for part, err := range pypool.Each[chunk](ctx, pool, "sales", args) {
		if err != nil {
			return nil, err
		}
		sum.add(part)
		fmt.Fprintf(out, "%3.0f %%  %7d orders\n", 100*part.Done, sum.rows)
	}
	return sum, nil
}
