package pypoolotel

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/pypool/pypool"
)

func TestWhatIsNilIsToldInWords(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	telemetry, err := New(nil, WithTracerProvider(nil), WithMeterProvider(nil), WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	require.NoError(t, err)
	for _, pool := range []*pypool.Pool{nil, {}} {
		_, err = telemetry.Watch(pool)
		require.ErrorContains(t, err, "there is no pool")
	}
	require.NoError(t, reader.Collect(t.Context(), &metricdata.ResourceMetrics{}))
	for _, next := range []pypool.Caller{nil, (*pypool.Pool)(nil)} {
		caller := telemetry.Caller(next)
		_, err = caller.ExecuteAnonymous(t.Context(), "f", nil)
		require.ErrorIs(t, err, pypool.ErrPoolClosed)
		_, err = caller.ExecuteProgram(t.Context(), "f", nil)
		require.ErrorIs(t, err, pypool.ErrPoolClosed)
		_, err = caller.ExecuteInSession(t.Context(), "s", "f", nil)
		require.ErrorIs(t, err, pypool.ErrPoolClosed)
		for _, err = range caller.Stream(t.Context(), "f", nil) {
			require.ErrorIs(t, err, pypool.ErrPoolClosed)
		}
		require.Error(t, err)
	}
	slog.New(telemetry.Handler(nil)).With("a", 1).WithGroup("g").Error("nobody reads this")
	observer := telemetry.Observer(nil)
	observer.CallEnd(t.Context(), pypool.CallInfo{}, pypool.CallOutcome{Err: errors.New("of no call")})
	observer.FunctionEnd(t.Context(), pypool.FunctionInfo{}, nil)
}
