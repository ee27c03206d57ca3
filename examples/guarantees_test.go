package examples

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGuaranteesNameTestsThatExist looks up every test, fault row and Python file that
// docs/guarantees.md names.
func TestGuaranteesNameTestsThatExist(t *testing.T) {
	var source strings.Builder
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "build" || d.Name() == ".git" || d.Name() == ".venv") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, "_test.go") {
			text, err := os.ReadFile(path)
			source.Write(text)
			return err
		}
		return nil
	}))
	all := func(pattern, text string) [][]string {
		return regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1)
	}
	exist := map[string]bool{}
	for _, found := range all(`(?m)^func ((?:Test|Fuzz)\w+)\(|"([A-Q]\d+[a-z]?)_`, source.String()) {
		exist[found[1]+found[2]] = true
	}
	page := readDoc(t, "docs/guarantees.md")
	names := all("`(?:[a-z]+: )?((?:Test|Fuzz)\\w+)`|`Fault/(\\w+)`", page)
	require.Greater(t, len(names), 300)
	for _, name := range names {
		require.True(t, exist[name[1]+name[2]], "%s is named, and is no test", name[0])
	}
	for _, between := range all("`Fault/([A-Q])(\\d+)[a-z]?` to\\s+`Fault/[A-Q](\\d+)[a-z]?`", page) {
		first, _ := strconv.Atoi(between[2])
		last, _ := strconv.Atoi(between[3])
		for i := first; i <= last; i++ {
			require.True(t, exist[fmt.Sprint(between[1], i)], "%s: there is no %s%d", between[0], between[1], i)
		}
	}
	for _, file := range all("`(?:python/tests/)?(test_\\w+\\.py)`", page) {
		require.FileExists(t, filepath.Join("../python/tests", file[1]))
	}
}
