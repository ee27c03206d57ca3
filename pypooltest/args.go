package pypooltest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pypool/pypool"
)

// values are arguments, or a result, as they cross to another process: a line of JSON, and the
// bytes and arrays that belong into it.
type values struct {
	line    []byte
	payload struct {
		Blobs []payload       `json:"blobs"`
		Data  json.RawMessage `json:"data"`
	}
}

// payload is where something of its own form belongs.
type payload struct {
	At    any    `json:"at"` // in arguments a path of keys and indexes, in a result the null in the line
	DType string `json:"dtype,omitempty"`
	Shape []int  `json:"shape,omitempty"`
	Kind  string `json:"kind,omitempty"`
}

// encode encodes what a call's arguments may be. An error is the call's.
func encode(args any) (v values, err error) {
	data, err := pypool.EncodeArgs(args)
	if err != nil {
		return v, err
	}
	line, trailer, found := bytes.Cut(data, []byte{'\n'})
	if v.line = line; found {
		err = json.Unmarshal(trailer, &v.payload)
	}
	return v, err
}

// encodeResult encodes what a function returns; struct{}{} is Python's None.
func encodeResult(out any) (values, error) {
	if _, nothing := out.(struct{}); nothing {
		out = nil
	}
	v, err := encode([]any{out})
	if err != nil {
		cause := errors.Unwrap(err)
		bad := &pypool.InvalidResultError{Path: "$", Reason: cause.Error()}
		return v, pypool.NewError(pypool.TypeInvalidResult, pypool.Executed, "", bad)
	}
	v.line = v.line[1 : len(v.line)-1]
	for i, p := range v.payload.Blobs {
		v.payload.Blobs[i].At = p.At.([]any)[1:]
	}
	return v, nil
}

func (v values) result(info pypool.ResultInfo) pypool.Result {
	if len(v.payload.Blobs) == 0 {
		return pypool.NewResult(v.line, info)
	}
	out := v.payload
	out.Blobs = slices.Clone(out.Blobs)
	nulls := nullsOf(v.line)
	for i, p := range out.Blobs {
		out.Blobs[i].At = nulls[pathKey(p.At.([]any))]
	}
	trailer, err := json.Marshal(out)
	if err != nil { // it was read as JSON
		panic(err)
	}
	return pypool.DecodeResult(slices.Concat(v.line, []byte{'\n'}, trailer), info)
}

// nullsOf says where each null stands in a line of JSON, by the path that leads to it.
func nullsOf(line []byte) map[string]int64 {
	nulls := map[string]int64{}
	dec := json.NewDecoder(bytes.NewReader(line))
	var walk func(path []any)
	walk = func(path []any) {
		token, _ := dec.Token() // it was encoded as JSON
		switch token {
		case nil:
			nulls[pathKey(path)] = dec.InputOffset() - int64(len("null"))
		case json.Delim('['):
			for i := 0; dec.More(); i++ {
				walk(append(path[:len(path):len(path)], i))
			}
			_, _ = dec.Token()
		case json.Delim('{'):
			for dec.More() {
				key, _ := dec.Token()
				walk(append(path[:len(path):len(path)], key))
			}
			_, _ = dec.Token()
		}
	}
	walk([]any{})
	return nulls
}

func pathKey(path []any) string {
	key, _ := json.Marshal(path) // of strings and numbers
	return string(key)
}

// program is what the arguments of the command execute_program say.
func (v values) program() (id string, inputs values, is bool) {
	var in struct {
		ID     string          `json:"program_id"`
		Inputs json.RawMessage `json:"inputs"`
	}
	if json.Unmarshal(v.line, &in) != nil || in.ID == "" {
		return "", inputs, false
	}
	inputs.line, inputs.payload = append([]byte{}, in.Inputs...), v.payload
	if len(inputs.line) == 0 {
		inputs.line = []byte("null")
	}
	inputs.payload.Blobs = slices.Clone(v.payload.Blobs)
	for i, p := range inputs.payload.Blobs {
		inputs.payload.Blobs[i].At = p.At.([]any)[1:] // behind "inputs", as an id has none
	}
	return in.ID, inputs, true
}

// decode stores the arguments of a call in what in points to: see [Handle]. An error is a
// *pypool.Error, as Python refuses arguments.
func (v values) decode(in any) error {
	target := reflect.ValueOf(in).Elem()
	names := argumentNames(target.Type())
	switch {
	case bytes.Equal(v.line, []byte("null")):
		return nil
	case v.line[0] == '[':
		return v.decodePositional(target, names)
	}
	if names != nil {
		var object map[string]json.RawMessage
		_ = json.Unmarshal(v.line, &object) // it was encoded as JSON
		for name := range object {
			if !slices.ContainsFunc(names, func(known argument) bool { return known.is(name) }) {
				return refused("unknown argument '"+name+"'"+nearest(name, names), pypool.FieldError{Loc: []any{name}, Msg: "unknown argument", Type: "unknown"})
			}
		}
	}
	return v.store(in)
}

// decodePositional takes arguments that are an array.
func (v values) decodePositional(target reflect.Value, names []argument) error {
	var items []json.RawMessage
	_ = json.Unmarshal(v.line, &items) // it was encoded as JSON
	switch {
	case len(items) == 0:
		return nil
	case names == nil && len(items) == 1:
		one := reflect.New(reflect.ArrayOf(1, target.Type()))
		if err := v.store(one.Interface()); err != nil {
			return err
		}
		target.Set(one.Elem().Index(0))
		return nil
	case names == nil:
		return v.store(target.Addr().Interface())
	case len(items) > len(names):
		message := fmt.Sprintf("it takes %d arguments, and got %d", len(names), len(items))
		return refused(message, pypool.FieldError{Loc: []any{len(names)}, Msg: message, Type: "too_many"})
	}
	object := values{line: []byte{'{'}, payload: v.payload}
	for i, item := range items {
		if i > 0 {
			object.line = append(object.line, ',')
		}
		key, _ := json.Marshal(names[i].name) // a string always encodes
		object.line = append(append(append(object.line, key...), ':'), item...)
	}
	object.line = append(object.line, '}')
	object.payload.Blobs = slices.Clone(v.payload.Blobs)
	for i, p := range object.payload.Blobs {
		at := slices.Clone(p.At.([]any))
		at[0] = names[int(at[0].(float64))].name // an index
		object.payload.Blobs[i].At = at
	}
	return object.store(target.Addr().Interface())
}

// store is encoding/json's, and knows payloads.
func (v values) store(in any) error {
	err := v.result(pypool.ResultInfo{}).Decode(in)
	if err == nil {
		return nil
	}
	if cause := errors.Unwrap(err); cause != nil {
		err = cause
	}
	field := pypool.FieldError{Loc: []any{}, Msg: err.Error(), Type: "type"}
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) && wrong.Field != "" {
		for part := range strings.SplitSeq(wrong.Field, ".") {
			field.Loc = append(field.Loc, part)
		}
	}
	return refused("the arguments do not fit: "+err.Error(), field)
}

// argument is a field of a struct of arguments.
type argument struct {
	name  string
	exact bool // a tag names it: then Python, for which Name is not name, knows no other
}

func (a argument) is(name string) bool {
	return a.name == name || !a.exact && strings.EqualFold(a.name, name)
}

// nearest is what a pool says where only the case is another.
func nearest(name string, names []argument) string {
	for _, known := range names {
		if strings.EqualFold(known.name, name) {
			return ", did you mean '" + known.name + "'?"
		}
	}
	return ""
}

// argumentNames are the names of the arguments, nil where they are not the fields of a struct.
func argumentNames(t reflect.Type) []argument {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[pypool.Array]() || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	return append([]argument{}, fieldNames(t)...)
}

// fieldNames are the JSON names of a struct's fields, in their order: those of an embedded struct are
// its own, unless a tag makes that a field, or leaves it out.
func fieldNames(t reflect.Type) (names []argument) {
	var closed [][]int // embedded structs whose fields are not promoted
	for _, field := range reflect.VisibleFields(t) {
		if slices.ContainsFunc(closed, func(at []int) bool { return isInside(field.Index, at) }) {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous && name != "" {
			closed = append(closed, field.Index)
		}
		switch {
		case !field.IsExported(), name == "-", field.Anonymous && name == "" && isStruct(field.Type):
		case name != "":
			names = append(names, argument{name, true})
		default:
			names = append(names, argument{field.Name, false})
		}
	}
	return names
}

// isInside reports whether the field of that index is a field of the one at.
func isInside(index, at []int) bool { return len(index) > len(at) && slices.Equal(index[:len(at)], at) }

// isStruct reports whether t is a struct, or a pointer to one.
func isStruct(t reflect.Type) bool {
	return t.Kind() == reflect.Struct || t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct
}

// refused is the error of arguments that do not fit.
func refused(message string, fields ...pypool.FieldError) *pypool.Error {
	return pypool.NewError(pypool.TypeInvalidArguments, pypool.NotExecuted, message, &pypool.ArgumentError{Errors: fields})
}
