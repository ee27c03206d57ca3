package pypool

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What another process decodes is for Python what the caller gave.
func TestArgumentsThatAreRelayed(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Size: 1, Overflow: -1, Python: realPython(), Script: script(t, `
from pypool import command

@command
def show(**args):
    return ascii(args)

@command
def listed(*args):
    return ascii(args)
`)})
	type part struct {
		Body []byte `json:"body,omitempty"`
		Name string `json:"name"`
	}
	for _, one := range []any{
		nil, args{}, args{"a": 1, "z": "x", "f": 0.0, "n": json.Number("12345678901234567890"), "u": "ü\U0001F600"},
		args{"data": []byte("\x00\xff"), "text": "AP8=", "parts": []part{{}, {[]byte("b"), "n"}}, "big": uint64(math.MaxUint64), "e": []byte{}},
		struct {
			B map[string][]byte
			F float64 `json:"f"`
		}{map[string][]byte{"k\"\n\x7f": []byte("v")}, math.Copysign(0, -1)},
	} {
		direct := decoded[string](t, executed(t, p, "show", one))
		data, err := EncodeArgs(one)
		require.NoError(t, err)
		relayed, err := DecodeArgs(data)
		require.NoError(t, err)
		require.Equal(t, direct, decoded[string](t, executed(t, p, "show", relayed)), "%s", data)
	}
	list := []any{[]byte("raw"), []any{1, []byte("deep")}}
	data, err := EncodeArgs(list)
	require.NoError(t, err)
	relayed, err := DecodeArgs(data)
	require.NoError(t, err)
	require.Equal(t, `(b'raw', [1, b'deep'])`, decoded[string](t, executed(t, p, "listed", relayed)))
	relayed, err = DecodeArgs([]byte("{\n  \"a\": 1\n}\n"))
	require.NoError(t, err)
	require.Equal(t, `{'a': 1}`, decoded[string](t, executed(t, p, "show", relayed)))
}

func TestArgumentsThatCannotBeRelayed(t *testing.T) {
	t.Parallel()
	for _, bad := range []any{7, "text", []byte("bytes"), math.NaN(), args{"f": math.Inf(1)}, args{"s": "\xff"}, func() {}, json.RawMessage("{"), refusing{}} {
		_, err := EncodeArgs(bad)
		e := failure(t, err, ErrInvalidArguments)
		require.Equal(t, NotExecuted, e.Delivery)
		require.Contains(t, e.Message, "the arguments cannot be sent: ")
	}
	for _, bad := range []string{
		"{}\n{\"bytes\":[[]]}", "{}\n{\"bytes\":[[7]]}", "{\"a\":1}\n{\"bytes\":[[\"a\"]]}", "{\"a\":\"!\"}\n{\"bytes\":[[\"a\"]]}",
		"[\"\"]\n{\"bytes\":[[1]]}", "[\"\"]\n{\"bytes\":[[-1]]}", "[\"\"]\n{\"bytes\":[[0.5]]}", "[\"\"]\n{\"bytes\":[[null]]}", "{}\n{\"bytes\":[[\"a\",\"b\"]]}",
	} {
		_, err := DecodeArgs([]byte(bad))
		require.Equal(t, NotExecuted, failure(t, err, ErrInvalidArguments).Delivery, bad)
	}
	got, err := DecodeArgs([]byte("{}\n{\"bytes\":[[\"a\"]]}"))
	require.NoError(t, err)
	require.IsType(t, relayedArgs{}, got)
	p := corePool(t, 1, 0)
	for _, bad := range []string{"7", "{", "{}\n{\"bytes\":7}", "{}\n{}", "{\n{\"bytes\":[]}"} { // the pool says what is wrong with them
		got, err := DecodeArgs([]byte(bad))
		require.NoError(t, err)
		_, err = p.ExecuteAnonymous(t.Context(), "echo", got)
		require.ErrorIs(t, err, ErrInvalidArguments, bad)
	}
}

type refusing struct{}

func (refusing) MarshalJSON() ([]byte, error) { return nil, errors.New("no") }

func TestResultsThatAreRelayed(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	for _, v := range []any{nil, 7, "ü", args{"big": jsonNumber("12345678901234567890")}} {
		res := executed(t, p, "echo", args{"value": v})
		got := DecodeResult(EncodeResult(res), ResultInfo{Worker: res.Worker()})
		require.Equal(t, decoded[any](t, res), decoded[any](t, got))
		require.Equal(t, res.Worker(), got.Worker())
	}
}

func FuzzDecodeArgs(f *testing.F) {
	for _, seed := range []string{"", "{}", "[1]\n", "{\"a\":\"AP8=\"}\n{\"bytes\":[[\"a\"]]}", "[[\"\"]]\n{\"bytes\":[[0,0]]}", "null\n{\"bytes\":[[1e99]]}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := DecodeArgs(data)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalidArguments)
			return
		}
		first, err := EncodeArgs(v)
		if err != nil {
			return // no arguments
		}
		again, err := DecodeArgs(first)
		require.NoError(t, err)
		second, err := EncodeArgs(again)
		require.NoError(t, err)
		require.Equal(t, string(first), string(second))
	})
}

// The traceparent of a call that comes from elsewhere is Python's, unless the observer has one.
func TestATraceThatIsPassedOn(t *testing.T) {
	t.Parallel()
	source := script(t, traced)
	for name, observer := range map[string]*Observer{"none": nil, "the observer's": (&parents{}).observer()} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, Config{Size: 1, Overflow: -1, Python: realPython(), Script: source, Observer: observer})
			check := func(got string) {
				t.Helper()
				if observer == nil {
					assert.Equal(t, parent(7777), got)
				} else {
					assert.NotEqual(t, parent(7777), got)
					assert.NotEmpty(t, got)
				}
			}
			given := WithTraceParent(parent(7777))
			got, err := Call[string](t.Context(), p, "trace", nil, given)
			require.NoError(t, err)
			check(got)
			res, err := p.ExecuteProgram(t.Context(), "traced", nil, given)
			require.NoError(t, err)
			check(decoded[string](t, res))
			for got, err := range Each[string](t.Context(), p, "tokens", nil, given) {
				require.NoError(t, err)
				check(got)
			}
			for got, err := range Map[string](t.Context(), p, "trace", integers(100), given) {
				require.NoError(t, err)
				check(got)
			}
		})
	}
	p := newPool(t, Config{Size: 1, Overflow: -1, Python: realPython(), Script: source})
	for _, bad := range []string{"", "x", fmt.Sprintf("00-%032x-%016x-01", 0, 0), parent(1) + "\n"} {
		got, err := Call[*string](t.Context(), p, "trace", nil, WithTraceParent(bad))
		require.NoError(t, err)
		require.Nil(t, got, bad)
	}
	o, err := ReadCallOptions(WithTraceParent("x"), WithTraceParent(parent(3)))
	require.NoError(t, err)
	require.Equal(t, parent(3), o.TraceParent)
}
