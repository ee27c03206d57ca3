// Package examples holds the tests that keep the documents true: what they show compiles, runs and
// prints what they say.
package examples

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// The errors of docs/errors.md, each provoked on a pool of one worker and compared with the line
// that its section shows.
var provocations = []struct {
	name    string
	section string
	err     func(t *testing.T, p *pypool.Pool) error
}{
	{"in the queue", "checkout_timeout", func(t *testing.T, p *pypool.Pool) error {
		defer occupy(t, p)()
		return greet(t.Context(), p, pypool.WithCheckoutTimeout(200*time.Millisecond))
	}},
	{"a hanging call", "operation_timeout", func(t *testing.T, p *pypool.Pool) error {
		require.NoError(t, execute(t.Context(), p, "sleep", map[string]any{"seconds": 0})) // the first one imports what it needs
		return execute(t.Context(), p, "sleep", map[string]any{"seconds": 60}, pypool.WithTimeout(200*time.Millisecond))
	}},
	{"a canceled call", "canceled", func(t *testing.T, p *pypool.Pool) error {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(300*time.Millisecond, cancel)
		return execute(ctx, p, "sleep", map[string]any{"seconds": 60})
	}},
	{"a slow reader", "stream_stalled", func(t *testing.T, p *pypool.Pool) (last error) {
		for _, err := range p.Stream(t.Context(), "letters", map[string]any{"count": 1}, pypool.WithStallTimeout(100*time.Millisecond)) {
			if last = err; err == nil {
				time.Sleep(300 * time.Millisecond)
			}
		}
		return last
	}},
	{"after Close", "pool_not_available", func(t *testing.T, p *pypool.Pool) error {
		require.NoError(t, p.Close())
		return greet(t.Context(), p)
	}},
	{"one too many", "queue_full", func(t *testing.T, p *pypool.Pool) error {
		defer occupy(t, p)()
		var waiting sync.WaitGroup
		for range 2 {
			waiting.Go(func() { _ = greet(t.Context(), p) })
		}
		defer waiting.Wait()
		for p.Stats().Waiting < 2 {
			time.Sleep(time.Millisecond)
		}
		return greet(t.Context(), p)
	}},
	{"a function that calls its own pool", "nested_call", func(t *testing.T, _ *pypool.Pool) (inner error) {
		var pool *pypool.Pool
		ask := func(ctx context.Context, _ struct{}) (struct{}, error) {
			inner = greet(ctx, pool)
			return struct{}{}, nil
		}
		pool, err := pypool.New(t.Context(), pypool.Config{
			Script: "testdata/app.py", Size: 1, Overflow: -1, Logger: silent, Functions: pypool.Functions{"ask": pypool.Func(ask)},
		})
		require.NoError(t, err)
		defer pool.Close()
		require.NoError(t, execute(t.Context(), pool, "ask_host", nil))
		return inner
	}},
	{"a command that keeps costing workers", "circuit_open", func(t *testing.T, p *pypool.Pool) error {
		for range 5 {
			require.ErrorIs(t, execute(t.Context(), p, "leave", nil), pypool.ErrWorkerExited)
		}
		return execute(t.Context(), p, "leave", nil)
	}},
	{"a missing module", "worker_start_failed", func(t *testing.T, _ *pypool.Pool) error {
		_, err := pypool.New(t.Context(), pypool.Config{Script: "testdata/broken.py", Logger: silent})
		return err
	}},
	{"os._exit", "worker_exited", func(t *testing.T, p *pypool.Pool) error {
		return execute(t.Context(), p, "leave", nil)
	}},
	{"writing to every descriptor", "protocol_violation", func(t *testing.T, p *pypool.Pool) error {
		return execute(t.Context(), p, "noise", nil)
	}},
	{"a large argument", "message_too_large", func(t *testing.T, p *pypool.Pool) error {
		return execute(t.Context(), p, "greet", map[string]any{"name": strings.Repeat("A", 2_000_000)})
	}},
	{"a wrong argument", "invalid_arguments", func(t *testing.T, p *pypool.Pool) error {
		return execute(t.Context(), p, "greet", map[string]any{"nam": "Ann"})
	}},
	{"a wrong name", "unknown_command", func(t *testing.T, p *pypool.Pool) error {
		return execute(t.Context(), p, "leafe", nil)
	}},
	{"an exception", "python_exception", func(t *testing.T, p *pypool.Pool) error {
		return execute(t.Context(), p, "convert", map[string]any{"text": "abc"})
	}},
	{"NaN", "invalid_result", func(t *testing.T, p *pypool.Pool) error {
		return execute(t.Context(), p, "scores", nil)
	}},
	{"another type", "decode_failed", func(t *testing.T, p *pypool.Pool) error {
		_, err := pypool.Call[int](t.Context(), p, "greet", map[string]any{"name": "Ann"})
		return err
	}},
	{"a broken runtime", "unexpected_error", func(t *testing.T, p *pypool.Pool) error {
		require.NoError(t, execute(t.Context(), p, "sabotage", nil))
		return greet(t.Context(), p)
	}},
}

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

func TestErrorsAreAsDocumented(t *testing.T) {
	sections := errorSections(t)
	here, err := filepath.Abs("testdata")
	require.NoError(t, err)
	documented := map[string]bool{}
	for _, p := range provocations {
		documented[p.section] = true
		t.Run(p.section+"/"+p.name, func(t *testing.T) {
			pool, err := pypool.New(t.Context(), pypool.Config{
				Script: "testdata/app.py", Size: 1, Overflow: -1, MaxQueue: 2, MaxMessageBytes: 1 << 20, Logger: silent,
			})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, pool.Close()) })
			err = p.err(t, pool)
			var e *pypool.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, p.section, string(e.Type))
			line := strings.ReplaceAll(err.Error(), here, "/srv/app")
			line = regexp.MustCompile(`took 3\d\dms`).ReplaceAllString(line, "took 300ms")
			require.Contains(t, sections[p.section], "```text\n"+line+"\n```")
			require.Contains(t, sections[p.section], string(e.Category))
			require.Contains(t, sections[p.section], e.Delivery.String())
		})
	}
	for section := range sections {
		require.True(t, documented[section], "no test provokes the error of the section %s", section)
	}
	require.Len(t, sections, 18)
}

// errorSections are the parts of docs/errors.md that describe an error type, by its name.
func errorSections(t *testing.T) map[string]string {
	text, _, _ := strings.Cut(readDoc(t, "docs/errors.md"), "\n## Recovery\n")
	sections := map[string]string{}
	for _, part := range strings.Split(text, "\n### ")[1:] {
		name, body, _ := strings.Cut(part, "\n")
		body, _, _ = strings.Cut(body, "\n## ")
		sections[name] = body
	}
	return sections
}

func execute(ctx context.Context, p *pypool.Pool, command string, args any, opts ...pypool.CallOption) error {
	_, err := p.ExecuteAnonymous(ctx, command, args, opts...)
	return err
}

func greet(ctx context.Context, p *pypool.Pool, opts ...pypool.CallOption) error {
	return execute(ctx, p, "greet", map[string]any{"name": "Ann"}, opts...)
}

// occupy keeps the pool's worker busy for a second and returns what waits for its end.
func occupy(t *testing.T, p *pypool.Pool) (wait func()) {
	var busy sync.WaitGroup
	busy.Go(func() { _ = execute(t.Context(), p, "sleep", map[string]any{"seconds": 1}) })
	for p.Stats().Busy == 0 {
		time.Sleep(time.Millisecond)
	}
	return busy.Wait
}

// compiled are the documents whose code is tried.
var compiled = []string{
	"README.md", "docs/errors.md", "docs/operations.md", "docs/testing.md", "docs/containers.md", "docs/http.md", "docs/streaming.md", "docs/agents.md", "docs/batching.md",
	"docs/observability.md", "docs/files.md", "docs/gpus.md", "docs/machines.md", "docs/comparison.md",
}

// TestSnippets compiles every Go block of the documents. A block is a whole program, or the inside
// of a function that has the names which the documents say it has.
func TestSnippets(t *testing.T) {
	dir, err := filepath.Abs(".")
	require.NoError(t, err)
	overlay := map[string]string{} // files that are only pretended to be in this module
	temp := t.TempDir()
	for _, doc := range compiled {
		for i, code := range blocks(readDoc(t, doc), "go") {
			if !strings.HasPrefix(code, "package ") {
				code = fragment(code)
			}
			name := fmt.Sprintf("%s_%d", strings.TrimSuffix(filepath.Base(doc), ".md"), i+1)
			source := filepath.Join(temp, name+".go")
			require.NoError(t, os.WriteFile(source, []byte(code), 0o600))
			overlay[filepath.Join(dir, "snippets", name, "main.go")] = source
		}
	}
	require.NotEmpty(t, overlay)
	args := []string{"build", "-overlay", writeOverlay(t, overlay)}
	for path := range overlay {
		args = append(args, "./snippets/"+filepath.Base(filepath.Dir(path)))
	}
	out, err := goCommand(dir, args...)
	require.NoError(t, err, "%s", out)
}

// TestTestingPage runs the tests that docs/testing.md shows, with the README's worker.
func TestTestingPage(t *testing.T) {
	dir, err := filepath.Abs(".")
	require.NoError(t, err)
	temp := t.TempDir()
	overlay := map[string]string{}
	for i, code := range blocks(readDoc(t, "docs/testing.md"), "go") {
		source := filepath.Join(temp, fmt.Sprintf("%d_test.go", i))
		require.NoError(t, os.WriteFile(source, []byte(strings.Replace(fragment(code), "func main() {}\n", "", 1)), 0o600))
		overlay[filepath.Join(dir, "snippets", filepath.Base(source))] = source
	}
	require.NoError(t, os.WriteFile(filepath.Join(temp, "worker.py"), []byte(blocks(readDoc(t, "README.md"), "python")[0]), 0o600))
	binary := filepath.Join(temp, "tests")
	out, err := goCommand(dir, "test", "-vet=off", "-overlay", writeOverlay(t, overlay), "-c", "-o", binary, "./snippets")
	require.NoError(t, err, "%s", out)
	run := exec.Command(binary, "-test.v")
	run.Dir = temp
	out, err = run.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 2, strings.Count(string(out), "--- PASS: "), "%s", out)
}

// TestPythonSnippets compiles every Python block of the documents.
func TestPythonSnippets(t *testing.T) {
	const compile = "import ast, json, sys\nfor name, code in json.load(sys.stdin):\n    ast.parse(code, name)\n"
	var all [][2]string
	for _, doc := range append([]string{"python/README.md", "uv/README.md", "docs/data.md"}, compiled...) {
		for _, code := range blocks(readDoc(t, doc), "python") {
			all = append(all, [2]string{doc, code})
		}
	}
	require.Greater(t, len(all), 15)
	input, err := json.Marshal(all)
	require.NoError(t, err)
	python := exec.Command(cmp.Or(os.Getenv("PYPOOL_PYTHON"), "python3"), "-c", compile)
	python.Stdin = bytes.NewReader(input)
	out, err := python.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// TestLinksLeadSomewhere follows the links of the documents to files, and to their headings.
func TestLinksLeadSomewhere(t *testing.T) {
	docs, err := filepath.Glob("../docs/*.md")
	require.NoError(t, err)
	for _, pattern := range []string{"../*.md", "../*/README.md", "*/README.md"} {
		more, err := filepath.Glob(pattern)
		require.NoError(t, err)
		docs = append(docs, more...)
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, doc := range docs {
		text, err := os.ReadFile(doc)
		require.NoError(t, err)
		for _, m := range link.FindAllStringSubmatch(regexp.MustCompile("(?s)```.*?```|`[^`\n]*`").ReplaceAllString(string(text), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(m[1], "#")
			target := doc
			if path != "" {
				target = filepath.Join(filepath.Dir(doc), path)
			}
			info, err := os.Stat(target)
			require.NoError(t, err, "%s: %s", doc, m[1])
			if anchor != "" && !info.IsDir() {
				require.Contains(t, anchors(t, target), anchor, "%s: %s", doc, m[1])
			}
		}
	}
}

// anchors are the headings of a document, as links name them.
func anchors(t *testing.T, path string) (list []string) {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(string(text), -1) {
		name := strings.ToLower(regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(m[1], ""))
		list = append(list, strings.ReplaceAll(strings.TrimSpace(name), " ", "-"))
	}
	return list
}

// TestBadgesAreTrue compares what the pictures say with what is so.
func TestBadgesAreTrue(t *testing.T) {
	mod := readDoc(t, "go.mod")
	direct, _, _ := strings.Cut(mod[strings.Index(mod, "require ("):], ")")
	needed := -2 // testify and goleak are for tests
	for line := range strings.Lines(direct) {
		if strings.Contains(line, " v") && !strings.Contains(line, "// indirect") {
			needed++
		}
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(mod)[1]
	python := regexp.MustCompile(`requires-python = ">=([\d.]+)"`).FindStringSubmatch(readDoc(t, "python/pyproject.toml"))[1]
	require.Contains(t, readDoc(t, "LICENSE"), "MIT License")
	for file, says := range map[string]string{
		"go": "Go: " + version + "+", "python": "CPython: " + python + "+", "dependencies": fmt.Sprint("dependencies: ", needed), "licence": "licence: MIT", "system": "system: Linux",
	} {
		require.Contains(t, readDoc(t, "docs/badges/"+file+".svg"), "<title>"+says+"</title>")
	}
}

// TestReadmeProgram runs the README's first program with its worker.
func TestReadmeProgram(t *testing.T) {
	readme := readDoc(t, "README.md")
	dir, err := filepath.Abs(".")
	require.NoError(t, err)
	temp := t.TempDir()
	source := filepath.Join(temp, "main.go")
	require.NoError(t, os.WriteFile(source, []byte(blocks(readme, "go")[0]), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(temp, "worker.py"), []byte(blocks(readme, "python")[0]), 0o600))
	binary := filepath.Join(temp, "program")
	out, err := goCommand(dir, "build", "-overlay", writeOverlay(t, map[string]string{filepath.Join(dir, "snippets", "main.go"): source}), "-o", binary, "./snippets")
	require.NoError(t, err, "%s", out)
	run := exec.Command(binary)
	run.Dir = temp
	out, err = run.CombinedOutput() // with the pool's log
	require.NoError(t, err)
	require.Equal(t, blocks(readme, "text")[0], string(out))
}

// Whoever is called at night finds each message of the log in docs/operations.md.
func TestOperationsListsTheLog(t *testing.T) {
	_, table, found := strings.Cut(readDoc(t, "docs/operations.md"), "\n## What to watch\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n## ")
	sources, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	message := regexp.MustCompile(`(?:log\((?:slog\.Level\w+|level), |slog\.(?:Warn|Error)\(|\btext: +)"([^":\n]+)`)
	n := 0
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		text, err := os.ReadFile(source)
		require.NoError(t, err)
		for _, m := range message.FindAllStringSubmatch(string(text), -1) {
			if filepath.Base(source) == "errors.go" || strings.HasPrefix(m[1], "fork server started") || strings.HasPrefix(m[1], "worker started") {
				continue // sentinels; routine at Debug
			}
			n++
			require.Contains(t, table, strings.TrimSpace(m[1]), source)
		}
	}
	require.Greater(t, n, 15)
}

// TestReadmeNamesEveryField keeps the configuration table complete.
func TestReadmeNamesEveryField(t *testing.T) {
	_, table, found := strings.Cut(readDoc(t, "README.md"), "\n## Configuration\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n## ")
	for _, field := range reflect.VisibleFields(reflect.TypeFor[pypool.Config]()) {
		if field.IsExported() {
			require.Contains(t, table, "`"+field.Name+"`")
		}
	}
}

func goCommand(dir string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	return cmd.CombinedOutput()
}

func writeOverlay(t *testing.T, replace map[string]string) string {
	data, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "overlay.json")
	require.NoError(t, os.WriteFile(file, data, 0o600))
	return file
}

// fragment makes a package of a block: declarations as they are, statements in a function that has
// the names which the documents use.
func fragment(code string) string {
	if !regexp.MustCompile(`(?m)^func \w`).MatchString(code) {
		code = `
type Summary struct{ Text string }

func snippet(ctx context.Context, pool *pypool.Pool, mux *http.ServeMux, text string, err error) error {
	_ = err
	` + code + `
	return nil
}
`
	}
	head := "package snippet\n" // no main: nothing to link
	for _, path := range []string{
		"context", "encoding/json", "errors", "fmt", "io", "log", "log/slog", "math/rand/v2", "net/http", "os", "os/signal", "slices", "syscall", "testing", "time",
		"github.com/pypool/pypool", "github.com/pypool/pypool/pypooldebug", "github.com/pypool/pypool/pypooltest",
		"github.com/nats-io/nats.go", "github.com/pypool/pypool/nats",
	} {
		name, known := packageNames[path]
		if !known {
			name = strings.TrimSuffix(path, "/v2")
			name = name[strings.LastIndex(name, "/")+1:]
		}
		if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(code) {
			head += fmt.Sprintf("import %q\n", path)
		}
	}
	return head + code
}

// packageNames are those that are not the last part of the path.
var packageNames = map[string]string{"github.com/nats-io/nats.go": "nats", "github.com/pypool/pypool/nats": "pypoolnats"}

func readDoc(t *testing.T, path string) string {
	data, err := os.ReadFile(filepath.Join("..", path))
	require.NoError(t, err)
	return string(data)
}

// blocks are a document's fenced blocks of one language.
func blocks(text, language string) (list []string) {
	for _, part := range strings.Split(text, "\n```"+language+"\n")[1:] {
		code, _, _ := strings.Cut(part, "\n```")
		list = append(list, code+"\n")
	}
	return list
}
