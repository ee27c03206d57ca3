package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/foreign"
	"github.com/pypool/pypool/internal/proc"
	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// A call's way:
//
//	Pool.execute      options, observer, statistics                             pool.go
//	  admit           closed? circuit? the request's line                       pool.go, call.go, breaker.go
//	    acquire       an idle worker, in the callers' order                     checkout.go
//	      use         how to wait for the answer                                pool.go
//	        exchange  request out, frames in; the end of time and of ctx        exchange.go, over conn.go
//	          judge   what the end means: an answer, or which error             judge.go
//	      release     does the worker serve again?                              supervisor.go
//
// A stream (stream.go) and the pipeline of a Map (maprun.go) go the same way, with other exchanges;
// so do the pool's own questions (worker.ask).

// exchange is what is said on a worker's channel from begin to end: requests out, frames in, until
// time or the context is over. A worker has one at a time, and it is its holder's alone.
type exchange struct {
	conn
	behind int                   // bytes written behind the newline of the oldest request that is not answered
	doubts atomic.Pointer[error] // why nothing more is sent or read; nil: no doubt

	functions *functions                           // what the worker may call in the host
	caller    func() *CallInfo                     // of the request in hand; nil: it is pypool's own
	replies   atomic.Pointer[replies]              // those of the request in hand; nil: it has called nothing
	contextOf func(id uint64) context.Context      // of a request, where ctx is that of many; nil: it is ctx
	push      func(replies []replyLine) (all bool) // writes them between requests that are on their way, nil: there are none
	killing   <-chan struct{}                      // closed when nothing is waited for any more
	running   func() uint64                        // the id that the handler runs under, where that of a batch runs; nil: that of the next to be answered
	retires   func(by uint64, reason string)       // the worker asks to be replaced, because of that request; 0: of none
	left      bool                                 // the caller of the request in hand has gone
	called    uint64                               // the last request that has called a function: its handler has begun
	owed      []byte                               // the rest of a reply to the last one, to be written before anything else

	// From begin to end.
	ctx      context.Context
	deadline time.Time
	current  bool        // the transport has this deadline
	dirty    bool        // the transport has some deadline
	looked   bool        // behind the deadline, once
	spin     spin.Mode   // how to wait for the first answer
	polls    int         // for that: who parks sees the deadline, who polls does not
	unhook   func() bool // stops the interrupt by ctx

	interrupt   func()        // moves the transport's deadline into the past; made once, so that begin allocates no closure
	interrupted chan struct{} // the interrupt has run
	readNext    func([]byte) (int, error)
	readNow     func([]byte) (int, error)
}

func newExchange(t proc.Transport, maxMessage int) *exchange {
	x := &exchange{conn: newConn(t, maxMessage), interrupted: make(chan struct{}, 1)}
	x.interrupt = func() {
		x.lookUp()
		x.interrupted <- struct{}{}
	}
	x.readNext = x.await
	x.readNow = func(p []byte) (int, error) {
		n, err := x.t.TryRead(p)
		if n == 0 && err == nil {
			err = os.ErrDeadlineExceeded
		}
		return n, err
	}
	return x
}

// errShortWrite says that the worker cannot have the whole request: it was not executed.
type errShortWrite struct {
	n   int // bytes that were written
	err error
}

func (e *errShortWrite) Error() string { return "the request was not written whole: " + e.err.Error() }
func (e *errShortWrite) Unwrap() error { return e.err }

func isShortWrite(err error) bool {
	var short *errShortWrite
	return errors.As(err, &short)
}

// nothingWritten reports whether the exchange ended, by its deadline, before its first byte: the
// worker is as it was.
func nothingWritten(err error) bool {
	var short *errShortWrite
	return errors.As(err, &short) && short.n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// aMoment is how soon after an answer the pipe need not be looked into again.
const aMoment = 5 * time.Microsecond

// doubt says that nobody knows where the stream stands: the worker never serves again. The first
// reason counts.
func (x *exchange) doubt(err error) {
	x.doubts.CompareAndSwap(nil, &err)
	if c := x.replies.Load(); c != nil {
		c.end()
	}
}

// inDoubt returns why nothing more is sent or read, nil when there is no doubt.
func (x *exchange) inDoubt() error {
	if err := x.doubts.Load(); err != nil {
		return *err
	}
	return nil
}

// begin makes ctx's end and the deadline (zero: none) interrupt the exchange; end must follow.
func (x *exchange) begin(ctx context.Context, deadline time.Time, how spin.Mode) {
	x.unhook = nil
	if ctx.Done() != nil {
		x.unhook = context.AfterFunc(foreign.Watched(ctx), x.interrupt)
	}
	x.ctx, x.deadline, x.spin, x.polls, x.looked = ctx, deadline, how, 0, false
}

// end returns when no interrupt can come any more, and clears the deadline: a late one must not
// poison the next exchange. What has ended ends again at no cost.
func (x *exchange) end() {
	x.release()
	if x.dirty {
		_ = x.t.SetDeadline(time.Time{})
	}
	x.ctx, x.current, x.dirty = nil, false, false
}

// release is end for who has lost the worker meanwhile, and touches the transport no more: ctx lets
// go of it.
func (x *exchange) release() {
	if x.unhook != nil && !x.unhook() {
		<-x.interrupted
		x.dirty = true
	}
	x.unhook = nil
}

// extend moves the deadline while the exchange goes on. Zero means none.
func (x *exchange) extend(deadline time.Time) {
	x.deadline, x.current, x.looked, x.polls = deadline, false, false, 0
}

// applyDeadline sets the transport's deadline: it is about to wait. Exchanges that never wait save
// the cost.
func (x *exchange) applyDeadline() {
	if x.current {
		return
	}
	x.current, x.dirty = true, true
	_ = x.t.SetDeadline(x.deadline)
	if x.ctx.Err() != nil || isClosed(x.killing) { // the interrupt may just have been overwritten
		x.lookUp()
	}
}

// lookUp has who waits for the worker, or will, look up at once. It is safe beside everything else.
func (x *exchange) lookUp() { _ = x.t.SetDeadline(time.Unix(1, 0)) }

// await reads what comes next, up to the deadline. It looks once behind that: a read that comes too
// late is refused, and a host that has not run in time would blame the worker for it.
func (x *exchange) await(p []byte) (int, error) {
	n, err := x.awaitInTime(p)
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || x.looked || x.deadline.IsZero() || x.ctx.Err() != nil {
		return n, err
	}
	x.looked, x.current, x.dirty = true, false, true
	_ = x.t.SetDeadline(time.Time{})
	n, late := x.t.TryRead(p)
	if n == 0 && late == nil {
		late = err
	}
	return n, late
}

// awaitInTime polls at first, because to be parked and woken costs more than a short wait; then it
// parks. A worker that sends a little again and again, and no whole answer, is polled for no longer
// than one that sends nothing.
func (x *exchange) awaitInTime(p []byte) (int, error) {
	if x.spin != spin.Park {
		x.t.Unwatch()
		looks, end := x.spin.Looks(), time.Now().Add(spin.Limit)
		for x.polls < maxPolls { // so that it ends also where the clock stands still, as in a synctest bubble
			x.polls++
			n, err := x.t.TryRead(p)
			if n > 0 || err != nil {
				return n, err
			}
			if time.Until(end) < 0 {
				break
			}
			if x.polls%looks == 0 {
				spin.Yield() // the worker may be waiting for this very processor
			}
		}
		x.spin = spin.Park
	}
	c := x.replies.Load()
	if c == nil {
		x.applyDeadline()
		return x.t.Read(p)
	}
	return c.await(p)
}

// isOver reports whether the deadline has passed, or ctx has ended, or the pool kills its workers.
func (x *exchange) isOver() bool {
	return x.ctx.Err() != nil || isClosed(x.killing) || !x.deadline.IsZero() && !time.Now().Before(x.deadline)
}

// send writes one whole line. On *errShortWrite or errUnsolicited the request was not executed. See
// checkIdle for look.
func (x *exchange) send(line []byte, look bool) error {
	if err := x.checkIdle(look); err != nil {
		return x.failed(err)
	}
	return x.write(line)
}

// pipeHolds is how many bytes a pipe takes that is empty, or fewer.
const pipeHolds = 64 << 10

// sendRequest is send for a request that may have payloads. They are written in the caller's own
// time: their memory is the caller's again when it returns.
func (x *exchange) sendRequest(req *wire.Request, line []byte, look bool) error {
	if len(req.Blobs) == 0 {
		return x.send(line, look)
	}
	if err := x.checkIdle(look); err != nil {
		return x.failed(err)
	}
	x.behind = 0
	owed, total := x.owed, 0
	parts, lent := wire.AppendRawParts(owed[:len(owed):len(owed)], req.Blobs, x.lender())
	last := len(parts) - 1
	parts[last] = append(parts[last], line...)
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	if last > 0 && size <= pipeHolds {
		parts = [][]byte{bytes.Join(parts, nil)} // a context that ends between two would cost the worker
	}
	x.owed = nil
	for _, part := range parts {
		n, err := x.writeAll(part)
		if total += n; err != nil {
			if total == 0 {
				x.owed = owed
				x.takeBack(lent)
			}
			return x.failed(&errShortWrite{total, err})
		}
	}
	return nil
}

// lender is the worker's memory, nil where it has none.
func (c *conn) lender() wire.Memory {
	if c.memory == nil {
		return nil
	}
	return c.memory
}

// takeBack takes payloads out of the worker's memory of which it has not been told.
func (c *conn) takeBack(lent []int) {
	if len(lent) > 0 {
		c.memory.TakeBack(lent)
	}
}

// writeAll writes all of p, at once as far as the pipe takes it.
func (x *exchange) writeAll(p []byte) (int, error) {
	n, err := x.t.TryWrite(p)
	if err == nil && n < len(p) {
		x.applyDeadline()
		var more int
		more, err = x.t.Write(p[n:])
		n += more
	}
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if n == len(p) {
		err = nil
	}
	return n, err
}

// write writes all of line: at once when the pipe takes it, as it does unless the line is large.
func (x *exchange) write(line []byte) error {
	x.behind = 0
	owed := x.owed
	if len(owed) > 0 {
		line, x.owed = append(owed[:len(owed):len(owed)], line...), nil
	}
	n, err := x.writeAll(line)
	if err != nil {
		if n == 0 {
			x.owed = owed
		}
		return x.failed(&errShortWrite{n, err})
	}
	return nil
}

// failed puts the stream in doubt, unless it is as it was.
func (x *exchange) failed(err error) error {
	if err != nil && !nothingWritten(err) {
		x.doubt(err)
	}
	return err
}

// receive reads the next frame and checks that it answers id. Functions that are called meanwhile
// run beside it.
func (x *exchange) receive(id uint64, f *wire.Frame) error {
	for {
		run, err := x.receiveOne(id, f, x.readNext)
		if run == nil {
			return err
		}
		c := x.replies.Load()
		if !c.wantsStandIn() {
			go run.do() // which functions.wait joins
		} else if whole, err := c.standIn(run, id, f); whole {
			return err
		}
	}
}

// receiveOne reads the next frame that is no function's, or returns a function that is to run before
// that.
func (x *exchange) receiveOne(id uint64, f *wire.Frame, read func([]byte) (int, error)) (run *functionRun, err error) {
	for {
		err = x.receiveFrame(f, read)
		switch {
		case err != nil:
		case f.ID != id && !((f.Kind == wire.KindFunction || f.Kind == wire.KindRetire) && x.running != nil && f.ID == x.running()):
			err = x.violation(fmt.Errorf("an answer to request %d, not %d", f.ID, id), f.Body)
		case f.Kind == wire.KindFunction:
			run, err = x.serve(f)
		case f.Kind == wire.KindRetire:
			err = x.retire(f)
		case f.Kind == wire.KindStack:
			err = x.violation(errors.New("a stack that nobody asked for"), f.Body)
		case f.Kind != wire.KindItem:
			x.endCalls()
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			x.doubt(err)
		}
		if err != nil || run != nil || f.Kind != wire.KindFunction && f.Kind != wire.KindRetire {
			return run, err
		}
	}
}

// retire takes in that the worker asks to be replaced.
func (x *exchange) retire(f *wire.Frame) error {
	var reason string
	if err := json.Unmarshal(f.Body, &reason); err != nil {
		return x.violation(fmt.Errorf("an unreadable reason: %w", err), f.Body)
	}
	by := f.ID
	if f.Between {
		by = 0
	}
	if x.retires != nil {
		x.retires(by, reason)
	}
	return nil
}

// receiveFinal is receive for a call that is no stream.
func (x *exchange) receiveFinal(id uint64, f *wire.Frame) error {
	return x.final(x.receive(id, f), f)
}

// receiveFinalNow is receiveNow for a call that is no stream.
func (x *exchange) receiveFinalNow(id uint64, f *wire.Frame) error {
	return x.final(x.receiveNow(id, f), f)
}

func (x *exchange) final(err error, f *wire.Frame) error {
	if err == nil && f.Kind == wire.KindItem {
		err = x.violation(errors.New("an item for a call that is no stream"), f.Body)
		x.doubt(err)
	}
	return err
}

// receiveNow is receive without waiting; os.ErrDeadlineExceeded: no whole frame is there.
func (x *exchange) receiveNow(id uint64, f *wire.Frame) error {
	for {
		run, err := x.receiveOne(id, f, x.readNow)
		if run == nil {
			return err
		}
		go run.do() // which functions.wait joins
	}
}

// cancel asks the runtime to end the stream that is being received, and gives it d to do so.
func (x *exchange) cancel(id uint64, d time.Duration) error {
	line := wire.AppendCancel(nil, id, false)
	x.extend(time.Now().Add(d))
	x.applyDeadline()
	if c := x.replies.Load(); c != nil { // a reply may fill the pipe: it is written while answers are read
		c.rest = append(c.rest[:len(c.rest):len(c.rest)], line...)
		return nil
	}
	n, err := x.t.Write(line)
	x.behind += n
	return err
}

// ask puts a question of pypool's own to a worker that is held, and waits for the answer, for at
// most d. After an error, also one of the runtime's, the worker is in doubt.
func (w *worker) ask(ctx context.Context, d time.Duration, command string, args, answer any) error {
	w.x.begin(ctx, time.Now().Add(d), spin.Park)
	defer w.x.end()
	err := w.converse(command, args, answer)
	if err != nil {
		w.x.doubt(err)
	}
	return err
}

// converse is one question of pypool's own and its answer, between begin and end.
func (w *worker) converse(command string, args, answer any) error {
	req, err := wire.Encode(nil, command, args, "", false)
	if err != nil {
		return err
	}
	id := w.env.ids.Add(1)
	if err := w.x.send(req.Seal(id, 0, false), true); err != nil {
		return err
	}
	return w.x.receiveInto(id, answer)
}

// receiveInto decodes the answer to id. An error answer comes back as *wireError.
func (x *exchange) receiveInto(id uint64, answer any) error {
	var f wire.Frame
	if err := x.receiveFinal(id, &f); err != nil {
		return err
	}
	if f.Kind == wire.KindError {
		e := &wireError{}
		if err := json.Unmarshal(f.Body, e); err != nil {
			return &ProtocolError{Reason: "unexpected error: " + err.Error(), Sample: quoteSample(f.Body)}
		}
		return e
	}
	if err := json.Unmarshal(f.Body, answer); err != nil {
		return &ProtocolError{Reason: "unexpected answer: " + err.Error(), Sample: quoteSample(f.Body)}
	}
	return nil
}
