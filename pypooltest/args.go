package pypooltest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/wire"
)

// decodeArgs stores the arguments of a call in what in points to: see [Handle]. An error is a
// *pypool.Error, as Python refuses arguments.
func decodeArgs(args json.RawMessage, in any) error {
	v := reflect.ValueOf(in).Elem()
	switch {
	case bytes.Equal(args, []byte("null")):
		return nil
	case args[0] == '[':
		return decodePositional(args, v)
	}
	if err := unmarshal(args, in); err != nil {
		return refusedType(nil, err)
	}
	names := argumentNames(v.Type())
	if names == nil {
		return nil
	}
	for quoted := range wire.Keys(args) {
		var name string
		_ = json.Unmarshal(quoted, &name) // it has been read as JSON
		if !hasName(names, name) {
			return refused("unknown argument '"+name+"'", pypool.FieldError{Loc: []any{name}, Msg: "unknown argument", Type: "unknown"})
		}
	}
	return nil
}

// argumentNames are the names of the arguments, nil where they are not the fields of a struct.
func argumentNames(t reflect.Type) []string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	return append([]string{}, fieldNames(t)...)
}

// fieldNames are the JSON names of a struct's fields, in their order.
func fieldNames(t reflect.Type) (names []string) {
	for _, field := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case !field.IsExported(), name == "-", field.Anonymous && name == "" && field.Type.Kind() == reflect.Struct:
		case name != "":
			names = append(names, name)
		default:
			names = append(names, field.Name)
		}
	}
	return names
}

func hasName(names []string, name string) bool {
	for _, known := range names {
		if strings.EqualFold(known, name) {
			return true
		}
	}
	return false
}

// decodePositional takes arguments that are an array.
func decodePositional(args json.RawMessage, v reflect.Value) error {
	var items []json.RawMessage
	if err := json.Unmarshal(args, &items); err != nil {
		return refusedType(nil, err)
	}
	names := argumentNames(v.Type())
	switch {
	case len(items) == 0:
		return nil
	case names == nil && len(items) == 1:
		if err := unmarshal(items[0], v.Addr().Interface()); err != nil {
			return refusedType([]any{0}, err)
		}
		return nil
	case names == nil:
		if err := unmarshal(args, v.Addr().Interface()); err != nil {
			return refusedType(nil, err)
		}
		return nil
	case len(items) > len(names):
		message := fmt.Sprintf("it takes %d arguments, and got %d", len(names), len(items))
		return refused(message, pypool.FieldError{Loc: []any{len(names)}, Msg: message, Type: "too_many"})
	}
	object := []byte{'{'}
	for i, item := range items {
		if i > 0 {
			object = append(object, ',')
		}
		key, _ := json.Marshal(names[i]) // a string always encodes
		object = append(append(append(object, key...), ':'), item...)
	}
	if err := unmarshal(append(object, '}'), v.Addr().Interface()); err != nil {
		return refusedType(nil, err)
	}
	return nil
}

// unmarshal keeps large integers in interface values as they are.
func unmarshal(raw []byte, v any) error {
	if !wire.HasBigInt(raw) {
		return json.Unmarshal(raw, v)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return dec.Decode(v)
}

func refusedType(loc []any, err error) error {
	field := pypool.FieldError{Loc: loc, Msg: err.Error(), Type: "type"}
	if wrong := (*json.UnmarshalTypeError)(nil); loc == nil && asType(err, &wrong) && wrong.Field != "" {
		for part := range strings.SplitSeq(wrong.Field, ".") {
			field.Loc = append(field.Loc, part)
		}
	}
	if field.Loc == nil {
		field.Loc = []any{}
	}
	return refused("the arguments do not fit: "+err.Error(), field)
}

func asType(err error, target **json.UnmarshalTypeError) bool {
	wrong, ok := err.(*json.UnmarshalTypeError)
	*target = wrong
	return ok
}

// refused is the error of arguments that do not fit.
func refused(message string, fields ...pypool.FieldError) *pypool.Error {
	return pypool.NewError(pypool.TypeInvalidArguments, pypool.NotExecuted, message, &pypool.ArgumentError{Errors: fields})
}
