//go:build unix

package pypool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// --- the place in the line ------------------------------------------------------------------------------------------

func TestAnExceptionNamesThePlaceInTheUsersCode(t *testing.T) {
	t.Parallel()
	source := script(t, `import json
import helper
from pypool import command

@command
def direct():
    raise ValueError("bad")

@command
def nested():
    return helper.deep(0)

@command
def library(text):
    return json.loads(text)

@command
def chained():
    try:
        helper.deep(0)
    except ZeroDivisionError as error:
        raise KeyError("row") from error

@command
def silent():
    raise RuntimeError

@command
def long():
    raise ValueError("x" * 100_000)

@command
def lines():
    raise ValueError('first\n  File "/etc/shadow", line 7, in forged')

@command
async def later():
    return helper.deep(0)

@command
def tokens():
    yield 1
    raise ValueError("bad")

class Row:
    def __str__(self):
        raise ValueError("bad")

@command
def evaluated():
    return eval("1 / 0")

@command
def syntax():
    compile("def (", "made up.py", "exec")

command(max, name="max")
`)
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(source), "helper.py"), []byte("def deep(n):\n    return 1 / n\n"), 0o600))
	p := newPool(t, Config{Script: source, Python: realPython(), Size: 1, Overflow: -1})
	for command, want := range map[string]string{
		"direct":    "ValueError: bad (worker.py:7 in direct)",
		"nested":    "ZeroDivisionError: division by zero (helper.py:2 in deep)",
		"chained":   "KeyError: 'row' (worker.py:22 in chained)",
		"silent":    "RuntimeError (worker.py:26 in silent)",
		"lines":     `ValueError: first\n  File "/etc/shadow", line 7, in forged (worker.py:34 in lines)`,
		"later":     "ZeroDivisionError: division by zero (helper.py:2 in deep)",
		"evaluated": "ZeroDivisionError: division by zero (worker.py:51 in evaluated)",
		"syntax":    "SyntaxError: invalid syntax (made up.py, line 1) (made up.py:1)",
	} {
		_, err := p.ExecuteAnonymous(t.Context(), command, nil)
		failure(t, err, ErrPython)
		assert.Equal(t, "pypool: python_exception: "+command+": "+want, err.Error())
	}
	_, err := p.ExecuteAnonymous(t.Context(), "library", args{"text": "{"})
	py := detail[*PythonError](t, err)
	assert.Equal(t, []any{source, 15, "library"}, []any{py.File, py.Line, py.Function})
	assert.True(t, strings.HasSuffix(err.Error(), " (worker.py:15 in library)"), err.Error())

	_, err = p.ExecuteAnonymous(t.Context(), "long", nil)
	assert.Regexp(t, `ValueError: x{700}\.\.\. \(worker.py:30 in long\)$`, err.Error())
	assert.GreaterOrEqual(t, len(detail[*PythonError](t, err).Message), 64<<10)

	_, err = p.ExecuteAnonymous(t.Context(), "max", []int{})
	py = detail[*PythonError](t, err)
	assert.Empty(t, py.File, "no frame of the user's own")
	assert.NotContains(t, err.Error(), "(worker.py")

	for _, err := range p.Stream(t.Context(), "tokens", nil) {
		if err != nil {
			assert.Equal(t, "pypool: python_exception: tokens: ValueError: bad (worker.py:43 in tokens)", err.Error())
		}
	}
}

func TestAFailedStartNamesThePlaceInTheUsersCode(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"import nmupy_missing\n":                                        "at import: ModuleNotFoundError: No module named 'nmupy_missing' (worker.py:1)",
		"import json\n\ndef load():\n    json.loads('{')\nload()\n":     "(worker.py:4 in load)",
		"x = 1\ndef broken(:\n":                                         "(worker.py:2)",
		"from pypool import setup\n@setup\ndef prepare():\n    1 / 0\n": "at setup: ZeroDivisionError: division by zero (worker.py:4 in prepare)",
		"raise SystemExit('no')\n":                                      "at import: SystemExit: no (worker.py:1)",
	} {
		_, err := New(t.Context(), Config{Script: script(t, source), Python: realPython(), Size: 1, Logger: quiet()})
		failure(t, err, ErrWorkerStart)
		assert.True(t, strings.HasSuffix(err.Error(), want), "%s\nwant: %s", err, want)
	}
}

// --- what is wrong with the arguments -------------------------------------------------------------------------------

const shop = `
import datetime
from dataclasses import dataclass
from typing import List, Dict
from pypool import command, program

@dataclass
class Line:
    due: datetime.date
    count: int = 1

@command
def add(a, b=2): return a

@command
def hinted(a: int, when: datetime.date, *more): return str(when)

@command
def order(lines: List[Line], by: Dict[str, datetime.date] = {}): return len(lines)

@command
def rest(*days: datetime.date, **named: datetime.date): return 1

@program("sum")
def total(a, b): return a + b
`

func TestARefusalListsWhatIsWrong(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Script: script(t, shop), Python: realPython(), Size: 1, Overflow: -1})
	type want = []FieldError
	for _, tc := range []struct {
		command string
		args    any
		want    want
	}{
		{"add", args{"c": 1}, want{{[]any{"c"}, "unknown argument 'c'", "unknown"}, {[]any{"a"}, "missing argument 'a'", "missing"}}},
		{"add", args{"a": 1, "x": 1, "y": 2}, want{{[]any{"x"}, "unknown argument 'x'", "unknown"}, {[]any{"y"}, "unknown argument 'y'", "unknown"}}},
		{"add", nil, want{{[]any{"a"}, "missing argument 'a'", "missing"}}},
		{"add", []int{1, 2, 3}, want{{[]any{2}, "takes at most 2 arguments, got 3", "too_many"}}},
		{"hinted", args{"a": 1, "when": "soon"}, want{{[]any{"when"}, "expected date (an ISO 8601 date), got a string 'soon': Invalid isoformat string: 'soon'", "type"}}},
		{"hinted", []any{1, 7}, want{{[]any{"when"}, "expected date (an ISO 8601 date as a string), got a number 7", "type"}}},
		{"order", args{"lines": []any{args{"due": "2026-01-02"}, args{"due": 5}}}, want{{[]any{"lines", 1, "due"}, "expected date (an ISO 8601 date as a string), got a number 5", "type"}}},
		{"order", args{"lines": []any{}, "by": args{"a.b[0]": "2026-01-02", "a.b": 7}}, want{{[]any{"by", "a.b"}, "expected date (an ISO 8601 date as a string), got a number 7", "type"}}},
		{"order", args{"lines": []any{}, "by": args{"a.b[0]": 7, "a": "2026-01-02"}}, want{{[]any{"by", "a.b[0]"}, "expected date (an ISO 8601 date as a string), got a number 7", "type"}}},
		{"rest", []any{"2026-01-02", 7}, want{{[]any{"days", 1}, "expected date (an ISO 8601 date as a string), got a number 7", "type"}}},
		{"rest", args{"first": 7}, want{{[]any{"first"}, "expected date (an ISO 8601 date as a string), got a number 7", "type"}}},
	} {
		for range 2 {
			_, err := p.ExecuteAnonymous(t.Context(), tc.command, tc.args)
			e := failure(t, err, ErrInvalidArguments)
			require.Equal(t, tc.want, detail[*ArgumentError](t, err).Errors, "%s %v", tc.command, tc.args)
			require.Contains(t, e.Message, tc.want[0].Msg)
			require.True(t, SafeToRetry(err))
		}
	}
	_, err := p.ExecuteProgram(t.Context(), "sum", args{"a": 1})
	require.Equal(t, want{{[]any{"b"}, "missing argument 'b'", "missing"}}, detail[*ArgumentError](t, err).Errors)
	for n, err := range Map[int](t.Context(), p, "add", func(yield func(any) bool) { _ = yield(args{"a": 1}) && yield(args{"q": 1}) }) {
		if n != 1 {
			require.Equal(t, "unknown", detail[*ArgumentError](t, err).Errors[0].Type)
		}
	}
	_, err = p.ExecuteAnonymous(t.Context(), "add", 7)
	var refused *ArgumentError
	require.False(t, errors.As(err, &refused), "refused here, in Go: the cause says it")
	body, err := json.Marshal(map[string]any{"detail": want{{[]any{"order", "items", 2}, "m", "t"}}})
	require.NoError(t, err)
	require.Equal(t, `{"detail":[{"loc":["order","items",2],"msg":"m","type":"t"}]}`, string(body))
	require.Equal(t, "order.items[2].price: m; n", (&ArgumentError{want{{[]any{"order", "items", 2, "price"}, "m", "t"}, {nil, "n", "t"}}}).Error())
}

// --- errors in logs and as JSON -------------------------------------------------------------------------------------

func TestDeliveryIsItsName(t *testing.T) {
	t.Parallel()
	for _, d := range []Delivery{MaybeExecuted, NotExecuted, Executed} {
		text, err := json.Marshal(map[string]Delivery{"d": d})
		require.NoError(t, err)
		require.Equal(t, `{"d":"`+d.String()+`"}`, string(text))
		var back map[string]Delivery
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, d, back["d"])
	}
	var d Delivery
	require.ErrorContains(t, d.UnmarshalText([]byte("perhaps")), `"perhaps" is no Delivery`)
}

func TestAnErrorAsJSON(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Script: script(t, shop), Python: realPython(), Size: 1, Overflow: -1, Name: "shop"})
	_, err := p.ExecuteInSession(t.Context(), "s", "add", nil)
	text, jsonErr := json.Marshal(fmt.Errorf("wrapped: %w", err).(interface{ Unwrap() error }).Unwrap())
	require.NoError(t, jsonErr)
	var fields map[string]any
	require.NoError(t, json.Unmarshal(text, &fields))
	assert.Equal(t, "execution_error", fields["Category"])
	assert.Equal(t, "invalid_arguments", fields["Type"])
	assert.Equal(t, "NotExecuted", fields["Delivery"])
	assert.Equal(t, "a: missing argument 'a'", fields["Err"])
	assert.Contains(t, fields["Message"], "missing argument 'a'; signature: add(a, b=2)")
	assert.Equal(t, "add", fields["Context"].(map[string]any)["Command"])
	var back Error
	require.NoError(t, json.Unmarshal(text, &back))
	assert.Equal(t, err.Error(), back.Error())
	assert.ErrorIs(t, &back, ErrInvalidArguments)
	assert.True(t, SafeToRetry(&back))
	text, jsonErr = json.Marshal(newError(TypeQueueFull, NotExecuted, "full", nil))
	require.NoError(t, jsonErr)
	assert.NotContains(t, string(text), `"Err"`)
	require.NoError(t, json.Unmarshal(text, &back))
	assert.NoError(t, back.Err)
}

func TestAnErrorInALog(t *testing.T) {
	t.Parallel()
	at := ErrorContext{Pool: "p", Worker: "w1", PID: 7, Session: "s", Command: "c", RequestID: 9, Elapsed: time.Second}
	for name, tc := range map[string]struct {
		err  error
		want map[string]any
	}{
		"python": {&PythonError{Type: "E", Traceback: "Traceback ..."}, map[string]any{"traceback": "Traceback ..."}},
		"hang":   {&pair{&HangError{Stacks: "Thread ..."}, io.EOF}, map[string]any{"stacks": "Thread ..."}},
		"exit":   {&ExitError{Signal: syscall.SIGSEGV, Stderr: "boom", Stacks: "Fatal ..."}, map[string]any{"stacks": "Fatal ...", "stderr": "boom"}},
		"start":  {&StartError{Stage: "import", Stderr: "all", Err: &PythonError{Traceback: "T"}}, map[string]any{"traceback": "T", "stderr": "all"}},
		"circuit": {&CircuitError{Cause: &Error{Type: TypeWorkerStart, Err: &StartError{Stderr: "boom"}}},
			map[string]any{"stderr": "boom"}},
		"none": {nil, map[string]any{}},
	} {
		logs := &logBuffer{}
		e := newError(TypePython, MaybeExecuted, "m", tc.err)
		e.Context = at
		logs.logger(slog.LevelInfo).Info("failed", "error", e)
		for key, value := range map[string]any{
			"error": "pypool: python_exception: c: m", "type": "python_exception", "delivery": "MaybeExecuted", "pool": "p", "worker": "w1",
			"pid": 7.0, "session": "s", "command": "c", "request": 9.0, "elapsed": 1e9,
		} {
			tc.want[key] = value
		}
		assert.Equal(t, tc.want, logs.records(t)[0]["error"], name)
	}
	logs := &logBuffer{}
	logs.logger(slog.LevelInfo).Info("failed", "error", newError(TypeQueueFull, NotExecuted, "m", nil))
	assert.Equal(t, map[string]any{"error": "pypool: queue_full: m", "type": "queue_full", "delivery": "NotExecuted"}, logs.records(t)[0]["error"], "what does not apply is left out")
	logs.logger(slog.LevelInfo).Info("failed", "error", (*Error)(nil))
	assert.Nil(t, logs.records(t)[1]["error"])
}

// --- why a worker was killed ----------------------------------------------------------------------------------------

func TestTheLogSaysWhyAWorkerWasKilled(t *testing.T) {
	t.Parallel()
	source := script(t, `import os, time
from pypool import _bind, command

@command
def loop():
    while True: pass

@command
def noise():
    for fd in range(100, 200):
        try: os.write(fd, b"secret\n")
        except OSError: pass

@command
def deaf():
    time.sleep(0.5)  # so that the runtime's own thread waits already, and does not notice
    os.closerange(100, 200)
    time.sleep(60)

@command
def stubborn():
    while True:
        try: yield 1
        except GeneratorExit: time.sleep(60)

@command
def sabotage():
    _bind.bind = None

@command
def fine(): return 1
`)
	stream := func(p *Pool, body func()) error {
		for _, err := range p.Stream(t.Context(), "stubborn", nil) {
			if err != nil {
				return err
			}
			body()
			break
		}
		return nil
	}
	for name, tc := range map[string]struct {
		do   func(t *testing.T, p *Pool)
		want string
	}{
		"timeout": {func(t *testing.T, p *Pool) {
			_, err := p.ExecuteAnonymous(t.Context(), "loop", nil, WithTimeout(50*time.Millisecond))
			failure(t, err, ErrOperationTimeout)
		}, "killed by pypool: its call hung: no answer within 50ms"},
		"deadline": {func(t *testing.T, p *Pool) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, err := p.ExecuteAnonymous(ctx, "loop", nil)
			failure(t, err, ErrOperationTimeout)
		}, "killed by pypool: its call hung: its context's deadline passed"},
		"cancel": {func(t *testing.T, p *Pool) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			_, err := p.ExecuteAnonymous(ctx, "loop", nil)
			failure(t, err, ErrCanceled)
		}, "killed by pypool: its call was canceled"},
		"noise": {func(t *testing.T, p *Pool) {
			_, err := p.ExecuteAnonymous(t.Context(), "noise", nil)
			failure(t, err, ErrProtocol)
		}, "killed by pypool: it broke the protocol: the line is not a JSON object"},
		"deaf": {func(t *testing.T, p *Pool) {
			_, err := p.ExecuteAnonymous(t.Context(), "deaf", nil)
			failure(t, err, ErrProtocol)
		}, "killed by pypool: it closed its channel and went on"},
		"stream": {func(t *testing.T, p *Pool) { _ = stream(p, func() {}) },
			"killed by pypool: the loop over the stream was left, and the generator did not stop within StopGrace"},
		"panic": {func(t *testing.T, p *Pool) { require.Panics(t, func() { _ = stream(p, func() { panic("body") }) }) },
			"killed by pypool: the loop over the stream was left, and the generator did not stop within StopGrace"},
		"sabotage": {func(t *testing.T, p *Pool) {
			_, err := p.ExecuteAnonymous(t.Context(), "sabotage", nil)
			require.NoError(t, err)
			_, err = p.ExecuteAnonymous(t.Context(), "fine", nil)
			failure(t, err, ErrInternal)
		}, "killed by pypool: its runtime failed"},
		"ping": {func(t *testing.T, p *Pool) {
			require.NoError(t, syscall.Kill(p.Workers()[0].PID, syscall.SIGSTOP))
			_, err := p.HealthCheck(t.Context())
			require.Error(t, err)
		}, "killed by pypool: it did not answer a ping"},
		"close": {func(t *testing.T, p *Pool) {
			wait := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "loop", nil) })
			eventually(t, "the call runs", func() bool { // and is not about to be sent: then its worker has nothing to be killed for
				stacks, _ := p.Stacks(t.Context(), p.Workers()[0].ID)
				return strings.Contains(stacks, "in loop")
			})
			require.NoError(t, p.Close())
			failure(t, wait()[0].err, ErrPoolClosed)
		}, "killed by pypool: the pool was closed"},
		"map": {func(t *testing.T, p *Pool) {
			for _, err := range Map[int](t.Context(), p, "loop", func(yield func([]int) bool) { yield(nil) }, WithTimeout(50*time.Millisecond)) {
				failure(t, err, ErrOperationTimeout)
			}
		}, "killed by pypool: its call hung: no answer within 50ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logs, events := &logBuffer{}, &eventLog{}
			p := newPool(t, Config{
				Script: source, Python: realPython(), Size: 1, Overflow: -1, StopGrace: 100 * time.Millisecond, CancelGrace: -1, RestartBackoff: Backoff{time.Hour, time.Hour},
				Logger: logs.logger(slog.LevelDebug), Observer: &Observer{Event: events.add},
			})
			tc.do(t, p)
			eventually(t, "the exit is told", func() bool { return len(events.of(EventWorkerExited)) > 0 })
			// A Map's items do not know their timeout when they are lost: the line says how long it
			// was.
			require.Regexp(t, "^"+strings.ReplaceAll(regexp.QuoteMeta(tc.want), "50ms", `\d+ms`)+"$", events.of(EventWorkerExited)[0].Cause)
			require.Equal(t, events.of(EventWorkerExited)[0].Cause, logs.with(t, "worker exited")[0]["cause"])
			require.NotContains(t, logs.with(t, "worker exited")[0]["cause"], "secret")
		})
	}
}
