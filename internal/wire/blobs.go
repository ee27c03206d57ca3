package wire

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Payloads: bytes, arrays and values of kinds of their own, which travel as they are beside the
// JSON line that they belong to (docs/protocol.md, "Payloads").
//
//	{"raw":[5,8]}\n  13 bytes  \n  {"id":7,"command":"f","args":{"a":null,"b":[null]},"blobs":[{"at":["a"]},{"at":["b",0],"dtype":"float64","shape":[]}]}\n
//
// In the line a null stands in the place of each. The line is what is committed by its newline, as
// any other is: what stands before it belongs to no request until then.

// Blob is one payload, and what it is.
type Blob struct {
	DType string // of an array; empty: it is none
	Shape []int  // of an array
	Kind  string // of what is neither bytes nor an array
	Data  []byte
	More  [][]byte // of what is sent and lies in several places: what follows Data

	At   int    // of a frame's: where in its body the null stands
	Path []Step // and the way to it
}

// Step is a key of an object, or an index of an array.
type Step struct {
	Key     string
	Index   int
	IsIndex bool
}

// MinBlob is the number of bytes from which on a []byte is a payload. A smaller one costs less as
// base64 in the line: measured, 2 to 4 KiB in and out take as long either way.
const MinBlob = 4 << 10

// minBlob is MinBlob, but in tests.
var minBlob = MinBlob

// SmallestBlob is MinBlob, or what SetMinBlob has made of it.
func SmallestBlob() int { return minBlob }

// SetMinBlob changes MinBlob for a test, which must not run beside others then. It returns what was
// set before.
func SetMinBlob(n int) int {
	old := minBlob
	minBlob = n
	return old
}

// minLent is MinLent, but in tests.
var minLent = MinLent

// SetMinLent changes MinLent for a test, as SetMinBlob does.
func SetMinLent(n int) int {
	old := minLent
	minLent = n
	return old
}

// SmallestLent is MinLent, or what SetMinLent has made of it.
func SmallestLent() int { return minLent }

// ArrayType is pypool.Array: a struct of DType, Shape and Data. The package that has it sets this.
var ArrayType reflect.Type

// Payload is a value that is a payload of a kind of its own, as pypool.Payload says.
type Payload interface {
	PythonPayload() (kind string, data []byte, err error)
}

// PayloadPieces is a Payload that lies in several places, as pypool.PayloadPieces says.
type PayloadPieces interface {
	PythonPayloadPieces() (kind string, pieces [][]byte, err error)
}

var payloadType = reflect.TypeFor[Payload]()

// Sizes are the bytes of one element of each dtype.
var Sizes = map[string]int{
	"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4,
	"int64": 8, "uint64": 8, "float64": 8, "complex64": 8, "complex128": 16,
}

// errArray says what is wrong with an array.
type errArray string

func (e errArray) Error() string { return string(e) }

// CheckArray reports what keeps a payload from being an array of that type and shape.
func CheckArray(dtype string, shape []int, size int) error {
	each, ok := Sizes[dtype]
	if !ok {
		return errArray(fmt.Sprintf("there is no dtype %.40q: it is one of NumPy's names of bool, int8 to int64, uint8 to uint64, float16 to float64, complex64, complex128", dtype))
	}
	if len(shape) > 64 {
		return errArray(fmt.Sprintf("a shape of %d dimensions: NumPy has 64 at most", len(shape)))
	}
	total := each
	for _, n := range shape {
		switch {
		case n < 0:
			return errArray(fmt.Sprintf("the shape %v has a negative number", shape))
		case n == 0: // the others are bounded all the same, NumPy has it so
		case total > math.MaxInt/n:
			return errArray(fmt.Sprintf("the shape %v is more than memory holds", shape))
		default:
			total *= n
		}
	}
	if slices.Contains(shape, 0) {
		total = 0
	}
	if total != size {
		return errArray(fmt.Sprintf("%s of shape %v are %d bytes, and it has %d", dtype, shape, total, size))
	}
	return nil
}

// --- arguments out ----------------------------------------------------------------------------------------------------------

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

// --- the way ----------------------------------------------------------------------------------------------------------------

const rawKey = `{"raw":[`

// BlobsSize is how many bytes the payloads are.
func BlobsSize(blobs []Blob) (size int) {
	for i := range blobs {
		size += blobs[i].size()
	}
	return size
}

func (blob *Blob) size() int {
	size := len(blob.Data)
	for _, piece := range blob.More {
		size += len(piece)
	}
	return size
}

// joined is the payload in one piece: Data, where it is one.
func (blob *Blob) joined() []byte {
	if len(blob.More) == 0 {
		return blob.Data
	}
	return blob.copied()
}

func (blob *Blob) copied() []byte {
	data := append(make([]byte, 0, blob.size()), blob.Data...)
	for _, piece := range blob.More {
		data = append(data, piece...)
	}
	return data
}

// Own makes the payloads' memory their own.
func Own(blobs []Blob) {
	for i := range blobs {
		blobs[i].Data, blobs[i].More = blobs[i].copied(), nil
	}
}

// Memory is where payloads may be put instead of on the pipe, internal/shm's. TakeBack is for
// those that are not sent.
type Memory interface {
	Lend(data []byte, more ...[]byte) (slot, at int, ok bool)
	TakeBack(slots []int)
}

// MinLent is the number of bytes from which on a payload is put into memory, where there is some.
const MinLent = 16 << 10

// AppendRaw appends payloads as they stand before the line that they belong to; nothing, where
// there are none. Those that memory takes (nil: there is none) are copied there; lent are their
// slots.
func AppendRaw(b []byte, blobs []Blob, memory Memory) (_ []byte, lent []int) {
	if len(blobs) == 0 {
		return b, nil
	}
	parts, lent := AppendRawParts(b, blobs, memory)
	b = parts[0]
	for _, part := range parts[1:] {
		b = append(b, part...)
	}
	return b, lent
}

// AppendRawParts is AppendRaw, of one payload at least, in parts that are to be written one after the
// other: payloads are their callers' memory in there.
func AppendRawParts(b []byte, blobs []Blob, memory Memory) (parts [][]byte, lent []int) {
	parts = make([][]byte, 1, 2)
	b = append(b, rawKey...)
	for i := range blobs {
		if i > 0 {
			b = append(b, ',')
		}
		blob := &blobs[i]
		size := blob.size()
		if memory != nil && size >= minLent {
			if slot, at, ok := memory.Lend(blob.Data, blob.More...); ok {
				lent = append(lent, slot)
				b = append(b, '[')
				for _, n := range [...]int{slot, at, size} {
					b = append(strconv.AppendInt(b, int64(n), 10), ',')
				}
				b[len(b)-1] = ']'
				continue
			}
		}
		b = strconv.AppendInt(b, int64(size), 10)
		parts = append(append(parts, blob.Data), blob.More...)
	}
	b = append(b, "]}\n"...)
	if len(parts) == 1 {
		b = append(b, '\n')
	} else {
		parts = append(parts, []byte{'\n'})
	}
	parts[0] = b
	return parts, lent
}

// IsRaw reports whether a line says that payloads follow.
func IsRaw(line []byte) bool { return bytes.HasPrefix(line, []byte(rawKey)) }

// maxBlobs is how many payloads one line may have.
const maxBlobs = 1 << 20

// Raw says where a payload is: it follows on the pipe, or lies in memory.
type Raw struct {
	Size     int
	Lent     bool
	Slot, At int // in memory
}

// ParseRaw reads a line that says how long the payloads are that follow it, most at most together,
// and where in memory others are: none of these overlap.
func ParseRaw(line []byte, most int) (raws []Raw, err error) {
	s := scanner{b: line, i: len(rawKey)}
	total, lent := 0, 0
	for {
		var raw Raw
		n, ok := uint64(0), len(raws) < maxBlobs
		if ok && s.literal("[") {
			var slot, at uint64
			slot, at, n, ok = s.place()
			raw = Raw{Lent: true, Slot: int(slot), At: int(at)}
			lent++
		} else if ok {
			n, ok = s.uint()
		}
		if !ok {
			return nil, fmt.Errorf("malformed sizes of payloads at byte %d", s.i)
		}
		if n > uint64(most-total) {
			return nil, fmt.Errorf("payloads of more than %d bytes", most)
		}
		total += int(n)
		raw.Size = int(n)
		raws = append(raws, raw)
		if s.literal(",") {
			continue
		}
		if s.literal("]}") && s.i == len(line) {
			if lent > 1 && overlap(raws) {
				return nil, errors.New("payloads that share their memory")
			}
			return raws, nil
		}
		return nil, fmt.Errorf("malformed sizes of payloads at byte %d", s.i)
	}
}

// place reads the rest of `[slot,at,size]`. The first two are no more than what any memory has.
func (s *scanner) place() (slot, at, size uint64, ok bool) {
	const most = math.MaxInt32
	if slot, ok = s.uint(); !ok || slot > most || !s.literal(",") {
		return 0, 0, 0, false
	}
	if at, ok = s.uint(); !ok || at > most || !s.literal(",") {
		return 0, 0, 0, false
	}
	if size, ok = s.uint(); !ok || !s.literal("]") {
		return 0, 0, 0, false
	}
	return slot, at, size, true
}

func overlap(raws []Raw) bool {
	lent := make([]Raw, 0, len(raws))
	slots := map[int]bool{}
	for _, raw := range raws {
		if raw.Lent {
			if slots[raw.Slot] {
				return true
			}
			slots[raw.Slot] = true
			lent = append(lent, raw)
		}
	}
	slices.SortFunc(lent, func(a, b Raw) int { return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Size, b.Size)) })
	for i := 1; i < len(lent); i++ {
		if lent[i].At-lent[i-1].At < lent[i-1].Size {
			return true
		}
	}
	return false
}

// --- results in -------------------------------------------------------------------------------------------------------------

// ParseBlobs reads the key `blobs` of a frame.
func (f *Frame) ParseBlobs(raw []byte) error {
	var found []struct {
		At    *int   `json:"at"`
		DType string `json:"dtype"`
		Shape []int  `json:"shape"`
		Kind  string `json:"kind"`
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&found); err != nil {
		return fmt.Errorf("unreadable payloads: %w", err)
	}
	f.Blobs = make([]Blob, len(found))
	for i, one := range found {
		switch {
		case one.At == nil:
			return fmt.Errorf("payload %d stands nowhere", i)
		case one.DType == "" && one.Shape != nil, one.DType != "" && one.Kind != "":
			return fmt.Errorf("payload %d is of two kinds", i)
		case one.DType != "" && Sizes[one.DType] == 0:
			return fmt.Errorf("payload %d is of the unknown type %.40q", i, one.DType)
		}
		f.Blobs[i] = Blob{DType: one.DType, Shape: one.Shape, Kind: one.Kind, At: *one.At}
	}
	p := placer{scanner: scanner{b: f.Body}, blobs: f.Blobs}
	p.place()
	if p.next < len(f.Blobs) {
		return fmt.Errorf("payload %d stands where no null is, at byte %d", p.next, f.Blobs[p.next].At)
	}
	return nil
}

// placer finds the ways to the payloads' places in valid JSON.
type placer struct {
	scanner
	blobs []Blob
	next  int
	path  []Step
}

func (p *placer) place() {
	p.space()
	if p.next == len(p.blobs) || p.i > p.blobs[p.next].At {
		return // the rest is of no interest, or one stands in the midst of something
	}
	switch c := p.peek(); c {
	case '{':
		p.i++
		if p.byte('}') {
			return
		}
		for more := true; more; more = p.byte(',') {
			p.space()
			start := p.i
			p.str()
			key := Step{}
			if quoted := p.b[start:p.i]; bytes.IndexByte(quoted, '\\') < 0 {
				key.Key = string(quoted[1 : len(quoted)-1])
			} else {
				_ = json.Unmarshal(quoted, &key.Key) // it is valid
			}
			p.byte(':')
			p.within(key)
		}
		p.byte('}')
	case '[':
		p.i++
		if p.byte(']') {
			return
		}
		for i, more := 0, true; more; i, more = i+1, p.byte(',') {
			p.within(Step{Index: i, IsIndex: true})
		}
		p.byte(']')
	default:
		at := p.i
		p.value(0)
		if c == 'n' && p.blobs[p.next].At == at {
			p.blobs[p.next].Path = slices.Clone(p.path)
			p.next++
		}
	}
}

func (p *placer) within(step Step) {
	p.path = append(p.path, step)
	p.place()
	p.path = p.path[:len(p.path)-1]
}

// Attach gives a frame the payloads that came before it.
func (f *Frame) Attach(data [][]byte) error {
	if len(data) != len(f.Blobs) {
		return fmt.Errorf("%d payloads came, and the line has places for %d", len(data), len(f.Blobs))
	}
	for i := range data {
		blob := &f.Blobs[i]
		if blob.DType != "" {
			if err := CheckArray(blob.DType, blob.Shape, len(data[i])); err != nil {
				return fmt.Errorf("payload %d: %w", i, err)
			}
		}
		blob.Data = data[i]
	}
	return nil
}

// Spell appends the JSON that stands for a payload where one is wanted: base64 text for bytes, lists
// for an array. bigInt tells that an integer of more than 15 digits is in it.
func (blob *Blob) Spell(b []byte, lacking string) (out []byte, bigInt bool, err error) {
	switch {
	case blob.DType != "":
		w := lister{b: b, blob: blob, lacking: lacking}
		w.list(0)
		return w.b, w.bigInt, w.err
	case blob.Kind != "":
		if lacking == "" {
			return b, false, fmt.Errorf("it is of the kind %q, which JSON has no form for: decode it into what takes that", blob.Kind)
		}
		return append(b, lacking...), false, nil
	default:
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, blob.Data)
		return append(b, '"'), false, nil
	}
}
