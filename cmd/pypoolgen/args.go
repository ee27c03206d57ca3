package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// argsShape is how a method takes its command's arguments.
type argsShape struct {
	typ         string // of the parameter args; empty: there is none
	expr        string // what is sent
	declaration string // of the struct, where there is one
	remarks     []string
}

// argsOf decides how Go passes a command's arguments: as an object, so that Python binds them by
// name, unless it takes some by position only.
func (g *generator) argsOf(c command, method string) argsShape {
	params := c.Schema.Params
	if params == nil {
		return argsShape{typ: "any", expr: "args", remarks: []string{"Python does not tell its parameters: args is a JSON object or array."}}
	}
	var named, positional []param // the second: *args too
	var rest, extra *param
	var byPosition bool
	for i, p := range params {
		switch p.Kind {
		case "var_positional":
			rest = &params[i]
			continue
		case "var_keyword":
			extra = &params[i]
			continue
		case "positional_only":
			byPosition = true
		}
		named = append(named, p)
		if p.Kind != "keyword_only" {
			positional = append(positional, p)
		}
	}
	switch {
	case len(params) == 0:
		return argsShape{expr: "nil"}
	case byPosition || rest != nil && extra == nil:
		return g.arrayArgs(method, positional, rest, left(params, positional, rest))
	}
	var remarks []string
	if rest != nil {
		remarks = append(remarks, fmt.Sprintf("Python's *%s cannot be sent beside named arguments.", rest.Name))
	}
	if extra != nil && len(named) == 0 {
		return argsShape{typ: "map[string]" + g.goType(extra.Type, asInput), expr: "args", remarks: remarks}
	}
	for _, p := range named {
		if !validTag(p.Name) {
			return argsShape{typ: "map[string]any", expr: "args", remarks: append(remarks, "Its parameters have names that Go's struct tags cannot hold.")}
		}
	}
	shape := g.objectArgs(method, named, extra)
	shape.remarks = append(remarks, shape.remarks...)
	return shape
}

// left names the parameters that an array of positional arguments cannot reach.
func left(params, positional []param, rest *param) (names []string) {
	for _, p := range params {
		reached := rest != nil && p.Name == rest.Name
		for _, q := range positional {
			reached = reached || q.Name == p.Name
		}
		if !reached {
			names = append(names, p.Name)
		}
	}
	return names
}

// objectArgs is a struct that encodes to an object.
func (g *generator) objectArgs(method string, named []param, extra *param) argsShape {
	name := g.scope.claim(method + "Args")
	fields := scope{"MarshalJSON": true, "PythonValue": true}
	var b, object bytes.Buffer
	fmt.Fprintf(&b, "\n// %s are the arguments of [%s.%s].\ntype %s struct {\n", name, g.client, method, name)
	var lists [][2]string // fields to be made empty when nil, and their types
	for _, p := range named {
		goName := fields.claim(exported(p.Name))
		expr, tag, note := g.inputField(p.field, asInput)
		fmt.Fprintf(&b, "%s %s `json:\"%s%s\"`%s\n", goName, expr, p.Name, tag, note)
		if listed(p.field) && strings.ContainsAny(expr[:1], "[m") {
			lists = append(lists, [2]string{goName, expr})
		}
		set := fmt.Sprintf("object[%q] = v.%s\n", p.Name, goName)
		if !p.Required && !nilIsNone(p.field) {
			set = fmt.Sprintf("if %s {\n%s}\n", isSet("v."+goName, expr), set)
		}
		object.WriteString(set)
	}
	if extra != nil {
		extraName := fields.claim(exported(extra.Name))
		fmt.Fprintf(&b, "%s map[string]%s `json:\"-\"` // Python's **%s: sent beside the others\n", extraName, g.goType(extra.Type, asInput), extra.Name)
		g.json = true
		body := fmt.Sprintf("%sobject := map[string]any{}\nfor key, value := range v.%s {\nobject[key] = value\n}\n%sreturn object\n", emptied(lists), extraName, object.Bytes())
		what := extraName + " beside the other fields, which win"
		if len(lists) > 0 {
			what = "nil slices and maps as empty ones, and " + what
		}
		b.WriteString("}\n\n" + valuer(name, what, body))
		return argsShape{typ: name, expr: "args", declaration: b.String()}
	}
	b.WriteString("}\n" + g.marshalObject(name, lists))
	return argsShape{typ: name, expr: "args", declaration: b.String()}
}

// marshalObject writes what makes an object of the struct, with nil slices and maps as empty ones;
// or nothing when there are none.
func (g *generator) marshalObject(name string, lists [][2]string) string {
	if len(lists) == 0 {
		return ""
	}
	g.json = true
	return "\n" + valuer(name, "nil slices and maps as empty ones", emptied(lists)+"type plain "+name+"\nreturn plain(v)\n")
}

// valuer writes the two methods that let pypool see what a type sends, and so the []byte in it.
func valuer(name, what, body string) string {
	return fmt.Sprintf("// PythonValue is what is sent: %s.\nfunc (v %s) PythonValue() any {\n%s}\n\n// MarshalJSON encodes PythonValue.\nfunc (v %s) MarshalJSON() ([]byte, error) { return json.Marshal(v.PythonValue()) }\n", what, name, body, name)
}

// isSet is the condition that an optional field is not at Go's zero value.
func isSet(field, expr string) string {
	switch {
	case nillable(expr):
		return field + " != nil"
	case expr == "string":
		return field + ` != ""`
	case expr == "bool":
		return field
	}
	return field + " != 0"
}

func emptied(lists [][2]string) string {
	var b strings.Builder
	for _, list := range lists {
		fmt.Fprintf(&b, "if v.%s == nil {\nv.%s = %s{}\n}\n", list[0], list[0], list[1])
	}
	return b.String()
}

// arrayArgs is a struct that encodes to an array: Python takes some of these arguments by position
// only.
func (g *generator) arrayArgs(method string, positional []param, rest *param, unreached []string) argsShape {
	var shape argsShape
	if len(unreached) > 0 {
		shape.remarks = append(shape.remarks, "It takes arguments by position, beside which Python's "+strings.Join(unreached, ", ")+" cannot be sent.")
	}
	shape.expr = "args"
	if len(positional) == 0 {
		shape.typ = "[]" + g.goType(rest.Type, asInput)
		return shape
	}
	g.json = true
	name := g.scope.claim(method + "Args")
	fields := scope{"MarshalJSON": true, "PythonValue": true}
	var b, list bytes.Buffer
	fmt.Fprintf(&b, "\n// %s are the arguments of [%s.%s], sent by position: an optional one that is nil leaves all behind it out.\ntype %s struct {\n", name, g.client, method, name)
	var lists [][2]string
	for _, p := range positional {
		goName := fields.claim(exported(p.Name))
		expr, _, note := g.inputField(p.field, asInput)
		if !p.Required && !nillable(expr) {
			expr = "*" + expr
			g.pointers = true
		}
		fmt.Fprintf(&b, "%s %s%s\n", goName, expr, note)
		if listed(p.field) && strings.ContainsAny(expr[:1], "[m") {
			lists = append(lists, [2]string{goName, expr})
		}
		if !p.Required && !nilIsNone(p.field) {
			fmt.Fprintf(&list, "if v.%s == nil {\nreturn list\n}\n", goName)
		}
		fmt.Fprintf(&list, "list = append(list, v.%s)\n", goName)
	}
	if rest != nil {
		goName := fields.claim(exported(rest.Name))
		fmt.Fprintf(&b, "%s []%s // Python's *%s\n", goName, g.goType(rest.Type, asInput), rest.Name)
		fmt.Fprintf(&list, "for _, item := range v.%s {\nlist = append(list, item)\n}\n", goName)
	}
	b.WriteString("}\n\n" + valuer(name, "an array", emptied(lists)+"list := []any{}\n"+list.String()+"return list\n"))
	shape.typ, shape.declaration = name, b.String()
	return shape
}

// inputField is a field's Go type, the rest of its tag, and its comment. One that may be left out
// is a pointer, unless Go's zero is Python's default; one of nilIsNone may not.
func (g *generator) inputField(f field, use usage) (expr, tag, note string) {
	expr = g.goType(f.Type, use)
	notes := []string{g.note(f.Type)}
	switch {
	case f.Required:
	case nilIsNone(f):
		notes = append(notes, "nil is None, not the default "+string(f.Default))
	default:
		tag = ",omitzero"
		if !nillable(expr) && !zeroDefault(f, expr) {
			expr = "*" + expr
			g.pointers = true
		}
		switch text := string(f.Default); {
		case f.Default == nil:
			notes = append(notes, "optional")
		case text == "null" || text == "[]" || text == "{}" || zeroDefault(f, expr):
		default:
			notes = append(notes, "default "+text)
		}
	}
	return expr, tag, trailing(append(notes, f.Doc))
}

// nilIsNone reports whether nil is sent, as None: the field takes None, and has another default,
// for which there would be no None if nil left the field out.
func nilIsNone(f field) bool {
	return !f.Required && f.Type.Type == "optional" && f.Default != nil && string(f.Default) != "null"
}

// zeroDefault reports whether leaving a field at Go's zero value means Python's default.
func zeroDefault(f field, expr string) bool {
	switch expr {
	case "string":
		return string(f.Default) == `""`
	case "bool":
		return string(f.Default) == "false"
	case "int64", "float64":
		n, err := strconv.ParseFloat(string(f.Default), 64)
		return err == nil && n == 0
	}
	return false
}

// trailing is a comment at a line's end.
func trailing(notes []string) string {
	var said []string
	for _, note := range notes {
		if note = oneLine(note); note != "" {
			said = append(said, note)
		}
	}
	if len(said) == 0 {
		return ""
	}
	return " // " + strings.Join(said, "; ")
}
