package pypoolarrow

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// --- out --------------------------------------------------------------------------------------------------------------------

// written is a stream, of which write writes all but its frame, in pieces: what is large and lies in
// memory of the columns, all of which each adds, stays there.
func written(schema *arrow.Schema, each func(add func(arrow.ArrayData)), write func(*ipc.Writer) error) (list [][]byte, err error) {
	defer func() {
		if r := recover(); r != nil { // arrow-go panics upon columns that contradict their schema
			list, err = nil, fmt.Errorf("it cannot be written: %v", r)
		}
	}()
	var p pieces
	each(p.add)
	p.order()
	w := ipc.NewWriter(&p, ipc.WithSchema(schema))
	if err := write(w); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return p.list, nil
}

// largePiece is the number of bytes from which on columns' memory is not copied. Each piece is a
// write of its own where it takes the pipe.
const largePiece = 16 << 10

// pieces is an io.Writer that copies what it may not keep.
type pieces struct {
	list  [][]byte
	own   bool // the last one is a copy, to which more may be appended
	there []span
}

// span is memory of a column.
type span struct{ from, to uintptr }

// order is to follow the last add.
func (p *pieces) order() {
	slices.SortFunc(p.there, func(a, b span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	for i := 1; i < len(p.there); i++ { // columns may share their memory: a later one then ends last
		p.there[i].to = max(p.there[i].to, p.there[i-1].to)
	}
}

func (p *pieces) add(d arrow.ArrayData) {
	for _, buffer := range d.Buffers() {
		if buffer != nil && buffer.Len() >= largePiece {
			p.there = append(p.there, spanOf(buffer.Bytes()))
		}
	}
	for _, child := range d.Children() {
		p.add(child)
	}
	if dictionary, ok := d.Dictionary().(*array.Data); ok && dictionary != nil {
		p.add(dictionary)
	}
}

func spanOf(b []byte) span {
	from := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return span{from, from + uintptr(len(b))}
}

// Write is for [io.Writer], but that it keeps what lies in the columns.
func (p *pieces) Write(b []byte) (int, error) {
	if len(b) >= largePiece && p.isThere(spanOf(b)) {
		p.list, p.own = append(p.list, b[:len(b):len(b)]), false
		return len(b), nil
	}
	if !p.own {
		p.list, p.own = append(p.list, nil), true
	}
	last := &p.list[len(p.list)-1]
	*last = append(*last, b...)
	return len(b), nil
}

// isThere reports whether memory is a column's.
func (p *pieces) isThere(s span) bool {
	i := sort.Search(len(p.there), func(i int) bool { return p.there[i].from > s.from })
	return i > 0 && s.to <= p.there[i-1].to
}

// --- in ---------------------------------------------------------------------------------------------------------------------

// aligned is how a stream's buffers are to lie in memory, in bytes: they do so where the stream
// does.
const aligned = 8

// read reads a stream, whose batches refer to data. Nothing in them points elsewhere.
func read(data []byte) (schema *arrow.Schema, batches []arrow.RecordBatch, err error) {
	defer func() {
		if r := recover(); r != nil {
			schema, batches, err = nil, nil, fmt.Errorf("the Arrow stream is malformed: %v", r)
		}
	}()
	if len(data) > 0 && uintptr(unsafe.Pointer(unsafe.SliceData(data)))%aligned != 0 {
		data = bytes.Clone(data)
	}
	r, err := ipc.NewReaderFromMessageReader(&messages{data: data}, ipc.WithAllocator(&bounded{left: 8 * len(data)}))
	if err != nil {
		return nil, nil, err
	}
	for _, field := range r.Schema().Fields() {
		if err := checkType(field.Type); err != nil {
			return nil, nil, fmt.Errorf("the column %q is malformed: %w", field.Name, err)
		}
	}
	rows := int64(0)
	for r.Next() {
		batch := r.RecordBatch()
		if rows += batch.NumRows(); rows < 0 { // of type null they take no bytes
			return nil, nil, errors.New("the Arrow stream is malformed: its batches have more rows than can be counted")
		}
		for i, column := range batch.Columns() {
			if err := array.ValidateFull(array.MakeFromData(withBuffers(column.Data()))); err != nil {
				return nil, nil, fmt.Errorf("the column %q is malformed: %w", batch.ColumnName(i), err)
			}
		}
		batch.Retain()
		batches = append(batches, batch)
	}
	if err := r.Err(); err != nil {
		return nil, nil, err
	}
	return r.Schema(), batches, nil
}

// checkType refuses a type of whose values arrow-go cannot make text.
func checkType(t arrow.DataType) error {
	switch t := t.(type) {
	case arrow.DecimalType:
		most := int32((t.BitWidth() - 1) * 30103 / 100000) // digits: a bit is log10(2) of one, and one bit the sign
		if t.GetPrecision() < 1 || t.GetPrecision() > most || t.GetScale() > most || t.GetScale() < -most {
			return fmt.Errorf("there is no %s", t)
		}
	case *arrow.DictionaryType:
		return checkType(t.ValueType)
	case arrow.ExtensionType:
		return checkType(t.StorageType())
	case arrow.NestedType:
		for _, field := range t.Fields() {
			if err := checkType(field.Type); err != nil {
				return err
			}
		}
	}
	return nil
}

// withBuffers is a column as array.ValidateFull knows it: of type null, which has none, it asks for
// a buffer that is nil.
func withBuffers(d arrow.ArrayData) *array.Data {
	buffers := d.Buffers()
	if layout := d.DataType().Layout().Buffers; len(buffers) == 0 && len(layout) == 1 && layout[0].Kind == arrow.KindAlwaysNull {
		buffers = []*memory.Buffer{nil}
	}
	if dictionary, ok := d.Dictionary().(*array.Data); ok && dictionary != nil {
		return array.NewDataWithDictionary(d.DataType(), d.Len(), buffers, d.NullN(), d.Offset(), withBuffers(dictionary))
	}
	children := make([]arrow.ArrayData, len(d.Children()))
	for i, child := range d.Children() {
		children[i] = withBuffers(child)
	}
	return array.NewData(d.DataType(), d.Len(), buffers, children, d.NullN(), d.Offset())
}

// messages are those of a stream in memory, which it does not copy, as ipc.NewReader would.
type messages struct {
	data     []byte
	metadata metadata
}

var errCutOff = errors.New("the Arrow stream was cut off")

// Message is for [ipc.MessageReader]: the next one, io.EOF where the stream says that it ends.
func (m *messages) Message() (*ipc.Message, error) {
	const prefix = 8
	if len(m.data) < prefix {
		return nil, errCutOff
	}
	if binary.LittleEndian.Uint32(m.data) != 0xffffffff {
		return nil, errors.New("this is no Arrow stream")
	}
	size := int64(int32(binary.LittleEndian.Uint32(m.data[4:])))
	rest := m.data[prefix:]
	switch {
	case size == 0 && len(rest) > 0:
		return nil, fmt.Errorf("%d bytes follow the end of the Arrow stream", len(rest))
	case size == 0:
		return nil, io.EOF
	case size < 4 || size > int64(len(rest)):
		return nil, errCutOff
	}
	if err := m.metadata.check(rest[:size]); err != nil {
		return nil, err
	}
	meta := memory.NewBufferBytes(rest[:size])
	rest = rest[size:]
	length := ipc.NewMessage(meta, memory.NewBufferBytes(nil)).BodyLen()
	if length < 0 || length > int64(len(rest)) {
		return nil, errCutOff
	}
	m.data = rest[length:]
	return ipc.NewMessage(meta, memory.NewBufferBytes(rest[:length:length])), nil
}

// Retain is for [ipc.MessageReader].
func (*messages) Retain() {}

// Release is for [ipc.MessageReader].
func (*messages) Release() {}

// bounded is memory for what a stream has not as it is: dictionaries that came in parts, buffers
// that were compressed. What says that it is much more than its bytes is refused: it may be a lie
// of terabytes.
type bounded struct {
	memory.GoAllocator
	left int
}

// Allocate is for [memory.Allocator].
func (b *bounded) Allocate(size int) []byte {
	b.take(size)
	return b.GoAllocator.Allocate(size)
}

// Reallocate is for [memory.Allocator].
func (b *bounded) Reallocate(size int, old []byte) []byte {
	b.take(size - len(old))
	return b.GoAllocator.Reallocate(size, old)
}

func (b *bounded) take(size int) {
	if b.left -= max(size, 0); b.left < 0 {
		panic("it asks for more than eight times its own size of memory")
	}
}
