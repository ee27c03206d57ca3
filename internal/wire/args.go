package wire

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"unicode/utf8"
)

// EncodeArgs appends args as a JSON object, array or null. It refuses what JSON cannot carry
// exactly.
func EncodeArgs(b []byte, args any) ([]byte, error) {
	at := len(b)
	b, err := encodeValue(b, args, "args")
	if err != nil {
		return nil, err
	}
	switch b[at] {
	case '{', '[', 'n':
		return b, nil
	}
	return nil, fmt.Errorf("arguments must encode to a JSON object, array or null, and %T does not", args)
}

// encodeValue appends any value as JSON. what is its name in errors.
func encodeValue(b []byte, args any, what string) ([]byte, error) {
	at := len(b)
	switch v := args.(type) {
	case json.RawMessage:
		if !json.Valid(v) {
			return nil, errors.New("the json.RawMessage is not valid JSON")
		}
		if !utf8.Valid(v) {
			return nil, errors.New("the json.RawMessage is not valid UTF-8")
		}
		compact := bytes.NewBuffer(b)
		if err := json.Compact(compact, v); err != nil {
			return nil, err
		}
		b = compact.Bytes()
	default:
		enc := argsEncoders.Get().(*argsEncoder)
		enc.out = b
		err := enc.json.Encode(args)
		b, enc.out = enc.out, nil
		argsEncoders.Put(enc)
		if err != nil {
			return nil, err
		}
		b = b[:len(b)-1] // the encoder's newline
		if err := refuseReplaced(b[at:], args, what); err != nil {
			return nil, err
		}
		if !utf8.Valid(b[at:]) { // encoding/json passes the bytes of a json.RawMessage on as they are
			return nil, errors.New("a json.RawMessage in it is not valid UTF-8")
		}
	}
	return keepNegativeZeros(b, at), nil
}

// argsEncoder is a json.Encoder that appends; encoders are used again, as each would cost an
// allocation.
type argsEncoder struct {
	json *json.Encoder
	out  []byte
}

var argsEncoders = sync.Pool{New: func() any {
	e := &argsEncoder{}
	e.json = json.NewEncoder(e)
	e.json.SetEscapeHTML(false)
	return e
}}

func (e *argsEncoder) Write(p []byte) (int, error) {
	e.out = append(e.out, p...)
	return len(p), nil
}

// refuseReplaced finds the strings that encoding/json changed silently: it writes \ufffd for each
// byte that is not UTF-8. A U+FFFD that the caller wrote comes out unescaped, so only suspects are
// looked at closely.
func refuseReplaced(encoded []byte, args any, what string) error {
	if !bytes.Contains(encoded, []byte(`\ufffd`)) {
		return nil
	}
	if path, found := invalidUTF8(args, what); found {
		return fmt.Errorf("the string at %s is not valid UTF-8", path)
	}
	return nil
}

// invalidUTF8 looks for a string in v, as encoding/json would reach it, that is not UTF-8, and says
// where.
func invalidUTF8(v any, what string) (path string, found bool) {
	return invalidUTF8In(reflect.ValueOf(v), what, 0)
}

func invalidUTF8In(v reflect.Value, path string, depth int) (string, bool) {
	if depth > maxNesting {
		return "", false
	}
	if text, ok := textOf(v); ok {
		return path, !utf8.Valid(text)
	}
	switch v.Kind() {
	case reflect.String:
		return path, !utf8.ValidString(v.String())
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return invalidUTF8In(v.Elem(), path, depth+1)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() || field.Anonymous {
				if at, found := invalidUTF8In(v.Field(i), path+"."+field.Name, depth+1); found {
					return at, true
				}
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			key, _ := keyText(it.Key())
			at := fmt.Sprintf("%s[%q]", path, key)
			if !utf8.ValidString(key) {
				return at, true
			}
			if at, found := invalidUTF8In(it.Value(), at, depth+1); found {
				return at, true
			}
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return "", false
		}
		for i := range v.Len() {
			if at, found := invalidUTF8In(v.Index(i), fmt.Sprintf("%s[%d]", path, i), depth+1); found {
				return at, true
			}
		}
	}
	return "", false
}

// textOf is what a value that marshals itself as text is as a string.
func textOf(v reflect.Value) (text []byte, ok bool) {
	t := v.Type()
	switch {
	case v.Kind() == reflect.Interface, v.Kind() == reflect.Pointer && v.IsNil():
		return nil, false
	case v.Kind() != reflect.Pointer && v.CanAddr() && reflect.PointerTo(t).Implements(textMarshalerType):
		v, t = v.Addr(), reflect.PointerTo(t)
	}
	if !t.Implements(textMarshalerType) || t.Implements(marshalerType) || !v.CanInterface() {
		return nil, false
	}
	text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
	return text, err == nil
}
