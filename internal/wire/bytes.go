package wire

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

// Where []byte stands in a call's arguments. encoding/json writes one as base64 text, which nothing
// tells from a string, so the request names the places (docs/protocol.md, `bytes`) and Python's
// handlers get bytes.

// Valuer is a value that encodes as another one, as pypool.Valuer says.
type Valuer interface {
	json.Marshaler
	PythonValue() any
}

// Program is the arguments of a program's call.
type Program struct {
	ID     string
	Source any // its inputs
}

var (
	marshalerType     = reflect.TypeFor[json.Marshaler]()
	textMarshalerType = reflect.TypeFor[encoding.TextMarshaler]()
	valuerType        = reflect.TypeFor[Valuer]()

	holdsBytes    sync.Map // reflect.Type -> bool: a value of the type may have []byte in it
	bytesMembers  sync.Map // reflect.Type of a struct -> []bytesMember
	structMembers sync.Map // reflect.Type of a struct -> []bytesMember
	members       sync.Map // reflect.Type of a struct -> []Member
	memberNames   sync.Map // reflect.Type of a struct -> []string
)

// mayHaveBytes reports whether it takes a search to tell.
func mayHaveBytes(v any) bool { return mayHaveBytesIn(v, 0) }

// mayHaveBytesIn looks at what has not been encoded yet, and may contain itself: the search knows
// what to do with that.
func mayHaveBytesIn(v any, depth int) bool {
	switch v := v.(type) {
	case nil, string, bool, int, int64, float64, json.RawMessage, json.Number:
		return false
	case map[string]any:
		for _, item := range v {
			if depth > maxNesting || mayHaveBytesIn(item, depth+1) {
				return true
			}
		}
		return false
	case []any:
		for _, item := range v {
			if depth > maxNesting || mayHaveBytesIn(item, depth+1) {
				return true
			}
		}
		return false
	}
	return mayHoldBytes(reflect.TypeOf(v))
}

// bytesStep is a key of an object, or an index of an array (key is empty then, and isIndex set).
type bytesStep struct {
	key     string
	index   int
	isIndex bool
}

// bytesFinder looks for what is bytes in a value. out is the request's key `bytes`, without its end;
// empty where there are none.
type bytesFinder struct {
	out   []byte
	path  []bytesStep
	large bool // there are payloads, too, or bytes that are not to be written as text
	deep  bool // it is nested too deeply, or contains itself
	err   error
	what  string // the value's name in errors
	root  int    // steps of the path that lead to the value
	depth int

	smallest int // bytes that are no text
}

// found takes in bytes that stand in the line as text.
func (f *bytesFinder) found() {
	if len(f.out) == 0 {
		f.out = append(f.out, `,"bytes":[`...)
	} else {
		f.out = append(f.out, ',')
	}
	f.out = f.appendPath(f.out)
}

func (f *bytesFinder) foundBytes(size int) {
	if size >= f.smallest {
		f.large = true
	} else {
		f.found()
	}
}

var errTooDeep = fmt.Errorf("it is nested more than %d deep, or contains itself in a cycle", maxNesting)

// appendPath appends the way to the place in hand.
func (f *bytesFinder) appendPath(b []byte) []byte {
	b = append(b, '[')
	for i, s := range f.path {
		if i > 0 {
			b = append(b, ',')
		}
		if s.isIndex {
			b = strconv.AppendInt(b, int64(s.index), 10)
		} else {
			b = appendString(b, s.key)
		}
	}
	return append(b, ']')
}

// where is the place in hand, as an error names it.
func (f *bytesFinder) where() string {
	text := f.what
	for _, s := range f.path[f.root:] {
		if s.isIndex {
			text += fmt.Sprintf("[%d]", s.index)
		} else {
			text += "." + s.key
		}
	}
	return text
}

// any looks into an interface's value; what most arguments are made of is told apart without
// reflection.
func (f *bytesFinder) any(v any) {
	if f.depth++; f.depth > maxNesting {
		f.deep = true
	}
	defer func() { f.depth-- }()
	if f.deep {
		return
	}
	switch v := v.(type) {
	case nil, string, bool, int, int64, float64, json.RawMessage, json.Number:
	case []byte:
		if v != nil {
			f.foundBytes(len(v))
		}
	case map[string]any:
		for key, item := range v {
			f.path = append(f.path, bytesStep{key: key})
			f.any(item)
			f.path = f.path[:len(f.path)-1]
		}
	case []any:
		for i, item := range v {
			f.path = append(f.path, bytesStep{index: i, isIndex: true})
			f.any(item)
			f.path = f.path[:len(f.path)-1]
		}
	default:
		f.value(reflect.ValueOf(v))
	}
}

// value looks into v as encoding/json would encode it.
func (f *bytesFinder) value(v reflect.Value) {
	t := v.Type()
	if f.deep || !mayHoldBytes(t) {
		return
	}
	if f.depth++; f.depth > maxNesting {
		f.deep = true
	}
	defer func() { f.depth-- }()
	kind := v.Kind()
	if (kind == reflect.Pointer || kind == reflect.Interface || kind == reflect.Map || kind == reflect.Slice) && v.IsNil() {
		return
	}
	switch {
	case kind == reflect.Interface:
		f.value(v.Elem())
		return
	case t == ArrayType, t.Implements(payloadType), kind != reflect.Pointer && v.CanAddr() && reflect.PointerTo(t).Implements(payloadType):
		f.large = true
		return
	case t.Implements(valuerType):
		f.any(v.Interface().(Valuer).PythonValue())
		return
	case kind != reflect.Pointer && v.CanAddr() && reflect.PointerTo(t).Implements(valuerType):
		f.any(v.Addr().Interface().(Valuer).PythonValue())
		return
	case marshalsItself(t), kind != reflect.Pointer && v.CanAddr() && marshalsItself(reflect.PointerTo(t)):
		return
	}
	switch kind {
	case reflect.Pointer:
		f.value(v.Elem())
	case reflect.Slice, reflect.Array:
		if IsBytes(t) {
			f.foundBytes(v.Len())
			return
		}
		for i := range v.Len() {
			f.path = append(f.path, bytesStep{index: i, isIndex: true})
			f.value(v.Index(i))
			f.path = f.path[:len(f.path)-1]
		}
	case reflect.Map:
		var seen map[string]bool
		if mayClash(t.Key()) {
			seen = map[string]bool{}
		}
		for it := v.MapRange(); it.Next(); {
			key, ok := keyText(it.Key())
			if !ok {
				continue
			}
			if seen[key] && f.err == nil {
				f.err = fmt.Errorf("two keys of the %s at %s are %q as text", t, f.where(), key)
			}
			if seen != nil {
				seen[key] = true
			}
			f.path = append(f.path, bytesStep{key: key})
			f.value(it.Value())
			f.path = f.path[:len(f.path)-1]
		}
	case reflect.Struct:
		for _, member := range bytesMembersOf(t) {
			if at, ok := memberOf(v, member.index); ok && !member.omits(at) {
				f.path = append(f.path, bytesStep{key: member.name})
				f.value(at)
				f.path = f.path[:len(f.path)-1]
			}
		}
	}
}

// mayClash reports whether two keys of the type may be the same text: Python would have the last of
// them alone.
func mayClash(key reflect.Type) bool {
	return key.Kind() != reflect.String && key.Implements(textMarshalerType)
}

// memberOf follows the index, and reports whether no nil pointer is on the way.
func memberOf(v reflect.Value, index []int) (reflect.Value, bool) {
	for i, n := range index {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return v, false
			}
			v = v.Elem()
		}
		v = v.Field(n)
	}
	return v, true
}

// keyText is a map's key as encoding/json writes it.
func keyText(key reflect.Value) (string, bool) {
	switch {
	case key.Kind() == reflect.String:
		return key.String(), true
	case key.Type().Implements(textMarshalerType):
		if key.Kind() == reflect.Pointer && key.IsNil() {
			return "", true
		}
		text, err := key.Interface().(encoding.TextMarshaler).MarshalText()
		return string(text), err == nil
	case key.CanInt():
		return strconv.FormatInt(key.Int(), 10), true
	case key.CanUint():
		return strconv.FormatUint(key.Uint(), 10), true
	}
	return "", false
}

func marshalsItself(t reflect.Type) bool {
	return t.Implements(marshalerType) || t.Implements(textMarshalerType)
}

// IsBytes reports whether encoding/json writes the type as base64 text.
func IsBytes(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 && !marshalsItself(reflect.PointerTo(t.Elem()))
}

// IsOne reports whether a value of the type is bytes, an array, or another payload.
func IsOne(t reflect.Type) bool {
	return IsBytes(t) || t == ArrayType || t.Implements(payloadType)
}

// mayHoldBytes reports whether a value of the type may have []byte in it, or is to be searched for
// another reason, which reachesBytes has: an answer is computed once for each type.
func mayHoldBytes(t reflect.Type) bool {
	if known, ok := holdsBytes.Load(t); ok {
		return known.(bool)
	}
	holds := reachesBytes(t, map[reflect.Type]bool{})
	holdsBytes.Store(t, holds)
	return holds
}

// reachesBytes says yes for a type that leads to itself, too: its values may be of any depth, and the
// search is what sees that. seen has the types that were begun, with true for those not ended.
func reachesBytes(t reflect.Type, seen map[reflect.Type]bool) bool {
	if open, begun := seen[t]; begun {
		return open
	}
	seen[t] = true
	defer func() { seen[t] = false }()
	if t == ArrayType || t.Implements(payloadType) || t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(payloadType) {
		return true
	}
	if t.Implements(valuerType) || t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(valuerType) {
		return true
	}
	if marshalsItself(t) && t.Kind() != reflect.Interface {
		return false
	}
	switch t.Kind() {
	case reflect.Interface:
		return true
	case reflect.Slice:
		return IsBytes(t) || reachesBytes(t.Elem(), seen)
	case reflect.Map:
		return mayClash(t.Key()) || reachesBytes(t.Elem(), seen)
	case reflect.Array, reflect.Pointer:
		return reachesBytes(t.Elem(), seen)
	case reflect.Struct:
		return slices.ContainsFunc(jsonMembers(t), func(m bytesMember) bool { return reachesBytes(m.typ, seen) })
	}
	return false
}

// bytesMember is a struct's field as it stands in its object.
type bytesMember struct {
	name   string
	tagged bool
	index  []int
	typ    reflect.Type

	omitEmpty, omitZero bool
	asText              reflect.Type // a struct that has it as its member f, where it is written as a string; nil: it is not
}

// bytesMembersOf are the fields that may hold bytes.
func bytesMembersOf(t reflect.Type) []bytesMember {
	if known, ok := bytesMembers.Load(t); ok {
		return known.([]bytesMember)
	}
	members := slices.DeleteFunc(jsonMembers(t), func(m bytesMember) bool { return !mayHoldBytes(m.typ) })
	bytesMembers.Store(t, members)
	return members
}

// allMembersOf are the fields in encoding/json's order.
func allMembersOf(t reflect.Type) []bytesMember {
	if known, ok := structMembers.Load(t); ok {
		return known.([]bytesMember)
	}
	members := jsonMembers(t)
	slices.SortFunc(members, func(a, b bytesMember) int { return slices.Compare(a.index, b.index) })
	structMembers.Store(t, members)
	return members
}

// jsonMembers are the fields that encoding/json encodes: of those with one name the least deep, if
// there is just one, or just one with a tag, and else none.
func jsonMembers(t reflect.Type) []bytesMember {
	type embedded struct {
		typ   reflect.Type
		index []int
		twice bool
	}
	var found []bytesMember
	taken := map[string]bool{}
	visited := map[reflect.Type]bool{}
	for level := []embedded{{typ: t}}; len(level) > 0; {
		var next []embedded
		var here []bytesMember
		for _, e := range level {
			if visited[e.typ] {
				continue
			}
			visited[e.typ] = true
			for i := range e.typ.NumField() {
				sf := e.typ.Field(i)
				m, ok := jsonMember(sf)
				if !ok {
					continue
				}
				m.index = append(slices.Clone(e.index), i)
				inner := m.typ
				if inner.Name() == "" && inner.Kind() == reflect.Pointer {
					inner = inner.Elem()
				}
				if m.tagged || !sf.Anonymous || inner.Kind() != reflect.Struct {
					here = append(here, m)
					if e.twice { // the other one has a field of that name, too
						here = append(here, m)
					}
					continue
				}
				if at := slices.IndexFunc(next, func(n embedded) bool { return n.typ == inner }); at >= 0 {
					next[at].twice = true
				} else {
					next = append(next, embedded{typ: inner, index: m.index, twice: e.twice})
				}
			}
		}
		found = append(found, dominant(here, taken)...)
		level = next
	}
	return found
}

// Member is a field of a struct, as encoding/json knows it.
type Member struct {
	Name  string
	Type  reflect.Type
	Index []int
}

// Members are the fields of a struct.
func Members(t reflect.Type) []Member {
	if known, ok := members.Load(t); ok {
		return known.([]Member)
	}
	var found []Member
	for _, m := range allMembersOf(t) {
		found = append(found, Member{m.name, m.typ, m.index})
	}
	members.Store(t, found)
	return found
}

// MemberNames are the names by which encoding/json knows the fields of a struct, sorted.
func MemberNames(t reflect.Type) (names []string) {
	if known, ok := memberNames.Load(t); ok {
		return known.([]string)
	}
	for _, m := range jsonMembers(t) {
		names = append(names, m.name)
	}
	slices.Sort(names)
	memberNames.Store(t, names)
	return names
}

// dominant are the fields of one depth that win their names; taken are the names of those less
// deep, and then of these too.
func dominant(here []bytesMember, taken map[string]bool) (winners []bytesMember) {
	byName := map[string][]bytesMember{}
	for _, m := range here {
		byName[m.name] = append(byName[m.name], m)
	}
	for name, rivals := range byName {
		if taken[name] {
			continue
		}
		taken[name] = true
		if len(rivals) > 1 {
			rivals = slices.DeleteFunc(rivals, func(m bytesMember) bool { return !m.tagged })
		}
		if len(rivals) == 1 {
			winners = append(winners, rivals[0])
		}
	}
	return winners
}

// jsonMember is a field by its tag; ok is false for one that encoding/json leaves out.
func jsonMember(sf reflect.StructField) (m bytesMember, ok bool) {
	inner := sf.Type
	if inner.Kind() == reflect.Pointer {
		inner = inner.Elem()
	}
	if !sf.IsExported() && !(sf.Anonymous && inner.Kind() == reflect.Struct) {
		return m, false
	}
	tag := sf.Tag.Get("json")
	if tag == "-" {
		return m, false
	}
	name, options, _ := strings.Cut(tag, ",")
	if strings.ContainsFunc(name, func(r rune) bool {
		return !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		name = ""
	}
	m = bytesMember{name: name, tagged: name != "", typ: sf.Type}
	if !m.tagged {
		m.name = sf.Name
	}
	for option := range strings.SplitSeq(options, ",") {
		switch k := inner.Kind(); {
		case option == "omitempty":
			m.omitEmpty = true
		case option == "omitzero":
			m.omitZero = true
		case option == "string" && (k == reflect.String || k >= reflect.Bool && k <= reflect.Float64):
			m.asText = reflect.StructOf([]reflect.StructField{{Name: "F", Type: sf.Type, Tag: `json:"f,string"`}})
		}
	}
	return m, true
}

// keepNegativeZeros writes -0 in encoded[at:], which is what encoding/json makes of the float, as
// -0.0: for Python -0 is the integer 0.
func keepNegativeZeros(encoded []byte, at int) []byte {
	if !bytes.Contains(encoded[at:], []byte("-0")) {
		return encoded
	}
	s := scanner{b: encoded, i: at}
	var ends []int
	for s.i < len(encoded) {
		switch c := encoded[s.i]; {
		case c == '"':
			s.str()
		case c == '-' || c-'0' <= 9:
			start := s.i
			s.number()
			if s.i == start+2 && encoded[start+1] == '0' && c == '-' {
				ends = append(ends, s.i)
			}
		default:
			s.i++
		}
	}
	if len(ends) == 0 {
		return encoded
	}
	longer := make([]byte, 0, len(encoded)+2*len(ends))
	copied := 0
	for _, end := range ends {
		longer = append(append(longer, encoded[copied:end]...), ".0"...)
		copied = end
	}
	return append(longer, encoded[copied:]...)
}
