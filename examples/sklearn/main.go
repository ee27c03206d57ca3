// Command sklearn asks a scikit-learn model from Go, through the typed client that pypoolgen
// writes.
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

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/examples/sklearn/iris"
)

//go:generate go run github.com/pypool/pypool/cmd/pypoolgen -script worker.py -python ../.venv/bin/python -package iris -o iris/iris_gen.go

func main() {
	python := flag.String("python", "../.venv/bin/python", "the interpreter that has scikit-learn")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *python, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sklearn:", err)
		var start *pypool.StartError
		if errors.As(err, &start) {
			fmt.Fprint(os.Stderr, start.Stderr)
		}
		os.Exit(1)
	}
}

// config is the pool for a model: as many workers as cores, one thread of numpy in each.
func config(python string) pypool.Config {
	cfg := pypool.Production()
	cfg.Script = "worker.py"
	cfg.Python = python
	cfg.ExtraEnv = []string{"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1"}
	cfg.Overflow = -1              // a worker trains its model first: more would come too late to help
	cfg.StartTimeout = time.Minute // the import of scikit-learn, on a cold disk, and the training
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return cfg
}

func run(ctx context.Context, python string, out io.Writer) error {
	pool, err := pypool.New(ctx, config(python)) // every worker has trained its model
	if err != nil {
		return err
	}
	defer pool.Close()
	model := iris.New(pool)

	about, err := model.About(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s, trained on %d flowers, accuracy %.1f %%\n", about.Library, about.TrainedOn, 100*about.Accuracy)

	flower := iris.Flower{SepalLength: 5.9, SepalWidth: 3.0, PetalLength: 5.1, PetalWidth: 1.8}
	one, err := model.Predict(ctx, iris.PredictArgs{Flower: flower})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "one flower: %s, %.0f %%; versicolor %.0f %%\n",
		one.Species, 100*one.Probability, 100*one.Probabilities[string(iris.SpeciesVersicolor)])

	all, err := model.PredictAll(ctx, iris.PredictAllArgs{Flowers: flowers(1000)})
	if err != nil {
		return err
	}
	count := map[iris.Species]int{}
	for _, p := range all {
		count[p.Species]++
	}
	fmt.Fprintf(out, "%d flowers in one call: %d setosa, %d versicolor, %d virginica\n",
		len(all), count[iris.SpeciesSetosa], count[iris.SpeciesVersicolor], count[iris.SpeciesVirginica])

	plane, err := model.Project(ctx, iris.ProjectArgs{Points: [][]float64{{5.1, 3.5, 1.4, 0.2}, {5.9, 3.0, 5.1, 1.8}}})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "two points in the plane: %.3f\n", plane.Points)
	return pool.Shutdown(ctx)
}

// flowers makes n flowers with measures as in a field of all three species; the same ones each
// time.
func flowers(n int) []iris.Flower {
	random := rand.New(rand.NewPCG(1, 2))
	between := func(low, high float64) float64 { return low + (high-low)*random.Float64() }
	list := make([]iris.Flower, n)
	for i := range list {
		petal := between(1, 6.9)
		list[i] = iris.Flower{
			SepalLength: between(4.3, 7.9),
			SepalWidth:  between(2, 4.4),
			PetalLength: petal,
			PetalWidth:  petal*0.42 - 0.36 + between(-0.04, 0.3),
		}
	}
	return list
}
