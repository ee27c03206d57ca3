package pypoolarrow

import (
	"errors"
	"fmt"

	flatbuffers "github.com/google/flatbuffers/go"
)

// A message's metadata is a flatbuffer, of whose vectors arrow-go believes how long they are: one
// that lies would have it ask for terabytes, which ends the process. So that is looked at before.

// Kinds of messages, and where things stand in tables, by Arrow's Message.fbs and Schema.fbs.
const (
	headerSchema     = 1
	headerDictionary = 2
	headerBatch      = 3

	slotHeaderType = 6
	slotHeader     = 8
	slotFields     = 6  // of a Schema
	slotSchemaMeta = 8  // of a Schema
	slotType       = 8  // of a Field
	slotDictionary = 12 // of a Field
	slotChildren   = 14 // of a Field
	slotFieldMeta  = 16 // of a Field
	slotID         = 4  // of a DictionaryEncoding, and of a DictionaryBatch
	slotData       = 6  // of a DictionaryBatch
	slotVariadic   = 12 // of a RecordBatch

	typeBinaryView = 23
	typeUtf8View   = 24
)

var errMetadata = errors.New("the Arrow stream's metadata is malformed")

// metadata is what a stream's messages claim.
type metadata struct {
	left  int           // what may still be visited of a schema: what is more has one thing in many places
	views int           // columns of views in a batch
	inIDs map[int64]int // those in dictionaries, by their ids
}

// check refuses a message that claims to be more than it is. Offsets that lead out of it panic,
// here as there.
func (m *metadata) check(meta []byte) error {
	message := flatbuffers.Table{Bytes: meta, Pos: flatbuffers.GetUOffsetT(meta)}
	kind := message.GetByteSlot(slotHeaderType, 0)
	header, ok := tableAt(message, slotHeader)
	if !ok {
		return errMetadata
	}
	switch kind {
	case headerSchema:
		m.left, m.views, m.inIDs = len(meta), 0, map[int64]int{}
		if _, err := m.count(header, slotSchemaMeta); err != nil {
			return err
		}
		return m.fields(header, slotFields, &m.views, 0)
	case headerDictionary:
		id := header.GetInt64Slot(slotID, 0)
		if header, ok = tableAt(header, slotData); !ok {
			return errMetadata
		}
		return checkVariadic(header, m.inIDs[id])
	case headerBatch:
		return checkVariadic(header, m.views)
	}
	return nil
}

// tableAt is the table in a slot of another one.
func tableAt(t flatbuffers.Table, slot flatbuffers.VOffsetT) (found flatbuffers.Table, ok bool) {
	at := flatbuffers.UOffsetT(t.Offset(slot))
	if at == 0 {
		return found, false
	}
	t.Union(&found, at)
	return found, true
}

// count is the length of a slot's vector of tables, which are four bytes at least each.
func (m *metadata) count(t flatbuffers.Table, slot flatbuffers.VOffsetT) (n int, err error) {
	at := flatbuffers.UOffsetT(t.Offset(slot))
	if at == 0 {
		return 0, nil
	}
	n = t.VectorLen(at)
	if n < 0 || n > m.left/4 {
		return 0, fmt.Errorf("%w: a list of %d", errMetadata, n)
	}
	m.left -= 4 * n
	return n, nil
}

// deepest is how many fields may be within each other: as many as arrow-go reads of a batch. A field
// within itself would end the process, too, by its stack.
const deepest = 64

// fields goes through the fields in a slot, and counts those of views.
func (m *metadata) fields(t flatbuffers.Table, slot flatbuffers.VOffsetT, views *int, depth int) error {
	n, err := m.count(t, slot)
	switch {
	case err != nil:
		return err
	case n > 0 && depth == deepest:
		return fmt.Errorf("%w: fields within fields, more than %d", errMetadata, deepest)
	}
	for i := range n {
		at := t.Vector(flatbuffers.UOffsetT(t.Offset(slot))) + flatbuffers.UOffsetT(4*i)
		field := flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(at)}
		if _, err := m.count(field, slotFieldMeta); err != nil {
			return err
		}
		inside := views
		dictionary, encoded := tableAt(field, slotDictionary)
		if encoded {
			inside = new(int)
		}
		if typ := field.GetByteSlot(slotType, 0); typ == typeBinaryView || typ == typeUtf8View {
			*inside++
		}
		if err := m.fields(field, slotChildren, inside, depth+1); err != nil {
			return err
		}
		if encoded {
			id := dictionary.GetInt64Slot(slotID, 0)
			m.inIDs[id] = max(m.inIDs[id], *inside)
		}
	}
	return nil
}

// checkVariadic looks at how many buffers columns of views say that they have, so many columns.
func checkVariadic(batch flatbuffers.Table, views int) error {
	at := flatbuffers.UOffsetT(batch.Offset(slotVariadic))
	if at == 0 {
		return nil // each has none
	}
	if batch.VectorLen(at) < views {
		return errMetadata
	}
	for i := range views {
		if n := batch.GetInt64(batch.Vector(at) + flatbuffers.UOffsetT(8*i)); n < 0 || n > int64(len(batch.Bytes)) {
			return fmt.Errorf("%w: %d buffers of one column", errMetadata, n)
		}
	}
	return nil
}
