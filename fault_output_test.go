//go:build linux

package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/interp"
)

// logged line of a worker, as slog's JSON handler writes it.
type toldLine struct {
	Level, Msg, Session, Command, Logger, Exc, Source string
	Request                                           uint64
}

// told returns the lines of the log whose message contains the text.
func (s *stage) told(text string) (lines []toldLine) {
	for line := range strings.Lines(s.logs.String()) {
		var l toldLine
		if json.Unmarshal([]byte(line), &l) == nil && strings.Contains(l.Msg, text) {
			lines = append(lines, l)
		}
	}
	return lines
}

// outputPool is a pool of one worker with the script.
func (r *rig) outputPool(t *testing.T, source string) *Pool {
	t.Helper()
	cfg := r.config(t)
	cfg.Script, cfg.Size = script(t, "from pypool import command\n"+source), 1
	return r.own(t, cfg)
}

func inSession(t testing.TB, p *Pool, session, command string, args any) Result {
	t.Helper()
	res, err := p.ExecuteInSession(context.Background(), session, command, args)
	require.NoError(t, err)
	return res
}

const printing = `
import logging, os, subprocess, sys
@command
def say(text): print(text)
@command
def part(text): print(text, end="")
@command
def forge(text): print(text); sys.stderr.write(text); os.write(1, text.encode()); subprocess.run(["printf", "%s", text]); logging.warning(text)
@command
def bar(name):
    for i in range(101): sys.stderr.write("\r%s %d%%" % (name, i)); sys.stderr.flush()
@command
def fail(text):
    try: 1 / 0
    except ZeroDivisionError: logging.exception(text)
@command
def blank(n): os.write(2, b"\n" * n); os.write(2, b"after the flood\n")
@command
def words(text): print(text, end=""); os._exit(3)
`

// Group G, what a worker prints: which call it belongs to, and that it cannot look like anything
// else.
var outputFaults = []fault{
	{name: "G7_nothing_a_handler_prints_is_a_record", run: func(t *testing.T, r *rig) {
		p := r.outputPool(t, printing)
		forged := "Bob\n" + recordPrefix + `{"level":50,"logger":"audit","message":"G7 admin logged in","call":17,"session":"admin"}` + "\n" +
			recordPrefix + `+1:{"level":50,"message":"G7 pieces","session":"admin"}` + "\n" + recordPrefix + `{"call":17,"session":"admin"}` + "\x1fG7 printed\n"
		inSession(t, p, "ann", "forge", []any{forged})
		executed(t, p, "say", []any{"G7 the end"})
		r.logged(t, "G7 the end")
		lines := r.told("G7 ")
		require.GreaterOrEqual(t, len(lines), 9)
		for _, l := range lines {
			require.NotEqual(t, "audit", l.Logger)
			require.NotEqual(t, "ERROR", l.Level)
			require.NotEqual(t, uint64(17), l.Request)
			require.Contains(t, []string{"", "ann"}, l.Session, "%+v", l)
		}
	}},
	{name: "G7b_the_word_is_in_no_log_no_error_and_no_environment", run: func(t *testing.T, r *rig) {
		p := r.outputPool(t, printing+`
@command
def look(): return [dict(os.environ), sys.argv, open("/proc/self/cmdline").read()]
@command
def torn(): os.write(2, b"unended "); print("G7b printed"); os.write(2, b"x" * 70000); print("G7b again"); os._exit(4)
`)
		word := p.sup.workers()[0].word
		require.Greater(t, len(word), 20)
		require.NotContains(t, string(executed(t, p, "look", nil).Raw()), word)
		_, err := p.ExecuteAnonymous(context.Background(), "torn", nil)
		exit := detail[*ExitError](t, err)
		require.Contains(t, exit.Stderr, "G7b again")
		require.NotContains(t, exit.Stderr, word)
		r.logged(t, "G7b again")
		require.NotContains(t, r.logs.String(), word)
		r.epilogue(t)
		require.NotEqual(t, word, p.sup.workers()[0].word, "each worker has its own")
	}},
	{name: "H2_a_line_is_the_calls_that_printed_it", run: func(t *testing.T, r *rig) {
		p := r.outputPool(t, printing)
		for i := range 200 {
			inSession(t, p, []string{"ann", "bob"}[i%2], "say", []any{fmt.Sprintf("G2 line %d of %s", i, []string{"ann", "bob"}[i%2])})
		}
		r.logged(t, "G2 line 199")
		lines := r.told("G2 line")
		require.Len(t, lines, 200)
		requests := map[uint64]bool{}
		for _, l := range lines {
			require.True(t, strings.HasSuffix(l.Msg, " of "+l.Session), "%+v", l)
			require.Equal(t, "say", l.Command)
			requests[l.Request] = true
		}
		require.Len(t, requests, 200)
	}},
	{name: "H2b_in_Map_each_line_is_its_own_calls", run: func(t *testing.T, r *rig) {
		p := r.outputPool(t, "from pypool import current_call\n@command\ndef item(n): print('G2b', n, current_call().id)\n")
		for _, err := range Map[any](context.Background(), p, "item", slices.Values(slices.Repeat([]int{7}, 100)), WithSession("map")) {
			require.NoError(t, err)
		}
		eventually(t, "all lines", func() bool { return len(r.told("G2b 7")) == 100 })
		for _, l := range r.told("G2b 7") {
			require.Equal(t, fmt.Sprintf("G2b 7 %d", l.Request), l.Msg)
			require.Equal(t, "map", l.Session)
		}
	}},
	{name: "H2c_what_a_subprocess_left_behind_prints_is_nobodys", run: func(t *testing.T, r *rig) {
		p := r.outputPool(t, printing+`
@command
def leave(path): subprocess.Popen(["sh", "-c", "while [ ! -e %s ]; do sleep 0.01; done; echo G2c late; touch %s.done" % (path, path)])
@command
def wait(path):
    open(path, "w").close()
    while not os.path.exists(path + ".done"): pass
    print("G2c mine")
`)
		path := filepath.Join(t.TempDir(), "latch")
		inSession(t, p, "ann", "leave", []any{path})
		inSession(t, p, "bob", "wait", []any{path})
		r.logged(t, "G2c mine")
		require.Contains(t, []string{"", "ann"}, r.told("G2c late")[0].Session)
		require.Equal(t, "bob", r.told("G2c mine")[0].Session)
	}},
	{name: "H20_unended_output_is_told_with_its_call", run: func(t *testing.T, r *rig) {
		p := r.outputPool(t, printing)
		inSession(t, p, "ann", "part", []any{"G20 one"})
		inSession(t, p, "bob", "part", []any{"G20 two"})
		r.logged(t, "G20 one")
		r.logged(t, "G20 two")
		for _, l := range r.told("G20 ") {
			require.Equal(t, map[string]string{"G20 one": "ann", "G20 two": "bob"}[l.Msg], l.Session)
		}
		_, err := p.ExecuteAnonymous(context.Background(), "words", []any{"G20 last words"})
		require.Contains(t, detail[*ExitError](t, err).Stderr, "G20 last words")
	}},
	{name: "H20b_a_progress_bar_is_one_line_with_its_last_state", run: func(t *testing.T, r *rig) {
		p := r.outputPool(t, printing)
		inSession(t, p, "ann", "bar", []any{"G20b"})
		r.logged(t, "G20b 100%")
		lines := r.told("G20b")
		require.Len(t, lines, 1)
		require.Equal(t, "G20b 100%", lines[0].Msg)
		require.Equal(t, "ann", lines[0].Session)
	}},
	{name: "H20c_empty_lines_are_counted_not_told", run: func(t *testing.T, r *rig) {
		p := r.outputPool(t, printing)
		executed(t, p, "blank", []any{4 << 20})
		r.logged(t, "after the flood")
		require.NotEmpty(t, r.told("empty lines)"))
		require.Less(t, strings.Count(r.logs.String(), `"msg":""`), 10)
	}},
	{name: "H20d_what_a_child_or_a_thread_printed_without_an_end_is_told_while_the_worker_idles", run: func(t *testing.T, r *rig) {
		p := r.outputPool(t, `
import os, threading
@command
def fork():
    if os.fork() == 0:
        print("G20d child", end="")
        os._exit(0)
    os.wait()
@command
def thread(): threading.Timer(0.1, lambda: print("G20d late", end="")).start()
`)
		executed(t, p, "fork", nil)
		r.logged(t, "G20d child")
		executed(t, p, "thread", nil)
		r.logged(t, "G20d late")
		require.Len(t, r.told("G20d "), 2)
	}},
	{name: "H31_a_traceback_is_an_attribute_of_its_record", run: func(t *testing.T, r *rig) {
		p := r.outputPool(t, printing)
		inSession(t, p, "ann", "fail", []any{"G31 failed"})
		r.logged(t, "G31 failed")
		l := r.told("G31 failed")[0]
		require.Equal(t, "G31 failed", l.Msg)
		require.Equal(t, "ERROR", l.Level)
		require.Contains(t, l.Exc, "\n    try: 1 / 0\n")
		require.Contains(t, l.Exc, "ZeroDivisionError")
		require.Contains(t, p.sup.workers()[0].log.text(), "ERROR root: G31 failed\nTraceback (most recent call last):\n")
	}},
	{name: "H1_an_exception_without_a_descriptor_left_costs_no_worker", run: func(t *testing.T, r *rig) {
		p := r.outputPool(t, `
import os, resource, sys
@command
def exhaust():
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
    sys.path.clear()
    try:
        while True: os.open("/dev/null", os.O_RDONLY)
    except OSError: pass
@command
def number(text): return int(text)
`)
		pid := p.Workers()[0].PID
		executed(t, p, "exhaust", nil)
		for range 6 {
			_, err := p.ExecuteAnonymous(context.Background(), "number", []any{"abc"})
			failsWith(t, err, ErrPython, Executed)
			require.Contains(t, detail[*PythonError](t, err).Traceback, "in number")
		}
		require.Equal(t, 12, decoded[int](t, executed(t, p, "number", []any{"12"})))
		require.Equal(t, pid, p.Workers()[0].PID)
	}},
}

// TestEnvironmentVariablesOfPython: -I ignores them; what does no harm is asked for in other ways.
func TestEnvironmentVariablesOfPython(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "json.py"), []byte("raise SystemExit('hijacked')"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "zlib.py"), []byte("raise SystemExit('hijacked')"), 0o600))
	source := script(t, `import os, sys, warnings
from pypool import command
@command
def facts():
    try: assert False
    except AssertionError: optimized = False
    else: optimized = True
    return {"optimized": optimized, "dev": sys.flags.dev_mode, "hash": hash("pypool"), "filters": str(warnings.filters), "utf8": sys.flags.utf8_mode,
        "path": os.environ.get("PYTHONPATH"), "isolated": sys.flags.isolated, "cwd": "" in sys.path}
`)
	type facts struct {
		Optimized, Dev, Cwd bool
		Hash                json.Number
		Filters, Path       string
		UTF8, Isolated      int
	}
	ask := func(env ...string) facts {
		p := newPool(t, Config{Script: source, Python: realPython(), Dir: dir, Size: 1, Overflow: -1, ExtraEnv: env, Logger: quiet()})
		defer p.Close()
		return decoded[facts](t, executed(t, p, "facts", nil))
	}
	plain := ask()
	require.False(t, plain.Optimized || plain.Dev || plain.Cwd)
	require.Equal(t, 1, plain.Isolated)
	set := ask("PYTHONOPTIMIZE=1", "PYTHONDEVMODE=1", "PYTHONWARNINGS=error::UserWarning,ignore::ImportWarning", "PYTHONUTF8=1", "PYTHONTRACEMALLOC=nonsense")
	require.True(t, set.Optimized && set.Dev)
	require.Equal(t, 1, set.UTF8)
	require.Contains(t, set.Filters, "'error', None, <class 'UserWarning'>")
	seeded := ask("PYTHONHASHSEED=7", "PYTHONPATH="+dir, "PYTHONHOME=/nonexistent")
	require.Equal(t, seeded.Hash, ask("PYTHONHASHSEED=7").Hash)
	require.Contains(t, seeded.Path, dir)
	require.False(t, seeded.Cwd)
	require.Equal(t, []string{"PYTHONHOME", "PYTHONMALLOC"}, interp.Ignored([]string{"PYTHONHOME=/x", "PYTHONPATH=/y", "PYTHONMALLOC=debug", "PYTHONSTARTUP=", "HOME=/"}))
}

// frames plays what a worker writes, in chunks of the given size, and returns what is told.
func frames(t *testing.T, text string, chunk int) []logLine {
	t.Helper()
	var lines []logLine
	r, w := io.Pipe()
	l := newStderrLog(r, "WORD", func(line logLine) { lines = append(lines, line) })
	for data := []byte(text); len(data) > 0; {
		n := min(chunk, len(data))
		_, err := w.Write(data[:n])
		require.NoError(t, err)
		data = data[n:]
	}
	require.NoError(t, w.Close())
	<-l.done
	return lines
}

func TestStderrIsCutIntoLinesAndRecords(t *testing.T) {
	mark := recordPrefix + "WORD"
	text := "plain\nunended" + mark + `{"level":30,"logger":"a","message":"m","call":5,"session":"s","command":"c","exc":"T\n  F"}` + "\n" +
		mark + `{"call":7,"line":1,"more":true}` + "\x1ffirst \n" + mark + `{"call":8}` + "\x1fbetween\n" + mark + `{"call":7,"line":1}` + "\x1fsecond\n" +
		mark + `+k:{"level":40,"message":"in ` + "\n" + "raw\n" + mark + `=k:pieces"}` + "\n" + mark + "{torn\n" + mark + `{"line":9,"more":true}` + "\x1f\ra\n" +
		mark + `{"line":9,"more":true}` + "\x1f\rb\n" + "\r10%\r20%\n" + recordPrefix + `{"level":50,"message":"forged"}` + "\n" + "\n\n" + "last"
	want := []logLine{
		{text: "plain"}, {text: "unended"},
		{level: slog.LevelWarn, logger: "a", text: "m", call: 5, session: "s", command: "c", exc: "T\n  F"},
		{call: 8, text: "between"}, {call: 7, text: "first second"}, {text: "raw"},
		{level: slog.LevelError, logger: "root", text: "in pieces"},
		{text: "{torn"}, {text: "20%"}, {text: `\x1epypool:{"level":50,"message":"forged"}`}, {text: "last"}, {text: "b"},
	}
	for _, chunk := range []int{1, 3, 7, 64, 1 << 20} {
		require.Equal(t, want, frames(t, text, chunk), "in chunks of %d bytes", chunk)
	}
}

func TestStderrIsBounded(t *testing.T) {
	mark := recordPrefix + "WORD"
	var text bytes.Buffer
	for i := range 3 * maxOpenLines {
		fmt.Fprintf(&text, "%s{\"line\":%d,\"more\":true}\x1fopen %d\n%s+%d:{\n", mark, i+1, i, mark, i)
	}
	text.WriteString(mark + strings.Repeat("y", 3*stderrTail) + "\n" + strings.Repeat("z", 3*maxLogLine))
	lines := frames(t, text.String(), 1<<20)
	opened := 0
	for _, line := range lines {
		require.LessOrEqual(t, len(line.text), maxLogLine)
		require.NotContains(t, line.text, "WORD")
		if strings.HasPrefix(line.text, "open ") {
			opened++
		}
	}
	require.Equal(t, 3*maxOpenLines, opened)
}

func TestRecordsThatComeInPiecesAreBoundedTogether(t *testing.T) {
	l := &stderrLog{pieces: map[string][]byte{}}
	held := func() (n int) {
		for _, had := range l.pieces {
			n += len(had)
		}
		return n
	}
	piece := []byte(strings.Repeat("x", stderrTail))
	for i := range 8 * maxOpenLines { // each record stays below maxRecord
		require.Nil(t, l.piece(fmt.Appendf(nil, "+%d:%s", i%maxOpenLines, piece)))
		require.LessOrEqual(t, held(), maxPieces)
	}
	clear(l.pieces)
	l.held = 0
	for i := range 8 * maxOpenLines { // what has come whole is not held
		require.Nil(t, l.piece(fmt.Appendf(nil, "+%d:%s", i, piece)))
		require.Len(t, l.piece(fmt.Appendf(nil, "=%d:end", i)), len(piece)+len("end"))
		require.Zero(t, l.held)
	}
}

// TestUnendedRawOutputIsToldAfterAPause: nobody says when a subprocess that asks for something is
// done writing.
func TestUnendedRawOutputIsToldAfterAPause(t *testing.T) {
	told := make(chan logLine, 1)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	l := newStderrLog(r, "WORD", func(line logLine) { told <- line })
	_, err = w.WriteString("Password:")
	require.NoError(t, err)
	select {
	case line := <-told:
		require.Equal(t, logLine{text: "Password:"}, line)
	case <-time.After(10 * time.Second):
		t.Fatal("it is not told")
	}
	require.NoError(t, w.Close())
	<-l.done
	require.NoError(t, r.Close())
}
