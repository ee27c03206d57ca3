package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newTestBench(t *testing.T) *bench {
	t.Helper()
	b, err := newBench(t.Context(), defaultPython(), filepath.Join(".venv", "bin", "python"))
	require.NoError(t, err)
	b.shrink = 64
	t.Cleanup(func() { require.NoError(t, b.close()) })
	return b
}

// Every cell measures something. How long that takes is nobody's business here.
func TestCells(t *testing.T) {
	b := newTestBench(t)
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			defer func() { require.NoError(t, b.closeShared()) }()
			for _, c := range g.cells {
				t.Run(c.name, func(t *testing.T) {
					got, err := c.measure(b, 3*time.Millisecond)
					if isMissing(err) {
						t.Skip(err)
					}
					require.NoError(t, err)
					require.NotEmpty(t, got)
					for _, vs := range c.vs {
						require.True(t, hasCell(g, vs.Cell), "there is no cell %s to set it against", vs.Cell)
					}
				})
			}
		})
	}
}

func hasCell(g group, name string) bool {
	for _, c := range g.cells {
		if c.name == name {
			return true
		}
	}
	return false
}

// The targets name cells and metrics that exist.
func TestTargets(t *testing.T) {
	r := &results{}
	every := round{}
	for _, m := range metrics {
		every[m.name] = 1
	}
	for _, g := range groups() {
		m := measured{Name: g.name}
		for _, c := range g.cells {
			m.Cells = append(m.Cells, record{Name: c.name, Rounds: []round{every}})
		}
		r.Groups = append(r.Groups, m)
	}
	for _, target := range targets {
		_, ok := target.value(r)
		require.True(t, ok, target.what)
	}
}

// A run goes all the way: measured, printed, kept, loaded, compared, drawn.
func TestRun(t *testing.T) {
	b := newTestBench(t)
	chosen := choose(groups(), regexp.MustCompile(`^call/pool/1c-1w$|^peer/naive/(1|8)c$|^start/pool/1$`), true)
	r, err := b.measure(t.Context(), chosen, 2, time.Millisecond, io.Discard)
	require.NoError(t, err)
	var table bytes.Buffer
	r.print(&table)
	r.printTargets(&table)
	for _, expected := range []string{"call: ", "pool/1c-1w", "/floor", "naive/8c", "start of one worker"} {
		require.Contains(t, table.String(), expected)
	}

	dir := t.TempDir()
	first, err := r.save(dir)
	require.NoError(t, err)
	second, err := r.save(dir)
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	again, err := load(first)
	require.NoError(t, err)
	require.Equal(t, r, again)
	table.Reset()
	compare(&table, r, again)
	require.Contains(t, table.String(), "p50 µs 1.00")
	require.NotContains(t, table.String(), "1.00*")

	picture := filepath.Join(dir, "latest.png")
	require.NoError(t, r.draw(picture))
	png, err := os.ReadFile(picture)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(png, []byte("\x89PNG")))
}

// Another build measures the same cells by order.
func TestAgainst(t *testing.T) {
	there := newTestBench(t)
	orders, send := io.Pipe()
	receive, answers := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- serve(orders, answers, there) }()

	here := newTestBench(t)
	base := newOther(send, receive)
	g := base.beside(choose(groups(), regexp.MustCompile(`^call/pool/1c-1w$`), false)[0])
	done, err := here.measureGroup(t.Context(), g, 1, time.Millisecond, func(int) {})
	require.NoError(t, err)
	for _, name := range []string{"pool/1c-1w", "pool/1c-1w@base"} {
		require.Len(t, done.cell(name).Rounds, 1, name)
	}
	_, ok := done.ratioTo(againstTitle, done.cell("pool/1c-1w"), cpu)
	require.True(t, ok)
	_, err = base.measure("no/such", 1)
	require.ErrorContains(t, err, "no cell no/such")
	require.NoError(t, send.Close())
	require.NoError(t, <-ended)
}

func TestNewest(t *testing.T) {
	got := newest([]string{"r/2026-11-23-2.json", "r/2026-12-01-1.json", "r/latest.png", "r/2026-11-23-10.json"})
	require.Equal(t, []string{"r/2026-12-01-1.json", "r/2026-11-23-10.json", "r/2026-11-23-2.json"}, got)
}

func TestMedianAndRatio(t *testing.T) {
	a := &record{Rounds: []round{{ms: 10}, {ms: 40}, {ms: 30}}}
	b := &record{Rounds: []round{{ms: 5}, {ms: 10}, {ms: 10}}}
	v, ok := a.median(ms)
	require.True(t, ok)
	require.InDelta(t, 30, v, 0)
	v, ok = ratio(a, b, ms)
	require.True(t, ok)
	require.InDelta(t, 3, v, 0)
	_, ok = a.median(p50)
	require.False(t, ok)
	require.True(t, apart(&record{Rounds: []round{{ms: 1}, {ms: 2}}}, &record{Rounds: []round{{ms: 3}}}, ms))
	require.False(t, apart(a, b, ms))
}
