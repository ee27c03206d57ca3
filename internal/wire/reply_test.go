package wire

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestARepliesLineIsWhatTheRuntimeReads(t *testing.T) {
	t.Parallel()
	type record struct {
		Body []byte `json:"body"`
		Name string `json:"name,omitempty"`
	}
	for want, result := range map[string]any{
		`{"id":7,"host":3,"success":true,"result":null}`:                                          nil,
		`{"id":7,"host":3,"success":true,"result":"<a>"}`:                                         "<a>",
		`{"id":7,"host":3,"success":true,"result":-0.0}`:                                          math.Copysign(0, -1),
		`{"id":7,"host":3,"success":true,"result":[1,2]}`:                                         json.RawMessage("[1,\n2]"),
		`{"id":7,"host":3,"success":true,"result":"eA==","bytes":[["result"]]}`:                   []byte("x"),
		`{"id":7,"host":3,"success":true,"result":{"body":"eA=="},"bytes":[["result","body"]]}`:   record{Body: []byte("x")},
		`{"id":7,"host":3,"success":true,"result":[{"body":null},"eA=="],"bytes":[["result",1]]}`: []any{record{}, []byte("x")},
		`{"id":7,"host":3,"success":true,"result":{"k":["eA=="]},"bytes":[["result","k",0]]}`:     map[string][][]byte{"k": {[]byte("x")}},
	} {
		line, blobs, err := Reply(7, 3, result)
		require.NoError(t, err)
		assert.Equal(t, want+"\n", string(line))
		assert.Empty(t, blobs)
		assert.True(t, json.Valid(line))
	}
	for _, result := range []any{math.NaN(), make(chan int), json.RawMessage("{"), "a\xff"} {
		_, _, err := Reply(7, 3, result)
		assert.Error(t, err)
	}
	_, _, err := Reply(7, 3, map[string]string{"k": "a\xff"})
	require.EqualError(t, err, `the string at result["k"] is not valid UTF-8`)
	line := ReplyError(7, 3, "a\"b", "c\nd\xff")
	var reply struct {
		Error struct{ Type, Message string }
	}
	require.NoError(t, json.Unmarshal(line, &reply))
	assert.Equal(t, "a\"b", reply.Error.Type)
	assert.Equal(t, "c\nd\ufffd", reply.Error.Message)
	assert.Equal(t, 1, strings.Count(string(line), "\n"))
}
