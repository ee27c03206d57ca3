package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type (
	fakeArray struct {
		DType string
		Shape []int
		Data  []byte
	}
	pointed struct{ Data []byte }
	valued  struct{ Data []byte }
	never   struct{ Data []byte }
	Shown   struct {
		Deep  []byte `json:"deep"`
		Level int
	}
	hidden struct {
		Inner []byte
		Same  []byte
	}
	named struct {
		Name string
		Data []byte
	}
	plain   struct{ N int }
	options struct {
		hidden
		*Shown
		named  `json:"named"`
		*plain `json:"plain"`
		A      int             `json:"a,string"`
		B      *bool           `json:"b,string,omitempty"`
		C      string          `json:"c,string"`
		D      []byte          `json:"d,omitempty"`
		E      map[string]any  `json:"e,omitempty"`
		F      any             `json:"f,omitempty"`
		G      [2]int          `json:"g,omitempty"`
		H      time.Time       `json:"h,omitzero"`
		I      hidden          `json:"i,omitzero"`
		J      *hidden         `json:"j,omitempty"`
		K      float64         `json:"<k&>"`
		L      pointed         `json:"l"`
		M      *pointed        `json:"m"`
		N      []pointed       `json:"n"`
		O      valued          `json:"o"`
		P      *valued         `json:"p"`
		Q      json.RawMessage `json:"q"`
		R      [2][]byte       `json:"r"`
		S      map[int][]byte  `json:"s"`
		T      *[]byte         `json:"t"`
		U      json.Marshaler  `json:"u"`
		V      []never         `json:"v,omitempty"`
		W      [0]never        `json:"w,omitempty"`
		X      float32         `json:"x,omitempty"`
		Y      *never          `json:"y,omitzero"`
		Hidden []byte          `json:"-"`
		Same   []byte          // less deep than hidden's
		Bytes  [3]byte         `json:"bytes"`
	}
)

func (p *pointed) MarshalJSON() ([]byte, error) { return []byte(`"pointed"`), nil }
func (v valued) MarshalJSON() ([]byte, error)   { return json.Marshal(v.PythonValue()) }
func (v valued) PythonValue() any               { return []any{v.Data, "v"} }
func (n never) IsZero() bool                    { return true }

func init() { ArrayType = reflect.TypeFor[fakeArray]() }

// whole is arguments with their payloads written back into the JSON, as encoding/json has them.
func whole(t *testing.T, line []byte, blobs []Blob) any {
	t.Helper()
	var told struct {
		Args  any
		Bytes [][]any
		Blobs []struct{ At []any }
	}
	require.NoError(t, json.Unmarshal(line, &told), "%s", line)
	require.Len(t, told.Blobs, len(blobs))
	for i, blob := range told.Blobs {
		at := told.Args
		for n, step := range blob.At {
			last := n == len(blob.At)-1
			switch step := step.(type) {
			case string:
				require.Contains(t, at, step)
				if last {
					require.Nil(t, at.(map[string]any)[step])
					at.(map[string]any)[step] = base64.StdEncoding.EncodeToString(blobs[i].Data)
				}
				at = at.(map[string]any)[step]
			case float64:
				if last {
					require.Nil(t, at.([]any)[int(step)])
					at.([]any)[int(step)] = base64.StdEncoding.EncodeToString(blobs[i].Data)
				}
				at = at.([]any)[int(step)]
			}
		}
	}
	return told.Args
}

// What leads to payloads is encoded as encoding/json does: with the payloads in it, the JSON is the
// same, whatever is in what.
func TestPayloadsAmongAllThatJSONHas(t *testing.T) {
	random := rand.New(rand.NewPCG(20261127, 1))
	data := func() []byte {
		switch random.IntN(5) {
		case 0:
			return nil
		case 1:
			return []byte{}
		}
		return bytes.Repeat([]byte{byte(random.Uint32())}, random.IntN(40))
	}
	var anything func(depth int) any
	anything = func(depth int) any {
		switch n := random.IntN(14); {
		case depth == 0 || n < 3:
			return data()
		case n < 5:
			list := make([]any, random.IntN(4))
			for i := range list {
				list[i] = anything(depth - 1)
			}
			return list
		case n < 7:
			return map[string]any{"a\"<\u2028é": anything(depth - 1), "": anything(depth - 1)}
		case n == 7:
			x := data()
			return &x
		case n == 8:
			return map[int8]any{-3: anything(depth - 1), 4: data()}
		case n == 9:
			yes := true
			o := options{hidden: hidden{data(), data()}, named: named{"n", data()}, A: random.IntN(5), C: "<\"x", D: data(), K: 2.5, L: pointed{data()}, N: []pointed{{data()}}, O: valued{data()}, Q: json.RawMessage(`[1, 2]`),
				R: [2][]byte{data(), data()}, S: map[int][]byte{1: data()}, U: valued{data()}, Same: data(), F: anything(depth - 1), H: time.Unix(int64(random.IntN(2)), 0).UTC()}
			if random.IntN(2) == 0 {
				x := data()
				o.Shown, o.plain, o.B, o.J, o.M, o.P, o.T, o.V, o.Y = &Shown{data(), 1}, &plain{3}, &yes, &hidden{}, &pointed{data()}, &valued{data()}, &x, []never{{data()}}, &never{data()}
			}
			if random.IntN(2) == 0 {
				return o
			}
			return &o
		case n == 10:
			return [][]byte{data(), data()}
		case n == 11:
			return []valued{{data()}}
		case n == 12:
			return []any{1.5, "text", nil, true, json.Number("12"), []string{"x"}, map[string]int{"z": 1}}
		}
		return struct{ X any }{anything(depth - 1)}
	}
	payloads := 0
	for range 3000 {
		args := []any{anything(4), bytes.Repeat([]byte{1}, 20)}
		defer SetMinBlob(SetMinBlob([]int{0, 20, 1 << 30}[random.IntN(3)]))
		b, blobs, _, err := AppendArgs([]byte(`{"args":`), args)
		require.NoError(t, err)
		payloads += len(blobs)
		plain, err := encodeValue(nil, args, "args")
		require.NoError(t, err)
		var want any
		require.NoError(t, json.Unmarshal(plain, &want))
		require.Equal(t, want, whole(t, append(b, '}'), blobs), "%s", plain)
	}
	require.Greater(t, payloads, 1000)
}

func TestWhatAPayloadsNeighbourCannotBe(t *testing.T) {
	cycle := map[string]any{"x": make([]byte, 5000)}
	cycle["c"] = cycle
	for want, args := range map[string]any{
		"cycle":                          cycle,
		"unsupported type":               map[string]any{"a": make([]byte, 5000), "b": make(chan int)},
		`the string at args["b"] is not`: map[string]any{"a": make([]byte, 5000), "b": "\xff"},
		`args["` + "\xff":                map[string]any{"\xff": make([]byte, 5000)},
		"not valid UTF-8":                map[string]any{"a": make([]byte, 5000), "b": json.RawMessage("\"\xff\"")},
		"object, array or null":          make([]byte, 5000),
		"[]uint8 does not":               Program{ID: "p", Source: make([]byte, 5000)},
		"unsupported value":              []any{make([]byte, 5000), math.NaN()},
		"the array at args.a: int8 ": struct {
			A fakeArray `json:"a"`
		}{fakeArray{"int8", []int{2}, []byte{1}}},
	} {
		_, _, _, err := AppendArgs(nil, args)
		if want == `args["`+"\xff" {
			want = "not valid UTF-8"
		}
		require.ErrorContains(t, err, want)
	}
	_, blobs, _, err := AppendArgs(nil, Program{ID: "p<", Source: map[string]any{"d": make([]byte, 5000)}})
	require.NoError(t, err)
	require.Len(t, blobs, 1)
	b, _, plain, err := AppendArgs(nil, Program{ID: "p", Source: []any{0, math.Copysign(0, -1)}})
	require.NoError(t, err)
	require.True(t, plain)
	require.Equal(t, `{"program_id":"p","inputs":[0,-0.0]}`, string(b))
}

// Descriptors that are out of range, overlap, stand where no null is, or are of another size than
// their payload, are refused.
func TestDescriptorsOfResults(t *testing.T) {
	for _, tc := range []struct {
		line  string
		data  []int
		wrong string
	}{
		{`{"id":1,"success":true,"result":[null,{"a":null}],"blobs":[{"at":1},{"at":11,"dtype":"int8","shape":[2]}]}`, []int{3, 2}, ""},
		{`{"id":1,"item":null,"blobs":[{"at":0}]}`, []int{0}, ""},
		{`{"id":1,"item":null,"blobs":[]}`, nil, ""},
		{`{"id":1,"host":2,"function":"f","args":[null],"blobs":[{"at":1,"kind":"k"}]}`, []int{7}, ""},
		{`{"blobs":[{"at":0}],"item":null,"id":1}`, []int{1}, ""},
		{`{"id":1,"item":null}`, []int{1}, "1 payloads came"},
		{`{"id":1,"item":null,"blobs":[{"at":0}]}`, nil, "0 payloads came"},
		{`{"id":1,"item":[null,null],"blobs":[{"at":1},{"at":1}]}`, []int{1, 1}, "where no null is"},
		{`{"id":1,"item":[null,null],"blobs":[{"at":6},{"at":1}]}`, []int{1, 1}, "where no null is"},
		{`{"id":1,"item":[null],"blobs":[{"at":2}]}`, []int{1}, "where no null is"},
		{`{"id":1,"item":["null"],"blobs":[{"at":2}]}`, []int{1}, "where no null is"},
		{`{"id":1,"item":{"null":1},"blobs":[{"at":2}]}`, []int{1}, "where no null is"},
		{`{"id":1,"item":[1],"blobs":[{"at":1}]}`, []int{1}, "where no null is"},
		{`{"id":1,"item":[null],"blobs":[{"at":100}]}`, []int{1}, "where no null is"},
		{`{"id":1,"item":[null],"blobs":[{"at":-1}]}`, []int{1}, "where no null is"},
		{`{"id":1,"item":[null],"blobs":[{}]}`, []int{1}, "stands nowhere"},
		{`{"id":1,"item":[null],"blobs":[{"at":1.5}]}`, []int{1}, "unreadable"},
		{`{"id":1,"item":[null],"blobs":[{"at":1,"more":1}]}`, []int{1}, "unreadable"},
		{`{"id":1,"item":[null],"blobs":{"at":1}}`, []int{1}, "bad value"},
		{`{"id":1,"item":[null],"blobs":[{"at":1,"dtype":"int8","shape":[2]}]}`, []int{1}, "2 bytes, and it has 1"},
		{`{"id":1,"item":[null],"blobs":[{"at":1,"dtype":"int8","shape":[-1]}]}`, []int{1}, "negative"},
		{`{"id":1,"item":[null],"blobs":[{"at":1,"dtype":"int9","shape":[1]}]}`, []int{1}, "unknown type"},
		{`{"id":1,"item":[null],"blobs":[{"at":1,"shape":[1]}]}`, []int{1}, "two kinds"},
		{`{"id":1,"item":[null],"blobs":[{"at":1,"dtype":"int8","kind":"k","shape":[1]}]}`, []int{1}, "two kinds"},
		{`{"id":1,"success":false,"error":{"kind":"x","a":null},"blobs":[{"at":16}]}`, []int{1}, "payloads of what has none"},
		{`{"id":1,"stack":"null","blobs":[{"at":1}]}`, []int{1}, "payloads of what has none"},
		{`{"id":1,"item":[null],"blobs":[{"at":1}],"blobs":[{"at":1}]}`, []int{1}, "stands twice"},
	} {
		var f Frame
		err := Parse([]byte(tc.line), &f)
		if err == nil {
			var data [][]byte
			for _, n := range tc.data {
				data = append(data, make([]byte, n))
			}
			err = f.Attach(data)
		}
		if tc.wrong == "" {
			require.NoError(t, err, tc.line)
			continue
		}
		require.ErrorContains(t, err, tc.wrong, tc.line)
	}
	var f Frame
	require.NoError(t, Parse([]byte(`{"id":1,"item":{"a\u0041\"":[1,[null]]},"blobs":[{"at":17}]}`), &f))
	require.NoError(t, f.Attach(make([][]byte, 1)))
	require.Equal(t, []Step{{Key: "aA\""}, {Index: 1, IsIndex: true}, {Index: 0, IsIndex: true}}, f.Blobs[0].Path)
}

func TestSizesOfPayloads(t *testing.T) {
	for line, wrong := range map[string]string{
		`{"raw":[5,0,7]}`: "", `{"raw":[]}`: "malformed", `{"raw":[5`: "malformed", `{"raw":[5]`: "malformed", `{"raw":[-1]}`: "malformed", `{"raw":[05]}`: "malformed",
		`{"raw":[5,]}`: "malformed", `{"raw":[1.5]}`: "malformed", `{"raw":[90,20]}`: "more than 100", `{"raw":[18446744073709551615,18446744073709551615]}`: "malformed", `{"raw":[5]} `: "malformed",
		`{"raw":[9223372036854775807]}`: "more than 100", `{"raw":[4294967295]}`: "more than 100",
	} {
		require.True(t, IsRaw([]byte(line)))
		sizes, err := ParseRaw([]byte(line), 100)
		if wrong == "" {
			require.NoError(t, err)
			require.Equal(t, []Raw{{Size: 5}, {}, {Size: 7}}, sizes)
			require.Equal(t, line+"\n", string(rawHead([]Blob{{Data: make([]byte, 5)}, {}, {Data: make([]byte, 7)}})))
		} else {
			require.ErrorContains(t, err, wrong, line)
		}
	}
}

// manyPlaces is a line whose payloads, so many of no bytes, stand all together so deep.
func manyPlaces(payloads, depth int) []byte {
	var told []byte
	nulls := make([]byte, 0, 5*payloads)
	for range payloads {
		told = fmt.Appendf(told, `,{"at":%d}`, depth+len(nulls))
		nulls = append(nulls, "null,"...)
	}
	return fmt.Appendf(nil, `{"id":1,"item":%s%s%s,"blobs":[%s]}`, strings.Repeat("[", depth), nulls[:len(nulls)-1], strings.Repeat("]", depth), told[1:])
}

// The way to each payload is as long as it stands deep: a small line could ask for any memory.
func TestTheWaysToPayloadsAreBounded(t *testing.T) {
	attach := func(line []byte, came int) (allocated uint64, err error) {
		var f Frame
		var before, after runtime.MemStats
		require.NoError(t, Parse(line, &f))
		runtime.ReadMemStats(&before)
		err = f.Attach(make([][]byte, came))
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc, err
	}
	_, err := attach(manyPlaces(10_000, 10), 10_000)
	require.NoError(t, err, "many arrays in a result that is not deep")
	took, err := attach(manyPlaces(5000, 9000), 5000) // 1.4 GB of steps
	require.ErrorContains(t, err, "more than 4194304 steps")
	require.Less(t, took, uint64(200<<20))
	took, err = attach(manyPlaces(5000, 9000), 1)
	require.ErrorContains(t, err, "1 payloads came, and the line has places for 5000")
	require.Less(t, took, uint64(1<<20), "nothing is read of payloads that have not come")
}

// FuzzDescriptors: whatever a worker says of payloads, the host reads it, or refuses it.
func FuzzDescriptors(f *testing.F) {
	f.Add([]byte(`{"id":1,"item":[null,{"a":null}],"blobs":[{"at":1},{"at":11,"dtype":"int8","shape":[2]}]}`), 3)
	f.Add([]byte(`{"id":1,"item":null,"blobs":[{"at":0,"kind":"k"}]}`), 0)
	f.Fuzz(func(t *testing.T, line []byte, size int) {
		var frame Frame
		if Parse(line, &frame) != nil || frame.Told == nil || frame.ParseBlobs(frame.Told) != nil {
			return
		}
		data := make([][]byte, len(frame.Blobs))
		for i := range data {
			data[i] = make([]byte, min(max(size, 0), 1<<10))
		}
		last := -1
		for i := range frame.Blobs {
			blob := &frame.Blobs[i]
			if blob.At <= last || !strings.HasPrefix(string(frame.Body[blob.At:]), "null") {
				t.Fatalf("payload %d stands at %d: %s", i, blob.At, line)
			}
			last = blob.At
		}
		if frame.Attach(data) != nil {
			return
		}
		for i := range frame.Blobs {
			if out, _, err := frame.Blobs[i].Spell(nil, "null"); err != nil || !json.Valid(out) {
				t.Fatalf("%s, %v: %s", out, err, line)
			}
		}
		_ = fmt.Sprint(frame.Blobs)
	})
}

// FuzzRaw: whatever a worker says of places in memory, none that is read overlaps another, or is of
// more bytes than are allowed.
func FuzzRaw(f *testing.F) {
	for _, head := range []string{"5,[3,8192,100],0]}", "[0,0,5],[1,4096,5]]}", "[0,0,5],[1,4,5]]}", "[0,0,5],[0,4096,5]]}", "[191,2147483647,9]]}", "[-1,0,5]]}", "[0,0", "[[0,0,5]]]}", "[0,0,99999999999999999999]]}"} {
		f.Add([]byte(head))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		const most = 1 << 20
		raws, err := ParseRaw(append([]byte(rawKey), head...), most)
		if err != nil {
			return
		}
		total := 0
		slots, taken := map[int]bool{}, map[int]bool{}
		for _, raw := range raws {
			if total += raw.Size; raw.Size < 0 || raw.At < 0 || raw.Slot < 0 || total > most {
				t.Fatalf("%+v", raws)
			}
			if !raw.Lent {
				continue
			}
			if slots[raw.Slot] {
				t.Fatalf("a slot twice: %+v", raws)
			}
			slots[raw.Slot] = true
			for at := raw.At; at < raw.At+raw.Size; at++ {
				if taken[at] {
					t.Fatalf("byte %d twice: %+v", at, raws)
				}
				taken[at] = true
			}
		}
	})
}

// What is nested deeper than encoding/json reads is refused: it would follow it to the end of the
// stack, which ends the process.
func TestWhatIsNestedAMillionDeepIsRefused(t *testing.T) {
	t.Parallel()
	type node struct{ Next *node }
	var slices, maps any = 1, 1
	var list *node
	for range 1_000_000 {
		slices, maps, list = []any{slices}, map[string]any{"a": maps}, &node{list}
	}
	for name, v := range map[string]any{"slices": slices, "maps": maps, "structs": list} {
		_, _, _, err := AppendArgs(nil, []any{v})
		require.ErrorContains(t, err, "nested more than 10000 deep", name)
	}
}

func rawHead(blobs []Blob) []byte {
	b, _ := AppendRaw(nil, blobs, nil)
	return b[:bytes.IndexByte(b, '\n')+1]
}
