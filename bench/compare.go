package main

import (
	"fmt"
	"io"
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// newest sorts result files by their date and number, the newest first.
func newest(paths []string) []string {
	paths = slices.DeleteFunc(paths, func(path string) bool { return filepath.Ext(path) != ".json" })
	number := func(path string) (date string, n int) {
		name := strings.TrimSuffix(filepath.Base(path), ".json")
		if at := strings.LastIndexByte(name, '-'); at > 0 {
			date = name[:at]
			_, _ = fmt.Sscan(name[at+1:], &n)
		}
		return date, n
	}
	slices.SortFunc(paths, func(a, b string) int {
		dateA, nA := number(a)
		dateB, nB := number(b)
		if dateA != dateB {
			return strings.Compare(dateB, dateA)
		}
		return nB - nA
	})
	return paths
}

// lastTwo finds the newest run in dir, and the newest committed one before it.
func lastTwo(dir string) (now, before string, err error) {
	all, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return "", "", err
	}
	listed, err := exec.Command("git", "ls-tree", "--name-only", "HEAD", dir+"/").Output()
	if err != nil {
		return "", "", fmt.Errorf("git does not tell the committed results: %w", err)
	}
	if all = newest(all); len(all) == 0 {
		return "", "", fmt.Errorf("there are no results in %s", dir)
	}
	for _, path := range newest(strings.Fields(string(listed))) {
		if path = filepath.Clean(path); path != filepath.Clean(all[0]) {
			return all[0], path, nil
		}
	}
	return "", "", fmt.Errorf("there are no committed results in %s beside %s", dir, all[0])
}

// compare prints what has changed from one run to another: ratios of medians, and for calls also of
// the ratios to the floor, which tell a slower pool from a slower machine. A change is marked when
// no round of one run is within the range of the other's.
func compare(out io.Writer, now, before *results) {
	fmt.Fprintf(out, "now     %s: %s\nbefore  %s: %s\n", now.When.Format("2006-01-02 15:04"), now.Machine, before.When.Format("2006-01-02 15:04"), before.Machine)
	fmt.Fprintln(out, "now / before; (floor): the same of the ratios to the floor; *: the rounds of the two runs do not overlap")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	defer w.Flush()
	for i := range now.Groups {
		g := &now.Groups[i]
		for j := range g.Cells {
			c := &g.Cells[j]
			old := before.cell(g.Name + "/" + c.Name)
			if old == nil || len(old.Rounds) == 0 || len(c.Rounds) == 0 {
				continue
			}
			fmt.Fprintf(w, "%s/%s\t", g.Name, c.Name)
			for _, metric := range metrics {
				a, okA := c.median(metric.name)
				b, okB := old.median(metric.name)
				if !okA || !okB || b == 0 {
					continue
				}
				mark := ""
				if apart(c, old, metric.name) {
					mark = "*"
				}
				fmt.Fprintf(w, "%s %.2f%s\t", metric.title, a/b, mark)
				if metric.name != perSecond {
					continue
				}
				fmt.Fprint(w, floorChange(now, before, g.Name, c, old), "\t")
			}
			fmt.Fprintln(w, "  ")
		}
	}
}

func floorChange(now, before *results, group string, c, old *record) string {
	for _, vs := range c.VS {
		to, oldTo := now.cell(group+"/"+vs.Cell), before.cell(group+"/"+vs.Cell)
		if vs.Title != "floor" || to == nil || oldTo == nil {
			continue
		}
		a, okA := ratio(c, to, perSecond)
		b, okB := ratio(old, oldTo, perSecond)
		if okA && okB {
			return fmt.Sprintf("(floor) %.2f", a/b)
		}
	}
	return ""
}

// apart tells whether all rounds of one lie beyond all rounds of the other.
func apart(a, b *record, metric string) bool {
	span := func(r *record) (lowest, highest float64) {
		lowest, highest = math.Inf(1), math.Inf(-1)
		for _, round := range r.Rounds {
			lowest, highest = min(lowest, round[metric]), max(highest, round[metric])
		}
		return lowest, highest
	}
	lowA, highA := span(a)
	lowB, highB := span(b)
	return lowA > highB || lowB > highA
}
