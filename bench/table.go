package main

import (
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// metrics are the columns, in their order; those with a ratio are set against the references.
var metrics = []struct {
	name, title string
	ratio       bool
}{
	{p50, "p50 µs", true},
	{p99, "p99 µs", false},
	{perSecond, "calls/s", true},
	{cpu, "CPU µs/call", false},
	{lockWait, "lock ns/call", false},
	{ms, "ms", true},
	{dying, "dying ms", false},
	{rss, "RSS MiB", true},
	{pss, "PSS MiB", true},
	{kib, "KiB", true},
	{hostPeak, "host ×", false},
	{workPeak, "worker ×", false},
}

// print writes the run as tables for people.
func (r *results) print(out io.Writer) {
	fmt.Fprintf(out, "%s\n", r.Machine)
	fmt.Fprintf(out, "%s; %d ms a cell and round; load average %.1f before, %.1f after\n",
		r.When.Format("2006-01-02 15:04 MST"), r.CellMS, r.Load[0], r.Load[1])
	fmt.Fprintln(out, "Medians of the rounds. /X: the ratio to cell X of the same round, its median. ±: half their range. CPU: of the calling process.")
	for i := range r.Groups {
		fmt.Fprintln(out)
		r.Groups[i].print(out)
	}
}

func (m *measured) print(out io.Writer) {
	fmt.Fprintf(out, "%s: %s\n", m.Name, m.Title)
	columns := m.columns()
	head := make([]string, len(columns))
	for i, c := range columns {
		head[i] = c.title
	}
	rows := [][]string{head}
	for i := range m.Cells {
		cell := &m.Cells[i]
		line := []string{cell.Name, cell.Note}
		if cell.Note == "" {
			line = make([]string, len(columns))
			for i, c := range columns {
				line[i] = c.value(cell)
			}
		}
		rows = append(rows, line)
	}
	printAligned(out, rows)
}

// printAligned writes the first column to the left, the others to the right; a row of two columns
// is a name and a note.
func printAligned(out io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, line := range rows {
		for i, text := range line {
			if len(line) == len(widths) || i == 0 {
				widths[i] = max(widths[i], utf8.RuneCountInString(text))
			}
		}
	}
	for _, line := range rows {
		fmt.Fprintf(out, "  %-*s", widths[0], line[0])
		for i, text := range line[1:] {
			if len(line) < len(widths) {
				fmt.Fprintf(out, "  %s", text)
			} else {
				fmt.Fprintf(out, "  %*s", widths[i+1], text)
			}
		}
		fmt.Fprintln(out)
	}
}

type column struct {
	title string
	value func(*record) string // empty: the cell has none
}

// columns are those that any cell of the group has something in.
func (m *measured) columns() []column {
	all := []column{{"", func(r *record) string { return r.Name }}}
	add := func(title string, value func(*record) (float64, bool), text func(float64) string) {
		if !slices.ContainsFunc(m.Cells, func(r record) bool { _, ok := value(&r); return ok }) {
			return
		}
		all = append(all, column{title, func(r *record) string {
			if v, ok := value(r); ok {
				return text(v)
			}
			return ""
		}})
	}
	for _, metric := range metrics {
		add(metric.title, func(r *record) (float64, bool) { return r.median(metric.name) }, number)
		if metric.name == perSecond || metric.name == ms {
			add("±", func(r *record) (float64, bool) { return r.spread(metric.name) }, func(v float64) string { return fmt.Sprintf("%.0f%%", v*50) })
		}
		for _, title := range m.referenceTitles() {
			if metric.ratio || title == againstTitle {
				add("/"+title, func(r *record) (float64, bool) { return m.ratioTo(title, r, metric.name) }, func(v float64) string { return fmt.Sprintf("%.2f", v) })
			}
		}
	}
	return all
}

func (m *measured) referenceTitles() (titles []string) {
	for _, c := range m.Cells {
		for _, vs := range c.VS {
			if !slices.Contains(titles, vs.Title) {
				titles = append(titles, vs.Title)
			}
		}
	}
	return titles
}

// ratioTo is the cell's ratio to its reference of that title.
func (m *measured) ratioTo(title string, r *record, metric string) (float64, bool) {
	for _, vs := range r.VS {
		if to := m.cell(vs.Cell); vs.Title == title && to != nil {
			return ratio(r, to, metric)
		}
	}
	return 0, false
}

// number writes three digits, or all before the point, in groups of three.
func number(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	digits := fmt.Sprintf("%.0f", v)
	var grouped []byte
	for i := range len(digits) {
		if i > 0 && (len(digits)-i)%3 == 0 {
			grouped = append(grouped, ' ')
		}
		grouped = append(grouped, digits[i])
	}
	return string(grouped)
}
