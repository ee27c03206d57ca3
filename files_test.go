//go:build linux

package pypool

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
)

// Of app alone go:embed would leave out __init__.py and _private.py.
//
//go:embed testdata/files/worker.py all:testdata/files/app
var embedded embed.FS

// carried is what embedded has below its folder's name.
func carried(t testing.TB) fs.FS {
	t.Helper()
	sub, err := fs.Sub(embedded, "testdata/files")
	require.NoError(t, err)
	return sub
}

// temporaries gives the host a folder for temporary files of its own, and lists what is in it.
func temporaries(t testing.TB) (list func() []string) {
	dir := t.TempDir()
	t.(*testing.T).Setenv("TMPDIR", dir)
	return func() (names []string) {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
}

type place struct {
	File, Data, Private, Deep, Package, Cwd string
	Path                                    []string
	Mode                                    fs.FileMode
}

func TestAScriptOfConfigFilesRunsWithWhatLiesBesideIt(t *testing.T) {
	left := temporaries(t)
	for name, files := range map[string]fs.FS{"testdata/files/worker.py": embedded, "worker.py": carried(t)} {
		p := newPool(t, Config{Files: files, Script: name, Python: realPython(), Size: 2, Overflow: -1})
		require.Len(t, left(), 1)
		at := decoded[place](t, executed(t, p, "where", nil))
		require.Equal(t, "some data", at.Data)
		require.Equal(t, "private", at.Private)
		require.Equal(t, "deep", at.Deep)
		require.Equal(t, filepath.Join(os.Getenv("TMPDIR"), left()[0], filepath.FromSlash(name)), at.File)
		require.Equal(t, filepath.Join(filepath.Dir(at.File), "app", "__init__.py"), at.Package)
		require.Equal(t, fs.FileMode(0o400), at.Mode)
		require.NotContains(t, at.Path, at.Cwd)
		// Long after the start, and in workers that came later
		require.NoError(t, p.Reload(t.Context()))
		require.Equal(t, 3, decoded[int](t, executed(t, p, "later", nil)))
		require.Equal(t, at.File, decoded[place](t, executed(t, p, "where", nil)).File, "Reload starts workers from the same files")
		require.NoError(t, p.Shutdown(t.Context()))
		require.Empty(t, left())
	}
}

func TestAWorkerCannotWriteInConfigFiles(t *testing.T) {
	left := temporaries(t)
	p := newPool(t, Config{Files: carried(t), Script: "worker.py", Python: realPython(), Size: 1, Overflow: -1})
	require.Equal(t, "refused refused", decoded[string](t, executed(t, p, "write", nil)))
	require.NoError(t, p.Close())
	require.Empty(t, left())
}

func TestAModuleOfConfigFilesIsFoundAtItsTop(t *testing.T) {
	left := temporaries(t)
	dir := t.TempDir() // has another app: Files come in its place
	require.NoError(t, os.Mkdir(filepath.Join(dir, "app"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "app", "__init__.py"), []byte("raise SystemExit('the other one')\n"), 0o600))
	p := newPool(t, Config{Files: carried(t), Module: "app.serve", Dir: dir, Python: realPython(), Size: 1, Overflow: -1})
	got := decoded[[]string](t, executed(t, p, "private", nil))
	require.Equal(t, []string{"private", "app.serve", filepath.Join(os.Getenv("TMPDIR"), left()[0], "app", "serve.py")}, got)
	require.NoError(t, p.Close())
	require.Empty(t, left())
}

func TestConfigFilesAreRefusedInWords(t *testing.T) {
	left := temporaries(t)
	one := func(name string) fs.FS { return fstest.MapFS{name: {Data: []byte("x = 1\n")}} }
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Files: embedded, Script: "worker.py"}, "Config.Script: there is no worker.py in Files, but testdata/files/worker.py"},
		{Config{Files: one("worker.py"), Script: "/worker.py"}, `Config.Script: "/worker.py" is not the path of a file in Files`},
		{Config{Files: one("worker.py")}, "Config.Files: neither Script nor Module names what is to be run in them"},
		{Config{Files: one("worker.py"), Script: "worker.py", Module: "m"}, "Script and Module are both set"},
		{Config{Files: one("worker.py"), Script: "worker.py", WatchScripts: true}, "Config.WatchScripts: Files are written once"},
		{Config{Files: escaping{one("worker.py")}, Script: "worker.py"}, `Config.Files: the name "../../escaped.py" in "." is a path`},
		{Config{Files: badFS(func() { panic("not today") }), Module: "m"}, "Config.Files: it panicked: not today"},
		{Config{Files: badFS(func() { panic(containsItself()) }), Module: "m"}, "Config.Files: it panicked: a value of type []interface {}"},
		{Config{Files: badFS(runtime.Goexit), Module: "m"}, "Config.Files: it called runtime.Goexit"},
	} {
		_, err := New(t.Context(), c.cfg)
		failure(t, err, ErrInvalidArguments)
		require.ErrorContains(t, err, c.want)
		require.ErrorContains(t, Check(t.Context(), c.cfg), c.want)
	}
	require.Empty(t, left())
}

func TestNewWithFilesSaysThatItsContextWasCanceled(t *testing.T) {
	left := temporaries(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := New(ctx, Config{Files: carried(t), Script: "worker.py", Python: realPython()})
	e := failure(t, err, ErrCanceled)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, CategoryTimeout, e.Category)
	require.Empty(t, left())
}

// escaping lists a name that leads out of the folder.
type escaping struct{ fs.FS }

func (e escaping) ReadDir(string) ([]fs.DirEntry, error) {
	return []fs.DirEntry{fs.FileInfoToDirEntry(escapingInfo{})}, nil
}

type escapingInfo struct{ fs.FileInfo }

func (escapingInfo) Name() string      { return "../../escaped.py" }
func (escapingInfo) Mode() fs.FileMode { return 0o644 }
func (escapingInfo) IsDir() bool       { return false }

// badFS never opens anything: it panics, or ends its goroutine.
type badFS func()

func (f badFS) Open(string) (fs.File, error) { f(); return nil, fs.ErrNotExist }

// hanging never opens its script, as a dead network mount would.
type hanging struct {
	fstest.MapFS
	until <-chan struct{}
}

func (h hanging) Stat(name string) (fs.FileInfo, error) { return h.MapFS.Stat(name) }
func (h hanging) Open(name string) (fs.File, error) {
	if name == "worker.py" {
		<-h.until
	}
	return h.MapFS.Open(name)
}

func TestNewDoesNotWaitForFilesThatHang(t *testing.T) {
	left := temporaries(t)
	until := make(chan struct{})
	files := hanging{fstest.MapFS{"worker.py": {Data: []byte("x = 1\n")}}, until}
	_, err := New(t.Context(), Config{Files: files, Script: "worker.py", Python: realPython(), StartTimeout: 50 * time.Millisecond, Logger: quiet()})
	failure(t, err, ErrWorkerStart)
	require.Equal(t, "files", detail[*StartError](t, err).Stage)
	close(until)
	eventually(t, "who wrote it has removed it", func() bool { return len(left()) == 0 })
}

func TestAFailedStartLeavesNoFiles(t *testing.T) {
	left := temporaries(t)
	files := fstest.MapFS{"worker.py": {Data: []byte("import app\n")}, "app/__init__.py": {Data: []byte("x = 1\nx / 0\n")}, "app/bad.py": {Data: []byte("def broken(:\n")}}
	cfg := Config{Files: files, Script: "worker.py", Python: realPython(), Size: 1, Overflow: -1, Logger: quiet()}
	_, err := New(t.Context(), cfg)
	failure(t, err, ErrWorkerStart)
	require.ErrorContains(t, err, "pypool: worker_start_failed: worker.py: at import: ZeroDivisionError")
	require.ErrorContains(t, Check(t.Context(), cfg), "raised while the script was imported, at app/__init__.py in Config.Files, line 2")
	files["worker.py"].Data = []byte("import app_\n")
	require.ErrorContains(t, Check(t.Context(), cfg), "put it beside the script in Config.Files: of a folder, go:embed leaves out files whose names begin with _")
	cfg.Script, cfg.Module = "", "ap.serve"
	require.ErrorContains(t, Check(t.Context(), cfg), "Config.Module is looked for at the top of Config.Files")
	require.Empty(t, left())
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "none"))
	failure(t, Check(t.Context(), cfg), ErrWorkerStart)
	require.ErrorContains(t, Check(t.Context(), cfg), "at files: Config.Files: ")
	require.ErrorContains(t, Check(t.Context(), cfg), "name another in the host's environment, as TMPDIR")
}

func TestCheckKnowsConfigFiles(t *testing.T) {
	left := temporaries(t)
	logs := &logBuffer{}
	require.NoError(t, Check(t.Context(), Config{Files: carried(t), Script: "worker.py", Python: realPython(), Logger: logs.logger(slog.LevelInfo)}))
	require.Len(t, logs.with(t, "check: Files written"), 1)
	require.InDelta(t, 8, logs.with(t, "check: Files written")[0]["files"], 0)
	require.Empty(t, left())
}

// A host that is killed leaves its files, and the next one that has some removes them.
func TestTheFilesOfAKilledHostAreRemovedByTheNext(t *testing.T) {
	left := temporaries(t)
	cmd := helperCommand(t, "host with files", "TMPDIR="+os.Getenv("TMPDIR"))
	cmd.Stderr = os.Stderr
	line, _ := startHelper(t, cmd)
	dir := strings.TrimSpace(line)
	require.FileExists(t, filepath.Join(dir, "worker.py"))

	p := newPool(t, Config{Files: carried(t), Script: "worker.py", Python: realPython(), Size: 1, Overflow: -1})
	require.Len(t, left(), 2, "what a living host uses is left alone")
	require.NoError(t, p.Close())
	require.Equal(t, []string{filepath.Base(dir)}, left())

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.DirExists(t, dir)
	p = newPool(t, Config{Files: carried(t), Script: "worker.py", Python: realPython(), Size: 1, Overflow: -1})
	require.NoDirExists(t, dir)
	require.NoError(t, p.Close())
	require.Empty(t, left())
}

func init() {
	helpers["host with files"] = func() {
		files, err := fs.Sub(embedded, "testdata/files")
		if err != nil {
			panic(err)
		}
		p, err := New(context.Background(), Config{Files: files, Script: "worker.py", Python: os.Getenv("PYPOOL_HELPER_PYTHON"), Size: 1, Overflow: -1})
		if err != nil {
			panic(err)
		}
		fmt.Println(p.files.Dir)
		select {}
	}
}

// A fork server imports them once, before it forks.
func TestAForkServerImportsConfigFiles(t *testing.T) {
	left := temporaries(t)
	p := newPool(t, Config{Files: carried(t), Script: "worker.py", ForkServer: true, Python: realPython(), Size: 2, Overflow: -1})
	at := decoded[place](t, executed(t, p, "where", nil))
	require.Equal(t, "some data", at.Data)
	require.Equal(t, filepath.Join(os.Getenv("TMPDIR"), left()[0], "worker.py"), at.File)
	require.NoError(t, p.Reload(t.Context()))
	require.Equal(t, 3, decoded[int](t, executed(t, p, "later", nil)))
	require.NoError(t, p.Shutdown(t.Context()))
	require.Empty(t, left())
	p = newPool(t, Config{Files: carried(t), Module: "app.serve", ForkServer: true, Python: realPython(), Size: 1, Overflow: -1})
	require.Equal(t, "app.serve", decoded[[]string](t, executed(t, p, "private", nil))[1])
	require.NoError(t, p.Close())
	require.Empty(t, left())
}
