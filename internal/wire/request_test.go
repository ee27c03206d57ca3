package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type args = map[string]any

func encoded(t testing.TB, args any) string {
	t.Helper()
	req, err := Encode(nil, "c", args, "", false)
	require.NoError(t, err)
	return string(req.Seal(1, 0, false))
}

func TestProtocolARequestIsOneLineWithTheIDFirst(t *testing.T) {
	t.Parallel()
	req, err := Encode(nil, "summarize", args{"text": "a<b & \"c\"\n\u2028 é"}, "user-42", true)
	require.NoError(t, err)
	line := string(req.Seal(7, 1500*time.Millisecond, true))
	assert.Equal(t, `{"id":7,"command":"summarize","args":{"text":"a<b & \"c\"\n\u2028 é"},"session_id":"user-42","stream":true,"timeout_ms":1500}`+"\n", line)
	assert.Equal(t, 1, strings.Count(line, "\n"))
}

func TestASealedRequestMayBeSealedAgainForAnotherWorker(t *testing.T) {
	t.Parallel()
	req, err := Encode(nil, "c", args{"a": 1}, "s", false)
	require.NoError(t, err)
	assert.Equal(t, `{"id":18446744073709551615,"command":"c","args":{"a":1},"session_id":"s","timeout_ms":60000}`+"\n", string(req.Seal(1<<64-1, time.Minute, true)))
	assert.Equal(t, `{"id":5,"command":"c","args":{"a":1},"session_id":"s"}`+"\n", string(req.Seal(5, 0, false)))
	assert.Equal(t, `{"id":6,"command":"c","args":{"a":1},"session_id":"s","timeout_ms":1}`+"\n", string(req.Seal(6, time.Nanosecond, true)), "never 0, which would be no time at all")
	assert.LessOrEqual(t, len(`{"id":18446744073709551615`), requestHead, "the room before it is enough for any id")
}

func TestARequestBufferIsUsedAgainWithoutATraceOfTheLastRequest(t *testing.T) {
	t.Parallel()
	first, err := Encode(nil, "c", args{"secret": strings.Repeat("s", 500)}, "s", false)
	require.NoError(t, err)
	first.Seal(1, 0, false)
	second, err := Encode(first.Buf, "d", nil, "", false)
	require.NoError(t, err)
	assert.Equal(t, `{"id":2,"command":"d"}`+"\n", string(second.Seal(2, 0, false)))
}

func TestStringsThatAreNotUTF8AreRefusedAndFoundWhereverTheyAre(t *testing.T) {
	t.Parallel()
	bad := "a\xffb"
	for path, in := range map[string]any{
		`args["x"]`:                  args{"x": bad},
		"args[\"a\ufffdb\"]":         args{bad: 1},
		`args.Rows[1]["k"]`:          nested{Rows: []map[string]*string{nil, {"k": &bad}}},
		`args["list"][2]["deep"][0]`: args{"list": []any{1, 2, args{"deep": []string{bad}}}},
		`args["ptr"]`:                args{"ptr": &bad},
	} {
		_, err := Encode(nil, "c", in, "", false)
		require.Error(t, err, path)
		assert.Contains(t, strings.ReplaceAll(err.Error(), `a\xffb`, "a\ufffdb"), path)
	}
	assert.Contains(t, encoded(t, args{"x": "a real \ufffd of the caller"}), "a real \ufffd of the caller")
	assert.Contains(t, encoded(t, args{"x": `\ufffd`}), `\\ufffd`)
	assert.Contains(t, encoded(t, args{"bytes": []byte("a\xff")}), `"Yf8="`, "bytes are base64")
}

func TestRawArgumentsAreSentOnOneLine(t *testing.T) {
	t.Parallel()
	assert.Equal(t, `{"id":1,"command":"c","args":{"a":[1,"x\n"]}}`+"\n", encoded(t, json.RawMessage("{\n  \"a\": [1,\r\n \"x\\n\"]\n}\n")))
}

type nested struct {
	Rows   []map[string]*string
	Hidden string `json:"-"`
}

func TestATemplatesRequestsAreThoseOfEncode(t *testing.T) {
	t.Parallel()
	tmpl := NewTemplate("c", "s", time.Second)
	whole, err := Encode(nil, "c", []int{1}, "s", false)
	require.NoError(t, err)
	var requests []Request
	for _, text := range []string{`[1]`, `{"a":2}`} {
		requests = append(requests, tmpl.Finish(append(tmpl.Begin(nil), text...), "t"))
	}
	whole.Trace = "t"
	assert.Equal(t, string(whole.Seal(7, time.Second, true)), string(requests[0].Seal(7, time.Second, true)))
	var b []byte
	for i := range requests {
		assert.Equal(t, []string{`[1]`, `{"a":2}`}[i], string(tmpl.Args(&requests[i])), "sealed or not")
		b = AppendPacked(b, i > 0, uint64(7+i), tmpl.Args(&requests[i]))
	}
	b = tmpl.EndPacked(b, "t")
	assert.Equal(t, `{"packed":[7,[1],8,{"a":2}],"command":"c","session_id":"s","timeout_ms":1000,"trace":"t"}`+"\n", string(b))
}
