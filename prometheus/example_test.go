package pypoolprometheus_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pypool/pypool"
	pypoolprometheus "github.com/pypool/pypool/prometheus"
)

func Example() {
	ctx := context.Background()
	pool, err := pypool.New(ctx, pypool.Config{
		Name: "models", Script: "testdata/worker.py", Python: os.Getenv("PYPOOL_PYTHON"), Size: 1, Overflow: -1, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	registry := prometheus.NewRegistry() // or the default one, with prometheus.MustRegister
	registry.MustRegister(pypoolprometheus.NewCollector(pool))

	if _, err := pypool.Call[int](ctx, pool, "add", []int{40, 2}); err != nil {
		log.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "pypool_calls_total" {
			fmt.Println(family.GetMetric()[0].GetCounter().GetValue())
		}
	}
	// Output: 1
}
