//go:build linux

package pypool

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The fault table: each row is one thing that is known to go wrong between a program and its
// workers, and the one outcome that pypool gives it. Rows are named by their id, so that `go test
// -run 'Fault/B7'` finds one; docs/guarantees.md speaks of those that are not here. Behind each row
// stands the same epilogue: the next call succeeds, the pool is at its full size, and there is no
// zombie, no orphan, no descriptor and no goroutine more than before.

// fate is what becomes of the worker that served a call.
type fate int

const (
	noWorker fate = iota // none was involved
	kept
	replaced
)

// fault is one row. Either call and want describe it wholly, or run does what it takes.
type fault struct {
	name string // the row's id, an underscore, the behaviour

	fake    bool // the shared pool of fake workers, not of Python
	command string
	args    any
	timeout time.Duration // of the operation; 0: the pool's
	want    error         // sentinel; nil: success
	is      Delivery
	worker  fate
	check   func(t *testing.T, r *rig, res Result, err error)

	run func(t *testing.T, r *rig)
}

func TestFault(t *testing.T) {
	s := newStage(t)
	rows := [][]fault{startFaults, callFaults, channelFaults, hostFaults, sessionFaults, securityFaults, blameFaults, outputFaults, closingFaults, callerFaults, processFaults, pairFaults, batchFaults, functionFaults, sharedFunctionFaults, sharedFaults, blobFaults, memoryFaults, payloadFaults, forkFaults, slotFaults}
	seen := map[string]bool{}
	for _, group := range rows {
		for _, row := range group {
			require.False(t, seen[row.name], "two rows are called %s", row.name)
			seen[row.name] = true
			t.Run(row.name, func(t *testing.T) { s.play(t, row) })
		}
	}
	t.Run("F11_no_secret_in_any_log", func(t *testing.T) {
		if text := s.logs.String(); strings.Contains(text, secret) {
			at := strings.Index(text, secret)
			t.Fatalf("the secret is in the log: ...%s...", text[max(0, at-500):min(len(text), at+100)])
		}
	})
}

// secret is in the arguments of every row that can carry it, and must never be in a log.
const secret = "s3cr3t-s3ntin3l"

// stage holds what the rows share: a pool of Python workers, a pool of fake ones, and the log of
// everything.
type stage struct {
	mark   string // the environment variable that tells this run's processes from all others
	logs   *logBuffer
	logger *slog.Logger
	python *Pool
	fake   *Pool
}

const faultMark = "PYPOOL_FAULT_RUN"

func newStage(t *testing.T) *stage {
	s := &stage{mark: fmt.Sprintf("%s=%d.%x", faultMark, os.Getpid(), rand.Uint64()), logs: &logBuffer{}}
	s.logger = s.logs.logger(slog.LevelDebug)
	s.python = newPool(t, s.config(t))
	s.fake = newPool(t, s.fakeConfig(t, ""))
	return s
}

// config is that of the shared Python pool; rows with a pool of their own begin with it.
func (s *stage) config(t testing.TB) Config {
	t.Helper()
	return Config{
		Script: workerScript(t, "faults.py"), Python: realPython(), Size: 2, Overflow: -1, Logger: s.logger, ExtraEnv: []string{s.mark},
		OperationTimeout: 30 * time.Second, CheckoutTimeout: 20 * time.Second, StopGrace: 500 * time.Millisecond,
		CancelGrace:    -1, // these rows are about what has to be killed; cancel_test.go is about what stops
		RestartBackoff: Backoff{Min: 5 * time.Millisecond, Max: 50 * time.Millisecond}, Breaker: Breaker{Failures: -1}, MaxMessageBytes: 1 << 20,
	}
}

// fakeConfig is that of the shared pool of fake workers. start names what goes wrong at their
// start, if anything.
func (s *stage) fakeConfig(t testing.TB, start string) Config {
	t.Helper()
	cfg := s.config(t)
	fake := helperConfig(t, "fault worker")
	cfg.Script, cfg.Python, cfg.Size = "", fake.Python, fake.Size
	cfg.ExtraEnv = append(fake.ExtraEnv, s.mark, "PYPOOL_FAKE_START="+start, "GORACE=atexit_sleep_ms=0")
	return cfg
}

// rig is what one row works with.
type rig struct {
	*stage
	pool   *Pool // what the row is played on, and what the epilogue looks at
	shared bool
}

func (s *stage) play(t *testing.T, row fault) {
	r := &rig{stage: s, pool: s.python, shared: true}
	if row.fake {
		r.pool = s.fake
	}
	before := s.census()
	t.Cleanup(func() { // after the cleanups of the row itself, pools of its own among them
		s.settled(t, before)
	})
	if row.run != nil {
		row.run(t, r)
		r.epilogue(t)
		return
	}
	res, err := r.execute(row.command, row.args, row.timeout)
	r.expect(t, row, res, err)
	r.epilogue(t)
	r.fate(t, row.worker, res, err)
}

func (r *rig) execute(command string, args any, timeout time.Duration) (Result, error) {
	var opts []CallOption
	if timeout > 0 {
		opts = append(opts, WithTimeout(timeout))
	}
	return r.pool.ExecuteAnonymous(context.Background(), command, args, opts...)
}

// expect compares a call's end with its row.
func (r *rig) expect(t *testing.T, row fault, res Result, err error) {
	t.Helper()
	failsWith(t, err, row.want, row.is)
	if row.check != nil {
		row.check(t, r, res, err)
	}
}

// fate asserts what became of the worker that served the call.
func (r *rig) fate(t *testing.T, want fate, res Result, err error) {
	t.Helper()
	id := res.Worker()
	var e *Error
	if errors.As(err, &e) {
		id = e.Context.Worker
	}
	if want == noWorker {
		require.Empty(t, id, "a worker was involved")
		return
	}
	require.NotEmpty(t, id, "no worker was involved")
	alive := false
	for _, w := range r.pool.Workers() {
		alive = alive || w.ID == id && w.State != "stopping"
	}
	require.Equal(t, want == kept, alive, "whether worker %s is still there", id)
}

// own gives the row a pool of its own, which is closed at the row's end.
func (r *rig) own(t *testing.T, cfg Config) *Pool {
	t.Helper()
	r.pool, r.shared = newPool(t, cfg), false
	return r.pool
}

// epilogue is what holds after every row.
func (r *rig) epilogue(t *testing.T) {
	t.Helper()
	p := r.pool
	if p == nil || isClosed(p.closing) {
		return
	}
	eventually(t, "the pool is at its full size", func() bool { return serving(p) })
	res, err := p.ExecuteAnonymous(context.Background(), "ping", nil)
	require.NoError(t, err, "the next call")
	var pong struct{ Status string }
	require.NoError(t, res.Decode(&pong))
	require.Equal(t, "ok", pong.Status)
	eventually(t, "the pool is at its full size after the next call", func() bool { return serving(p) })
	st := p.Stats()
	require.Zero(t, st.InFlight)
	require.Zero(t, st.Waiting)
	require.Zero(t, st.Unreapable)
	require.Equal(t, st.Started, st.Succeeded+st.Failed)
	require.EqualValues(t, st.Workers, st.WorkersStarted-st.WorkersExited)
	eventually(t, "every worker given back: a destroyed one holds its place until its destructor is done", func() bool {
		return p.sup.checkout.puddle.Stat().AcquiredResources() == int32(st.Size) && p.sup.checkout.idleNow() == st.Size
	})
}

// census counts what a row must not leave behind.
type census struct{ fds, goroutines int }

func (s *stage) census() census { return census{openDescriptors(), runtime.NumGoroutine()} }

// settled waits until descriptors and goroutines are at the baseline, no child is a zombie, and
// none of this run's processes is anything but a live worker of a shared pool.
func (s *stage) settled(t testing.TB, before census) {
	t.Helper()
	var now census
	poll := func(what string, ok func() bool) {
		t.Helper()
		for range 2500 {
			if ok() {
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
		t.Errorf("within 5 s not: %s (before %+v, now %+v)\n%s", what, before, s.census(), describeLeaks(s))
	}
	poll("descriptors and goroutines at the baseline", func() bool {
		now = s.census()
		return now.fds <= before.fds && now.goroutines <= before.goroutines
	})
	poll("no zombie child", func() bool { return len(zombies()) == 0 })
	poll("no orphan", func() bool { return len(s.strangers()) == 0 })
}

func describeLeaks(s *stage) string {
	buf := make([]byte, 256<<10)
	return fmt.Sprintf("zombies %v, strangers %v\n%s\n%s", zombies(), s.strangers(), strings.Join(listDescriptors(), "\n"), buf[:runtime.Stack(buf, true)])
}

// strangers lists this run's processes that are no live workers of the shared pools.
func (s *stage) strangers() (pids []int) {
	workers := map[int]bool{os.Getpid(): true}
	for _, p := range []*Pool{s.python, s.fake} {
		for _, w := range p.Workers() {
			workers[w.PID] = true
		}
		for _, pid := range append(serversOf(p), sparesOf(p)...) {
			workers[pid] = true
		}
	}
	for _, pid := range marked(s.mark) {
		if !workers[pid] {
			pids = append(pids, pid)
		}
	}
	return pids
}

// marked lists the live processes that have the assignment in their environment.
func marked(assignment string) (pids []int) {
	entries, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range entries {
		environ, err := os.ReadFile(path)
		if err != nil || !strings.Contains("\x00"+string(environ), "\x00"+assignment+"\x00") {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if state, _ := processState(pid); state != "Z" && state != "X" && state != "" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// zombies lists the children of this process that nobody has reaped.
func zombies() (pids []int) {
	entries, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range entries {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if state, parent := processState(pid); state == "Z" && parent == os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// processState reads a process's state letter and parent.
func processState(pid int) (state string, parent int) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	_, _ = fmt.Sscan(after, &state, &parent)
	return state, parent
}

func openDescriptors() int { return len(listDescriptors()) }

func listDescriptors() (list []string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		list = append(list, e.Name()+" -> "+target)
	}
	return list
}

// gone waits until a process has ended.
func gone(t testing.TB, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("process %d is gone", pid), func() bool {
		state, _ := processState(pid)
		return state == "" || state == "Z" || state == "X"
	})
}

// pidIn waits for a file that holds a process id.
func pidIn(t testing.TB, path string) (pid int) {
	t.Helper()
	eventually(t, path+" holds a process id", func() bool {
		text, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	})
	return pid
}

// blocked is a call whose handler has begun and waits for its latch.
type blocked struct {
	latch
	began string
	end   <-chan outcome
}

// block starts such a call, and returns when its handler runs.
func (r *rig) block(t testing.TB, ctx context.Context, opts ...CallOption) *blocked {
	t.Helper()
	gate := newLatch(t)
	b := &blocked{latch: gate, began: gate.path + ".began"}
	b.end = background(r.pool, ctx, "block", []any{gate.path, b.began}, opts...)
	b.pid(t)
	return b
}

// pid is the worker's that runs it.
func (b *blocked) pid(t testing.TB) int { return pidIn(t, b.began) }

// background runs a call on a goroutine of its own.
func background(p *Pool, ctx context.Context, command string, args any, opts ...CallOption) <-chan outcome {
	end := make(chan outcome, 1)
	go func() {
		res, err := p.ExecuteAnonymous(ctx, command, args, opts...)
		end <- outcome{res, err}
	}()
	return end
}

// ended waits for the end of a background call.
func ended(t testing.TB, end <-chan outcome) outcome {
	t.Helper()
	select {
	case o := <-end:
		return o
	case <-time.After(15 * time.Second):
		t.Fatal("the call does not end")
		panic("unreachable")
	}
}

// logged waits for a text in the log of the shared pools.
func (s *stage) logged(t testing.TB, text string) {
	t.Helper()
	eventually(t, "the log has "+text, func() bool { return strings.Contains(s.logs.String(), text) })
}

// within asserts the time bound of a guarantee, with a second for a slow machine.
func within(t testing.TB, begun time.Time, bound time.Duration) {
	t.Helper()
	if took := time.Since(begun); took > bound+time.Second {
		t.Errorf("it took %v, the bound is %v", took, bound)
	}
}

// opensWithError asserts that New fails, and leaves nothing.
func opensWithError(t *testing.T, r *rig, cfg Config) (*Error, *StartError) {
	t.Helper()
	p, err := New(t.Context(), cfg)
	if err == nil {
		_ = p.Close()
	}
	require.Nil(t, p)
	return failsWith(t, err, ErrWorkerStart, NotExecuted), detail[*StartError](t, err)
}

// --- the fake worker --------------------------------------------------------------------------------------------------

func init() { helpers["fault worker"] = faultWorker }

type wireRequest struct {
	ID      json.Number     `json:"id"`
	Command string          `json:"command"`
	Args    json.RawMessage `json:"args"`
}

// faultWorker speaks the protocol well but for what the command's name says: what Python's runtime
// cannot be made to do.
func faultWorker() {
	in := bufio.NewReaderSize(os.Stdin, 1<<16)
	out := func(format string, args ...any) { fmt.Fprintf(os.Stdout, format, args...) }
	start := os.Getenv("PYPOOL_FAKE_START")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			os.Exit(0)
		}
		var req wireRequest
		if err := json.Unmarshal([]byte(line), &req); err != nil {
			fmt.Fprintln(os.Stderr, "fault worker:", err)
			os.Exit(3)
		}
		switch req.Command {
		case "hello":
			fakeHello(start, out)
		case "ping":
			if start == "mute ping" {
				select {}
			}
			out(`{"id":%s,"success":true,"result":{"status":"ok"}}`+"\n", req.ID)
		case "shutdown":
			out(`{"id":%s,"success":true,"result":null}`+"\n", req.ID)
			os.Exit(0)
		default:
			misbehave(req, out)
		}
	}
}

func fakeHello(start string, out func(string, ...any)) {
	protocol, version := 1, Version
	switch start {
	case "garbage":
		out("Traceback: this is no JSON\n")
	case "flood":
		block := strings.Repeat("y", 1<<16)
		for {
			if _, err := os.Stdout.WriteString(block); err != nil {
				os.Exit(0)
			}
		}
	case "banner":
		out("Welcome to the tool!\nit prints {\"id\":1} too\n")
	case "banner without newline":
		out("loading...")
	case "protocol 3":
		protocol = 3
	case "old runtime":
		version = "0.0.9"
	case "refuses":
		out(`{"id":0,"success":false,"error":{"kind":"protocol_mismatch","message":"no","supported":[2,3]}}` + "\n")
		return
	case "closes stdout":
		os.Stdout.Close()
		select {}
	case "mute":
		select {}
	}
	out(`{"id":0,"success":true,"result":{"protocol":%d,"runtime":%q,"python":"3.11.0","commands":["fake"],"programs":[],"capabilities":["stream"]}}`+"\n", protocol, version)
}

// misbehave plays the fault that is the command's name.
func misbehave(req wireRequest, out func(string, ...any)) {
	id, _ := strconv.ParseUint(req.ID.String(), 10, 64)
	good := fmt.Sprintf(`{"id":%d,"success":true,"result":"good"}`+"\n", id)
	switch req.Command {
	case "garbage":
		out("this is no answer\n")
	case "partial line, exit":
		out(`{"id":%d,"succ`, id)
		os.Exit(5)
	case "says": // and exits if it is told to
		var text string
		var exits bool
		_ = json.Unmarshal(req.Args, &[]any{&text, &exits})
		out("%s", strings.ReplaceAll(text, "%", strconv.FormatUint(id, 10)))
		if exits {
			os.Exit(5)
		}
	case "says byte by byte":
		var text string
		_ = json.Unmarshal(req.Args, &[]any{&text})
		for _, c := range []byte(strings.ReplaceAll(text, "%", strconv.FormatUint(id, 10))) {
			out("%s", string(rune(c)))
		}
	case "no newline":
		out("%s", strings.TrimSuffix(good, "\n"))
	case "wrong id":
		out(`{"id":%d,"success":true,"result":"for somebody else"}`+"\n", id+1)
	case "old id":
		out(`{"id":%d,"success":true,"result":"for somebody else"}`+"\n", id-1)
	case "duplicate":
		out("%s%s", good, good)
	case "duplicate later": // the second arrives when the worker is idle
		out("%s", good)
		var path string
		_ = json.Unmarshal(req.Args, &[]any{&path})
		waitForFile(path)
		out("%s", good)
	case "two documents":
		out(`{"id":%d,"success":true,"result":1}{"id":%d,"success":true,"result":2}`+"\n", id, id)
	case "pretty-printed":
		out("{\n  \"id\": %d,\n  \"success\": true,\n  \"result\": 1\n}\n", id)
	case "case variants":
		out(`{"id":%d,"ID":%d,"success":false,"SUCCESS":true,"result":1}`+"\n", id, id)
	case "duplicate key":
		out(`{"id":%d,"id":%d,"success":true,"result":1}`+"\n", id, id)
	case "unknown key":
		out(`{"id":%d,"success":true,"result":1,"extra":2}`+"\n", id)
	case "result and error":
		out(`{"id":%d,"success":true,"result":1,"error":{}}`+"\n", id)
	case "success without result":
		out(`{"id":%d,"success":true}`+"\n", id)
	case "error that is no object":
		out(`{"id":%d,"success":false,"error":"no"}`+"\n", id)
	case "error of wrong types":
		out(`{"id":%d,"success":false,"error":{"kind":5}}`+"\n", id)
	case "unknown kind":
		out(`{"id":%d,"success":false,"error":{"kind":"martian","message":"hello"}}`+"\n", id)
	case "bad reason":
		out(`{"id":%d,"retire":{"why":"no text"}}`+"\n", id)
	case "other reason":
		out(`{"id":%d,"retire":"not mine"}`+"\n%s", id+1, good)
	case "many reasons":
		out(`{"id":%d,"retire":"the first"}`+"\n"+`{"id":%d,"retire":"the second"}`+"\n%s", id, id, good)
	case "unasked item":
		out(`{"id":%d,"item":1}`+"\n", id)
	case "invalid UTF-8":
		out("{\"id\":%d,\"success\":true,\"result\":\"\xff\"}\n", id)
	case "NaN":
		out(`{"id":%d,"success":true,"result":NaN}`+"\n", id)
	case "huge line":
		block := strings.Repeat("z", 1<<16)
		for {
			if _, err := os.Stdout.WriteString(block); err != nil {
				os.Exit(0)
			}
		}
	case "too deep":
		out(`{"id":%d,"success":true,"result":%s%s}`+"\n", id, strings.Repeat("[", 10001), strings.Repeat("]", 10001))
	case "UTF-16":
		for _, c := range good {
			out("%c\x00", c)
		}
	case "empty line":
		out("\n%s", good)
	case "null id":
		out(`{"id":null,"success":false,"error":{"kind":"invalid_request","message":"what?"}}` + "\n")
	case "byte by byte":
		for _, c := range good {
			out("%c", c)
		}
	case "escape codes":
		out(`{"id":%d,"success":false,"error":{"kind":"python_exception","type":"E\u001b[2J","module":"m","message":"\u001b[31mred\nlevel=ERROR\u0000","traceback":"","notes":[]}}`+"\n", id)
	case "secret garbage":
		out("garbage with %s in it\n", secret)
	case "closes stdout":
		os.Stdout.Close()
		select {}
	case "exit":
		os.Exit(7)
	case "last words":
		out("%s", good)
		os.Exit(0)
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		out("%s", good)
	case "never":
		select {}
	default:
		out("%s", good)
	}
}

// waitForFile returns when the file is there: fake workers are told by files, as handlers are by
// FIFOs.
func waitForFile(path string) {
	for {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// touch makes the file that a fake worker waits for.
func touch(t testing.TB, path string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, nil, 0o600))
}
