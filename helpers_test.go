package pypool

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// realPython is the interpreter that $PYPOOL_PYTHON, or else python3, comes to: asking a version
// manager's shim once is enough for a test run.
var realPython = sync.OnceValue(func() string {
	name := cmp.Or(os.Getenv("PYPOOL_PYTHON"), "python3")
	out, err := exec.Command(name, "-c", "import sys; sys.stdout.write(sys.executable)").Output()
	if err != nil {
		return name
	}
	return string(out)
})

// coreConfig is a Config for testdata/workers/core.py. overflow 0 means none.
func coreConfig(t testing.TB, size, overflow int) Config {
	t.Helper()
	if overflow == 0 {
		overflow = -1
	}
	return Config{Script: workerScript(t, "core.py"), Python: realPython(), Size: size, Overflow: overflow, Logger: testLogger(t)}
}

func corePool(t testing.TB, size, overflow int) *Pool {
	t.Helper()
	return newPool(t, coreConfig(t, size, overflow))
}

// quiet drops all logs.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// args are keyword arguments.
type args = map[string]any

// decoded unpacks a result.
func decoded[T any](t testing.TB, res Result) (v T) {
	t.Helper()
	require.NoError(t, res.Decode(&v))
	return v
}

// failure asserts that err is an *Error that matches the sentinel, and returns it.
func failure(t testing.TB, err error, sentinel error) *Error {
	t.Helper()
	require.ErrorIs(t, err, sentinel)
	var e *Error
	require.ErrorAs(t, err, &e)
	return e
}

// failsWith asserts the class and the delivery of an error; no error when want is nil.
func failsWith(t testing.TB, err, want error, is Delivery) *Error {
	t.Helper()
	if want == nil {
		require.NoError(t, err)
		return nil
	}
	require.ErrorIs(t, err, want)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, is, e.Delivery, "delivery of %v", err)
	require.Equal(t, is == NotExecuted, SafeToRetry(err))
	require.NotContains(t, err.Error(), "\n")
	return e
}

// pids lists the processes of the pool.
func pids(p *Pool) (list []int) {
	for _, w := range p.Workers() {
		list = append(list, w.PID)
	}
	return list
}

// outcome is how a call on another goroutine ended.
type outcome = outcomeOf[Result]

type outcomeOf[T any] struct {
	res T
	err error
}

// held is a call whose handler has begun and waits at its gate.
type held struct {
	gate latch
	mark string
	done chan outcome
}

// hold starts a call of the command hold in the session (none when empty), and returns once its
// handler runs.
func hold(t testing.TB, ctx context.Context, p *Pool, session string, opts ...CallOption) *held {
	t.Helper()
	h := queueHold(t, ctx, p, session, opts...)
	h.awaitStart(t)
	return h
}

// queueHold is hold without waiting for the handler.
func queueHold(t testing.TB, ctx context.Context, p *Pool, session string, opts ...CallOption) *held {
	t.Helper()
	gate := newLatch(t)
	h := &held{gate: gate, mark: filepath.Join(filepath.Dir(gate.path), "mark"), done: make(chan outcome, 1)}
	in := args{"gate": gate.path, "mark": h.mark}
	go func() {
		var out outcome
		if session == "" {
			out.res, out.err = p.ExecuteAnonymous(ctx, "hold", in, opts...)
		} else {
			out.res, out.err = p.ExecuteInSession(ctx, session, "hold", in, opts...)
		}
		h.done <- out
	}()
	return h
}

func (h *held) awaitStart(t testing.TB) {
	t.Helper()
	eventually(t, "the handler has begun", h.started)
}

func (h *held) started() bool {
	_, err := os.Stat(h.mark)
	return err == nil
}

// finish opens the gate and returns the worker's pid.
func (h *held) finish(t testing.TB) int {
	t.Helper()
	h.gate.release(t)
	out := <-h.done
	require.NoError(t, out.err)
	return decoded[int](t, out.res)
}

// inBackground starts n calls side by side; wait returns their outcomes in the order of the calls.
func inBackground[T any](n int, call func(i int) (T, error)) (wait func() []outcomeOf[T]) {
	outs := make([]outcomeOf[T], n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { outs[i].res, outs[i].err = call(i) })
	}
	return func() []outcomeOf[T] {
		wg.Wait()
		return outs
	}
}

// openFDs counts the process's descriptors.
func openFDs(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// logRecords parses what a logBuffer took.
func (b *logBuffer) records(t testing.TB) (list []map[string]any) {
	t.Helper()
	for line := range strings.Lines(b.String()) {
		var record map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &record))
		list = append(list, record)
	}
	return list
}

// with returns the records with that message.
func (b *logBuffer) with(t testing.TB, msg string) (list []map[string]any) {
	t.Helper()
	for _, r := range b.records(t) {
		if r["msg"] == msg {
			list = append(list, r)
		}
	}
	return list
}

// eventLog is an Observer.Event that a test reads.
type eventLog struct {
	mu     sync.Mutex // guards events
	events []Event
}

func (l *eventLog) add(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *eventLog) of(kind EventKind) (list []Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.Kind == kind {
			list = append(list, e)
		}
	}
	return list
}

// accounted asserts that the pool's call counters add up, with nothing in flight.
func accounted(t testing.TB, p *Pool) Stats {
	t.Helper()
	st := p.Stats()
	require.Equal(t, st.Started, st.Succeeded+st.Failed, "Started == Succeeded + Failed: %+v", st)
	require.Zero(t, st.InFlight)
	var sum int64
	for _, n := range st.ByType {
		sum += n
	}
	require.Equal(t, st.Failed, sum, "ByType sums to Failed: %+v", st.ByType)
	return st
}

// detail unpacks an error's detail type.
func detail[E error](t testing.TB, err error) E {
	t.Helper()
	var e E
	require.True(t, errors.As(err, &e), "%v has no %T", err, e)
	return e
}

// jsonNumber is a number of any length.
func jsonNumber(digits string) json.Number { return json.Number(digits) }

// containsItself is a value that package fmt would print until the stack overflows.
func containsItself() any {
	value := []any{nil}
	value[0] = value
	return value
}

// panickingContext ends when done is closed, and panics when it is asked why.
type panickingContext struct {
	context.Context
	done chan struct{}
}

func (c *panickingContext) Done() <-chan struct{} { return c.done }

func (c *panickingContext) Err() error {
	if isClosed(c.done) {
		panic("Err of a caller's context")
	}
	return nil
}
