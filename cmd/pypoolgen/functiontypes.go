package main

import (
	"cmp"
	"fmt"
	"go/token"
	"go/types"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// How Go's functions and types are written in Python.

// method is a function as host has it.
type method struct {
	name   string
	params []parameter
	result string
}

// parameter is one of a method's, or a mark between them, which has no type.
type parameter struct{ name, typ, def string }

func (m method) String() string {
	var b strings.Builder
	b.WriteString(m.name + "(self")
	for _, p := range m.params {
		b.WriteString(", " + p.name)
		if p.typ != "" {
			b.WriteString(": " + p.typ + p.def)
		}
	}
	return b.String() + ") -> " + m.result + ": ..."
}

var word = regexp.MustCompile(`\w+`)

// hides reports whether a name stands in one of the types, and so would hide what that means.
func hides(name string, types ...string) bool {
	return slices.ContainsFunc(types, func(text string) bool { return slices.Contains(word.FindAllString(text, -1), name) })
}

// unhide gives types another name that are called as one of the methods is, and returns what makes
// those names.
func unhide(methods []method) (aliases string) {
	var all []string
	for _, m := range methods {
		all = append(all, m.result)
		for _, p := range m.params {
			all = append(all, p.typ)
		}
	}
	hidden := map[string]bool{}
	for _, m := range methods {
		if hides(m.name, all...) {
			hidden[m.name] = true
			aliases += fmt.Sprintf("    _type_%s = %s\n", m.name, m.name)
		}
	}
	if aliases == "" {
		return ""
	}
	renamed := func(text string) string {
		return word.ReplaceAllStringFunc(text, func(name string) string {
			if hidden[name] {
				return "_type_" + name
			}
			return name
		})
	}
	for i, m := range methods {
		methods[i].result = renamed(m.result)
		for k, p := range m.params {
			m.params[k].typ = renamed(p.typ)
		}
	}
	return aliases + "\n"
}

// stubWriter writes Go types as Python's, and a class for each struct.
type stubWriter struct {
	names   map[string]types.Type
	classes []string
}

// method is the function as host has it.
func (w *stubWriter) method(f hostFunction) method {
	m := method{name: f.name, result: "Any"}
	anything := []parameter{{name: "*args", typ: "Any"}, {name: "**keyword", typ: "Any"}}
	if f.in == nil {
		m.params = anything
		return m
	}
	m.result = w.python(f.out)
	in := types.Unalias(f.in)
	if pointer, ok := in.Underlying().(*types.Pointer); ok {
		in = pointer.Elem()
	}
	switch t := in.Underlying().(type) {
	case *types.Struct:
		if custom(in) {
			break
		}
		var required, optional []parameter
		for _, member := range members(t) {
			switch {
			case !isIdentifier(member.name) || member.name == "self": // by position then, as a dict
				m.params = []parameter{{name: "value", typ: w.python(in)}, {name: "/"}}
				return m
			case member.optional:
				optional = append(optional, parameter{member.name, w.member(member), " = ..."})
			default:
				required = append(required, parameter{name: member.name, typ: w.member(member)})
			}
		}
		if m.params = append(required, optional...); len(m.params) > 0 {
			m.params = append([]parameter{{name: "*"}}, m.params...)
		}
		return m
	case *types.Interface:
		m.params = anything
		return m
	case *types.Map:
		m.params = []parameter{{name: "**keyword", typ: w.python(t.Elem())}}
		return m
	}
	m.params = []parameter{{name: "value", typ: w.python(f.in)}, {name: "/"}}
	return m
}

// goMember is a struct's field as it stands in its object.
type goMember struct {
	name     string
	typ      types.Type
	optional bool
	text     bool // json:",string"
}

func members(t *types.Struct) (list []goMember) {
	for i := range t.NumFields() {
		field := t.Field(i)
		tag := reflect.StructTag(t.Tag(i)).Get("json")
		name, rest, _ := strings.Cut(tag, ",")
		inner := field.Type()
		if pointer, ok := inner.Underlying().(*types.Pointer); ok {
			inner = pointer.Elem()
		}
		embedded, isStruct := inner.Underlying().(*types.Struct)
		switch {
		case tag == "-":
		case field.Embedded() && name == "" && isStruct && !custom(inner):
			for _, m := range members(embedded) {
				if !slices.ContainsFunc(list, func(other goMember) bool { return other.name == m.name }) {
					list = append(list, m)
				}
			}
		case field.Exported():
			if name == "" {
				name = field.Name()
			}
			_, isPointer := field.Type().Underlying().(*types.Pointer)
			list = slices.DeleteFunc(list, func(other goMember) bool { return other.name == name }) // an embedded struct's
			options := strings.Split(rest, ",")
			optional := isPointer || slices.Contains(options, "omitempty") || slices.Contains(options, "omitzero")
			list = append(list, goMember{name, field.Type(), optional, slices.Contains(options, "string")})
		}
	}
	return list
}

// custom reports whether a type writes its JSON itself.
func custom(t types.Type) bool { return has(t, "MarshalJSON") || has(t, "MarshalText") }

func has(t types.Type, method string) bool {
	object, _, _ := types.LookupFieldOrMethod(t, true, nil, method)
	_, ok := object.(*types.Func)
	return ok
}

// pythonKeywords are no names in Python.
var pythonKeywords = strings.Fields("False None True and as assert async await break class continue def del elif else except finally for from global " +
	"if import in is lambda nonlocal not or pass raise return try while with yield")

// isIdentifier reports whether Python takes it for a name.
func isIdentifier(name string) bool {
	return (token.IsIdentifier(name) || token.IsKeyword(name)) && !slices.Contains(pythonKeywords, name)
}

// python is the Python type of a Go type's values.
func (w *stubWriter) python(t types.Type) string {
	t = types.Unalias(t)
	if named, ok := t.(*types.Named); ok && named.Obj().Pkg() != nil {
		switch named.Obj().Pkg().Path() + "." + named.Obj().Name() {
		case "time.Time":
			return "str"
		case "encoding/json.Number":
			return "float"
		case library + ".Array":
			return "Any"
		}
	}
	switch {
	case has(t, "MarshalJSON"):
		return "Any"
	case has(t, "MarshalText"):
		return "str"
	}
	switch u := t.Underlying().(type) {
	case *types.Basic:
		switch {
		case u.Info()&types.IsBoolean != 0:
			return "bool"
		case u.Info()&types.IsInteger != 0:
			return "int"
		case u.Info()&types.IsFloat != 0:
			return "float"
		case u.Info()&types.IsString != 0:
			return "str"
		}
	case *types.Slice:
		if basic, ok := u.Elem().Underlying().(*types.Basic); ok && basic.Kind() == types.Uint8 {
			return "bytes"
		}
		return "List[" + w.python(u.Elem()) + "]"
	case *types.Array:
		return "List[" + w.python(u.Elem()) + "]"
	case *types.Map:
		return "Dict[str, " + w.python(u.Elem()) + "]"
	case *types.Pointer:
		return "Optional[" + w.python(u.Elem()) + "]"
	case *types.Struct:
		if u.NumFields() == 0 {
			return "None"
		}
		return w.class(t, u)
	}
	return "Any"
}

// class is the name of the TypedDict for a struct, which it writes when it comes upon it first.
func (w *stubWriter) class(t types.Type, u *types.Struct) string {
	named, ok := t.(*types.Named)
	if !ok || named.TypeArgs().Len() > 0 {
		return "Dict[str, Any]"
	}
	name := named.Obj().Name()
	first, size := utf8.DecodeRuneInString(name)
	name = string(unicode.ToUpper(first)) + name[size:]
	for n := 2; ; n++ {
		known, taken := w.names[name]
		if taken && types.Identical(known, t) {
			return name
		}
		if !taken && w.names["_"+name] == nil && w.names[strings.TrimPrefix(name, "_")] == nil && !slices.Contains(stubNames, name) {
			break
		}
		name = fmt.Sprintf("%s%d", strings.TrimRight(name, "0123456789"), n)
	}
	w.names[name] = t
	at := len(w.classes)
	w.classes = append(w.classes, "")
	var required, optional, all []parameter
	var expressions []string
	for _, m := range members(u) {
		p := parameter{name: m.name, typ: w.member(m)}
		if all, expressions = append(all, p), append(expressions, p.typ); m.optional {
			optional = append(optional, p)
		} else {
			required = append(required, p)
		}
	}
	body := func(list []parameter) string {
		var b strings.Builder
		for _, p := range list {
			fmt.Fprintf(&b, "        %s: %s\n", p.name, p.typ)
		}
		return cmp.Or(b.String(), "        pass\n")
	}
	call := func(name, end string, list []parameter) string {
		var b strings.Builder
		for _, p := range list {
			fmt.Fprintf(&b, "%q: %q, ", p.name, p.typ) // in quotes, as it may come later
		}
		return fmt.Sprintf("    %s = TypedDict(%q, {%s}%s)\n", name, name, strings.TrimSuffix(b.String(), ", "), end)
	}
	asCall := slices.ContainsFunc(all, func(p parameter) bool { return !isIdentifier(p.name) || hides(p.name, expressions...) })
	switch {
	case asCall && len(optional) == 0:
		w.classes[at] = call(name, "", required)
	case asCall:
		w.classes[at] = call("_"+name, "", required) + call("_"+name+"_", ", total=False", optional) +
			"\n    class " + name + "(_" + name + ", _" + name + "_):\n        pass\n"
	case len(optional) == 0:
		w.classes[at] = "    class " + name + "(TypedDict):\n" + body(required)
	default:
		w.classes[at] = "    class _" + name + "(TypedDict):\n" + body(required) + "\n    class " + name + "(_" + name + ", total=False):\n" + body(optional)
	}
	return name
}

// stubNames are what else the module has names for.
var stubNames = strings.Fields("Any Dict List Optional Protocol TypedDict Host Aio None True False")

// member is the Python type of a struct's field.
func (w *stubWriter) member(m goMember) string {
	t := m.typ
	pointer, isPointer := t.Underlying().(*types.Pointer)
	if isPointer {
		t = pointer.Elem()
	}
	if _, isBasic := t.Underlying().(*types.Basic); !m.text || !isBasic || custom(t) {
		return w.python(m.typ)
	}
	if isPointer {
		return "Optional[str]"
	}
	return "str"
}
