package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/wire"
)

const blobsScript = `
import array, asyncio, ctypes, dataclasses, typing
import pypool
from pypool import command, program, host, current_call
try:
    import numpy as np
except ImportError:
    np = None

def kinds(value):
    if isinstance(value, dict):
        return {k: kinds(v) for k, v in value.items()}
    if isinstance(value, list):
        return [kinds(v) for v in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "%s:%d:%d" % (type(value).__name__, len(value), sum(bytes(value)))
    if isinstance(value, pypool.Array):
        return "Array:%s:%s:%s" % (value.dtype, list(value.shape), bytes(value.data).hex()[:64])
    if np is not None and isinstance(value, np.ndarray):
        return "ndarray:%s:%s:%s:%s" % (value.dtype.name, list(value.shape), value.flags.writeable, value.tobytes().hex()[:64])
    return "%s:%s" % (type(value).__name__, value)

@command
def seen(*args, **kwargs): return kinds(list(args) if args else kwargs)
@command
def echo(x=None): return x
@command
def size(x): return len(x)
@command
def asize(x: pypool.Array): return x.data.nbytes
GIVEN = {}
@command
def gives(n: int): return GIVEN.setdefault(n, b"x" * n)
@command
async def aecho(x=None):
    await asyncio.sleep(0)
    return x
@command(concurrency=8)
async def cecho(x=None):
    await asyncio.sleep(0)
    return x
@command(concurrency=8)
async def cmany(x, n: int):
    for i in range(n):
        await asyncio.sleep(0)
        yield {"x": x, "i": i}
@command(max_batch_size=8)
def becho(x): return x
@command
def many(x, n: int):
    for i in range(n): yield {"x": x, "i": i}
@program("p")
def p(x, more=None): return {"x": x, "more": more}
@command
def view(data: memoryview): return type(data).__name__ + " %s %d" % (data.readonly, len(data))
@command
def own(data: bytearray):
    data[:3] = b"xyz"
    return data
@command
def plain(a: pypool.Array): return "%s %s %d %s" % (a.dtype, list(a.shape), a.data.nbytes, a.data.readonly)
@command
def double(x):
    y = host.double(x=x, name="n")
    return y
@command
async def adouble(x): return await host.aio.double(x=x, name="n")
@command(concurrency=4)
async def cdouble(x): return await host.aio.double(x=x, name="n")
@command
def tdouble(x):
    import threading
    out = []
    t = threading.Thread(target=lambda: out.append(host.double(x=x, name="n")))
    t.start(); t.join()
    return out[0]
@command
def alone(x): return host.alone(x)
@command
def listed(x): return host.listed(x, x)

@dataclasses.dataclass
class Image:
    name: str
    pixels: bytes
@command
def image(i: Image) -> Image: return Image(i.name + "!", i.pixels[::-1])
@command
def types(n: int):
    "Everything that exports a buffer, and what does not."
    return {"bytes": b"\x01" * n, "bytearray": bytearray(b"\x02" * n), "memoryview": memoryview(b"\x03" * n), "array": array.array("d", [1.5] * 3),
            "ctypes": (ctypes.c_int32 * 3)(1, 2, 3), "plain": pypool.Array("int16", [2], array.array("h", [7, 8])), "text": "text", "big": 2**60, "none": None}
@command(nan="null")
def lacking(x): return {"x": x, "nan": float("nan")}
@command
def fails(x): raise ValueError(len(x))
@command
def bad(x): return {"x": x, "bad": [{"set": {1}}]}
@command
def badkey(x): return {"x": x, 5: 1}
@command
def half(x): return {"x": x, "s": "\ud800"}
`

func blobsConfig(t testing.TB, size int) Config {
	type doubled struct {
		X    []byte `json:"x"`
		Name string `json:"name"`
	}
	return Config{Script: script(t, blobsScript), Size: size, Overflow: -1, Functions: Functions{
		"double": Func(func(_ context.Context, in doubled) (doubled, error) {
			return doubled{append(in.X, in.X...), in.Name}, nil
		}),
		"alone":  Func(func(_ context.Context, in []byte) (int, error) { return len(in), nil }),
		"listed": Func(func(_ context.Context, in [][]byte) ([]int, error) { return []int{len(in[0]), len(in[1])}, nil }),
	}}
}

// eachSize runs a test with all bytes as payloads, and as a user has it.
func eachSize(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	for _, smallest := range []int{0, wire.MinBlob} {
		t.Run(fmt.Sprint("from ", smallest), func(t *testing.T) {
			defer wire.SetMinBlob(wire.SetMinBlob(smallest))
			f(t)
		})
	}
}

// pattern is bytes that nothing else has, newlines and what looks like the wire among them.
func pattern(n int) []byte {
	random := rand.New(rand.NewPCG(uint64(n), 1))
	b := append([]byte("\n{\"raw\":[5]}\n{\"id\":1,\"success\":true,\"result\":1}\n"), make([]byte, n)...)
	for i := range b[48:] {
		b[48+i] = byte(random.Uint32())
	}
	return b[:n]
}

// Bytes of any size go in and come out in calls of every kind.
func TestBytesInCallsOfEveryKind(t *testing.T) {
	eachSize(t, func(t *testing.T) {
		p, ctx := newPool(t, blobsConfig(t, 2)), t.Context()
		for _, n := range []int{0, 1, wire.MinBlob - 1, wire.MinBlob, 65536, 1 << 20} {
			x := pattern(n)
			sent := slices.Clone(x)
			for _, command := range []string{"echo", "aecho", "cecho", "becho"} {
				got, err := Call[[]byte](ctx, p, command, args{"x": x})
				require.NoError(t, err, command)
				require.True(t, bytes.Equal(x, got), "%s of %d", command, n)
			}
			type both struct {
				X    []byte         `json:"x"`
				More map[string]any `json:"more"`
			}
			res, err := p.ExecuteProgram(ctx, "p", args{"x": x, "more": args{"x": x, "n": 1}}, WithBlobs())
			require.NoError(t, err)
			var out both
			require.NoError(t, res.Decode(&out))
			require.True(t, bytes.Equal(x, out.X))
			text, err := json.Marshal(x)
			require.NoError(t, err)
			require.Equal(t, string(text[1:len(text)-1]), out.More["x"], "an interface gets what JSON has")
			require.Equal(t, 1.0, out.More["n"])
			require.JSONEq(t, fmt.Sprintf(`{"x":%s,"more":{"x":%s,"n":1}}`, text, text), string(res.Raw()))
			session, err := p.ExecuteInSession(ctx, "s", "echo", []any{x})
			require.NoError(t, err)
			require.Equal(t, string(text), string(session.Raw()), "not asked for: base64 text")
			for _, command := range []string{"many", "cmany"} {
				i := 0
				for item, err := range Each[struct {
					X []byte `json:"x"`
					I int    `json:"i"`
				}](ctx, p, command, args{"x": x, "n": 12}) {
					require.NoError(t, err)
					require.True(t, bytes.Equal(x, item.X))
					require.Equal(t, i, item.I)
					i++
				}
				require.Equal(t, 12, i)
			}
			require.True(t, bytes.Equal(sent, x), "the caller's memory is as it was")
		}
		image := map[string]any{"name": "n", "pixels": pattern(7000)}
		got, err := Call[struct {
			Name   string
			Pixels []byte
		}](ctx, p, "image", args{"i": image})
		require.NoError(t, err)
		want := pattern(7000)
		slices.Reverse(want)
		require.Equal(t, "n!", got.Name)
		require.True(t, bytes.Equal(want, got.Pixels))
	})
}

// In a Map, items with large, small and no bytes keep their order, whatever shares a line with what;
// the items' memory may be used again at once.
func TestLargeBytesInMap(t *testing.T) {
	eachSize(t, func(t *testing.T) {
		p, ctx := newPool(t, blobsConfig(t, 2)), t.Context()
		const n = 200
		size := func(i int) int { return []int{0, 10, 2000, 40_000, 5, 1100}[i%6] }
		for _, command := range []string{"echo", "becho"} {
			scratch := make([]byte, 40_000)
			items := func(yield func([]byte) bool) {
				for i := range n {
					item := scratch[:size(i)]
					for k := range item {
						item[k] = byte(i)
					}
					if !yield(item) {
						return
					}
				}
			}
			i := 0
			for got, err := range Map[[]byte](ctx, p, command, items) {
				require.NoError(t, err)
				require.True(t, bytes.Equal(bytes.Repeat([]byte{byte(i)}, size(i)), got), "%s %d", command, i)
				i++
			}
			require.Equal(t, n, i)
		}
		i := 0
		for got, err := range Map[Array](ctx, p, "echo", slices.Values([]Array{ArrayOf([]int8{1, 2}), ArrayOf([]float64{}), ArrayOf([]uint16{1, 2, 3, 4}, 2, 2)})) {
			require.NoError(t, err)
			require.Equal(t, []string{"int8", "float64", "uint16"}[i], got.DType)
			i++
		}
	})
}

// Functions of the host take bytes and give them, called from wherever.
func TestLargeBytesOfFunctions(t *testing.T) {
	eachSize(t, func(t *testing.T) {
		p, ctx := newPool(t, blobsConfig(t, 2)), t.Context()
		for _, n := range []int{0, 10, 3000, 300_000} {
			x := pattern(n)
			for _, command := range []string{"double", "adouble", "tdouble", "cdouble"} {
				got, err := Call[struct{ X []byte }](ctx, p, command, args{"x": x})
				require.NoError(t, err, command)
				require.True(t, bytes.Equal(append(slices.Clone(x), x...), got.X), "%s of %d", command, n)
			}
			length, err := Call[int](ctx, p, "alone", []any{x})
			require.NoError(t, err)
			require.Equal(t, n, length)
			lengths, err := Call[[]int](ctx, p, "listed", []any{x})
			require.NoError(t, err)
			require.Equal(t, []int{n, n}, lengths)
		}
		i := 0
		for got, err := range Map[struct{ X []byte }](ctx, p, "double", slices.Values([][]byte{pattern(50_000), {}, pattern(2000), {1}})) {
			require.NoError(t, err)
			require.Len(t, got.X, []int{100_000, 0, 4000, 2}[i])
			i++
		}
	})
}

// Many callers at the same time, on workers of their own, shared ones and in batches: nobody gets
// another's bytes.
func TestBytesOfManyCallers(t *testing.T) {
	p, ctx := newPool(t, blobsConfig(t, 2)), t.Context()
	var work sync.WaitGroup
	for caller := range 12 {
		work.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 2))
			for range 25 {
				x := bytes.Repeat([]byte{byte(caller)}, random.IntN(1<<random.IntN(17)))
				command := []string{"echo", "cecho", "becho"}[random.IntN(3)]
				got, err := Call[[]byte](ctx, p, command, args{"x": x})
				if err != nil || !bytes.Equal(x, got) {
					t.Errorf("%s of %d bytes: %d, %v", command, len(x), len(got), err)
				}
			}
		})
	}
	work.Wait()
}

// What a hint asks for is what a handler gets.
func TestHintsOfBytes(t *testing.T) {
	eachSize(t, func(t *testing.T) {
		p, ctx := newPool(t, blobsConfig(t, 1)), t.Context()
		x := pattern(2000)
		text, err := Call[string](ctx, p, "view", []any{x})
		require.NoError(t, err)
		require.Equal(t, "memoryview True 2000", text)
		got, err := Call[[]byte](ctx, p, "own", []any{x})
		require.NoError(t, err)
		require.True(t, bytes.Equal(append([]byte("xyz"), x[3:]...), got))
		text, err = Call[string](ctx, p, "plain", []any{ArrayOf([]float32{1, 2, 3, 4}, 2, 2)})
		require.NoError(t, err)
		require.Equal(t, "float32 [2, 2] 16 True", text)
		_, err = Call[any](ctx, p, "view", []any{ArrayOf([]int8{1})})
		require.ErrorContains(t, failure(t, err, ErrInvalidArguments), "expected memoryview ([]byte in Go), got an array of int8: hint numpy.ndarray, or pypool.Array")
		_, err = Call[any](ctx, p, "plain", []any{x})
		require.ErrorContains(t, failure(t, err, ErrInvalidArguments), "expected Array (pypool.Array in Go)")
	})
}

// Results of every kind that exports a buffer, in what takes them, and in what takes JSON.
func TestWhatExportsABuffer(t *testing.T) {
	eachSize(t, func(t *testing.T) {
		p, ctx := newPool(t, blobsConfig(t, 1)), t.Context()
		type result struct {
			Bytes, Bytearray, Memoryview []byte
			Array                        []float64
			Ctypes                       Array
			Plain                        *Array
			Text                         string
			Big                          any
			None                         any
		}
		got, err := Call[result](ctx, p, "types", []any{3000})
		require.NoError(t, err)
		require.True(t, bytes.Equal(bytes.Repeat([]byte{1}, 3000), got.Bytes))
		require.True(t, bytes.Equal(bytes.Repeat([]byte{2}, 3000), got.Bytearray))
		require.True(t, bytes.Equal(bytes.Repeat([]byte{3}, 3000), got.Memoryview))
		require.Equal(t, []float64{1.5, 1.5, 1.5}, got.Array)
		require.Equal(t, ArrayOf([]int32{1, 2, 3}), got.Ctypes)
		require.Equal(t, ArrayOf([]int16{7, 8}), *got.Plain)
		require.Equal(t, json.Number("1152921504606846976"), got.Big)
		require.Equal(t, "text", got.Text)

		_, err = Call[struct{ Bytes []byte }](ctx, p, "bad", []any{pattern(2000)})
		require.ErrorContains(t, failure(t, err, ErrInvalidResult), "$.bad[0].set")
		_, err = Call[struct{ X []byte }](ctx, p, "badkey", []any{pattern(2000)})
		require.ErrorContains(t, failure(t, err, ErrInvalidResult), "key 5 is not a string")
		_, err = Call[struct{ X []byte }](ctx, p, "half", []any{pattern(2000)})
		require.ErrorContains(t, failure(t, err, ErrInvalidResult), "$.s")
		_, err = Call[[]byte](ctx, p, "fails", []any{pattern(2000)})
		require.ErrorContains(t, failure(t, err, ErrPython), "2000")
		lacking, err := Call[struct {
			X   []byte
			Nan any
		}](ctx, p, "lacking", []any{pattern(2000)})
		require.NoError(t, err)
		require.Nil(t, lacking.Nan)
		require.Len(t, lacking.X, 2000)
	})
}

// MaxMessageBytes counts payloads, in requests as in results and items.
func TestMaxMessageBytesCountsPayloads(t *testing.T) {
	cfg := blobsConfig(t, 1)
	cfg.MaxMessageBytes = 100_000
	p, ctx := newPool(t, cfg), t.Context()
	_, err := Call[[]byte](ctx, p, "echo", []any{pattern(99_000)})
	require.NoError(t, err)
	_, err = Call[[]byte](ctx, p, "echo", []any{pattern(100_000)})
	e := failure(t, err, ErrMessageTooLarge)
	require.Equal(t, NotExecuted, e.Delivery)
	_, err = Call[[][]byte](ctx, p, "echo", []any{[][]byte{pattern(60_000), pattern(60_000)}})
	failure(t, err, ErrMessageTooLarge)
	_, err = Call[map[string][]byte](ctx, p, "types", []any{50_000})
	e = failure(t, err, ErrMessageTooLarge)
	require.Equal(t, Executed, e.Delivery)
	_, err = Call[struct{ X []byte }](ctx, p, "double", []any{pattern(60_000)})
	require.ErrorContains(t, failure(t, err, ErrPython), "message_too_large")
	got, err := Call[[]byte](ctx, p, "echo", []any{pattern(5000)})
	require.NoError(t, err)
	require.Len(t, got, 5000)
}

// A call's payloads belong to its caller again when the call has returned, whatever became of it, and
// what came out is nobody else's.
func TestWhoOwnsTheMemory(t *testing.T) {
	p, ctx := newPool(t, blobsConfig(t, 1)), t.Context()
	x := bytes.Repeat([]byte{1}, 1<<20)
	got, err := Call[[][]byte](ctx, p, "echo", []any{[][]byte{x, x}})
	require.NoError(t, err)
	clear(x)
	got[0] = append(got[0], 9)
	clear(got[0])
	require.True(t, bytes.Equal(bytes.Repeat([]byte{1}, 1<<20), got[1]))

	res, err := p.ExecuteAnonymous(ctx, "echo", []any{pattern(5000)}, WithBlobs())
	require.NoError(t, err)
	var first, second []byte
	require.NoError(t, res.Decode(&first))
	clear(first)
	require.NoError(t, res.Decode(&second))
	require.True(t, bytes.Equal(pattern(5000), second), "a Result can be decoded again")
}

func TestArrayOf(t *testing.T) {
	t.Parallel()
	data := []float32{1, 2, 3, 4, 5, 6}
	a := ArrayOf(data, 2, 3)
	require.Equal(t, "float32", a.DType)
	require.Equal(t, []int{2, 3}, a.Shape)
	data[0] = 7
	got, err := Elements[float32](a)
	require.NoError(t, err)
	require.Equal(t, []float32{7, 2, 3, 4, 5, 6}, got, "not a copy")
	got[1] = 8
	require.Equal(t, float32(8), data[1])
	require.Equal(t, []int{6}, ArrayOf(data).Shape)
	require.Equal(t, []int{0}, ArrayOf([]int8(nil)).Shape)
	_, err = Elements[float64](a)
	require.ErrorContains(t, err, "float32, not of float64")
	_, err = Elements[float32](Array{"float32", []int{3}, make([]byte, 8)})
	require.ErrorContains(t, err, "12 bytes, and it has 8")
	_, err = Elements[uint16](Array{"float16", []int{1}, make([]byte, 2)})
	require.ErrorContains(t, err, "float16")
	_, err = Elements[bool](Array{"bool", []int{2}, []byte{1, 2}})
	require.ErrorContains(t, err, "no bool")
	_, err = Elements[int8](Array{})
	require.Error(t, err)
	empty, err := Elements[int64](Array{"int64", []int{0, 5}, nil})
	require.NoError(t, err)
	require.Empty(t, empty)
	zero, err := Elements[int64](Array{"int64", nil, []byte{1, 0, 0, 0, 0, 0, 0, 0}})
	require.NoError(t, err)
	require.Equal(t, []int64{1}, zero)
	odd := make([]byte, 17)[1:]
	odd[0] = 5
	crooked, err := Elements[int64](Array{"int64", []int{2}, odd})
	require.NoError(t, err)
	require.Equal(t, []int64{5, 0}, crooked, "copied where it is not aligned")
	type celsius float64
	require.Equal(t, "float64", ArrayOf([]celsius{1}).DType)
}

// An array that is none is refused at the call, wherever it is.
func TestArraysThatDoNotFit(t *testing.T) {
	t.Parallel()
	p, ctx := newPool(t, Config{Script: script(t, blobsScript), Size: 1, Overflow: -1}), t.Context()
	for want, a := range map[string]Array{
		"the array at args.x.a[0]: float32 of shape [2 2] are 16 bytes, and it has 12": ArrayOf([]float32{1, 2, 3}, 2, 2),
		"there is no dtype \"float\"":                           {"float", []int{1}, make([]byte, 8)},
		"there is no dtype \"\"":                                {},
		"the shape [-1] has a negative number":                  {"int8", []int{-1}, nil},
		"the shape [4611686018427387904 4] is more than memory": {"int8", []int{1 << 62, 4}, nil},
		"int8 of shape [] are 1 bytes, and it has 0":            {"int8", nil, nil},
	} {
		_, err := Call[any](ctx, p, "echo", args{"x": args{"a": []any{a}}})
		e := failure(t, err, ErrInvalidArguments)
		require.ErrorContains(t, e, want)
		require.Equal(t, NotExecuted, e.Delivery)
	}
	_, err := Call[any](ctx, p, "echo", ArrayOf([]int8{1}))
	require.ErrorContains(t, failure(t, err, ErrInvalidArguments), "must encode to a JSON object, array or null, and pypool.Array does not")
}

type namedArray struct {
	name string
	a    Array
}

func allDTypes() []namedArray {
	return []namedArray{
		{"bool", ArrayOf([]bool{true, false, true, true, false, true}, 2, 3)}, {"int8", ArrayOf([]int8{-128, 127}, 1, 2)}, {"int16", ArrayOf([]int16{-1, math.MaxInt16})},
		{"int32", ArrayOf([]int32{math.MinInt32, 1})}, {"int64", ArrayOf([]int64{math.MinInt64, math.MaxInt64})}, {"uint8", ArrayOf([]uint8{0, 255})},
		{"uint16", ArrayOf([]uint16{0, math.MaxUint16})}, {"uint32", ArrayOf([]uint32{1, math.MaxUint32})}, {"uint64", ArrayOf([]uint64{1, math.MaxUint64})},
		{"float32", ArrayOf([]float32{0.1, float32(math.Inf(1))})}, {"float64", ArrayOf([]float64{math.NaN(), math.Inf(-1), math.Copysign(0, -1), 5e-324})},
		{"complex64", ArrayOf([]complex64{1 + 2i, -3i})}, {"complex128", ArrayOf([]complex128{complex(math.Inf(1), math.NaN())})},
		{"float16", Array{"float16", []int{2}, []byte{0x00, 0x3c, 0x01, 0xfc}}}, {"empty", ArrayOf([]float64{}, 0, 3)}, {"empty rows", ArrayOf([]float64{}, 3, 0)},
		{"zero-dimensional", Array{"int32", nil, []byte{1, 2, 3, 4}}}, {"many dimensions", ArrayOf([]int8{1}, slices.Repeat([]int{1}, 20)...)},
		{"large", ArrayOf(make([]float32, 100_000), 10, 100, 100)},
	}
}

// An array arrives in Python without NumPy as a pypool.Array, and goes back as it was.
func TestArraysWithoutNumPy(t *testing.T) {
	p, ctx := newPool(t, blobsConfig(t, 1)), t.Context()
	testArrays(t, p)
	text, err := Call[[]string](ctx, p, "seen", []any{ArrayOf([]int8{1, 2})})
	require.NoError(t, err)
	require.Contains(t, []string{"Array:int8:[2]:0102", "ndarray:int8:[2]:False:0102"}, text[0], "whether NumPy is installed for this interpreter is not known")
}

func testArrays(t *testing.T, p *Pool) {
	t.Helper()
	ctx := t.Context()
	for _, tc := range allDTypes() {
		for _, command := range []string{"echo", "cecho", "becho"} {
			got, err := Call[Array](ctx, p, command, args{"x": tc.a})
			require.NoError(t, err, tc.name)
			require.Equal(t, tc.a.DType, got.DType, tc.name)
			require.Equal(t, tc.a.Shape, got.Shape, tc.name)
			require.True(t, bytes.Equal(tc.a.Data, got.Data), tc.name)
		}
	}
	type nested struct {
		A    Array            `json:"a"`
		List []*Array         `json:"list"`
		By   map[string]Array `json:"by"`
		None *Array           `json:"none"`
		Any  any              `json:"any"`
		Data []byte           `json:"data"`
	}
	a := ArrayOf([]int32{1, 2, 3, 4}, 2, 2)
	in := nested{A: a, List: []*Array{&a, nil}, By: map[string]Array{"k\"": a}, Any: a, Data: pattern(3000)}
	got, err := Call[nested](ctx, p, "echo", []any{in})
	require.NoError(t, err)
	in.Any = []any{[]any{1.0, 2.0}, []any{3.0, 4.0}}
	require.Equal(t, in, got)
}

// A result that is an array decodes into slices of slices as JSON's lists do, and into an interface.
func TestAnArrayAsJSON(t *testing.T) {
	p, ctx := newPool(t, blobsConfig(t, 1)), t.Context()
	execute := func(a Array) Result {
		res, err := p.ExecuteAnonymous(ctx, "echo", []any{a}, WithBlobs())
		require.NoError(t, err)
		return res
	}
	res := execute(ArrayOf([]float64{1, 2.5, 1e300, 4}, 2, 2))
	var rows [][]float64
	require.NoError(t, res.Decode(&rows))
	require.Equal(t, [][]float64{{1, 2.5}, {1e300, 4}}, rows)
	var anything any
	require.NoError(t, res.Decode(&anything))
	require.Equal(t, []any{[]any{1.0, 2.5}, []any{1e300, 4.0}}, anything)
	require.JSONEq(t, `[[1.0,2.5],[1e300,4.0]]`, string(res.Raw()))
	var whole [][]int
	failure(t, res.Decode(&whole), ErrDecode)
	var data []byte
	failure(t, res.Decode(&data), ErrDecode)
	require.NoError(t, execute(ArrayOf([]int64{1, 2, 3})).Decode(&data), "as JSON's list of numbers does")
	require.Equal(t, []byte{1, 2, 3}, data)
	var ints []int
	require.NoError(t, execute(ArrayOf([]int64{1 << 60, -2, 3})).Decode(&ints))
	require.Equal(t, []int{1 << 60, -2, 3}, ints)
	require.NoError(t, execute(ArrayOf([]uint64{math.MaxUint64})).Decode(&anything))
	require.Equal(t, []any{json.Number("18446744073709551615")}, anything)
	var floats []float64
	require.NoError(t, execute(ArrayOf([]float32{0.1, float32(math.NaN())})).Decode(&floats))
	require.Equal(t, float64(float32(0.1)), floats[0])
	require.True(t, math.IsNaN(floats[1]), "in floats there is a NaN")
	res = execute(ArrayOf([]float64{math.NaN(), 1}))
	require.ErrorContains(t, failure(t, res.Decode(&anything), ErrDecode), "NaN is not JSON")
	require.JSONEq(t, `[null,1.0]`, string(res.Raw()))
	res = execute(ArrayOf([]complex64{1 + 2i}))
	require.ErrorContains(t, failure(t, res.Decode(&anything), ErrDecode), "complex")
	var complexes []complex128
	failure(t, res.Decode(&complexes), ErrDecode)
	var half []float64
	require.NoError(t, execute(Array{"float16", []int{3}, []byte{0x00, 0x3c, 0x01, 0x80, 0xff, 0x7b}}).Decode(&half))
	require.Equal(t, []float64{1, -5.960464477539063e-08, 65504}, half)
	var number float64
	require.NoError(t, execute(Array{"float64", nil, ArrayOf([]float64{4.5}).Data}).Decode(&number))
	require.Equal(t, 4.5, number)
	var bools []bool
	require.NoError(t, execute(ArrayOf([]bool{true, false})).Decode(&bools))
	require.Equal(t, []bool{true, false}, bools)
	_, err := Call[Array](ctx, p, "echo", []any{[]int{1, 2}})
	require.ErrorContains(t, failure(t, err, ErrDecode), "numpy.asarray")
	_, err = Call[Array](ctx, p, "echo", []any{pattern(2000)})
	failure(t, err, ErrDecode)
}

// Where a payload goes is decided as encoding/json does: with the payloads written into the JSON, it
// makes the same of it.
func TestPayloadsGoWhereJSONWouldGo(t *testing.T) {
	t.Parallel()
	type inner struct {
		Data []byte
		Same []byte `json:"same"`
	}
	type embedded struct{ Deep []byte }
	type target struct {
		inner
		*embedded
		Data   []byte             `json:"data"`
		DATA2  []byte             `json:"Data2"`
		Ptr    **[]byte           `json:"ptr"`
		Map    map[int][]byte     `json:"map"`
		Keys   map[textKey][]byte `json:"keys"`
		Raw    json.RawMessage    `json:"raw"`
		Text   string             `json:"text"`
		Fixed  [2][]byte          `json:"fixed"`
		Rows   []inner            `json:"rows"`
		By     map[string]*inner  `json:"by"`
		Iface  any                `json:"iface"`
		Quoted quoted             `json:"quoted"`
		Levels []level            `json:"levels"`
		Twice  map[string][]byte  `json:"twice"`
		Hidden []byte             `json:"-"`
	}
	x := pattern(30)
	at := func(raw string) reply { // each @ is a payload
		var rep reply
		for _, c := range []byte(raw) {
			if c == '@' {
				rep.blobs = append(rep.blobs, wire.Blob{At: len(rep.raw), Data: x})
				rep.raw = append(rep.raw, "null"...)
			} else {
				rep.raw = append(rep.raw, c)
			}
		}
		f := wire.Frame{Body: rep.raw}
		require.NoError(t, f.ParseBlobs(wire.AppendBlobs(nil, rep.blobs)), raw)
		for i := range f.Blobs {
			f.Blobs[i].Data = x
		}
		rep.blobs = f.Blobs
		return rep
	}
	for _, raw := range []string{
		`{"data":@,"same":@,"Deep":@}`, `{"DATA":@,"data2":@,"SAME":@}`, `{"ptr":@,"raw":@,"text":@,"iface":@}`, `{"map":{"1":@,"-7":@}}`, `{"map":{"x":@}}`,
		`{"fixed":[@,@]}`, `{"rows":[{"same":@},{"Data":@,"x":@},null]}`, `{"by":{"a":{"same":@},"b":{"q\"\u0041":@}}}`, `{"iface":[{"a":@},@]}`, `{"quoted":@,"levels":@,"-":@,"Hidden":@}`,
		`{"unknown":{"a":[@]},"data":@}`, `{"data":{"a":@}}`, `{"rows":{"a":@}}`, `[@]`, `@`, `{"data":null,"same":@}`, ` { "data" : @ , "rows" : [ { "same" : @ } ] } `,
		`{"Twice":{"x":@},"twice":null}`, `{"twice":null,"Twice":{"x":@}}`,
	} {
		rep := at(raw)
		whole, _, err := spell(rep, make([]destination, len(rep.blobs)), "")
		require.NoError(t, err)
		var want, got target
		wantErr := json.Unmarshal(whole, &want)
		err = storeBlobs(rep, &got, true)
		require.Equal(t, wantErr == nil, err == nil, "%s: %v, %v", raw, wantErr, err)
		if err == nil {
			require.Equal(t, want, got, raw)
		}
		var wantAny, gotAny any
		require.NoError(t, json.Unmarshal(whole, &wantAny))
		require.NoError(t, storeBlobs(rep, &gotAny, false))
		require.Equal(t, wantAny, gotAny, raw)
	}
	require.True(t, takesBlobs(reflect.TypeFor[target]()))
	require.False(t, takesBlobs(reflect.TypeFor[struct {
		A any
		B map[string]string
		C json.RawMessage
		D [4]byte
	}]()))
	require.True(t, takesBlobs(reflect.TypeFor[map[string][]*Array]()))
	type recursive struct{ Next *recursive }
	require.False(t, takesBlobs(reflect.TypeFor[recursive]()))
}

// An array is as many lists as its shape says, whatever a worker has written there.
func TestNoArrayBecomesMoreListsThanTheHostHolds(t *testing.T) {
	t.Parallel()
	with := func(arrays ...wire.Blob) reply {
		rep := reply{raw: json.RawMessage("[" + strings.Repeat("null,", len(arrays)-1) + "null]")}
		for i := range arrays {
			arrays[i].At, arrays[i].Path = 1+5*i, []wire.Step{{IsIndex: true, Index: i}}
			require.NoError(t, wire.CheckArray(arrays[i].DType, arrays[i].Shape, len(arrays[i].Data)))
		}
		rep.blobs = arrays
		return rep
	}
	empty := func(shape ...int) wire.Blob { return wire.Blob{DType: "float32", Shape: shape} }
	deep := wire.Blob{DType: "int8", Shape: append([]int{1 << 20}, slices.Repeat([]int{1}, 63)...), Data: make([]byte, 1<<20)}
	var many []wire.Blob
	for range 30 {
		many = append(many, empty(100_000, 0))
	}
	for name, rep := range map[string]reply{
		"one": with(empty(1<<50, 0)), "large": with(empty(10_000_000_000, 0)), "nested": with(empty(1<<20, 1<<20, 0)), "in many": with(empty(1<<15, 1<<15, 1<<15, 0)),
		"many": with(many...), "deep": with(deep),
	} {
		var floats [][][]float32
		var anything any
		if name != "deep" {
			require.ErrorContains(t, storeBlobs(rep, &floats, true), "decode it into a pypool.Array", name)
		}
		require.ErrorContains(t, storeBlobs(rep, &anything, true), "decode it into a pypool.Array", name)
		raw := Result{reply: rep}.Raw()
		require.True(t, json.Valid(raw), name)
		require.Contains(t, string(raw), "null", name)
		require.Less(t, len(raw), 16<<20, name)
		var arrays []Array
		require.NoError(t, storeBlobs(rep, &arrays, true), name)
		require.Equal(t, rep.blobs[0].Shape, arrays[0].Shape, name)
	}
	var rows [][][]float32
	require.NoError(t, storeBlobs(with(empty(100_000, 0), empty(0, 1<<40)), &rows, true))
	require.Len(t, rows[0], 100_000)
	require.Empty(t, rows[1])
}

// Arguments and results of a Caller in another process keep their payloads.
func TestPayloadsThatAreRelayed(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Script: script(t, blobsScript), Size: 1, Overflow: -1})
	given := args{"a": ArrayOf([]float64{math.NaN(), 2}, 1, 2), "b": pattern(5000), "l": []any{ArrayOf([]int8{1}), "x"}, "s": []byte("s")}
	data, err := EncodeArgs(given)
	require.NoError(t, err)
	relayed, err := DecodeArgs(data)
	require.NoError(t, err)
	direct := decoded[any](t, executed(t, p, "seen", given))
	require.Equal(t, direct, decoded[any](t, executed(t, p, "seen", relayed)))

	res, err := p.ExecuteAnonymous(t.Context(), "echo", args{"x": given}, WithBlobs())
	require.NoError(t, err)
	far := DecodeResult(EncodeResult(res), ResultInfo{Worker: res.Worker()})
	type result struct {
		A Array
		B []byte
		L []any
		S []byte
	}
	require.Equal(t, fmt.Sprintf("%x", decoded[result](t, res)), fmt.Sprintf("%x", decoded[result](t, far)))
	o, err := ReadCallOptions(WithBlobs())
	require.NoError(t, err)
	require.True(t, o.Blobs)
	for _, bad := range []string{"{}\n{\"blobs\":[{\"at\":0}],\"data\":[\"\"]}", "null\n{\"blobs\":[{\"at\":0}],\"data\":[]}"} {
		var v any
		require.True(t, errors.Is(DecodeResult([]byte(bad), ResultInfo{}).Decode(&v), ErrDecode), bad)
	}
	for _, bad := range []string{"{}\n{\"blobs\":[{\"at\":[\"a\"]}],\"data\":[\"\"]}", "[null]\n{\"blobs\":[{\"at\":[0]}],\"data\":[]}", "[null]\n{\"blobs\":[{\"at\":[]}],\"data\":[\"\"]}"} {
		_, err := DecodeArgs([]byte(bad))
		require.True(t, errors.Is(err, ErrInvalidArguments), bad)
	}
}

// table is a kind of payload of a package of its own.
type table struct{ rows []byte }

func (t table) PythonPayload() (string, []byte, error) {
	if t.rows == nil {
		return "", nil, errors.New("it has no rows")
	}
	return "table", t.rows, nil
}

func (t *table) SetPythonPayload(kind string, data []byte) error {
	if kind != "table" {
		return fmt.Errorf("a payload of the kind %q is no table", kind)
	}
	t.rows = data
	return nil
}

func TestAKindOfPayloadOfItsOwn(t *testing.T) {
	p, ctx := newPool(t, Config{Script: script(t, `
import pypool
from pypool import command
class Table:
    def __init__(self, rows): self.rows = rows
def load(view):
    if bytes(view) == b"bad": raise ValueError("no table")
    return Table(bytes(view))
pypool.payload("table", load, lambda value: value.rows if isinstance(value, Table) else None)
@command
def turn(t): return {"t": Table(t["in"].rows[::-1]), "kind": type(t["in"]).__name__}
@command
def other(): return b"no table" * 1000
`), Size: 1, Overflow: -1}), t.Context()
	type result struct {
		T    *table
		Kind string
	}
	for range 2 {
		got, err := Call[result](ctx, p, "turn", []any{args{"in": table{[]byte("abc")}}})
		require.NoError(t, err)
		require.Equal(t, result{&table{[]byte("cba")}, "Table"}, got)
	}
	_, err := Call[result](ctx, p, "turn", []any{args{"in": table{[]byte("bad")}}})
	require.ErrorContains(t, failure(t, err, ErrInvalidArguments), "no table")
	_, err = Call[result](ctx, p, "turn", []any{args{"in": table{}}})
	require.ErrorContains(t, failure(t, err, ErrInvalidArguments), "the pypool.table at args[0].in: it has no rows")
	_, err = Call[table](ctx, p, "other", nil)
	require.ErrorContains(t, failure(t, err, ErrDecode), "is no table")
	_, err = Call[any](ctx, p, "turn", []any{args{"in": unknownKind{}}})
	require.ErrorContains(t, failure(t, err, ErrInvalidArguments), "nothing here knows payloads of the kind 'unknown'")
}

type unknownKind struct{}

func (unknownKind) PythonPayload() (string, []byte, error) { return "unknown", nil, nil }

// A forked worker's payloads are its own.
func TestBytesOfForkedWorkers(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there are no fork servers")
	}
	cfg := blobsConfig(t, 2)
	cfg.ForkServer = true
	p, ctx := newPool(t, cfg), t.Context()
	x := pattern(300_000)
	for range 4 {
		got, err := Call[struct{ X []byte }](ctx, p, "double", args{"x": x})
		require.NoError(t, err)
		require.True(t, bytes.Equal(append(slices.Clone(x), x...), got.X))
		a, err := Call[Array](ctx, p, "echo", args{"x": ArrayOf([]float32{1, 2}, 1, 2)})
		require.NoError(t, err)
		require.Equal(t, ArrayOf([]float32{1, 2}, 1, 2), a)
	}
}

// Many small arrays are many payloads of one line.
func TestManySmallArrays(t *testing.T) {
	p, ctx := newPool(t, blobsConfig(t, 1)), t.Context()
	var in []Array
	for i := range 5000 {
		in = append(in, ArrayOf([]int16{int16(i)}))
	}
	out, err := Call[[]Array](ctx, p, "echo", []any{in})
	require.NoError(t, err)
	require.Equal(t, in, out)
}

// What a handler keeps stays what it was, however many calls come after it.
func TestKeptViewsStayAsTheyWere(t *testing.T) {
	p, ctx := newPool(t, Config{Size: 2, Overflow: -1, Script: script(t, `
import collections, random
from pypool import command, Array
kept = collections.deque(maxlen=300)
@command
def keep(data: memoryview, a: Array, n: int) -> bytes:
    kept.append((data, a.data, n))
    for view, numbers, byte in random.sample(list(kept), min(len(kept), 3)):
        assert bytes(view) == bytes([byte]) * len(view) and bytes(numbers) == bytes([byte]) * len(numbers)
    return bytes([n]) * len(data)
@command
def check() -> int:
    for view, numbers, byte in kept:
        assert bytes(view) == bytes([byte]) * len(view) and bytes(numbers) == bytes([byte]) * len(numbers)
    return len(kept)
`)}), t.Context()
	type given struct {
		Data []byte `json:"data"`
		A    Array  `json:"a"`
		N    byte   `json:"n"`
	}
	var work sync.WaitGroup
	for caller := range 4 {
		work.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 3))
			scratch := make([]byte, 1<<17)
			for i := range 250 {
				n := byte(random.Uint32())
				in := scratch[:random.IntN(1<<random.IntN(18))]
				for k := range in {
					in[k] = n
				}
				got, err := Call[[]byte](ctx, p, "keep", given{in, ArrayOf(in[:len(in)/2]), n})
				if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{n}, len(in))) {
					t.Errorf("call %d: %d bytes, %v", i, len(got), err)
					return
				}
			}
		})
	}
	work.Wait()
	for range 8 {
		_, err := Call[int](ctx, p, "check", nil)
		require.NoError(t, err)
	}
}

// pairOf is a tuple in Python.
type pairOf struct {
	Name string
	Data []byte
	More *pairOf
}

func (p *pairOf) PythonItems() []any { return []any{&p.Name, &p.Data, &p.More} }

func (p *pairOf) UnmarshalJSON(data []byte) error {
	items := []any{&p.Name, &p.Data, &p.More}
	return json.Unmarshal(data, &items)
}

func TestPayloadsInATupleOfItsOwn(t *testing.T) {
	p, ctx := newPool(t, Config{Script: script(t, `
from pypool import command
@command
def pair(depth):
    found = None
    for i in range(depth): found = ("n%d" % i, bytes([i]) * 5000, found)
    return found
@command
def pairs(): return {"a": [("x", b"y" * 5000, None)], "b": ("too", b"z" * 5000, None, b"many" * 5000)}
`), Size: 1, Overflow: -1}), t.Context()
	got, err := Call[pairOf](ctx, p, "pair", []any{3})
	require.NoError(t, err)
	require.Equal(t, pairOf{"n2", bytes.Repeat([]byte{2}, 5000), &pairOf{"n1", bytes.Repeat([]byte{1}, 5000), &pairOf{"n0", bytes.Repeat([]byte{0}, 5000), nil}}}, got)
	type both struct {
		A []*pairOf `json:"a"`
	}
	all, err := Call[both](ctx, p, "pairs", nil)
	require.NoError(t, err)
	require.Equal(t, []*pairOf{{"x", bytes.Repeat([]byte("y"), 5000), nil}}, all.A)
	res, err := p.ExecuteAnonymous(ctx, "pair", []any{1})
	require.NoError(t, err)
	require.Equal(t, bytes.Repeat([]byte{0}, 5000), decoded[pairOf](t, res).Data, "as text")
}
