package pypoolprometheus

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

func TestACollectorOfNoPoolCannotBeRegistered(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	for _, pool := range []*pypool.Pool{nil, {}} {
		collector := NewCollector(pool, nil)
		require.ErrorContains(t, registry.Register(collector), "pypoolprometheus: there is no pool")
		metrics := make(chan prometheus.Metric, 1)
		collector.Collect(metrics)
		require.ErrorContains(t, (<-metrics).Write(nil), "there is no pool")
	}
	families, err := registry.Gather()
	require.NoError(t, err)
	require.Empty(t, families)
}
