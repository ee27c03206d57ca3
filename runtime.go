package pypool

import (
	"bytes"
	"compress/zlib"
	"embed"
	"encoding/base64"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/pypool/pypool/internal/pysource"
)

// Version is the version of this library and of the Python runtime that it embeds.
const Version = "0.2.0"

// The glob, not the folder: go:embed leaves out files that begin with an underscore when it is
// given a folder.
//
//go:embed python/pypool/*.py
var pythonFiles embed.FS

func init() { pysource.Files, _ = fs.Sub(pythonFiles, "python/pypool") } // the path is valid

// bootstrap is given to `python -c`. It reads the hello line, and in it the other modules.
var bootstrap = sync.OnceValue(func() string {
	source, _ := pythonFiles.ReadFile("python/pypool/_boot.py") // it is embedded
	return string(source)
})

// packedRuntime is the other modules' sources, ready to be sent: no file is ever written. They are
// packed, so that the line fits into the pipe (internal/proc, RequestRoom). That takes 5 to 15 ms,
// once, and is done while the first interpreter comes up.
var packedRuntime = sync.OnceValue(func() string { return packRuntime("_forkserver", "_forkable") })

// packedServer is packedRuntime with what a fork server alone needs.
var packedServer = sync.OnceValue(func() string { return packRuntime() })

// inLayers are the modules in the order of the package's comment, which names each once
// (tests/test_layers.py). Those that stand together look alike, and are packed smaller side by side.
func inLayers() (names []string) {
	source, _ := pythonFiles.ReadFile("python/pypool/__init__.py") // it is embedded
	for line := range strings.Lines(string(source)) {
		if layer, found := strings.CutPrefix(line, "#   "); found {
			for word := range strings.FieldsSeq(layer) {
				if word[0] == '_' {
					names = append(names, word)
				}
			}
		}
	}
	return names
}

func packRuntime(without ...string) string {
	var buf bytes.Buffer
	w, _ := zlib.NewWriterLevel(&buf, zlib.BestCompression) // into memory: nothing here can fail
	ahead := ""
	for _, name := range inLayers() {
		switch name {
		case "_boot", "__main__", "_packages": // the latter two: the command line, which runs from files, and what it and Check know
		default:
			if slices.Contains(without, name) {
				break
			}
			source, _ := pythonFiles.ReadFile("python/pypool/" + name + ".py") // it is embedded
			_, _ = io.WriteString(w, ahead+name+"\x00"+withoutNotes(string(source)))
			ahead = "\x00"
		}
	}
	_ = w.Close()
	return base64.StdEncoding.EncodeToString(buf.Bytes())
}

// indents are the spaces that lines begin with, four at a time, arrows what functions are said to
// return, and hints, in the heads of functions, what they are said to take; values are assignments
// with a hint.
var (
	indents = regexp.MustCompile(`(?m)^(?: {4})+`)
	heads   = regexp.MustCompile(`(?m)^ *(?:async )?def .*:$`)
	hints   = regexp.MustCompile(`(\w): ` + hint + `(,|\)| =)`)
	values  = regexp.MustCompile(`^( *[\w.]+): ` + hint + ` = `)
	arrows  = regexp.MustCompile(`(?m)^( *(?:async )?def .*\)) -> .*:$|^( *\)) -> .*:$`)
)

const hint = `[\w.]+(?:\[(?:[^\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])*\])?`

// withoutNotes leaves comments, docstrings, and what is for type checkers alone out of a module, so
// that hello fits into a pipe and each start compiles less. Every line keeps its number.
func withoutNotes(source string) string {
	const quotes = `"""`
	lines := strings.Split(source, "\n")
	checking, doc, class := false, false, false
	for i, line := range lines {
		text := strings.TrimSpace(line)
		if line != "" && line[0] != ' ' {
			class = strings.HasPrefix(line, "class ")
		}
		checking = line == "if TYPE_CHECKING:" || checking && (text == "" || line[0] == ' ')
		switch {
		case doc:
			doc = !strings.HasSuffix(text, quotes)
			lines[i] = ""
		case strings.HasPrefix(text, quotes):
			doc = text == quotes || !strings.HasSuffix(text, quotes)
			lines[i] = line[:strings.Index(line, quotes)] + `""` // it may be all that a class has
		case checking, strings.HasPrefix(text, "#"):
			lines[i] = ""
		default:
			code, note, found := strings.Cut(line, "  # ")
			if found && !strings.ContainsAny(note, quotes+"'") { // else it may be in a string
				lines[i] = code
			}
			if !class || strings.HasPrefix(line, "        ") { // else it may be a field's
				lines[i] = values.ReplaceAllString(lines[i], "$1 = ")
			}
		}
	}
	text := arrows.ReplaceAllString(strings.Join(lines, "\n"), "$1$2:")
	text = heads.ReplaceAllStringFunc(text, func(head string) string {
		if strings.Contains(head, "lambda") { // its colon is another one
			return head
		}
		return hints.ReplaceAllString(head, "$1$2")
	})
	return indents.ReplaceAllStringFunc(text, func(spaces string) string { return spaces[:len(spaces)/4] })
}
