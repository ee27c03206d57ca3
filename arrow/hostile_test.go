package pypoolarrow_test

import (
	"encoding/binary"
	"runtime"
	"slices"
	"testing"

	flatbuffers "github.com/google/flatbuffers/go"
	"github.com/stretchr/testify/require"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/pypool/pypool"
	pypoolarrow "github.com/pypool/pypool/arrow"
)

var streamsEnd = []byte("\xff\xff\xff\xff\x00\x00\x00\x00")

// A field that is within itself is as deep as there is stack, whose end no recover can catch.
func TestAFieldWithinItselfIsRefused(t *testing.T) {
	var into pypoolarrow.Table
	err := into.SetPythonPayload("arrow.Table", schemaWithin(60<<20))
	require.ErrorContains(t, err, "malformed")

	deep := arrow.DataType(arrow.PrimitiveTypes.Int8)
	for range 60 {
		deep = arrow.ListOf(deep)
	}
	none := array.NewBuilder(memory.DefaultAllocator, deep).NewArray()
	kind, data, err := pypoolarrow.Table{Table: tableOf(arrow.NewSchema([]arrow.Field{{Name: "deep", Type: deep}}, nil), []arrow.Array{none})}.PythonPayload()
	require.NoError(t, err)
	require.NoError(t, into.SetPythonPayload(kind, data), "as deep as it may be")
}

// schemaWithin is a stream of a schema, so many bytes long, whose one field has itself as its child.
func schemaWithin(size int) []byte {
	const fields, typeInt, children = 1, 2, 5 // in a Schema, in the union Type, in a Field
	b := flatbuffers.NewBuilder(256)
	name := b.CreateString("n")
	b.StartObject(2)
	b.PrependInt32Slot(0, 64, 0)
	integer := b.EndObject()
	list := func(of flatbuffers.UOffsetT) flatbuffers.UOffsetT {
		b.StartVector(4, 1, 4)
		b.PrependUOffsetT(of)
		return b.EndVector(1)
	}
	inner := list(integer) // to be changed
	b.StartObject(7)
	b.PrependUOffsetTSlot(0, name, 0)
	b.PrependByteSlot(2, typeInt, 0)
	b.PrependUOffsetTSlot(3, integer, 0)
	b.PrependUOffsetTSlot(children, inner, 0)
	field := b.EndObject()
	outer := list(field)
	b.StartObject(4)
	b.PrependUOffsetTSlot(fields, outer, 0)
	schema := b.EndObject()
	b.StartObject(5)
	b.PrependInt16Slot(0, 4, 0) // V5
	b.PrependByteSlot(1, 1, 0)  // a Schema
	b.PrependUOffsetTSlot(2, schema, 0)
	b.Finish(b.EndObject())
	meta := b.FinishedBytes()
	at := len(meta) - int(inner) + 4
	binary.LittleEndian.PutUint32(meta[at:], uint32(len(meta)-int(field))-uint32(at))

	stream := append([]byte{0xff, 0xff, 0xff, 0xff}, binary.LittleEndian.AppendUint32(nil, uint32(size))...)
	return slices.Concat(stream, meta, make([]byte, size-len(meta)), streamsEnd)
}

// A stream without batches is a few bytes, whatever its schema says of them.
func TestASchemaAloneTakesNoMemory(t *testing.T) {
	const most = 1<<31 - 1
	numbers := arrow.FixedSizeListOf(most, arrow.FixedSizeListOf(most, arrow.PrimitiveTypes.Int8))
	for how, of := range map[string]arrow.DataType{
		"one list":    arrow.FixedSizeListOf(most, arrow.PrimitiveTypes.Int64),
		"two lists":   numbers,
		"three lists": arrow.FixedSizeListOf(most, numbers),
		"four lists":  arrow.FixedSizeListOf(most, arrow.FixedSizeListOf(most, numbers)),
		"nothing":     arrow.FixedSizeListOf(most, arrow.FixedSizeListOf(most, arrow.FixedSizeListOf(most, arrow.Null))),
	} {
		union := arrow.DenseUnionOf([]arrow.Field{{Name: "n", Type: of}}, []arrow.UnionTypeCode{0})
		schema := arrow.NewSchema([]arrow.Field{{Name: "bad", Type: union}}, nil)
		_, data, err := pypoolarrow.Table{Table: tableOf(schema)}.PythonPayload()
		require.NoError(t, err, how)
		var table pypoolarrow.Table
		require.NoError(t, table.SetPythonPayload("arrow.Table", data), how)
		var batch pypoolarrow.RecordBatch
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err = batch.SetPythonPayload("arrow.Table", data)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(8<<20), how)
		if how != "nothing" {
			require.Error(t, err, how)
		}
	}
}

// Rows of type null are no bytes, so that a batch may have any number of them.
func TestBatchesThatAreTooLargeTogetherAreRefused(t *testing.T) {
	schema := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.Null, Nullable: true}}, nil)
	_, none, err := pypoolarrow.Table{Table: tableOf(schema)}.PythonPayload()
	require.NoError(t, err)
	_, half, err := pypoolarrow.Table{Table: tableOf(schema, []arrow.Array{array.NewNull(1 << 62)})}.PythonPayload()
	require.NoError(t, err)
	data := slices.Concat(half[:len(half)-len(streamsEnd)], half[len(none)-len(streamsEnd):])
	var table pypoolarrow.Table
	require.ErrorContains(t, table.SetPythonPayload("arrow.Table", data), "more rows than can be counted")
	var batch pypoolarrow.RecordBatch
	require.ErrorContains(t, batch.SetPythonPayload("arrow.Table", data), "more rows than can be counted")
}

func TestABatchOfNoRowsIsOfAnyType(t *testing.T) {
	item := arrow.Field{Name: "n", Type: arrow.FixedSizeListOf(1000, arrow.BinaryTypes.String), Nullable: true}
	word := arrow.Field{Name: "w", Type: arrow.ListOf(arrow.BinaryTypes.LargeString), Nullable: true}
	var fields []arrow.Field
	for _, of := range []arrow.DataType{
		arrow.Null, arrow.FixedWidthTypes.Boolean, arrow.PrimitiveTypes.Int64, arrow.BinaryTypes.StringView, item.Type, word.Type,
		arrow.ListViewOf(arrow.PrimitiveTypes.Int8), arrow.MapOf(arrow.BinaryTypes.String, item.Type), arrow.StructOf(item, word),
		&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String},
		arrow.RunEndEncodedOf(arrow.PrimitiveTypes.Int32, arrow.BinaryTypes.String),
		arrow.SparseUnionOf([]arrow.Field{item, word}, []arrow.UnionTypeCode{3, 5}), arrow.DenseUnionOf([]arrow.Field{item, word}, []arrow.UnionTypeCode{3, 5}),
	} {
		fields = append(fields, arrow.Field{Name: of.String(), Type: of, Nullable: true})
	}
	schema := arrow.NewSchema(fields, nil)
	_, data, err := pypoolarrow.Table{Table: tableOf(schema)}.PythonPayload()
	require.NoError(t, err)
	var batch pypoolarrow.RecordBatch
	require.NoError(t, batch.SetPythonPayload("arrow.Table", data))
	require.True(t, schema.Equal(batch.Schema()))
	require.Zero(t, batch.NumRows())
}

// What Go sends is looked at before a handler sees it, also where a caller passes on a stream that
// he has been given.
func TestHostileTablesFromGo(t *testing.T) {
	p := pool(t)
	before := p.Stats().WorkersExited
	offsets := func(at ...int32) *memory.Buffer { return memory.NewBufferBytes(arrow.Int32Traits.CastToBytes(at)) }
	three := array.NewInt8Builder(memory.DefaultAllocator)
	three.AppendValues([]int8{1, 2, 3}, nil)
	items := three.NewArray()
	words := array.NewStringBuilder(memory.DefaultAllocator)
	words.Append("a")
	index := array.NewInt8Builder(memory.DefaultAllocator)
	index.AppendValues([]int8{0, 7}, nil)
	for how, column := range map[string]arrow.Array{
		"a text's offset":  array.MakeFromData(array.NewData(arrow.BinaryTypes.String, 2, []*memory.Buffer{nil, offsets(0, 1<<30, 3), memory.NewBufferBytes([]byte("abc"))}, nil, 0, 0)),
		"a list's offset":  array.MakeFromData(array.NewData(arrow.ListOf(arrow.PrimitiveTypes.Int8), 2, []*memory.Buffer{nil, offsets(0, 1<<20, 3)}, []arrow.ArrayData{items.Data()}, 0, 0)),
		"an index":         array.NewDictionaryArray(&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}, index.NewArray(), words.NewArray()),
		"text that is not": array.MakeFromData(array.NewData(arrow.BinaryTypes.String, 1, []*memory.Buffer{nil, offsets(0, 2), memory.NewBufferBytes([]byte("\xff\xfe"))}, nil, 0, 0)),
	} {
		table := pypoolarrow.Table{Table: tableOf(arrow.NewSchema([]arrow.Field{{Name: "bad", Type: column.DataType(), Nullable: true}}, nil), []arrow.Array{column})}
		_, stream, err := table.PythonPayload()
		require.NoError(t, err, how)
		for command, arg := range map[string]any{"unhinted": table, "as_table": stream, "as_polars": stream} {
			_, err = p.ExecuteAnonymous(t.Context(), command, args{"table": arg})
			if how == "text that is not" && command != "as_polars" { // it is seen when it is read
				require.ErrorIs(t, err, pypool.ErrPython, "%s: %s", how, command)
			} else {
				require.ErrorIs(t, err, pypool.ErrInvalidArguments, "%s: %s", how, command)
			}
		}
	}
	require.Equal(t, before, p.Stats().WorkersExited)
}

// Two streams behind one another, as two uploads may be, are not the first of them.
func TestWhatFollowsAStreamIsRefused(t *testing.T) {
	p := pool(t)
	kind, one, err := pypoolarrow.Table{Table: numbers("n", 1, 2)}.PythonPayload()
	require.NoError(t, err)
	for how, stream := range map[string][]byte{"another stream": slices.Concat(one, one), "words": slices.Concat(one, []byte("something"), streamsEnd)} {
		for _, command := range []string{"as_table", "as_batch", "as_reader", "as_pandas", "as_polars"} {
			_, err := p.ExecuteAnonymous(t.Context(), command, args{"table": stream})
			require.ErrorIs(t, err, pypool.ErrInvalidArguments, "%s: %s", how, command)
			require.ErrorContains(t, err, "follow the end of the Arrow stream", "%s: %s", how, command)
		}
		_, err := p.ExecuteAnonymous(t.Context(), "unhinted", args{"table": payload{kind, stream}})
		require.ErrorIs(t, err, pypool.ErrInvalidArguments, how)
	}
}
