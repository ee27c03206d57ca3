package wire

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// scanned reports whether the scanner takes text as one JSON value.
func scanned(text string) (ok, bigInt bool) {
	s := scanner{b: []byte(text)}
	return s.value(0) && s.end(), s.bigInt
}

func TestTheScannerTakesExactlyJSON(t *testing.T) {
	t.Parallel()
	valid := []string{
		`null`, `true`, `false`, `0`, `-0`, `-1.5e+10`, `1E9`, `0.1e-7`, `""`, `"\u00e9\n\"\\\/\b\f\r\t"`, `"é😀"`, `[]`, `{}`, ` [ 1 , 2 ] `,
		`{"a":{"b":[{},[],""]}}`, `{"a":1,"a":2}`, "\t[\r\n]", `"\ud800"`, `123456789012345678901234567890`,
	}
	invalid := []string{
		``, ` `, `nul`, `True`, `01`, `-`, `+1`, `.5`, `1.`, `1e`, `1e+`, `0x10`, `NaN`, `Infinity`, `'a'`, `"`, `"a`, `"\x"`, `"\u12"`, `"\u12g4"`, "\"\\u\x10\x10\x10\x10\"",
		"\"a\nb\"", "\"\x00\"", `[`, `[1`, `[1,]`, `[,1]`, `[1 2]`, `{`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{1:1}`, `{"a":1 "b":2}`, `1 2`, `[]]`, `nullx`, `{"a":1}}`,
	}
	for _, text := range valid {
		ok, _ := scanned(text)
		assert.True(t, ok, "%q", text)
		assert.True(t, json.Valid([]byte(text)), "%q", text)
	}
	for _, text := range invalid {
		ok, _ := scanned(text)
		assert.False(t, ok, "%q", text)
		assert.False(t, json.Valid([]byte(text)), "%q", text)
	}
}

func TestTheScannerNoticesIntegersThatFloat64CannotHold(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`123456789012345`: false, `1234567890123456`: true, `-9007199254740993`: true, `1234567890123456.5`: false, `1234567890123456e3`: false,
		`[1,{"a":[12345678901234567]}]`: true, `"12345678901234567"`: false,
	} {
		ok, bigInt := scanned(text)
		assert.True(t, ok)
		assert.Equal(t, want, bigInt, text)
	}
}

func TestTheScannerBoundsNestingAsEncodingJSONDoes(t *testing.T) {
	t.Parallel()
	for _, shape := range []struct{ open, close string }{{"[", "]"}, {`{"a":`, "}"}} {
		for depth := maxNesting - 3; depth < maxNesting+3; depth++ {
			text := strings.Repeat(shape.open, depth) + "1" + strings.Repeat(shape.close, depth)
			line := `{"id":1,"success":true,"result":` + text + `}`
			var f Frame
			err := Parse([]byte(line), &f)
			assert.Equal(t, json.Valid([]byte(line)), err == nil, "depth %d", depth)
		}
	}
	ok, _ := scanned(strings.Repeat("[", 1<<20))
	assert.False(t, ok, "and does not overflow the stack")
}

// mutated returns text with a few random changes of the kind that breaks JSON.
func mutated(r *rand.Rand, text string) string {
	b := []byte(text)
	const alphabet = `{}[]",:\0123456789.eE+-truefalsn u` + "\n\x00\xff\xc3"
	for range 1 + r.IntN(3) {
		at := r.IntN(len(b))
		switch r.IntN(3) {
		case 0:
			b[at] = alphabet[r.IntN(len(alphabet))]
		case 1:
			b = append(b[:at], b[at+1:]...)
		case 2:
			b = append(b[:at], append([]byte{alphabet[r.IntN(len(alphabet))]}, b[at:]...)...)
		}
		if len(b) == 0 {
			return " "
		}
	}
	return string(b)
}

func TestTheScannerAgreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	seeds := []string{
		`{"id":1,"success":true,"result":{"a":[1,2.5e3,-0,"x\u00e9\n",null,true,false]}}`, `[[],{},"",0,-1e-9,"\\\"\/"]`, `{"a":{"b":{"c":[1,[2,[3]]]}},"":""}`, `"\ud83d\ude00 é"`, `-12.5E+7`,
	}
	valid := 0
	for range 40_000 {
		text := mutated(r, seeds[r.IntN(len(seeds))])
		ok, _ := scanned(text)
		want := json.Valid([]byte(text))
		require.Equal(t, want, ok, "%q", text)
		if want {
			valid++
		}
	}
	assert.Greater(t, valid, 1000, "both sides of the line were walked")
}

func TestAnEnvelopeThatIsTakenIsAlsoOneForEncodingJSON(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	seeds := []string{
		`{"id":7,"success":true,"result":[1,{"success":false}]}`, `{"id":7,"success":false,"error":{"kind":"x"}}`, `{"id":7,"item":"a"}`, ` { "success" : true , "result" : null , "id" : 12 } `,
	}
	taken := 0
	for range 40_000 {
		line := mutated(r, seeds[r.IntN(len(seeds))])
		var f Frame
		if Parse([]byte(line), &f) != nil {
			continue
		}
		taken++
		require.True(t, utf8.ValidString(line))
		var keys map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(line), &keys), "%q", line)
		require.Equal(t, string(keys["id"]), fmt.Sprint(f.ID), "%q", line)
		body := keys[[]string{"result", "error", "item", "args"}[f.Kind]]
		require.Equal(t, string(body), strings.TrimSpace(string(f.Body)), "%q", line)
	}
	assert.Greater(t, taken, 1000)
}

func TestEnvelopesAreReadStrictly(t *testing.T) {
	t.Parallel()
	var f Frame
	for line, want := range map[string]Frame{
		`{"id":1,"success":true,"result":null}`:                        {ID: 1, Kind: KindResult, Body: []byte("null")},
		`{"result":{"a":1},"success":true,"id":18446744073709551001}`:  {ID: 18446744073709551001, Kind: KindResult, Body: []byte(`{"a":1}`)},
		`{"id":2,"success":false,"error":{"kind":"python_exception"}}`: {ID: 2, Kind: KindError, Body: []byte(`{"kind":"python_exception"}`)},
		`{"id":0,"item":[1]}`:                                                    {ID: 0, Kind: KindItem, Body: []byte("[1]")},
		`{"id":7,"host":3,"function":"f","args":{"a":1}}`:                        {ID: 7, Kind: KindFunction, Host: 3, Function: []byte(`"f"`), Body: []byte(`{"a":1}`)},
		`{"args":[1],"function":"\u0066","host":3,"id":7}`:                       {ID: 7, Kind: KindFunction, Host: 3, Function: []byte(`"\u0066"`), Body: []byte("[1]")},
		`{"id":7,"host":3,"function":"f","args":[1],"trace":"00-a"}`:             {ID: 7, Kind: KindFunction, Host: 3, Function: []byte(`"f"`), Body: []byte("[1]"), Trace: []byte(`"00-a"`)},
		`{"id":7,"host":3,"function":"f","trace":"00-a"}`:                        {ID: 7, Kind: KindFunction, Host: 3, Function: []byte(`"f"`), Trace: []byte(`"00-a"`)},
		`{"id":7,"host":3,"function":"f"}`:                                       {ID: 7, Kind: KindFunction, Host: 3, Function: []byte(`"f"`)},
		` {"id" : 3 , "success" : true , "result" : 12345678901234567 } ` + "\r": {ID: 3, Kind: KindResult, Body: []byte("12345678901234567"), BigInt: true},
	} {
		require.NoError(t, Parse([]byte(line), &f), line)
		assert.Equal(t, want, f, line)
	}
	for line, reason := range map[string]string{
		`{"ID":1,"success":true,"result":1}`:                      "unknown envelope key",
		`{"id":1,"Success":true,"result":1}`:                      "unknown envelope key",
		`{"id":1,"success":true,"RESULT":1}`:                      "unknown envelope key",
		`{"id":1,"id":1,"success":true,"result":1}`:               `"id" stands twice`,
		`{"id":1,"success":true,"result":1,"result":2}`:           `"result" stands twice`,
		`{"id":1,"success":false,"success":true,"result":1}`:      `"success" stands twice`,
		`{"id":1,"success":true,"result":1,"extra":1}`:            "unknown envelope key",
		`{"\u0069d":1,"success":true,"result":1}`:                 "unknown envelope key",
		`{"id":1,"success":true,"error":{}}`:                      "neither",
		`{"id":1,"success":false,"result":1}`:                     "neither",
		`{"id":1,"success":true,"result":1,"error":{}}`:           "neither",
		`{"id":1,"item":1,"success":true}`:                        "neither",
		`{"id":1}`:                                                "neither",
		`{}`:                                                      "malformed",
		`[]`:                                                      "not a JSON object",
		`null`:                                                    "not a JSON object",
		``:                                                        "not a JSON object",
		`Hello, world`:                                            "not a JSON object",
		`{"id":1,"success":true,"result":1} trailing`:             "malformed",
		`{"id":1,"success":true,"result":1}{"id":2}`:              "malformed",
		`{"id":1,"success":true,"result":1`:                       "malformed",
		`{"id":1,"success":true,"result":1,}`:                     "malformed",
		`{"id":1,"success":true,"result":NaN}`:                    `bad value of the envelope key "result"`,
		`{"id":1,"success":1,"result":1}`:                         `bad value of the envelope key "success"`,
		`{"id":1,"success":false,"error":"text"}`:                 `bad value of the envelope key "error"`,
		`{"id":1,"success":false,"error":null}`:                   `bad value of the envelope key "error"`,
		"{\"id\":1,\"success\":true,\"result\":\"\xff\"}":         "not valid UTF-8",
		"{\"id\":1,\"success\":true,\"result\":\"\xed\xa0\x80\"}": "not valid UTF-8",
		`{"id":7,"host":0,"function":"f"}`:                        `bad value of the envelope key "host"`,
		`{"id":7,"host":-1,"function":"f"}`:                       `bad value of the envelope key "host"`,
		`{"id":7,"host":3,"function":7}`:                          `bad value of the envelope key "function"`,
		`{"id":7,"host":3,"function":"f","args":7}`:               `bad value of the envelope key "args"`,
		`{"id":7,"host":3,"function":"f","trace":7}`:              `bad value of the envelope key "trace"`,
		`{"id":7,"host":3,"function":"f","trace":"","trace":""}`:  `"trace" stands twice`,
		`{"id":7,"success":true,"result":1,"trace":"00-a"}`:       "neither",
		`{"id":7,"item":1,"trace":"00-a"}`:                        "neither",
		`{"id":7,"host":3,"host":3,"function":"f"}`:               `"host" stands twice`,
		`{"id":7,"host":3}`:                                       "neither",
		`{"id":7,"function":"f","args":[]}`:                       "neither",
		`{"id":7,"host":3,"function":"f","item":1}`:               "neither",
		`{"id":7,"host":3,"function":"f","success":true}`:         "neither",
		`{"id":7,"success":true,"result":1,"host":3}`:             "neither",
		"\ufeff" + `{"id":1,"success":true,"result":1}`:           "not a JSON object",
	} {
		err := Parse([]byte(line), &f)
		if assert.Error(t, err, line) {
			assert.Contains(t, err.Error(), reason, line)
		}
	}
}

func TestProtocolAnIDOfTheWrongTypeIsRejected(t *testing.T) {
	t.Parallel()
	for _, id := range []string{`"1"`, `1.0`, `1e0`, `-1`, `null`, `true`, `[1]`, `01`, `18446744073709551616`, `99999999999999999999999`} {
		var f Frame
		err := Parse([]byte(`{"id":`+id+`,"success":true,"result":1}`), &f)
		require.Error(t, err, id)
		assert.NotContains(t, err.Error(), "neither", "the id itself is at fault: %s", id)
	}
}
