package pypoolarrow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/pypool/pypool"
)

// Kinds of payloads, as Python knows them.
const (
	kindTable = "arrow.Table"
	kindBatch = "arrow.RecordBatch"
)

// Table is a table, as an argument of a call or a part of one, and where a result has one. Its zero
// value, without a table, cannot be sent: a nil *Table is Python's None. None in the place of a
// Table in a result leaves it without one; a *Table is nil then.
//
// A chunk of it is a batch in Python, and the other way round.
type Table struct{ arrow.Table }

// RecordBatch is a batch of rows, otherwise as [Table]. It takes a table of several batches, too,
// which are put together then.
type RecordBatch struct{ arrow.RecordBatch }

var (
	_ pypool.PayloadPieces = Table{}
	_ pypool.PayloadPieces = RecordBatch{}
	_ pypool.PayloadSetter = (*Table)(nil)
	_ pypool.PayloadSetter = (*RecordBatch)(nil)
)

// Call calls a command that returns a table; it is otherwise [pypool.Call]. What is no table is an
// ErrDecode; the command has run.
func Call(ctx context.Context, c pypool.Caller, command string, args any, opts ...pypool.CallOption) (arrow.Table, error) {
	found, err := pypool.Call[Table](ctx, c, command, args, opts...)
	return found.Table, err
}

// Each calls a generator command that yields tables, and gives their batches one by one, as they
// come; it is otherwise [pypool.Each]. A table of several batches is as many, and one without rows
// is one without rows. A command that is no generator gives the batches of its table.
func Each(ctx context.Context, c pypool.Caller, command string, args any, opts ...pypool.CallOption) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		for found, err := range pypool.Each[batches](ctx, c, command, args, opts...) {
			if err != nil {
				yield(nil, err)
				return
			}
			for _, batch := range found.list {
				if !yield(batch, nil) {
					return
				}
			}
		}
	}
}

// PythonPayload is for [pypool.Payload].
func (t Table) PythonPayload() (kind string, data []byte, err error) {
	kind, pieces, err := t.PythonPayloadPieces()
	return kind, bytes.Join(pieces, nil), err
}

// PythonPayloadPieces is for [pypool.PayloadPieces].
func (t Table) PythonPayloadPieces() (kind string, pieces [][]byte, err error) {
	if t.Table == nil {
		return "", nil, errors.New("it has no table; a nil pointer to one is None")
	}
	pieces, err = written(t.Schema(), func(add func(arrow.ArrayData)) {
		for i := range int(t.NumCols()) {
			for _, chunk := range t.Column(i).Data().Chunks() {
				add(chunk.Data())
			}
		}
	}, func(w *ipc.Writer) error {
		r := array.NewTableReader(t.Table, 0)
		defer r.Release()
		for r.Next() {
			if err := w.Write(r.RecordBatch()); err != nil {
				return err
			}
		}
		return r.Err()
	})
	return kindTable, pieces, err
}

// SetPythonPayload is for [pypool.PayloadSetter].
func (t *Table) SetPythonPayload(kind string, data []byte) error {
	schema, found, err := taken(kind, data)
	if err != nil {
		return err
	}
	t.Table = array.NewTableFromRecords(schema, found)
	return nil
}

// UnmarshalJSON is for what is no table.
func (t *Table) UnmarshalJSON(text []byte) error { return notTable(text) }

// PythonPayload is for [pypool.Payload].
func (b RecordBatch) PythonPayload() (kind string, data []byte, err error) {
	kind, pieces, err := b.PythonPayloadPieces()
	return kind, bytes.Join(pieces, nil), err
}

// PythonPayloadPieces is for [pypool.PayloadPieces].
func (b RecordBatch) PythonPayloadPieces() (kind string, pieces [][]byte, err error) {
	if b.RecordBatch == nil {
		return "", nil, errors.New("it has no batch; a nil pointer to one is None")
	}
	pieces, err = written(b.Schema(), func(add func(arrow.ArrayData)) {
		for _, column := range b.Columns() {
			add(column.Data())
		}
	}, func(w *ipc.Writer) error { return w.Write(b.RecordBatch) })
	return kindBatch, pieces, err
}

// SetPythonPayload is for [pypool.PayloadSetter].
func (b *RecordBatch) SetPythonPayload(kind string, data []byte) error {
	schema, found, err := taken(kind, data)
	if err != nil {
		return err
	}
	b.RecordBatch, err = joined(schema, found, len(data))
	return err
}

// UnmarshalJSON is for what is no table.
func (b *RecordBatch) UnmarshalJSON(text []byte) error { return notTable(text) }

// batches are an item of a stream: one at least.
type batches struct{ list []arrow.RecordBatch }

// SetPythonPayload is for [pypool.PayloadSetter].
func (b *batches) SetPythonPayload(kind string, data []byte) error {
	schema, found, err := taken(kind, data)
	if len(found) == 0 && err == nil {
		var none arrow.RecordBatch
		none, err = joined(schema, nil, len(data))
		found = []arrow.RecordBatch{none}
	}
	b.list = found
	return err
}

// UnmarshalJSON is for what is no table.
func (b *batches) UnmarshalJSON(text []byte) error { return notTable(text) }

// taken is what came as a payload.
func taken(kind string, data []byte) (*arrow.Schema, []arrow.RecordBatch, error) {
	switch kind {
	case kindTable, kindBatch:
		return read(data)
	case "":
		return nil, nil, errors.New("bytes or an array came, which are no table: " + advice)
	}
	return nil, nil, fmt.Errorf("a payload of the kind %.40q came, which is no table", kind)
}

const advice = "return a Table or RecordBatch of pyarrow, or a DataFrame of pandas or polars"

// notTable is the error of a result that came as JSON. A null stands where there is a payload, too.
func notTable(text []byte) error {
	if bytes.Equal(text, []byte("null")) {
		return nil
	}
	what := "a number or a boolean"
	switch text[0] {
	case '{':
		what = "an object"
	case '[':
		what = "a list"
	case '"':
		what = "text"
	}
	return fmt.Errorf("%s came, which is no table: %s", what, advice)
}

// roomJoined is how many bytes batches of a few bytes may take when they are put together: arrow-go
// gives a dense union of no rows children of one.
const roomJoined = 1 << 20

// joined puts batches of a stream of so many bytes together, one without rows where there are none.
// What is valid by itself may still be a lie together with others, or of a type that arrow-go
// panics upon.
func joined(schema *arrow.Schema, found []arrow.RecordBatch, size int) (batch arrow.RecordBatch, err error) {
	if len(found) == 1 {
		return found[0], nil
	}
	defer func() {
		if r := recover(); r != nil {
			batch, err = nil, fmt.Errorf("its batches cannot be put together, take a Table: %v", r)
		}
	}()
	allocator := &bounded{left: 8*size + roomJoined}
	rows := int64(0)
	for _, batch := range found {
		rows += batch.NumRows()
	}
	columns := make([]arrow.Array, schema.NumFields())
	for i := range columns {
		if len(found) == 0 {
			columns[i] = array.MakeArrayOfNull(allocator, schema.Field(i).Type, 0)
			if err := array.ValidateFull(array.MakeFromData(withBuffers(columns[i].Data()))); err != nil {
				return nil, fmt.Errorf("the column %q is malformed: %w", schema.Field(i).Name, err)
			}
			continue
		}
		parts := make([]arrow.Array, len(found))
		for j, batch := range found {
			parts[j] = batch.Column(i)
		}
		if columns[i], err = array.Concatenate(parts, allocator); err != nil {
			return nil, fmt.Errorf("its batches cannot be put together, take a Table: %w", err)
		}
	}
	return array.NewRecordBatch(schema, columns, rows), nil
}
