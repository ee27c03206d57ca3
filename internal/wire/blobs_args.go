package wire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"unicode/utf8"
)

// AppendArgs appends args as EncodeArgs does, and behind it the keys `bytes` and `blobs`, unless
// plain tells that there are no bytes in it. The payloads are the caller's own memory.
func AppendArgs(b []byte, args any) (out []byte, blobs []Blob, plain bool, err error) {
	return appendArgs(b, args, minBlob)
}

// RelayArgs encodes args for a process that has no payloads in its messages: all bytes are text, and
// told of by a trailer, a JSON object with the keys `bytes`, `blobs`, and `data` for what those are.
// There is none where there are no bytes.
func RelayArgs(args any) (encoded, trailer []byte, err error) {
	encoded, blobs, plain, err := appendArgs(nil, args, math.MaxInt)
	if err != nil || plain {
		return encoded, nil, err
	}
	s := scanner{b: encoded}
	s.value(0) // it is valid
	trailer = append([]byte{'{'}, encoded[s.i+1:]...)
	if len(blobs) > 0 {
		trailer = AppendData(append(trailer, ','), blobs)
	}
	return encoded[:s.i], append(trailer, '}'), nil
}

// AppendData appends the key `data`: payloads as text.
func AppendData(b []byte, blobs []Blob) []byte {
	b = append(b, `"data":[`...)
	for i := range blobs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(base64.StdEncoding.AppendEncode(append(b, '"'), blobs[i].joined()), '"')
	}
	return append(b, ']')
}

func appendArgs(b []byte, args any, smallest int) (out []byte, blobs []Blob, plain bool, err error) {
	at := len(b)
	out, blobs, plain, err = appendValue(b, args, "", "args", smallest)
	if err != nil {
		return nil, nil, false, err
	}
	switch out[at] {
	case '{', '[', 'n':
		if len(blobs) == 0 || out[at] != 'n' {
			return out, blobs, plain, nil
		}
	}
	return nil, nil, false, notArguments(args)
}

func notArguments(args any) error {
	if p, ok := args.(Program); ok {
		args = p.Source
	}
	return fmt.Errorf("arguments must encode to a JSON object, array or null, and %T does not", args)
}

// appendValue appends any value, and the keys that say where in it its bytes are. With root, the
// paths begin with that key. what is the value's name in errors.
// Bytes that are as many as smallest are payloads.
func appendValue(b []byte, v any, root, what string, smallest int) (out []byte, blobs []Blob, plain bool, err error) {
	program, isProgram := v.(Program)
	if isProgram {
		v = program.Source
	}
	f := bytesFinder{smallest: smallest, what: what}
	var keys []byte
	if mayHaveBytes(v) { // seldom: no call pays for what few have
		var steps [8]bytesStep
		f.path = steps[:0]
		if isProgram {
			root = "inputs"
		}
		if root != "" {
			f.path = append(f.path, bytesStep{key: root})
		}
		f.root = len(f.path)
		f.any(v)
		if f.deep { // encoding/json would follow what is a million deep until the stack ends, and the host with it
			return nil, nil, false, errTooDeep
		}
		if f.err != nil {
			return nil, nil, false, f.err
		}
	}
	at := len(b)
	if isProgram {
		b = append(appendString(append(b, `{"program_id":`...), program.ID), `,"inputs":`...)
		at = len(b)
	}
	if f.large {
		e := spine{b: b, bytesFinder: bytesFinder{smallest: smallest, path: f.path, what: what, root: f.root}}
		if err := e.any(v); err != nil {
			return nil, nil, false, err
		}
		if err := checkText(e.b[at:], v, what); err != nil {
			return nil, nil, false, err
		}
		b, f.out, keys, blobs = keepNegativeZeros(e.b, at), e.out, e.keys, e.blobs
	} else if b, err = encodeValue(b, v, what); err != nil {
		return nil, nil, false, err
	}
	if isProgram {
		switch b[at] {
		case '{', '[', 'n':
			if len(blobs) > 0 && b[at] == 'n' {
				return nil, nil, false, notArguments(v)
			}
		default:
			return nil, nil, false, notArguments(v)
		}
		b = append(b, '}')
	}
	if len(f.out) > 0 {
		b = append(append(b, f.out...), ']')
	}
	if len(keys) > 0 {
		b = append(append(b, keys...), ']')
	}
	return b, blobs, len(f.out) == 0 && len(blobs) == 0, nil
}

// checkText refuses what encoding/json has changed silently.
func checkText(encoded []byte, v any, what string) error {
	if err := refuseReplaced(encoded, v, what); err != nil {
		return err
	}
	if !utf8.Valid(encoded) { // encoding/json passes the bytes of a json.RawMessage on as they are
		return errors.New("a json.RawMessage in it is not valid UTF-8")
	}
	return nil
}

// spine encodes a value in which there are payloads: what leads to bytes by itself, and by the rules
// of encoding/json, all else by encoding/json.
type spine struct {
	bytesFinder        // out is the key `bytes`, of what is small
	b           []byte // the JSON
	keys        []byte // the key `blobs`
	blobs       []Blob
}

// payload appends a null, and the payload.
func (e *spine) payload(blob Blob) error {
	if len(e.blobs) == 0 {
		e.keys = append(e.keys, `,"blobs":[`...)
	} else {
		e.keys = append(e.keys, ',')
	}
	e.keys = blob.appendWhat(e.appendPath(append(e.keys, `{"at":`...)))
	e.blobs = append(e.blobs, blob)
	e.b = append(e.b, "null"...)
	return nil
}

// appendWhat appends the rest of a descriptor: what the payload is.
func (blob *Blob) appendWhat(b []byte) []byte {
	switch {
	case blob.DType != "":
		b = append(append(append(b, `,"dtype":"`...), blob.DType...), `","shape":[`...)
		for i, n := range blob.Shape {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(n), 10)
		}
		b = append(b, ']')
	case blob.Kind != "":
		b = appendString(append(b, `,"kind":`...), blob.Kind)
	}
	return append(b, '}')
}

// AppendBlobs appends the descriptors of a result's payloads.
func AppendBlobs(b []byte, blobs []Blob) []byte {
	b = append(b, '[')
	for i := range blobs {
		if i > 0 {
			b = append(b, ',')
		}
		b = blobs[i].appendWhat(strconv.AppendInt(append(b, `{"at":`...), int64(blobs[i].At), 10))
	}
	return append(b, ']')
}

// text appends what encoding/json makes of a value.
func (e *spine) text(v any) error {
	enc := argsEncoders.Get().(*argsEncoder)
	enc.out = e.b
	err := enc.json.Encode(v)
	e.b, enc.out = enc.out, nil
	argsEncoders.Put(enc)
	if err == nil {
		e.b = e.b[:len(e.b)-1] // the encoder's newline
	}
	return err
}

// leaf appends a value that leads to no payload. Where it can be addressed, what is inside of it can
// be, too, and marshals itself through a pointer.
func (e *spine) leaf(v reflect.Value) error {
	if v.CanAddr() {
		return e.text(v.Addr().Interface())
	}
	return e.text(v.Interface())
}

func (e *spine) any(v any) error {
	if v == nil {
		e.b = append(e.b, "null"...)
		return nil
	}
	return e.value(reflect.ValueOf(v))
}

func (e *spine) value(v reflect.Value) error {
	if e.depth++; e.depth > maxNesting {
		return errTooDeep
	}
	defer func() { e.depth-- }()
	t, kind := v.Type(), v.Kind()
	if !v.CanInterface() { // a struct that is embedded, has a name in JSON, and is not exported: its fields may be
		switch {
		case kind == reflect.Struct:
			return e.record(v)
		case v.IsNil():
			return e.any(nil)
		}
		return e.value(v.Elem())
	}
	if !mayHoldBytes(t) {
		return e.leaf(v)
	}
	if (kind == reflect.Pointer || kind == reflect.Interface || kind == reflect.Map || kind == reflect.Slice) && v.IsNil() {
		return e.leaf(v)
	}
	switch {
	case kind == reflect.Interface:
		return e.value(v.Elem())
	case t == ArrayType:
		array := arrayOf(v)
		if err := CheckArray(array.DType, array.Shape, len(array.Data)); err != nil {
			return fmt.Errorf("the array at %s: %w", e.where(), err)
		}
		return e.payload(array)
	case t.Implements(payloadType):
		return e.own(v.Interface().(Payload))
	case kind != reflect.Pointer && v.CanAddr() && reflect.PointerTo(t).Implements(payloadType):
		return e.own(v.Addr().Interface().(Payload))
	case t.Implements(valuerType):
		return e.any(v.Interface().(Valuer).PythonValue())
	case kind != reflect.Pointer && v.CanAddr() && reflect.PointerTo(t).Implements(valuerType):
		return e.any(v.Addr().Interface().(Valuer).PythonValue())
	case marshalsItself(t), kind != reflect.Pointer && v.CanAddr() && marshalsItself(reflect.PointerTo(t)):
		return e.leaf(v)
	}
	switch kind {
	case reflect.Pointer:
		return e.value(v.Elem())
	case reflect.Slice, reflect.Array:
		if IsBytes(t) {
			if data := v.Bytes(); len(data) >= e.smallest {
				return e.payload(Blob{Data: data})
			}
			e.found()
			return e.leaf(v)
		}
		return e.list(v)
	case reflect.Map:
		return e.object(v)
	case reflect.Struct:
		return e.record(v)
	}
	return e.leaf(v)
}

func arrayOf(v reflect.Value) Blob {
	return Blob{DType: v.Field(0).String(), Shape: v.Field(1).Interface().([]int), Data: v.Field(2).Bytes()}
}

func (e *spine) own(p Payload) error {
	blob, err := ownBlob(p)
	if err != nil {
		return fmt.Errorf("the %T at %s: %w", p, e.where(), err)
	}
	if blob.Kind == "" {
		return fmt.Errorf("the %T at %s is a payload of no kind", p, e.where())
	}
	return e.payload(blob)
}

func ownBlob(p Payload) (blob Blob, err error) {
	several, ok := p.(PayloadPieces)
	if !ok {
		blob.Kind, blob.Data, err = p.PythonPayload()
		return blob, err
	}
	blob.Kind, blob.More, err = several.PythonPayloadPieces()
	if len(blob.More) > 0 {
		blob.Data, blob.More = blob.More[0], blob.More[1:]
	}
	return blob, err
}

func (e *spine) list(v reflect.Value) error {
	e.b = append(e.b, '[')
	for i := range v.Len() {
		if i > 0 {
			e.b = append(e.b, ',')
		}
		e.path = append(e.path, bytesStep{index: i, isIndex: true})
		if err := e.value(v.Index(i)); err != nil {
			return err
		}
		e.path = e.path[:len(e.path)-1]
	}
	e.b = append(e.b, ']')
	return nil
}

func (e *spine) object(v reflect.Value) error {
	type entry struct {
		key  string
		item reflect.Value
	}
	entries := make([]entry, 0, v.Len())
	for it := v.MapRange(); it.Next(); {
		key, ok := keyText(it.Key())
		if !ok {
			return e.leaf(v) // encoding/json says what is wrong with it
		}
		entries = append(entries, entry{key, it.Value()})
	}
	slices.SortFunc(entries, func(a, b entry) int { return bytes.Compare([]byte(a.key), []byte(b.key)) })
	e.b = append(e.b, '{')
	for i, entry := range entries {
		if i > 0 {
			e.b = append(e.b, ',')
		}
		if err := e.text(entry.key); err != nil {
			return err
		}
		e.b = append(e.b, ':')
		e.path = append(e.path, bytesStep{key: entry.key})
		if err := e.value(entry.item); err != nil {
			return err
		}
		e.path = e.path[:len(e.path)-1]
	}
	e.b = append(e.b, '}')
	return nil
}

func (e *spine) record(v reflect.Value) error {
	e.b = append(e.b, '{')
	first := true
	for _, member := range allMembersOf(v.Type()) {
		at, ok := memberOf(v, member.index)
		if !ok || member.omits(at) {
			continue
		}
		if !first {
			e.b = append(e.b, ',')
		}
		first = false
		if err := e.text(member.name); err != nil {
			return err
		}
		e.b = append(e.b, ':')
		e.path = append(e.path, bytesStep{key: member.name})
		if err := e.member(&member, at); err != nil {
			return err
		}
		e.path = e.path[:len(e.path)-1]
	}
	e.b = append(e.b, '}')
	return nil
}

func (e *spine) member(m *bytesMember, v reflect.Value) error {
	if m.asText == nil {
		return e.value(v)
	}
	one := reflect.New(m.asText).Elem() // encoding/json puts it in quotes, in a struct
	one.Field(0).Set(v)
	start := len(e.b)
	if err := e.text(one.Interface()); err != nil {
		return err
	}
	const key = len(`{"f":`)
	e.b = append(e.b[:start], e.b[start+key:len(e.b)-1]...)
	return nil
}

// omits reports whether the field is left out.
func (m *bytesMember) omits(v reflect.Value) bool {
	return m.omitEmpty && isEmpty(v) || m.omitZero && isZero(v)
}

// isEmpty is encoding/json's omitempty.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

type zeroer interface{ IsZero() bool }

// isZero is encoding/json's omitzero.
func isZero(v reflect.Value) bool {
	zeroerType := reflect.TypeFor[zeroer]()
	switch t := v.Type(); {
	case t.Kind() == reflect.Interface && t.Implements(zeroerType):
		return v.IsNil() || v.Elem().Kind() == reflect.Pointer && v.Elem().IsNil() || v.Interface().(zeroer).IsZero()
	case t.Kind() == reflect.Pointer && t.Implements(zeroerType):
		return v.IsNil() || v.Interface().(zeroer).IsZero()
	case t.Implements(zeroerType):
		return v.Interface().(zeroer).IsZero()
	case reflect.PointerTo(t).Implements(zeroerType):
		if !v.CanAddr() {
			copied := reflect.New(t).Elem()
			copied.Set(v)
			v = copied
		}
		return v.Addr().Interface().(zeroer).IsZero()
	}
	return v.IsZero()
}
