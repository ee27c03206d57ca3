package pypooluv

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// wanted is what a script asks for: its own block, or a project.
type wanted struct {
	asked  string // the script, as the caller wrote it
	what   string // in words, for the log
	script bool
	files  fs.FS             // nil: the disk
	place  string            // the script, or the project's folder; on the disk absolute
	parts  map[string][]byte // what decides: names and contents
}

// projectFiles decide what a project's environment is, in its folder or, for what a workspace
// shares, above it.
var projectFiles = append([]string{"pyproject.toml", "uv.lock", "uv.toml"}, versionFiles...)

// versionFiles name the Python, before requires-python does. Of those in a folder uv takes the first.
var versionFiles = []string{".python-version", ".python-versions"}

// find reads what the script asks for.
func (t Tool) find(script string) (*wanted, error) {
	w := &wanted{asked: script, files: t.Files, parts: map[string][]byte{}}
	join, parent, read := filepath.Join, filepath.Dir, os.ReadFile
	place, err := filepath.Abs(script)
	if t.Files != nil {
		join, parent = path.Join, path.Dir
		read = func(name string) ([]byte, error) { return fs.ReadFile(t.Files, name) }
		place = path.Clean(filepath.ToSlash(script))
	}
	if err != nil {
		return nil, err
	}
	source, err := read(place)
	if err != nil {
		return nil, err
	}
	block, err := metadata(string(source))
	if err != nil {
		return nil, err
	}
	if block != "" {
		w.script, w.place, w.what = true, place, "its inline metadata"
		w.parts["block"] = []byte(block)
		if t.Files != nil {
			w.parts["source"] = source // it is written for uv
		}
		if lock, err := read(place + ".lock"); err == nil {
			w.parts["lock"] = lock
		}
		if t.Files == nil && strings.Contains(block, "tool.uv") { // it may name other places from here
			w.parts["folder"] = []byte(parent(place))
		}
		for dir, found := parent(place), false; !found; dir = parent(dir) { // the nearest counts, also an empty one
			for _, name := range versionFiles {
				if data, err := read(join(dir, name)); err == nil && !found {
					w.parts[name], found = data, true
				}
			}
			if parent(dir) == dir {
				break
			}
		}
		return w, nil
	}
	for dir := parent(place); ; dir = parent(dir) {
		project, err := read(join(dir, "pyproject.toml"))
		switch {
		case err == nil:
			w.place, w.what = dir, join(dir, "pyproject.toml")
			w.parts["pyproject.toml"] = project
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
		if w.what != "" {
			break
		}
		if parent(dir) == dir {
			return nil, fmt.Errorf("%w: it has no block of inline metadata (# /// script, PEP 723), and there is no pyproject.toml beside it or above: "+
				"write one (`uv add --script %s PACKAGE` does)", ErrNothing, script)
		}
	}
	for dir, above := w.place, ""; ; dir, above = parent(dir), above+"../" {
		for _, name := range projectFiles {
			data, err := read(join(dir, name))
			switch {
			case err != nil: // as a rule it is not there
			case w.parts[name] == nil:
				w.parts[name] = data
			case above != "" && name == "pyproject.toml" && mayBeWorkspace(data):
				w.parts[above+name] = data
			}
		}
		if parent(dir) == dir || t.Files != nil {
			break
		}
	}
	if t.Files == nil {
		w.parts["folder"] = []byte(w.place) // the project itself is installed from there
	}
	return w, nil
}

// mayBeWorkspace reports whether a pyproject.toml may be that of a workspace's root, which decides
// for its members. TOML has several ways to write tool.uv.workspace, all with that word; where it
// means something else an environment is made once more than needed.
func mayBeWorkspace(project []byte) bool { return bytes.Contains(project, []byte("workspace")) }

// block is PEP 723's own expression.
var blocks = regexp.MustCompile(`(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(?:^#(?:| .*)$\s)+)^# ///$`)

// metadata is the script's block, empty where it has none.
func metadata(source string) (block string, err error) {
	source = strings.TrimPrefix(strings.ReplaceAll(source, "\r\n", "\n"), "\ufeff")
	found := 0
	for _, m := range blocks.FindAllStringSubmatch(source, -1) {
		if m[1] == "script" {
			block, found = m[0], found+1
		}
	}
	switch {
	case found > 1:
		return "", fmt.Errorf("%w: there are %d blocks # /// script, and one is allowed", ErrMetadata, found)
	case found == 0 && regexp.MustCompile(`(?m)^# /// script\s*$`).MatchString(source):
		return "", fmt.Errorf("%w: the block # /// script is not ended by a line # ///, or has a line in it that does not begin with a # and a space", ErrMetadata)
	}
	return block, nil
}

// key names the environment after all that decides what is in it.
func (w *wanted) key(args []string) string {
	sum := sha256.New()
	part := func(name string, data []byte) { fmt.Fprintf(sum, "%d:%s%d:%s", len(name), name, len(data), data) }
	part("version 1", []byte(runtime.GOOS+"/"+runtime.GOARCH))
	names := []string{}
	for name := range w.parts {
		if name != "source" { // of a script only its block counts
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		part(name, w.parts[name])
	}
	for _, arg := range args {
		part("arg", []byte(arg))
	}
	for _, name := range []string{"UV_PYTHON", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"} {
		part(name, []byte(os.Getenv(name)))
	}
	base := strings.TrimSuffix(filepath.Base(w.asked), ".py")
	base = regexp.MustCompile(`[^A-Za-z0-9_-]+`).ReplaceAllString(base, "_")
	return base[:min(len(base), 32)] + "-" + hex.EncodeToString(sum.Sum(nil))[:24]
}

// onDisk is where uv finds what is wanted: where it is, or copied from Files, until done is called.
func (w *wanted) onDisk() (place string, done func(), err error) {
	if w.files == nil {
		return w.place, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "pypool-uv-*")
	if err != nil {
		return "", nil, err
	}
	done = func() { _ = os.RemoveAll(dir) }
	names := map[string]string{}
	if w.script {
		place = filepath.Join(dir, path.Base(w.place))
		names["source"], names["lock"] = place, place+".lock"
		for _, name := range versionFiles {
			names[name] = filepath.Join(dir, name)
		}
	} else {
		place = dir
		for _, name := range projectFiles {
			names[name] = filepath.Join(dir, name)
		}
	}
	for part, file := range names {
		if data, there := w.parts[part]; there {
			err = errors.Join(err, os.WriteFile(file, data, 0o600))
		}
	}
	if err != nil {
		done()
		return "", nil, err
	}
	return place, done, nil
}
