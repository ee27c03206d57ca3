//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests run the service as the Dockerfile has it run, as far as that goes without a container
// engine: as PID 1 of a PID namespace, as nobody, on a read-only root with one writable folder, in a
// cgroup. They need root.

const asService = "PYPOOL_EXAMPLE_SERVICE" // the test binary with this set is the service

func TestMain(m *testing.M) {
	if os.Getenv(asService) != "" {
		if slices.Contains(os.Args, asPayloads) {
			if err := callWithPayloads(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The pieces of the image that the test makes do without are its words.
func TestTheDockerfileSaysWhatIsTested(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	require.NoError(t, err)
	for _, line := range []string{"USER 65534:65534", `ENTRYPOINT ["/usr/local/bin/service"]`, "ENV PYPOOL_PYTHON=", `"-health"`} {
		assert.Contains(t, string(text), line)
	}
	unit, err := os.ReadFile("service.service")
	require.NoError(t, err)
	assert.Contains(t, string(unit), "KillMode=mixed")
}

// What examples/go.mod takes from beside it is there when its modules are downloaded: without their
// go.mod that fails.
func TestTheDockerfileCopiesWhatIsReplaced(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	require.NoError(t, err)
	before, _, found := strings.Cut(string(text), "RUN go mod download")
	require.True(t, found)
	mod, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	replaced := regexp.MustCompile(`(?m)=> \.\./(\S*)$`).FindAllStringSubmatch(string(mod), -1)
	require.NotEmpty(t, replaced)
	for _, m := range replaced {
		assert.Regexp(t, `(?m)^COPY `+regexp.QuoteMeta(path.Join(m[1], "go.mod"))+` `, before)
	}
}

type container struct {
	t      *testing.T
	addr   string
	cmd    *exec.Cmd
	temp   string // its one writable folder, seen from inside
	mu     sync.Mutex
	stderr bytes.Buffer // guarded by mu
}

func (c *container) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stderr.Write(p)
}

func (c *container) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stderr.String()
}

// start runs the service; cgroup may be empty.
func start(t *testing.T, cgroup string, args ...string) *container {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces are made by root")
	}
	const python = "/usr/bin/python3" // for everybody, as a version manager's in root's home is not
	if _, err := os.Stat(python); err != nil {
		t.Skip("there is no " + python)
	}
	if out, err := exec.Command("unshare", "--pid", "--mount", "--fork", "true").CombinedOutput(); err != nil {
		t.Skipf("no namespaces can be made here: %s", out)
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755)) //nolint:gosec // nobody is to get there
	require.NoError(t, os.Chmod(dir, 0o755))               //nolint:gosec // likewise
	self, err := os.Executable()
	require.NoError(t, err)
	service := filepath.Join(dir, "service")
	require.NoError(t, exec.Command("cp", self, service).Run())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &container{t: t, addr: listener.Addr().String(), temp: filepath.Join(dir, "tmp")}
	require.NoError(t, listener.Close())
	require.NoError(t, os.Mkdir(c.temp, 0o755))
	script := `set -e
		[ -z "$CGROUP" ] || echo $$ > "$CGROUP"/cgroup.procs
		exec unshare --pid --mount --fork sh -ec '
			mount --make-rprivate /
			mount -t proc proc /proc
			mount -t tmpfs -o mode=1777 tmpfs "$TMPDIR"
			mount -o remount,ro,bind /
			cd "$TMPDIR"
			exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs "$SERVICE" "$@"' sh "$@"`
	c.cmd = exec.Command("sh", append([]string{"-c", script, "sh", "-addr", c.addr}, args...)...)
	c.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), asService + "=1", "SERVICE=" + service, "TMPDIR=" + c.temp, "PYPOOL_PYTHON=" + python, "CGROUP=" + cgroup, "GOMAXPROCS=2"}
	c.cmd.Stderr = c
	require.NoError(t, c.cmd.Start())
	c.cmd.WaitDelay = time.Second
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil { // the end of PID 1 is that of all that is in there
			for _, pid := range c.inside() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait()
		}
		if t.Failed() {
			t.Log(c.said())
		}
	})
	return c
}

func (c *container) awaitReady() {
	c.t.Helper()
	for end := time.Now().Add(30 * time.Second); ready(c.t.Context(), c.addr) != nil; time.Sleep(10 * time.Millisecond) {
		require.True(c.t, time.Now().Before(end), c.said())
	}
}

// call returns the answer of a command, or the status and the error.
func (c *container) call(target string, out any) (int, string) {
	c.t.Helper()
	response, err := http.Post("http://"+c.addr+"/call/"+target, "", nil) //nolint:gosec,noctx // the test's own
	require.NoError(c.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(c.t, err)
	if response.StatusCode == http.StatusOK && out != nil {
		require.NoError(c.t, json.Unmarshal(body, out))
	}
	return response.StatusCode, string(body)
}

// one is the service's own process: PID 1 there.
func (c *container) one() int {
	c.t.Helper()
	inside := c.inside()
	require.Len(c.t, inside, 1)
	return inside[0]
}

// inside is PID 1, or nothing when it has ended.
func (c *container) inside() (pids []int) {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", c.cmd.Process.Pid, c.cmd.Process.Pid))
	for _, field := range strings.Fields(string(children)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// zombies counts those that PID 1 has not reaped.
func (c *container) zombies() (n int) {
	c.t.Helper()
	one := c.one()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", one, one))
	require.NoError(c.t, err)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", one))
	require.NoError(c.t, err)
	all := string(children)
	for _, task := range tasks {
		data, _ := os.ReadFile(task)
		all += " " + string(data)
	}
	seen := map[string]bool{}
	for _, pid := range strings.Fields(all) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err == nil && !seen[pid] && strings.Contains(string(stat), ") Z ") {
			seen[pid] = true
			n++
		}
	}
	return n
}

func TestTheServiceRunsAsNobodyOnAReadOnlyRootAsPIDOne(t *testing.T) {
	c := start(t, "")
	c.awaitReady()
	var greeting string
	c.call("greet?name=Ann", &greeting)
	assert.Equal(t, "Hello, Ann!", greeting)
	var at struct {
		UID       int
		File, Cwd string
	}
	c.call("where", &at)
	assert.Equal(t, 65534, at.UID)
	assert.True(t, strings.HasPrefix(at.File, c.temp+"/pypool-files-"), at.File)
	assert.Equal(t, c.temp, at.Cwd)

	// What docs/containers.md says of PID 1: what has left its group is nobody's to reap
	status, body := c.call("leave_behind", nil)
	require.Equal(t, http.StatusOK, status, body)
	for end := time.Now().Add(10 * time.Second); c.zombies() == 0; time.Sleep(10 * time.Millisecond) {
		require.True(t, time.Now().Before(end), "a zombie")
	}
	require.NoError(t, syscall.Kill(c.one(), syscall.SIGTERM))
	require.NoError(t, c.cmd.Wait(), "the service stops in order")
	assert.NotContains(t, c.said(), "ERROR")
}

func TestCheckWarnsOfPIDOne(t *testing.T) {
	c := start(t, "", "-check")
	require.NoError(t, c.cmd.Wait(), c.said())
	assert.Contains(t, c.said(), "check: this process is PID 1")
	assert.Contains(t, c.said(), "docker run --init")
}

func TestAWorkerThatPassesTheMemoryLimitIsTheOneThatIsKilled(t *testing.T) {
	cgroup := limited(t, 400<<20)
	c := start(t, cgroup)
	c.awaitReady()
	one := c.one()
	status, body := c.call("fill?megabytes=4000", nil)
	assert.Equal(t, http.StatusInternalServerError, status)
	assert.Contains(t, body, "worker_exited")
	assert.Contains(t, body, "killed by a SIGKILL that pypool did not send (out of memory?)")
	c.awaitReady()
	assert.Equal(t, one, c.one(), "the service lives")
	var greeting string
	c.call("greet?name=Ann", &greeting)
	assert.Equal(t, "Hello, Ann!", greeting)
}

// limited makes a cgroup with a limit of memory, of either version.
func limited(t *testing.T, limit int) string {
	t.Helper()
	for _, c := range []struct{ root, file string }{{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}} {
		dir := filepath.Join(c.root, fmt.Sprintf("pypool-test-%d", os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil { //nolint:gosec // a cgroup
			continue
		}
		t.Cleanup(func() {
			for end := time.Now().Add(5 * time.Second); os.Remove(dir) != nil && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
		})
		if os.WriteFile(filepath.Join(dir, c.file), []byte(strconv.Itoa(limit)), 0o600) == nil {
			_ = os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0o600)
			return dir
		}
	}
	t.Skip("no cgroup with a limit of memory can be made here")
	return ""
}
