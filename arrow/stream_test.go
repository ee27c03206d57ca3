package pypoolarrow

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/stretchr/testify/require"
)

// streamOf is a stream of two batches in which there is whatever has offsets, indices, views,
// children.
func streamOf(t *testing.T, opts ...ipc.Option) []byte {
	t.Helper()
	types := []arrow.DataType{
		arrow.PrimitiveTypes.Int64, arrow.BinaryTypes.String, arrow.BinaryTypes.LargeBinary, arrow.BinaryTypes.StringView, arrow.ListOf(arrow.BinaryTypes.String),
		&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}, arrow.Null, arrow.ListOf(arrow.Null),
		arrow.StructOf(arrow.Field{Name: "a", Type: arrow.LargeListOf(arrow.PrimitiveTypes.Int16), Nullable: true}), arrow.FixedSizeListOf(2, arrow.FixedWidthTypes.Boolean),
		arrow.MapOf(arrow.BinaryTypes.String, arrow.PrimitiveTypes.Float64), &arrow.Decimal128Type{Precision: 10, Scale: 2}, arrow.FixedWidthTypes.Timestamp_ns,
	}
	values := []string{
		`[1,null]`, `["ab","c"]`, `["YQ==",null]`, `["a text of more than twelve bytes",null]`, `[["a","b"],null]`, `["x","y"]`, `[null,null]`, `[[null],[]]`, `[{"a":[1]},null]`, `[[true,null],null]`,
		`[[{"key":"k","value":1}],null]`, `["1.25",null]`, `["2026-01-02T03:04:05Z",null]`,
	}
	var fields []arrow.Field
	var columns []arrow.Array
	for i, typ := range types {
		column, _, err := array.FromJSON(memory.DefaultAllocator, typ, strings.NewReader(values[i]))
		require.NoError(t, err, typ)
		fields = append(fields, arrow.Field{Name: string(rune('a' + i)), Type: typ, Nullable: true})
		columns = append(columns, column)
	}
	schema := arrow.NewSchema(fields, nil)
	batch := array.NewRecordBatch(schema, columns, 2)
	var out strings.Builder
	w := ipc.NewWriter(&out, append(opts, ipc.WithSchema(schema))...)
	require.NoError(t, w.Write(batch))
	require.NoError(t, w.Write(batch.NewSlice(1, 2)))
	require.NoError(t, w.Close())
	return []byte(out.String())
}

// use looks at each value.
func use(batches []arrow.RecordBatch) (rows int64) {
	for _, batch := range batches {
		for _, column := range batch.Columns() {
			for i := range min(column.Len(), 1000) { // nulls alone may be any number
				_ = column.ValueStr(i)
			}
		}
		rows += batch.NumRows()
	}
	return rows
}

func TestEveryTornStreamIsAnError(t *testing.T) {
	data := streamOf(t)
	_, batches, err := read(data)
	require.NoError(t, err)
	require.EqualValues(t, 3, use(batches))
	for size := range len(data) {
		_, _, err := read(data[:size])
		require.Error(t, err, "%d of %d bytes", size, len(data))
	}
	_, _, err = read(append(data, 0))
	require.ErrorContains(t, err, "1 bytes follow the end")
	misplaced := append([]byte{1}, data...)[1:]
	_, batches, err = read(misplaced)
	require.NoError(t, err)
	require.EqualValues(t, 3, use(batches))
}

// Whatever is wrong with a stream is an error when it is read, or harmless.
func TestNoStreamPanics(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	data := streamOf(t)
	refused := 0
	for round := range 3000 {
		bad := append([]byte(nil), data...)
		for range 1 + r.IntN(3) {
			at := r.IntN(len(bad))
			switch r.IntN(3) {
			case 0:
				bad[at] ^= 1 << r.IntN(8)
			case 1:
				bad[at] = byte(r.Uint32())
			default:
				if at+4 <= len(bad) {
					binary.LittleEndian.PutUint32(bad[at:], []uint32{0, 1, 0x7fffffff, 0xffffffff}[r.IntN(4)])
				}
			}
		}
		func() {
			defer func() {
				if p := recover(); p != nil {
					t.Fatalf("round %d: %v\n%s", round, p, debug.Stack())
				}
			}()
			if _, batches, err := read(bad); err != nil {
				refused++
			} else {
				use(batches)
			}
		}()
	}
	require.Greater(t, refused, 300)
}

func TestCompressedStreams(t *testing.T) {
	for _, how := range []ipc.Option{ipc.WithLZ4(), ipc.WithZstd()} {
		data := streamOf(t, how)
		_, batches, err := read(data)
		require.NoError(t, err)
		require.EqualValues(t, 3, use(batches))
	}
	b := bounded{left: 100}
	require.Len(t, b.Allocate(60), 60)
	require.Panics(t, func() { b.Allocate(1 << 40) })
}

func TestMessagesEnd(t *testing.T) {
	_, err := (&messages{data: []byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}}).Message()
	require.Equal(t, io.EOF, err)
}
