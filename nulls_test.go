package pypool

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is missing in a list is no byte 0: a masked array of NumPy's, say, is a list with null in it.
func TestNullsAreNoBytes(t *testing.T) {
	p := newPool(t, Config{Size: 1, Overflow: -1, Functions: Functions{"size": Func(func(_ context.Context, in []byte) (int, error) { return len(in), nil })}, Script: script(t, `
import array
from pypool import command, host
try:
    import numpy as np
except ImportError:
    np = None
@command
def call(how): return host.size(give("field" if how == "field" else "list"))
@command
def give(how):
    missing, whole = [1, None, 3], [1, 2, 3]
    if how == "masked" and np is not None:
        return np.ma.array([1, 2, 3], mask=[False, True, False], dtype="uint8")
    if how == "objects" and np is not None:
        return np.array(missing, dtype=object)
    return {"list": missing, "masked": missing, "objects": missing, "spelled": {"data": missing, "n": array.array("q", [1, 2])}, "whole": whole, "array": array.array("B", whole), "field": {"data": missing, "n": missing},
        "rows": [b"x" * 5000, b"y", missing], "map": {"k": missing, "null": None}, "text": {"data": b",null]", "s": "[null,null]"}}[how]
`)})
	ctx := t.Context()
	type held struct {
		Data []byte `json:"data"`
		N    []*int `json:"n"`
		S    string `json:"s"`
	}
	refused := func(err error, path string) {
		t.Helper()
		require.ErrorIs(t, err, ErrDecode)
		require.ErrorContains(t, err, "at "+path+" there is null (None in Python, or what a masked array of NumPy's lacks), which is no byte")
	}
	for _, how := range []string{"list", "masked", "objects"} {
		_, err := Call[[]byte](ctx, p, "give", []any{how})
		refused(err, "$[1]")
		_, err = Call[Array](ctx, p, "give", []any{how})
		require.ErrorIs(t, err, ErrDecode)
		_, err = Call[any](ctx, p, "give", []any{how})
		require.NoError(t, err)
	}
	_, err := Call[any](ctx, p, "call", []any{"list"})
	require.ErrorContains(t, err, "at $[1] there is null")
	_, err = Call[held](ctx, p, "give", []any{"spelled"})
	refused(err, "$.data[1]")
	_, err = Call[held](ctx, p, "give", []any{"field"})
	refused(err, "$.data[1]")
	_, err = Call[[][]byte](ctx, p, "give", []any{"rows"})
	refused(err, "$[2][1]")
	_, err = Call[map[string][]byte](ctx, p, "give", []any{"map"})
	refused(err, "$.k[1]")

	got, err := Call[[]byte](ctx, p, "give", []any{"whole"})
	require.NoError(t, err)
	require.Equal(t, []byte{1, 2, 3}, got)
	got, err = Call[[]byte](ctx, p, "give", []any{"array"})
	require.NoError(t, err)
	require.Equal(t, []byte{1, 2, 3}, got)
	numbers, err := Call[Array](ctx, p, "give", []any{"array"})
	require.NoError(t, err)
	require.Equal(t, ArrayOf([]uint8{1, 2, 3}), numbers)
	text, err := Call[held](ctx, p, "give", []any{"text"})
	require.NoError(t, err)
	require.Equal(t, held{Data: []byte(",null]"), S: "[null,null]"}, text)
}
