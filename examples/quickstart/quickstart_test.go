package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// counter counts by tokens what worker.py counts by syntax trees: def and class are keywords, so no
// parser is needed.
const counter = `
import sys, tokenize
functions = classes = lines = 0
for path in sys.stdin.read().split("\n"):
    with open(path, "rb") as file:
        words = [t.string for t in tokenize.tokenize(file.readline) if t.type == tokenize.NAME]
    functions += words.count("def")
    classes += words.count("class")
    with open(path, "rb") as file:
        lines += sum(1 for _ in file)
print(functions, classes, lines)
`

func TestTotalsAgreeWithAnIndependentCount(t *testing.T) {
	opts := options{limit: 60, script: "worker.py"}
	got, err := measure(t.Context(), opts, 2)
	require.NoError(t, err)

	pool, err := pypool.New(t.Context(), pypool.Config{Script: "worker.py", Size: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	files, err := pypool.Call[[]string](t.Context(), pool, "stdlib_files", map[string]int{"limit": opts.limit})
	require.NoError(t, err)

	cmd := exec.Command(interpreter(t), "-c", counter)
	cmd.Stdin = strings.NewReader(strings.Join(files, "\n"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	var functions, classes, lines int
	_, err = fmt.Sscan(string(out), &functions, &classes, &lines)
	require.NoError(t, err)

	total := got.survey.total
	require.Equal(t, opts.limit, total.files)
	require.Equal(t, functions, total.functions)
	require.Equal(t, classes, total.classes)
	require.Equal(t, lines, total.lines)
	require.GreaterOrEqual(t, total.complexity, total.functions)
	require.EqualValues(t, opts.limit+1, got.stats.Succeeded)
	require.EqualValues(t, 2, got.stats.WorkersStarted)
}

func TestMeasuresOneFile(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.py"), filepath.Join(dir, "pkg", "bad.py")
	require.NoError(t, os.Mkdir(filepath.Dir(bad), 0o700))
	require.NoError(t, os.WriteFile(bad, []byte("print 'Python 2'\n"), 0o600))
	require.NoError(t, os.WriteFile(good, []byte(`class C:
    def outer(self, rows):
        def inner(x):
            return 1 if x else 0
        for row in rows:
            if row and row.ok or row.late:
                pass
        return [inner(r) for r in rows if r]


async def last():
    pass`), 0o600))

	pool, err := pypool.New(t.Context(), pypool.Config{Script: "worker.py", Size: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	got, err := analyzeAll(t.Context(), pool, []string{good, bad}, 2, func() {})
	require.NoError(t, err)

	require.Equal(t, map[string]int{"SyntaxError": 1}, got.unparsed)
	// outer: itself, for, if, and, or, comprehension and its if: 7. inner: itself and a
	// conditional: 2. last: 1.
	require.Equal(t, totals{files: 1, lines: 12, functions: 3, classes: 1, complexity: 10}, got.total)
	require.Equal(t, located{function{Name: "outer", Line: 2, Lines: 7, Complexity: 7}, "good.py"}, got.longest[0])

	var printed bytes.Buffer
	printSurvey(&printed, got)
	require.Contains(t, printed.String(), "good.py:2")
	require.Contains(t, printed.String(), "1 file that this interpreter cannot parse (1 SyntaxError)")
}

// TestInterrupt sends the built program what Ctrl-C sends it, in the middle of its work.
func TestInterrupt(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	binary := filepath.Join(t.TempDir(), "quickstart")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Stderr = os.Stderr
	require.NoError(t, build.Run())

	cmd := exec.Command(binary, "-workers", "2")
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	watchdog := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()

	var workers []int
	var said strings.Builder
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if strings.HasSuffix(lines.Text(), " 25 %") && workers == nil {
			workers = children(t, cmd.Process.Pid)
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
		}
	}
	var exit *exec.ExitError
	require.True(t, errors.As(cmd.Wait(), &exit), "it ended without an error: %s", said.String())
	require.Equal(t, 130, exit.ExitCode(), said.String())
	require.Contains(t, said.String(), "interrupted")
	require.Len(t, workers, 2)
	for _, pid := range workers {
		require.NoDirExists(t, fmt.Sprintf("/proc/%d", pid), "a worker outlived the program")
	}
}

// children finds the processes that pid has started.
func children(t *testing.T, pid int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	list := []int{}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // state, parent, …
		if fields[1] == strconv.Itoa(pid) {
			child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			require.NoError(t, err)
			list = append(list, child)
		}
	}
	return list
}

// interpreter is a Python of the same standard library as the workers': theirs, in a test without
// -python.
func interpreter(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("PYPOOL_PYTHON"); path != "" {
		return path
	}
	path, err := exec.LookPath("python3")
	require.NoError(t, err)
	return path
}
