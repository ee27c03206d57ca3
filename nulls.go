package pypool

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/pypool/pypool/internal/wire"
)

// takesNull reports whether null is to leave what v points to as it was, as encoding/json does: a
// struct or an array of zeros would look like a value that came.
func takesNull(v any) bool {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer || t.Implements(unmarshalerType) && !t.Implements(setterType) && !t.Implements(tupleType) {
		return true
	}
	switch t = t.Elem(); t.Kind() {
	case reflect.Struct:
		return t.NumField() == 0 // it takes nothing out of a result
	case reflect.Array:
		return t.Len() == 0 || marshalsItself(t)
	default:
		return true
	}
}

// checkFit is an error where encoding/json, which has filled v, has made something up or dropped
// something: it makes byte 0 of a null in a list that becomes a []byte, as in NumPy's masked arrays,
// zeros of what a list lacks that becomes an array, and nothing of what it has beyond that. raw has
// a null in the place of each of so many payloads.
func checkFit(raw []byte, v any, payloads int) error {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer {
		return nil
	}
	nulls := takesBlobs(t.Elem()) && bytes.Count(raw, []byte("null")) > payloads && (bytes.Contains(raw, []byte("[null")) || bytes.Contains(raw, []byte(",null")))
	if !nulls && !takesArrays(t.Elem()) {
		return nil
	}
	var read any
	if unmarshal(raw, true, &read) != nil {
		return nil
	}
	way, what := misfit(t.Elem(), read)
	if what == "" {
		return nil
	}
	slices.Reverse(way)
	return fmt.Errorf("at %s there is %s", pathText(way), what)
}

// misfit tells what does not fit the type, and the way to it, backwards; or nothing.
func misfit(t reflect.Type, read any) (way []wire.Step, what string) {
	list, isList := read.([]any)
	object, isObject := read.(map[string]any)
	if !isList && !isObject {
		return nil, ""
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	pointer := reflect.PointerTo(t)
	var tuple []reflect.Value
	if pointer.Implements(tupleType) {
		tuple = itemsOf(reflect.New(t))
	} else if marshalsItself(t) || pointer.Implements(setterType) || t == wire.ArrayType {
		return nil, ""
	}
	if isList && tuple == nil && t.Kind() == reflect.Array && len(list) != t.Len() {
		return nil, fmt.Sprintf("a list of %d, and %v has %d", len(list), t, t.Len())
	}
	for i, item := range list {
		switch {
		case isBytes(t):
			if item == nil {
				what = "null (None in Python, or what a masked array of NumPy's lacks), which is no byte"
			}
		case tuple != nil:
			if i < len(tuple) {
				way, what = misfit(tuple[i].Type(), item)
			}
		case t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
			way, what = misfit(t.Elem(), item)
		}
		if what != "" {
			return append(way, wire.Step{Index: i, IsIndex: true}), what
		}
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		switch t.Kind() {
		case reflect.Map:
			way, what = misfit(t.Elem(), object[key])
		case reflect.Struct:
			if m, ok := memberNamed(t, key); ok {
				way, what = misfit(m.Type, object[key])
			}
		}
		if what != "" {
			return append(way, wire.Step{Key: key}), what
		}
	}
	return nil, ""
}

var arraysCache sync.Map // reflect.Type -> bool

// takesArrays reports whether there are arrays in a value of the type.
func takesArrays(t reflect.Type) bool {
	if k := t.Kind(); k <= reflect.Complex128 || k == reflect.String || k == reflect.Interface {
		return false
	}
	if known, ok := arraysCache.Load(t); ok {
		return known.(bool)
	}
	takes := reaches(t, map[reflect.Type]bool{}, func(t reflect.Type) bool { return t.Kind() == reflect.Array && !marshalsItself(t) })
	arraysCache.Store(t, takes)
	return takes
}
