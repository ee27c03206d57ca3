package main

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// What list_commands tells with {"schema": true}: python/pypool/_schema.py.

// command is one command or program.
type command struct {
	Name   string `json:"name"`
	Doc    string `json:"doc"`
	Kind   string `json:"kind"`
	Schema schema `json:"schema"`
}

type schema struct {
	Stream      bool              `json:"stream"`
	Params      []param           `json:"params"` // nil: the callable does not tell them
	Returns     typ               `json:"returns"`
	InputTypes  map[string]*class `json:"input_types"`
	OutputTypes map[string]*class `json:"output_types"`
}

type param struct {
	field
	Kind string `json:"kind"`
}

// typ is a type hint.
type typ struct {
	Type   string            `json:"type"`
	Of     []typ             `json:"of"`
	Key    *typ              `json:"key"` // of a map; nil: text
	Name   string            `json:"name"`
	Text   string            `json:"text"`
	Values []json.RawMessage `json:"values"`
}

// class is a dataclass, typed_dict, named_tuple, attrs, model (pydantic's), struct (msgspec's) or
// enum.
type class struct {
	Kind    string   `json:"kind"`
	Name    string   `json:"name"`
	Doc     string   `json:"doc"`
	Fields  []field  `json:"fields"`
	Members []member `json:"members"`
}

type field struct {
	Name     string          `json:"name"`
	Type     typ             `json:"type"`
	Required bool            `json:"required"`
	Default  json.RawMessage `json:"default"` // nil: none, or none that JSON can tell
	Doc      string          `json:"doc"`
}

type member struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

// usage is where a class occurs.
type usage int

const (
	asInput usage = 1 << iota
	asOutput
)

// usedClass is a class as one Go type is made of it.
type usedClass struct {
	*class
	key string
	use usage
}

// classesOf merges the classes of all commands. One that looks the same as an argument and as a
// result becomes one entry, under its key; one that does not (or that contains such a one) becomes
// two, and the argument's key ends in inputSuffix.
func classesOf(commands []command) map[string]*usedClass {
	inputs, outputs := map[string]*class{}, map[string]*class{}
	for _, c := range commands {
		for key, in := range c.Schema.InputTypes {
			inputs[key] = in
		}
		for key, out := range c.Schema.OutputTypes {
			outputs[key] = out
		}
	}
	split := map[string]bool{}
	for key, in := range inputs {
		if out := outputs[key]; out != nil && !reflect.DeepEqual(in, out) {
			split[key] = true
		}
	}
	for grown := true; grown; {
		grown = false
		for key, in := range inputs {
			if split[key] || outputs[key] == nil {
				continue
			}
			for _, f := range in.Fields {
				if !split[key] && mentions(f.Type, split) {
					split[key], grown = true, true
				}
			}
		}
	}
	classes := map[string]*usedClass{}
	for key, in := range inputs {
		switch {
		case split[key]:
			classes[key+inputSuffix] = &usedClass{in, key + inputSuffix, asInput}
		case outputs[key] != nil:
			classes[key] = &usedClass{in, key, asInput | asOutput}
		default:
			classes[key] = &usedClass{in, key, asInput}
		}
	}
	for key, out := range outputs {
		if classes[key] == nil {
			classes[key] = &usedClass{out, key, asOutput}
		}
	}
	return classes
}

const inputSuffix = "#input"

// nullsSuffix ends the key of a class in results whose missing values are null.
const nullsSuffix = " with nulls"

// mentions reports whether t refers to one of the classes.
func mentions(t typ, keys map[string]bool) bool {
	return t.Type == "ref" && keys[t.Name] || slices.ContainsFunc(t.Of, func(of typ) bool { return mentions(of, keys) })
}

// python writes the hint as today's Python would.
func (g *generator) python(t typ) string {
	list := func(sep string) string {
		var parts []string
		for _, of := range t.Of {
			parts = append(parts, g.python(of))
		}
		return strings.Join(parts, sep)
	}
	switch t.Type {
	case "string":
		return "str"
	case "integer":
		return "int"
	case "number":
		return "float"
	case "boolean":
		return "bool"
	case "null":
		return "None"
	case "any":
		return "Any"
	case "uuid":
		return "UUID"
	case "path":
		return "Path"
	case "decimal":
		return "Decimal"
	case "array":
		return "list[" + list(", ") + "]"
	case "map":
		if t.Key != nil {
			return "dict[" + g.python(*t.Key) + ", " + list(", ") + "]"
		}
		return "dict[str, " + list(", ") + "]"
	case "duration":
		return "timedelta"
	case "ndarray":
		return "numpy.ndarray"
	case "tuple":
		return "tuple[" + list(", ") + "]"
	case "optional":
		return list("") + " | None"
	case "union":
		return list(" | ")
	case "literal":
		return "Literal[" + values(t) + "]"
	case "ref":
		for _, key := range []string{t.Name, t.Name + inputSuffix} {
			if c := g.classes[key]; c != nil {
				return c.Name
			}
		}
		return t.Name
	case "unknown", "table":
		return t.Text
	}
	return t.Type // datetime, date, time
}

func values(t typ) string {
	var parts []string
	for _, v := range t.Values {
		parts = append(parts, string(v))
	}
	return strings.Join(parts, ", ")
}

// jsonKind tells JSON values apart: string, integer, number, boolean, or other: numbers
// beyond int64 and float64 too.
func jsonKind(v json.RawMessage) string {
	s := string(v)
	switch {
	case s == "":
	case s[0] == '"':
		return "string"
	case s == "true" || s == "false":
		return "boolean"
	case s[0] == '-' || s[0] >= '0' && s[0] <= '9':
		if _, err := strconv.ParseInt(s, 10, 64); err == nil {
			return "integer"
		}
		if _, err := strconv.ParseFloat(s, 64); err == nil && strings.ContainsAny(s, ".eE") {
			return "number"
		}
	}
	return "other"
}

// commonKind is the kind that all values have; "other" when they differ, or there are none.
func commonKind(values []json.RawMessage) string {
	if len(values) == 0 {
		return "other"
	}
	kind := jsonKind(values[0])
	for _, v := range values {
		if jsonKind(v) != kind {
			return "other"
		}
	}
	return kind
}

// unquote is the text of a JSON string.
func unquote(value json.RawMessage) (s string) {
	_ = json.Unmarshal(value, &s) // it came out of a decoder
	return s
}
