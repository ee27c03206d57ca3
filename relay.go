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
	encoded, err := wire.EncodeArgs(nil, args)
	if err != nil {
		return nil, newError(TypeInvalidArguments, NotExecuted, "the arguments cannot be sent: "+err.Error(), err)
	}
	if paths := wire.AppendBytesPaths(nil, args); len(paths) > 0 {
		encoded = append(append(append(encoded, "\n{"...), paths[1:]...), '}') // without the comma before the key
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
	if at < 0 || !bytes.HasPrefix(encoded[at+1:], []byte(relayedBytes)) || !json.Valid(encoded[:at]) {
		return json.RawMessage(encoded), nil
	}
	v, err := decodeRelayed(encoded[:at], encoded[at+1:])
	if err != nil {
		return nil, invalid("the arguments cannot be read: " + err.Error())
	}
	return v, nil
}

const relayedBytes = `{"bytes":`

// relayedArgs is arguments with bytes in them.
type relayedArgs struct{ v any }

// PythonValue is for [Valuer].
func (a relayedArgs) PythonValue() any { return a.v }

// MarshalJSON is for [Valuer].
func (a relayedArgs) MarshalJSON() ([]byte, error) { return json.Marshal(a.v) }

func decodeRelayed(args, trailer []byte) (out relayedArgs, err error) {
	var told struct {
		Bytes [][]any `json:"bytes"`
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
	return out, nil
}

// placeBytes puts bytes where the path leads to them as text. What an object lacks is skipped.
func placeBytes(v any, path []any) error {
	text, set := "", func([]byte) {}
	for i, step := range path {
		last := i == len(path)-1
		var next any
		switch at := step.(type) {
		case string:
			object, ok := v.(map[string]any)
			if !ok {
				return errors.New("there is no object")
			}
			if next, ok = object[at]; !ok && last {
				return nil
			}
			set = func(b []byte) { object[at] = b }
		case float64:
			list, ok := v.([]any)
			if !ok || at < 0 || at != float64(int(at)) || int(at) >= len(list) {
				return errors.New("there is no such item")
			}
			next = list[int(at)]
			set = func(b []byte) { list[int(at)] = b }
		default:
			return errors.New("there is no such step")
		}
		v = next
	}
	switch at := v.(type) {
	case string:
		text = at
	default:
		return errors.New("there is no text")
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return err
	}
	set(data)
	return nil
}

// EncodeResult encodes a result for another process, where DecodeResult makes an equal one of it.
// It is JSON. What the Result tells beside its value is not in it.
func EncodeResult(r Result) []byte { return r.Raw() }

// DecodeResult reads what EncodeResult has written, which it keeps a hold of. What is no result is
// an ErrDecode when that is decoded.
func DecodeResult(data []byte, info ResultInfo) Result { return NewResult(data, info) }
