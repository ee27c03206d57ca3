package pypool

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/pypool/pypool/internal/foreign"
	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// pipeline is the exchange of one lane with one worker. No sequence of pipe sizes can make both
// sides wait for each other: while an answer is due it writes only what the pipe takes at once, and
// then reads; when none is due, the worker is reading.
type pipeline[Out any] struct {
	m       *mapper[Out]
	lane    *lane[Out]
	w       *worker
	batch   int    // items that the worker serves together; 1 or less: it serves each alone
	sent    []int  // slots whose requests were handed to out, unanswered, in order
	whole   int    // so many of sent were written to the last byte
	ends    []int  // for each of sent: where its line ends, counted as written is
	out     []byte // what is still to be written
	written int    // bytes, of all
	frames  []int  // where the lines end that are not written whole, replies to functions' calls too, counted so
	lineEnd int    // where the last line ends that is written whole
	replied int    // where the last reply to a function's call ends, counted as written is
	lent    []lentReply
	last    time.Time
	share   time.Duration // of the time since then, for each of the answers that have come together: their Ran
	done    []int         // answered slots, not yet committed
	perItem time.Duration // the worker's time for one item, and how many are kept outstanding: the ring's last word
	window  int
	fresh   []int // slots to be added
	res     *resource
	err     error  // the exchange has failed
	orphan  *Error // of the item that runs, whose time is over, and which does not stop; it is settled
	apart   bool   // the caller's code must not end this goroutine
	ending  bool   // the context has ended: what runs is being stopped

	orphaned uint64   // what the orphan runs under; 0: there is none
	owes     []uint64 // its calls whose final frames are still to come; empty: it has ended after all, and the next may have begun

	succeeded int64  // of them, not yet counted
	proved    bool   // there was an answer among them, of which the circuit has not been told
	charge    *Error // of an item that has had the worker replaced; nil: none has

	lease lease      // code of the caller's decodes and observes
	taken revocation // by the pool's close: the worker is not to be touched any more
}

// lentReply is a reply to a function's call in out, with payloads in the worker's memory.
type lentReply struct {
	at   int // where it begins, counted as written is
	lent []int
}

// start begins to serve the slots. serve must follow.
func (l *lane[Out]) start(res *resource, batch []int) *pipeline[Out] {
	m, w := l.m, res.Value()
	info := m.template.info
	info.Pool, info.RequestID = m.p.cfg.Name, m.slot(batch[0]).call.id
	now := time.Now()
	w.current.begin(&info, now)
	w.proc.Spin(0, false)
	f := &pipeline[Out]{m: m, lane: l, w: w, res: res, last: now, lease: lease{killing: m.p.killing}}
	f.batch = w.batches[info.breakerKey()].Size
	w.lease.Store(&f.lease)
	w.x.reserve(mapBuffer)
	w.x.contextOf, w.x.push, w.x.running = f.contextOf, f.push, f.running
	w.x.begin(m.ctx, f.deadline(), spin.Park)
	f.err = w.x.failed(w.x.checkIdle(true))
	if owed := w.x.owed; len(owed) > 0 {
		w.x.owed = nil
		f.out, f.frames, f.replied = append(f.out, owed...), append(f.frames, len(owed)), len(owed)
		f.lineEnd = -1 // a part of that line is out
	}
	f.add(batch)
	return f
}

// leaveReplies is the end of a pipeline whose worker serves again: of the replies that nobody waits
// for any more it writes none, but for the rest of one that is out in part.
func (f *pipeline[Out]) leaveReplies() {
	if f.torn() {
		f.w.x.owed = slices.Clone(f.out[:f.frames[0]-f.written])
	}
	for _, reply := range f.lent {
		f.w.x.takeBack(reply.lent)
	}
	f.out, f.lent = nil, nil
}

// serve answers what was begun, and more as long as there is more, nobody else waits for a worker,
// and this one is not to be replaced. It releases the worker. Code of the caller's may end its
// goroutine in read: then it is called again on another.
func (f *pipeline[Out]) serve() (lost *Error) {
	m := f.m
	switch {
	case f.taken != notRevoked:
		f.err = errStopped
	case len(f.done) > 0: // it is: the deadline is still that of what was answered
		f.w.x.extend(f.deadline())
	}
	for f.err == nil && len(f.sent) > 0 {
		if f.whole < len(f.sent) && (m.ring.over() || isClosed(m.p.closing) || f.w.x.inDoubt() != nil) {
			if m.ring.requeue(f.unsend()); len(f.sent) == 0 {
				break
			}
		}
		f.err = f.write()
		if f.err == nil {
			f.err = f.read()
		}
		if f.late() {
			f.stopOldest()
		}
		if f.err == nil && len(f.sent) < f.window/2+1 && m.p.sup.checkout.waiting.Load() == 0 && !f.w.leaves() && !isClosed(m.p.closing) {
			f.fresh = m.ring.more(len(f.sent), f.fresh[:0])
			f.add(f.fresh)
		}
	}
	f.apart = true
	unsent := f.stopAll()
	book := func() {} // code of the caller's runs in it: the worker is given back first
	if f.taken != notRevoked {
		f.w.x.release()
		lost, book = f.abandon()
	} else {
		f.w.x.end()
		f.commit(time.Now())
		m.ring.showDone()
		if f.err != nil {
			lost, book = f.fail(f.err)
		}
	}
	if len(unsent) > 0 {
		told, e := book, f.ended(NotExecuted)
		book = func() { told(); m.fail(unsent, e) }
	}
	if f.taken == notRevoked { // else whoever took it has given it back
		f.leaveReplies()
		f.w.x.contextOf, f.w.x.push = nil, nil
		f.w.freed = time.Now()
		m.p.giveBack(f.res, f.w.freed)
	}
	book()
	return lost
}

// late reports whether an item's time is over, and the worker can be asked to stop it.
func (f *pipeline[Out]) late() bool {
	return errors.Is(f.err, os.ErrDeadlineExceeded) && f.m.ctx.Err() == nil && f.whole > 0 && f.w.x.inDoubt() == nil && f.w.cancels()
}

// oldest is the first unanswered item, and those that are served together with it; id is what they
// are stopped by.
func (f *pipeline[Out]) oldest() (slots []int, id uint64) {
	id = f.m.slot(f.sent[0]).call.id
	n := 1
	for ; f.batch > 1 && n < len(f.sent) && f.ends[n] == f.ends[0]; n++ {
		id = max(id, f.m.slot(f.sent[n]).call.id)
	}
	return f.sent[:n], id
}

// stopOldest settles the items that run, whose time is over, and has the pipeline go on when the
// runtime has stopped them.
func (f *pipeline[Out]) stopOldest() {
	slots, running := f.oldest()
	j := f.m.slot(slots[0]).call.job
	j.given = f.last
	e := f.w.leave(f.m.ctx, &j)
	if !f.lease.lend(time.Now()) {
		f.err = errStopped
		return
	}
	f.sent, f.ends = f.sent[len(slots):], f.ends[len(slots):]
	f.whole -= len(slots)
	u := windUp{p: f.m.p, res: f.res, id: running, info: j.info, patience: f.m.p.cfg.patience(j.given), strike: true}
	for _, i := range slots {
		c := &f.m.slot(i).call
		u.rest = append(u.rest, c.id)
		c.ran = time.Since(f.last)
	}
	f.m.fail(slots, e) // CallEnd cannot end this goroutine in it
	if f.taken = f.lease.reclaim(); f.taken != notRevoked {
		f.err = errStopped
		return
	}
	f.w.x.end()
	f.w.canceling.Store(true)
	f.w.x.running = func() uint64 { return running } // until it has stopped it calls functions, and may retire
	f.err = u.stop()
	f.w.x.running = f.running
	f.w.canceling.Store(false)
	if f.err != nil {
		f.orphan, f.orphaned, f.owes = e, running, u.rest
	}
	f.last = time.Now()
	f.w.x.begin(f.m.ctx, f.deadline(), spin.Park)
}

// stopAll has what is under way end when the context has: a few milliseconds' work, which is
// answered, or stopped, within KillGrace. Then the worker can be given back. It returns the slots
// whose requests were not written.
func (f *pipeline[Out]) stopAll() (unsent []int) {
	if f.taken != notRevoked || f.m.ctx.Err() == nil || !errors.Is(f.err, os.ErrDeadlineExceeded) || f.w.x.inDoubt() != nil || !f.w.cancels() {
		return nil
	}
	if f.whole < len(f.sent) {
		if f.torn() {
			return nil // half of a line is out
		}
		unsent = f.unsend()
	}
	f.ending = true
	f.w.canceling.Store(true)
	defer func() {
		f.w.proc.Cancel(0)
		f.w.canceling.Store(false)
	}()
	f.w.x.end()
	end := time.Now().Add(max(f.w.env.cfg.KillGrace, 100*time.Millisecond))
	for pause := cancelAgain; len(f.sent) > 0; pause = min(2*pause, cancelSeldom) {
		f.w.x.begin(context.Background(), time.Now().Add(pause), spin.Park)
		f.err = f.read()
		f.w.x.end()
		switch {
		case f.err == nil:
			pause = cancelAgain / 2
		case !errors.Is(f.err, os.ErrDeadlineExceeded), f.w.x.inDoubt() != nil, isClosed(f.w.x.killing), time.Now().After(end):
			return unsent
		default:
			f.w.proc.Cancel(f.running())
		}
	}
	f.err = nil
	return unsent
}

// unsend takes the requests back of which no byte is written: their slots.
func (f *pipeline[Out]) unsend() (slots []int) {
	keep, n := max(f.replied, f.written), f.whole
	if f.torn() {
		keep = max(keep, f.frames[0])
	}
	for n < len(f.ends) && f.ends[n] <= keep {
		n++
	}
	slots = slices.Clone(f.sent[n:])
	for _, i := range slots {
		c := &f.m.slot(i).call
		f.w.x.takeBack(c.lent)
		c.worker, c.pid, c.lent = "", 0, nil
	}
	f.sent, f.ends, f.out = f.sent[:n:n], f.ends[:n], f.out[:keep-f.written]
	f.frames = slices.DeleteFunc(f.frames, func(end int) bool { return end > keep })
	return slots
}

// ended is the error of an item whose context has ended.
func (f *pipeline[Out]) ended(delivery Delivery) *Error {
	return f.w.withContext(contextError(f.m.ctx, delivery, nil), &job{info: f.m.template.info}, f.last)
}

// abandon judges what is unanswered after the pool's close has taken the worker.
func (f *pipeline[Out]) abandon() (e *Error, book func()) {
	f.commit(time.Now())
	e = newError(TypePoolNotAvailable, MaybeExecuted, "the pool was closed during the call", nil)
	f.w.withContext(e, &job{info: f.m.template.info}, f.last)
	return e, func() { f.m.fail(f.sent, e) }
}

func (f *pipeline[Out]) deadline() time.Time {
	if d := f.m.template.timeout; d > 0 {
		return time.Now().Add(d)
	}
	return time.Time{}
}

// add appends the slots' requests: many to a line, which a worker reads in a fraction of the time,
// if it knows how, and if they are alike.
func (f *pipeline[Out]) add(batch []int) {
	timeout := f.m.template.timeout
	room := min(mapLine, f.m.p.cfg.MaxMessageBytes)
	for len(batch) > 0 {
		n := 1
		var lent []int
		if f.batch > 1 {
			n, lent = f.appendBatch(batch)
		} else if f.w.packs && len(batch) > 1 && f.alike(batch[0], batch[1]) && len(f.args(batch[0]))+len(f.args(batch[1])) < room/2 {
			n = f.appendPacked(batch, room)
		} else {
			c := &f.m.slot(batch[0]).call
			if len(c.req.Blobs) > 0 {
				f.out, lent = wire.AppendRaw(f.out, c.req.Blobs, f.w.x.lender())
			}
			f.out = append(f.out, c.req.Seal(c.id, timeout, timeout > 0)...)
		}
		f.frames = append(f.frames, f.written+len(f.out))
		for _, i := range batch[:n] {
			c := &f.m.slot(i).call
			c.worker, c.pid, c.lent = f.w.id, f.w.proc.PID(), lent
			lent = nil
			f.sent = append(f.sent, i)
			f.ends = append(f.ends, f.written+len(f.out))
		}
		batch = batch[n:]
	}
}

// alike reports whether two slots' requests may share a line: they are of one trace, and neither
// says where its bytes are.
func (f *pipeline[Out]) alike(a, b int) bool {
	return f.trace(a) == f.trace(b) && !f.m.slot(a).alone && !f.m.slot(b).alone
}

func (f *pipeline[Out]) trace(slot int) string { return f.m.slot(slot).call.trace }

// args is the arguments in the slot's request.
func (f *pipeline[Out]) args(slot int) []byte {
	return f.m.lines.Args(&f.m.slot(slot).call.req)
}

// appendPacked appends one line, of about so many bytes, with the first of the slots' requests, as
// far as they are alike.
func (f *pipeline[Out]) appendPacked(batch []int, room int) (n int) {
	most, trace := len(f.out)+room, f.trace(batch[0])
	for _, i := range batch {
		args := f.args(i)
		if n > 0 && (!f.alike(batch[0], i) || len(f.out)+len(args)+f.m.lines.PackedEnd()+len(trace) > most) {
			break
		}
		f.out = wire.AppendPacked(f.out, n > 0, f.m.slot(i).call.id, args)
		n++
	}
	f.out = f.m.lines.EndPacked(f.out, trace)
	return n
}

// appendBatch appends one line with the first of the slots' requests, as many as may be served
// together.
func (f *pipeline[Out]) appendBatch(batch []int) (n int, lent []int) {
	timeout := f.m.template.timeout
	var blobs []wire.Blob
	for size := batchEnds; n < min(len(batch), f.batch); n++ {
		c := &f.m.slot(batch[n]).call
		if size += c.batchBytes(); n > 0 && size > f.m.p.cfg.MaxMessageBytes {
			break
		}
		blobs = append(blobs, c.req.Blobs...)
	}
	f.out, lent = wire.AppendRaw(f.out, blobs, f.w.x.lender())
	for i, slot := range batch[:n] {
		c := &f.m.slot(slot).call
		f.out = wire.AppendBatch(f.out, i > 0, c.req.Seal(c.id, timeout, timeout > 0))
	}
	f.out = wire.EndBatch(f.out)
	f.m.p.counters.batches.Add(time.Duration(n))
	return n, lent
}

// write writes without waiting while an answer is due; else to the end of the first request.
func (f *pipeline[Out]) write() error {
	if len(f.out) == 0 {
		return nil
	}
	var n int
	var err error
	if f.whole > 0 {
		n, err = f.w.x.t.TryWrite(f.out)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil // the deadline may be that of an answer that has come: the read tells whose time is over
		}
	} else {
		f.m.ring.showDone()
		f.w.x.extend(f.deadline()) // nothing is due yet: a host that is late since the last answer has nobody to blame
		f.w.x.applyDeadline()
		n, err = f.w.x.t.Write(f.out[:f.ends[0]-f.written])
		if err == nil && n < len(f.out) {
			var more int
			more, err = f.w.x.t.TryWrite(f.out[n:])
			n += more
		}
	}
	f.wrote(n)
	if err != nil && (f.torn() || !errors.Is(err, os.ErrDeadlineExceeded)) { // else the stream stands between two lines
		f.w.x.doubt(err)
	}
	return err
}

// wrote takes in that so many bytes more are written.
func (f *pipeline[Out]) wrote(n int) {
	f.written += n
	for len(f.frames) > 0 && f.frames[0] <= f.written {
		f.lineEnd, f.frames = f.frames[0], f.frames[1:]
	}
	for len(f.lent) > 0 && f.lent[0].at < f.written { // it is out, or will be
		f.lent = f.lent[1:]
	}
	for f.whole < len(f.ends) && f.ends[f.whole] <= f.written {
		f.whole++
	}
	f.out = append(f.out[:0], f.out[n:]...)
}

// torn reports whether a line is out in part.
func (f *pipeline[Out]) torn() bool { return f.written > f.lineEnd }

// push puts replies to calls of functions between the lines, and writes what the pipe takes; all:
// none is left.
func (f *pipeline[Out]) push(replies []replyLine) (all bool) {
	for _, reply := range replies {
		line := reply.text
		at := 0
		if f.torn() {
			at = f.frames[0] - f.written
		}
		at = max(at, f.replied-f.written)
		f.out = slices.Insert(f.out, at, line...)
		i, _ := slices.BinarySearch(f.frames, f.written+at+1)
		f.frames = slices.Insert(f.frames, i, f.written+at)
		for ; i < len(f.frames); i++ {
			f.frames[i] += len(line)
		}
		for i := f.whole; i < len(f.ends); i++ {
			if f.ends[i] > f.written+at {
				f.ends[i] += len(line)
			}
		}
		f.replied = f.written + at + len(line)
		if len(reply.lent) > 0 {
			f.lent = append(f.lent, lentReply{f.written + at, reply.lent})
		}
	}
	if len(f.out) > 0 {
		n, err := f.w.x.t.TryWrite(f.out)
		f.wrote(n)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			f.w.x.doubt(err) // which the next read says
		}
	}
	return f.written >= f.replied
}

// running is the id that the handler runs under; 0: none is left.
func (f *pipeline[Out]) running() (id uint64) {
	if len(f.sent) > 0 {
		_, id = f.oldest()
	}
	return id
}

// contextOf is the context of an item's call, as its functions get it: Map's own, with what the
// observer put there.
func (f *pipeline[Out]) contextOf(id uint64) context.Context {
	if len(f.sent) > 0 {
		if s := f.m.slot(f.sent[0]); s.call.id == id {
			return observedContext{f.m.ctx, s.observed}
		}
	}
	return f.m.ctx // an item that is settled, and is being stopped
}

// read takes one answer, waiting for it, and all others that have come with it.
func (f *pipeline[Out]) read() error {
	if f.crowded() {
		f.coalesce()
	}
	if !f.w.x.lineBuffered() {
		f.m.ring.showDone()
	}
	var now time.Time // of the answers that have come together
	receive := f.w.x.receiveFinal
	for first := true; first || (f.whole > 0 && f.w.x.lineBuffered()); first = false {
		var fr wire.Frame
		err := receive(f.m.slot(f.sent[0]).call.id, &fr)
		if !first && errors.Is(err, os.ErrDeadlineExceeded) {
			break // what has come with the answers is not the next one
		}
		if err != nil {
			return err
		}
		if first {
			now = time.Now()
			f.w.x.extend(f.deadline()) // the next item's time has begun, and that of the functions it calls
			receive = f.w.x.receiveFinalNow
			f.share = now.Sub(f.last)
			if f.m.p.cfg.Observer.CallEnd != nil && f.whole > 1 {
				f.share /= time.Duration(min(1+f.w.x.linesBuffered(), f.whole))
			}
		}
		if !f.answer(&fr, now) {
			return errStopped
		}
	}
	f.commit(now)
	f.w.x.extend(f.deadline())
	return nil
}

// crowded: many answers are under way, or some that come together soon, while the worker has enough
// to do.
func (f *pipeline[Out]) crowded() bool {
	return f.whole >= mapCrowd || f.perItem <= mapCoalesce/4 && time.Duration(f.whole)*f.perItem >= 2*mapCoalesce
}

// coalesce gives answers some time to come together: to be woken for each, or to look for each,
// would cost more than such an item's work does.
func (f *pipeline[Out]) coalesce() {
	f.w.x.t.Unwatch()
	for i := 0; i < mapPatience && f.w.x.nothingYet(); i++ {
		time.Sleep(mapCoalesce)
	}
}

// answer books the answer to the oldest request. False: the pool has been closed, and may have
// taken the worker.
func (f *pipeline[Out]) answer(fr *wire.Frame, now time.Time) (ours bool) {
	i := f.sent[0]
	var failed *Error
	if fr.Kind == wire.KindError {
		failed = f.w.answered(&f.m.slot(i).call.job, fr, f.last)
		if f.ending && failed.stoppedByCancel() {
			failed = f.ended(MaybeExecuted)
		}
	}
	f.learn(failed)
	if !f.lease.lend(now) {
		return false
	}
	defer func() {
		f.taken = f.lease.reclaim()
		ours = f.taken == notRevoked
	}()
	f.sent, f.ends = f.sent[1:], f.ends[1:]
	f.whole--
	s := f.m.slot(i)
	s.size = len(fr.Body) + wire.BlobsSize(fr.Blobs)
	s.call.ran = f.share
	f.w.calls.Add(1)
	f.done = append(f.done, i)
	if failed != nil {
		f.w.errs.Add(1)
	} else {
		f.succeeded++
	}
	if f.apart {
		f.bookApart(s, *fr, failed, now)
	} else {
		f.book(s, fr, failed, now)
	}
	return true
}

// learn takes in what the answer to the oldest request says of the command. Of those that were
// served together one is charged with a worker that they have had replaced.
func (f *pipeline[Out]) learn(failed *Error) {
	if failed != nil && failed.stale && failed.retires != "" && f.batch > 1 {
		failed.stale = f.w.retirement.Load().by != f.running()
	}
	switch f.m.template.evidence(f.m.ctx, &f.m.p.cfg, failed) {
	case answered:
		f.proved = true
	case lostWorker:
		if f.charge == nil {
			f.charge = failed.clone()
		}
	}
}

// book runs code of the caller's: nothing of the pipeline may depend on its return.
func (f *pipeline[Out]) book(s *mapSlot[Out], fr *wire.Frame, failed *Error, now time.Time) {
	if failed != nil {
		f.m.settle(s, failed, now)
	} else {
		f.m.succeed(s, fr, now)
	}
}

func (f *pipeline[Out]) bookApart(s *mapSlot[Out], fr wire.Frame, failed *Error, now time.Time) {
	foreign.Apart(func() { f.book(s, &fr, failed, now) })
}

// commit hands the answered slots over and learns how long an item takes.
func (f *pipeline[Out]) commit(now time.Time) {
	n := len(f.done)
	if n == 0 {
		return
	}
	if f.proved {
		f.proved = false
		f.lane.answered()
	}
	each := now.Sub(f.last) / time.Duration(n)
	f.last = now
	f.m.template.tally.times().run.AddMany(each, int64(n))
	f.w.current.answer(&f.m.template.info, now)
	if f.succeeded > 0 {
		f.m.p.counters.succeed(f.m.template.tally, f.succeeded, now.Sub(f.m.p.born))
		f.succeeded = 0
	}
	f.perItem, f.window = f.m.commit(f.done, max(each, 1), now)
	f.done = f.done[:0]
	if limit, calls := f.m.p.cfg.MaxCalls, f.w.calls.Load(); limit > 0 && calls >= limit && calls-int64(n) < limit {
		f.m.p.sup.kick() // it has done its share, and is not given back before the replacement is there
	}
}

// fail judges the unanswered requests after the exchange failed. The worker is killed and its
// output drained to the end first: a request behind the first unanswered one, and behind its batch,
// did not begin, because an answer is written before the next request begins. Only a worker that
// breaks the rules of the wire proves nothing by that. book tells the caller's code.
func (f *pipeline[Out]) fail(err error) (e *Error, book func()) {
	f.w.x.doubt(err)
	violated := errors.As(err, new(*ProtocolError))
	if f.whole == 0 && f.orphan == nil {
		err = &errShortWrite{err: err}
	}
	drained := false
	if f.m.ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		// A write can fail while answers are still to be read: they come first, so that the oldest
		// request is the one that was lost.
		drained = f.drain(&violated, max(f.w.env.cfg.KillGrace, 100*time.Millisecond))
	}
	j := &job{info: f.m.template.info}
	if len(f.sent) > 0 {
		j.id = f.m.slot(f.sent[0]).call.id
	}
	if f.taken != notRevoked {
		return f.abandon()
	}
	if len(f.sent) > 0 {
		f.w.x.behind = f.written - f.ends[0]
	}
	if f.orphan != nil {
		f.w.kill("its call hung: " + f.orphan.Message)
	}
	e = f.w.failure(f.m.ctx, j, err, f.last)
	drained = drained || f.drain(&violated, reapWait) // the process has been killed, or has exited
	if f.taken != notRevoked {
		return f.abandon()
	}
	if f.orphan != nil {
		e = f.orphan
	}
	if len(f.sent) == 0 {
		return e, func() {}
	}
	together, _ := f.oldest()
	lost := len(together)
	if f.whole > 0 && violated {
		lost, e.Delivery = f.whole, MaybeExecuted // it may have broken that rule, too: nothing is known of what it had
	}
	first, rest := f.sent[:lost], f.sent[lost:]
	for _, i := range first {
		f.m.slot(i).call.ran = time.Since(f.last)
	}
	retry := e.Category == CategoryCommunication || e.Type == TypeOperationTimeout
	switch {
	case !drained && f.whole > 1: // the process could not be ended: nothing is known of what it had
		return e, func() { f.m.fail(f.sent, e) }
	case e.Delivery == NotExecuted && retry:
		return e, func() { f.m.requeue(f.sent, e) }
	}
	behind := e.clone()
	behind.Delivery = NotExecuted
	if (len(f.owes) > 0 || f.orphan != nil && f.whole == 0) && !violated { // it had begun, and no other
		return e, func() { f.m.requeue(f.sent, behind) }
	}
	return e, func() {
		f.m.fail(first, e)
		if retry {
			f.m.requeue(rest, behind)
		} else { // the loop was left, ctx ended, or the pool closed
			f.m.fail(rest, behind)
		}
	}
}

// drain takes the answers that are still under way, for at most d, and reports whether it came to
// the end of the worker's output; violated is set when that breaks the rules of the wire.
func (f *pipeline[Out]) drain(violated *bool, d time.Duration) bool {
	_ = f.w.x.t.SetDeadline(time.Now().Add(d))
	defer func() {
		f.commit(time.Now())
		f.m.ring.showDone()
	}()
	for {
		var fr wire.Frame
		err := f.w.x.receiveFrame(&fr, f.w.x.t.Read)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return true
		case errors.Is(err, os.ErrDeadlineExceeded):
			return false
		case err != nil:
			*violated = true
			return true
		case (fr.Kind == wire.KindFunction || fr.Kind == wire.KindRetire) && fr.ID > 0 && (fr.ID == f.running() || fr.ID == f.orphaned): // for nobody
			continue
		case len(f.owes) > 0 && fr.ID == f.owes[0] && fr.Kind != wire.KindItem:
			f.owes = f.owes[1:] // it has stopped too late
			continue
		case f.whole == 0 || fr.ID != f.m.slot(f.sent[0]).call.id || fr.Kind == wire.KindItem:
			*violated = true // an answer out of turn
			return true      // the stream ends here
		}
		if !f.answer(&fr, time.Now()) {
			return false // there may be more
		}
	}
}
