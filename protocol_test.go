package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// bytesTransport reads what it was given.
type bytesTransport struct{ *bytes.Reader }

func (*bytesTransport) Write(p []byte) (int, error)     { return len(p), nil }
func (*bytesTransport) TryRead([]byte) (int, error)     { return 0, nil }
func (*bytesTransport) TryWrite(p []byte) (int, error)  { return len(p), nil }
func (*bytesTransport) Unwatch()                        {}
func (*bytesTransport) SetDeadline(time.Time) error     { return nil }
func (*bytesTransport) SetReadDeadline(time.Time) error { return nil }
func (*bytesTransport) Close() error                    { return nil }

func connOf(text string) *exchange {
	c := newExchange(&bytesTransport{bytes.NewReader([]byte(text))}, 1<<20)
	c.begin(context.Background(), time.Time{}, spin.Park)
	return c
}

func encoded(t testing.TB, args any) string {
	t.Helper()
	req, err := wire.Encode(nil, "c", args, "", false)
	require.NoError(t, err)
	return string(req.Seal(1, 0, false))
}

func TestProtocolComplexArgumentsArriveInPythonAsTheyAre(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	type inner struct {
		Tags []string `json:"tags"`
		Note *string  `json:"note"`
	}
	value := map[string]any{
		"text": "é世界😀 \u2028 \u0085 \x00 \x7f <&> \"\\/", "empty": "", "list": []any{1, 2.5, -3e-7, true, nil, []any{}, map[string]any{}},
		"struct": inner{Tags: []string{"a", "b"}}, "deep": map[string]any{"a": map[string]any{"b": []any{map[string]any{"c": "d"}}}},
		"big": json.Number("123456789012345678901234567890"), "time": time.Unix(0, 0).UTC(), "raw": json.RawMessage(`{ "x" : [ 1 ] }`),
	}
	want, err := json.Marshal(value)
	require.NoError(t, err)
	res := executed(t, p, "echo", args{"value": value})
	assert.JSONEq(t, string(want), string(res.Raw()))
	assert.Contains(t, string(res.Raw()), "123456789012345678901234567890", "no digit is lost")
	assert.JSONEq(t, `[1,"two"]`, string(executed(t, p, "echo", []any{[]any{1, "two"}}).Raw()), "positional")
	assert.Equal(t, 3, decoded[int](t, executed(t, p, "add", struct {
		A int `json:"a"`
		B int `json:"b,omitempty"`
	}{A: 2})))
}

func TestProtocolNoArgumentsMeansNone(t *testing.T) {
	t.Parallel()
	assert.Equal(t, `{"id":1,"command":"c"}`+"\n", encoded(t, nil))
	for in, want := range map[string]any{"{}": map[string]any{}, "null": map[string]any(nil), "[]": []any{}} {
		assert.Equal(t, `{"id":1,"command":"c","args":`+in+`}`+"\n", encoded(t, want))
	}
	p := corePool(t, 1, 0)
	for _, none := range []any{nil, map[string]any{}, map[string]any(nil), []any{}, struct{}{}, json.RawMessage("null")} {
		assert.Equal(t, pids(p)[0], decoded[int](t, executed(t, p, "pid", none)), "%#v", none)
	}
}

func TestArgumentsThatCannotBeSentAreRefusedBeforeAnyWorkerIsTaken(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	h := hold(t, t.Context(), p, "") // the only worker: a call that needed it would wait
	cyclic := map[string]any{}
	cyclic["self"] = cyclic
	for name, in := range map[string]any{
		"string": "text", "number": 7, "boolean": true, "channel": make(chan int), "function": func() {}, "inside": args{"f": func() {}},
		"raw scalar": json.RawMessage(`1`), "raw garbage": json.RawMessage(`{"a":`), "raw two": json.RawMessage(`{}{}`), "raw empty": json.RawMessage(``), "raw utf8": json.RawMessage("{\"a\":\"\xff\"}"),
		"cycle": cyclic, "infinity": args{"x": math.Inf(1)}, "invalid utf8": args{"x": "\xff"},
	} {
		_, err := p.ExecuteAnonymous(t.Context(), "echo", in)
		e := failure(t, err, ErrInvalidArguments)
		assert.Equal(t, NotExecuted, e.Delivery, name)
		assert.Empty(t, e.Context.Worker, name)
		_, err = p.ExecuteProgram(t.Context(), "double", in)
		failure(t, err, ErrInvalidArguments)
	}
	h.finish(t)
	assert.Zero(t, p.Stats().WorkersExited)
}

// transcript reads testdata/transcripts/name: the lines the host sends and those the worker
// answers.
func transcript(t *testing.T, path string) (sent, answers []string) {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "> "):
			sent = append(sent, line[2:])
		case strings.HasPrefix(line, "<* "):
			answers = append(answers, line[3:])
		case strings.HasPrefix(line, "< "):
			answers = append(answers, line[2:])
		case line != "" && !strings.HasPrefix(line, "#"):
			t.Fatalf("%s: what is %q?", path, line)
		}
	}
	return sent, answers
}

func TestTranscriptsAreWhatThisSideWritesAndReads(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/transcripts/*.jsonl")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	written, read := 0, 0
	for _, path := range files {
		sent, answers := transcript(t, path)
		for _, line := range sent {
			written += replayRequest(t, path, line)
		}
		for _, line := range answers {
			read += replayAnswer(t, path, line)
		}
	}
	assert.Greater(t, written, 20)
	assert.Greater(t, read, 20)
}

// replayRequest encodes a transcript's request anew and compares. Lines that no host of ours sends
// are left out: it returns 0.
func replayRequest(t *testing.T, path, line string) int {
	if inner, ok := strings.CutPrefix(line, `{"shared":`); ok {
		inner = strings.TrimSuffix(inner, "}")
		assert.Equal(t, line+"\n", string(wire.AppendShared(nil, []byte(inner+"\n"))))
		return replayRequest(t, path, inner)
	}
	if strings.Contains(line, `"credit"`) || strings.HasSuffix(path, "invalid_requests.jsonl") || strings.Contains(line, `"cancel"`) || strings.Contains(line, `"host":`) || !json.Valid([]byte(line)) {
		return 0
	}
	var batch struct {
		Requests []json.RawMessage `json:"batch"`
	}
	require.NoError(t, json.Unmarshal([]byte(line), &batch))
	if batch.Requests != nil {
		var got []byte
		for i, one := range batch.Requests {
			got = wire.AppendBatch(got, i > 0, encodeAnew(t, path, string(one)))
		}
		assert.Equal(t, line+"\n", string(wire.EndBatch(got)), path)
		return 1
	}
	got := encodeAnew(t, path, line)
	if got == nil {
		return 0
	}
	assert.JSONEq(t, line, string(got), path)
	assert.True(t, bytes.HasPrefix(got, []byte(`{"id":`)))
	assert.True(t, bytes.HasSuffix(got, []byte("}\n")))
	return 1
}

// encodeAnew is the request as this side writes it; nil: it does not.
func encodeAnew(t *testing.T, path, line string) []byte {
	var req struct {
		ID      uint64          `json:"id"`
		Command string          `json:"command"`
		Args    json.RawMessage `json:"args"`
		Session string          `json:"session_id"`
		Timeout int64           `json:"timeout_ms"`
		Stream  bool            `json:"stream"`
		Trace   string          `json:"trace"`
	}
	require.NoError(t, json.Unmarshal([]byte(line), &req), "%s: %s", path, line)
	var in any
	if req.Args != nil {
		in = req.Args
	}
	if strings.TrimLeft(string(req.Args), `"0123456789`) != string(req.Args) {
		return nil // scalars are refused on this side
	}
	enc, err := wire.Encode(nil, req.Command, in, req.Session, req.Stream)
	require.NoError(t, err, "%s: %s", path, line)
	enc.Trace = req.Trace
	return enc.Seal(req.ID, time.Duration(req.Timeout)*time.Millisecond, req.Timeout > 0)
}

// replayAnswer reads a transcript's answer as a call would.
func replayAnswer(t *testing.T, path, line string) int {
	var f wire.Frame
	err := wire.Parse([]byte(line), &f)
	if strings.HasPrefix(line, `{"id":null`) {
		assert.Error(t, err, "an answer to no request of ours is a violation: %s", line)
		return 1
	}
	require.NoError(t, err, "%s: %s", path, line)
	switch {
	case strings.Contains(line, `"host":`):
		assert.Equal(t, wire.KindFunction, f.Kind, line)
	case strings.Contains(line, `"item":`):
		assert.Equal(t, wire.KindItem, f.Kind, line)
	case strings.Contains(line, `"retire":"`):
		assert.Equal(t, wire.KindRetire, f.Kind, line)
	case strings.Contains(line, `"stack":`):
		assert.Equal(t, wire.KindStack, f.Kind, line)
	case strings.Contains(line, `"success":true`):
		assert.Equal(t, wire.KindResult, f.Kind, line)
	default:
		assert.Equal(t, wire.KindError, f.Kind, line)
		line = strings.NewReplacer(`"names":"*"`, `"names":[]`, `"notes":"*"`, `"notes":[]`, `"size":"*"`, `"size":1`, `"limit":"*"`, `"limit":1`, `"line":"*"`, `"line":1`).Replace(line)
		require.NoError(t, wire.Parse([]byte(line), &f))
		var we wireError
		require.NoError(t, json.Unmarshal(f.Body, &we), "%s: %s", path, line)
		want := map[string]ErrorType{
			"python_exception": TypePython, "invalid_arguments": TypeInvalidArguments, "unknown_command": TypeUnknownCommand, "invalid_result": TypeInvalidResult,
			"message_too_large": TypeMessageTooLarge, "start_failed": TypeInternal, "protocol_mismatch": TypeInternal, "invalid_request": TypeInternal, "internal": TypeInternal,
		}[we.Kind]
		require.NotEmpty(t, want, "the kind %q of %s is unknown here", we.Kind, path)
		assert.Equal(t, want, we.toError(CallInfo{Command: "c"}).Type)
	}
	return 1
}

// Valuer is wire's too: what pypoolgen writes is one of both.
var _, _ = func(v Valuer) wire.Valuer { return v }, func(v wire.Valuer) Valuer { return v }
