package shm

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// assignment is Python's NAME = 1 and NAMES, LIKE, THESE = 1, 2, 3 at the margin.
var assignment = regexp.MustCompile(`(?m)^([A-Z_]+(?:, [A-Z_]+)*) = (\d+(?:, \d+)*)\b`)

// pythonConstants are the whole numbers that python/pypool gives names, by those.
func pythonConstants(t *testing.T) map[string][]int {
	t.Helper()
	files, err := filepath.Glob("../../python/pypool/*.py")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	constants := map[string][]int{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range assignment.FindAllStringSubmatch(string(source), -1) {
			names, values := strings.Split(m[1], ", "), strings.Split(m[2], ", ")
			if len(names) != len(values) {
				continue
			}
			for i, name := range names {
				n, err := strconv.Atoi(values[i])
				require.NoError(t, err)
				constants[name] = append(constants[name], n)
			}
		}
	}
	return constants
}

func TestTheTableOfWordsIsPythonsToo(t *testing.T) {
	constants := pythonConstants(t)
	assert.Equal(t, []int{words}, constants["WORDS"])
	for _, w := range Words {
		assert.Equal(t, []int{w.Index}, constants[w.Python], "%s stands once in python/pypool, as the number it has here", w.Python)
	}
}

func TestTheTableOfWordsIsTheProtocols(t *testing.T) {
	text, err := os.ReadFile("../../docs/protocol.md")
	require.NoError(t, err)
	begin := strings.Index(string(text), "- `page_fd`")
	require.Positive(t, begin)
	page, _, _ := strings.Cut(string(text[begin:]), "\n\n\n")
	page, _, _ = strings.Cut(page, "\nAfter hello")
	byHost := strings.Index(page, "The host stores")
	require.Positive(t, byHost)
	offsets := regexp.MustCompile(`(?m)^  - at offset (\d+)`).FindAllStringSubmatchIndex(page, -1)
	require.Len(t, offsets, len(Words), "one entry each")
	for i, w := range Words {
		at := offsets[i]
		assert.Equal(t, fmt.Sprint(8*w.Index), page[at[2]:at[3]], w.Python)
		assert.Equal(t, w.Writer == "host", at[0] > byHost, "the writer of %s", w.Python)
	}
}

func TestWordsOfDifferentWritersShareNoCacheLine(t *testing.T) {
	const line = 8
	writers := map[int]string{}
	for _, w := range Words {
		assert.Less(t, w.Index, words)
		if writer, ok := writers[w.Index/line]; ok {
			assert.Equal(t, writer, w.Writer, w.Python)
		}
		writers[w.Index/line] = w.Writer
	}
}
