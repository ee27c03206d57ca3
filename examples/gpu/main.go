// Command gpu asks resnet50 on an NVIDIA GPU from 64 goroutines, a picture each, and says how fast
// that is beside the model alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pypool/pypool"
)

func main() {
	var s settings
	flag.StringVar(&s.python, "python", "", "the interpreter that has torch and torchvision (default: as pypool finds it)")
	flag.StringVar(&s.device, "device", "cuda", "cuda, or cpu to try the program without a GPU")
	flag.IntVar(&s.workers, "workers", 3, "processes that share the GPU: one computes, others take pictures in and hand answers out")
	flag.DurationVar(&s.duration, "for", 10*time.Second, "how long each measurement takes")
	flag.Float64Var(&s.least, "least", 0, "fail if 64 callers get less than this share of what the model alone does")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, s, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gpu:", explain(err))
		os.Exit(1)
	}
}

type settings struct {
	python, device string
	workers        int
	duration       time.Duration
	least          float64
	env            []string
}

// explain is one sentence where there is no GPU, and what Python says where something else is wrong.
func explain(err error) string {
	var start *pypool.StartError
	var raised *pypool.PythonError
	switch {
	case errors.As(err, &raised) && raised.Type == "NoGPU":
		return raised.Message
	case errors.As(err, &start):
		return err.Error() + "\n" + start.Stderr
	}
	return err.Error()
}

func (s settings) config() pypool.Config {
	return pypool.Config{
		Script:       "worker.py",
		Args:         []string{s.device},
		Python:       s.python,
		ExtraEnv:     s.env,
		Size:         s.workers, // all on one GPU; WorkerEnv gives each its own: docs/operations.md, Devices
		Overflow:     -1,        // a worker makes a CUDA context and a model first: more would come too late
		StartTimeout: 3 * time.Minute,
		Logger:       slog.New(slog.DiscardHandler), // what goes wrong is an error of New or of a call
	}
}

type answer struct {
	Label int     `json:"label"`
	Score float64 `json:"score"`
}

const (
	callers = 64
	side    = 224 // pixels of a picture
)

func run(ctx context.Context, s settings, out io.Writer) error {
	pool, err := pypool.New(ctx, s.config()) // contexts and models are made
	if err != nil {
		return err
	}
	defer pool.Close()
	about, err := pypool.Call[string](ctx, pool, "about", nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "resnet50, %s, workers: %d\n", about, s.workers)

	random := rand.NewChaCha8([32]byte{})
	pictures := make([]pypool.Array, callers)
	for i := range pictures {
		pixels := make([]uint8, side*side*3)
		_, _ = random.Read(pixels) // never fails
		pictures[i] = pypool.ArrayOf(pixels, side, side, 3)
	}
	single, err := measure(ctx, pool, pictures[:1], s.duration)
	if err != nil {
		return err
	}
	together, err := measure(ctx, pool, pictures, s.duration)
	if err != nil {
		return err
	}
	batches := pool.Stats().Batches
	alone, err := pypool.Call[float64](ctx, pool, "alone", map[string]any{"batch": 32, "seconds": s.duration.Seconds()})
	if err != nil {
		return err
	}
	share := together / alone
	fmt.Fprintf(out, "one caller: %.1f pictures a second\n", single)
	fmt.Fprintf(out, "%d callers: %.1f pictures a second, in batches of %d at P95\n", callers, together, batches.P95)
	fmt.Fprintf(out, "the model alone, in batches of 32: %.1f; the callers get %.2f of that\n", alone, share)
	if share < s.least {
		return fmt.Errorf("%d callers get %.2f of what the model alone does, less than %.2f", callers, share, s.least)
	}
	return pool.Shutdown(ctx)
}

// measure returns how many pictures a second callers, one for each picture, have named.
func measure(ctx context.Context, pool pypool.Caller, pictures []pypool.Array, duration time.Duration) (float64, error) {
	named := make([]int, len(pictures))
	group, ctx := errgroup.WithContext(ctx)
	begun := time.Now()
	for i, picture := range pictures {
		group.Go(func() error {
			for time.Since(begun) < duration {
				if _, err := pypool.Call[answer](ctx, pool, "classify", map[string]any{"image": picture}); err != nil {
					return err
				}
				named[i]++
			}
			return nil
		})
	}
	err := group.Wait()
	total := 0
	for _, n := range named {
		total += n
	}
	return float64(total) / time.Since(begun).Seconds(), err
}
