package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The Go type of each hint is the one that the table names from which python/tests/test_hints.py
// takes what arrives.
func TestHints(t *testing.T) {
	data, err := os.ReadFile("../../testdata/hints.json")
	require.NoError(t, err)
	var table struct {
		Source string
		Rows   []struct {
			Hint  string
			GoIn  string `json:"go_in"`
			GoOut string `json:"go_out"`
		}
	}
	require.NoError(t, json.Unmarshal(data, &table))
	require.Greater(t, len(table.Rows), 50)
	var b strings.Builder
	b.WriteString("from pypool import command\n" + table.Source)
	for i, row := range table.Rows {
		fmt.Fprintf(&b, "\n@command\ndef f%d(x: %s) -> %s: return x\n", i, row.Hint, row.Hint)
	}
	script := filepath.Join(t.TempDir(), "hinted.py")
	require.NoError(t, os.WriteFile(script, []byte(b.String()), 0o600))
	code := generated(t, "-script", script, "-package", "p")
	in := regexp.MustCompile(`type F(\d+)Args struct \{\n\tX +([^ \n]+) `)
	out := regexp.MustCompile(`\) F(\d+)\([^)]*\) \(([^,]+), error\)`)
	found := map[string]string{}
	for _, match := range in.FindAllStringSubmatch(code, -1) {
		found["in "+match[1]] = match[2]
	}
	for _, match := range out.FindAllStringSubmatch(code, -1) {
		found["out "+match[1]] = match[2]
	}
	for i, row := range table.Rows {
		if row.GoIn != "" {
			require.Equal(t, row.GoIn, found[fmt.Sprintf("in %d", i)], "argument %s", row.Hint)
		}
		if row.GoOut != "" {
			require.Equal(t, row.GoOut, found[fmt.Sprintf("out %d", i)], "result %s", row.Hint)
		}
	}
}
