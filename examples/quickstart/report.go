package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/pypool/pypool"
)

const top = 8 // rows of each table

// printSurvey prints what was found in the files.
func printSurvey(out io.Writer, s *survey) {
	t := newTable(out, "package", "files", "lines", "functions", "classes", "complexity / function")
	for i, g := range s.groups {
		if i == top {
			t.AppendRow(table.Row{fmt.Sprintf("(%d more)", len(s.groups)-top)})
			break
		}
		t.AppendRow(groupRow(g.name, *g))
	}
	t.AppendFooter(groupRow("all", s.total))
	t.Render()

	printFunctions(out, "longest (one a file)", s.longest)
	printFunctions(out, "most complex (one a file)", s.hardest)
	if n := s.unparsedFiles(); n > 0 {
		fmt.Fprintf(out, "Not counted above: %s that this interpreter cannot parse (%s).\n", plural(n, "file"), countsOf(s.unparsed))
	}
}

func (s *survey) unparsedFiles() int {
	n := 0
	for _, count := range s.unparsed {
		n += count
	}
	return n
}

func groupRow(name string, g totals) table.Row {
	mean := 0.0
	if g.functions > 0 {
		mean = float64(g.complexity) / float64(g.functions)
	}
	return table.Row{name, g.files, g.lines, g.functions, g.classes, fmt.Sprintf("%.2f", mean)}
}

func printFunctions(out io.Writer, title string, list []located) {
	t := newTable(out, title, "lines", "complexity", "file")
	for _, f := range list[:min(len(list), top)] {
		t.AppendRow(table.Row{f.Name, f.Lines, f.Complexity, fmt.Sprintf("%s:%d", f.file, f.Line)})
	}
	t.Render()
}

// printRuns sets the runs of the same job side by side.
func printRuns(out io.Writer, runs ...*outcome) {
	header := []string{"the pool"}
	rows := map[string]table.Row{}
	var order []string
	add := func(name string, value any) {
		if rows[name] == nil {
			rows[name] = table.Row{name}
			order = append(order, name)
		}
		rows[name] = append(rows[name], value)
	}
	for _, r := range runs {
		header = append(header, plural(r.workers, "worker"))
		st := r.stats
		add("started and pinged in", round(r.ready))
		add("the job took", round(r.took))
		add("calls", st.Started)
		add("waited for a worker, p50 / p95", round(st.CheckoutWait.P50)+" / "+round(st.CheckoutWait.P95))
		add("ran, p50 / p95", round(st.Run.P50)+" / "+round(st.Run.P95))
		add("workers started", st.WorkersStarted)
		add("errors", errorCounts(st.ByType))
	}
	t := newTable(out, header...)
	for _, name := range order {
		t.AppendRow(rows[name])
	}
	t.Render()
	if len(runs) == 2 {
		fmt.Fprintf(out, "%s did in %s what one does in %s: %.2f times as fast.\n",
			plural(runs[0].workers, "worker"), round(runs[0].took), round(runs[1].took), float64(runs[1].took)/float64(runs[0].took))
	}
}

// errorCounts prints failed calls by type; the exceptions are the files that are not valid Python.
func errorCounts(byType map[pypool.ErrorType]int64) string {
	counts := map[string]int{}
	for t, n := range byType {
		counts[string(t)] = int(n)
	}
	if len(counts) == 0 {
		return "none"
	}
	return countsOf(counts)
}

func countsOf(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[name], name))
	}
	return strings.Join(parts, ", ")
}

// newTable begins a table whose columns but the first, and those of file names, are numbers.
func newTable(out io.Writer, header ...string) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	t.Style().Format.Footer = text.FormatDefault
	t.SuppressTrailingSpaces()
	var row table.Row
	var columns []table.ColumnConfig
	for i, name := range header {
		row = append(row, name)
		if i > 0 && name != "file" {
			columns = append(columns, table.ColumnConfig{Number: i + 1, Align: text.AlignRight, AlignHeader: text.AlignRight, AlignFooter: text.AlignRight})
		}
	}
	t.AppendHeader(row)
	t.SetColumnConfigs(columns)
	return t
}

// round prints a duration with about three digits.
func round(d time.Duration) string {
	unit := time.Microsecond
	for unit < d/1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
