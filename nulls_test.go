package pypool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

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

// tupleOf is a Tuple as pypoolgen writes them.
type tupleOf struct {
	V0 int
	V1 [2]float64
}

func (v *tupleOf) PythonItems() []any { return []any{&v.V0, &v.V1} }

func (v *tupleOf) UnmarshalJSON(data []byte) error {
	var items []json.RawMessage
	if err := json.Unmarshal(data, &items); err != nil || len(items) != 2 {
		return err
	}
	return errors.Join(json.Unmarshal(items[0], &v.V0), json.Unmarshal(items[1], &v.V1))
}

// fits is a row: a result that fits Out, or whose error tells what.
func fits[Out any](value, what string) func(t *testing.T, p *Pool) {
	return func(t *testing.T, p *Pool) {
		t.Helper()
		_, err := Call[Out](t.Context(), p, "give", []any{value})
		_, asked := Call[any](t.Context(), p, "ask", []any{fmt.Sprint(reflect.TypeFor[Out]()), value})
		if what == "" {
			require.NoError(t, err, value)
			require.NoError(t, asked, value)
			return
		}
		require.ErrorIs(t, err, ErrDecode, value)
		require.ErrorContains(t, err, what)
		require.ErrorContains(t, asked, "invalid_arguments")
		require.ErrorContains(t, asked, what)
	}
}

// What a list has beyond a Go array is not dropped, what it lacks is not made up, and None is neither
// a struct, a Tuple nor an array: in results, and in what Python calls functions with.
func TestWhatDoesNotFitIsNeitherDroppedNorMadeUp(t *testing.T) {
	functions := Functions{}
	takes := func(name string, f Function) { functions[name] = f }
	takes("pair", Func(func(context.Context, [2]float64) (bool, error) { return true, nil }))
	takes("rows", Func(func(context.Context, [][2]float64) (bool, error) { return true, nil }))
	takes("maps", Func(func(context.Context, map[string]*[1]json.Number) (bool, error) { return true, nil }))
	takes("blobs", Func(func(context.Context, [2][]byte) (bool, error) { return true, nil }))
	takes("tuple", Func(func(context.Context, tupleOf) (bool, error) { return true, nil }))
	takes("key", Func(func(context.Context, lookupKey) (bool, error) { return true, nil }))
	takes("pointer", Func(func(context.Context, *lookupKey) (bool, error) { return true, nil }))
	takes("list", Func(func(context.Context, []int) (bool, error) { return true, nil }))
	takes("itself", Func(func(context.Context, time.Time) (bool, error) { return true, nil }))
	p := newPool(t, Config{Size: 1, Overflow: -1, Functions: functions, Script: script(t, `
from pypool import command, host
NAMES = {"[2]float64": "pair", "[][2]float64": "rows", "map[string]*[1]json.Number": "maps", "[2][]uint8": "blobs", "pypool.tupleOf": "tuple",
    "pypool.lookupKey": "key", "*pypool.lookupKey": "pointer", "[]int": "list", "time.Time": "itself"}
@command
def give(value): return eval(value)
@command
def ask(name, value): return getattr(host, NAMES[name])(eval(value))
`)})
	const null = "it is null (None in Python); a pointer takes that"
	for _, row := range []func(*testing.T, *Pool){
		fits[[2]float64]("[1, 2]", ""),
		fits[[2]float64]("[1, 2, 3]", "at $ there is a list of 3, and [2]float64 has 2"),
		fits[[2]float64]("None", null),
		fits[[][2]float64]("[[1, 2], [3, 4]]", ""),
		fits[[][2]float64]("[[1, 2], [3]]", "at $[1] there is a list of 1, and [2]float64 has 2"),
		fits[[][2]float64]("[[1, 2], None]", ""), // by the rules of encoding/json, like a null anywhere else
		fits[map[string]*[1]json.Number](`{"a": None, "b": [10**400]}`, ""),
		fits[map[string]*[1]json.Number](`{"a": None, "b": [10**400, 1]}`, "at $.b there is a list of 2, and [1]json.Number has 1"),
		fits[[2][]byte](`[b"a", b"b" * 9000]`, ""),
		fits[[2][]byte](`[b"a", b"b" * 9000, b"c"]`, "at $ there is a list of 3, and [2][]uint8 has 2"),
		fits[tupleOf]("(1, [2, 3])", ""),
		fits[tupleOf]("(1, [2, 3, 4])", "at $[1] there is a list of 3, and [2]float64 has 2"),
		fits[tupleOf]("None", null),
		fits[lookupKey]("None", null),
		fits[*lookupKey]("None", ""),
		fits[[]int]("None", ""),
		fits[time.Time]("None", ""),
	} {
		row(t, p)
	}
	require.Zero(t, p.Stats().WorkersExited)
}
