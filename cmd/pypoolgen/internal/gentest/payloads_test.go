package gentest

import (
	"bytes"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// Payloads arrive in tuples, NamedTuples, and classes that have these, from commands and programs.
func TestPayloadsInTuples(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	array := pypool.ArrayOf([]float32{1, 2, float32(math.Inf(1))})
	large := bytes.Repeat([]byte("0123456789"), 3000)
	layer := Layer{Name: "first", Weights: array, Raw: large}
	same(t, layer)(c.Layer(ctx, LayerArgs{Given: layer}))
	same(t, Layer{Name: "bare", Weights: array})(c.Layer(ctx, LayerArgs{Given: Layer{Name: "bare", Weights: array}}))
	same(t, TuplePypoolArrayInt64{array, 4})(c.TaggedArray(ctx, TaggedArrayArgs{Given: TuplePypoolArrayInt64{array, 3}}))
	for _, given := range []Model{
		{Layers: []Layer{layer, {Name: "second", Weights: array, Raw: []byte("small")}}, Pair: TuplePypoolArrayInt64{array, 1}, Best: &TupleStringPypoolArray{"best", array}},
		{Layers: []Layer{}, Pair: TuplePypoolArrayInt64{pypool.ArrayOf([]int8{}), 0}},
	} {
		same(t, given)(c.Model(ctx, ModelArgs{Given: given}))
		same(t, given)(c.Model2(ctx, Model2Args{Given: given})) // the program
	}
	made, err := c.Array(ctx, ArrayArgs{Size: 2})
	require.NoError(t, err)
	numbers, err := pypool.Elements[float64](made)
	require.NoError(t, err)
	require.Len(t, numbers, 2)
	require.True(t, math.IsNaN(numbers[1]))
}
