package pypoolarrow_test

import (
	"bytes"
	"strconv"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	pypoolarrow "github.com/pypool/pypool/arrow"
)

func TestAStreamIsWhatArrowWrites(t *testing.T) {
	build := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{
		{Name: "number", Type: arrow.PrimitiveTypes.Int16, Nullable: true},
		{Name: "text", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "flag", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
	}, nil))
	defer build.Release()
	for row := range 10_007 { // no multiple of what columns are padded to
		if row%5 == 0 {
			build.Field(0).AppendNull()
			build.Field(1).AppendNull()
			build.Field(2).AppendNull()
			continue
		}
		build.Field(0).(*array.Int16Builder).Append(int16(row))
		build.Field(1).(*array.StringBuilder).Append("Grüße"[:row%2])
		build.Field(2).(*array.BooleanBuilder).Append(row%3 == 0)
	}
	whole := build.NewRecordBatch()
	defer whole.Release()
	for range 20 { // memory of the rounds before is taken again, and is not clean
		for _, rows := range [][2]int64{{0, whole.NumRows()}, {3, 9001}, {1, 2}, {7, 7}} {
			batch := whole.NewSlice(rows[0], rows[1])
			var want bytes.Buffer
			w := ipc.NewWriter(&want, ipc.WithSchema(batch.Schema()))
			require.NoError(t, w.Write(batch))
			require.NoError(t, w.Close())
			_, got, err := pypoolarrow.RecordBatch{RecordBatch: batch}.PythonPayload()
			require.NoError(t, err)
			require.True(t, bytes.Equal(want.Bytes(), got), "rows %v", rows)
			_, pieces, err := pypoolarrow.Table{Table: array.NewTableFromRecords(batch.Schema(), []arrow.RecordBatch{batch})}.PythonPayloadPieces()
			require.NoError(t, err)
			if batch.NumRows() > 0 { // else it is a table without a batch
				require.True(t, bytes.Equal(want.Bytes(), bytes.Join(pieces, nil)), "rows %v", rows)
			}
			for i := range got { // the caller's own: nothing of arrow-go's is written to
				got[i] = 0xff
			}
			batch.Release()
		}
	}
}

func TestLargeColumnsAreNotCopied(t *testing.T) {
	const rows = 1 << 18
	build := array.NewInt64Builder(memory.DefaultAllocator)
	for i := range rows {
		build.Append(int64(i))
	}
	numbers := build.NewInt64Array()
	index := array.NewInt32Builder(memory.DefaultAllocator)
	words := array.NewStringBuilder(memory.DefaultAllocator)
	for i := range 20_000 {
		words.Append(strconv.Itoa(i))
	}
	for i := range rows {
		index.Append(int32(i % 20_000))
	}
	dictionary := array.NewDictionaryArray(&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}, index.NewArray(), words.NewArray())
	pairs, err := array.NewStructArray([]arrow.Array{numbers, numbers}, []string{"a", "b"})
	require.NoError(t, err)
	lists := array.NewListData(array.NewData(arrow.ListOf(arrow.PrimitiveTypes.Int64), 2, []*memory.Buffer{nil, memory.NewBufferBytes(arrow.Int32Traits.CastToBytes([]int32{0, 5, rows}))}, []arrow.ArrayData{numbers.Data()}, 0, 0))
	for name, column := range map[string]arrow.Array{
		"numbers": numbers, "a part of them": array.NewSlice(numbers, 1000, rows-1000), "a dictionary": dictionary, "structs": pairs, "lists": lists,
	} {
		batch := array.NewRecordBatch(arrow.NewSchema([]arrow.Field{{Name: "c", Type: column.DataType()}}, nil), []arrow.Array{column}, int64(column.Len()))
		_, pieces, err := pypoolarrow.RecordBatch{RecordBatch: batch}.PythonPayloadPieces()
		require.NoError(t, err)
		kept, own := 0, 0
		for _, piece := range pieces {
			if lies(column.Data(), uintptr(unsafe.Pointer(&piece[0]))) {
				kept += len(piece)
			} else {
				own += len(piece)
			}
		}
		require.Greater(t, kept, 1<<20, name)
		require.Less(t, own, 64<<10, name)
	}
}

// lies reports whether a byte is one of a column's.
func lies(d arrow.ArrayData, at uintptr) bool {
	for _, buffer := range d.Buffers() {
		if buffer != nil && buffer.Len() > 0 && at-uintptr(unsafe.Pointer(&buffer.Bytes()[0])) < uintptr(buffer.Len()) {
			return true
		}
	}
	for _, child := range d.Children() {
		if lies(child, at) {
			return true
		}
	}
	dictionary, ok := d.Dictionary().(*array.Data)
	return ok && dictionary != nil && lies(dictionary, at)
}
