package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/pysource"
)

// Stubs of the Python package, made of its sources: the signatures and docstrings of what __init__
// offers, and of what those name, without the code.

// stubMark begins each file that is written, and tells it from anybody else's.
const stubMark = "# Written by pypoolgen stubs, of pypool "

// writePackageStubs writes the package into the folder, in place of what it wrote there before.
func writePackageStubs(dir string) error {
	made, err := packageStubs(pysource.Files)
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, "pypool")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range there {
		path := filepath.Join(dir, entry.Name())
		if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), stubMark) {
			return fmt.Errorf("%s is not a stub of pypoolgen's: name another folder than %s", path, filepath.Dir(dir))
		}
	}
	for _, entry := range there {
		if _, again := made[entry.Name()]; !again {
			if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(made)) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(made[name]), 0o644); err != nil {
			return err
		}
	}
	return nil
}

var imported = regexp.MustCompile(`(?m)^ *from \.(\w*) import ([\w, ]+)$`)

// packageStubs are the stubs of __init__ and of the modules that those import, by their files'
// names.
func packageStubs(sources fs.FS) (map[string]string, error) {
	made := map[string]string{}
	for wanted := []string{"__init__"}; len(wanted) > 0; wanted = wanted[1:] {
		module := wanted[0]
		if _, done := made[module+".pyi"]; done {
			continue
		}
		source, err := fs.ReadFile(sources, module+".py")
		switch {
		case errors.Is(err, fs.ErrNotExist) && module != "__init__": // a name of __init__'s own, as __version__
			continue
		case err != nil:
			return nil, err
		}
		stub := stubOf(string(source))
		made[module+".pyi"] = stubMark + pypool.Version + "\n" + stub
		for _, m := range imported.FindAllStringSubmatch(stub, -1) {
			if m[1] != "" {
				wanted = append(wanted, m[1])
				continue
			}
			for name := range strings.SplitSeq(m[2], ",") {
				name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
				wanted = append(wanted, name)
			}
		}
	}
	return made, nil
}

// stubOf takes the code out of a module that is formatted as ruff does it: a function keeps its
// signature and its docstring, __init__ its assignments, in which attributes have their types. Of an
// overloaded function the overloads are left, with the docstring.
func stubOf(source string) string {
	var out []string
	lines := strings.Split(source, "\n")
	overloaded := overloads(lines)
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		text := strings.TrimLeft(line, " ")
		indent := len(line) - len(text)
		def := definition.FindStringSubmatch(text)
		switch {
		case strings.HasPrefix(text, quotes): // a docstring may have code in it
			doc := docstring(lines[i:])
			out = append(out, doc...)
			i += len(doc) - 1
			continue
		case indent == 0 && strings.HasPrefix(text, "__all__ ="): // `import X as X` says the same
			for !strings.HasSuffix(lines[i], "]") {
				i++
			}
			continue
		case def == nil:
			out = append(out, line)
			continue
		}
		begin := i
		for !strings.HasSuffix(lines[i], ":") && !strings.HasSuffix(lines[i], ": ...") {
			i++
		}
		signature := lines[begin : i+1]
		end := bodyEnd(lines, i+1, indent)
		doc := docstring(lines[i+1 : end])
		whole := overloaded[def[1]]
		switch {
		case indent == 0 && (def[1] == "__getattr__" || whole != nil): // the first would make every name right
		case strings.HasSuffix(lines[i], "...") && whole != nil:
			out = append(out, signature...)
			out[len(out)-1] = strings.TrimSuffix(out[len(out)-1], " ...")
			for _, line := range whole {
				out = append(out, strings.TrimRight(strings.Repeat(" ", indent)+line, " "))
			}
		case def[1] == "__init__":
			out = append(out, lines[begin:end]...)
		default:
			out = append(out, signature...)
			if len(doc) == 0 && !strings.HasSuffix(lines[i], "...") {
				out[len(out)-1] += " ..."
			}
			out = append(out, doc...)
		}
		i = end - 1
		if last := len(out) - 1; i > begin && lines[i] == "" && out[last] != "" {
			out = append(out, "")
		}
	}
	return strings.Join(out, "\n")
}

const quotes = `"""`

var definition = regexp.MustCompile(`^(?:async )?def (\w+)\(`)

// overloads are the docstrings of the functions that have overloads, by name.
func overloads(lines []string) map[string][]string {
	docs := map[string][]string{}
	for i, line := range lines {
		def := definition.FindStringSubmatch(strings.TrimSpace(line))
		if def == nil {
			continue
		}
		if i > 0 && strings.TrimSpace(lines[i-1]) == "@overload" {
			docs[def[1]] = []string{}
			continue
		}
		if _, known := docs[def[1]]; known {
			for !strings.HasSuffix(lines[i], ":") {
				i++
			}
			docs[def[1]] = docstring(lines[i+1:])
		}
	}
	return docs
}

// bodyEnd is the first line that no longer belongs to a body which begins at the line from, of what
// stands at the indent.
func bodyEnd(lines []string, from, indent int) int {
	for i := from; i < len(lines); i++ {
		text := strings.TrimLeft(lines[i], " ")
		if text != "" && len(lines[i])-len(text) <= indent {
			return i
		}
	}
	return len(lines)
}

func docstring(body []string) []string {
	for i, line := range body {
		text := strings.TrimSpace(line)
		switch {
		case i == 0 && !strings.HasPrefix(text, quotes):
			return nil
		case i == 0 && len(text) > len(quotes) && strings.HasSuffix(text, quotes), i > 0 && strings.HasSuffix(text, quotes):
			return body[:i+1]
		}
	}
	return nil
}
