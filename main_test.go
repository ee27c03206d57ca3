package pypool

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool/internal/wire"
)

// helperEnv names the helper that a re-executed test binary plays instead of running tests: a
// worker that breaks the protocol as no Python can, or a host that dies.
const helperEnv = "PYPOOL_TEST_HELPER"

// helpers is filled by init functions of the test files; each runs in a process of its own and must
// not return into the tests.
var helpers = map[string]func(){}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		helper, ok := helpers[name]
		if !ok {
			fmt.Fprintf(os.Stderr, "no test helper %q\n", name)
			os.Exit(2)
		}
		helper()
		os.Exit(0)
	}
	switch os.Getenv("PYPOOL_TEST_PAYLOADS") {
	case "pipe":
		pipeOnly.Store(true)
	case "memory": // all of them, small ones too
		wire.SetMinBlob(1)
		wire.SetMinLent(1)
	}
	goleak.VerifyTestMain(m)
}

// workerScript is the path of testdata/workers/name.
func workerScript(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", "workers", name))
	require.NoError(t, err)
	require.FileExists(t, path)
	return path
}

// script writes a worker of the test's own.
func script(t testing.TB, source string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "worker.py")
	require.NoError(t, os.WriteFile(path, []byte(source), 0o600))
	return path
}

// newPool opens a pool that is closed, and checked to have left no process, at the test's end. Its
// log goes to the test's log unless cfg has a Logger.
func newPool(t testing.TB, cfg Config) *Pool {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = testLogger(t)
	}
	p, err := New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		workers := p.Workers()
		require.NoError(t, p.Close())
		for _, w := range workers {
			require.False(t, processExists(w.PID), "worker %s (pid %d) is still there", w.ID, w.PID)
		}
	})
	return p
}

// helperConfig is a pool of fake workers: the test binary, playing the named helper in place of
// Python.
func helperConfig(t testing.TB, name string) Config {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	return Config{Python: exe, ExtraEnv: []string{helperEnv + "=" + name}, Size: 1, Overflow: -1, Logger: testLogger(t)}
}

// testLogger writes to t.Log until the test is over.
func testLogger(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t = nil
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testWriter struct {
	mu sync.Mutex // guards t
	t  testing.TB
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Logf("%s", p)
	}
	return len(p), nil
}

// logBuffer is a log that a test reads.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf []byte
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	return len(p), nil
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.buf)
}

func (b *logBuffer) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: level}))
}

// eventually waits for a condition that other processes bring about. It polls, and fails after ten
// seconds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// serving reports whether the pool has all its workers idle. A circuit closes a moment after the
// worker that closes it is idle.
func serving(p *Pool) bool {
	st := p.Stats()
	return st.Idle == st.Size && st.Workers == st.Size && st.Breaker == "closed"
}

func processExists(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}

// latch is a FIFO on which a Python handler blocks (open(path).read()) until the test opens it.
type latch struct{ path string }

func newLatch(t testing.TB) latch {
	t.Helper()
	l := latch{filepath.Join(t.TempDir(), "latch")}
	require.NoError(t, exec.Command("mkfifo", l.path).Run())
	return l
}

// release lets one handler that blocks on the latch go on. It waits until there is one.
func (l latch) release(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile(l.path, os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// executed runs a command and fails the test on an error.
func executed(t testing.TB, p *Pool, command string, args any) Result {
	t.Helper()
	res, err := p.ExecuteAnonymous(context.Background(), command, args)
	require.NoError(t, err)
	return res
}
