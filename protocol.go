package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"time"
	"unicode/utf8"
)

// The wire: docs/protocol.md. This file knows neither processes nor pools.

const (
	protocolVersion = 1
	frameSlack      = 64 << 10 // what an envelope may add to a result of exactly MaxMessageBytes
	maxBanner       = 64 << 10 // what may be printed before the first answer
	maxPolls        = 256
	largeFrame      = 64 << 10 // from here on the read buffer is given away with the frame instead of being copied
)

// transport is a byte stream to a worker and back. Deadlines apply to reads and writes that are under way, too.
type transport interface {
	io.Reader
	io.Writer
	// TryRead reads what is there without waiting: 0, nil when that is nothing. TryWrite writes what is accepted without
	// waiting. After a deadline they may fail with os.ErrDeadlineExceeded, as Read and Write do.
	TryRead(p []byte) (int, error)
	TryWrite(p []byte) (int, error)
	SetDeadline(t time.Time) error
	Close() error
}

// --- requests -------------------------------------------------------------------------------------------------------

// requestHead is the room kept before a request for `{"id":` and the digits, which are known last.
const requestHead = 32

// request is one encoded line, complete but for its id and timeout: those are set by seal, when a worker is at hand.
type request struct {
	buf   []byte
	start int // where the sealed line begins in buf
	body  int // len(buf) before seal appended its tail
}

// encodeRequest encodes everything that does not depend on a worker. args is encoded with encoding/json, without HTML escapes.
func encodeRequest(buf []byte, command string, args any, sessionID string, stream bool) (request, error) {
	b := bytes.NewBuffer(append(buf[:0], make([]byte, requestHead)...))
	b.WriteString(`,"command":`)
	writeString(b, command)
	if args != nil {
		b.WriteString(`,"args":`)
		if err := encodeArgs(b, args); err != nil {
			return request{}, err
		}
	}
	if sessionID != "" {
		b.WriteString(`,"session_id":`)
		writeString(b, sessionID)
	}
	if stream {
		b.WriteString(`,"stream":true`)
	}
	return request{buf: b.Bytes(), body: b.Len()}, nil
}

// seal completes the line. It may be called again for another worker.
func (r *request) seal(id uint64, timeout time.Duration, hasTimeout bool) []byte {
	var head [requestHead]byte
	h := strconv.AppendUint(append(head[:0], `{"id":`...), id, 10)
	r.start = requestHead - len(h)
	copy(r.buf[r.start:], h)
	r.buf = r.buf[:r.body]
	if hasTimeout {
		r.buf = append(r.buf, `,"timeout_ms":`...)
		r.buf = strconv.AppendInt(r.buf, max(timeout.Milliseconds(), 1), 10)
	}
	r.buf = append(r.buf, '}', '\n')
	return r.buf[r.start:]
}

// size is the length of the line, at least.
func (r *request) size() int { return r.body - requestHead }

func writeString(b *bytes.Buffer, s string) {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // a string always encodes
			b.Write(quoted)
			return
		}
	}
	b.WriteByte('"')
	b.WriteString(s)
	b.WriteByte('"')
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

func quoteSample(b []byte) string {
	return strconv.QuoteToASCII(string(b[:min(len(b), 256)]))
}

// --- conn -----------------------------------------------------------------------------------------------------------

// conn is one exchange at a time over a transport. It is not safe for concurrent use. Once broken is set, the stream is in
// doubt: nothing more is sent or read.
type conn struct {
	t      transport
	max    int // bytes of one frame
	buf    []byte
	r, w   int // buf[r:w] is read and not yet consumed
	broken error

	// Of the exchange under way, from arm to disarm.
	ctx      context.Context
	deadline time.Time
	current  bool // the transport has this deadline
	dirty    bool // the transport has some deadline
	spin     time.Duration

	interrupt func()        // moves the transport's deadline into the past; made once, so that arming allocates no closure
	hooked    chan struct{} // the interrupt has run
	readNext  func([]byte) (int, error)
	readNow   func([]byte) (int, error)
}

func newConn(t transport, maxMessage int) *conn {
	c := &conn{t: t, max: maxMessage + frameSlack, buf: make([]byte, 4096), hooked: make(chan struct{}, 1)}
	c.interrupt = func() {
		_ = c.t.SetDeadline(time.Unix(1, 0))
		c.hooked <- struct{}{}
	}
	c.readNext = c.await
	c.readNow = func(p []byte) (int, error) {
		n, err := c.t.TryRead(p)
		if n == 0 && err == nil {
			err = os.ErrDeadlineExceeded
		}
		return n, err
	}
	return c
}

// errShortWrite says that the worker cannot have the whole request: it was not executed.
type errShortWrite struct {
	n   int // bytes that were written
	err error
}

func (e *errShortWrite) Error() string { return "the request was not written whole: " + e.err.Error() }
func (e *errShortWrite) Unwrap() error { return e.err }

// errNoise says that the worker had sent something unasked before the request was written.
var errNoise = errors.New("output that no request asked for")

// arm makes ctx's end and the deadline (zero: none) interrupt the exchange; disarm must follow. An answer that comes within
// spin is waited for without parking.
func (c *conn) arm(ctx context.Context, deadline time.Time, spin time.Duration) (stop func() bool) {
	c.ctx, c.deadline, c.spin = ctx, deadline, spin
	if ctx.Done() == nil {
		return nil
	}
	return context.AfterFunc(ctx, c.interrupt)
}

// patient sets the transport's deadline: it is about to wait. Exchanges that never wait save the cost.
func (c *conn) patient() {
	if c.current {
		return
	}
	c.current, c.dirty = true, true
	_ = c.t.SetDeadline(c.deadline)
	if c.ctx.Err() != nil { // the interrupt may just have been overwritten
		_ = c.t.SetDeadline(time.Unix(1, 0))
	}
}

// extend moves the deadline while the exchange goes on. Zero means none.
func (c *conn) extend(deadline time.Time) {
	c.deadline, c.current = deadline, false
}

// disarm returns when no interrupt can come any more, and clears the deadline: a late one must not poison the next call.
func (c *conn) disarm(stop func() bool) {
	if stop != nil && !stop() {
		<-c.hooked
		c.dirty = true
	}
	if c.dirty {
		_ = c.t.SetDeadline(time.Time{})
	}
	c.ctx, c.current, c.dirty = nil, false, false
}

// await reads what comes next: at first it polls, because to be parked and woken costs more than a short wait; then it parks.
func (c *conn) await(p []byte) (int, error) {
	if c.spin > 0 {
		begun := time.Now()
		for range maxPolls { // so that it ends also where the clock stands still, as in a synctest bubble
			n, err := c.t.TryRead(p)
			if n > 0 || err != nil {
				return n, err
			}
			if time.Since(begun) > c.spin {
				break
			}
			runtime.Gosched()
		}
		c.spin = 0 // once an exchange
	}
	c.patient()
	return c.t.Read(p)
}

// send writes one whole line. On *errShortWrite or errNoise the request was not executed.
func (c *conn) send(line []byte) error {
	if err := c.quiet(); err != nil {
		return err
	}
	return c.write(line)
}

// quiet checks that the worker has sent nothing since its last answer.
func (c *conn) quiet() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
		n, err := c.t.TryRead(c.buf)
		if err != nil {
			return c.unwritten(&errShortWrite{0, err})
		}
		c.w = n
	}
	if c.r != c.w {
		c.broken = &ProtocolError{Reason: errNoise.Error(), Sample: quoteSample(c.buf[c.r:c.w])}
		return errNoise
	}
	return nil
}

// write writes all of line: at once when the pipe takes it, as it does unless the line is large.
func (c *conn) write(line []byte) error {
	n, err := c.t.TryWrite(line)
	if err == nil && n < len(line) {
		c.patient()
		var more int
		more, err = c.t.Write(line[n:])
		n += more
	}
	if n == len(line) {
		return nil
	}
	if err == nil {
		err = io.ErrShortWrite
	}
	return c.unwritten(&errShortWrite{n, err})
}

// unwritten puts the stream in doubt, unless it is as it was.
func (c *conn) unwritten(short *errShortWrite) error {
	if !nothingWritten(short) {
		c.broken = short.err
	}
	return short
}

// receive reads the next frame and checks that it answers id.
func (c *conn) receive(id uint64, f *frame) error {
	err := c.receiveFrame(f, c.readNext)
	if err == nil && f.id != id {
		err = c.violation(fmt.Errorf("an answer to request %d, not %d", f.id, id), f.body)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.broken = err
	}
	return err
}

// receiveLast looks, without waiting, whether the frame is there after all: called when the deadline has passed.
func (c *conn) receiveLast(id uint64, f *frame) bool {
	err := c.receiveFrame(f, c.readNow)
	return err == nil && f.id == id
}

// skipBanner reads up to the first answer's beginning, and returns what stands before it: what a sitecustomize or .pth file
// printed before the runtime could take stdout out of its way.
func (c *conn) skipBanner() (banner []byte, err error) {
	answer := []byte(`{"id":0,"success":`)
	for {
		unread := c.buf[c.r:c.w]
		if i := bytes.Index(unread, answer); i >= 0 {
			c.r += i
			return bytes.Clone(unread[:i]), nil
		}
		if len(unread) > maxBanner {
			return nil, c.violation(fmt.Errorf("more than %d bytes of output before hello was answered", maxBanner), unread)
		}
		if c.w == len(c.buf) {
			c.makeRoom()
		}
		n, err := c.readNext(c.buf[c.w:])
		c.w += n
		if n == 0 && err != nil {
			return bytes.Clone(c.buf[c.r:c.w]), err
		}
	}
}

// receiveFrame reads up to the next newline with read, and parses the line.
func (c *conn) receiveFrame(f *frame, read func([]byte) (int, error)) error {
	scanned := c.r
	for {
		if i := bytes.IndexByte(c.buf[scanned:c.w], '\n'); i >= 0 {
			line := c.buf[c.r : scanned+i]
			c.r = scanned + i + 1
			if err := parseFrame(line, f); err != nil {
				return c.violation(err, line)
			}
			return nil
		}
		scanned = c.w
		if c.w-c.r > c.max {
			return c.violation(fmt.Errorf("a line of more than %d bytes", c.max), c.buf[c.r:c.w])
		}
		if c.w == len(c.buf) {
			scanned -= c.makeRoom()
		}
		n, err := read(c.buf[c.w:])
		c.w += n
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) && c.w > c.r {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// makeRoom moves the unread bytes to the front, or doubles the buffer. It returns how far they moved.
func (c *conn) makeRoom() int {
	moved := c.r
	if c.r > 0 {
		copy(c.buf, c.buf[c.r:c.w])
	} else {
		grown := make([]byte, 2*len(c.buf))
		copy(grown, c.buf[:c.w])
		c.buf = grown
	}
	c.r, c.w = 0, c.w-moved
	return moved
}

// take returns the frame's body for keeps: a copy of a small one; for a large one the read buffer itself, replaced by a fresh one.
func (c *conn) take(f *frame) json.RawMessage {
	if len(f.body) < largeFrame {
		return bytes.Clone(f.body)
	}
	rest := c.buf[c.r:c.w]
	c.buf = make([]byte, max(4096, len(rest)))
	c.r, c.w = 0, copy(c.buf, rest)
	return f.body[:len(f.body):len(f.body)]
}

func (c *conn) violation(err error, sample []byte) error {
	return &ProtocolError{Reason: err.Error(), Sample: quoteSample(sample)}
}

// cancel asks the runtime to end the stream that is being received, and gives it d to do so.
func (c *conn) cancel(id uint64, d time.Duration) error {
	line := append(strconv.AppendUint([]byte(`{"id":`), id, 10), `,"cancel":true}`+"\n"...)
	c.extend(time.Now().Add(d))
	c.patient()
	_, err := c.t.Write(line)
	return err
}
