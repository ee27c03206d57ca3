package wire

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"
)

// random writes JSON of random shape, and says where nulls in it stand for payloads.
type random struct {
	*rand.Rand
	b      []byte
	path   []Step
	places []Blob
	looks  []string // keys that other objects may have as well
}

func (r *random) space() {
	if r.Intn(4) == 0 {
		r.b = append(r.b, " \n\t "[:r.Intn(4)]...)
	}
}

func (r *random) value(depth int) {
	r.space()
	defer r.space()
	kind := r.Intn(10)
	if depth > 5 {
		kind = 4 + r.Intn(6)
	}
	switch kind {
	case 0, 1:
		r.list('{', '}', depth, func(int) Step {
			key := r.looks[r.Intn(len(r.looks))]
			quoted, _ := json.Marshal(key)
			r.b = append(append(r.b, quoted...), ':')
			return Step{Key: key}
		})
	case 2, 3:
		r.list('[', ']', depth, func(i int) Step { return Step{Index: i, IsIndex: true} })
	case 4, 5, 6:
		r.places = append(r.places, Blob{At: len(r.b), Path: append([]Step{}, r.path...)})
		r.b = append(r.b, "null"...)
	default:
		r.b = append(r.b, []string{`{}`, `[]`, `{ }`, `[ ]`, `null`, `""`, `"{[,:]}null"`, `"\"}"`, `-1.5e3`, `true`}[r.Intn(10)]...)
	}
}

func (r *random) list(open, end byte, depth int, step func(int) Step) {
	r.b = append(r.b, open)
	r.space()
	for i := range r.Intn(4) {
		if i > 0 {
			r.b = append(r.b, ',')
			r.space()
		}
		r.path = append(r.path, step(i))
		r.value(depth + 1)
		r.path = r.path[:len(r.path)-1]
	}
	r.b = append(r.b, end)
}

// A payload is where its place says, whatever stands around it.
func TestPlacesInJSONOfEveryShape(t *testing.T) {
	for seed := range int64(20_000) {
		r := &random{Rand: rand.New(rand.NewSource(seed)), looks: []string{"a", "b", "image", "é", `"`, `\`, ""}}
		r.value(0)
		require.True(t, json.Valid(r.b), "%s", r.b)
		places := "["
		for i, place := range r.places {
			places += fmt.Sprintf(`%s{"at":%d}`, ","[:min(i, 1)], place.At)
		}
		f := Frame{Body: r.b}
		require.NoError(t, f.ParseBlobs([]byte(places+"]")), "seed %d: %s", seed, r.b)
		require.Len(t, f.Blobs, len(r.places))
		for i, place := range r.places {
			require.Equal(t, fmt.Sprint(place.Path), fmt.Sprint(f.Blobs[i].Path), "seed %d: %s, payload %d", seed, r.b, i)
		}
	}
}
