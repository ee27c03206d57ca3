package wire

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

type zeroByValue struct{ A []byte }

func (z zeroByValue) IsZero() bool { return len(z.A) == 1 }

type zeroByPointer struct{ A []byte }

func (z *zeroByPointer) IsZero() bool { return len(z.A) == 1 }

type zeroBytes []byte

func (z *zeroBytes) IsZero() bool { return len(*z) == 1 }

type equalAsText struct{ n int }

func (equalAsText) MarshalText() ([]byte, error) { return []byte("same"), nil }

type badText int

func (badText) MarshalText() ([]byte, error) { return []byte("\xff"), nil }

// Bytes are named where encoding/json writes them, and nowhere else.
func TestBytesThatEncodingJSONLeavesOutAreNotNamed(t *testing.T) {
	one, two := []byte{1}, []byte{1, 2}
	type byValue struct {
		Z zeroByValue `json:"z,omitzero"`
		B []byte      `json:"b"`
	}
	type byPointer struct {
		Z zeroByPointer     `json:"z,omitzero"`
		P *zeroByPointer    `json:"p,omitzero"`
		Y zeroBytes         `json:"y,omitzero"`
		E map[string][]byte `json:"e,omitempty"`
		L [2][]byte         `json:"l,omitzero"`
		B []byte            `json:"b"`
	}
	type byInterface struct {
		Z interface{ IsZero() bool } `json:"z,omitzero"`
	}
	for i, args := range []any{
		byValue{zeroByValue{one}, two}, byValue{zeroByValue{two}, two}, &byValue{zeroByValue{one}, two},
		byPointer{Z: zeroByPointer{one}, B: two}, &byPointer{Z: zeroByPointer{one}, P: &zeroByPointer{one}, Y: one, B: two},
		byPointer{Z: zeroByPointer{two}, P: &zeroByPointer{two}, Y: two, E: map[string][]byte{"k": one}, L: [2][]byte{one}}, byPointer{},
		byInterface{zeroByValue{one}}, byInterface{zeroByValue{two}}, byInterface{&zeroByPointer{one}}, byInterface{&zeroByPointer{two}}, byInterface{(*zeroByPointer)(nil)}, byInterface{},
		map[string]any{"in": []any{byPointer{Z: zeroByPointer{one}}, &byPointer{P: &zeroByPointer{one}}}},
	} {
		want, err := json.Marshal(args)
		require.NoError(t, err)
		for _, smallest := range []int{1 << 20, 1} { // bytes as text, and as payloads
			out, blobs, _, err := appendArgs([]byte{}, args, smallest)
			require.NoError(t, err)
			var request map[string]json.RawMessage
			require.NoError(t, json.Unmarshal([]byte(`{"args":`+string(out)+"}"), &request), "%d: %s", i, out)
			var value any
			require.NoError(t, json.Unmarshal(request["args"], &value))
			texts := 0
			for _, path := range paths(t, request["bytes"], "") {
				text, ok := at(value, path).(string)
				require.True(t, ok, "%d: %s", i, out)
				_, err := base64.StdEncoding.DecodeString(text)
				require.NoError(t, err)
				texts++
			}
			for j, path := range paths(t, request["blobs"], "at") {
				put(value, path, base64.StdEncoding.EncodeToString(blobs[j].Data))
				texts++
			}
			got, err := json.Marshal(value)
			require.NoError(t, err)
			require.JSONEq(t, string(want), string(got), "%d", i)
			require.Equal(t, strings.Count(string(want), `="`)+strings.Count(string(want), `AQI"`), texts, "%d: %s", i, out)
		}
	}
}

func paths(t *testing.T, raw json.RawMessage, key string) (found [][]any) {
	if raw == nil {
		return nil
	}
	if key == "" {
		require.NoError(t, json.Unmarshal(raw, &found))
		return found
	}
	var blobs []map[string]any
	require.NoError(t, json.Unmarshal(raw, &blobs))
	for _, blob := range blobs {
		found = append(found, blob[key].([]any))
	}
	return found
}

func at(value any, path []any) any {
	for _, step := range path {
		switch in := value.(type) {
		case map[string]any:
			value = in[fmt.Sprint(step)]
		case []any:
			value = in[int(step.(float64))]
		default:
			return nil
		}
	}
	return value
}

func put(value any, path []any, item any) {
	switch in, last := at(value, path[:len(path)-1]), path[len(path)-1]; in := in.(type) {
	case map[string]any:
		in[last.(string)] = item
	case []any:
		in[int(last.(float64))] = item
	}
}

func TestKeysThatAreEqualAsText(t *testing.T) {
	_, _, _, err := AppendArgs(nil, []any{map[string]any{"m": map[equalAsText]any{{1}: []byte("a"), {2}: "b"}}})
	require.EqualError(t, err, `two keys of the map[wire.equalAsText]interface {} at args[0].m are "same" as text`)
	_, _, _, err = AppendArgs(nil, []any{map[equalAsText][]byte{{1}: make([]byte, 5000), {2}: nil}})
	require.ErrorContains(t, err, `are "same" as text`)
	_, _, _, err = AppendArgs(nil, []any{map[equalAsText][]byte{{1}: nil}})
	require.NoError(t, err)
	for _, args := range []any{
		map[equalAsText]int{{1}: 1, {2}: 2}, []map[equalAsText]string{{{1}: "a", {2}: "b"}}, struct{ M *map[equalAsText]bool }{&map[equalAsText]bool{{1}: true, {2}: true}},
	} {
		_, _, _, err = AppendArgs(nil, args)
		require.ErrorContains(t, err, `are "same" as text`, "%T", args)
	}
	out, _, plain, err := AppendArgs(nil, map[equalAsText]int{{1}: 1})
	require.NoError(t, err)
	require.True(t, plain)
	require.JSONEq(t, `{"same":1}`, string(out))
}

func TestTextThatIsNotUTF8(t *testing.T) {
	for _, args := range []any{
		[]any{badText(1)}, map[badText]int{1: 1}, []any{map[badText][]byte{1: nil}}, []any{map[string]any{"a": badText(1), "b": make([]byte, 5000)}},
		[]any{struct{ X *badText }{new(badText)}},
	} {
		_, _, _, err := AppendArgs(nil, args)
		require.ErrorContains(t, err, "is not valid UTF-8", "%T", args)
	}
}

func TestShapesOfEmptyArrays(t *testing.T) {
	require.NoError(t, CheckArray("uint8", []int{0, 1 << 40}, 0))
	require.ErrorContains(t, CheckArray("uint8", []int{0, 1 << 40, 1 << 40}, 0), "more than memory holds")
	require.ErrorContains(t, CheckArray("float64", []int{1 << 40, 1 << 21, 0}, 0), "more than memory holds")
	require.ErrorContains(t, CheckArray("uint8", []int{0, -1}, 0), "negative")
}
