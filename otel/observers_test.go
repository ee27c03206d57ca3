package pypoolotel

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/pypooltest"
)

// Whatever the Observer inside does with the contexts, each span ends once, and nothing is kept.
func TestSpansEndWhateverTheObserverInsideReturns(t *testing.T) {
	t.Parallel()
	script := filepath.Join(t.TempDir(), "worker.py")
	require.NoError(t, os.WriteFile(script, []byte("from pypool import command, host\n@command\ndef f(): return host.add(1, 2)\n"), 0o600))
	provider := sdktrace.NewTracerProvider()
	foreign, span := provider.Tracer("theirs").Start(context.Background(), "theirs")
	defer span.End()
	var given trace.SpanContext // the host's function's
	for name, observer := range map[string]*pypool.Observer{
		"nothing": nil,
		"nil": {
			CallStart:     func(context.Context, pypool.CallInfo) context.Context { return nil },
			FunctionStart: func(context.Context, pypool.FunctionInfo) context.Context { return nil },
		},
		"others": {
			CallStart:     func(context.Context, pypool.CallInfo) context.Context { return context.Background() },
			FunctionStart: func(context.Context, pypool.FunctionInfo) context.Context { return context.Background() },
		},
		"theirs": {
			CallStart:     func(context.Context, pypool.CallInfo) context.Context { return foreign },
			FunctionStart: func(context.Context, pypool.FunctionInfo) context.Context { return foreign },
		},
		"panics":            {CallStart: func(context.Context, pypool.CallInfo) context.Context { panic("theirs") }},
		"a function's does": {FunctionStart: func(context.Context, pypool.FunctionInfo) context.Context { panic("theirs") }},
	} {
		t.Run(name, func(t *testing.T) {
			given = trace.SpanContext{}
			spans := tracetest.NewSpanRecorder()
			telemetry, err := New(WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))))
			require.NoError(t, err)
			cfg := pypool.Config{Script: script, Python: os.Getenv("PYPOOL_PYTHON"), Observer: observer, Logger: slog.New(slog.DiscardHandler), Functions: pypool.Functions{
				"add": pypool.Func(func(ctx context.Context, in []int) (int, error) {
					given = trace.SpanContextFromContext(ctx)
					return in[0] + in[1], nil
				}),
			}}
			const twice = 2 // an Observer of Telemetry's inside another
			for range twice {
				cfg = telemetry.Instrument(cfg)
			}
			pool := pypooltest.Start(t, cfg)
			for range 3 {
				if name == "panics" {
					require.PanicsWithValue(t, "theirs", func() { _, _ = pool.ExecuteAnonymous(t.Context(), "f", nil) })
					continue
				}
				_, err := pypool.Call[int](t.Context(), pool, "f", nil)
				require.Equal(t, name == "a function's does", err != nil, err)
			}
			require.Equal(t, name == "theirs", given.TraceID() == span.SpanContext().TraceID(), "the function has the span that the Observer chose, or its own")
			require.Len(t, spans.Ended(), len(spans.Started()))
			ended := map[trace.SpanID]int{}
			names := map[string]int{}
			for _, s := range spans.Ended() {
				ended[s.SpanContext().SpanID()]++
				names[s.Name()]++
			}
			require.Len(t, ended, len(spans.Started()), "each once")
			require.Equal(t, 3*twice, names["f"])
			for id := range telemetry.calls.known {
				require.Contains(t, telemetry.calls.ended, id, "it would be kept for ever")
			}
		})
	}
}
