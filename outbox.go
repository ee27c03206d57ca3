package pypool

import (
	"sync"
	"time"

	"github.com/pypool/pypool/internal/receive"
	"github.com/pypool/pypool/internal/wire"
)

// outbox is the lines for a shared worker. Whoever adds one writes, unless somebody does already,
// and then that one's too. It waits for nobody: when the pipe is full a goroutine writes the rest.
type outbox struct {
	w   *worker
	run func(func()) // starts a goroutine that the pool's close joins

	mu      sync.Mutex // guards the fields below
	lines   []byte
	owing   []*seat // streams whose credit has no line yet
	lent    []int   // slots of the worker's memory that payloads of replies in lines are in
	spare   []byte  // the buffer for the next ones
	queued  int     // bytes of all lines
	written int     // of these
	writing bool
	closed  bool          // nothing more is written
	quiet   chan struct{} // is closed when nobody writes any more; nil: nobody waits for that
}

// request adds a seat's request, with its payloads and its first credit. Nothing of the caller's is
// kept.
func (o *outbox) request(t *seat, blobs []wire.Blob, line []byte) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	before := len(o.lines)
	o.lines, _ = wire.AppendRaw(o.lines, blobs, o.w.x.lender()) // what is added is written, or the worker lost
	o.lines = wire.AppendShared(o.lines, line)
	t.end = o.queued + len(o.lines) - before
	if t.items != nil {
		o.lines = wire.AppendCredit(o.lines, t.id, streamCredit)
	}
	o.flushLocked(before)
}

// credit adds n items' credit for a stream. It becomes a line when the next ones are written: a
// worker that sends items and does not read has one line made for all of them.
func (o *outbox) credit(t *seat, n int) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	if t.owed == 0 {
		o.owing = append(o.owing, t)
	}
	t.owed += n
	o.flushLocked(len(o.lines))
}

// settleLocked makes the lines of the credit that is owed.
func (o *outbox) settleLocked() {
	before := len(o.lines)
	for i, t := range o.owing {
		o.lines = wire.AppendCredit(o.lines, t.id, t.owed)
		t.owed, o.owing[i] = 0, nil
	}
	o.owing = o.owing[:0]
	o.queued += len(o.lines) - before
}

// control adds a control line.
func (o *outbox) control(line []byte) { o.reply(replyLine{text: line}) }

// reply adds the reply of a function.
func (o *outbox) reply(line replyLine) {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		o.w.x.takeBack(line.lent)
		return
	}
	before := len(o.lines)
	o.lines, o.lent = append(o.lines, line.text...), append(o.lent, line.lent...)
	o.flushLocked(before)
}

// unwritten is the bytes of lines that are still to be written.
func (o *outbox) unwritten() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.queued - o.written
}

// flushLocked writes what was added, unless somebody does. It unlocks.
func (o *outbox) flushLocked(before int) {
	o.queued += len(o.lines) - before
	writes := !o.writing
	o.writing = true
	o.mu.Unlock()
	if writes {
		o.flush(nil)
	}
}

// flush writes rest, waiting for the pipe, and then what is there, without.
func (o *outbox) flush(rest []byte) {
	t := o.w.x.t
	for {
		n, err := 0, error(nil)
		if rest != nil {
			n, err = t.Write(rest)
		}
		o.mu.Lock()
		o.written += n
		if err != nil { // the reader finds the same
			o.closed = true
		}
		if rest != nil && cap(rest) <= keptBuffer {
			o.spare = rest[:0]
		}
		rest = nil
		o.settleLocked()
		if o.closed || len(o.lines) == 0 {
			o.w.x.takeBack(o.lent)
			o.lines, o.lent = o.lines[:0], nil
			o.writing = false
			if o.quiet != nil {
				close(o.quiet)
				o.quiet = nil
			}
			o.mu.Unlock()
			return
		}
		lines := o.lines
		o.lines, o.lent, o.spare = o.spare[:0], nil, nil
		o.mu.Unlock()
		n, err = t.TryWrite(lines)
		o.mu.Lock()
		o.written += n
		if err != nil {
			o.closed = true
		} else if n == len(lines) {
			o.spare = lines[:0]
		}
		o.mu.Unlock()
		if err == nil && n < len(lines) {
			o.run(func() { o.flush(lines[n:]) })
			return
		}
	}
}

// finish ends the writing, for at most d: what is not yet begun is left unwritten. False: somebody
// still writes.
func (o *outbox) finish(d time.Duration) bool {
	o.mu.Lock()
	o.closed = true
	if !o.writing {
		o.mu.Unlock()
		return true
	}
	if o.quiet == nil {
		o.quiet = make(chan struct{})
	}
	quiet := o.quiet
	o.mu.Unlock()
	_, ended := receive.Within(quiet, d)
	return ended
}
