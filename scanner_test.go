package pypool

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
			var f frame
			err := parseFrame([]byte(line), &f)
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
		var f frame
		if parseFrame([]byte(line), &f) != nil {
			continue
		}
		taken++
		require.True(t, utf8.ValidString(line))
		var keys map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(line), &keys), "%q", line)
		require.Equal(t, string(keys["id"]), fmt.Sprint(f.id), "%q", line)
		body := keys[[]string{"result", "error", "item"}[f.kind]]
		require.Equal(t, string(body), strings.TrimSpace(string(f.body)), "%q", line)
	}
	assert.Greater(t, taken, 1000)
}

func TestEnvelopesAreReadStrictly(t *testing.T) {
	t.Parallel()
	var f frame
	for line, want := range map[string]frame{
		`{"id":1,"success":true,"result":null}`:                        {id: 1, kind: frameResult, body: []byte("null")},
		`{"result":{"a":1},"success":true,"id":18446744073709551001}`:  {id: 18446744073709551001, kind: frameResult, body: []byte(`{"a":1}`)},
		`{"id":2,"success":false,"error":{"kind":"python_exception"}}`: {id: 2, kind: frameError, body: []byte(`{"kind":"python_exception"}`)},
		`{"id":0,"item":[1]}`: {id: 0, kind: frameItem, body: []byte("[1]")},
		` {"id" : 3 , "success" : true , "result" : 12345678901234567 } ` + "\r": {id: 3, kind: frameResult, body: []byte("12345678901234567"), bigInt: true},
	} {
		require.NoError(t, parseFrame([]byte(line), &f), line)
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
		"\ufeff" + `{"id":1,"success":true,"result":1}`:           "not a JSON object",
	} {
		err := parseFrame([]byte(line), &f)
		if assert.Error(t, err, line) {
			assert.Contains(t, err.Error(), reason, line)
		}
	}
}

func TestProtocolBadJSONIsATypedErrorThatNamesOffsetAndPreview(t *testing.T) {
	t.Parallel()
	c := connOf(`{"id":1,"success":true;"result":1}` + "\n")
	var f frame
	err := c.receive(1, &f)
	v := detail[*ProtocolError](t, err)
	assert.Equal(t, "malformed envelope at byte 22", v.Reason)
	assert.Contains(t, v.Sample, `{\"id\":1,\"success\":true;`)
	assert.NotNil(t, c.broken, "nothing more is read from it")
	long := connOf(strings.Repeat("x", 5000) + "\n")
	v = detail[*ProtocolError](t, long.receive(1, &f))
	assert.LessOrEqual(t, len(v.Sample), 256+2, "a preview, not the whole")
}

func TestProtocolAMissingKeyIsNamed(t *testing.T) {
	t.Parallel()
	for line, reason := range map[string]string{
		`{"success":true,"result":1}`: "it has no id",
		`{"id":1,"success":true}`:     "success is true, and it has not just a result",
		`{"id":1,"success":false}`:    "success is false, and it has not just an error",
		`{"id":1,"result":1}`:         "it has no success",
	} {
		var f frame
		v := detail[*ProtocolError](t, connOf(line+"\n").receive(1, &f))
		assert.Contains(t, v.Reason, reason)
		assert.Equal(t, quoteSample([]byte(line)), v.Sample)
	}
}

func TestProtocolAnIDOfTheWrongTypeIsRejected(t *testing.T) {
	t.Parallel()
	for _, id := range []string{`"1"`, `1.0`, `1e0`, `-1`, `null`, `true`, `[1]`, `01`, `18446744073709551616`, `99999999999999999999999`} {
		var f frame
		err := parseFrame([]byte(`{"id":`+id+`,"success":true,"result":1}`), &f)
		require.Error(t, err, id)
		assert.NotContains(t, err.Error(), "neither", "the id itself is at fault: %s", id)
	}
}

func TestTheReadBufferIsGivenAwayWithALargeResultAndNeverSharedWithTheNext(t *testing.T) {
	t.Parallel()
	big := `"` + strings.Repeat("a", 3*largeFrame) + `"`
	c := connOf(`{"id":1,"success":true,"result":` + big + "}\n" + `{"id":2,"success":true,"result":"` + strings.Repeat("b", 100) + `"}` + "\n")
	var f frame
	require.NoError(t, c.receive(1, &f))
	first := c.take(&f)
	require.NoError(t, c.receive(2, &f))
	second := c.take(&f)
	assert.Equal(t, big, string(first))
	assert.Equal(t, `"`+strings.Repeat("b", 100)+`"`, string(second))
	assert.Less(t, len(c.buf), largeFrame, "the large buffer is not kept")
	_ = append(first, 'x')
	assert.Equal(t, len(first), cap(first))
}

func TestALineBeyondTheLimitIsAViolationAndIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	c := connOf(strings.Repeat("y", 10<<20))
	c.max = 1024 + frameSlack
	var f frame
	v := detail[*ProtocolError](t, c.receive(1, &f))
	assert.Contains(t, v.Reason, "more than")
	assert.Less(t, len(c.buf), 1<<20)
}
