package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
)

// ParseBlobs reads the key `blobs` of a frame, and finds the places in its body.
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
	p := placer{scanner: scanner{b: f.Body}, blobs: f.Blobs, room: maxSteps}
	p.place()
	if p.room < 0 {
		return fmt.Errorf("payloads with more than %d steps to their places", maxSteps)
	}
	if p.next < len(f.Blobs) {
		return fmt.Errorf("payload %d stands where no null is, at byte %d", p.next, f.Blobs[p.next].At)
	}
	return nil
}

// maxSteps is how many steps the ways to one line's payloads may have, together: a way is as long as
// its place is deep, which costs the line nothing for another payload in the same place. As many
// payloads as a line may have find room four deep; a step is 32 bytes, so all are 128 MiB at most.
const maxSteps = 4 * maxBlobs

// placer finds the ways to the payloads' places in valid JSON.
type placer struct {
	scanner
	blobs []Blob
	next  int
	path  []Step
	room  int // for so many steps more; negative: there was not enough
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
			if p.room -= len(p.path); p.room < 0 {
				p.blobs = p.blobs[:p.next] // the rest is of no interest
				return
			}
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

// Attach gives a frame the payloads that came before it. What is told of others is not even read.
func (f *Frame) Attach(data [][]byte) error {
	if told := countItems(f.Told); told != len(data) {
		return fmt.Errorf("%d payloads came, and the line has places for %d", len(data), told)
	}
	if err := f.ParseBlobs(f.Told); err != nil {
		return err
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

// countItems is how many items there are in an array, of valid JSON; 0 for anything else.
func countItems(array []byte) (n int) {
	s := scanner{b: array}
	if !s.byte('[') || s.byte(']') {
		return 0
	}
	for more := true; more; more = s.byte(',') {
		if !s.value(0) {
			return 0
		}
		n++
	}
	return n
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
