package pypool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/pypool/pypool/internal/proc"
	"github.com/pypool/pypool/internal/shm"
	"github.com/pypool/pypool/internal/wire"
)

// conn cuts what a transport brings into frames. It is not safe for concurrent use.
type conn struct {
	t      proc.Transport
	max    int // bytes of one frame
	large  int // length of the last large frame: the next one's buffer is made so large at once
	buf    []byte
	r, w   int      // buf[r:w] is read and not yet consumed
	raw    payloads // that have come before the frame in hand
	broken error    // the first violation: nothing behind it is read
	asked  int      // times that the worker has asked to be replaced

	memory *shm.Memory // that the worker may put payloads into, and has them in; nil: there is none
}

// payloads are those that are being read, each into memory of its own: whoever gets one owns it.
type payloads struct {
	data   [][]byte // nil: there are none
	whole  []bool   // those that have come by memory; nil: none has
	at     int      // the first that is not whole
	filled int      // bytes of that
	ended  bool     // the newline behind them has come
}

func newConn(t proc.Transport, maxMessage int) conn {
	return conn{t: t, max: min(maxMessage, math.MaxInt/4) + frameSlack, buf: make([]byte, 4096)}
}

// errUnsolicited says that the worker had sent something unasked before the request was written.
type errUnsolicited struct{ *ProtocolError }

func (e errUnsolicited) Unwrap() error { return e.ProtocolError }

// checkIdle checks that the worker has sent nothing since its last answer: what came together with
// that is in the buffer. With look it also looks into the pipe, which takes 5 % of a call, and
// cannot exclude later output: calls right after an answer skip it.
func (c *conn) checkIdle(look bool) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
		if !look {
			return nil
		}
		n, err := c.t.TryRead(c.buf)
		if err != nil {
			return &errShortWrite{0, err}
		}
		c.w = n
	}
	if c.r != c.w {
		return errUnsolicited{&ProtocolError{Reason: "output that no request asked for", Sample: quoteSample(c.buf[c.r:c.w])}}
	}
	return nil
}

// skipBanner reads up to the first answer's beginning, and returns what stands before it: what a
// sitecustomize or .pth file printed before the runtime could take stdout out of its way. sent is
// what was asked: a process that only echoes is no Python.
func (c *conn) skipBanner(sent []byte, read func([]byte) (int, error)) (banner []byte, err error) {
	start := c.r // of the line in hand
	scanned := start
	for {
		if start-c.r > maxBanner {
			return nil, c.violation(fmt.Errorf("more than %d bytes of output before hello was answered", maxBanner), c.buf[c.r:c.w])
		}
		if i := bytes.IndexByte(c.buf[scanned:c.w], '\n'); i >= 0 {
			line := c.buf[start : scanned+i]
			if bytes.Equal(line, sent[:len(sent)-1]) {
				return bytes.Clone(c.buf[c.r:start]), c.violation(errors.New("the process sends back what it is told"), line)
			}
			if at := answerIn(line, maxBanner-(start-c.r)); at >= 0 {
				banner = bytes.Clone(c.buf[c.r : start+at])
				c.r = start + at
				return banner, nil
			}
			start = scanned + i + 1
			scanned = start
			continue
		}
		scanned = c.w
		if c.w-c.r > maxBanner+c.max {
			return nil, c.violation(errors.New("endless output before hello was answered"), c.buf[c.r:c.w])
		}
		if c.w == len(c.buf) {
			moved := c.makeRoom()
			start, scanned = start-moved, scanned-moved
		}
		n, err := read(c.buf[c.w:])
		c.w += n
		if n == 0 && err != nil {
			return bytes.Clone(c.buf[c.r:c.w]), err
		}
	}
}

// answerIn finds where in a line a frame begins that reaches to its end: output without a newline
// may stand before it, so many bytes at most. It parses twice at most, the whole line and what
// follows the last beginning of the runtime's own: within an answer there is none, as quotes are
// escaped in its texts, and a line may be of 64 MB, and each byte of it a brace.
func answerIn(line []byte, most int) int {
	const begins = `{"id":`
	var f wire.Frame
	if wire.Parse(line, &f) == nil {
		return 0
	}
	at := bytes.LastIndex(line[:min(len(line), most+len(begins))], []byte(begins))
	if at > 0 && wire.Parse(line[at:], &f) == nil {
		return at
	}
	return -1
}

// receiveFrame reads up to the next newline with read, and parses the line. After a violation it
// reads no more: nobody knows what the bytes behind it are, and each state here is one that they fit.
func (c *conn) receiveFrame(f *wire.Frame, read func([]byte) (int, error)) error {
	if c.broken != nil {
		return c.broken
	}
	scanned := c.r
	for {
		if c.raw.data != nil && !c.raw.ended {
			if err := c.receiveRaw(read); err != nil {
				return err
			}
			scanned = c.r
		}
		if i := bytes.IndexByte(c.buf[scanned:c.w], '\n'); i >= 0 {
			line := c.buf[c.r : scanned+i]
			c.r = scanned + i + 1
			if wire.IsRaw(line) {
				if err := c.beginRaw(line); err != nil {
					return c.violation(err, line)
				}
				continue
			}
			err := wire.Parse(line, f)
			if err == nil && (c.raw.data != nil || f.Told != nil) {
				err = f.Attach(c.raw.data)
				c.raw = payloads{}
			}
			switch {
			case errors.Is(err, wire.ErrTooDeep):
				c.raw = payloads{}
				f.RefuseDeep()
			case err != nil:
				return c.violation(err, line)
			case f.Kind == wire.KindRetire:
				if c.asked++; c.asked > maxAsked {
					return c.violation(errors.New("it asks again and again to be replaced"), line)
				}
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
			if errors.Is(err, io.EOF) && (c.w > c.r || c.raw.data != nil) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// beginRaw reads the line that says how long the payloads are that follow.
func (c *conn) beginRaw(line []byte) error {
	if c.raw.data != nil {
		return errors.New("payloads behind payloads")
	}
	raws, err := wire.ParseRaw(line, c.max)
	if err != nil {
		return err
	}
	data := make([][]byte, len(raws))
	var whole []bool
	for i, raw := range raws {
		if !raw.Lent {
			data[i] = make([]byte, raw.Size)
			continue
		}
		if c.memory == nil {
			return errors.New("a payload in memory, and there is none")
		}
		if data[i], err = c.memory.Take(raw.Slot, raw.At, raw.Size); err != nil {
			return err
		}
		if whole == nil {
			whole = make([]bool, len(raws))
		}
		whole[i] = true
	}
	c.raw = payloads{data: data, whole: whole}
	return nil
}

// receiveRaw reads payloads up to their end. What has come stays when read fails.
func (c *conn) receiveRaw(read func([]byte) (int, error)) error {
	raw := &c.raw
	raw.advance(0)
	for {
		for raw.at < len(raw.data) && c.r < c.w {
			n := copy(raw.data[raw.at][raw.filled:], c.buf[c.r:c.w])
			c.r += n
			raw.advance(n)
		}
		if raw.at == len(raw.data) && c.r < c.w {
			if c.buf[c.r] != '\n' {
				return c.violation(errors.New("no newline behind payloads"), c.buf[c.r:c.w])
			}
			c.r++
			raw.ended = true
			return nil
		}
		c.r, c.w = 0, 0
		into, direct := c.buf, false
		if raw.at < len(raw.data) { // a small one comes along with what is behind it
			if rest := raw.data[raw.at][raw.filled:]; len(rest) >= len(c.buf) {
				into, direct = rest, true
			}
		}
		n, err := read(into)
		if direct {
			raw.advance(n)
		} else {
			c.w = n
		}
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// advance takes in so many bytes more.
func (r *payloads) advance(n int) {
	r.filled += n
	for r.at < len(r.data) && (r.filled == len(r.data[r.at]) || r.whole != nil && r.whole[r.at]) {
		r.at, r.filled = r.at+1, 0
	}
}

// makeRoom moves the unread bytes to the front, or enlarges the buffer: to twice its size, or
// towards the last large frame's in steps of 16, so that a frame much smaller than that one gets a
// buffer of its own scale. It returns how far the bytes moved.
func (c *conn) makeRoom() int {
	moved := c.r
	if c.r > 0 {
		copy(c.buf, c.buf[c.r:c.w])
	} else {
		size := 2 * len(c.buf)
		if size > largeFrame {
			size = max(size, min(c.large, 16*len(c.buf)))
		}
		grown := make([]byte, size)
		copy(grown, c.buf[:c.w])
		c.buf = grown
	}
	c.r, c.w = 0, c.w-moved
	return moved
}

// take returns the frame's body for keeps, in memory of about its own size: a copy of a small one;
// for a large one the read buffer itself, which is replaced by a fresh one, unless half of that
// would lie fallow for as long as the body is kept.
func (c *conn) take(f *wire.Frame) json.RawMessage {
	if len(f.Body) < largeFrame {
		return bytes.Clone(f.Body)
	}
	body := f.Body[:len(f.Body):len(f.Body)]
	if len(c.buf) > 2*len(body) {
		body = bytes.Clone(body)
	}
	c.large = min(c.r+4096, c.max)
	rest := c.buf[c.r:c.w]
	c.buf = make([]byte, max(4096, len(rest)))
	c.r, c.w = 0, copy(c.buf, rest)
	return body
}

// reply is the frame's body and payloads for keeps.
func (c *conn) reply(f *wire.Frame) reply {
	return reply{raw: c.take(f), bigInt: f.BigInt, blobs: f.Blobs}
}

// violation is the error of a worker that breaks the rules of the wire. The first ends the stream.
func (c *conn) violation(err error, sample []byte) error {
	v := &ProtocolError{Reason: err.Error(), Sample: quoteSample(sample)}
	if c.broken == nil {
		c.broken = v
	}
	return v
}

// nothingYet reads what is there, without waiting, and reports whether that is nothing.
func (c *conn) nothingYet() bool {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		return false
	}
	n, err := c.t.TryRead(c.buf[c.w:])
	c.w += n
	return n == 0 && err == nil // the error comes again when it is waited for
}

// reserve makes the buffer at least so large.
func (c *conn) reserve(size int) {
	if len(c.buf) < size && c.r == c.w {
		c.buf, c.r, c.w = make([]byte, size), 0, 0
	}
}

// lineBuffered reports whether a whole line has been read already. A frame that has payloads before
// it counts as one that has not.
func (c *conn) lineBuffered() bool {
	return bytes.IndexByte(c.buf[c.r:c.w], '\n') >= 0 && c.raw.data == nil && !wire.IsRaw(c.buf[c.r:c.w])
}

// linesBuffered is about how many whole lines have been read already: payloads count as they come.
func (c *conn) linesBuffered() int { return bytes.Count(c.buf[c.r:c.w], []byte("\n")) }
