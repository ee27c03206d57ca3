// Package main has functions whose names, and whose types' names, mean something in Python.
package main

import (
	"context"

	"github.com/pypool/pypool"
)

type message struct {
	From string `json:"from"`
	To   string `json:"to"`
}

type reply struct {
	Class string `json:"class"`
	Text  string `json:"text"`
}

type sized struct {
	Bytes int    `json:"bytes"`
	Data  []byte `json:"data"`
	Str   string `json:"str"`
}

// List is no list.
type List struct {
	Items []string `json:"items"`
}

// None is something.
type None struct {
	ID int64 `json:"id,string"`
}

type überfall struct {
	Self string `json:"self"`
}

type self struct {
	Self string `json:"self"`
	If   bool   `json:"if,omitempty"`
}

type term struct {
	In   string  `json:"in"`
	Not  *term   `json:"not"`
	With []*term `json:"with,omitempty"`
}

func send(_ context.Context, _ message) (reply, error)    { return reply{}, nil }
func size(_ context.Context, _ struct{}) (sized, error)   { return sized{}, nil }
func list(_ context.Context, _ None) (List, error)        { return List{}, nil }
func sources(_ context.Context, _ self) (überfall, error) { return überfall{}, nil }
func terms(_ context.Context, _ []term) (term, error)     { return term{}, nil }
func nothing(_ context.Context, _ string) (None, error)   { return None{}, nil }

func main() {
	_ = pypool.Config{Functions: pypool.Functions{
		"send": pypool.Func(send), "size": pypool.Func(size), "list": pypool.Func(list), "sources": pypool.Func(sources), "str": pypool.Func(nothing),
		"bytes": pypool.Func(size), "terms": pypool.Func(terms),
	}}
}
