package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// goKinds are the Go types of JSON values, by jsonKind.
var goKinds = map[string]string{"string": "string", "integer": "int64", "number": "float64", "boolean": "bool"}

// goType is the Go type of a hint.
func (g *generator) goType(t typ, use usage) string { return g.typeOf(t, use, true) }

// typeOf is goType; byValue tells that the type is held without a pointer, slice or map between,
// where a class that contains itself needs one.
func (g *generator) typeOf(t typ, use usage, byValue bool) string {
	switch t.Type {
	case "string", "date", "time", "uuid", "path", "decimal":
		return "string"
	case "integer":
		return "int64"
	case "number":
		return "float64"
	case "boolean":
		return "bool"
	case "any", "null":
		return "any"
	case "datetime":
		return g.dateTime
	case "bytes":
		return "[]byte"
	case "ndarray":
		return "pypool.Array"
	case "table":
		if g.tables {
			g.arrow = true
			return "pypoolarrow.Table"
		}
	case "duration":
		g.durations = true
		return "time.Duration"
	case "array":
		return "[]" + g.typeOf(t.Of[0], use, false)
	case "map":
		return "map[" + keyType(t) + "]" + g.typeOf(t.Of[0], use, false)
	case "tuple":
		return g.tupleOf(t, use, byValue)
	case "optional":
		inner := g.typeOf(t.Of[0], use, false)
		if nillable(inner) {
			return inner
		}
		return "*" + inner
	case "literal":
		if base := goKinds[commonKind(t.Values)]; base != "" {
			return base
		}
	case "ref":
		return g.refOf(t, use, byValue)
	}
	return g.raw(use) // union, unknown, a literal of several kinds, a table without the module arrow
}

// keyType is the Go type of a map's keys.
func keyType(t typ) string {
	if t.Key != nil {
		return goKinds[t.Key.Type]
	}
	return "string"
}

// raw is the type of what cannot be mapped: the caller passes anything, and gets the JSON.
func (g *generator) raw(use usage) string {
	if use&asOutput == 0 {
		return "any"
	}
	g.json = true
	return "json.RawMessage"
}

func (g *generator) refOf(t typ, use usage, byValue bool) string {
	c := g.find(t.Name, use)
	if c == nil {
		return g.raw(use)
	}
	if c.Kind == "enum" && enumBase(c.class) == "" {
		return g.raw(use)
	}
	if c.Kind != "enum" && !tagged(c.class) {
		return "map[string]any"
	}
	if byValue && g.cyclic[[2]string{g.inside, c.key}] {
		return "*" + g.names[c.key]
	}
	return g.names[c.key]
}

// find is the class a reference means, on its side.
func (g *generator) find(key string, use usage) *usedClass {
	if use&asOutput == 0 {
		if c := g.classes[key+inputSuffix]; c != nil {
			return c
		}
	}
	return g.classes[key]
}

// tupleOf is an array for tuples of one type, and a struct of its own for others.
func (g *generator) tupleOf(t typ, use usage, byValue bool) string {
	var types []string
	same := true
	for _, of := range t.Of {
		expr := g.typeOf(of, use, byValue)
		same = same && (len(types) == 0 || expr == types[0])
		types = append(types, expr)
	}
	if same {
		return fmt.Sprintf("[%d]%s", len(types), types[0])
	}
	key := strings.Join(types, ",")
	if g.tuples[key] == nil {
		name := "Tuple"
		for _, expr := range types {
			name += tupleWord(expr)
		}
		g.tuples[key] = &tuple{name: g.scope.claim(name), types: types, python: g.python(t)}
	}
	g.tuples[key].use |= use
	return g.tuples[key].name
}

// takesBlobs reports whether a result of the type may have places for payloads.
func (g *generator) takesBlobs(t typ, seen map[string]bool) bool {
	within := func(of typ) bool { return g.takesBlobs(of, seen) }
	switch t.Type {
	case "bytes", "ndarray":
		return true
	case "table":
		return g.tables
	case "ref":
		c := g.find(t.Name, asOutput)
		if c == nil || seen[t.Name] {
			return false
		}
		seen[t.Name] = true
		return slices.ContainsFunc(c.Fields, func(f field) bool { return within(f.Type) })
	}
	return slices.ContainsFunc(t.Of, within)
}

// tupleWord is a type's part of a tuple's name: []float64 is Float64List.
func tupleWord(expr string) string {
	switch {
	case expr == "[]byte":
		return "Bytes"
	case strings.HasPrefix(expr, "[]"):
		return tupleWord(expr[2:]) + "List"
	case expr == "time.Duration":
		return "Duration"
	case strings.HasPrefix(expr, "map["):
		return tupleWord(expr[strings.IndexByte(expr, ']')+1:]) + "Map"
	case strings.HasPrefix(expr, "*"):
		return tupleWord(expr[1:])
	case expr == "json.RawMessage":
		return "JSON"
	case expr == "pypoolarrow.Table":
		return "Table"
	}
	return exported(expr)
}

// nillable reports whether a Go type has a nil, which stands for Python's None.
func nillable(expr string) bool {
	return expr == "any" || expr == "json.RawMessage" || strings.HasPrefix(expr, "*") || strings.HasPrefix(expr, "[]") || strings.HasPrefix(expr, "map[")
}

// listed reports whether a nil of the type must become an empty array or object, because Python
// expects one.
func listed(f field) bool {
	return f.Required && (f.Type.Type == "array" || f.Type.Type == "map" || f.Type.Type == "bytes")
}

// lossy reports whether the Go type says less than the hint.
func (g *generator) lossy(t typ) bool {
	switch t.Type {
	case "date", "time", "uuid", "path", "decimal", "union", "unknown", "literal":
		return true
	case "table":
		return !g.tables
	case "ref":
		c := g.find(t.Name, asOutput)
		if c == nil {
			c = g.find(t.Name, asInput)
		}
		return c == nil || c.Kind == "enum" && enumBase(c.class) == "" || c.Kind != "enum" && !tagged(c.class)
	}
	for _, of := range t.Of {
		if g.lossy(of) {
			return true
		}
	}
	return false
}

// note says what the Go type does not.
func (g *generator) note(t typ) string {
	inner := t
	if t.Type == "optional" {
		inner = t.Of[0]
	}
	switch {
	case !g.lossy(t):
		return ""
	case inner.Type == "literal":
		return "one of " + values(inner)
	case inner.Type == "date":
		return "a date, as 2006-01-02"
	case inner.Type == "time":
		return "a time, as 15:04:05"
	case inner.Type == "unknown" && inner.Text == "":
		return "of no known type"
	}
	return "Python: " + g.python(t)
}

// enumBase is the Go type under an enumeration; empty when its values are not all of one kind.
func enumBase(c *class) string {
	var values []json.RawMessage
	for _, m := range c.Members {
		values = append(values, m.Value)
	}
	return goKinds[commonKind(values)]
}

// tagged reports whether struct tags can name all fields of the class.
func tagged(c *class) bool {
	for _, f := range c.Fields {
		if !validTag(f.Name) {
			return false
		}
	}
	return true
}

// cycles finds the references by value between classes that go round in a circle: Go needs a
// pointer there.
func (g *generator) cycles() {
	edges := map[string][]string{}
	for key, c := range g.classes {
		for _, f := range c.Fields {
			edges[key] = append(edges[key], g.valueRefs(f.Type, c.use)...)
		}
	}
	reaches := func(from, to string) bool {
		seen := map[string]bool{}
		pending := []string{from}
		for len(pending) > 0 {
			at := pending[len(pending)-1]
			pending = pending[:len(pending)-1]
			if at == to {
				return true
			}
			if !seen[at] {
				seen[at] = true
				pending = append(pending, edges[at]...)
			}
		}
		return false
	}
	for from, list := range edges {
		for _, to := range list {
			if reaches(to, from) {
				g.cyclic[[2]string{from, to}] = true
			}
		}
	}
}

func (g *generator) valueRefs(t typ, use usage) (keys []string) {
	switch t.Type {
	case "ref":
		if c := g.find(t.Name, use); c != nil && c.Kind != "enum" {
			keys = append(keys, c.key)
		}
	case "tuple":
		for _, of := range t.Of {
			keys = append(keys, g.valueRefs(of, use)...)
		}
	}
	return keys
}
