// Package files writes the tree of an fs.FS into a folder of its own, for processes that can read
// files only.
package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pypool/pypool/internal/foreign"
)

const (
	prefix  = "pypool-files-" // of a folder that is locked for as long as it is in use
	unready = ".pypool-new-"  // of one that is not locked yet
	deepest = 64              // folders in each other: more than any source tree has, fewer than any system's path may be long
	most    = 1 << 18         // files and folders: a tree that never ends is not walked for ever
)

// InvalidError says that a tree, or what was looked for in it, is not what can be written or run.
type InvalidError struct{ Reason string }

func (e *InvalidError) Error() string { return e.Reason }

func invalid(format string, args ...any) error {
	return &InvalidError{fmt.Sprintf(format, args...)}
}

// Tree is a tree that was written. Nobody else may write in it: its folders and files are
// read-only, and for the host's user alone.
type Tree struct {
	Dir   string
	Files int
	Bytes int64

	lock *os.File
}

// Script finds the file that is called name in the tree, and returns its clean name. The error is
// an *InvalidError, which says what else there is, or what fsys itself says.
func Script(fsys fs.FS, name string) (clean string, err error) {
	err = foreign.Try(func() (err error) {
		clean, err = script(fsys, name)
		return err
	})
	return clean, err
}

func script(fsys fs.FS, name string) (clean string, err error) {
	clean = path.Clean(strings.ReplaceAll(name, string(filepath.Separator), "/"))
	if clean == "." || !fs.ValidPath(clean) {
		return clean, invalid("%q is not the path of a file in Files: it has slashes between names, and begins with none", name)
	}
	info, err := fs.Stat(fsys, clean)
	switch {
	case err == nil && info.Mode().IsRegular():
		return clean, nil
	case err == nil:
		return clean, invalid("%s is no file in Files", clean)
	case !errors.Is(err, fs.ErrNotExist):
		return clean, err
	}
	return clean, invalid("there is no %s in Files%s", clean, others(fsys, path.Base(clean)))
}

// others tells where else a file of that name is, or what there is at all.
func others(fsys fs.FS, base string) string {
	var same, all []string
	_ = walk(context.Background(), fsys, func(name string, info fs.FileInfo) error {
		if !info.IsDir() {
			all = append(all, name)
			if path.Base(name) == base {
				same = append(same, name)
			}
		}
		return nil
	})
	switch {
	case len(same) > 0:
		return ", but " + listed(same) + ": an embed.FS keeps the names of the folders (fs.Sub takes one off)"
	case len(all) > 0:
		return ", which holds " + listed(all)
	}
	return ", which holds no file"
}

func listed(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// Check looks at the names of the whole tree, and at what they stand for.
func Check(ctx context.Context, fsys fs.FS) error {
	return foreign.Try(func() error {
		return walk(ctx, fsys, func(string, fs.FileInfo) error { return nil })
	})
}

// Write writes the tree below os.TempDir, and removes what hosts that were killed have left there
// of theirs. Remove must be called on what it returns. It ends when ctx does, unless fsys hangs,
// and then has left nothing behind. What a host's end leaves, when there is no time for Remove, the
// next Write removes.
func Write(ctx context.Context, fsys fs.FS) (t *Tree, err error) {
	err = foreign.Try(func() (err error) {
		t, err = write(ctx, fsys)
		return err
	})
	return t, err
}

func write(ctx context.Context, fsys fs.FS) (*Tree, error) {
	sweep(os.TempDir())
	t, err := newTree(os.TempDir())
	if err != nil {
		return nil, err
	}
	written := false
	defer func() { // also when a method of fsys panics
		if !written {
			_ = t.Remove()
		}
	}()
	if err := t.fill(ctx, fsys); err != nil {
		return nil, err
	}
	written = true
	return t, nil
}

// newTree makes the folder. It has its final name when it is locked: see sweep.
func newTree(temp string) (*Tree, error) {
	temp, err := filepath.Abs(temp)
	if err != nil {
		return nil, err
	}
	first, err := os.MkdirTemp(temp, unready+"*")
	if err != nil {
		return nil, err
	}
	lock, err := tryLock(first)
	dir := filepath.Join(temp, prefix+strings.TrimPrefix(filepath.Base(first), unready))
	if err == nil {
		err = os.Rename(first, dir)
	}
	if err != nil {
		_ = os.Remove(first)
		unlock(lock)
		return nil, err
	}
	return &Tree{Dir: dir, lock: lock}, nil
}

// fill writes the tree. All of it stays below the folder, whatever its names are: os.Root sees to
// that.
func (t *Tree) fill(ctx context.Context, fsys fs.FS) error {
	root, err := os.OpenRoot(t.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	folders := []string{"."}
	err = walk(ctx, fsys, func(name string, info fs.FileInfo) error {
		if info.IsDir() {
			folders = append(folders, name)
			return root.Mkdir(filepath.FromSlash(name), 0o700)
		}
		return t.copy(ctx, root, fsys, name, info)
	})
	if err != nil {
		return err
	}
	for _, name := range slices.Backward(folders) {
		if err := root.Chmod(filepath.FromSlash(name), 0o500); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) copy(ctx context.Context, root *os.Root, fsys fs.FS, name string, info fs.FileInfo) (err error) {
	from, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	mode := fs.FileMode(0o400)
	if info.Mode()&0o111 != 0 {
		mode = 0o500
	}
	to, err := root.OpenFile(filepath.FromSlash(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	n, err := io.Copy(to, io.LimitReader(untilDone{ctx, from}, info.Size()+1)) // a file that never ends fills no disk
	if err == nil && n > info.Size() {
		err = invalid("it is longer than the %d bytes that its size is said to be", info.Size())
	}
	if err := errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	t.Files++
	t.Bytes += n
	return nil
}

// untilDone is a reader that ends with the context.
type untilDone struct {
	ctx  context.Context
	from io.Reader
}

func (r untilDone) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}

// NameOf is the name, in a tree that was written, of the file at the path; empty: it is in none.
func NameOf(path string) string {
	_, below, found := strings.Cut(filepath.ToSlash(path), "/"+prefix)
	if !found {
		return ""
	}
	_, name, _ := strings.Cut(below, "/")
	return name
}

// Remove removes the tree.
func (t *Tree) Remove() error {
	err := removeAll(t.Dir)
	unlock(t.lock)
	return err
}

// sweep removes the trees of hosts that were killed: those of this user that nobody has locked.
func sweep(temp string) {
	entries, err := os.ReadDir(temp)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if !entry.IsDir() || !strings.HasPrefix(entry.Name(), prefix) {
			continue
		}
		dir := filepath.Join(temp, entry.Name())
		if lock, err := tryLock(dir); err == nil {
			_ = removeAll(dir)
			unlock(lock)
		}
	}
}

// removeAll removes read-only folders, too.
func removeAll(dir string) error {
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// walk visits what is in the tree, a folder before what is in it, and looks at every name first: an
// fs.FS may be anybody's. Links to files are files. Python's own caches are left out: they belong
// to files in another place.
func walk(ctx context.Context, fsys fs.FS, visit func(name string, info fs.FileInfo) error) error {
	entered := 0
	var enter func(dir string, depth int) error
	enter = func(dir string, depth int) error {
		if depth > deepest {
			return invalid("%.64s… lies in more than %d folders", dir, deepest)
		}
		entries, err := fs.ReadDir(fsys, dir)
		if err != nil {
			return err
		}
		if entered += len(entries); entered > most {
			return invalid("there are more than %d files and folders", most)
		}
		for _, entry := range entries {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if why := hostile(entry.Name()); why != "" {
				return invalid("the name %.128q in %q %s", entry.Name(), dir, why)
			}
			if entry.Name() == "__pycache__" {
				continue
			}
			name := path.Join(dir, entry.Name())
			info, err := fs.Stat(fsys, name)
			switch {
			case err != nil:
				return err
			case entry.IsDir() != info.IsDir(), !info.IsDir() && !info.Mode().IsRegular():
				return invalid("%s is neither a file nor a folder (%s)", name, entry.Type())
			}
			if err := visit(name, info); err != nil {
				return err
			}
			if info.IsDir() {
				if err := enter(name, depth+1); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return enter(".", 0)
}

// hostile says what is wrong with the name of a file or folder.
func hostile(name string) string {
	switch {
	case name == "":
		return "is empty"
	case name == "." || name == "..":
		return "is that of a folder above"
	case strings.Contains(name, "/"), !filepath.IsLocal(name), filepath.Base(name) != name:
		return "is a path, or one that this system reserves"
	case !utf8.ValidString(name):
		return "is not UTF-8"
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "has a control character in it"
	}
	return ""
}
