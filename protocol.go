package pypool

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// The wire: docs/protocol.md. This file knows neither processes nor pools.

const (
	protocolVersion = 1
	frameSlack      = 64 << 10 // what an envelope may add to a result of exactly MaxMessageBytes
	maxBanner       = 64 << 10 // what may be printed before the first answer
	maxPolls        = 1024     // of one wait for an answer: more than spin.Limit has room for
	largeFrame      = 64 << 10 // from here on the read buffer is given away with the frame instead of being copied
)

// --- requests -------------------------------------------------------------------------------------------------------

// requestHead is the room kept before a request for `{"id":` and the digits, which are known last.
const requestHead = 32

// request is one encoded line, complete but for its id, timeout and trace: those are set by seal, when a worker is at hand.
type request struct {
	buf   []byte
	start int // where the sealed line begins in buf
	body  int // len(buf) before seal appended its tail
	trace string
}

// encodeRequest encodes everything that does not depend on a worker. args is encoded with encoding/json, without HTML escapes.
func encodeRequest(buf []byte, command string, args any, sessionID string, stream bool) (request, error) {
	b := beginRequest(buf, command)
	if args != nil {
		var err error
		if b, err = encodeArgs(append(b, `,"args":`...), args); err != nil {
			return request{}, err
		}
		b = appendBytesPaths(b, args)
	}
	return endRequest(b, sessionID, stream), nil
}

func beginRequest(buf []byte, command string) []byte {
	b := append(buf[:0], make([]byte, requestHead)...)
	return appendString(append(b, `,"command":`...), command)
}

func endRequest(b []byte, sessionID string, stream bool) request {
	if sessionID != "" {
		b = appendString(append(b, `,"session_id":`...), sessionID)
	}
	if stream {
		b = append(b, `,"stream":true`...)
	}
	return request{buf: b, body: len(b)}
}

// seal completes the line. It may be called again for another worker.
func (r *request) seal(id uint64, timeout time.Duration, hasTimeout bool) []byte {
	var head [requestHead]byte
	h := strconv.AppendUint(append(head[:0], `{"id":`...), id, 10)
	r.start = requestHead - len(h)
	copy(r.buf[r.start:], h)
	r.buf = r.buf[:r.body]
	if hasTimeout {
		r.buf = appendTimeout(r.buf, timeout)
	}
	r.buf = endLine(r.buf, r.trace)
	return r.buf[r.start:]
}

// severalKey begins a line of several requests to one command: docs/protocol.md, `each`.
const severalKey = `{"each":[`

// endSeveral is what follows the ids and arguments in such a line, up to endLine; tail is endRequest's.
func endSeveral(command string, tail []byte, timeout time.Duration) []byte {
	b := append(appendString([]byte(`],"command":`), command), tail...)
	if timeout > 0 {
		b = appendTimeout(b, timeout)
	}
	return b
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

// size is the length of the line, at least.
func (r *request) size() int { return r.body - requestHead }

func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // a string always encodes
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// --- frames ---------------------------------------------------------------------------------------------------------

type frameKind int

const (
	frameResult frameKind = iota
	frameError
	frameItem
)

// frame is one line from a worker. body aliases the read buffer until take is called.
type frame struct {
	id     uint64
	kind   frameKind
	body   []byte // raw JSON: the result, the error or the item
	bigInt bool   // an integer of more than 15 digits is in it
}

// wireError is the error object of a response.
type wireError struct {
	Kind      string   `json:"kind"`
	Type      string   `json:"type"`
	Module    string   `json:"module"`
	Message   string   `json:"message"`
	Traceback string   `json:"traceback"`
	Notes     []string `json:"notes"`
	Stage     string   `json:"stage"`
	What      string   `json:"what"`
	Names     []string `json:"names"`
	Path      string   `json:"path"`
	Size      int64    `json:"size"`
	Limit     int64    `json:"limit"`
	Supported []int    `json:"supported"`
	File      string   `json:"file"`
	Line      int      `json:"line"`
	Function  string   `json:"function"`

	Errors []FieldError `json:"errors"`
}

// parseFrame reads one line, without its newline. Keys are matched exactly and must not repeat: encoding/json would match
// them in any case and keep the last. A nil error means that the line is valid JSON and valid UTF-8 throughout.
func parseFrame(line []byte, f *frame) error {
	const (
		hasID = 1 << iota
		hasSuccess
		hasResult
		hasError
		hasItem
	)
	if !utf8.Valid(line) {
		return errors.New("the line is not valid UTF-8")
	}
	*f = frame{}
	if f.parseSuccess(line) {
		return nil
	}
	*f = frame{}
	s := scanner{b: line}
	var seen int
	var success bool
	if !s.byte('{') {
		return errors.New("the line is not a JSON object")
	}
	for {
		key, ok := s.plainKey()
		if !ok || !s.byte(':') {
			return fmt.Errorf("malformed envelope at byte %d", s.i)
		}
		var bit int
		s.space()
		start := s.i
		switch string(key) {
		case "id":
			bit = hasID
			f.id, ok = s.uint()
		case "success":
			bit = hasSuccess
			success, ok = s.bool()
		case "result":
			bit, ok = hasResult, s.value(0)
			f.body = s.b[start:s.i]
		case "error":
			bit, ok = hasError, s.peek() == '{' && s.value(0)
			f.body = s.b[start:s.i]
		case "item":
			bit, ok = hasItem, s.value(0)
			f.body = s.b[start:s.i]
		default:
			return fmt.Errorf("unknown envelope key at byte %d", s.i-len(key)-2)
		}
		if s.deep && seen&hasID != 0 {
			return errTooDeep
		}
		if !ok {
			return fmt.Errorf("bad value of the envelope key %q at byte %d", key, s.i)
		}
		if seen&bit != 0 {
			return fmt.Errorf("the envelope key %q stands twice", key)
		}
		seen |= bit
		if s.byte(',') {
			continue
		}
		if s.byte('}') && s.end() {
			break
		}
		return fmt.Errorf("malformed envelope at byte %d", s.i)
	}
	f.bigInt = s.bigInt
	switch {
	case seen == hasID|hasSuccess|hasResult && success:
		f.kind = frameResult
	case seen == hasID|hasSuccess|hasError && !success:
		f.kind = frameError
	case seen == hasID|hasItem:
		f.kind = frameItem
	default:
		return errors.New("the envelope is neither a result, an error nor an item: " + whatLacks(seen&hasID != 0, seen&hasSuccess != 0, success))
	}
	return nil
}

// parseSuccess reads a result as the runtime writes it, which is how most lines look; whether any other line is right is not said.
func (f *frame) parseSuccess(line []byte) (ok bool) {
	const idKey, resultKey = `{"id":`, `,"success":true,"result":`
	s := scanner{b: line}
	if !s.literal(idKey) {
		return false
	}
	if f.id, ok = s.uint(); !ok || !s.literal(resultKey) || s.peek() <= ' ' {
		return false
	}
	start := s.i
	if !s.value(0) || s.i != len(line)-1 || line[s.i] != '}' {
		return false
	}
	f.body, f.bigInt = line[start:s.i], s.bigInt
	return true
}

// whatLacks names the key that a response of no known shape lacks, or has too much.
func whatLacks(hasID, hasSuccess, success bool) string {
	switch {
	case !hasID:
		return "it has no id"
	case !hasSuccess:
		return "it has no success"
	case success:
		return "success is true, and it has not just a result"
	}
	return "success is false, and it has not just an error"
}

// errTooDeep says that a frame, whole and with a known id, holds a value nested deeper than Go's JSON reads.
var errTooDeep = errors.New("nested too deeply")

// refuseDeep turns such a frame into the error that its result is: the stream itself is in order.
func (f *frame) refuseDeep() {
	f.kind, f.body = frameError, []byte(`{"kind":"invalid_result","message":"the result is nested too deeply","path":"$"}`)
}

func quoteSample(b []byte) string {
	return strconv.QuoteToASCII(string(b[:min(len(b), 256)]))
}
