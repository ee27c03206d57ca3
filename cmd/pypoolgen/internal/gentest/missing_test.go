package gentest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What is missing where a command has nan="null" is a nil, and no 0.
func TestMissingValuesAreNil(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	day := map[string][]*float64{"day": {Ptr(1.5), nil}}
	known := Reading{Sensor: "a", Value: 2.5, History: map[string][]float64{"day": {0}}}
	same(t, []ReadingWithNulls{
		{Sensor: "a", Value: Ptr(2.5), History: map[string][]*float64{"day": {Ptr(0.0)}}},
		{Sensor: "broken", History: day},
	})(c.Readings(ctx, ReadingsArgs{Given: []Reading{known}}))
	same(t, known)(c.Reading(ctx, ReadingArgs{Given: known}))
	same(t, TupleFloat64Float64ListInt64{nil, []*float64{nil, Ptr(0.5)}, 2})(c.Ratios(ctx, RatiosArgs{Numbers: []float64{0, 0.5}}))
	same(t, (*float64)(nil))(c.Estimate(ctx, EstimateArgs{}))
	same(t, Ptr(0.5))(c.Estimate(ctx, EstimateArgs{Known: true}))
	var items []*float64
	for item, err := range c.Gauges(ctx, GaugesArgs{Missing: 2}) {
		require.NoError(t, err)
		items = append(items, item)
	}
	require.Equal(t, []*float64{Ptr(1.5), nil, nil}, items)
}
