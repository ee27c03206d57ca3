package main

import (
	"fmt"
	"strings"
)

// declare writes the Go type of a class.
func (g *generator) declare(c *usedClass) {
	name := g.names[c.key]
	what := map[string]string{"dataclass": "dataclass", "typed_dict": "TypedDict", "named_tuple": "NamedTuple", "model": "pydantic model", "attrs": "attrs class", "struct": "msgspec Struct", "enum": "Enum"}[c.Kind]
	where := ""
	if strings.HasSuffix(c.key, nullsSuffix) {
		where = ", where missing values are null"
	}
	g.printf("\n// %s is the %s %s%s.\n%s", name, what, oneLine(c.Name), where, comment(c.Doc))
	if c.Kind == "enum" {
		g.declareEnum(c, name)
		return
	}
	g.inside = c.key
	defer func() { g.inside = "" }()
	fields := scope{"MarshalJSON": true, "UnmarshalJSON": true, "PythonValue": true, "PythonItems": true}
	g.printf("type %s struct {\n", name)
	var names []string
	var lists [][2]string
	for _, f := range c.Fields {
		goName := fields.claim(exported(f.Name))
		names = append(names, goName)
		expr, tag, note := g.classField(c, f)
		g.printf("%s %s `json:\"%s\"`%s\n", goName, expr, tagName(f.Name)+tag, note)
		if listed(f) && strings.ContainsAny(expr[:1], "[m") {
			lists = append(lists, [2]string{goName, expr})
		}
	}
	g.printf("}\n")
	if c.use&asInput != 0 {
		g.body.WriteString(g.marshalObject(name, lists))
	}
	if c.Kind == "named_tuple" && c.use&asOutput != 0 {
		g.json = true
		g.printf("\n// UnmarshalJSON takes the array that Python sends, and the object that Go does.\nfunc (v *%s) UnmarshalJSON(data []byte) error {\n", name)
		g.printf("if len(data) > 0 && data[0] == '{' {\ntype plain %s\nreturn json.Unmarshal(data, (*plain)(v))\n}\n", name)
		g.printf("%s}\n%s", g.decodeTuple(), pythonItems(name, names))
	}
}

// classField is a field's Go type, the rest of its tag, and its comment.
func (g *generator) classField(c *usedClass, f field) (expr, tag, note string) {
	if c.use&asInput != 0 {
		return g.inputField(f, c.use)
	}
	expr = g.goType(f.Type, c.use)
	notes := []string{g.note(f.Type), f.Doc}
	if c.Kind == "typed_dict" && !f.Required { // a result may lack it
		tag = ",omitzero"
		notes[0] = strings.TrimPrefix(notes[0]+"; optional", "; ")
		if !nillable(expr) {
			expr = "*" + expr
		}
	}
	return expr, tag, trailing(notes)
}

// tagName is a name as a struct tag says it: "-" alone would hide the field.
func tagName(name string) string {
	if name == "-" {
		return "-,"
	}
	return name
}

func (g *generator) declareEnum(c *usedClass, name string) {
	base := enumBase(c.class)
	g.printf("type %s %s\n\n// The values of %s.\nconst (\n", name, base, name)
	for _, m := range c.Members {
		g.printf("%s %s = %s\n", g.scope.claim(name+exported(m.Name)), name, goLiteral(m.Value, base))
	}
	g.printf(")\n")
}

// goLiteral is a JSON string or number as Go writes it.
func goLiteral(value []byte, base string) string {
	if base != "string" {
		return string(value)
	}
	return fmt.Sprintf("%+q", unquote(value))
}

// declareTuple writes the struct of a tuple of several types.
func (g *generator) declareTuple(t *tuple) {
	g.json = true
	g.printf("\n// %s is Python's %s: an array on the wire.\ntype %s struct {\n", t.name, oneLine(t.python), t.name)
	var names, values []string
	var lists [][2]string
	for i, expr := range t.types {
		name := fmt.Sprintf("V%d", i)
		names, values = append(names, name), append(values, "v."+name)
		g.printf("%s %s\n", name, expr)
		if expr != "[]byte" && (strings.HasPrefix(expr, "[]") || strings.HasPrefix(expr, "map[")) {
			lists = append(lists, [2]string{name, expr})
		}
	}
	g.printf("}\n\n%s", valuer(t.name, "an array", emptied(lists)+"return []any{"+strings.Join(values, ", ")+"}\n"))
	if t.use&asOutput != 0 {
		g.printf("\n// UnmarshalJSON takes an array.\nfunc (v *%s) UnmarshalJSON(data []byte) error {\n%s}\n%s", t.name, g.decodeTuple(), pythonItems(t.name, names))
	}
}

// decodeTuple is the body of an UnmarshalJSON.
func (g *generator) decodeTuple() string {
	g.decodes = true
	return "return unmarshalTuple(data, v.PythonItems())\n"
}

// pythonItems is the method for pypool.Tuple.
func pythonItems(name string, names []string) string {
	items := ""
	if len(names) > 0 {
		items = "&v." + strings.Join(names, ", &v.")
	}
	return fmt.Sprintf("\n// PythonItems is for [pypool.Tuple].\nfunc (v *%s) PythonItems() []any { return []any{%s} }\n", name, items)
}

// helpers writes what the types above need.
func (g *generator) helpers() {
	if g.pointers {
		name := g.scope.claim("Ptr")
		g.printf("\n// %s returns a pointer to v, for optional fields.\nfunc %s[T any](v T) *T { return &v }\n", name, name)
	}
	if g.decodes {
		g.json = true
		g.printf("%s", unmarshalTuple)
	}
	if g.dateTime != "" {
		g.printf("%s", strings.ReplaceAll(dateTime, "DateTime", g.dateTime))
	}
}

const unmarshalTuple = `
func unmarshalTuple(data []byte, into []any) error {
	var items []json.RawMessage
	if err := json.Unmarshal(data, &items); err != nil || items == nil {
		return err
	}
	if len(items) != len(into) {
		return fmt.Errorf("a tuple of %d came with %d items", len(into), len(items))
	}
	for i, item := range items {
		if err := json.Unmarshal(item, into[i]); err != nil {
			return err
		}
	}
	return nil
}
`

// dateTime keeps the difference that time.Time does not know.
const dateTime = `
// DateTime is Python's datetime. A naive one has no time zone: Naive is true then, and Time holds its clock as if in UTC.
type DateTime struct {
	time.Time
	Naive bool
}

const naiveDateTime = "2006-01-02T15:04:05.999999999"

// MarshalJSON writes ISO 8601, without a zone when Naive.
func (t DateTime) MarshalJSON() ([]byte, error) {
	if t.Naive {
		return []byte(t.Format(` + "`\"`+naiveDateTime+`\"`" + `)), nil
	}
	return t.Time.MarshalJSON()
}

// UnmarshalJSON reads what datetime.isoformat writes.
func (t *DateTime) UnmarshalJSON(data []byte) error {
	if naive, err := time.Parse(` + "`\"`+naiveDateTime+`\"`" + `, string(data)); err == nil {
		*t = DateTime{Time: naive, Naive: true}
		return nil
	}
	t.Naive = false
	return t.Time.UnmarshalJSON(data)
}
`
