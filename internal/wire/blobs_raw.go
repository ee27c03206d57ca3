package wire

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
)

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
