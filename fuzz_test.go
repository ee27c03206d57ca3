//go:build linux

package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
	"github.com/pypool/pypool/internal/wire"
)

// pieces is a transport that hands its stream out in pieces of the given sizes.
type pieces struct {
	stream []byte
	sizes  []byte
	n      int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.stream) == 0 {
		return 0, io.EOF
	}
	size := 1
	if len(p.sizes) > 0 {
		size = int(p.sizes[p.n%len(p.sizes)]) + 1
		p.n++
	}
	n := copy(b[:min(size, len(b))], p.stream)
	p.stream = p.stream[n:]
	return n, nil
}

func (p *pieces) TryRead(b []byte) (int, error)   { return p.Read(b) }
func (p *pieces) Write(b []byte) (int, error)     { return len(b), nil }
func (p *pieces) TryWrite(b []byte) (int, error)  { return len(b), nil }
func (p *pieces) Unwatch()                        {}
func (p *pieces) SetDeadline(time.Time) error     { return nil }
func (p *pieces) SetReadDeadline(time.Time) error { return nil }
func (p *pieces) Close() error                    { return nil }

// FuzzFrameReader reads one stream in two ways, in pieces of any sizes and at once: the same frames
// come out, the same error ends it, and the buffer stays within the limit.
func FuzzFrameReader(f *testing.F) {
	long := `{"id":3,"item":"` + strings.Repeat("z", 5000) + `"}` + "\n"
	for _, stream := range []string{
		`{"id":1,"item":1}` + "\n" + `{"id":1,"success":true,"result":2}` + "\n", long + long, `{"id":1,`, "\n\n", "garbage\n" + long, long[:4000], strings.Repeat("x", 10_000), "",
	} {
		f.Add([]byte(stream), []byte{0, 1, 7, 200}, uint16(2000))
	}
	f.Fuzz(func(t *testing.T, stream, sizes []byte, limit uint16) {
		read := func(sizes []byte) (seen []string, end string) {
			c := newConn(&pieces{stream: stream, sizes: sizes}, 0)
			c.max = int(limit)
			for {
				var got wire.Frame
				if err := c.receiveFrame(&got, c.t.Read); err != nil {
					var violation *ProtocolError
					if errors.As(err, &violation) {
						return seen, "violation" // where it is noticed, and so its sample, depends on the pieces
					}
					return seen, err.Error()
				}
				seen = append(seen, fmt.Sprintf("%d %d %s %v", got.ID, got.Kind, c.take(&got), got.BigInt))
				if len(c.buf) > 2*(int(limit)+4096+256) {
					t.Fatalf("the buffer has %d bytes, the limit is %d", len(c.buf), limit)
				}
			}
		}
		frames, end := read(sizes)
		whole, wholeEnd := read([]byte{255})
		if len(stream) <= int(limit) { // beyond it, how much is seen before the cut depends on the pieces
			require.Equal(t, whole, frames)
			require.Equal(t, wholeEnd, end)
		}
	})
}

// FuzzEncodeRequest sends any JSON document and any strings through a real Python worker and back:
// one line goes out, and what comes back is equal, or the request was refused before it ran.
func FuzzEncodeRequest(f *testing.F) {
	for _, s := range []string{
		`null`, `[1,2.5,"x"]`, `{"a":{"b":[true,false,null]}}`, `"\u2028\u2029\u0085\n\r"`, `1e400`, `-0`, `9007199254740993`, `123456789012345678901234567890`, `"\ud800"`,
		`{"":0,"1":1}`, `"<>&"`, `1.0`, `1E5`, `{"a":1,"a":2}`,
	} {
		f.Add(s, "text \x00\x7f é 日本 \u2028", "session")
	}
	path, err := os.Getwd()
	require.NoError(f, err)
	p, err := New(context.Background(), Config{
		Script: path + "/testdata/workers/faults.py", Python: realPython(), Size: 1, Overflow: -1, Logger: quiet(),
	})
	require.NoError(f, err)
	f.Cleanup(func() {
		if err := p.Close(); err != nil {
			f.Error(err)
		}
	})
	f.Fuzz(func(t *testing.T, document, text, id string) {
		args := []any{[]any{json.RawMessage(document), text}}
		if req, err := wire.Encode(nil, "echo", args, "", false); err == nil {
			line := req.Seal(1<<63, time.Second, true)
			if bytes.Count(line, []byte("\n")) != 1 || !json.Valid(line) || !utf8.Valid(line) {
				t.Fatalf("the line is %q", line)
			}
		}
		var opts []CallOption
		if id != "" {
			opts = append(opts, WithSession(id))
		}
		res, err := p.ExecuteProgram(context.Background(), "none", nil, opts...)
		if !errors.Is(err, ErrUnknownCommand) && !errors.Is(err, ErrInvalidArguments) {
			t.Fatalf("%v %v", res, err)
		}
		res, err = p.ExecuteAnonymous(context.Background(), "echo", args)
		if err != nil {
			// A lone surrogate is refused in a result, after the handler; all else before it.
			if !errors.Is(err, ErrInvalidArguments) && !errors.Is(err, ErrInvalidResult) {
				t.Fatalf("%q: %v", document, err)
			}
			return
		}
		want, err := json.Marshal(args[0])
		require.NoError(t, err)
		requireSameValue(t, want, res.Raw())
	})
}

// requireSameValue compares two documents by value: integers exactly, other numbers as float64.
func requireSameValue(t *testing.T, want, got []byte) {
	t.Helper()
	var x, y any
	for doc, v := range map[*any][]byte{&x: want, &y: got} {
		dec := json.NewDecoder(bytes.NewReader(v))
		dec.UseNumber()
		require.NoError(t, dec.Decode(doc))
	}
	if !sameValue(x, y) {
		t.Fatalf("sent %s, got %s", want, got)
	}
}

func sameValue(x, y any) bool {
	switch a := x.(type) {
	case json.Number:
		b, ok := y.(json.Number)
		if !ok {
			return false
		}
		if !strings.ContainsAny(a.String(), ".eE") {
			return a == b || a == "-0" && (b == "0" || b == "-0.0") // it is sent as the float that it is
		}
		left, err1 := a.Float64()
		right, err2 := b.Float64()
		return err1 == nil && err2 == nil && left == right
	case []any:
		b, ok := y.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !sameValue(a[i], b[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		b, ok := y.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for key := range a {
			if v, found := b[key]; !found || !sameValue(a[key], v) {
				return false
			}
		}
		return true
	}
	return x == y
}

// FuzzSessionID feeds any string to the session table's door: what it lets in is short, printable
// and comes back as it was; the rest leaves no trace.
func FuzzSessionID(f *testing.F) {
	for _, id := range append(hostileNames, "user-42", "日本語", "e\u0301", "\u00a0", "{{.}}", strings.Repeat("é", 128)) {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if !validLabel(id) {
			e := invalidSession(id)
			if len(e.Error()) > 2048 || strings.ContainsAny(e.Error(), "\n\r\x1b\x00") || !utf8.ValidString(e.Error()) {
				t.Fatalf("%q", e.Error())
			}
			return
		}
		if len(id) == 0 || len(id) > 256 || !utf8.ValidString(id) || strings.ContainsAny(id, "\n\r\x1b\x00\u2028\u0085\ufeff") {
			t.Fatalf("%q is let in", id)
		}
		table := newSessionTable(10, func(string, string) {})
		s := table.enter(id)
		table.leave(s, true)
		info, known := table.get(id)
		if !known || info.ID != id || info.Operations != 1 || info.Errors != 1 || !table.end(id) || table.size() != 0 {
			t.Fatalf("%q: %+v", id, info)
		}
		req, err := wire.Encode(nil, "c", nil, id, false)
		require.NoError(t, err)
		var back struct {
			Session string `json:"session_id"`
		}
		require.NoError(t, json.Unmarshal(req.Seal(1, 0, false), &back))
		require.Equal(t, id, back.Session)
	})
}

// FuzzFakeWorkerScript lets a byte string direct what scripted workers do in answer to calls, in a
// synctest bubble: whatever that is, each call has one outcome in time, answers reach their own
// calls only, and the pool heals.
func FuzzFakeWorkerScript(f *testing.F) {
	for op := range byte(scriptOps) {
		f.Add([]byte{op, 0, op}, uint8(2))
	}
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}, uint8(3))
	f.Fuzz(func(t *testing.T, program []byte, size uint8) {
		if len(program) > 64 {
			program = program[:64]
		}
		synctest.Test(t, func(t *testing.T) { playScript(t, program, int(size%3)+1) })
	})
}

const scriptOps = 19

// callScripted has callers call commands of a worker that answers with its arguments, if it does: n
// calls each, none of which may take longer than the bound.
func callScripted(t *testing.T, p *Pool, callers, n int, bound time.Duration, command func(caller int) string) {
	var all sync.WaitGroup
	for c := range callers {
		all.Go(func() {
			for i := range n {
				begun, nonce := time.Now(), c*1000+i
				res, err := p.ExecuteAnonymous(context.Background(), command(c), []any{nonce}, WithTimeout(time.Second), WithCheckoutTimeout(time.Minute))
				if took := time.Since(begun); took > bound {
					t.Errorf("a call took %v", took)
				}
				var e *Error
				switch {
				case err == nil:
					if string(res.Raw()) != fmt.Sprintf("[%d]", nonce) {
						t.Errorf("call %d got %s", nonce, res.Raw())
					}
				case !errors.As(err, &e):
					t.Errorf("%T %v", err, err)
				case e.Delivery == Executed:
					t.Errorf("no answer, and yet executed: %v", err)
				}
			}
		})
	}
	all.Wait()
}

func playScript(t *testing.T, program []byte, size int) {
	var mu sync.Mutex
	next := 0
	f := &fleet{}
	waiting := map[string]string{} // answers that wait for the reply of a function
	f.script = func(p *fakeProcess, req fakeRequest) bool {
		if req.Host > 0 {
			mu.Lock()
			answer := waiting[fmt.Sprint(p.n, "/", req.ID)]
			mu.Unlock()
			p.say(answer)
			return true
		}
		if req.Command != "work" {
			return false
		}
		mu.Lock()
		op := byte(0)
		if next < len(program) {
			op = program[next] % scriptOps
		}
		next++
		mu.Unlock()
		answer := fmt.Sprintf(`{"id":%d,"success":true,"result":%s}`+"\n", req.ID, req.Args)
		switch op {
		case 0:
			p.say(answer)
		case 1:
			p.say(answer[:len(answer)/2])
			p.pause(time.Millisecond)
			p.say(answer[len(answer)/2:])
		case 2:
			p.say(answer + answer)
		case 3:
			p.say(strings.Replace(answer, `"id":`, `"id":9`, 1))
		case 4:
			p.say("garbage\n")
		case 5:
			p.say(strings.TrimSuffix(answer, "\n"))
		case 6:
			return p.hang()
		case 7:
			p.end(proc.ExitState{Code: 3})
		case 8:
			p.say(answer)
			p.end(proc.ExitState{})
		case 9:
			p.say(answer[:3])
			p.killed()
		case 10:
			p.pause(time.Second) // the deadline's own instant
			p.say(answer)
		case 11:
			p.say(answer)
			p.pause(time.Millisecond)
			p.say("noise while idle\n")
		case 12:
			p.say(fmt.Sprintf(`{"id":%d,"item":1}`+"\n", req.ID))
		case 13:
			p.say(strings.ReplaceAll(answer, "success", "SUCCESS"))
		case 14:
			mu.Lock()
			waiting[fmt.Sprint(p.n, "/", req.ID)] = answer
			mu.Unlock()
			p.say(fmt.Sprintf(`{"id":%d,"host":1,"function":"echo","args":%s}`+"\n", req.ID, req.Args))
		case 15:
			p.say(fmt.Sprintf(`{"id":%d,"host":2,"function":"unknown"}`+"\n", req.ID) + answer) // the reply comes too late
		case 16:
			p.say(fmt.Sprintf(`{"id":%d,"host":3,"function":"echo"}`+"\n", req.ID+1))
		case 17:
			p.say(answer + fmt.Sprintf(`{"id":%d,"host":4,"function":"echo"}`+"\n", req.ID))
		case 18:
			p.say(fmt.Sprintf(`{"id":%d,"stack":"nobody asked"}`+"\n", req.ID))
		}
		return true
	}
	cfg := f.config(size)
	cfg.Functions = Functions{"echo": echoFunction()}
	cfg.Breaker.Failures = -1
	p, err := New(t.Context(), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	bound := time.Minute + time.Duration(size+2)*(time.Second+cfg.KillGrace+time.Second)
	callScripted(t, p, size+1, len(program)/(size+1)+1, bound, func(int) string { return "work" })
	mu.Lock()
	program = nil // from here on they are well
	mu.Unlock()
	time.Sleep(time.Minute)
	_, _ = p.HealthCheck(context.Background()) // finds what has said something unasked
	time.Sleep(time.Minute)
	require.True(t, serving(p))
	for i := range 2 * size {
		res, err := p.ExecuteAnonymous(context.Background(), "work", []any{i})
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("[%d]", i), string(res.Raw()))
	}
	accounted(t, p)
}
