package wire

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// Kind is what a frame brings.
type Kind int

const (
	KindResult Kind = iota
	KindError
	KindItem
	KindFunction // a call of a function of the host's
	KindStack
	KindRetire // the worker asks to be replaced
)

// Frame is one line from a worker. Body aliases the line.
type Frame struct {
	ID   uint64
	Kind Kind
	// Body is raw JSON: the result, the error, the item (nil: it is nested too deeply), the stack or
	// the reason; of a function's call its arguments, nil: none.
	Body   []byte
	BigInt bool   // an integer of more than 15 digits is in it
	Told   []byte // raw JSON: what is said of the payloads in it, for Attach; nil: it has none
	Blobs  []Blob // the payloads in it, once they are attached

	Between bool // no call has caused it: the worker asks to be replaced

	Host     uint64 // the number of a function's call
	Function []byte // the function's name, a JSON string; nil: its arguments are nested too deeply
	Trace    []byte // the traceparent of the span that calls it, a JSON string; nil: none
}

// Parse reads one line, without its newline. Keys are matched exactly and must not repeat:
// encoding/json would match them in any case and keep the last. A nil error means that the line is
// valid JSON and valid UTF-8 throughout.
func Parse(line []byte, f *Frame) error {
	const (
		hasID = 1 << iota
		hasSuccess
		hasResult
		hasError
		hasItem
		hasHost
		hasFunction
		hasArgs
		hasStack
		hasTrace
		hasBlobs
		hasRetire
		hasBetween
	)
	if !utf8.Valid(line) {
		return errors.New("the line is not valid UTF-8")
	}
	*f = Frame{}
	if f.parseSuccess(line) {
		return nil
	}
	*f = Frame{}
	s := scanner{b: line}
	var seen int
	var success bool
	var blobs []byte
	if !s.byte('{') {
		return errors.New("the line is not a JSON object")
	}
	for {
		key, ok := s.plainKey()
		if !ok || !s.byte(':') {
			return fmt.Errorf("malformed envelope at byte %d", s.i)
		}
		var bit int
		s.space()
		start := s.i
		switch string(key) {
		case "id":
			bit = hasID
			f.ID, ok = s.uint()
		case "success":
			bit = hasSuccess
			success, ok = s.bool()
		case "result":
			bit, ok = hasResult, s.value(0)
			f.Body = s.b[start:s.i]
		case "error":
			bit, ok = hasError, s.peek() == '{' && s.value(0)
			f.Body = s.b[start:s.i]
		case "item":
			bit, ok = hasItem, s.value(0)
			f.Body = s.b[start:s.i]
		case "host":
			bit = hasHost
			f.Host, ok = s.uint()
			ok = ok && f.Host > 0
		case "function":
			bit, ok = hasFunction, s.peek() == '"' && s.str()
			f.Function = s.b[start:s.i]
		case "args":
			bit, ok = hasArgs, (s.peek() == '{' || s.peek() == '[') && s.value(0)
			f.Body = s.b[start:s.i]
		case "trace":
			bit, ok = hasTrace, s.peek() == '"' && s.str()
			f.Trace = s.b[start:s.i]
		case "stack":
			bit, ok = hasStack, s.peek() == '"' && s.value(0)
			f.Body = s.b[start:s.i]
		case "blobs":
			bit, ok = hasBlobs, s.peek() == '[' && s.value(0)
			blobs = s.b[start:s.i]
		case "retire":
			bit, ok = hasRetire, s.peek() == '"' && s.value(0)
			f.Body = s.b[start:s.i]
		case "between":
			bit = hasBetween
			f.Between, ok = s.bool()
		default:
			return fmt.Errorf("unknown envelope key at byte %d", s.i-len(key)-2)
		}
		if s.deep && seen&hasID != 0 {
			if (seen|bit)&hasItem != 0 {
				f.Kind = KindItem
			}
			return ErrTooDeep
		}
		if !ok {
			return fmt.Errorf("bad value of the envelope key %q at byte %d", key, s.i)
		}
		if seen&bit != 0 {
			return fmt.Errorf("the envelope key %q stands twice", key)
		}
		seen |= bit
		if s.byte(',') {
			continue
		}
		if s.byte('}') && s.end() {
			break
		}
		return fmt.Errorf("malformed envelope at byte %d", s.i)
	}
	f.BigInt = s.bigInt
	if blobs != nil {
		if seen&(hasResult|hasItem|hasArgs) == 0 {
			return errors.New("payloads of what has none")
		}
		f.Told = blobs
		seen &^= hasBlobs
	}
	switch {
	case seen == hasID|hasSuccess|hasResult && success:
		f.Kind = KindResult
	case seen == hasID|hasSuccess|hasError && !success:
		f.Kind = KindError
	case seen == hasID|hasItem:
		f.Kind = KindItem
	case seen&^(hasArgs|hasTrace) == hasID|hasHost|hasFunction:
		f.Kind = KindFunction
	case seen == hasID|hasStack:
		f.Kind = KindStack
	case seen&^hasBetween == hasID|hasRetire:
		f.Kind = KindRetire
	default:
		return errors.New("the envelope is neither a result, an error, an item nor a function's call: " + whatLacks(seen&hasID != 0, seen&hasSuccess != 0, success))
	}
	return nil
}

// parseSuccess reads a result as the runtime writes it, which is how most lines look; whether any
// other line is right is not said.
func (f *Frame) parseSuccess(line []byte) (ok bool) {
	const idKey, resultKey = `{"id":`, `,"success":true,"result":`
	s := scanner{b: line}
	if !s.literal(idKey) {
		return false
	}
	if f.ID, ok = s.uint(); !ok || !s.literal(resultKey) || s.peek() <= ' ' {
		return false
	}
	start := s.i
	if !s.value(0) || s.i != len(line)-1 || line[s.i] != '}' {
		return false
	}
	f.Body, f.BigInt = line[start:s.i], s.bigInt
	return true
}

// whatLacks names the key that a response of no known shape lacks, or has too much.
func whatLacks(hasID, hasSuccess, success bool) string {
	switch {
	case !hasID:
		return "it has no id"
	case !hasSuccess:
		return "it has no success"
	case success:
		return "success is true, and it has not just a result"
	}
	return "success is false, and it has not just an error"
}

// ErrTooDeep says that a frame, whole and with a known id, holds a value nested deeper than Go's
// JSON reads.
var ErrTooDeep = errors.New("nested too deeply")

// ResultTooDeep is what is said of a result, or an item, that is so deep.
const ResultTooDeep = "the result is nested too deeply"

// RefuseDeep turns a frame of which Parse said ErrTooDeep into the error that its result is, or
// into an item or a function's call that cannot be read: the stream itself is in order.
func (f *Frame) RefuseDeep() {
	switch {
	case f.Host != 0:
		f.Kind, f.Body, f.Function = KindFunction, nil, nil
	case f.Kind == KindItem:
		f.Body = nil
	default:
		f.Kind, f.Body = KindError, []byte(`{"kind":"invalid_result","message":"`+ResultTooDeep+`","path":"$"}`)
	}
}
