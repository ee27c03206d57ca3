package pypool

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/pypool/pypool/internal/interp"
	"github.com/pypool/pypool/internal/proc"
)

// The states of a pool, as events name them.
const (
	stateServing     = "serving"     // Size workers are ready
	stateDegraded    = "degraded"    // fewer are
	stateUnavailable = "unavailable" // none is
	stateClosing     = "closing"
	stateClosed      = "closed"
)

// supervisor is the pool's one background goroutine and what it owns: it alone has workers
// constructed, and it keeps Size of them ready. It is woken by a channel of capacity 1 and by one
// timer. What it starts (constructions, pings) runs on goroutines that it joins.
type supervisor struct {
	cfg      *Config
	env      *workerEnv
	checkout *checkout
	circuit  *startCircuit
	breakers *breakers
	sessions *sessionTable
	counters *counters
	chores   []chore

	ctx    context.Context // ends when the pool closes
	cancel context.CancelFunc
	wake   chan struct{}  // capacity 1
	starts sync.WaitGroup // constructions
	jobs   sync.WaitGroup // what asks workers that are held
	done   chan struct{}

	// Of what asks a worker that is held: that is to stop in order when the pool closes, so this ends
	// only when nothing is waited for any more.
	asking     context.Context
	stopAsking context.CancelFunc

	canGrow     atomic.Bool  // fewer than Size+Overflow workers: a waiting caller is worth a wake-up
	retirements atomic.Int64 // workers that have asked to be replaced
	dirty       atomic.Bool  // a worker may stand idle that must not: dead, or retired, or unheard
	generation  atomic.Int64
	seq         atomic.Int64
	target      atomic.Int64                   // how many workers are to be ready: see size
	concurrent  atomic.Pointer[map[string]int] // the concurrent commands, as the youngest worker has told; nil: there are none

	heavyKnown bool // said that MaxRSS is too small; the goroutine's own

	mu       sync.Mutex // guards the fields below; it is held while gobreaker's callbacks run
	live     map[*worker]struct{}
	spawned  int64
	exited   int64
	recycled int64
	starting int               // constructions under way
	building map[int]bool      // their slots; true: for overflow
	arrived  map[int]int64     // by slot, the latest generation of which a worker became ready there
	refused  map[int]time.Time // by slot, the last start that has failed there since one went well
	history  startHistory
	broken   int64                       // with WatchScripts: one more than the last generation whose source files failed to start
	delays   map[int]*slotDelay          // of the slots whose last worker was of no use
	idleWait *backoff.ExponentialBackOff // after workers that ended idle, and young
	notAgain time.Time                   // the next start, because of such workers
	noRoom   time.Time                   // the next start, because of workers on their way out
	changed  chan struct{}               // closed and replaced whenever a construction has ended or a worker is gone
	reached  int                         // the last Size that was reached, by which the pool's state is judged
	state    string                      // a pool state; empty: none was announced
	frozen   *Error                      // why nothing is started: as many processes as Size cannot be ended; nil: something is
}

// newSupervisor makes the supervisor of a pool whose other parts are there.
func newSupervisor(p *Pool, python interp.Interpreter, spec proc.Spec) (*supervisor, error) {
	cfg := &p.cfg
	s := &supervisor{
		cfg: cfg, sessions: p.sessions, counters: p.counters,
		wake: make(chan struct{}, 1), done: make(chan struct{}), changed: make(chan struct{}),
		live: map[*worker]struct{}{}, building: map[int]bool{}, arrived: map[int]int64{}, refused: map[int]time.Time{}, delays: map[int]*slotDelay{}, reached: cfg.Size, history: startHistory{wait: newBackoff(cfg.RestartBackoff)}, idleWait: newBackoff(cfg.RestartBackoff),
	}
	s.target.Store(int64(cfg.Size))
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.asking, s.stopAsking = context.WithCancel(context.Background())
	s.circuit = newStartCircuit(cfg.RestartBackoff.Min, s.tripLocked)
	s.breakers = &breakers{cfg: cfg.Breaker, changed: s.commandCircuit}
	s.env = &workerEnv{
		functions: &functions{cfg: cfg, reporter: p.reporter},
		cfg:       cfg, size: s.size, python: python, spec: spec, spawner: p.spawner, reporter: p.reporter, ids: &p.ids, killing: p.killing, unreapable: &p.unreapable,
		onSpawn: s.onSpawn, onReady: s.onReady, onExit: s.onExit, onRetire: s.onRetire, onEndBetween: s.onEndBetween, onStuck: s.onStuck,
	}
	if cfg.ForkServer {
		s.env.servers = newForkServers(s)
	}
	var err error
	s.checkout, err = newCheckout(s.roomFor(cfg.Size), cfg, s.construct, s.callerWaits, s.lookForDead)
	s.chores = s.newChores(time.Now())
	return s, err
}

func newBackoff(b Backoff) *backoff.ExponentialBackOff {
	e := backoff.NewExponentialBackOff()
	e.InitialInterval, e.MaxInterval, e.Multiplier, e.RandomizationFactor = b.Min, b.Max, 2, 0.2
	return e
}

// jitter spreads d by ± 10 %, so that workers started together do not wear out together.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// kick wakes the supervisor. It never waits.
func (s *supervisor) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// lookForDead has the next turn take the dead out of the idle.
func (s *supervisor) lookForDead() {
	s.dirty.Store(true)
	s.kick()
}

func (s *supervisor) callerWaits() {
	if s.canGrow.Load() {
		s.kick()
	}
}

// run is the goroutine. close joins it.
func (s *supervisor) run() {
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		next := s.doChores(now)
		if at := s.reconcile(now); !at.IsZero() && at.Before(next) {
			next = at
		}
		timer.Reset(time.Until(next))
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// goJob runs f on a goroutine that awaitJobs joins; false: the pool is closing.
func (s *supervisor) goJob(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.jobs.Go(f)
	return true
}

// close ends the goroutine, then the constructions under way. No job begins after it; those under
// way go on.
func (s *supervisor) close() {
	s.mu.Lock() // no job begins after this
	s.cancel()
	s.mu.Unlock()
	<-s.done
	s.starts.Wait()
}

// awaitJobs returns when the last ping has its answer, or its time is over; or nothing is waited for
// any more. Meanwhile the other workers may stop.
func (s *supervisor) awaitJobs() {
	s.jobs.Wait()
	s.stopAsking()
}

// --- what workers tell ----------------------------------------------------------------------------------------------

func (s *supervisor) onSpawn(w *worker) {
	s.mu.Lock()
	s.live[w] = struct{}{}
	w.overflow = s.building[w.slot]
	s.spawned++
	s.mu.Unlock()
}

// onReady tells of a worker that is about to serve; its exit is never told before.
func (s *supervisor) onReady(w *worker) {
	s.checkout.learn(w.batches)
	s.counters.learn(w.commands, w.programs)
	var concurrent *map[string]int
	if len(w.concurrent) > 0 {
		concurrent = &w.concurrent
	}
	s.concurrent.Store(concurrent) // at once: a call that found none would take a worker for itself
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, alive := s.live[w]; !alive {
		return
	}
	s.env.reporter.log(slog.LevelDebug, "worker started", slog.String("worker", w.id), slog.Int("slot", w.slot), slog.Int("pid", w.proc.PID()),
		slog.String("python", w.python), slog.Duration("took", time.Since(w.started)))
	s.event(Event{Kind: EventWorkerStarted, Worker: w.id, Slot: w.slot, PID: w.proc.PID()})
}

// young is how long a worker must have been ready for its end to say nothing of the next one's.
const young = time.Second

// onExit runs on the worker's own goroutine when its process is gone.
func (s *supervisor) onExit(w *worker) {
	call := w.current.now()
	wasReady, stopped := isClosed(w.ready), w.retired.Load()
	idle := wasReady && !stopped && call == nil
	guilty, charge := w.chargeable(idle)
	s.mu.Lock()
	delete(s.live, w)
	s.exited++
	if w.calls.Load() > w.errs.Load() {
		s.provedLocked(w)
	}
	switch now := time.Now(); {
	case w.useless: // it has its own delay
	case wasReady && now.Sub(w.readyAt) >= young:
		s.idleWait.Reset()
		delete(s.delays, w.slot)
	case guilty: // because of what it served: perhaps they all will
		if !now.Before(s.notAgain) { // one step for those that end side by side
			s.notAgain = now.Add(s.idleWait.NextBackOff())
		}
	case idle && w.calls.Load() == 0 && w.seq > int64(s.cfg.Size):
		// A replacement that ended before it served: perhaps the next one in its slot will.
		s.delayLocked(w.slot, now)
	}
	s.broadcastLocked()
	s.mu.Unlock()
	if guilty {
		s.chargeAnswered(w, charge)
	}
	s.reportExit(w, call, wasReady, stopped)
	s.lookForDead()
}

// onEndBetween charges a worker that ended between two calls, and was found so by the second.
func (s *supervisor) onEndBetween(w *worker) {
	if guilty, charge := w.chargeable(w.isExited()); guilty {
		s.chargeAnswered(w, charge)
	}
}

// chargeAnswered charges the worker's end to the call that had the last answer, once.
func (s *supervisor) chargeAnswered(w *worker, to CallInfo) {
	if w.charged.CompareAndSwap(false, true) {
		exit := w.exitError()
		s.breakers.chargeAnswered(to.breakerKey(), newError(TypeWorkerExited, MaybeExecuted, "after its answer: "+exit.Error(), exit))
	}
}

// chargeable reports whether a worker that has ended without a call did so by itself and soon after
// an answer, and names the call that had it.
func (w *worker) chargeable(ended bool) (bool, CallInfo) {
	if !ended {
		return false, CallInfo{}
	}
	last, at := w.current.lastAnswered()
	if last.Command == "" || time.Since(at) > afterAnswer || w.proc.Exit().Ours {
		return false, CallInfo{}
	}
	return w.exitError().itself, last
}

// --- giving back ---------------------------------------------------------------------------------------------------

// release gives back a worker that is held. It alone decides whether the worker serves again, for
// everyone: doubt destroys, and so does an end. The worker is replaced when Size asks for it.
func (s *supervisor) release(res *resource) {
	w := res.Value()
	if w.reusable() {
		if w.checks && w.due.Load() && w.due.Swap(false) && w.retirement.Load() == nil {
			s.checkout.look(res)
			if s.goJob(func() { s.pingHeld(res) }) {
				return
			}
		}
		s.checkout.put(res)
		if limit := s.cfg.MaxCalls; limit > 0 && w.calls.Load() >= limit || w.retirement.Load() != nil {
			s.kick()
		}
		return
	}
	res.Destroy()
	s.kick()
}

// retire is release for a worker that is not to serve again though nothing is wrong with it.
func (s *supervisor) retire(res *resource) {
	w := res.Value()
	if w.x.inDoubt() == nil && !w.isExited() { // else that is what is told of its end
		w.retired.Store(true)
	}
	s.release(res)
}

// --- keeping Size ---------------------------------------------------------------------------------------------------

func (s *supervisor) readyLocked() int { return len(s.readyWorkersLocked()) }

// readyWorkersLocked returns the workers that serve, or could at once, in no order.
func (s *supervisor) readyWorkersLocked() (ready []*worker) {
	for w := range s.live {
		if w.isReady() {
			ready = append(ready, w)
		}
	}
	return ready
}

// reconcile compares what is with what should be, and acts. It returns when to look again at the
// latest, or zero.
func (s *supervisor) reconcile(now time.Time) time.Time {
	s.mu.Lock()
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		return time.Time{}
	}
	var again time.Time
	s.bookRetirementsLocked(now)
	if !s.frozenLocked() {
		again = s.startMissingLocked(now)
	}
	s.retireReplacedLocked(now)
	if s.surplusLocked() == 0 {
		s.checkout.setRoom(s.roomFor(s.size()))
	}
	s.announceLocked()
	s.mu.Unlock()
	if s.dirty.Swap(false) {
		for _, res := range s.checkout.inspect(func(res *resource) bool { return !res.Value().reusable() || res.Value().isUnheard() }) {
			if !res.Value().reusable() || !s.goJob(func() { s.pingHeld(res) }) {
				s.release(res)
			}
		}
	}
	return again
}

// frozenLocked reports whether too many processes cannot be ended, which is as a rule the fault of
// a disk or a network mount that has stopped to answer: whatever is started would only join them.
// While no worker is ready calls are refused, and told why.
func (s *supervisor) frozenLocked() bool {
	err := s.stuck()
	if err == nil {
		if s.frozen != nil {
			s.frozen = nil
			s.publishLocked()
		}
		return false
	}
	if s.frozen == nil {
		s.env.reporter.log(slog.LevelError, "no worker is started", slog.String("cause", err.Message))
	}
	s.frozen = err
	s.canGrow.Store(false)
	s.publishLocked()
	return true
}

// stuck is why no worker is started while as many processes as Size cannot be ended; nil: they can.
func (s *supervisor) stuck() *Error {
	n := int(s.env.unreapable.Load())
	if n < s.size() {
		return nil
	}
	err := newError(TypeWorkerStart, NotExecuted, fmt.Sprintf("%d killed processes do not end (they sleep in the kernel, on a disk or mount that does not answer?): "+
		"no worker is started until one of them does", n), nil)
	err.Context.Pool = s.cfg.Name
	return err
}

// onStuck has the next turn count the processes that cannot be ended, and tells those who wait for
// the end of this one.
func (s *supervisor) onStuck(w *worker) {
	s.env.reporter.log(slog.LevelError, "a killed process does not end and is given up", slog.String("worker", w.id), slog.Int("pid", w.proc.PID()))
	s.mu.Lock()
	s.broadcastLocked()
	s.mu.Unlock()
	s.kick()
}

// startMissingLocked fills the slots up to Size, starts more while callers wait, and, when those
// are there or do not start, some in the slots of worn-out workers.
func (s *supervisor) startMissingLocked(now time.Time) (again time.Time) {
	ready, o := s.readyLocked(), s.occupancyLocked(now)
	ceiling := s.size() + s.cfg.Overflow
	slots := s.vacantLocked(o)
	if demand := s.checkout.demand(); demand > 0 {
		slots = append(slots, s.beyondLocked(o, min(ceiling, ready+demand)-ready-s.starting-len(slots))...)
	}
	atOnce := s.startsAtOnce(ready, ready+s.starting+len(slots))
	s.canGrow.Store(ready+s.starting < ceiling)
	slots, again = s.dueLocked(slots, now)
	if failing := len(s.history.inARow) > 0; (len(slots) == 0 || failing) && !s.brokenLocked() { // make before break
		worn, at := s.dueLocked(s.wornSlotsLocked(o), now)
		again = sooner(again, at)
		surge, under := s.surgeLocked(), s.starting
		if failing {
			under = s.replacingLocked(o) // a slot where nothing starts holds up no other's replacement
		}
		if worn = worn[:max(0, min(len(worn), surge-under))]; len(worn) > 0 {
			slots, atOnce = append(slots, worn...), max(atOnce, surge+s.starting-under)
		}
	}
	if len(slots) == 0 {
		return again
	}
	if wait := later(s.noRoom, s.notAgain); now.Before(wait) {
		return wait
	}
	if now.Before(s.history.notBefore) { // but for who has had no part in that, and is missing
		again = sooner(again, s.history.notBefore)
		slots = slices.DeleteFunc(slots, func(slot int) bool { return o.worn[slot] || !s.refused[slot].IsZero() })
	}
	slices.SortStableFunc(slots, func(a, b int) int { return s.refused[a].Compare(s.refused[b]) }) // each has its turn
	slots = slots[:max(0, min(len(slots), atOnce-s.starting))]
	for _, slot := range slots {
		if s.starting > 0 && !s.circuit.closed() {
			break // one probe at a time
		}
		done, err := s.circuit.cb.Allow()
		if err != nil {
			return now.Add(max(s.cfg.RestartBackoff.Min, time.Millisecond))
		}
		s.startLocked(slot, done)
	}
	return again
}

// startsAtOnce is how many starts run side by side: as many as there are processors, since an
// import keeps one busy and callers are served beside it, but a quarter of Size at least, since
// many a setup waits for something else than a processor. When fewer workers serve than are
// missing, and no start has failed, those that are missing come up as New starts them: all.
func (s *supervisor) startsAtOnce(ready, want int) int {
	if s.cfg.ForkServer || ready < want-ready && len(s.history.inARow) == 0 { // a fork imports nothing
		return want
	}
	return max(runtime.GOMAXPROCS(0), s.size()/4)
}

// surgeLocked is how many replacements there may be beside Size workers that still serve: one after
// a start that failed, since the next is likely to fail as well.
func (s *supervisor) surgeLocked() int {
	if len(s.history.inARow) > 0 {
		return 1
	}
	return s.cfg.surge(s.size())
}

// announceClosing says that the pool is closing: no other state is announced after it but the end.
func (s *supervisor) announceClosing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = stateClosing
	s.event(Event{Kind: EventPoolState, State: s.state})
}

// announceLocked says when the pool begins or ceases to serve at its full size.
func (s *supervisor) announceLocked() {
	if s.state == stateClosing {
		return
	}
	ready := s.readyLocked()
	if ready >= s.size() {
		s.reached = s.size()
		s.history.mended = s.history.mended || s.soundLocked() >= s.size()
	}
	state := stateDegraded
	switch {
	case s.circuit.refuses() != nil:
		state = stateUnavailable
	case ready >= min(s.size(), s.reached): // while Resize adds some, nothing is amiss
		state = stateServing
	case ready == 0:
		state = stateUnavailable
	}
	silent, nothingFailed := s.state == "", s.history.failed == 0
	if state == s.state || silent && nothingFailed && state != stateServing {
		return // or New is still starting them
	}
	comingUp := nothingFailed && state == stateDegraded && s.spawned <= int64(s.size())
	level := slog.LevelInfo
	switch {
	case silent:
		level = slog.LevelDebug
	case badness(state) > badness(s.state):
		level = slog.LevelWarn
	case comingUp:
		level = slog.LevelDebug
	}
	s.state = state
	s.env.reporter.log(level, "the pool is "+state, slog.Int("ready", ready), slog.Int("size", s.size()))
	s.event(Event{Kind: EventPoolState, State: state})
}

// badness orders the states of a pool that is open.
func badness(state string) int {
	return slices.Index([]string{stateServing, stateDegraded, stateUnavailable}, state)
}

// await returns when n workers are ready. It gives up when so many starts have failed that New's
// caller cannot be given n.
func (s *supervisor) await(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		ready, failed, err, changed := s.readyLocked(), s.history.failed, s.history.last, s.changed
		s.mu.Unlock()
		switch {
		case ready >= n:
			return nil
		case failed > s.size()-n:
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return context.Canceled
		}
	}
}

// lastError is what has kept Size workers from being ready since they last were; nil: nothing.
func (s *supervisor) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.frozen != nil && s.state != stateServing:
		return s.frozen
	case s.history.mended:
		return nil
	}
	return s.history.last
}

// workers lists the live processes, oldest first.
func (s *supervisor) workers() []*worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*worker, 0, len(s.live))
	for w := range s.live {
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b *worker) int { return cmp.Compare(a.seq, b.seq) })
	return list
}

// info describes a worker.
func (s *supervisor) info(w *worker) WorkerInfo {
	info := w.info()
	info.Overflow = w.slot >= s.size()
	return info
}

// snapshot fills the worker counts, all of one moment.
func (s *supervisor) snapshot(st *Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Workers = len(s.live)
	for w := range s.live {
		switch w.state() {
		case workerIdle:
			st.Idle++
		case workerBusy, workerShared, workerCanceling:
			st.Busy++
		case workerStarting:
			st.Starting++
		}
	}
	st.WorkersStarted, st.WorkersExited, st.Recycled, st.Retired = s.spawned, s.exited, s.recycled, s.retirements.Load()
	st.Breaker = s.breakerLocked()
}

// breakerLocked names the state of the pool's circuit: half-open is the time of a probe.
func (s *supervisor) breakerLocked() string {
	switch {
	case s.frozen != nil && s.circuit.refuses() != nil:
		return circuitOpen
	case s.circuit.closed():
		return circuitClosed
	case s.starting > 0:
		return circuitHalfOpen
	}
	return circuitOpen
}
