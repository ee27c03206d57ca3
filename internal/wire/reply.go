package wire

import (
	"encoding/json"
	"strconv"
)

// Reply encodes the line that answers the function's call of that number, in the request id, with
// its result, behind the payloads in that. An error says what of the result cannot be sent.
func Reply(id, number uint64, result any) ([]byte, error) {
	b, blobs, _, err := appendValue(append(beginReply(id, number), `,"success":true,"result":`...), result, "result", "result", minBlob)
	if err != nil {
		return nil, err
	}
	b = append(b, '}', '\n')
	if len(blobs) > 0 {
		raw, _ := AppendRaw(make([]byte, 0, len(b)+BlobsSize(blobs)+20*len(blobs)+16), blobs, nil)
		b = append(raw, b...)
	}
	return b, nil
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
