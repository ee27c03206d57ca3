package pypoolnats

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
)

// helperEnv names the program that a re-executed test binary plays instead of running tests.
const helperEnv = "PYPOOLNATS_TEST_HELPER"

// helpers are these programs. One must not return into the tests.
var helpers = map[string]func(){}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		helpers[name]()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m,
		// The embedded server's, which outlive it: they hold nothing.
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*dirJSStore).expireStaleMsgs"),
	)
}

type args = map[string]any

// lostSoon is what the tests wait for a server that is lost. One that is there is heard of within a
// fifth of it, but on a machine that is busy.
const lostSoon = 3 * time.Second

// broker is a real nats-server, in this process.
type broker struct {
	opts server.Options
	srv  *server.Server
}

// newBroker starts one that ends with the test.
func newBroker(t testing.TB, change ...func(*server.Options)) *broker {
	t.Helper()
	b := &broker{opts: server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir()}}
	for _, f := range change {
		f(&b.opts)
	}
	b.start(t)
	t.Cleanup(b.stop)
	return b
}

func (b *broker) start(t testing.TB) {
	t.Helper()
	opts := b.opts
	srv, err := server.NewServer(&opts)
	require.NoError(t, err)
	srv.Start()
	require.True(t, srv.ReadyForConnections(20*time.Second))
	b.srv = srv
	if b.opts.Port < 0 { // a restart is at the same address
		b.opts.Port = opts.Port
	}
}

func (b *broker) stop() {
	b.srv.Shutdown()
	b.srv.WaitForShutdown()
}

func (b *broker) url() string { return b.srv.ClientURL() }

// connect opens a connection that is closed at the test's end.
func (b *broker) connect(t testing.TB, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(b.url(), append([]nats.Option{nats.ReconnectWait(50 * time.Millisecond), nats.MaxReconnects(-1)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return nc
}

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// python is the interpreter that $PYPOOL_PYTHON, or else python3, comes to.
var python = sync.OnceValue(func() string {
	name := cmp.Or(os.Getenv("PYPOOL_PYTHON"), "python3")
	out, err := exec.Command(name, "-c", "import sys; sys.stdout.write(sys.executable)").Output()
	if err != nil {
		return name
	}
	return string(out)
})

func config(size int) pypool.Config {
	return pypool.Config{Script: "testdata/worker.py", Python: python(), Size: size, Overflow: -1, Logger: silent}
}

func newPool(t testing.TB, cfg pypool.Config) *pypool.Pool {
	t.Helper()
	p, err := pypool.New(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// serve serves the pool, until the test's end, over a connection of its own.
func serve(t testing.TB, b *broker, name string, c pypool.Caller, opts ...ServeOption) *Service {
	t.Helper()
	s, err := Serve(b.connect(t), name, c, append([]ServeOption{WithLogger(silent)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// client makes a client with a connection of its own.
func client(t testing.TB, b *broker, name string, opts ...ClientOption) *Client {
	t.Helper()
	c := NewClient(b.connect(t), name, opts...)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// pair is a pool that is served, and a client of it.
func pair(t testing.TB, size int) (*broker, *pypool.Pool, *Client) {
	t.Helper()
	b := newBroker(t)
	p := newPool(t, config(size))
	serve(t, b, "test", p)
	return b, p, client(t, b, "test")
}

// failure asserts that err is an *Error that matches the sentinel, and returns it.
func failure(t testing.TB, err error, sentinel error) *pypool.Error {
	t.Helper()
	require.ErrorIs(t, err, sentinel)
	var e *pypool.Error
	require.ErrorAs(t, err, &e)
	return e
}

func detail[E error](t testing.TB, err error) E {
	t.Helper()
	var e E
	require.True(t, errors.As(err, &e), "%v has no %T", err, e)
	return e
}

// eventually waits for a condition that others bring about. It polls, and fails after 20 seconds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// gate is what the command hold waits at.
type gate struct{ fifo, mark string }

func newGate(t testing.TB) gate {
	t.Helper()
	dir := t.TempDir()
	g := gate{filepath.Join(dir, "gate"), filepath.Join(dir, "mark")}
	require.NoError(t, exec.Command("mkfifo", g.fifo).Run())
	return g
}

func (g gate) args() args { return args{"gate": g.fifo, "mark": g.mark} }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// call has the client call hold on a goroutine of its own.
func (g gate) call(ctx context.Context, c *Client, opts ...pypool.CallOption) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := c.ExecuteAnonymous(ctx, "hold", g.args(), opts...)
		done <- err
	}()
	return done
}

// awaitBegun returns the name of the server whose handler has begun.
func (g gate) awaitBegun(t testing.TB) string {
	t.Helper()
	eventually(t, "the handler has begun", func() bool { return exists(g.mark) })
	name, err := os.ReadFile(g.mark)
	require.NoError(t, err)
	return string(name)
}

// open lets the handler go on.
func (g gate) open(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile(g.fifo, os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// accounted asserts that nothing is in flight, and the counters add up.
func accounted(t testing.TB, p *pypool.Pool) pypool.Stats {
	t.Helper()
	eventually(t, "nothing is in flight", func() bool { return p.Stats().InFlight == 0 })
	st := p.Stats()
	require.Equal(t, st.Started, st.Succeeded+st.Failed)
	return st
}

// child is a process of the test's: the test binary, playing a helper.
type child struct {
	cmd *exec.Cmd
	out *lines
}

func newChild(t testing.TB, helper string, in any) *child {
	t.Helper()
	encoded, err := json.Marshal(in)
	require.NoError(t, err)
	exe, err := os.Executable()
	require.NoError(t, err)
	c := &child{cmd: exec.Command(exe), out: &lines{}}
	c.cmd.Env = append(os.Environ(), helperEnv+"="+helper, "HELPER_INPUT="+string(encoded))
	c.cmd.Stdout, c.cmd.Stderr = c.out, os.Stderr
	require.NoError(t, c.cmd.Start())
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // it may have ended
		_, _ = c.cmd.Process.Wait()
	})
	return c
}

// input reads what newChild was given.
func input[T any]() (in T) {
	if err := json.Unmarshal([]byte(os.Getenv("HELPER_INPUT")), &in); err != nil {
		panic(err)
	}
	return in
}

// await waits for a line of the child's.
func (c *child) await(t testing.TB, line string) {
	t.Helper()
	eventually(t, line, func() bool { return strings.Contains(c.out.String(), line+"\n") })
}

type lines struct {
	mu  sync.Mutex // guards buf
	buf strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
