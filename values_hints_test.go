package pypool

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pythonHint is a type hint: its text in Python, the Go type that has its values, what the script's
// function fits compares a value with, and random values of it.
type pythonHint struct {
	text, spec string
	goType     reflect.Type
	random     func(r *rand.Rand) reflect.Value
}

// scalarHint is a hint whose values are of one class in Python.
func scalarHint[T any](text string, random func(r *rand.Rand) T) pythonHint {
	return pythonHint{text, text, reflect.TypeFor[T](), func(r *rand.Rand) reflect.Value { return reflect.ValueOf(random(r)) }}
}

var scalarHints = []pythonHint{
	scalarHint("str", anyText),
	scalarHint("bool", func(r *rand.Rand) bool { return r.IntN(2) == 0 }),
	scalarHint("int", func(r *rand.Rand) int64 { return int64(r.Uint64()) >> r.IntN(64) }),
	scalarHint("int", func(r *rand.Rand) uint32 { return r.Uint32() }),
	scalarHint("int", anyBigInt),
	scalarHint("float", anyFloat),
	scalarHint("bytes", anyBytes),
	scalarHint("datetime.datetime", anyTime),
	scalarHint("datetime.timedelta", func(r *rand.Rand) time.Duration {
		return time.Duration(r.Int64()>>r.IntN(63)).Truncate(time.Microsecond) * time.Duration(1-2*r.IntN(2))
	}),
	scalarHint("decimal.Decimal", anyDecimal),
	scalarHint("uuid.UUID", func(r *rand.Rand) string {
		return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", r.Uint32(), r.IntN(1<<16), r.IntN(1<<16), r.IntN(1<<16), r.Uint64()>>16)
	}),
	scalarHint("Color", func(r *rand.Rand) string { return []string{"red", "green"}[r.IntN(2)] }),
	scalarHint("datetime.date", func(r *rand.Rand) string { return anyTime(r).Format(time.DateOnly) }),
}

// hintMaker makes random ones, and the classes that they name.
type hintMaker struct {
	r       *rand.Rand
	classes strings.Builder
	named   int
}

func (h *hintMaker) make(depth int) pythonHint {
	kind := h.r.IntN(8)
	if depth == 0 || kind == 0 {
		return scalarHints[h.r.IntN(len(scalarHints))]
	}
	switch kind {
	case 1, 2:
		of := h.make(depth - 1)
		list := []string{"List", "list", "Tuple", "tuple"}[2*h.r.IntN(2):]
		text := fmt.Sprintf("typing.%s[%s]", list[0], of.text)
		if list[0] == "Tuple" {
			text = fmt.Sprintf("typing.Tuple[%s, ...]", of.text)
		}
		return pythonHint{text, fmt.Sprintf("Each(%s, %s)", list[1], of.spec), reflect.SliceOf(of.goType), func(r *rand.Rand) reflect.Value {
			v := reflect.MakeSlice(reflect.SliceOf(of.goType), r.IntN(4), 4)
			for i := range v.Len() {
				v.Index(i).Set(of.random(r))
			}
			return v
		}}
	case 3:
		of, key := h.make(depth-1), scalarHints[[]int{0, 2}[h.r.IntN(2)]]
		t := reflect.MapOf(key.goType, of.goType)
		return pythonHint{fmt.Sprintf("typing.Dict[%s, %s]", key.text, of.text), fmt.Sprintf("Map(%s, %s)", key.spec, of.spec), t, func(r *rand.Rand) reflect.Value {
			v := reflect.MakeMap(t)
			for range r.IntN(4) {
				v.SetMapIndex(key.random(r), of.random(r))
			}
			return v
		}}
	case 4:
		of, n := h.make(depth-1), 1+h.r.IntN(3)
		t := reflect.ArrayOf(n, of.goType)
		return pythonHint{fmt.Sprintf("typing.Tuple[%s]", strings.Repeat(of.text+", ", n)), fmt.Sprintf("Items(%s)", strings.Repeat(of.spec+", ", n)), t, func(r *rand.Rand) reflect.Value {
			v := reflect.New(t).Elem()
			for i := range n {
				v.Index(i).Set(of.random(r))
			}
			return v
		}}
	case 5:
		of := h.make(depth - 1)
		switch of.goType.Kind() { // null is a nil of these, or an empty one
		case reflect.Pointer, reflect.Slice, reflect.Map:
			return of
		}
		return pythonHint{fmt.Sprintf("typing.Optional[%s]", of.text), fmt.Sprintf("Maybe(%s)", of.spec), reflect.PointerTo(of.goType), func(r *rand.Rand) reflect.Value {
			if r.IntN(3) == 0 {
				return reflect.Zero(reflect.PointerTo(of.goType))
			}
			v := reflect.New(of.goType)
			v.Elem().Set(of.random(r))
			return v
		}}
	default:
		return h.class(depth)
	}
}

// class is a dataclass or a TypedDict. (A NamedTuple comes back as an array, which no plain struct
// takes.)
func (h *hintMaker) class(depth int) pythonHint {
	var fields []reflect.StructField
	var of []pythonHint
	var body, specs strings.Builder
	for i := range 1 + h.r.IntN(4) {
		field := h.make(depth - 1)
		name := fmt.Sprintf("f%d", i)
		of = append(of, field)
		fields = append(fields, reflect.StructField{Name: strings.ToUpper(name), Type: field.goType, Tag: reflect.StructTag(`json:"` + name + `"`)})
		fmt.Fprintf(&body, "    %s: %s\n", name, field.text)
		fmt.Fprintf(&specs, "%s=%s, ", name, field.spec)
	}
	h.named++
	name, spec := fmt.Sprintf("C%d", h.named), ""
	if h.r.IntN(2) == 0 {
		fmt.Fprintf(&h.classes, "@dataclasses.dataclass\nclass %s:\n%s", name, body.String())
		spec = fmt.Sprintf("Object(%s, %s)", name, specs.String())
	} else {
		fmt.Fprintf(&h.classes, "class %s(typing.TypedDict):\n%s", name, body.String())
		spec = fmt.Sprintf("Object(dict, %s)", specs.String())
	}
	t := reflect.StructOf(fields)
	return pythonHint{name, spec, t, func(r *rand.Rand) reflect.Value {
		v := reflect.New(t).Elem()
		for i := range of {
			v.Field(i).Set(of[i].random(r))
		}
		return v
	}}
}

// sameBits is reflect.DeepEqual, but that floats are compared by their bits, times as instants with
// their offsets, and integers by their values.
func sameBits(a, b reflect.Value) bool {
	switch one := a.Interface().(type) {
	case time.Time:
		other := b.Interface().(time.Time)
		_, offset := one.Zone()
		_, otherOffset := other.Zone()
		return one.Equal(other) && offset == otherOffset
	case *big.Int:
		other := b.Interface().(*big.Int)
		return one != nil && other != nil && one.Cmp(other) == 0
	case float64:
		return math.Float64bits(one) == math.Float64bits(b.Float())
	}
	switch a.Kind() {
	case reflect.Pointer:
		return a.IsNil() == b.IsNil() && (a.IsNil() || sameBits(a.Elem(), b.Elem()))
	case reflect.Slice, reflect.Array:
		if a.Len() != b.Len() || a.Kind() == reflect.Slice && a.IsNil() != b.IsNil() {
			return false
		}
		for i := range a.Len() {
			if !sameBits(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.Len() != b.Len() {
			return false
		}
		for key, item := range a.Seq2() {
			if other := b.MapIndex(key); !other.IsValid() || !sameBits(item, other) {
				return false
			}
		}
		return true
	case reflect.Struct:
		for i := range a.NumField() {
			if !sameBits(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	}
	return a.Interface() == b.Interface()
}

const hintsScript = `
import dataclasses, datetime, decimal, enum, typing, uuid
from pypool import command

class Color(enum.Enum):
    RED = "red"
    GREEN = "green"

# What a value must be, to the last type in it. This knows nothing of hints.
def fits(spec, value):
    return type(value) is spec if isinstance(spec, type) else spec(value)
def Each(kind, of): return lambda v: type(v) is kind and all(fits(of, x) for x in v)
def Map(key, of): return lambda v: type(v) is dict and all(fits(key, k) and fits(of, x) for k, x in v.items())
def Items(*of): return lambda v: type(v) is tuple and len(v) == len(of) and all(map(fits, of, v))
def Maybe(of): return lambda v: v is None or fits(of, v)
def Object(kind, **of):
    def check(v):
        held = v if kind is dict else vars(v)
        return type(v) is kind and held.keys() == of.keys() and all(fits(of[name], held[name]) for name in of)
    return check

`

// Random values of random types arrive as what the hints say, to the last type in them, and come back
// equal: Go's types and Python's hints are made side by side.
func TestRandomHintsArriveAndComeBack(t *testing.T) {
	const types, values = 40, 50 // a seed
	for _, seed := range []uint64{1, 20261126} {
		random := rand.New(rand.NewPCG(seed, 11))
		made := hintMaker{r: random}
		var all []pythonHint
		var commands strings.Builder
		for i := range types {
			one := made.make(3)
			all = append(all, one)
			fmt.Fprintf(&commands, `
class Both%d(typing.TypedDict):
    x: %s
    many: typing.List[%[2]s]
@command
def f%[1]d(x: %[2]s, many: typing.List[%[2]s]) -> Both%[1]d:
    for v in [x, *many]:
        assert fits(%[3]s, v), v
    return {"x": x, "many": many}
`, i, one.text, one.spec)
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			withEachEncoder(t, Config{}, hintsScript+made.classes.String()+commands.String(), func(t *testing.T, p *Pool) {
				random := rand.New(rand.NewPCG(seed, 12))
				for i, one := range all {
					many := reflect.MakeSlice(reflect.SliceOf(one.goType), values, values)
					for j := range values {
						many.Index(j).Set(one.random(random))
					}
					x := one.random(random)
					var given any = []any{x.Interface(), many.Interface()}
					if i%2 == 0 {
						given = args{"x": x.Interface(), "many": many.Interface()}
					}
					res, err := p.ExecuteAnonymous(t.Context(), fmt.Sprintf("f%d", i), given, WithBlobs())
					require.NoError(t, err, "seed %d: %s", seed, one.text)
					got := reflect.New(reflect.StructOf([]reflect.StructField{
						{Name: "X", Type: one.goType, Tag: `json:"x"`}, {Name: "Many", Type: many.Type(), Tag: `json:"many"`},
					}))
					require.NoError(t, res.Decode(got.Interface()), "seed %d: %s", seed, one.text)
					if !sameBits(x, got.Elem().Field(0)) || !sameBits(many, got.Elem().Field(1)) {
						t.Fatalf("seed %d: %s: sent %+v, %+v; got %+v", seed, one.text, x, many, got.Elem())
					}
				}
			})
		})
	}
}

const echoedScript = `
import base64, datetime, decimal, math, random, struct, sys
from pypool import command, host

def some(r, depth):
    kind = r.randrange(14 if depth else 11)
    if kind == 0: return None
    if kind == 1: return r.random() < 0.5
    if kind == 2: return r.choice([-1, 1]) * r.getrandbits(r.randrange(1, 70))
    if kind == 3: return r.choice([-1, 1]) * r.getrandbits(r.randrange(1, 1000))
    if kind == 4: return r.choice([0.0, -0.0, 1.0, -150.0, 1e20, 1e21, 1.2345678901234567e20, 2.0**53, 5e-324, sys.float_info.max, 1e-7, 0.1])
    if kind == 5:
        f = struct.unpack(">d", r.getrandbits(64).to_bytes(8, "big"))[0]
        return f if math.isfinite(f) else 0.5
    if kind == 6: return text(r)
    if kind == 7: return bytes(r.getrandbits(8) for _ in range(r.randrange(5)))
    if kind == 8:
        zone = r.choice([None, datetime.timezone.utc, datetime.timezone(datetime.timedelta(minutes=r.randrange(-800, 800)))])
        return datetime.datetime(r.randrange(1, 10000), 1, 2, 3, 4, 5, r.choice([0, r.randrange(10**6)]), zone)
    if kind == 9: return datetime.timedelta(microseconds=r.randrange(-10**15, 10**15))
    if kind == 10: return decimal.Decimal(r.randrange(10**30)).scaleb(-r.randrange(25))
    if kind == 11: return [some(r, depth - 1) for _ in range(r.randrange(4))]
    if kind == 12: return tuple(some(r, depth - 1) for _ in range(r.randrange(4)))
    return {text(r): some(r, depth - 1) for _ in range(r.randrange(4))}

def text(r): return "".join(r.choice("aZ09 \\\"/\b\f\n\r\t\0\x1f\x7f\x80\u00e9\u2028\ud7ff\ue000\uffff\U0001f600\U0010ffff") for _ in range(r.randrange(6)))

def bits(f): return struct.pack(">d", f)

# Whether back is what JSON has of sent. In an any of Go's numbers are float64, or json.Number: a float
# without a fraction may come back as an integer, of the same float.
def same(sent, back, exact):
    if isinstance(sent, float):
        return type(back) in ((float,) if exact else (float, int)) and bits(float(back)) == bits(sent)
    if isinstance(sent, bytes): return back == base64.b64encode(sent).decode()
    if isinstance(sent, datetime.datetime): return back == sent.isoformat()
    if isinstance(sent, datetime.timedelta): return type(back) is int and back == sent // datetime.timedelta(microseconds=1) * 1000
    if isinstance(sent, decimal.Decimal): return back == str(sent)
    if isinstance(sent, (list, tuple)):
        return type(back) is list and len(back) == len(sent) and all(same(s, b, exact) for s, b in zip(sent, back))
    if isinstance(sent, dict):
        return type(back) is dict and back.keys() == sent.keys() and all(same(sent[k], back[k], exact) for k in sent)
    return type(back) is type(sent) and back == sent

@command
def play(seed: int, n: int, name: str):
    r = random.Random(seed)
    for i in range(n):
        sent = [some(r, 4)]
        back = getattr(host, name)(sent, 0)[0]
        assert same(sent, back, name == "raw"), "value %d: sent %r, got %r" % (i, sent, back)
    return n
`

// Random values of Python's go to a function of the host's and come back as what JSON has of them: to
// the digit and the bit where the function takes JSON, and to the value where it takes an any.
func TestRandomValuesOfPythonComeBackFromFunctions(t *testing.T) {
	cfg := Config{Functions: Functions{
		"value": echoFunction(),
		"raw":   Func(func(_ context.Context, in json.RawMessage) (json.RawMessage, error) { return in, nil }),
	}}
	withEachEncoder(t, cfg, echoedScript, func(t *testing.T, p *Pool) {
		for _, seed := range []int{1, 2, 20261126} {
			for name := range cfg.Functions {
				_, err := Call[int](t.Context(), p, "play", args{"seed": seed, "n": 400, "name": name})
				require.NoError(t, err, "seed %d, %s", seed, name)
			}
		}
	})
}
