package wire

import (
	"encoding/json"
	"strconv"
)

// Reply encodes the line that answers the function's call of that number, in the request id, with
// its result. An error says what of the result cannot be sent.
func Reply(id, number uint64, result any) ([]byte, error) {
	b, err := encodeValue(append(beginReply(id, number), `,"success":true,"result":`...), result)
	if err != nil {
		return nil, err
	}
	if mayHaveBytes(result) {
		b = findBytes(b, struct { // the paths lead through the line
			Result any `json:"result"`
		}{result})
	}
	return append(b, '}', '\n'), nil
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
