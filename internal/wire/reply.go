package wire

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// Reply encodes the line that answers the function's call of that number, in the request id, with
// its result, and returns the payloads in that, which are the result's own memory. An error says what
// of the result cannot be sent.
func Reply(id, number uint64, result any) (line []byte, blobs []Blob, err error) {
	b, blobs, _, err := appendValue(append(beginReply(id, number), `,"success":true,"result":`...), result, "result", "result", minBlob)
	if err != nil {
		return nil, nil, err
	}
	return append(b, '}', '\n'), blobs, nil
}

// Laden returns a line behind its payloads, of which nothing but a copy is kept. Those that memory
// takes (nil: there is none) are copied there; lent are their slots.
func Laden(line []byte, blobs []Blob, memory Memory) (_ []byte, lent []int) {
	if len(blobs) == 0 {
		return line, nil
	}
	parts, lent := AppendRawParts(nil, blobs, memory)
	return bytes.Join(append(parts, line), nil), lent
}

// ReplyError is Reply for a function that has failed.
func ReplyError(id, number uint64, kind, message string) []byte {
	b := appendString(append(beginReply(id, number), `,"success":false,"error":{"type":`...), kind)
	text, _ := json.Marshal(message) // a string always encodes
	b = append(append(b, `,"message":`...), text...)
	return append(b, '}', '}', '\n')
}

func beginReply(id, number uint64) []byte {
	b := strconv.AppendUint(append(make([]byte, 0, 128), `{"id":`...), id, 10)
	return strconv.AppendUint(append(b, `,"host":`...), number, 10)
}
