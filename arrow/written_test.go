package pypoolarrow_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	pypoolarrow "github.com/pypool/pypool/arrow"
)

// The memory that a stream is written to is not cleared before: each byte of it is one that arrow-go
// writes, the padding included.
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
	for range 50 { // memory of the rounds before is taken again, and is not clean
		for _, rows := range [][2]int64{{0, whole.NumRows()}, {3, 9001}, {1, 2}, {7, 7}} {
			batch := whole.NewSlice(rows[0], rows[1])
			var want bytes.Buffer
			w := ipc.NewWriter(&want, ipc.WithSchema(batch.Schema()))
			require.NoError(t, w.Write(batch))
			require.NoError(t, w.Close())
			_, got, err := pypoolarrow.RecordBatch{RecordBatch: batch}.PythonPayload()
			require.NoError(t, err)
			require.True(t, bytes.Equal(want.Bytes(), got), "rows %v", rows)
			for i := range got { // the caller's own: nothing of arrow-go's is written to
				got[i] = 0xff
			}
			batch.Release()
		}
	}
}
