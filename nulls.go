package pypool

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/pypool/pypool/internal/wire"
)

// checkBytes is an error where a list with null in it has become a []byte: encoding/json makes byte
// 0 of what is missing, as in NumPy's masked arrays. raw is what v has been filled from, with a null
// in the place of each of so many payloads.
func checkBytes(raw []byte, v any, payloads int) error {
	t := reflect.TypeOf(v)
	if t == nil || t.Kind() != reflect.Pointer || !takesBlobs(t.Elem()) {
		return nil
	}
	if bytes.Count(raw, []byte("null")) <= payloads || !bytes.Contains(raw, []byte("[null")) && !bytes.Contains(raw, []byte(",null")) {
		return nil
	}
	var read any
	if json.Unmarshal(raw, &read) != nil {
		return nil
	}
	path, found := nullInBytes(t.Elem(), read, nil)
	if !found {
		return nil
	}
	return fmt.Errorf("at %s there is null (None in Python, or what a masked array of NumPy's lacks), which is no byte", pathText(path))
}

// nullInBytes is the way to a null among numbers where the type has a []byte.
func nullInBytes(t reflect.Type, read any, path []wire.Step) ([]wire.Step, bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	pointer := reflect.PointerTo(t)
	var tuple []reflect.Value
	if pointer.Implements(tupleType) {
		tuple = itemsOf(reflect.New(t))
	} else if marshalsItself(t) || pointer.Implements(setterType) || t == wire.ArrayType {
		return nil, false
	}
	switch read := read.(type) {
	case []any:
		for i, item := range read {
			way := append(slices.Clip(path), wire.Step{Index: i, IsIndex: true})
			switch {
			case isBytes(t):
				if item == nil {
					return way, true
				}
			case tuple != nil:
				if i < len(tuple) {
					if found, ok := nullInBytes(tuple[i].Type(), item, way); ok {
						return found, true
					}
				}
			case t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
				if found, ok := nullInBytes(t.Elem(), item, way); ok {
					return found, true
				}
			}
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(read)) {
			way := append(slices.Clip(path), wire.Step{Key: key})
			var within reflect.Type
			switch t.Kind() {
			case reflect.Map:
				within = t.Elem()
			case reflect.Struct:
				if m, ok := memberNamed(t, key); ok {
					within = m.Type
				}
			}
			if within != nil {
				if found, ok := nullInBytes(within, read[key], way); ok {
					return found, true
				}
			}
		}
	}
	return nil, false
}
