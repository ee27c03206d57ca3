//go:build unix

package pypooluv

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// The tests run the real uv, which the Makefile installs, and no network: the only packages are
// wheels that they make.

const maker = "PYPOOLUV_TEST_MAKER" // a test binary with this set makes one environment and says which

func TestMain(m *testing.M) {
	if script := os.Getenv(maker); script != "" {
		python, err := Python(context.Background(), script)
		fmt.Println(python, err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// desk is a folder with a script, an index of wheels, and a uv that notes each of its runs.
type desk struct {
	t              *testing.T
	dir, envs, log string
	tool           Tool
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	found, err := Tool{}.uv()
	if err != nil && os.Getenv("PYPOOL_UV") == "" {
		t.Skip("uv is not here: `make build/venv/ready` installs it, PYPOOL_UV names it")
	}
	require.NoError(t, err)
	d := &desk{t: t, dir: t.TempDir()}
	d.envs, d.log = filepath.Join(d.dir, "envs"), filepath.Join(d.dir, "runs")
	d.wheel("probe_one", "1.0")
	d.wheel("probe_two", "2.0")
	t.Setenv("UV_CACHE_DIR", filepath.Join(d.dir, "cache"))
	t.Setenv("UV_PYTHON_DOWNLOADS", "never")
	t.Setenv("UV_OFFLINE", "0")
	wrapper := filepath.Join(d.dir, "uv")
	d.write("uv", fmt.Sprintf("#!/bin/sh\necho \"$*\" >> %q\n[ -z \"$GATE\" ] || cat \"$GATE\"\nexec %q \"$@\"\n", d.log, found))
	require.NoError(t, os.Chmod(wrapper, 0o700)) //nolint:gosec // it is a program
	d.tool = Tool{UV: wrapper, Dir: d.envs, Logger: slog.New(slog.DiscardHandler)}
	return d
}

func (d *desk) write(name, text string) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	require.NoError(d.t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(d.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// wheel makes a package of one module, whose VERSION is its version.
func (d *desk) wheel(name, version string) {
	d.t.Helper()
	path := filepath.Join(d.dir, "wheels", fmt.Sprintf("%s-%s-py3-none-any.whl", name, version))
	require.NoError(d.t, os.MkdirAll(filepath.Dir(path), 0o700))
	f, err := os.Create(path)
	require.NoError(d.t, err)
	z := zip.NewWriter(f)
	info := fmt.Sprintf("%s-%s.dist-info/", name, version)
	for _, file := range []struct{ name, text string }{
		{name + ".py", fmt.Sprintf("VERSION = %q\n", version)},
		{info + "METADATA", fmt.Sprintf("Metadata-Version: 2.1\nName: %s\nVersion: %s\n", strings.ReplaceAll(name, "_", "-"), version)},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{info + "RECORD", fmt.Sprintf("%s.py,,\n%sMETADATA,,\n%sWHEEL,,\n%sRECORD,,\n", name, info, info, info)},
	} {
		w, err := z.Create(file.name)
		require.NoError(d.t, err)
		_, err = w.Write([]byte(file.text))
		require.NoError(d.t, err)
	}
	require.NoError(d.t, z.Close())
	require.NoError(d.t, f.Close())
}

// block is inline metadata that asks for the packages.
func (d *desk) block(packages ...string) string {
	quoted := []string{}
	for _, p := range packages {
		quoted = append(quoted, fmt.Sprintf("%q", p))
	}
	return fmt.Sprintf("# /// script\n# requires-python = \">=3.8\"\n# dependencies = [%s]\n#\n# [tool.uv]\n# no-index = true\n# find-links = [%q]\n# ///\n",
		strings.Join(quoted, ", "), filepath.Join(d.dir, "wheels"))
}

func (d *desk) script(name string, packages ...string) string {
	return d.write(name, d.block(packages...)+worker)
}

const worker = `
import sys
from pypool import command

@command
def versions() -> dict:
    found = {"prefix": sys.prefix}
    for name in ("probe_one", "probe_two"):
        try:
            found[name] = __import__(name).VERSION
        except ImportError:
            pass
    return found
`

// runs are the runs of uv so far.
func (d *desk) runs() int {
	data, err := os.ReadFile(d.log)
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	require.NoError(d.t, err)
	return strings.Count(string(data), "\n")
}

// Who makes an environment, as an image's build does it as root, need not be who uses it.
func TestAnEnvironmentIsForAllUsers(t *testing.T) {
	const base = "/usr/bin/python3" // one that all may use
	if _, err := os.Stat(base); err != nil || os.Geteuid() != 0 {
		t.Skip("only root can be somebody else, who needs the system's python3")
	}
	d := newDesk(t)
	t.Setenv("UV_PYTHON", base)
	open, err := os.MkdirTemp("", "pypool-uv-test-*")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(open)) })
	require.NoError(t, os.Chmod(open, 0o755)) //nolint:gosec // for nobody
	script, binary := filepath.Join(open, "worker.py"), filepath.Join(open, "test")
	require.NoError(t, os.WriteFile(script, []byte(d.block("probe-one")+worker), 0o644)) //nolint:gosec // for nobody
	self, err := os.Executable()
	require.NoError(t, err)
	code, err := os.ReadFile(self)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(binary, code, 0o755)) //nolint:gosec // for nobody
	d.tool.Dir = filepath.Join(open, "envs")
	python, err := d.tool.Python(t.Context(), script)
	require.NoError(t, err)
	asNobody := func(more ...string) string {
		cmd := exec.Command(binary)
		cmd.Env = append(more, maker+"="+script, "PYPOOL_UV_DIR="+d.tool.Dir, "UV_PYTHON="+base, "HOME=/nonexistent")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	require.Equal(t, python+" <nil>\n", asNobody())
	require.NoError(t, os.Chmod(python[:strings.LastIndex(python, "/bin/")], 0o700)) //nolint:gosec // it is not for others then
	require.Contains(t, asNobody(), "the environment is there, and this user may not use it: ")
	require.NoError(t, os.WriteFile(script, []byte(d.block("probe-two")+worker), 0o644)) //nolint:gosec // for nobody
	require.Contains(t, asNobody(), "uv is not there: neither in PATH nor in ")
	require.Contains(t, asNobody(), "; what its inline metadata asks for is not in "+d.tool.Dir)
	require.Contains(t, asNobody("PYPOOL_UV=/bin/true"), "what its inline metadata asks for is not in "+d.tool.Dir+", and cannot be made there: ")
}

// versions runs the script in a pool with the interpreter.
func (d *desk) versions(python, script string) map[string]string {
	d.t.Helper()
	p, err := pypool.New(d.t.Context(), pypool.Config{Script: script, Python: python, Size: 1, Overflow: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(d.t, err)
	defer p.Close()
	got, err := pypool.Call[map[string]string](d.t.Context(), p, "versions", nil)
	require.NoError(d.t, err)
	return got
}

func TestAScriptsBlockBecomesAnEnvironmentOnce(t *testing.T) {
	d := newDesk(t)
	script := d.script("worker.py", "probe-one")
	python, err := d.tool.Python(t.Context(), script)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"probe_one": "1.0", "prefix": filepath.Dir(filepath.Dir(python))}, d.versions(python, script))
	assert.Equal(t, d.envs, filepath.Dir(filepath.Dir(filepath.Dir(python))))
	assert.Equal(t, 1, d.runs())

	d.write("worker.py", d.block("probe-one")+worker+"\n# other code, same needs\n")
	gone := d.tool
	gone.UV = filepath.Join(d.dir, "no such uv")
	again, err := gone.Python(t.Context(), script)
	require.NoError(t, err, "what is there needs no uv")
	assert.Equal(t, python, again)

	d.script("worker.py", "probe-one", "probe-two")
	_, err = gone.Python(t.Context(), script)
	require.ErrorIs(t, err, ErrNoUV)
	require.ErrorContains(t, err, "pypooluv: "+script+": uv is not there: Tool.UV names "+gone.UV)
	other, err := d.tool.Python(t.Context(), script)
	require.NoError(t, err)
	assert.NotEqual(t, python, other)
	assert.Equal(t, "2.0", d.versions(other, script)["probe_two"])
	assert.FileExists(t, python, "the old one stays: workers may run in it")
	assert.Equal(t, 2, d.runs())
}

func TestAProjectBecomesAnEnvironment(t *testing.T) {
	d := newDesk(t)
	project := func(packages string) {
		d.write("app/pyproject.toml", fmt.Sprintf("[project]\nname = \"app\"\nversion = \"1\"\nrequires-python = \">=3.8\"\ndependencies = [%s]\n"+
			"[dependency-groups]\ndev = [\"probe-two\"]\n[tool.uv]\nno-index = true\nfind-links = [%q]\n", packages, filepath.Join(d.dir, "wheels")))
	}
	project(`"probe-one"`)
	script := d.write("app/src/worker.py", worker)
	python, err := d.tool.Python(t.Context(), script)
	require.NoError(t, err)
	found := d.versions(python, script)
	assert.Equal(t, "1.0", found["probe_one"])
	assert.NotContains(t, found, "probe_two", "development dependencies are left out")
	assert.FileExists(t, filepath.Join(d.dir, "app", "uv.lock"))
	assert.NoDirExists(t, filepath.Join(d.dir, "app", ".venv"))
	again, err := d.tool.Python(t.Context(), script)
	require.NoError(t, err)
	assert.Equal(t, python, again)
	assert.Equal(t, 1, d.runs(), "the lock file that uv has written is no reason for another")
	project(`"probe-one", "probe-two"`)
	python, err = d.tool.Python(t.Context(), script)
	require.NoError(t, err)
	assert.Equal(t, "2.0", d.versions(python, script)["probe_two"])
}

// The lock file of a script that is behind its block is written by the run that makes the
// environment, and asks for no other.
func TestALockFileThatIsBehindIsNoReasonForAnother(t *testing.T) {
	d := newDesk(t)
	script := d.script("worker.py", "probe-one")
	lock := exec.Command(d.tool.UV, "lock", "--script", script) //nolint:gosec // of the test's own
	out, err := lock.CombinedOutput()
	require.NoError(t, err, "%s", out)
	before, err := os.ReadFile(script + ".lock")
	require.NoError(t, err)
	d.script("worker.py", "probe-one", "probe-two")
	begun := d.runs()
	python, err := d.tool.Python(t.Context(), script)
	require.NoError(t, err)
	after, err := os.ReadFile(script + ".lock")
	require.NoError(t, err)
	require.NotEqual(t, string(before), string(after), "uv has brought it up to date")
	gone := d.tool
	gone.UV = filepath.Join(d.dir, "no such uv")
	again, err := gone.Python(t.Context(), script)
	require.NoError(t, err)
	assert.Equal(t, python, again)
	assert.Equal(t, begun+1, d.runs())
	assert.Equal(t, "2.0", d.versions(again, script)["probe_two"])
}

func TestFilesInTheBinaryBecomeEnvironments(t *testing.T) {
	d := newDesk(t)
	d.tool.Files = fstest.MapFS{"python/worker.py": {Data: []byte(d.block("probe-one") + worker)}}
	python, err := d.tool.Python(t.Context(), "python/worker.py")
	require.NoError(t, err)
	p, err := pypool.New(t.Context(), pypool.Config{Files: d.tool.Files, Script: "python/worker.py", Python: python, Size: 1, Overflow: -1, Logger: d.tool.Logger})
	require.NoError(t, err)
	defer p.Close()
	found, err := pypool.Call[map[string]string](t.Context(), p, "versions", nil)
	require.NoError(t, err)
	assert.Equal(t, "1.0", found["probe_one"])

	d.tool.Files = fstest.MapFS{"app/pyproject.toml": {Data: []byte(fmt.Sprintf("[project]\nname = \"app\"\nversion = \"1\"\ndependencies = [\"probe-two\"]\nrequires-python = \">=3.8\"\n"+
		"[build-system]\nrequires = [\"no-such-backend\"]\nbuild-backend = \"none\"\n[tool.uv]\nno-index = true\nfind-links = [%q]\n", filepath.Join(d.dir, "wheels")))},
		"app/inner/worker.py": {Data: []byte(worker)}}
	python, err = d.tool.Python(t.Context(), "app/inner/worker.py")
	require.NoError(t, err)
	assert.Equal(t, "2.0", d.versions(python, d.write("worker.py", worker))["probe_two"])
}

func TestManyAskAndOneMakes(t *testing.T) {
	d := newDesk(t)
	script := d.script("worker.py", "probe-one")
	t.Setenv("PYPOOL_UV", d.tool.UV)
	t.Setenv("PYPOOL_UV_DIR", d.envs)
	said := make([]string, 4)
	var all sync.WaitGroup
	for i := range said {
		all.Go(func() {
			if i%2 == 0 {
				python, err := d.tool.Python(t.Context(), script)
				said[i] = fmt.Sprintln(python, err)
				return
			}
			said[i] = maked(t, script)
		})
	}
	all.Wait()
	for _, s := range said {
		assert.Equal(t, said[0], s)
		assert.Contains(t, s, "<nil>")
	}
	assert.Equal(t, 1, d.runs())
}

// maked is what another process says of the script.
func maked(t *testing.T, script string) string {
	cmd := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // this very program
	cmd.Env = append(os.Environ(), maker+"="+script)
	out, err := cmd.Output()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// Whoever waits can leave; who was killed leaves nothing that is taken for whole, and nobody begins
// before the uv that it had started has ended.
func TestAMakerThatIsKilledLeavesNothingHalf(t *testing.T) {
	d := newDesk(t)
	script := d.script("worker.py", "probe-one")
	gate := filepath.Join(d.dir, "gate")
	require.NoError(t, exec.Command("mkfifo", gate).Run()) //nolint:gosec // of the test's own
	cmd := exec.Command(os.Args[0])                        //nolint:gosec // this very program
	cmd.Env = append(os.Environ(), maker+"="+script, "PYPOOL_UV="+d.tool.UV, "PYPOOL_UV_DIR="+d.envs, "GATE="+gate)
	require.NoError(t, cmd.Start())
	open, err := os.OpenFile(gate, os.O_WRONLY, 0) // returns when uv's wrapper reads
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = d.tool.Python(ctx, script)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "waiting for another process that makes the same environment")
	assert.Equal(t, 1, d.runs(), "the uv of the killed one holds the lock")
	require.NoError(t, open.Close())
	python, err := d.tool.Python(t.Context(), script)
	require.NoError(t, err)
	assert.Equal(t, "1.0", d.versions(python, script)["probe_one"])
	assert.Equal(t, 2, d.runs())
}

func TestTheEndOfTheContextEndsUV(t *testing.T) {
	d := newDesk(t)
	script := d.script("worker.py", "probe-one")
	gate := filepath.Join(d.dir, "gate")
	require.NoError(t, exec.Command("mkfifo", gate).Run()) //nolint:gosec // of the test's own
	t.Setenv("GATE", gate)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := d.tool.Python(ctx, script)
		gone <- err
	}()
	open, err := os.OpenFile(gate, os.O_WRONLY, 0)
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled)
	require.NoError(t, open.Close())
	t.Setenv("GATE", "")
	_, err = d.tool.Python(t.Context(), script)
	require.NoError(t, err)
}

func TestAnEnvironmentThatHasLostItsInterpreterIsMadeAgain(t *testing.T) {
	d := newDesk(t)
	script := d.script("worker.py", "probe-one")
	python, err := d.tool.Python(t.Context(), script)
	require.NoError(t, err)
	require.NoError(t, os.Remove(python))
	require.NoError(t, os.Symlink(filepath.Join(d.dir, "an interpreter that was upgraded"), python))
	again, err := d.tool.Python(t.Context(), script)
	require.NoError(t, err)
	assert.Equal(t, python, again)
	assert.Equal(t, "1.0", d.versions(again, script)["probe_one"])
}

func TestErrorsSayWhatToDo(t *testing.T) {
	d := newDesk(t)
	nothing := d.write("plain.py", worker)
	_, err := d.tool.Python(t.Context(), nothing)
	require.ErrorIs(t, err, ErrNothing)
	require.ErrorContains(t, err, "uv add --script "+nothing+" PACKAGE")
	_, err = d.tool.Python(t.Context(), filepath.Join(d.dir, "none.py"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = d.tool.Python(t.Context(), d.write("two.py", d.block("probe-one")+"\n"+d.block("probe-two")))
	require.ErrorIs(t, err, ErrMetadata)
	require.ErrorContains(t, err, "there are 2 blocks # /// script")
	_, err = d.tool.Python(t.Context(), d.write("open.py", "# /// script\n# dependencies = []\nimport sys\n"))
	require.ErrorContains(t, err, "is not ended by a line # ///")

	_, err = d.tool.Python(t.Context(), d.script("absent.py", "no-such-package"))
	require.ErrorIs(t, err, ErrResolve)
	require.ErrorContains(t, err, "no-such-package was not found")
	require.ErrorContains(t, err, "correct the requirements")
	var failed *Error
	require.ErrorAs(t, err, &failed)
	require.Contains(t, failed.Stderr, "no-such-package")
	require.NotContains(t, err.Error(), "\n")

	remote := d.write("remote.py", "# /// script\n# dependencies = [\"pypool-no-such-package\"]\n# ///\n")
	offline := d.tool
	offline.Args = []string{"--offline"}
	_, err = offline.Python(t.Context(), remote)
	require.ErrorIs(t, err, ErrOffline)
	require.ErrorContains(t, err, "name a mirror in UV_DEFAULT_INDEX")
	t.Setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
	t.Setenv("UV_HTTP_RETRIES", "0")
	_, err = d.tool.Python(t.Context(), remote)
	require.ErrorIs(t, err, ErrOffline)

	future := d.write("future.py", "# /// script\n# requires-python = \">=3.99\"\n# dependencies = []\n# ///\n")
	_, err = d.tool.Python(t.Context(), future)
	require.ErrorIs(t, err, ErrResolve)
	require.ErrorContains(t, err, "requires-python")
	odd := d.tool
	odd.Args = []string{"--no-such-option"}
	_, err = odd.Python(t.Context(), future)
	require.ErrorContains(t, err, "this uv is too old, or Tool.Args has what it does not know")

	t.Setenv("PATH", filepath.Join(d.dir, "nowhere"))
	t.Setenv("HOME", filepath.Join(d.dir, "nowhere"))
	t.Setenv("VIRTUAL_ENV", filepath.Join(d.dir, "nowhere"))
	t.Setenv("PYPOOL_UV", "")
	t.Chdir(d.dir)
	_, err = Tool{Dir: d.envs}.Python(t.Context(), future)
	require.ErrorIs(t, err, ErrNoUV)
	require.ErrorContains(t, err, "`pip install uv` in the virtual environment")
	require.NoError(t, os.MkdirAll(filepath.Join(d.dir, ".venv", "bin"), 0o700))
	require.NoError(t, os.Rename(d.tool.UV, filepath.Join(d.dir, ".venv", "bin", "uv")))
	found, err := Tool{}.uv()
	require.NoError(t, err)
	require.Equal(t, filepath.Join(d.dir, ".venv", "bin", "uv"), found, "where pip puts it")
}

func TestTheBlockIsFoundAsPEP723Says(t *testing.T) {
	for source, want := range map[string]string{
		"x = 1\n": "",
		"# /// script\n# dependencies = []\n# ///\nx = 1\n":             "# /// script\n# dependencies = []\n# ///",
		"#!/usr/bin/env python\n# /// script\n#\n# ///\n":               "# /// script\n#\n# ///",
		"# /// script\r\n# a = 1\r\n# ///\r\n":                          "# /// script\n# a = 1\n# ///",
		"# /// other\n# a = 1\n# ///\n":                                 "",
		"# /// script\n# a = \"\"\"\n# ///\n# \"\"\"\n# ///\n":          "# /// script\n# a = \"\"\"\n# ///\n# \"\"\"\n# ///",
		"# /// other\n# a = 1\n# ///\n\n# /// script\n# b = 2\n# ///\n": "# /// script\n# b = 2\n# ///",
	} {
		got, err := metadata(source)
		require.NoError(t, err, "%q", source)
		require.Equal(t, want, got, "%q", source)
	}
}

// What the root of a workspace says decides what its members' environments are.
func TestAChangeInAWorkspacesRootIsNoticed(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	keys := map[string]string{}
	key := func(what string) {
		t.Helper()
		w, err := Tool{}.find(filepath.Join(dir, "ws/svc/worker.py"))
		require.NoError(t, err)
		require.Equal(t, filepath.Join(dir, "ws/svc"), w.place)
		for other, key := range keys {
			require.NotEqual(t, key, w.key(nil), "%s is as %s", what, other)
		}
		keys[what] = w.key(nil)
	}
	write("ws/svc/worker.py", "x = 1\n")
	write("ws/svc/pyproject.toml", "[project]\nname = \"svc\"\n")
	key("a project alone")
	write("pyproject.toml", "[tool.ruff]\nline-length = 100\n")
	w, err := Tool{}.find(filepath.Join(dir, "ws/svc/worker.py"))
	require.NoError(t, err)
	require.Equal(t, keys["a project alone"], w.key(nil), "what is no workspace's is nothing to it")
	write("ws/pyproject.toml", "[tool.uv.workspace]\nmembers = [\"svc\"]\n")
	key("a member")
	write("ws/pyproject.toml", "[tool.uv]\nworkspace = {members = [\"svc\"]}\noverride-dependencies = [\"numpy<2\"]\n")
	key("a member with overrides")
	write("ws/svc/pyproject.toml", "[project]\nname = \"svc\"\nversion = \"2\"\n")
	key("another member")
}

// uv takes the Python that the nearest .python-version names, from the script's folder upward.
func TestTheVersionFileOfAScriptCounts(t *testing.T) {
	d := newDesk(t)
	t.Setenv("UV_PYTHON", "") // it would come first; the test's end puts it back
	require.NoError(t, os.Unsetenv("UV_PYTHON"))
	script := d.script("app/src/worker.py", "probe-one")
	python, err := d.tool.Python(t.Context(), script)
	require.NoError(t, err)
	d.write("app/.python-version", "3.99\n")
	_, err = d.tool.Python(t.Context(), script)
	require.ErrorIs(t, err, ErrResolve, "the one from before is of another Python")
	require.ErrorContains(t, err, "3.99")
	d.write("app/src/.python-versions", filepath.Dir(filepath.Dir(python))+"\n3.99\n")
	_, err = d.tool.Python(t.Context(), script)
	require.NoError(t, err, "uv has both files, and the nearest counts")

	embedded := d.tool
	embedded.Files = fstest.MapFS{"python/worker.py": {Data: []byte(d.block("probe-one") + worker)}, ".python-version": {Data: []byte("3.98\n")}}
	_, err = embedded.Python(t.Context(), "python/worker.py")
	require.ErrorIs(t, err, ErrResolve)
	require.ErrorContains(t, err, "3.98")
}

// What decides is the file that uv reads, and no other.
func TestWhichVersionFileCounts(t *testing.T) {
	dir := t.TempDir()
	key := func(script string) string {
		t.Helper()
		w, err := Tool{}.find(filepath.Join(dir, script))
		require.NoError(t, err)
		return w.key(nil)
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	for _, script := range []string{"a/b/worker.py", "c/worker.py"} {
		write(script, "# /// script\n# dependencies = []\n# ///\n")
	}
	write("project/src/worker.py", "x = 1\n")
	write("project/pyproject.toml", "[project]\nname = \"x\"\n")
	none, project := key("a/b/worker.py"), key("project/src/worker.py")
	require.Equal(t, none, key("c/worker.py"))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b/.python-version"), 0o700))
	require.Equal(t, none, key("a/b/worker.py"), "a folder is no such file")
	write(".python-versions", "3.11\n3.12\n")
	above := key("a/b/worker.py")
	require.NotEqual(t, none, above)
	require.Equal(t, above, key("c/worker.py"), "it is that of both")
	require.NotEqual(t, project, key("project/src/worker.py"))
	write("a/.python-version", "3.11\n")
	nearer := key("a/b/worker.py")
	require.NotEqual(t, above, nearer)
	require.Equal(t, above, key("c/worker.py"))
	write("a/.python-versions", "3.12\n")
	require.Equal(t, nearer, key("a/b/worker.py"), "uv prefers the other in the same folder")
	write("a/.python-version", "3.12\n")
	require.NotEqual(t, nearer, key("a/b/worker.py"))
}

// What keeps an environment from being made is told, and is no other process.
func TestAFolderInWhichNothingCanBeMade(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "worker.py")
	require.NoError(t, os.WriteFile(script, []byte("# /// script\n# dependencies = []\n# ///\n"), 0o600))
	tool := Tool{UV: os.Args[0], Dir: filepath.Join(dir, "envs"), Logger: slog.New(slog.DiscardHandler)} // which is not reached
	w, err := tool.find(script)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(tool.Dir, w.key(nil)+".lock"), 0o700)) // as on a file system that is read-only, or full
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ctx := range []context.Context{t.Context(), ended} {
		_, err = tool.Python(ctx, script)
		require.ErrorIs(t, err, syscall.EISDIR)
		require.ErrorContains(t, err, "what its inline metadata asks for is not in "+tool.Dir+", and cannot be made there")
		require.NotContains(t, err.Error(), "another process")
	}
}
