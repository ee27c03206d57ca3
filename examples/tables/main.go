// Command tables has polars look at rows of Go structs: they cross as Arrow, there and back.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array/arreflect"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/pypool/pypool"
	pypoolarrow "github.com/pypool/pypool/arrow"
)

func main() {
	python := flag.String("python", "../.venv/bin/python", "the interpreter that has polars")
	rows := flag.Int("rows", 200_000, "how many readings to make up")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, config(*python), *rows, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "tables:", err)
		var start *pypool.StartError
		if errors.As(err, &start) {
			fmt.Fprint(os.Stderr, start.Stderr)
		}
		os.Exit(1)
	}
}

func config(python string) pypool.Config {
	return pypool.Config{Script: "worker.py", Python: python, Size: 1} // polars uses all cores by itself
}

// outlier and day are rows of what worker.py returns. A field is a column; a pointer takes nulls.
type outlier struct {
	Sensor   string  `arrow:"sensor"`
	At       int64   `arrow:"at"` // seconds since 1970: arreflect has no times yet
	Celsius  float64 `arrow:"celsius"`
	Expected float64 `arrow:"expected"`
}

type day struct {
	Sensor   string   `arrow:"sensor"`
	Day      string   `arrow:"day"`
	Readings uint32   `arrow:"readings"`
	Silent   uint32   `arrow:"silent"`
	Mean     *float64 `arrow:"mean"` // nil: the sensor was silent all day
}

func run(ctx context.Context, cfg pypool.Config, rows int, out, progress io.Writer) error {
	pool, err := pypool.New(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	readings, planted := measure(rows)
	begun := time.Now()
	table, err := arreflect.RecordFromSlice(readings, memory.DefaultAllocator)
	if err != nil {
		return err
	}
	args := map[string]any{"readings": pypoolarrow.RecordBatch{RecordBatch: table}}

	found, err := pypool.Call[pypoolarrow.RecordBatch](ctx, pool, "outliers", args)
	if err != nil {
		return err
	}
	outliers, err := arreflect.RecordToSlice[outlier](found)
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "%d rows there, %d back in %v\n", rows, len(outliers), time.Since(begun).Round(time.Millisecond))
	fmt.Fprintf(out, "%d readings, %d of them far off, of %d that are\n", rows, len(outliers), planted)
	for _, o := range outliers[:min(3, len(outliers))] {
		fmt.Fprintf(out, "%s %s: %.1f °C, among %.1f\n", o.Sensor, time.Unix(o.At, 0).UTC().Format(time.DateTime), o.Celsius, o.Expected)
	}

	// A table a day, as it is made: neither side has all of them.
	for batch, err := range pypoolarrow.Each(ctx, pool, "by_day", args) {
		if err != nil {
			return err
		}
		days, err := arreflect.RecordToSlice[day](batch)
		if err != nil {
			return err
		}
		var readings, silent uint32
		for _, d := range days {
			readings, silent = readings+d.Readings, silent+d.Silent
		}
		fmt.Fprintf(out, "%s: %d sensors, %d readings, %d times nothing\n", days[0].Day, len(days), readings, silent)
	}
	return nil
}
