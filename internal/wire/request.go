package wire

import (
	"encoding/json"
	"strconv"
	"time"
)

// requestHead is the room kept before a request for `{"id":` and the digits, which are known last.
const requestHead = 32

// Request is one encoded line, complete but for its id, timeout and trace: those are set by Seal,
// when a worker is at hand.
type Request struct {
	Trace string // W3C traceparent; empty: none
	Buf   []byte // where the line is; once no worker has it any more, the next request may be encoded into it
	Blobs []Blob // its payloads, in memory of the caller's
	Takes bool   // payloads in what answers it

	start int // where the sealed line begins in Buf
	body  int // len(Buf) before Seal appended its tail
}

// Encode encodes everything that does not depend on a worker, into buf as far as that has room.
// args is encoded with encoding/json, without HTML escapes; nil: none. An error says what of args
// cannot be sent.
func Encode(buf []byte, command string, args any, sessionID string, stream bool) (Request, error) {
	b := beginRequest(buf, command)
	var blobs []Blob
	if args != nil {
		var err error
		if b, blobs, _, err = AppendArgs(append(b, `,"args":`...), args); err != nil {
			return Request{}, err
		}
	}
	r := endRequest(b, sessionID, stream)
	r.Blobs = blobs
	return r, nil
}

func beginRequest(buf []byte, command string) []byte {
	b := append(buf[:0], make([]byte, requestHead)...)
	return appendString(append(b, `,"command":`...), command)
}

func endRequest(b []byte, sessionID string, stream bool) Request {
	if sessionID != "" {
		b = appendString(append(b, `,"session_id":`...), sessionID)
	}
	if stream {
		b = append(b, `,"stream":true`...)
	}
	return Request{Buf: b, body: len(b)}
}

// Seal completes the line and returns it, in Buf. It may be called again for another worker.
func (r *Request) Seal(id uint64, timeout time.Duration, hasTimeout bool) []byte {
	var head [requestHead]byte
	h := strconv.AppendUint(append(head[:0], `{"id":`...), id, 10)
	r.start = requestHead - len(h)
	copy(r.Buf[r.start:], h)
	r.Buf = r.Buf[:r.body]
	if r.Takes {
		r.Buf = append(r.Buf, takesKey...)
	}
	if hasTimeout {
		r.Buf = appendTimeout(r.Buf, timeout)
	}
	r.Buf = endLine(r.Buf, r.Trace)
	return r.Buf[r.start:]
}

const takesKey = `,"take_blobs":true`

// Template encodes the requests to one command that differ in their arguments only, each on a line
// of its own or many together.
type Template struct {
	head, tail []byte
	end        []byte // of a line of many, up to the trace
	takes      bool   // payloads in what answers them
}

// NewTemplate returns that of a command in a session, or in none. timeout is one of each request;
// 0: none.
func NewTemplate(command, sessionID string, timeout time.Duration) Template {
	return newTemplate(command, sessionID, timeout, false)
}

// TakesBlobs returns NewTemplate's for requests whose answers may have payloads.
func TakesBlobs(command, sessionID string, timeout time.Duration) Template {
	return newTemplate(command, sessionID, timeout, true)
}

func newTemplate(command, sessionID string, timeout time.Duration, takes bool) Template {
	t := Template{head: append(beginRequest(nil, command), `,"args":`...), tail: endRequest(nil, sessionID, false).Buf, takes: takes}
	t.end = append(appendString([]byte(`],"command":`), command), t.tail...)
	if takes {
		t.end = append(t.end, takesKey...)
	}
	if timeout > 0 {
		t.end = appendTimeout(t.end, timeout)
	}
	return t
}

// Begin begins a request in buf; AppendArgs and Finish follow.
func (t *Template) Begin(buf []byte) []byte { return append(buf[:0], t.head...) }

// Finish ends what Begin began.
func (t *Template) Finish(b []byte, trace string) Request {
	b = append(b, t.tail...)
	return Request{Buf: b, body: len(b), Trace: trace, Takes: t.takes}
}

// Args is the arguments in a request of the template's that has no key beside them.
func (t *Template) Args(r *Request) []byte { return r.Buf[len(t.head) : r.body-len(t.tail)] }

// AppendPacked begins a line of several requests, or goes on with it where more is set:
// docs/protocol.md, `packed`.
func AppendPacked(b []byte, more bool, id uint64, args []byte) []byte {
	if more {
		b = append(b, ',')
	} else {
		b = append(b, packedKey...)
	}
	b = append(strconv.AppendUint(b, id, 10), ',')
	return append(b, args...)
}

const packedKey = `{"packed":[`

// EndPacked ends a line of several requests of the template's.
func (t *Template) EndPacked(b []byte, trace string) []byte {
	return endLine(append(b, t.end...), trace)
}

// PackedEnd is how many bytes EndPacked appends beside the trace, about.
func (t *Template) PackedEnd() int { return len(t.end) }

// AppendBatch begins a line that is one batch, or goes on with it where more is set:
// docs/protocol.md, `batch`. line is a sealed request.
func AppendBatch(b []byte, more bool, line []byte) []byte {
	if more {
		b = append(b, ',')
	} else {
		b = append(b, batchKey...)
	}
	return append(b, line[:len(line)-1]...)
}

const batchKey = `{"batch":[`

// EndBatch ends a line that is one batch.
func EndBatch(b []byte) []byte { return append(b, "]}\n"...) }

// AppendShared appends a sealed request as one that is to be served beside others:
// docs/protocol.md, `shared`.
func AppendShared(b, line []byte) []byte {
	b = append(append(b, `{"shared":`...), line[:len(line)-1]...)
	return append(b, '}', '\n')
}

// AppendCredit appends the line that lets a shared stream send so many more items.
func AppendCredit(b []byte, id uint64, items int) []byte {
	b = append(strconv.AppendUint(append(b, `{"id":`...), id, 10), `,"credit":`...)
	return append(strconv.AppendInt(b, int64(items), 10), '}', '\n')
}

// AppendCancel appends the line that asks the runtime to end a request; with stack, to say first
// where that stands.
func AppendCancel(b []byte, id uint64, stack bool) []byte {
	b = append(strconv.AppendUint(append(b, `{"id":`...), id, 10), `,"cancel":true`...)
	if stack {
		b = append(b, `,"stack":true`...)
	}
	return append(b, '}', '\n')
}

// AppendStack appends the line that asks the runtime where a request stands.
func AppendStack(b []byte, id uint64) []byte {
	return append(strconv.AppendUint(append(b, `{"id":`...), id, 10), `,"stack":true}`+"\n"...)
}

// endLine ends a line of one or several requests.
func endLine(b []byte, trace string) []byte {
	if trace != "" {
		b = appendString(append(b, `,"trace":`...), trace)
	}
	return append(b, '}', '\n')
}

func appendTimeout(b []byte, timeout time.Duration) []byte {
	return strconv.AppendInt(append(b, `,"timeout_ms":`...), max(timeout.Milliseconds(), 1), 10)
}

// Size is the length of the line, at least, and of its payloads.
func (r *Request) Size() int { return r.body - requestHead + BlobsSize(r.Blobs) }

func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // a string always encodes
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
