package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// results is one run, as it is kept.
type results struct {
	Machine machine    `json:"machine"`
	When    time.Time  `json:"when"`
	CellMS  int64      `json:"cell_ms"`
	Load    [2]float64 `json:"load"` // average over a minute, before and after
	Groups  []measured `json:"groups"`
}

// measured is a group after its rounds.
type measured struct {
	Name  string   `json:"name"`
	Title string   `json:"title"`
	Cells []record `json:"cells"`
}

// record is a cell after its rounds.
type record struct {
	Name   string      `json:"name"`
	Note   string      `json:"note,omitempty"` // why there are no rounds
	VS     []reference `json:"vs,omitempty"`
	Rounds []round     `json:"rounds"`
}

// median is the metric's median over the rounds; ok is false when the cell has no such metric.
func (r *record) median(metric string) (value float64, ok bool) {
	var values []float64
	for _, round := range r.Rounds {
		if v, ok := round[metric]; ok {
			values = append(values, v)
		}
	}
	return median(values)
}

// spread is how far the rounds lie apart, as a share of their median.
func (r *record) spread(metric string) (share float64, ok bool) {
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, round := range r.Rounds {
		if v, ok := round[metric]; ok {
			lowest, highest = min(lowest, v), max(highest, v)
		}
	}
	middle, ok := r.median(metric)
	return (highest - lowest) / middle, ok
}

// ratio is the median of the rounds' own ratios: what slows the whole machine for a while cancels
// out of it.
func ratio(r, to *record, metric string) (value float64, ok bool) {
	var values []float64
	for i := range min(len(r.Rounds), len(to.Rounds)) {
		a, b := r.Rounds[i][metric], to.Rounds[i][metric]
		if a > 0 && b > 0 {
			values = append(values, a/b)
		}
	}
	return median(values)
}

func median(values []float64) (float64, bool) {
	if len(values) == 0 {
		return 0, false
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2, true
}

func (m *measured) cell(name string) *record {
	for i := range m.Cells {
		if m.Cells[i].Name == name {
			return &m.Cells[i]
		}
	}
	return nil
}

// cell finds a cell by GROUP/NAME.
func (r *results) cell(name string) *record {
	group, name, _ := strings.Cut(name, "/")
	for i := range r.Groups {
		if r.Groups[i].Name == group {
			return r.Groups[i].cell(name)
		}
	}
	return nil
}

// --- files ----------------------------------------------------------------------------------------------------------

// encode writes one cell a line, so that a difference between two runs can be read.
func (r *results) encode() ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	for _, at := range []string{`"when":`, `"groups":`, `{"name":`} {
		text = bytes.ReplaceAll(text, []byte(at), []byte("\n"+at))
	}
	return append(bytes.TrimSpace(text), '\n'), nil
}

// significant keeps four digits.
func significant(v float64) float64 {
	short, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', 4, 64), 64)
	if err != nil {
		return v
	}
	return short
}

// save writes the run as DIR/DATE-N.json, the next N of the day.
func (r *results) save(dir string) (path string, err error) {
	text, err := r.encode()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for n := 1; ; n++ {
		path := filepath.Join(dir, fmt.Sprintf("%s-%d.json", r.When.Format(time.DateOnly), n))
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if os.IsExist(err) {
			continue
		}
		if err != nil {
			return "", err
		}
		_, err = f.Write(text)
		if closed := f.Close(); err == nil {
			err = closed
		}
		return path, err
	}
}

func load(path string) (*results, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &results{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}
