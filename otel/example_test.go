package pypoolotel_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/pypool/pypool"
	pypoolotel "github.com/pypool/pypool/otel"
)

func Example() {
	ctx := context.Background()
	exporter := tracetest.NewInMemoryExporter() // in a service: otlptracegrpc, and sdktrace.WithBatcher
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	telemetry, err := pypoolotel.New(pypoolotel.WithTracerProvider(provider))
	if err != nil {
		log.Fatal(err)
	}
	pool, err := pypool.New(ctx, telemetry.Instrument(pypool.Config{
		Script: "testdata/plain.py", Python: os.Getenv("PYPOOL_PYTHON"), Size: 1, Overflow: -1, Logger: slog.New(slog.DiscardHandler),
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if _, err := pypool.Call[string](ctx, pool, "greet", map[string]any{"name": "Ann"}); err != nil {
		log.Fatal(err)
	}
	for _, span := range exporter.GetSpans() {
		fmt.Println(span.Name, span.SpanKind)
		for _, event := range span.Events {
			fmt.Println(" ", event.Name)
		}
	}
	// Output:
	// greet client
	//   pypool.queue
	//   pypool.run
}
