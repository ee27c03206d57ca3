package main

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pypool/pypool"
)

// function and fileReport are what worker.py returns: dataclasses there, structs here.
type function struct {
	Name       string `json:"name"`
	Line       int    `json:"line"`
	Lines      int    `json:"lines"`
	Complexity int    `json:"complexity"`
}

type fileReport struct {
	Lines      int       `json:"lines"`
	Functions  int       `json:"functions"`
	Classes    int       `json:"classes"`
	Complexity int       `json:"complexity"`
	Longest    *function `json:"longest"` // nil when the file has no function
	Hardest    *function `json:"hardest"`
}

// located is a function and the file it stands in.
type located struct {
	function
	file string
}

// totals are the figures of a group of files.
type totals struct {
	name                                         string
	files, lines, functions, classes, complexity int
}

func (t *totals) add(r fileReport) {
	t.files++
	t.lines += r.Lines
	t.functions += r.Functions
	t.classes += r.Classes
	t.complexity += r.Complexity
}

// survey is what is known of all files.
type survey struct {
	total    totals
	groups   []*totals      // by package, most lines first
	longest  []located      // one of each file, longest first
	hardest  []located      // one of each file, most complex first
	unparsed map[string]int // files that are not valid Python, by exception
}

// analyzeAll has the pool measure every file, with at most callers calls at once: a few more than
// workers, so that no worker waits for Go. A file that Python cannot parse is counted; any other
// error ends the job.
func analyzeAll(ctx context.Context, pool *pypool.Pool, files []string, callers int, step func()) (*survey, error) {
	reports := make(map[string]fileReport, len(files))
	unparsed := map[string]int{}
	var mu sync.Mutex // guards reports and unparsed
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(callers)
	for _, file := range files {
		group.Go(func() error {
			report, err := pypool.Call[fileReport](ctx, pool, "analyze", map[string]string{"path": file})
			mu.Lock()
			defer mu.Unlock()
			var python *pypool.PythonError
			switch {
			case err == nil:
				reports[file] = report
			case errors.As(err, &python) && slices.Contains(parseErrors, python.Type):
				unparsed[python.Type]++
			default:
				return err
			}
			step()
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return summarize(filepath.Dir(files[0]), reports, unparsed), nil
}

// parseErrors are the exceptions by which ast.parse says that a file is at fault; any other one is
// a fault of worker.py.
var parseErrors = []string{"SyntaxError", "IndentationError", "TabError", "ValueError", "RecursionError"}

func summarize(root string, reports map[string]fileReport, unparsed map[string]int) *survey {
	s := &survey{unparsed: unparsed}
	groups := map[string]*totals{}
	for file, report := range reports {
		if rel, err := filepath.Rel(root, file); err == nil {
			file = rel
		}
		pkg, _, inPackage := strings.Cut(file, string(filepath.Separator))
		if !inPackage {
			pkg = "(single modules)"
		}
		if groups[pkg] == nil {
			groups[pkg] = &totals{name: pkg}
			s.groups = append(s.groups, groups[pkg])
		}
		groups[pkg].add(report)
		s.total.add(report)
		if report.Longest != nil {
			s.longest = append(s.longest, located{*report.Longest, file})
			s.hardest = append(s.hardest, located{*report.Hardest, file})
		}
	}
	slices.SortFunc(s.groups, func(a, b *totals) int {
		return cmp.Or(cmp.Compare(b.lines, a.lines), cmp.Compare(a.name, b.name))
	})
	slices.SortFunc(s.longest, func(a, b located) int {
		return cmp.Or(cmp.Compare(b.Lines, a.Lines), cmp.Compare(a.file, b.file))
	})
	slices.SortFunc(s.hardest, func(a, b located) int {
		return cmp.Or(cmp.Compare(b.Complexity, a.Complexity), cmp.Compare(a.file, b.file))
	})
	return s
}
