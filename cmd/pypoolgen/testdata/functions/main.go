// Package main has functions for Python, as a program has them.
package main

import (
	"context"
	"time"

	"github.com/pypool/pypool"
)

type base struct {
	ID string `json:"id"`
}

type key struct {
	base
	Limit int  `json:"limit,omitempty"`
	Deep  *key `json:"deep"`
}

type user struct {
	Name  string            `json:"name"`
	Photo []byte            `json:"photo"`
	Since time.Time         `json:"since"`
	Tags  map[string][]bool `json:"tags,omitempty"`
}

type mail struct {
	From    string `json:"from"`
	Subject string `json:"subject,omitempty"`
	Size    *int64 `json:"size,string"`
}

type filed struct {
	Class string  `json:"class"`
	Under []*mail `json:"in-reply-to,omitempty"`
}

type shop struct{ users map[string]user }

func (s *shop) lookup(_ context.Context, k key) (user, error)      { return s.users[k.ID], nil }
func (s *shop) all(_ context.Context, _ struct{}) ([]*user, error) { return nil, nil }
func note(_ context.Context, text string) (struct{}, error)        { return struct{}{}, nil }
func send(_ context.Context, m mail) (filed, error)                { return filed{}, nil }
func find(_ context.Context, in struct {
	Class string `json:"class"`
}) (struct{}, error) {
	return struct{}{}, nil
}
func anything(_ context.Context, in any) (map[string]float64, error)     { return nil, nil }
func counts(_ context.Context, in map[string]int) (time.Duration, error) { return 0, nil }

func main() {
	s := &shop{}
	functions := pypool.Functions{"lookup": pypool.Func(s.lookup), "all": pypool.Func(s.all), "note": pypool.Func(note)}
	functions["send"], functions["find"] = pypool.Func(send), pypool.Func(find)
	functions["anything"] = pypool.Func(anything)
	functions["counts"] = pypool.Func(counts)
	unknown := pypool.Func(note)
	functions["unknown"] = unknown
	_ = pypool.Config{Functions: functions}
}
