package pypool

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pypool/pypool/internal/wire"
)

// What a Caller needs that has its calls served in another process: arguments and results as bytes
// to send, as EncodeError has it for errors.

// EncodeArgs encodes a call's arguments for another process, where DecodeArgs makes of them what a
// Caller's methods take in their place. They are one line of JSON, an object, an array or null, and
// behind it, where there are bytes among them, what tells those from text. An error is the
// ErrInvalidArguments for the call's caller.
func EncodeArgs(args any) ([]byte, error) {
	encoded, trailer, err := wire.RelayArgs(args)
	if err != nil {
		return nil, newError(TypeInvalidArguments, NotExecuted, "the arguments cannot be sent: "+err.Error(), err)
	}
	if trailer != nil {
		encoded = append(append(encoded[:len(encoded):len(encoded)], '\n'), trailer...)
	}
	return encoded, nil
}

// DecodeArgs reads what EncodeArgs has written, which it keeps a hold of; JSON alone, however it is
// laid out, is arguments too. An error is the ErrInvalidArguments for the call's caller.
func DecodeArgs(data []byte) (any, error) {
	encoded := bytes.TrimSpace(data)
	if len(encoded) == 0 {
		return nil, nil
	}
	at := bytes.LastIndexByte(encoded, '\n')
	if at < 0 || !isTrailer(encoded[at+1:]) || !json.Valid(encoded[:at]) {
		return json.RawMessage(encoded), nil
	}
	v, err := decodeRelayed(encoded[:at], encoded[at+1:])
	if err != nil {
		return nil, invalid("the arguments cannot be read: " + err.Error())
	}
	return v, nil
}

// isTrailer reports whether a line tells of bytes, which no arguments can be taken for.
func isTrailer(line []byte) bool {
	return bytes.HasPrefix(line, []byte(`{"bytes":[`)) || bytes.HasPrefix(line, []byte(`{"blobs":[`))
}

// relayedPayload is a payload of a kind of its own.
type relayedPayload struct {
	kind string
	data []byte
}

// PythonPayload is for [Payload].
func (p relayedPayload) PythonPayload() (kind string, data []byte, err error) {
	return p.kind, p.data, nil
}

// relayedArgs is arguments with bytes in them.
type relayedArgs struct{ v any }

// PythonValue is for [Valuer].
func (a relayedArgs) PythonValue() any { return a.v }

// MarshalJSON is for [Valuer].
func (a relayedArgs) MarshalJSON() ([]byte, error) { return json.Marshal(a.v) }

func decodeRelayed(args, trailer []byte) (out relayedArgs, err error) {
	var told struct {
		Bytes [][]any `json:"bytes"`
		Blobs []struct {
			At    []any  `json:"at"`
			DType string `json:"dtype"`
			Shape []int  `json:"shape"`
			Kind  string `json:"kind"`
		} `json:"blobs"`
		Data [][]byte `json:"data"`
	}
	if err := json.Unmarshal(trailer, &told); err != nil {
		return out, err
	}
	dec := json.NewDecoder(bytes.NewReader(args))
	dec.UseNumber()
	if err := dec.Decode(&out.v); err != nil {
		return out, err
	}
	for _, path := range told.Bytes {
		if len(path) == 0 {
			return out, errors.New("bytes are no arguments")
		}
		if err := placeBytes(out.v, path); err != nil {
			return out, fmt.Errorf("%w at %.64q", err, fmt.Sprint(path))
		}
	}
	if len(told.Blobs) != len(told.Data) {
		return out, errors.New("they have not as many payloads as places for them")
	}
	for i, blob := range told.Blobs {
		var payload any = told.Data[i]
		switch {
		case blob.DType != "":
			payload = Array{blob.DType, blob.Shape, told.Data[i]}
		case blob.Kind != "":
			payload = relayedPayload{blob.Kind, told.Data[i]}
		}
		if err := placePayload(out.v, blob.At, payload); err != nil {
			return out, fmt.Errorf("%w at %.64q", err, fmt.Sprint(blob.At))
		}
	}
	return out, nil
}

// placePayload puts a payload where the path leads to a null.
func placePayload(v any, path []any, payload any) error {
	if len(path) == 0 {
		return errors.New("payloads are no arguments")
	}
	at, set, err := follow(v, path)
	switch {
	case err != nil:
		return err
	case set == nil || at != nil:
		return errors.New("there is no null")
	}
	set(payload)
	return nil
}

// placeBytes puts bytes where the path leads to them as text. What an object lacks is skipped.
func placeBytes(v any, path []any) error {
	at, set, err := follow(v, path)
	if err != nil || set == nil {
		return err
	}
	text, ok := at.(string)
	if !ok {
		return errors.New("there is no text")
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return err
	}
	set(data)
	return nil
}

// follow returns what is where the path leads, and what puts something else there; neither, where
// the last object has not that key.
func follow(v any, path []any) (found any, set func(any), err error) {
	for i, step := range path {
		last := i == len(path)-1
		var next any
		switch at := step.(type) {
		case string:
			object, ok := v.(map[string]any)
			if !ok {
				return nil, nil, errors.New("there is no object")
			}
			if next, ok = object[at]; !ok && last {
				return nil, nil, nil
			}
			set = func(v any) { object[at] = v }
		case float64:
			list, ok := v.([]any)
			if !ok || at < 0 || at != float64(int(at)) || int(at) >= len(list) {
				return nil, nil, errors.New("there is no such item")
			}
			next = list[int(at)]
			set = func(v any) { list[int(at)] = v }
		default:
			return nil, nil, errors.New("there is no such step")
		}
		v = next
	}
	return v, set, nil
}

// EncodeResult encodes a result for another process, where DecodeResult makes an equal one of it.
// It is a line of JSON, and behind it, where the call had [WithBlobs] and there are bytes or arrays in
// the result, those. What the Result tells beside its value is not in it.
func EncodeResult(r Result) []byte {
	if r.reply.blobs == nil {
		return r.Raw()
	}
	b := append(append([]byte{}, r.reply.raw...), "\n{\"blobs\":"...)
	b = append(wire.AppendBlobs(b, r.reply.blobs), ',')
	return append(wire.AppendData(b, r.reply.blobs), '}')
}

// DecodeResult reads what EncodeResult has written, which it keeps a hold of. What is no result is
// an ErrDecode when that is decoded.
func DecodeResult(data []byte, info ResultInfo) Result {
	at := bytes.LastIndexByte(data, '\n')
	if at < 0 || !isTrailer(data[at+1:]) || !json.Valid(data[:at]) {
		return NewResult(data, info)
	}
	var told struct {
		Blobs json.RawMessage `json:"blobs"`
		Data  [][]byte        `json:"data"`
	}
	r := NewResult(data[:at], info)
	if json.Unmarshal(data[at+1:], &told) != nil {
		return NewResult(data, info)
	}
	f := wire.Frame{Body: r.reply.raw, Told: told.Blobs}
	if f.Attach(told.Data) != nil {
		return NewResult(data, info)
	}
	r.reply.blobs = f.Blobs
	return r
}
