package pypool

import (
	"context"
	"errors"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/receive"
	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// Batches: calls of one command that wait at the same time are served together (docs/protocol.md,
// `batch`).
//
// Each call waits in the checkout's queue as any other does, with its own context and timeouts.
// Whoever gives a worker to one of them takes along those of the same command that wait behind it,
// and makes a batch of them; one alone goes the way of a plain call. The first caller of a batch
// has its line written on a goroutine of the pool's, so that everybody, it too, can leave while the
// others go on.

// batchRule is what a worker says of one of its batch commands.
type batchRule struct {
	Command string  `json:"command"`
	Program string  `json:"program"`
	Size    int     `json:"max_batch_size"`
	WaitMS  float64 `json:"max_wait_ms"`
}

const (
	maxBatch     = 1 << 16         // calls, whatever a worker says
	maxBatchWait = time.Minute     // likewise
	batchMember  = 128             // bytes that an id, a timeout and a comma may add to a request
	batchEnds    = 16              // bytes that make a line of the members
	freshStacks  = 1 * time.Second // so long one caller's stacks do for the others that leave
)

// batchRules is what a worker has told of its commands and programs, by the calls' breakerKey, of
// maxTallies at most.
func batchRules(rules []batchRule, commands, programs []string) map[string]batchRule {
	if len(rules) == 0 {
		return nil
	}
	has := make(map[string]bool, len(commands)+len(programs))
	for _, name := range commands {
		info := CallInfo{Command: name}
		has[info.breakerKey()] = true
	}
	for _, id := range programs {
		info := CallInfo{Command: commandExecuteProgram, Program: id}
		has[info.breakerKey()] = true
	}
	byKey := map[string]batchRule{}
	for _, r := range rules {
		r.Size = min(max(r.Size, 1), maxBatch)
		info := CallInfo{Command: r.Command, Program: r.Program}
		if key := info.breakerKey(); has[key] && len(byKey) < maxTallies {
			byKey[key] = r
		}
	}
	return byKey
}

func (r *batchRule) wait() time.Duration {
	return min(max(time.Duration(r.WaitMS*float64(time.Millisecond)), 0), maxBatchWait)
}

// lineup is the calls of one batch command that wait in the checkout's queue. The checkout's mu
// guards it, but for what is atomic.
type lineup struct {
	queue
	key      string
	size     int          // of a batch
	patience atomic.Int64 // nanoseconds that the first call waits for company; 0: none
}

// learn takes in which commands of a worker that is about to serve take batches. What others said
// before counts no more.
func (c *checkout) learn(rules map[string]batchRule) {
	if c.lineups.Load() == nil && len(rules) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	lineups := map[string]*lineup{}
	if known := c.lineups.Load(); known != nil {
		lineups = maps.Clone(*known)
	}
	for key, l := range lineups {
		l.size = 1
		l.patience.Store(0)
		if _, goesOn := rules[key]; !goesOn && l.length == 0 { // a caller who has it still waits there as any other does
			delete(lineups, key)
		}
	}
	for key, rule := range rules {
		l := lineups[key]
		if l == nil {
			l = &lineup{queue: queue{in: inLineup}, key: key}
			lineups[key] = l
		}
		l.size = rule.Size
		l.patience.Store(int64(rule.wait()))
	}
	c.lineups.Store(&lineups)
}

// lineupOf returns where calls of the command wait, nil for one that takes no batches.
func (c *checkout) lineupOf(key string) *lineup {
	if lineups := c.lineups.Load(); lineups != nil {
		return (*lineups)[key]
	}
	return nil
}

// batchSize is how many calls of the lineup's command are served together at most.
func (c *checkout) batchSize(l *lineup) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return l.size
}

// demand is how many workers could be given to those who wait.
func (c *checkout) demand() int {
	if c.waiting.Load() == 0 {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readyLocked() {
		return 0 // they wait for company
	}
	n := c.queue.length
	if lineups := c.lineups.Load(); lineups != nil {
		for _, l := range *lineups {
			n += (l.length+l.size-1)/l.size - l.length
		}
	}
	return n
}

// nextLocked is the first in the queue to whom a worker may be given; nil: there is none.
func (c *checkout) nextLocked() *waiter {
	for w := c.queue.first; w != nil; w = w.links[inQueue].behind {
		if w.ripe() {
			return w
		}
	}
	return nil
}

// dispatchLocked gives idle workers to those whose wait for company is over.
func (c *checkout) dispatchLocked() {
	for len(c.idle) > 0 {
		w := c.nextLocked()
		if w == nil {
			return
		}
		res := c.popLocked()
		if res == nil { // what is idle is to be replaced
			return
		}
		c.grantLocked(w, res)
		c.reopenLocked()
	}
}

// grantLocked gives a worker to w, and with it to those of its lineup who fit into one batch.
func (c *checkout) grantLocked(w *waiter, res *resource) {
	l := w.lineup
	if l == nil || l.length == 1 {
		c.dismissLocked(w, grant{res: res})
		return
	}
	limit, bytes := res.Value().batches[l.key].Size, batchEnds
	var members []*member
	for w := l.first; w != nil && len(members) < max(limit, 1); w = w.links[inLineup].behind {
		bytes += w.member.job.batchBytes()
		if len(members) > 0 && bytes > c.maxLine {
			break
		}
		members = append(members, w.member)
	}
	if len(members) == 1 {
		c.dismissLocked(l.first, grant{res: res})
		return
	}
	for _, m := range c.batched(members).members {
		c.dismissLocked(l.first, grant{res: res, member: m})
		res = nil
	}
}

// queueInLine waits for a worker as queue does, or to become a member of a batch. The first of one
// has it served.
func (p *Pool) queueInLine(ctx context.Context, deadline time.Time, c *call) (*resource, error) {
	m := &member{job: c.job, outcome: make(chan *batchOutcome, 1)} // a copy: the call itself stays its caller's alone
	m.until, _ = ctx.Deadline()
	company := time.Duration(c.lineup.patience.Load())
	for _, end := range []time.Time{deadline, m.until} {
		if !end.IsZero() { // company is of no use to who has no time left
			company = min(company, time.Until(end)/2)
		}
	}
	v := p.sup.checkout.waitInLine(ctx, deadline, c.lineup, m, company, p.refusing)
	if c.member = v.member; v.member != nil && v.res != nil {
		v.member.b.launch(v.res)
	}
	return v.res, v.err
}

// callBatch is calls that one worker serves together, from the moment it is granted to the first of
// them.
type callBatch struct {
	p        *Pool
	members  []*member
	launched chan struct{} // closed when line is made, or when it is known that there will be none
	res      *resource     // nil then: the worker had died idle
	given    time.Time
	info     CallInfo // of all of them: it names no session and no request
	line     []byte
	lent     []int           // slots of the worker's memory that its payloads are in
	ctx      context.Context // ends when all have left
	leave    context.CancelFunc

	looking sync.Mutex // held while stacks are collected; guards the next two
	stacks  HangError
	looked  time.Time

	mu      sync.Mutex // guards the fields below, and the last two of the members
	here    int        // members that have neither left nor had their outcome
	over    bool       // nobody waits for it any more
	charged bool       // a member is charged with the worker
	lost    *lostCall  // who left because the pool's own time was over; nil: nobody
}

// member is one call of a batch.
type member struct {
	b       *callBatch
	job     job       // its req may be used until launched is closed
	until   time.Time // the context's deadline; zero: none
	outcome chan *batchOutcome
	had     bool // the outcome has come
	gone    bool // the caller has left without one
}

// batchOutcome is how a batch ended for a member.
type batchOutcome struct {
	rep   reply
	err   *Error
	costs bool // the worker
	spare bool // the circuit is charged for another member
}

// lostCall is a call that has shown that its command hangs, should the worker have to be killed for
// it.
type lostCall struct {
	admitted admission
	err      *Error
}

func newBatch(p *Pool, members []*member) *callBatch {
	b := &callBatch{p: p, members: members, launched: make(chan struct{}), here: len(members)}
	b.ctx, b.leave = context.WithCancel(context.Background())
	for _, m := range members {
		m.b = b
	}
	return b
}

// launch has the worker serve the batch. The first of its callers does that, and leaves to a
// goroutine of the pool's what may take time.
func (b *callBatch) launch(res *resource) {
	defer close(b.launched)
	if !res.Value().reusable() { // it died idle
		b.p.sup.release(res)
		b.leave()
		return
	}
	b.res, b.given = res, time.Now()
	b.encode()
	b.p.counters.batches.Add(time.Duration(len(b.members)))
	b.p.winding.Go(b.run)
}

// encode makes the line.
func (b *callBatch) encode() {
	size := batchEnds
	for _, m := range b.members {
		size += m.job.batchBytes()
	}
	b.line = make([]byte, 0, size)
	var blobs []wire.Blob
	for _, m := range b.members {
		blobs = append(blobs, m.job.req.Blobs...)
	}
	b.line, b.lent = wire.AppendRaw(b.line, blobs, b.res.Value().x.lender())
	for i, m := range b.members {
		j := &m.job
		left, limited := j.timeout, j.timeout > 0
		if !m.until.IsZero() && (!limited || m.until.Before(b.given.Add(left))) {
			left, limited = m.until.Sub(b.given), true
		}
		b.line = wire.AppendBatch(b.line, i > 0, j.req.Seal(j.id, left, limited))
		j.req, j.given = wire.Request{}, b.given
	}
	b.line = wire.EndBatch(b.line)
	b.info = b.members[0].job.info
	b.info.Session, b.info.RequestID, b.info.TraceParent = "", 0, ""
}

// batchBytes is what the call takes of a batch's line, at most.
func (j *job) batchBytes() int { return j.req.Size() + batchMember + len(j.trace) }

// stays reports whether the batch has been launched; else its worker had died idle, and m needs
// another one.
func (m *member) stays() bool {
	<-m.b.launched
	return m.b.res != nil
}

// run is the exchange, on a goroutine that the pool's close joins.
func (b *callBatch) run() {
	defer b.leave()
	w := b.res.Value()
	w.service.Learn(w.lastTook())
	w.service = nil
	b.p.spin.Begin(nil, b.given, 0)
	w.proc.Spin(0, false)
	w.current.begin(&b.info, b.given)
	w.x.running = b.running
	w.x.begin(b.ctx, time.Time{}, spin.Park)
	answers, err := b.exchange(w)
	w.x.end()
	switch {
	case err == nil:
		b.giveBack(time.Now())
		b.end(answers, nil)
	case nothingWritten(err) && b.ctx.Err() != nil: // all have left before
		w.x.takeBack(b.lent)
		b.giveBack(time.Time{})
		b.end(answers, nil)
	case b.ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded):
		b.windUp(len(answers))
	default:
		_ = w.x.failed(err)
		e := w.failure(context.Background(), &job{id: b.running(), info: b.info, given: b.given}, err, b.given)
		answered := time.Now()
		if e.Delivery == NotExecuted {
			answered = time.Time{}
		}
		b.giveBack(answered)
		b.end(answers, e)
	}
}

// running is the number that the handler runs under: the highest of the calls'.
func (b *callBatch) running() (id uint64) {
	for _, m := range b.members {
		id = max(id, m.job.id)
	}
	return id
}

// exchange sends the line and reads the answers, which come in its order. Before it waits, it
// delivers what it has.
func (b *callBatch) exchange(w *worker) (answers []*batchOutcome, err error) {
	if err = w.x.send(b.line, b.given.Sub(w.freed) > aMoment); err != nil {
		return nil, err
	}
	b.line = nil
	delivered := 0
	for _, m := range b.members {
		if !w.x.lineBuffered() {
			for ; delivered < len(answers); delivered++ {
				b.deliver(b.members[delivered], answers[delivered])
			}
		}
		var f wire.Frame
		if err = w.x.receiveFinal(m.job.id, &f); err != nil {
			return answers, err
		}
		o := &batchOutcome{}
		o.rep, o.err = w.judge(b.ctx, &m.job, &f, nil)
		if r := w.retirement.Load(); o.err != nil && r != nil && r.by == b.running() {
			o.err.retiring(r)
			o.err.stale = o.err.retires == ""
			o.costs = o.err.retires != ""
		}
		answers = append(answers, o)
	}
	return answers, nil
}

// giveBack ends the exchange, whose answers came then; zero: the worker did not execute it.
func (b *callBatch) giveBack(answered time.Time) {
	w := b.res.Value()
	if !answered.IsZero() {
		w.freed, w.took = answered, 0
	}
	b.p.spin.End()
	b.p.giveBack(b.res, answered)
}

// end delivers the answers, and err, which has cost the worker, to those who have none.
func (b *callBatch) end(answers []*batchOutcome, err *Error) {
	for i, o := range answers {
		b.deliver(b.members[i], o)
	}
	for _, m := range b.members[len(answers):] {
		if err == nil {
			break
		}
		e := b.res.Value().withContext(err.clone(), &m.job, b.given)
		b.deliver(m, &batchOutcome{err: e, costs: true})
	}
	if lost := b.close(); lost != nil {
		lost.admitted.end(noEvidence, nil)
	}
}

// close says that nobody waits for it any more, and returns who has left because the pool's own
// time was over.
func (b *callBatch) close() *lostCall {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	return b.lost
}

// deliver gives m its outcome if it is there to take it. A second one is dropped. One call alone is
// charged with the worker: the first that has an outcome that costs it.
func (b *callBatch) deliver(m *member, o *batchOutcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.gone || m.had {
		return
	}
	if o.costs {
		o.spare, b.charged = b.charged, true
	}
	m.had = true
	m.outcome <- o
	b.partLocked()
}

// partLocked ends the exchange when nobody is there any more.
func (b *callBatch) partLocked() {
	if b.here--; b.here == 0 {
		b.leave()
	}
}

// part takes m out of the batch; false: its outcome has come. parted must follow.
func (b *callBatch) part(m *member) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	m.gone = !m.had
	return m.gone
}

func (b *callBatch) parted() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.partLocked()
}

// joinBatch waits for the call's outcome in its batch.
func (p *Pool) joinBatch(ctx context.Context, c *call) (rep reply, err *Error) {
	m := c.member
	w := m.b.res.Value()
	c.member, c.given, c.worker, c.pid, c.spare = nil, m.b.given, w.id, w.proc.PID(), false
	ended, gone := false, false
	defer func() {
		if !ended && (gone || m.b.part(m)) { // a method of ctx panics
			m.b.parted()
		}
		ran := time.Since(c.given)
		c.ran += ran
		c.tally.times().run.Add(ran)
	}()
	var over <-chan time.Time
	if c.timeout > 0 {
		timer := time.NewTimer(time.Until(c.given.Add(c.timeout)))
		defer timer.Stop()
		over = timer.C
	}
	var o *batchOutcome
	select {
	case o = <-m.outcome:
	case <-over:
		o, _ = receive.Within(m.outcome, lateBy(c.given.Add(c.timeout), &p.cfg))
	case <-ctx.Done():
		if end, missed := missedDeadline(ctx); missed {
			o, _ = receive.Within(m.outcome, lateBy(end, &p.cfg))
		}
	}
	gone = o == nil && m.b.part(m)
	if !gone && o == nil { // it came in the same instant: it wins
		o = <-m.outcome
	}
	if gone {
		o = &batchOutcome{err: m.b.leaving(ctx, m), spare: true}
		if c.evidence(ctx, &p.cfg, o.err) == lostWorker && m.b.remember(c, o.err) {
			c.detached = true // whoever winds the batch up ends admitted
		}
		m.b.parted()
	}
	ended, c.spare = true, o.spare
	return o.rep, o.err
}

// remember keeps the first call that left because the pool's own time was over. False: it is not
// the first, or comes too late.
func (b *callBatch) remember(c *call, err *Error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over || b.lost != nil {
		return false
	}
	b.lost = &lostCall{c.admitted, err.clone()}
	return true
}

// leaving is the error of a caller who goes while its batch runs on.
func (b *callBatch) leaving(ctx context.Context, m *member) *Error {
	w := b.res.Value()
	hang := &HangError{}
	if !errors.Is(ctx.Err(), context.Canceled) { // see worker.leave
		hang.Stacks, hang.NoStacks = b.look(w)
	}
	hang.Killed = !w.cancels() && b.isLast()
	return w.leftError(ctx, &m.job, hang)
}

// isLast reports whether all others have left.
func (b *callBatch) isLast() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.here == 1
}

// look collects the stacks, for all who leave at about the same time.
func (b *callBatch) look(w *worker) (stacks, none string) {
	b.looking.Lock()
	defer b.looking.Unlock()
	if b.looked.IsZero() || time.Since(b.looked) > freshStacks {
		b.stacks.Stacks, b.stacks.NoStacks = w.stacks(w.env.cfg.KillGrace / 2)
		b.looked = time.Now()
	}
	return b.stacks.Stacks, b.stacks.NoStacks
}

// windUp stops what runs for callers who have all left; so many answers have been read.
func (b *callBatch) windUp(answered int) {
	w := b.res.Value()
	u := &windUp{p: b.p, res: b.res, id: b.running(), info: b.info, strike: true, why: "all callers of its batch have left", patience: b.p.cfg.patience(b.given)}
	for _, m := range b.members[answered:] {
		u.rest = append(u.rest, m.job.id)
	}
	if lost := b.close(); lost != nil {
		u.why, u.admitted, u.charge = "its batch hung: "+lost.err.Message, lost.admitted, lost.err
	}
	if !w.cancels() {
		w.x.doubt(errors.New("its callers have left, and it cannot be asked to stop"))
	}
	w.canceling.Store(true)
	u.run()
}
