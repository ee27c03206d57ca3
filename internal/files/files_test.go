package files

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// temp has trees written below a folder of the test's own.
func temp(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	t.Setenv("TMP", dir) // Windows
	return dir
}

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text), Mode: 0o644} }

func TestATreeIsWrittenReadOnlyAndRemoved(t *testing.T) {
	below := temp(t)
	tree, err := Write(t.Context(), fstest.MapFS{
		"worker.py": file("1"), "pkg/__init__.py": file(""), "pkg/deep/_private.py": file("22"), "pkg/data.json": file("{}"),
		"tool": {Data: []byte("#!/bin/sh\n"), Mode: 0o755}, "empty": {Mode: fs.ModeDir | 0o755},
		"pkg/__pycache__/x.pyc": file("stale"), "spaced name é.txt": file("3"),
	})
	require.NoError(t, err)
	assert.Equal(t, []string{filepath.Base(tree.Dir)}, names(t, below))
	assert.Equal(t, 6, tree.Files)
	assert.Equal(t, int64(1+2+2+10+1), tree.Bytes)
	data, err := os.ReadFile(filepath.Join(tree.Dir, "pkg", "deep", "_private.py"))
	require.NoError(t, err)
	assert.Equal(t, "22", string(data))
	assert.NoDirExists(t, filepath.Join(tree.Dir, "pkg", "__pycache__"))
	assert.DirExists(t, filepath.Join(tree.Dir, "empty"))
	if runtime.GOOS != "windows" {
		for name, want := range map[string]fs.FileMode{".": 0o500, "pkg/deep": 0o500, "worker.py": 0o400, "tool": 0o500} {
			info, err := os.Stat(filepath.Join(tree.Dir, name))
			require.NoError(t, err)
			assert.Equal(t, want, info.Mode().Perm(), name)
		}
	}
	assert.Equal(t, "pkg/data.json", NameOf(filepath.Join(tree.Dir, "pkg", "data.json")))
	assert.Empty(t, NameOf("/app/worker.py"))
	require.NoError(t, tree.Remove())
	assert.Empty(t, names(t, below))
}

// named is a folder of one file whose name is whatever it likes.
type named struct {
	fs.FS
	name string
	mode fs.FileMode
}

func (n named) ReadDir(dir string) ([]fs.DirEntry, error) {
	return []fs.DirEntry{fs.FileInfoToDirEntry(info(n))}, nil
}

func (n named) Stat(string) (fs.FileInfo, error) { return info(n), nil }

type info named

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return 0 }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }

func TestHostileNamesAreRefused(t *testing.T) {
	below := temp(t)
	for _, name := range []string{"", ".", "..", "../escape.py", "a/b.py", "/etc/passwd", "a\x00b", "line\nbreak.py", "\x1b[31m", "\xff\xfe.py"} {
		fsys := named{fstest.MapFS{}, name, 0o644}
		var invalid *InvalidError
		require.ErrorAs(t, Check(t.Context(), fsys), &invalid, "%q", name)
		_, err := Write(t.Context(), fsys)
		require.ErrorAs(t, err, &invalid, "%q", name)
		require.NotContains(t, err.Error(), "\n")
	}
	for _, mode := range []fs.FileMode{fs.ModeNamedPipe, fs.ModeDevice, fs.ModeSocket, fs.ModeIrregular} {
		_, err := Write(t.Context(), named{fstest.MapFS{}, "odd", mode})
		require.ErrorContains(t, err, "odd is neither a file nor a folder")
	}
	_, err := Write(t.Context(), named{fstest.MapFS{}, "again", fs.ModeDir | 0o755}) // a folder in itself, for ever
	require.ErrorContains(t, err, "lies in more than 64 folders")
	assert.Empty(t, names(t, below), "nothing is left behind")
}

func TestLinksToFilesAreFilesAndOthersAreRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("links take a privilege there")
	}
	below := temp(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "real.py"), []byte("1"), 0o600))
	require.NoError(t, os.Symlink("real.py", filepath.Join(dir, "link.py")))
	tree, err := Write(t.Context(), os.DirFS(dir))
	require.NoError(t, err)
	linked, err := os.Lstat(filepath.Join(tree.Dir, "link.py"))
	require.NoError(t, err)
	assert.True(t, linked.Mode().IsRegular())
	require.NoError(t, tree.Remove())
	require.NoError(t, os.Symlink(".", filepath.Join(dir, "loop")))
	_, err = Write(t.Context(), os.DirFS(dir))
	require.ErrorContains(t, err, "loop is neither a file nor a folder")
	assert.Empty(t, names(t, below))
}

// failing panics, or has its context ended, when its file is opened.
type failing struct {
	fstest.MapFS
	open func()
}

func (f failing) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, ".py") {
		f.open()
	}
	return f.MapFS.Open(name)
}

// Stat is there so that the walk opens nothing.
func (f failing) Stat(name string) (fs.FileInfo, error) { return f.MapFS.Stat(name) }

func TestWhatFailsLeavesNothingBehind(t *testing.T) {
	below := temp(t)
	_, err := Write(t.Context(), failing{fstest.MapFS{"a.txt": file("1"), "b.py": file("2")}, func() { panic("no such luck") }})
	require.EqualError(t, err, "it panicked: no such luck")
	assert.Empty(t, names(t, below))
	_, err = Write(t.Context(), failing{fstest.MapFS{"a.txt": file("1"), "b.py": file("2")}, runtime.Goexit})
	require.EqualError(t, err, "it called runtime.Goexit")
	assert.Empty(t, names(t, below))
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	_, err = Write(ctx, failing{fstest.MapFS{"a.txt": file("1"), "b.py": file("2"), "c.py": file("3")}, func() { cancel(gone) }})
	require.ErrorIs(t, err, gone)
	assert.Empty(t, names(t, below))
	t.Setenv("TMPDIR", filepath.Join(below, "none"))
	t.Setenv("TMP", filepath.Join(below, "none"))
	_, err = Write(t.Context(), fstest.MapFS{"b.py": file("2")})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestAScriptIsFoundOrItsReaderIsToldWhatThereIs(t *testing.T) {
	fsys := fstest.MapFS{"python/worker.py": file("1"), "python/data/x.txt": file("2")}
	for name, want := range map[string]string{
		"worker.py":        "there is no worker.py in Files, but python/worker.py: an embed.FS keeps the names of the folders (fs.Sub takes one off)",
		"other.py":         "there is no other.py in Files, which holds python/data/x.txt, python/worker.py",
		"/srv/worker.py":   `"/srv/worker.py" is not the path of a file in Files: it has slashes between names, and begins with none`,
		"../worker.py":     `"../worker.py" is not the path of a file in Files: it has slashes between names, and begins with none`,
		"python":           "python is no file in Files",
		"python/../../etc": `"python/../../etc" is not the path of a file in Files: it has slashes between names, and begins with none`,
	} {
		_, err := Script(fsys, name)
		var invalid *InvalidError
		require.ErrorAs(t, err, &invalid, name)
		require.Equal(t, want, err.Error())
	}
	for _, name := range []string{"python/worker.py", "./python/worker.py", "python//worker.py"} {
		clean, err := Script(fsys, name)
		require.NoError(t, err)
		require.Equal(t, "python/worker.py", clean)
	}
	_, err := Script(fstest.MapFS{}, "worker.py")
	require.ErrorContains(t, err, "which holds no file")
}

// A tree whose host is gone is removed by the next Write, one that is in use is not.
func TestTheTreesOfDeadHostsAreRemoved(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("folders cannot be locked there: what a killed host leaves stays")
	}
	below := temp(t)
	fsys := fstest.MapFS{"a/b.py": file("1")}
	alive, err := Write(t.Context(), fsys)
	require.NoError(t, err)
	dead, err := Write(t.Context(), fsys)
	require.NoError(t, err)
	require.NoError(t, dead.lock.Close()) // as the end of its host does
	require.NoError(t, os.Mkdir(filepath.Join(below, "pypool-other"), 0o700))
	require.NoError(t, os.Symlink(t.TempDir(), filepath.Join(below, prefix+"link")))
	third, err := Write(t.Context(), fsys)
	require.NoError(t, err)
	assert.ElementsMatch(t, []string{filepath.Base(alive.Dir), filepath.Base(third.Dir), "pypool-other", prefix + "link"}, names(t, below))
	require.NoError(t, alive.Remove())
	require.NoError(t, third.Remove())
}

// forked has two folders in each folder, twenty-four levels of them: too many for anybody.
type forked struct{ fs.FS }

func (forked) ReadDir(dir string) ([]fs.DirEntry, error) {
	if strings.Count(dir, "/") >= 24 {
		return nil, nil
	}
	return []fs.DirEntry{
		fs.FileInfoToDirEntry(info{name: "a", mode: fs.ModeDir | 0o755}), fs.FileInfoToDirEntry(info{name: "b", mode: fs.ModeDir | 0o755}),
	}, nil
}

func (forked) Stat(name string) (fs.FileInfo, error) {
	return info{name: name, mode: fs.ModeDir | 0o755}, nil
}

// endless has a file that never ends.
type endless struct{ fstest.MapFS }

func (e endless) Open(name string) (fs.File, error) {
	f, err := e.MapFS.Open(name)
	if name == "worker.py" {
		return zeros{f}, err
	}
	return f, err
}

type zeros struct{ fs.File }

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestTreesAndFilesWithoutEndAreRefused(t *testing.T) {
	below := temp(t)
	var refused *InvalidError
	err := Check(t.Context(), forked{fstest.MapFS{}})
	require.ErrorAs(t, err, &refused)
	require.EqualError(t, err, "there are more than 262144 files and folders")
	_, err = Write(t.Context(), endless{fstest.MapFS{"worker.py": file("x = 1\n")}})
	require.ErrorAs(t, err, &refused)
	require.EqualError(t, err, "worker.py: it is longer than the 6 bytes that its size is said to be")
	assert.Empty(t, names(t, below))
}
