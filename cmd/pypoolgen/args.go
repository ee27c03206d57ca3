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

// argsOf decides how Go passes a command's arguments: as an object, so that Python binds them by name, unless it takes some by
// position only.
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
	fields := scope{"MarshalJSON": true}
	var b bytes.Buffer
	fmt.Fprintf(&b, "\n// %s are the arguments of [%s.%s].\ntype %s struct {\n", name, g.client, method, name)
	var lists [][2]string // fields to be made empty when nil, and their types
	for _, p := range named {
		goName := fields.claim(exported(p.Name))
		expr, tag, note := g.inputField(p.field, asInput)
		fmt.Fprintf(&b, "%s %s `json:\"%s%s\"`%s\n", goName, expr, p.Name, tag, note)
		if listed(p.field) && strings.ContainsAny(expr[:1], "[m") {
			lists = append(lists, [2]string{goName, expr})
		}
	}
	extraName := ""
	if extra != nil {
		extraName = fields.claim(exported(extra.Name))
		fmt.Fprintf(&b, "%s map[string]%s `json:\"-\"` // Python's **%s: sent beside the others\n", extraName, g.goType(extra.Type, asInput), extra.Name)
	}
	b.WriteString("}\n")
	b.WriteString(g.marshalObject(name, lists, extraName))
	return argsShape{typ: name, expr: "args", declaration: b.String()}
}

// marshalObject writes a MarshalJSON that sends nil slices and maps as empty ones, and merges extra entries; or nothing when
// neither is needed.
func (g *generator) marshalObject(name string, lists [][2]string, extra string) string {
	if len(lists) == 0 && extra == "" {
		return ""
	}
	g.json = true
	var b bytes.Buffer
	fmt.Fprintf(&b, "\n// MarshalJSON sends %s.\nfunc (v %s) MarshalJSON() ([]byte, error) {\n", strings.Join(marshalWords(lists, extra), ", and "), name)
	b.WriteString(emptied(lists))
	fmt.Fprintf(&b, "type plain %s\n", name)
	if extra == "" {
		b.WriteString("return json.Marshal(plain(v))\n}\n")
		return b.String()
	}
	fmt.Fprintf(&b, `data, err := json.Marshal(plain(v))
if err != nil || len(v.%s) == 0 {
	return data, err
}
object := map[string]json.RawMessage{}
if err := json.Unmarshal(data, &object); err != nil {
	return nil, err
}
for key, value := range v.%s {
	if _, taken := object[key]; taken {
		continue
	}
	if object[key], err = json.Marshal(value); err != nil {
		return nil, err
	}
}
return json.Marshal(object)
}
`, extra, extra)
	return b.String()
}

func marshalWords(lists [][2]string, extra string) (words []string) {
	if len(lists) > 0 {
		words = append(words, "nil slices and maps as empty ones")
	}
	if extra != "" {
		words = append(words, extra+" beside the other fields, which win")
	}
	return words
}

func emptied(lists [][2]string) string {
	var b strings.Builder
	for _, list := range lists {
		fmt.Fprintf(&b, "if v.%s == nil {\nv.%s = %s{}\n}\n", list[0], list[0], list[1])
	}
	return b.String()
}

// arrayArgs is a struct that encodes to an array: Python takes some of these arguments by position only.
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
	fields := scope{"MarshalJSON": true}
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
		if !p.Required {
			fmt.Fprintf(&list, "if v.%s == nil {\nreturn json.Marshal(list)\n}\n", goName)
		}
		fmt.Fprintf(&list, "list = append(list, v.%s)\n", goName)
	}
	if rest != nil {
		goName := fields.claim(exported(rest.Name))
		fmt.Fprintf(&b, "%s []%s // Python's *%s\n", goName, g.goType(rest.Type, asInput), rest.Name)
		fmt.Fprintf(&list, "for _, item := range v.%s {\nlist = append(list, item)\n}\n", goName)
	}
	fmt.Fprintf(&b, "}\n\n// MarshalJSON sends an array.\nfunc (v %s) MarshalJSON() ([]byte, error) {\n%slist := []any{}\n%sreturn json.Marshal(list)\n}\n", name, emptied(lists), list.Bytes())
	shape.typ, shape.declaration = name, b.String()
	return shape
}

// inputField is a field's Go type, the rest of its tag, and its comment. One that may be left out is a pointer, unless Go's zero is
// Python's default.
func (g *generator) inputField(f field, use usage) (expr, tag, note string) {
	expr = g.goType(f.Type, use)
	notes := []string{g.note(f.Type)}
	if !f.Required {
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
