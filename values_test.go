package pypool

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/wire"
)

const valuesScript = `
import dataclasses, datetime, decimal, json, struct, typing, uuid
from pypool import command, program

def shape(value):
    "What arrived, as text that shows types: JSON cannot hide anything in it."
    if isinstance(value, dict):
        return "{" + ",".join("%s:%s" % (json.dumps(k), shape(v)) for k, v in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(shape, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, float):
        return "float:" + struct.pack(">d", value).hex()
    return type(value).__name__ + ":" + (value.hex() if isinstance(value, (bytes, bytearray)) else repr(value))

@command
def seen(*args, **kwargs): return shape(list(args) if args else kwargs)
@command
def echo(x=None): return x
@command
def take(data: bytes) -> bytes: return data[::-1]
@command
def texts(text: str): return type(text).__name__
@command
def flood(data: bytes, n: int):
    for i in range(n):
        yield data * i
@program("keep")
def keep(data: bytes, more=None): return [data, more]
@command
def exact(price: decimal.Decimal, rest=None) -> str: return "%s %s %s" % (price, type(rest).__name__, rest)
@command
def exact_all(prices: typing.List[decimal.Decimal], at: typing.Any = None): return [str(p) for p in prices] + [type(at).__name__]
@program("exact")
def exact_program(price: decimal.Decimal): return str(price)
@command
def wait(d: datetime.timedelta) -> datetime.timedelta: return d * 2
@command
def counts(by: typing.Dict[int, float]) -> typing.Dict[int, float]:
    assert all(type(k) is int and type(v) is float for k, v in by.items()), by
    return {k + 1: v for k, v in by.items()}
@command
def nothing(): return None
@command
def lacking(): return {"a": float("nan")}
@command(nan="null")
def lacking_null(): return {"a": [float("nan"), float("-inf"), 1.5]}
@command
def names(x: typing.List[str]): return x
`

func valuesPool(t testing.TB, size int) *Pool {
	t.Helper()
	return newPool(t, Config{Script: script(t, valuesScript), Size: size, Overflow: -1})
}

// shape is what the script's function of that name makes of a value: the oracle. []byte is bytes, a
// map is sorted by key, a float that encoding/json writes without a point or an exponent is an int.
func shape(v any) string {
	return shapeOf(v, func(b []byte) string { return fmt.Sprintf("bytes:%x", b) })
}

// shapeOf is shape with another oracle for bytes.
func shapeOf(v any, ofBytes func([]byte) string) string {
	shape := func(v any) string { return shapeOf(v, ofBytes) }
	switch v := v.(type) {
	case float64:
		if math.Trunc(v) == v && math.Abs(v) < 1e21 && math.Float64bits(v) != 1<<63 {
			return "int:" + strconv.FormatFloat(v, 'f', -1, 64)
		}
		return fmt.Sprintf("float:%016x", math.Float64bits(v))
	case json.Number:
		if !strings.ContainsAny(string(v), ".eE") {
			return "int:" + string(v)
		}
		f, _ := v.Float64()
		return fmt.Sprintf("float:%016x", math.Float64bits(f))
	case *big.Int:
		return "int:" + v.String()
	case time.Time:
		return pythonJSON(v.Format(time.RFC3339Nano))
	case time.Duration:
		return fmt.Sprintf("int:%d", v.Nanoseconds())
	case *any:
		return shape(*v)
	case [2]any:
		return shape(v[:])
	case map[int]any:
		texts := map[string]any{}
		for key, item := range v {
			texts[strconv.Itoa(key)] = item
		}
		return shape(texts)
	case randomRecord:
		return shape(map[string]any{"f": v.F, "at": v.At, "data": v.Data, "rows": v.Rows})
	case nil:
		return "NoneType:None"
	case bool:
		return "bool:" + map[bool]string{true: "True", false: "False"}[v]
	case string:
		return pythonJSON(v)
	case []byte:
		if v == nil {
			return "NoneType:None"
		}
		return ofBytes(v)
	case int:
		return fmt.Sprintf("int:%d", v)
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = shape(v[i])
		}
		return "[" + strings.Join(parts, ",") + "]"
	case map[string]any:
		keys := slices.SortedFunc(maps.Keys(v), func(a, b string) int { return slices.Compare([]rune(a), []rune(b)) })
		for i, key := range keys {
			keys[i] = pythonJSON(key) + ":" + shape(v[key])
		}
		return "{" + strings.Join(keys, ",") + "}"
	}
	panic(fmt.Sprintf("%T", v))
}

// pythonJSON is json.dumps of a text.
func pythonJSON(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r >= 0x10000:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		case r < 0x20 || r >= 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}

type (
	base     struct{ Inner []byte }
	shadowed struct {
		Data []byte
		Text string `json:"data2"`
	}
	level  uint8
	quoted []byte
	record struct {
		base             // its fields are promoted
		*shadowed        // nil: left out
		Data      []byte `json:"data"`
		Hidden    []byte `json:"-"`
		//lint:ignore SA5008 it is what encoding/json makes of it that is tested
		Dash  []byte `json:"-,"`
		Empty []byte `json:"empty,omitempty"`
		//lint:ignore SA5008 the same
		Odd     []byte          `json:"a\"b"`
		Any     any             `json:"any"`
		Pointer *[]byte         `json:"pointer"`
		Rows    [][]byte        `json:"rows"`
		Fixed   [2][]byte       `json:"fixed"`
		Numbers [3]byte         `json:"numbers"`
		Levels  []level         `json:"levels"`
		Quoted  quoted          `json:"quoted"`
		Raw     json.RawMessage `json:"raw"`
		ByInt   map[int][]byte  `json:"by_int"`
		When    time.Time       `json:"when"`
		private []byte
	}
	// marshaled is no business of pypool's: it writes what it likes.
	marshaled struct{ Data []byte }
	// textKey is a map's key.
	textKey struct{ n int }
	// pointed marshals itself through a pointer only.
	pointed struct{ Data []byte }
	// sent is as pypoolgen writes types.
	sent struct{ Data []byte }
)

func (m marshaled) MarshalJSON() ([]byte, error) { return json.Marshal(map[string]any{"d": m.Data}) }
func (k textKey) MarshalText() ([]byte, error)   { return fmt.Appendf(nil, "key%d", k.n), nil }
func (p *pointed) MarshalJSON() ([]byte, error)  { return json.Marshal("pointed") }
func (s sent) PythonValue() any                  { return map[string]any{"sent": s.Data} }
func (s sent) MarshalJSON() ([]byte, error)      { return json.Marshal(s.PythonValue()) }

// Wherever a []byte is, Python gets bytes, and what encoding/json writes in other ways stays as it
// was.
func TestBytesArriveAsBytes(t *testing.T) {
	p := valuesPool(t, 1)
	x := []byte("\x00\xff")
	const b, none = "bytes:00ff", "NoneType:None"
	key := "\x00\"\u2028\\é😀"
	for name, tc := range map[string]struct {
		args any
		want string
	}{
		"map":               {map[string]any{"a": x, "b": "AP8="}, `{"a":` + b + `,"b":"AP8="}`},
		"array":             {[]any{x, "AP8=", []any{x}}, `[` + b + `,"AP8=",[` + b + `]]`},
		"typed map":         {map[string][]byte{"a": x, "b": nil, "c": {}}, `{"a":` + b + `,"b":` + none + `,"c":bytes:}`},
		"slice of slices":   {[][]byte{x, {}}, `[` + b + `,bytes:]`},
		"odd key":           {map[string]any{key: x}, `{` + pythonJSON(key) + `:` + b + `}`},
		"text keys":         {map[textKey][]byte{{7}: x}, `{"key7":` + b + `}`},
		"integer keys":      {map[int8]any{-7: x}, `{"-7":` + b + `}`},
		"pointer":           {&map[string]any{"a": &x}, `{"a":` + b + `}`},
		"marshaler":         {map[string]any{"m": marshaled{x}, "a": x}, `{"a":` + b + `,"m":{"d":"AP8="}}`},
		"valuer":            {map[string]any{"m": sent{x}, "p": &sent{x}, "l": []sent{{x}}}, `{"l":[{"sent":` + b + `}],"m":{"sent":` + b + `},"p":{"sent":` + b + `}}`},
		"pointer marshaler": {[]any{pointed{x}, &pointed{x}, []pointed{{x}}}, `[{"Data":` + b + `},"pointed",["pointed"]]`},
		"raw message":       {json.RawMessage(`["AP8="]`), `["AP8="]`},
		"named bytes":       {map[string]any{"q": quoted(x), "l": []level{0, 255}}, `{"l":` + b + `,"q":` + b + `}`},
		"large":             {map[string]any{"a": bytes.Repeat(x, 1<<19)}, `{"a":bytes:` + strings.Repeat("00ff", 1<<19) + `}`},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second one takes Python's short way
				got, err := Call[string](t.Context(), p, "seen", tc.args)
				require.NoError(t, err)
				if len(got) > 1000 {
					require.True(t, tc.want == got)
				} else {
					require.Equal(t, tc.want, got)
				}
			}
		})
	}
	t.Run("struct", func(t *testing.T) {
		r := record{
			base: base{x}, Data: x, Hidden: x, Dash: x, Empty: []byte{}, Odd: x, Any: map[string]any{"z": x}, Pointer: &x, Rows: [][]byte{x, nil},
			Fixed: [2][]byte{x, x}, Numbers: [3]byte{1, 2, 3}, Levels: []level{0, 255}, Quoted: x, Raw: json.RawMessage(`"AP8="`), ByInt: map[int][]byte{5: x}, private: x,
		}
		require.NotEmpty(t, r.private)
		got, err := Call[string](t.Context(), p, "seen", r)
		require.NoError(t, err)
		require.Equal(t, `{"-":`+b+`,"Inner":`+b+`,"Odd":`+b+`,"any":{"z":`+b+`},"by_int":{"5":`+b+`},"data":`+b+`,"fixed":[`+b+`,`+b+`],"levels":`+b+
			`,"numbers":[int:1,int:2,int:3],"pointer":`+b+`,"quoted":`+b+`,"raw":"AP8=","rows":[`+b+`,`+none+`],"when":"0001-01-01T00:00:00Z"}`, got)
		r.shadowed = &shadowed{Data: x, Text: "t"} // deeper than data, but of another name
		got, err = Call[string](t.Context(), p, "seen", &r)
		require.NoError(t, err)
		require.Contains(t, got, `"Data":`+b+`,"Inner"`)
		require.Contains(t, got, `"data2":"t"`)
	})
}

// Bytes come back by value: a []byte anywhere in Out takes them; in an any they are base64 text.
func TestBytesComeBack(t *testing.T) {
	p, ctx := valuesPool(t, 2), t.Context()
	x := []byte("\x00\xff")
	got, err := Call[[]byte](ctx, p, "take", args{"data": x})
	require.NoError(t, err)
	require.Equal(t, []byte("\xff\x00"), got)
	type out struct {
		Data []byte              `json:"data"`
		Rows []map[string][]byte `json:"rows"`
		Any  any                 `json:"any"`
	}
	want := out{x, []map[string][]byte{{"a": x, "b": {}}}, "text"}
	back, err := Call[out](ctx, p, "echo", []any{want})
	require.NoError(t, err)
	require.Equal(t, want, back)
	anything, err := Call[any](ctx, p, "echo", []any{x})
	require.NoError(t, err)
	require.Equal(t, "AP8=", anything)
	kind, err := Call[string](ctx, p, "texts", []any{x}) // a str hint is not enforced: no base64 text either
	require.NoError(t, err)
	require.Equal(t, "bytes", kind)
	_, err = Call[[]byte](ctx, p, "take", args{"data": "AP8="})
	require.ErrorContains(t, failure(t, err, ErrInvalidArguments), "expected bytes ([]byte in Go), got a string 'AP8='")

	res, err := p.ExecuteProgram(ctx, "keep", args{"data": x, "more": []any{x}})
	require.NoError(t, err)
	require.JSONEq(t, `["AP8=",["AP8="]]`, string(res.Raw()))
	res, err = p.ExecuteInSession(ctx, "s", "take", []any{x})
	require.NoError(t, err)
	require.JSONEq(t, `"/wA="`, string(res.Raw()))
	var items [][]byte
	for item, err := range Each[[]byte](ctx, p, "flood", args{"data": x, "n": 3}) {
		require.NoError(t, err)
		items = append(items, item)
	}
	require.Equal(t, [][]byte{{}, x, append(slices.Clone(x), x...)}, items)
}

// In a Map items with bytes and without go side by side, in order, on lines of one and of many.
func TestBytesInMap(t *testing.T) {
	p := valuesPool(t, 2)
	var items []any
	for i := range 3000 {
		switch {
		case i%7 == 0 || i%11 < 2:
			items = append(items, []byte{byte(i), byte(i >> 8)})
		case i%5 == 0:
			items = append(items, []any{map[string]any{"b": []byte{byte(i)}}})
		default:
			items = append(items, []any{i})
		}
	}
	i := 0
	for got, err := range Map[any](t.Context(), p, "echo", slices.Values(items)) {
		require.NoError(t, err)
		want := items[i]
		if list, ok := want.([]any); ok {
			want = list[0]
		}
		data, err := json.Marshal(want)
		require.NoError(t, err)
		var plain any
		require.NoError(t, json.Unmarshal(data, &plain))
		require.Equal(t, plain, got, i)
		i++
	}
	require.Len(t, items, i)
	for got, err := range Map[[]byte](t.Context(), p, "take", slices.Values([][]byte{{1, 2}, {}, {255, 0, 1}})) {
		require.NoError(t, err)
		require.NotNil(t, got)
	}
}

// withEachEncoder runs a test with the worker's own encoder of results, and with orjson, which a
// worker has that imports it.
func withEachEncoder(t *testing.T, cfg Config, source string, test func(t *testing.T, p *Pool)) {
	t.Helper()
	cfg.Python, cfg.Size, cfg.Overflow = realPython(), 1, -1
	for name, before := range map[string]string{"json": "", "orjson": "import orjson\n"} {
		t.Run(name, func(t *testing.T) {
			if before != "" && exec.Command(cfg.Python, "-c", before).Run() != nil {
				t.Skip("this Python has no orjson")
			}
			cfg := cfg
			cfg.Script = script(t, before+source)
			test(t, newPool(t, cfg))
		})
	}
}

// Thousands of random nested values arrive as an oracle, which shares nothing with the encoder,
// says that they do, and come back so.
func TestRandomValuesArrive(t *testing.T) {
	withEachEncoder(t, Config{}, valuesScript, func(t *testing.T, p *Pool) {
		for _, seed := range []uint64{1, 2, 20261126} {
			random := rand.New(rand.NewPCG(seed, 7))
			var items []any
			for range 1500 {
				items = append(items, []any{anyValue(random, 4)})
			}
			i := 0
			for got, err := range Map[string](t.Context(), p, "seen", slices.Values(items)) {
				require.NoError(t, err)
				require.Equal(t, shape(items[i]), got, "seed %d, value %d", seed, i)
				i++
			}
			for i, item := range items[:300] {
				got, err := Call[string](t.Context(), p, "seen", item)
				require.NoError(t, err)
				require.Equal(t, shape(item), got, "seed %d, value %d", seed, i)
				back, err := Call[json.RawMessage](t.Context(), p, "echo", item)
				require.NoError(t, err)
				require.Equal(t, shapeAsJSON(item.([]any)[0]), shapeOfJSON(t, back), "seed %d, value %d", seed, i)
			}
		}
	})
}

// shapeAsJSON is the shape of a value that has become JSON alone.
func shapeAsJSON(v any) string {
	return shapeOf(v, func(b []byte) string { return pythonJSON(base64.StdEncoding.EncodeToString(b)) })
}

func shapeOfJSON(t *testing.T, raw []byte) string {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	require.NoError(t, dec.Decode(&v), "%s", raw)
	return shape(v)
}

func anyText(r *rand.Rand) string {
	runes := []rune("aZ09 \"\\/\b\f\n\r\t\x00\x1f\x7f\u0080é\u2028\ud7ff\ue000\ufffd\uffff😀\U0010ffff")
	text := make([]rune, r.IntN(6))
	for i := range text {
		text[i] = runes[r.IntN(len(runes))]
	}
	return string(text)
}

// randomRecord is a struct among random values.
type randomRecord struct {
	F    float64   `json:"f"`
	At   time.Time `json:"at"`
	Data []byte    `json:"data"`
	Rows []any     `json:"rows"`
}

func anyFloat(r *rand.Rand) float64 {
	special := []float64{0, math.Copysign(0, -1), 1, -1, 150, 1 << 53, 1<<53 + 2, 1e20, 1e21, 1.2345678901234567e20, 9.99e20, math.MaxFloat64, -math.MaxFloat64, math.SmallestNonzeroFloat64, 1e-7}
	switch r.IntN(3) {
	case 0:
		return special[r.IntN(len(special))]
	case 1:
		return math.Trunc(r.NormFloat64() * math.Pow(10, float64(r.IntN(25))))
	}
	for {
		if f := math.Float64frombits(r.Uint64()); !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f
		}
	}
}

// anyTime is one that Python's datetime has, in a zone of whole minutes.
func anyTime(r *rand.Rand) time.Time {
	zone := time.UTC
	if r.IntN(2) == 0 {
		zone = time.FixedZone("", 60*(r.IntN(2*14*60)-14*60))
	}
	return time.Date(2+r.IntN(9990), time.Month(1+r.IntN(12)), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1e6)*1000*r.IntN(2), zone)
}

func anyBigInt(r *rand.Rand) *big.Int {
	n := big.NewInt(1 - 2*r.Int64N(2))
	for range r.IntN(8) {
		n.Mul(n, big.NewInt(1+r.Int64N(1<<62)))
	}
	return n
}

// anyDecimal has a form that str(Decimal) has, too.
func anyDecimal(r *rand.Rand) json.Number {
	text := anyBigInt(r).String()
	if r.IntN(3) > 0 {
		text += "."
		for range 1 + r.IntN(6) {
			text += strconv.Itoa(r.IntN(10))
		}
	}
	return json.Number(text)
}

func anyBytes(r *rand.Rand) []byte {
	data := make([]byte, r.IntN(5))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return data
}

func anyValue(r *rand.Rand, depth int) any {
	kind := r.IntN(17)
	if depth == 0 {
		kind = r.IntN(10)
	}
	switch kind {
	case 0:
		return nil
	case 1:
		return r.IntN(2) == 0
	case 2:
		return r.Int() >> r.IntN(63) * (1 - 2*r.IntN(2))
	case 3:
		return anyText(r)
	case 4:
		return anyBytes(r)
	case 5:
		return anyFloat(r)
	case 6:
		return anyTime(r).Add(time.Duration(r.IntN(1000))) // it is text, with its nanoseconds
	case 7:
		return time.Duration(r.Int64() >> r.IntN(63))
	case 8:
		return anyBigInt(r)
	case 9:
		return anyDecimal(r)
	case 10, 11:
		list := make([]any, r.IntN(4))
		for i := range list {
			list[i] = anyValue(r, depth-1)
		}
		return list
	case 12:
		return randomRecord{anyFloat(r), anyTime(r), anyBytes(r), []any{anyValue(r, depth-1)}}
	case 13:
		return [2]any{anyValue(r, depth-1), anyValue(r, depth-1)}
	case 14:
		object := map[int]any{}
		for range r.IntN(4) {
			object[r.IntN(100)-50] = anyValue(r, depth-1)
		}
		return object
	case 15:
		value := anyValue(r, depth-1)
		return &value
	default:
		object := map[string]any{}
		for range r.IntN(4) {
			object[anyText(r)] = anyValue(r, depth-1)
		}
		return object
	}
}

// Floats arrive to the bit, however encoding/json writes them, and come back so.
func TestRandomFloatsArrive(t *testing.T) {
	p := valuesPool(t, 1)
	random := rand.New(rand.NewPCG(3, 7))
	by := map[int]float64{}
	for i := range 5000 {
		by[i] = anyFloat(random)
	}
	got, err := Call[map[int]float64](t.Context(), p, "counts", args{"by": by})
	require.NoError(t, err)
	require.Len(t, got, len(by))
	for i, f := range by {
		require.Equal(t, math.Float64bits(f), math.Float64bits(got[i+1]), "%v", f)
	}
}

// A Decimal has every digit that was sent, in each way to send it, from the first call on.
func TestDecimalsAreExact(t *testing.T) {
	p, ctx := valuesPool(t, 1), t.Context()
	const long = "100000000000000000.01"
	for _, price := range []any{json.Number(long), long, json.RawMessage(long)} {
		got, err := Call[string](ctx, p, "exact", args{"price": price, "rest": json.Number("2.50")})
		require.NoError(t, err)
		require.Equal(t, long+" float 2.5", got)
	}
	for range 3 {
		got, err := Call[string](ctx, p, "exact", []any{json.Number("1.10")})
		require.NoError(t, err)
		require.Equal(t, "1.10 NoneType None", got)
	}
	res, err := p.ExecuteProgram(ctx, "exact", args{"price": json.Number(long)})
	require.NoError(t, err)
	require.Equal(t, `"`+long+`"`, string(res.Raw()))
	other, err := p.ExecuteProgram(ctx, "keep", args{"data": []byte{1}, "more": json.Number("2.50")}) // a program beside it gets plain floats
	require.NoError(t, err)
	require.Equal(t, `["AQ==",2.5]`, string(other.Raw()))
	items := make([]any, 500)
	for i := range items {
		items[i] = args{"prices": []any{json.Number(fmt.Sprintf("%d%s", i+1, long)), i}, "at": 1.5}
	}
	i := 0
	for got, err := range Map[[]string](ctx, p, "exact_all", slices.Values(items)) {
		require.NoError(t, err)
		require.Equal(t, []string{fmt.Sprintf("%d%s", i+1, long), fmt.Sprint(i), "float"}, got)
		i++
	}
	require.Equal(t, 500, i)
}

// time.Duration and timedelta are one thing, in nanoseconds; Python's has microseconds.
func TestDurations(t *testing.T) {
	p, ctx := valuesPool(t, 1), t.Context()
	for _, d := range []time.Duration{0, time.Second, -1500 * time.Millisecond, 100 * 365 * 24 * time.Hour, time.Microsecond} {
		got, err := Call[time.Duration](ctx, p, "wait", args{"d": d})
		require.NoError(t, err)
		require.Equal(t, 2*d, got)
	}
	got, err := Call[time.Duration](ctx, p, "wait", args{"d": -1999 * time.Nanosecond})
	require.NoError(t, err)
	require.Equal(t, -2*time.Microsecond, got)
	for _, wrong := range []any{1.5, "1s", true, nil} {
		_, err = Call[time.Duration](ctx, p, "wait", args{"d": wrong})
		require.ErrorContains(t, failure(t, err, ErrInvalidArguments), "an integer of nanoseconds, as time.Duration is")
	}
}

// What has no value in Out is an error and not a zero.
func TestNullIntoWhatHasNoNil(t *testing.T) {
	p, ctx := valuesPool(t, 1), t.Context()
	type summary struct{ N int }
	_, err := Call[summary](ctx, p, "nothing", nil)
	require.ErrorContains(t, failure(t, err, ErrDecode), "it is null (None in Python); a pointer takes that")
	zero, err := Call[int](ctx, p, "nothing", nil) // by the rules of encoding/json
	require.NoError(t, err)
	require.Zero(t, zero)
	_, err = Call[time.Time](ctx, p, "nothing", nil)
	require.NoError(t, err, "it decodes itself")
	pointer, err := Call[*summary](ctx, p, "nothing", nil)
	require.NoError(t, err)
	require.Nil(t, pointer)
	list, err := Call[[]byte](ctx, p, "nothing", nil)
	require.NoError(t, err)
	require.Nil(t, list)
	for _, err := range Map[summary](ctx, p, "echo", slices.Values([]any{[]any{nil}})) {
		require.ErrorIs(t, err, ErrDecode)
	}
	got, err := Call[[]string](ctx, p, "names", args{"x": []string(nil)}) // and Go's nil slice is an empty list
	require.NoError(t, err)
	require.Equal(t, []string{}, got)
}

func TestNaNIsRefusedOrNull(t *testing.T) {
	p, ctx := valuesPool(t, 1), t.Context()
	_, err := Call[any](ctx, p, "lacking", nil)
	require.ErrorContains(t, failure(t, err, ErrInvalidResult), `nan is not JSON at $.a: put None in its place, or use @command(nan="null")`)
	got, err := Call[map[string][]*float64](ctx, p, "lacking_null", nil)
	require.NoError(t, err)
	require.Nil(t, got["a"][0])
	require.Nil(t, got["a"][1])
	require.Equal(t, 1.5, *got["a"][2])
}

// jsonRule is a row of testdata/json_rules.json: a text, and whether it is JSON. "either" is what
// RFC 8259 leaves open.
type jsonRule struct {
	Name, Text, Hex, JSON string
	Repeat                int
	Go, Python            bool
}

func (r *jsonRule) bytes(t testing.TB) []byte {
	t.Helper()
	if r.Hex != "" {
		var data []byte
		_, err := fmt.Sscanf(r.Hex, "%x", &data)
		require.NoError(t, err)
		return data
	}
	if r.Repeat > 0 {
		return bytes.Repeat([]byte(r.Text), r.Repeat)
	}
	return []byte(r.Text)
}

// TestJSONRules plays the table against this side's parser, as a result and as an item;
// python/tests/test_values.py does so with the other.
func TestJSONRules(t *testing.T) {
	data, err := os.ReadFile("testdata/json_rules.json")
	require.NoError(t, err)
	var rules []jsonRule
	require.NoError(t, json.Unmarshal(data, &rules))
	require.Greater(t, len(rules), 150)
	for _, rule := range rules {
		text := rule.bytes(t)
		for _, envelope := range []string{`{"id":7,"success":true,"result":%s}`, `{ "id" : 7 , "item" : %s }`} {
			line := []byte(strings.Replace(envelope, "%s", string(text), 1))
			var f wire.Frame
			err := wire.Parse(line, &f)
			require.Equal(t, rule.Go, err == nil, "%s: %.100q: %v", rule.Name, text, err)
			if rule.JSON != "either" {
				require.Equal(t, rule.JSON == "yes", rule.Go, rule.Name)
			}
			if err == nil {
				require.Equal(t, string(bytes.Trim(text, " \t\r\n")), string(bytes.Trim(f.Body, " \t\r\n")), rule.Name)
				require.True(t, json.Valid(f.Body) && utf8.Valid(f.Body), rule.Name)
			}
		}
	}
}

func BenchmarkEncodeArgs(b *testing.B) {
	type plain struct {
		A int    `json:"a"`
		B string `json:"b"`
	}
	for name, args := range map[string]any{
		"struct": plain{1, "text"}, "map": map[string]any{"a": 1, "b": "text"}, "bytes": map[string]any{"a": []byte("text")},
	} {
		b.Run(name, func(b *testing.B) {
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				req, err := wire.Encode(buf, "f", args, "", false)
				if err != nil {
					b.Fatal(err)
				}
				buf = req.Buf
			}
		})
	}
}
