package pypool

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"github.com/pypool/pypool/internal/wire"
)

// Array is an array of numbers, in both directions: numpy.ndarray in Python, or pypool.Array where
// NumPy is not installed. Data is in C order (the last index runs fastest) and little endian; DType
// is NumPy's name of the elements' type: bool, int8 to int64, uint8 to uint64, float16, float32,
// float64, complex64 or complex128. A nil Shape is zero-dimensional: one element.
//
// An Array may stand anywhere in a call's arguments, and in the Out of [Call], [Each], [Map] and
// [Func]. It travels as it is, NaN and infinities included. One whose DType, Shape and Data do not
// fit each other is an ErrInvalidArguments. The arguments' memory is the caller's again when the call
// has returned; a result's is the caller's alone.
type Array struct {
	DType string
	Shape []int
	Data  []byte
}

func init() { wire.ArrayType = reflect.TypeFor[Array]() }

// Number is what an array's elements may be in Go. (float16 has no type in Go.)
type Number interface {
	~bool | ~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~float32 | ~float64 | ~complex64 | ~complex128
}

var isBigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// dtypeOf is NumPy's name of a Number: in Go it is the same.
func dtypeOf[T Number]() string { return reflect.TypeFor[T]().Kind().String() }

// ArrayOf makes an [Array] of data, which it does not copy (but on big-endian machines): it must not
// be written to before the call has returned. Without a shape it has one dimension. A shape that does
// not fit is an ErrInvalidArguments at the call.
func ArrayOf[T Number](data []T, shape ...int) Array {
	if len(shape) == 0 {
		shape = []int{len(data)}
	}
	a := Array{DType: dtypeOf[T](), Shape: slices.Clone(shape), Data: []byte{}}
	if len(data) > 0 {
		a.Data = unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(data))), len(data)*int(unsafe.Sizeof(data[0])))
	}
	if isBigEndian {
		a.Data = swapped(a.DType, a.Data)
	}
	return a
}

// Elements returns an array's elements, in C order. They are not copied, where alignment (and the
// machine's order of bytes) allows: what is written to them is written to a.Data. It is an error if a
// has elements of another type, or if its Shape does not fit its Data.
func Elements[T Number](a Array) ([]T, error) {
	if err := wire.CheckArray(a.DType, a.Shape, len(a.Data)); err != nil {
		return nil, fmt.Errorf("pypool: %w", err)
	}
	dtype := dtypeOf[T]()
	switch {
	case a.DType == "float16":
		return nil, fmt.Errorf("pypool: the array has elements of float16, for which Go has no type: read its Data, or send array.astype(%q)", "float32")
	case a.DType != dtype:
		return nil, fmt.Errorf("pypool: the array has elements of %s, not of %s", a.DType, dtype)
	}
	if dtype == "bool" {
		for i, b := range a.Data {
			if b > 1 {
				return nil, fmt.Errorf("pypool: element %d is %d, which is no bool", i, b)
			}
		}
	}
	var zero T
	size := int(unsafe.Sizeof(zero))
	n := len(a.Data) / size
	if n == 0 {
		return []T{}, nil
	}
	data := a.Data
	if isBigEndian {
		data = swapped(a.DType, data)
	}
	at := unsafe.Pointer(unsafe.SliceData(data))
	if uintptr(at)%unsafe.Alignof(zero) == 0 {
		return unsafe.Slice((*T)(at), n), nil
	}
	elements := make([]T, n)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(elements))), n*size), data)
	return elements, nil
}

// swapped is a copy in the other order of bytes.
func swapped(dtype string, data []byte) []byte {
	size := wire.Sizes[dtype]
	if strings.HasPrefix(dtype, "complex") {
		size /= 2
	}
	data = bytes.Clone(data)
	for i := 0; i < len(data); i += size {
		slices.Reverse(data[i : i+size])
	}
	return data
}

// Payload is a value that travels as bytes of a kind of its own, beside the JSON of a call. In Python
// an object is made of it by what the script has said of that kind (pypool.payload). It is for
// packages that bring a kind of data, such as tables, and may stand wherever an [Array] may. data is
// not written to, and must stay as it is until the call has returned. An error is an
// ErrInvalidArguments.
type Payload interface {
	PythonPayload() (kind string, data []byte, err error)
}

// PayloadPieces is a [Payload] whose bytes lie in several places. They are sent one after the other,
// without being put together first; PythonPayload is not asked then. It is otherwise as there.
type PayloadPieces interface {
	Payload
	PythonPayloadPieces() (kind string, pieces [][]byte, err error)
}

// PayloadSetter is a pointer to what takes the bytes of such a kind out of a result. data is its own
// from then on. An error, upon a kind that is another one's, say, is an ErrDecode.
type PayloadSetter interface {
	SetPythonPayload(kind string, data []byte) error
}

// Tuple is a pointer to a struct that is an array in Python: a tuple of several types, a NamedTuple.
// PythonItems are pointers to its fields, in the array's order: there go the payloads of a result,
// and all else where UnmarshalJSON puts it, which finds null in their places. A result that is null
// is no Tuple. Clients of pypoolgen have such types.
type Tuple interface {
	json.Unmarshaler
	PythonItems() []any
}

// --- results ------------------------------------------------------------------------------------------------------------

var (
	unmarshalerType     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
	setterType          = reflect.TypeFor[PayloadSetter]()
	tupleType           = reflect.TypeFor[Tuple]()

	takesCache sync.Map // reflect.Type -> bool
)

// takesBlobs reports whether there are places for payloads in a value of the type.
func takesBlobs(t reflect.Type) bool {
	if k := t.Kind(); k <= reflect.Complex128 || k == reflect.String || k == reflect.Interface {
		return reflect.PointerTo(t).Implements(setterType)
	}
	if known, ok := takesCache.Load(t); ok {
		return known.(bool)
	}
	takes := reaches(t, map[reflect.Type]bool{}, isBlob)
	takesCache.Store(t, takes)
	return takes
}

// isBlob reports whether a value of the type is a place for a payload itself.
func isBlob(t reflect.Type) bool {
	return t == wire.ArrayType || reflect.PointerTo(t).Implements(setterType) || isBytes(t)
}

// reaches reports whether the type is, or a value of it may hold, one of what is looked for.
func reaches(t reflect.Type, seen map[reflect.Type]bool, is func(reflect.Type) bool) bool {
	if seen[t] {
		return false
	}
	seen[t] = true
	switch pointer := reflect.PointerTo(t); {
	case is(t):
		return true
	case pointer.Implements(tupleType):
		return slices.ContainsFunc(itemsOf(reflect.New(t)), func(item reflect.Value) bool { return reaches(item.Type(), seen, is) })
	case pointer.Implements(unmarshalerType):
		return false
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array, reflect.Pointer, reflect.Map:
		return reaches(t.Elem(), seen, is)
	case reflect.Struct:
		for _, m := range wire.Members(t) {
			if reaches(m.Type, seen, is) {
				return true
			}
		}
	}
	return false
}

// itemsOf are the fields of a Tuple, as far as they are pointed to.
func itemsOf(tuple reflect.Value) (items []reflect.Value) {
	for _, pointer := range tuple.Interface().(Tuple).PythonItems() {
		if v := reflect.ValueOf(pointer); v.Kind() == reflect.Pointer && !v.IsNil() {
			items = append(items, v.Elem())
		}
	}
	return items
}

// isBytes reports whether encoding/json reads base64 text into the type.
func isBytes(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 && !marshalsItself(t) && !marshalsItself(t.Elem())
}

func marshalsItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(unmarshalerType) || p.Implements(textUnmarshalerType)
}

// destination is what becomes of a payload in a result.
type destination int

const (
	spelledOut destination = iota // JSON takes its place, and encoding/json the rest
	placed                        // it is put where it belongs
	filled                        // its elements are, in slices that are made for it
	ignored                       // the caller's type has no place for it
)

// decodeBlobs is decodeReply for a result with payloads.
func decodeBlobs(rep reply, v any, own bool) error {
	return undecodable(v, storeBlobs(rep, v, own))
}

// storeBlobs stores a result with payloads in v; see Result.decode for own.
func storeBlobs(rep reply, v any, own bool) error {
	into := reflect.ValueOf(v)
	if into.Kind() != reflect.Pointer || into.IsNil() {
		return json.Unmarshal(rep.raw, v) // it says what is wrong with that
	}
	ends := make([]destination, len(rep.blobs))
	for i := range rep.blobs {
		ends[i] = destinationOf(into.Type().Elem(), rep.blobs[i].Path, &rep.blobs[i])
	}
	raw, bigInt, err := spell(rep, ends, "")
	if err != nil {
		return err
	}
	if err := unmarshal(raw, rep.bigInt || bigInt, v); err != nil {
		return err
	}
	nulls := 0 // each in a payload's place
	for _, end := range ends {
		if end != spelledOut {
			nulls++
		}
	}
	if err := checkFit(raw, v, nulls); err != nil {
		return err
	}
	room := roomForLists(rep)
	for i, end := range ends {
		blob := &rep.blobs[i]
		switch {
		case end != placed && end != filled:
			continue
		case end == filled && !room.take(blob):
			return tooManyLists(blob)
		}
		if err := placeBlob(into.Elem(), blob.Path, blob, own); err != nil {
			return err
		}
	}
	return nil
}

// listRoom is how many lists more the arrays of a result may become. An array has as many as its
// shape says: an empty one that comes in a hundred bytes could have more than memory holds.
type listRoom int

func roomForLists(rep reply) listRoom {
	room := 1<<20 + len(rep.raw) // some 40 MB, and as much as lists of JSON may have
	for i := range rep.blobs {
		room += len(rep.blobs[i].Data)
	}
	return listRoom(room)
}

// take reports whether there is room for one more array.
func (r *listRoom) take(blob *wire.Blob) bool {
	lists := listRoom(blob.Lists())
	if lists > *r {
		return false
	}
	*r -= lists
	return true
}

func tooManyLists(blob *wire.Blob) error {
	return fmt.Errorf("%s: an array of shape %v has more lists than can be made of it: decode it into a pypool.Array", pathText(blob.Path), blob.Shape)
}

// spelled is a result as JSON alone.
func spelled(rep reply) json.RawMessage {
	raw, _, _ := spell(rep, make([]destination, len(rep.blobs)), "null")
	return raw
}

// spell writes the payloads that are to be spelled out into the result's JSON.
func spell(rep reply, ends []destination, lacking string) (raw []byte, bigInt bool, err error) {
	if !slices.Contains(ends, spelledOut) {
		return rep.raw, false, nil
	}
	done, room := 0, roomForLists(rep)
	for i := range rep.blobs {
		if ends[i] != spelledOut {
			continue
		}
		blob := &rep.blobs[i]
		raw = append(raw, rep.raw[done:blob.At]...)
		var big bool
		switch fits := room.take(blob); {
		case !fits && lacking == "":
			return nil, false, tooManyLists(blob)
		case !fits:
			raw = append(raw, lacking...)
		default:
			if raw, big, err = blob.Spell(raw, lacking); err != nil {
				return nil, false, fmt.Errorf("%s: %w", pathText(blob.Path), err)
			}
		}
		bigInt = bigInt || big
		done = blob.At + len("null")
	}
	return append(raw, rep.raw[done:]...), bigInt, nil
}

func pathText(path []wire.Step) string {
	text := "$"
	for _, step := range path {
		if step.IsIndex {
			text += "[" + strconv.Itoa(step.Index) + "]"
		} else {
			text += "." + step.Key
		}
	}
	return text
}

// destinationOf follows the way to a payload through a type, as encoding/json would.
func destinationOf(t reflect.Type, path []wire.Step, blob *wire.Blob) destination {
	for {
		for t.Kind() == reflect.Pointer && (!t.Implements(unmarshalerType) && !t.Implements(setterType) || t.Implements(tupleType)) {
			t = t.Elem()
		}
		pointer := reflect.PointerTo(t)
		switch {
		case len(path) == 0 && (t == wire.ArrayType && blob.DType != "" || pointer.Implements(setterType)):
			return placed
		case t.Implements(setterType) && t.Kind() == reflect.Pointer && len(path) == 0:
			return placed
		case len(path) > 0 && path[0].IsIndex && pointer.Implements(tupleType):
			items := itemsOf(reflect.New(t))
			if path[0].Index >= len(items) {
				return ignored
			}
			t, path = items[path[0].Index].Type(), path[1:]
			continue
		case pointer.Implements(unmarshalerType), t.Implements(unmarshalerType):
			return spelledOut
		case len(path) == 0:
			return endOf(t, blob)
		}
		step := path[0]
		path = path[1:]
		switch t.Kind() {
		case reflect.Struct:
			if step.IsIndex {
				return spelledOut
			}
			m, ok := memberNamed(t, step.Key)
			if !ok {
				return ignored
			}
			t = m.Type
		case reflect.Map:
			if _, ok := keyOf(t.Key(), step.Key); !ok || step.IsIndex {
				return spelledOut
			}
			t = t.Elem()
		case reflect.Slice, reflect.Array:
			switch {
			case !step.IsIndex:
				return spelledOut
			case t.Kind() == reflect.Array && step.Index >= t.Len():
				return ignored
			}
			t = t.Elem()
		default:
			return spelledOut
		}
	}
}

// endOf is what becomes of a payload that a value of the type is to take.
func endOf(t reflect.Type, blob *wire.Blob) destination {
	switch {
	case isBytes(t) && (blob.DType == "" || blob.DType == "uint8" && len(blob.Shape) == 1):
		return placed
	case blob.DType == "":
		return spelledOut
	}
	for range blob.Shape {
		if t.Kind() != reflect.Slice || marshalsItself(t) {
			return spelledOut
		}
		t = t.Elem()
	}
	if kind := t.Kind(); !marshalsItself(t) &&
		(kind.String() == blob.DType || kind == reflect.Int && blob.DType == "int64" || kind == reflect.Float64 && strings.HasPrefix(blob.DType, "float") || kind == reflect.Float32 && blob.DType == "float16") {
		return filled
	}
	return spelledOut
}

// memberNamed is the field that encoding/json reads an object's key into.
func memberNamed(t reflect.Type, key string) (found wire.Member, ok bool) {
	members := wire.Members(t)
	for _, m := range members {
		if m.Name == key {
			return m, true
		}
	}
	for _, m := range members {
		if strings.EqualFold(m.Name, key) {
			return m, true
		}
	}
	return found, false
}

// keyOf is an object's key as one of a map's, of the types whose text encoding/json knows itself.
func keyOf(t reflect.Type, key string) (v reflect.Value, ok bool) {
	v = reflect.New(t).Elem()
	switch k := t.Kind(); {
	case reflect.PointerTo(t).Implements(textUnmarshalerType):
	case k == reflect.String:
		v.SetString(key)
		ok = true
	case v.CanInt():
		n, err := strconv.ParseInt(key, 10, t.Bits())
		v.SetInt(n)
		ok = err == nil
	case v.CanUint():
		n, err := strconv.ParseUint(key, 10, t.Bits())
		v.SetUint(n)
		ok = err == nil
	}
	return v, ok
}

// placeBlob puts a payload where it belongs in v, which encoding/json has filled with all else.
func placeBlob(v reflect.Value, path []wire.Step, blob *wire.Blob, own bool) error {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	if len(path) == 0 {
		return put(v, blob, own)
	}
	step := path[0]
	switch v.Kind() {
	case reflect.Struct:
		if step.IsIndex {
			if items := itemsOf(v.Addr()); step.Index < len(items) {
				return placeBlob(items[step.Index], path[1:], blob, own)
			}
			return nil
		}
		m, _ := memberNamed(v.Type(), step.Key)
		for i, n := range m.Index {
			if i > 0 && v.Kind() == reflect.Pointer {
				if v.IsNil() {
					v.Set(reflect.New(v.Type().Elem()))
				}
				v = v.Elem()
			}
			v = v.Field(n)
		}
		return placeBlob(v, path[1:], blob, own)
	case reflect.Map:
		if v.IsNil() { // two names of one field: the last one counts, as for encoding/json
			return nil
		}
		key, _ := keyOf(v.Type().Key(), step.Key)
		item := reflect.New(v.Type().Elem()).Elem()
		if known := v.MapIndex(key); known.IsValid() {
			item.Set(known)
		}
		if err := placeBlob(item, path[1:], blob, own); err != nil {
			return err
		}
		v.SetMapIndex(key, item)
	case reflect.Slice, reflect.Array:
		if step.Index < v.Len() {
			return placeBlob(v.Index(step.Index), path[1:], blob, own)
		}
	}
	return nil
}

// put stores a payload in v.
func put(v reflect.Value, blob *wire.Blob, own bool) error {
	data := blob.Data
	setter, takes := v.Addr().Interface().(PayloadSetter)
	switch {
	case takes, v.Type() == wire.ArrayType, isBytes(v.Type()):
		if !own {
			data = bytes.Clone(data)
		}
	default:
		fill(v, blob, 0, 0)
		return nil
	}
	switch {
	case takes:
		return setter.SetPythonPayload(blob.Kind, data)
	case isBytes(v.Type()):
		v.SetBytes(data)
	default:
		shape := slices.Clone(blob.Shape)
		if len(shape) == 0 {
			shape = nil
		}
		v.Set(reflect.ValueOf(Array{DType: blob.DType, Shape: shape, Data: data}))
	}
	return nil
}

// fill stores an array's elements, from the one at a byte on, in slices of slices of numbers. It
// returns where the next one is.
func fill(v reflect.Value, blob *wire.Blob, dim, at int) int {
	if dim < len(blob.Shape) {
		n := blob.Shape[dim]
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			at = fill(v.Index(i), blob, dim+1, at)
		}
		return at
	}
	size := wire.Sizes[blob.DType]
	data := blob.Data[at : at+size]
	switch {
	case v.Kind() == reflect.Bool:
		v.SetBool(data[0] != 0)
	case v.CanInt():
		v.SetInt(wire.IntAt(data))
	case v.CanUint():
		v.SetUint(wire.UintAt(data))
	case v.CanFloat():
		v.SetFloat(wire.FloatAt(data))
	default:
		v.SetComplex(complex(wire.FloatAt(data[:size/2]), wire.FloatAt(data[size/2:])))
	}
	return at + size
}

// arrayAdvice says what to do about a result that an Array cannot take.
func arrayAdvice(err error) string {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) || wrong.Type != wire.ArrayType {
		return ""
	}
	return ": what came is no array of numbers in Python (NumPy's objects, structures, texts and times are none, and bytes are a []byte): return array.astype(...), or numpy.asarray(..., dtype)"
}
