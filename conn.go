package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/pypool/pypool/internal/proc"
	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// conn is one exchange at a time over a transport. It is not safe for concurrent use. Once broken is set, the stream is in
// doubt: nothing more is sent or read.
type conn struct {
	t      proc.Transport
	max    int // bytes of one frame
	large  int // length of the last large frame: the next one's buffer is made so large at once
	buf    []byte
	r, w   int // buf[r:w] is read and not yet consumed
	behind int // bytes written behind the newline of the oldest request that is not answered
	broken error

	// Of the exchange under way, from arm to disarm.
	ctx      context.Context
	deadline time.Time
	current  bool      // the transport has this deadline
	dirty    bool      // the transport has some deadline
	spin     spin.Mode // once an exchange, until it parks

	interrupt func()        // moves the transport's deadline into the past; made once, so that arming allocates no closure
	hooked    chan struct{} // the interrupt has run
	readNext  func([]byte) (int, error)
	readNow   func([]byte) (int, error)
}

func newConn(t proc.Transport, maxMessage int) *conn {
	c := &conn{t: t, max: min(maxMessage, math.MaxInt/4) + frameSlack, buf: make([]byte, 4096), hooked: make(chan struct{}, 1)}
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

// aMoment is how soon after an answer the pipe need not be looked into again.
const aMoment = 5 * time.Microsecond

// errNoise says that the worker had sent something unasked before the request was written.
var errNoise = errors.New("output that no request asked for")

// arm makes ctx's end and the deadline (zero: none) interrupt the exchange; disarm must follow. Who spins waits for an answer
// that comes soon without parking.
func (c *conn) arm(ctx context.Context, deadline time.Time, how spin.Mode) (stop func() bool) {
	if ctx.Done() != nil {
		stop = context.AfterFunc(watchable(ctx), c.interrupt)
	}
	c.ctx, c.deadline, c.spin = ctx, deadline, how
	return stop
}

func (c *conn) armed() bool { return c.ctx != nil }

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
	if c.spin != spin.Park {
		c.t.Unwatch()
		looks, end := c.spin.Looks(), time.Now().Add(spin.Limit)
		for look := 1; look <= maxPolls; look++ { // so that it ends also where the clock stands still, as in a synctest bubble
			n, err := c.t.TryRead(p)
			if n > 0 || err != nil {
				return n, err
			}
			if time.Until(end) < 0 {
				break
			}
			if look%looks == 0 {
				spin.Yield() // the worker may be waiting for this very processor
			}
		}
		c.spin = spin.Park
	}
	c.patient()
	return c.t.Read(p)
}

// send writes one whole line. On *errShortWrite or errNoise the request was not executed. See quiet for look.
func (c *conn) send(line []byte, look bool) error {
	if err := c.quiet(look); err != nil {
		return err
	}
	return c.write(line)
}

// quiet checks that the worker has sent nothing since its last answer. What came together with that is in the buffer. To look
// for more a moment later takes a twentieth of a call, and finds less than what can still come after it: a call need not.
func (c *conn) quiet(look bool) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
		if !look {
			return nil
		}
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
	c.behind = 0
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
func (c *conn) receive(id uint64, f *wire.Frame) error {
	return c.received(id, f, c.receiveFrame(f, c.readNext))
}

// received judges what receiveFrame returned.
func (c *conn) received(id uint64, f *wire.Frame, err error) error {
	if err == nil && f.ID != id {
		err = c.violation(fmt.Errorf("an answer to request %d, not %d", f.ID, id), f.Body)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.broken = err
	}
	return err
}

// receiveFinal is receive for a call that is no stream.
func (c *conn) receiveFinal(id uint64, f *wire.Frame) error {
	err := c.receive(id, f)
	if err == nil && f.Kind == wire.KindItem {
		return c.violation(errors.New("an item for a call that is no stream"), f.Body)
	}
	return err
}

// receiveNow is receive without waiting; os.ErrDeadlineExceeded: no whole frame is there.
func (c *conn) receiveNow(id uint64, f *wire.Frame) error {
	return c.received(id, f, c.receiveFrame(f, c.readNow))
}

// receiveLast looks, without waiting, whether the frame is there after all: called when the deadline has passed.
func (c *conn) receiveLast(id uint64, f *wire.Frame) bool {
	err := c.receiveFrame(f, c.readNow)
	return err == nil && f.ID == id
}

// skipBanner reads up to the first answer's beginning, and returns what stands before it: what a sitecustomize or .pth file
// printed before the runtime could take stdout out of its way. sent is what was asked: a process that only echoes is no Python.
func (c *conn) skipBanner(sent []byte) (banner []byte, err error) {
	start := c.r // of the line in hand
	for {
		if i := bytes.IndexByte(c.buf[start:c.w], '\n'); i >= 0 {
			line := c.buf[start : start+i]
			if bytes.Equal(line, sent[:len(sent)-1]) {
				return bytes.Clone(c.buf[c.r:start]), c.violation(errors.New("the process sends back what it is told"), line)
			}
			if at := answerIn(line); at >= 0 {
				banner = bytes.Clone(c.buf[c.r : start+at])
				c.r = start + at
				return banner, nil
			}
			start += i + 1
			continue
		}
		if c.w-c.r > maxBanner+c.max {
			return nil, c.violation(errors.New("endless output before hello was answered"), c.buf[c.r:c.w])
		}
		if start-c.r > maxBanner {
			return nil, c.violation(fmt.Errorf("more than %d bytes of output before hello was answered", maxBanner), c.buf[c.r:c.w])
		}
		if c.w == len(c.buf) {
			start -= c.makeRoom()
		}
		n, err := c.readNext(c.buf[c.w:])
		c.w += n
		if n == 0 && err != nil {
			return bytes.Clone(c.buf[c.r:c.w]), err
		}
	}
}

// answerIn finds where in a line a frame begins that reaches to its end: output without a newline may stand before it.
func answerIn(line []byte) int {
	var f wire.Frame
	for at := 0; at < len(line); at++ {
		i := bytes.IndexByte(line[at:], '{')
		if i < 0 {
			break
		}
		if at += i; wire.Parse(line[at:], &f) == nil {
			return at
		}
	}
	return -1
}

// receiveFrame reads up to the next newline with read, and parses the line.
func (c *conn) receiveFrame(f *wire.Frame, read func([]byte) (int, error)) error {
	scanned := c.r
	for {
		if i := bytes.IndexByte(c.buf[scanned:c.w], '\n'); i >= 0 {
			line := c.buf[c.r : scanned+i]
			c.r = scanned + i + 1
			switch err := wire.Parse(line, f); {
			case errors.Is(err, wire.ErrTooDeep):
				f.RefuseDeep()
			case err != nil:
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

// makeRoom moves the unread bytes to the front, or enlarges the buffer: to twice its size, or towards the last large frame's in steps of 16,
// so that a frame much smaller than that one gets a buffer of its own scale. It returns how far the bytes moved.
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

// take returns the frame's body for keeps, in memory of about its own size: a copy of a small one; for a large one the read buffer itself,
// which is replaced by a fresh one, unless half of that would lie fallow for as long as the body is kept.
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

func (c *conn) violation(err error, sample []byte) error {
	return &ProtocolError{Reason: err.Error(), Sample: quoteSample(sample)}
}

// cancel asks the runtime to end the stream that is being received, and gives it d to do so.
func (c *conn) cancel(id uint64, d time.Duration) error {
	line := append(strconv.AppendUint([]byte(`{"id":`), id, 10), `,"cancel":true}`+"\n"...)
	c.extend(time.Now().Add(d))
	c.patient()
	n, err := c.t.Write(line)
	c.behind += n
	return err
}
