// Command vision asks a vision model from Go, one picture a call: pypool makes batches of the calls
// that wait, and the pictures travel as they are in memory.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/png"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pypool/pypool"
)

func main() {
	python := flag.String("python", "../.venv/bin/python", "the interpreter that has NumPy and Pillow")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, config(*python), os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "vision:", err)
		var start *pypool.StartError
		if errors.As(err, &start) {
			fmt.Fprint(os.Stderr, start.Stderr)
		}
		os.Exit(1)
	}
}

// config is the pool of a model that uses all cores for one batch: another worker would make the
// batches smaller. Threads is the machine's cores by itself.
func config(python string) pypool.Config {
	return pypool.Config{
		Script:       "worker.py",
		Python:       python,
		Size:         1,
		Overflow:     -1,
		StartTimeout: time.Minute, // the import of NumPy, on a cold disk, and the training
		Logger:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// answer is what worker.py says of a picture: a dataclass there.
type answer struct {
	Shape  string  `json:"shape"`
	Margin float64 `json:"margin"`
}

// array is a picture as NumPy has it: height × width × 3 of uint8. The pixels are copied once, to
// leave the alpha out.
func array(picture *image.RGBA) pypool.Array {
	size := picture.Bounds().Size()
	pixels := make([]uint8, 0, size.X*size.Y*3)
	for i := 0; i < len(picture.Pix); i += 4 {
		pixels = append(pixels, picture.Pix[i:i+3]...)
	}
	return pypool.ArrayOf(pixels, size.Y, size.X, 3)
}

const callers = 64

func run(ctx context.Context, cfg pypool.Config, out, figures io.Writer) error {
	pool, err := pypool.New(ctx, cfg) // the model is trained
	if err != nil {
		return err
	}
	defer pool.Close()

	pictures := make([]pypool.Array, callers)
	wanted := make([]string, callers)
	for i := range pictures {
		var picture *image.RGBA
		picture, wanted[i] = draw(uint64(i))
		pictures[i] = array(picture)
	}
	classify := func(ctx context.Context, i int) (answer, error) {
		return pypool.Call[answer](ctx, pool, "classify", map[string]any{"image": pictures[i]})
	}

	right := 0
	begun := time.Now()
	for i := range pictures {
		got, err := classify(ctx, i)
		if err != nil {
			return err
		}
		if got.Shape == wanted[i] {
			right++
		}
	}
	single := rate(len(pictures), begun)
	fmt.Fprintf(out, "%d pictures, one by one: %d named rightly\n", len(pictures), right)

	const rounds = 20
	var rightOf [callers]int
	group, groupCtx := errgroup.WithContext(ctx)
	begun = time.Now()
	for i := range callers {
		group.Go(func() error {
			for range rounds {
				got, err := classify(groupCtx, i)
				if err != nil {
					return err
				}
				if got.Shape == wanted[i] {
					rightOf[i]++
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	together := rate(callers*rounds, begun)
	right = 0
	for _, n := range rightOf {
		right += n
	}
	fmt.Fprintf(out, "%d calls by %d callers, a picture each: %d named rightly\n", callers*rounds, callers, right)

	picture, shape := draw(0)
	var file bytes.Buffer
	if err := png.Encode(&file, picture); err != nil {
		return err
	}
	got, err := pypool.Call[answer](ctx, pool, "classify_file", map[string]any{"file": file.Bytes()})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "a PNG of a %s: a %s\n", shape, got.Shape)

	alone, err := pypool.Call[float64](ctx, pool, "alone", map[string]any{"image": pictures[0], "batch": 32, "seconds": 0.5})
	if err != nil {
		return err
	}
	fmt.Fprintf(figures, "pictures a second: %.0f one by one, %.0f by %d callers (batches of %d at P95); the function itself, in batches of 32: %.0f\n",
		single, together, callers, pool.Stats().Batches.P95, alone)
	return pool.Shutdown(ctx)
}

func rate(n int, begun time.Time) float64 { return float64(n) / time.Since(begun).Seconds() }
