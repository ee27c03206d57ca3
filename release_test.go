package pypool

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestVersionsAgree: a release has one version, wherever it is written. `make release-check
// VERSION=0.2.0` says which one that is to be.
func TestVersionsAgree(t *testing.T) {
	version := cmp.Or(os.Getenv("PYPOOL_RELEASE"), Version)
	require.Regexp(t, `^\d+\.\d+\.\d+$`, version)
	require.Equal(t, version, Version, "runtime.go")
	written := func(path, pattern string) (found []string) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
			found = append(found, match[1])
		}
		require.NotEmpty(t, found, path)
		return found
	}
	require.Equal(t, []string{version}, written("python/pypool/__init__.py", `(?m)^__version__ = "(.*)"`))
	require.Equal(t, []string{version}, written("python/pyproject.toml", `(?m)^version = "(.*)"`))
	require.Equal(t, version, written("CHANGELOG.md", `(?m)^## (\S+)(?: \(\d{4}-\d\d-\d\d\))?$`)[0], "the newest section of CHANGELOG.md")

	transcripts, err := filepath.Glob("testdata/transcripts/*.jsonl")
	require.NoError(t, err)
	for _, path := range append(transcripts, "docs/protocol.md") {
		if strings.HasSuffix(path, "version_mismatch.jsonl") {
			continue // is about another one
		}
		for _, found := range written(path, `"(?:version|runtime)":"(\d[^"]*)"`) {
			require.Equal(t, version, found, path)
		}
	}

	modules, err := filepath.Glob("*/go.mod")
	require.NoError(t, err)
	deeper, err := filepath.Glob("*/*/go.mod")
	require.NoError(t, err)
	require.NotEmpty(t, modules)
	for _, path := range append(modules, deeper...) {
		if strings.HasPrefix(path, "build/") {
			continue
		}
		for _, found := range written(path, `(?m)^\s+github\.com/pypool/pypool\S* (v\S+)`) {
			require.Equal(t, "v"+version, found, "%s: who gets that module takes the version in require, not the replace", path)
		}
	}
}
