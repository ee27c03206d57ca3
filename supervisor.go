package pypool

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// supervisor is the pool's one background goroutine and what it owns: it alone has workers constructed, and it keeps Size of
// them ready. It is woken by a channel of capacity 1 and by one timer. What it starts (constructions, pings) runs on
// goroutines that it joins.
type supervisor struct {
	cfg      *Config
	env      *workerEnv
	desk     *desk
	circuit  *startCircuit
	breakers *breakers
	sessions *sessionTable
	counters *counters
	chores   []chore

	ctx    context.Context // ends when the pool closes
	cancel context.CancelFunc
	wake   chan struct{} // capacity 1
	jobs   sync.WaitGroup
	done   chan struct{}

	canGrow    atomic.Bool // fewer than Size+Overflow workers: a waiting caller is worth a wake-up
	dirty      atomic.Bool // a worker may stand idle that must not: dead, or retired
	generation atomic.Int64
	seq        atomic.Int64

	heavyKnown bool // said that MaxRSS is too small; the goroutine's own

	mu        sync.Mutex // guards the fields below; it is held while gobreaker's callbacks run
	live      map[*worker]struct{}
	spawned   int64
	exited    int64
	recycled  int64
	starting  int // constructions under way
	failures  []time.Time
	lastErr   error                       // what kept Size workers from being ready; nil once they are
	startErr  error                       // the last failed start
	told      toldStart                   // what the log says of it
	broken    int64                       // with WatchScripts: one more than the last generation whose source files failed to start
	startWait *backoff.ExponentialBackOff // after failed starts
	idleWait  *backoff.ExponentialBackOff // after workers that ended idle, and young
	notBefore time.Time                   // the next start, because of failed ones
	notAgain  time.Time                   // the next start, because of workers that ended idle, and young
	changed   chan struct{}               // closed and replaced whenever a construction has ended or a worker is gone
	failed    int                         // constructions that failed since New
	state     string
	frozen    bool // as many processes as Size cannot be ended: nothing is started
}

const pingTimeout = 5 * time.Second

func newSupervisor(cfg *Config, env *workerEnv, sessions *sessionTable, counters *counters) (*supervisor, error) {
	s := &supervisor{
		cfg: cfg, env: env, sessions: sessions, counters: counters,
		wake: make(chan struct{}, 1), done: make(chan struct{}), changed: make(chan struct{}),
		live: map[*worker]struct{}{}, startWait: newBackoff(cfg.RestartBackoff), idleWait: newBackoff(cfg.RestartBackoff),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.circuit = newStartCircuit(cfg.RestartBackoff.Min, s.tripLocked)
	s.breakers = &breakers{cfg: cfg.Breaker, changed: s.commandCircuit}
	env.onSpawn, env.onReady, env.onExit, env.onStuck, env.onEndBetween = s.onSpawn, s.onReady, s.onExit, s.onStuck, s.onEndBetween
	// Beyond Size and Overflow: a replacement made before the old one goes, and slots that dying workers still hold.
	slots := cfg.Size + cfg.Overflow + 1 + max(maxStarting, cfg.Size)
	var err error
	s.desk, err = newDesk(slots, cfg, s.construct, s.callerWaits, s.lookForDead)
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

// goJob runs f on a goroutine that close joins; false: the pool is closing.
func (s *supervisor) goJob(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.jobs.Go(f)
	return true
}

// close ends the goroutine, then the constructions and pings under way.
func (s *supervisor) close() {
	s.mu.Lock() // no job begins after this
	s.cancel()
	s.mu.Unlock()
	<-s.done
	s.jobs.Wait()
}

// --- what workers tell ----------------------------------------------------------------------------------------------

func (s *supervisor) onSpawn(w *worker) {
	s.mu.Lock()
	s.live[w] = struct{}{}
	s.spawned++
	s.mu.Unlock()
}

// onReady tells of a worker that is about to serve; its exit is never told before.
func (s *supervisor) onReady(w *worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, alive := s.live[w]; !alive {
		return
	}
	s.env.reporter.log(slog.LevelDebug, "worker started", slog.String("worker", w.id), slog.Int("pid", w.proc.PID()),
		slog.String("python", w.python), slog.Duration("took", time.Since(w.started)))
	s.event(Event{Kind: EventWorkerStarted, Worker: w.id, PID: w.proc.PID()})
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
	switch now := time.Now(); {
	case wasReady && now.Sub(w.readyAt) >= young:
		s.idleWait.Reset()
	case guilty || idle && w.calls.Load() == 0 && w.seq > int64(s.cfg.Size):
		// A replacement that ended before it served, or because of what it served: perhaps they all will.
		if !now.Before(s.notAgain) { // one step for those that end side by side
			s.notAgain = now.Add(s.idleWait.NextBackOff())
		}
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

// chargeable reports whether a worker that has ended without a call did so by itself and soon after an answer, and names the call
// that had it.
func (w *worker) chargeable(ended bool) (bool, CallInfo) {
	if !ended {
		return false, CallInfo{}
	}
	if exit := w.proc.Exit(); exit.Ours || !byItself(exit.Code, exit.Signal) { // its stderr, for which exitError waits, need not be there yet
		return false, CallInfo{}
	}
	last, at := w.current.lastAnswered()
	return last.Command != "" && time.Since(at) <= afterAnswer, last
}

// --- giving back ---------------------------------------------------------------------------------------------------

// release gives back a worker that is held. It alone decides whether the worker serves again, for everyone: doubt destroys, and so does
// an end. The worker is replaced when Size asks for it.
func (s *supervisor) release(res *resource) {
	w := res.Value()
	if w.reusable() {
		s.desk.put(res)
		if limit := s.cfg.MaxCalls; limit > 0 && w.calls.Load() >= limit {
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

// reconcile compares what is with what should be, and acts. It returns when to look again at the latest, or zero.
func (s *supervisor) reconcile(now time.Time) time.Time {
	s.mu.Lock()
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		return time.Time{}
	}
	var again time.Time
	if !s.frozenLocked() {
		again = s.startMissingLocked(now)
	}
	s.retireWornLocked()
	s.markOverflowLocked()
	s.announceLocked()
	s.mu.Unlock()
	if s.dirty.Swap(false) {
		for _, res := range s.desk.inspect(func(res *resource) bool { return !res.Value().reusable() }) {
			s.release(res)
		}
	}
	return again
}

// frozenLocked reports whether too many processes cannot be ended, which is as a rule the fault of a disk or a network mount that has
// stopped to answer: whatever is started would only join them. While no worker is ready calls are refused, and told why.
func (s *supervisor) frozenLocked() bool {
	stuck := int(s.env.unreapable.Load())
	if stuck < s.cfg.Size {
		if s.frozen {
			s.frozen = false
			s.publishLocked()
		}
		return false
	}
	err := newError(TypeWorkerStart, NotExecuted, fmt.Sprintf("%d killed processes do not end (they sleep in the kernel, on a disk or mount that does not answer?): "+
		"no worker is started until one of them does", stuck), nil)
	err.Context.Pool = s.cfg.Name
	if !s.frozen {
		s.env.reporter.log(slog.LevelError, "no worker is started", slog.String("cause", err.Message))
	}
	s.frozen, s.lastErr = true, err
	s.canGrow.Store(false)
	if s.readyLocked() == 0 && s.circuit.refuses() == nil {
		s.circuit.why.Store(&CircuitError{Cause: err})
		s.desk.turnAway()
		s.circuitChanged("open", err)
	}
	return true
}

// onStuck has the next turn count the processes that cannot be ended.
func (s *supervisor) onStuck(w *worker) {
	s.env.reporter.log(slog.LevelError, "a killed process does not end and is given up", slog.String("worker", w.id), slog.Int("pid", w.proc.PID()))
	s.kick()
}

// startMissingLocked starts workers up to Size, more while callers wait, and one for a worn-out worker's place.
func (s *supervisor) startMissingLocked(now time.Time) (again time.Time) {
	ready, worn := s.readyLocked(), len(s.wornLocked(now))
	ceiling := s.cfg.Size + s.cfg.Overflow
	want := s.cfg.Size
	if waiting := int(s.desk.waiting.Load()); waiting > 0 {
		want = max(want, min(ceiling, ready+waiting))
	}
	missing := want - ready - s.starting
	if missing <= 0 && worn > 0 && s.starting == 0 && ready <= s.cfg.Size && !s.brokenLocked() {
		missing = 1 // make before break, one at a time
	}
	s.canGrow.Store(ready+s.starting < ceiling)
	if missing <= 0 {
		return again
	}
	if wait := later(s.notBefore, s.notAgain); now.Before(wait) {
		return wait
	}
	if s.spawned > 0 || s.failed > 0 { // New starts them all side by side; later starts a few at a time
		missing = min(missing, maxStarting-s.starting)
	}
	for range missing {
		if s.starting > 0 && !s.circuit.closed() {
			break // one probe at a time
		}
		settle, err := s.circuit.cb.Allow()
		if err != nil {
			return now.Add(max(s.cfg.RestartBackoff.Min, time.Millisecond))
		}
		s.startLocked(settle)
	}
	return again
}

// wornLocked returns the ready workers that are to be replaced.
func (s *supervisor) wornLocked(now time.Time) (worn []*worker) {
	generation := s.generation.Load()
	for _, w := range s.readyWorkersLocked() {
		if w.worn(generation, now) {
			worn = append(worn, w)
		}
	}
	return worn
}

// worn reports whether the worker has done its share.
func (w *worker) worn(generation int64, now time.Time) bool {
	cfg := w.env.cfg
	return w.generation < generation ||
		cfg.MaxCalls > 0 && w.calls.Load() >= cfg.MaxCalls ||
		w.lifetime > 0 && now.Sub(w.started) >= w.lifetime ||
		cfg.MaxRSS > 0 && !w.heavy && w.rss.Load() > cfg.MaxRSS
}

// retireWornLocked lets worn-out workers go, as far as Size ready ones remain without them.
func (s *supervisor) retireWornLocked() {
	spare := s.readyLocked() - s.cfg.Size
	if spare <= 0 {
		return
	}
	for _, w := range s.wornLocked(time.Now()) {
		if spare == 0 {
			return
		}
		spare--
		s.recycled++
		w.retired.Store(true) // it ends at its next release, or now when it is idle
		s.lookForDead()
	}
}

// markOverflowLocked calls the youngest beyond Size overflow.
func (s *supervisor) markOverflowLocked() {
	ready := s.readyWorkersLocked()
	slices.SortFunc(ready, bySeq)
	for i, w := range ready {
		w.overflow.Store(i >= s.cfg.Size)
	}
}

func bySeq(a, b *worker) int { return cmp.Compare(a.seq, b.seq) }

// announceClosing says that the pool is closing: no other state is announced after it but the end.
func (s *supervisor) announceClosing() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = "closing"
	s.event(Event{Kind: EventPoolState, State: s.state})
}

// announceLocked says when the pool begins or ceases to serve at its full size.
func (s *supervisor) announceLocked() {
	if s.state == "closing" {
		return
	}
	ready := s.readyLocked()
	state := "degraded"
	switch {
	case ready >= s.cfg.Size:
		state = "serving"
		s.lastErr = nil
	case ready == 0:
		state = "unavailable"
	}
	if state == s.state || s.state == "" && state != "serving" && s.failed == 0 {
		return // or New is still starting them
	}
	level := slog.LevelInfo
	switch {
	case s.state == "serving":
		level = slog.LevelWarn
	case s.state == "", state == "degraded" && s.failed == 0 && s.spawned <= int64(s.cfg.Size): // New is still starting them
		level = slog.LevelDebug
	}
	s.state = state
	s.env.reporter.log(level, "the pool is "+state, slog.Int("ready", ready), slog.Int("size", s.cfg.Size))
	s.event(Event{Kind: EventPoolState, State: state})
}

// await returns when n workers are ready. It gives up when so many starts have failed that New's caller cannot be given n.
func (s *supervisor) await(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		ready, failed, err, changed := s.readyLocked(), s.failed, s.lastErr, s.changed
		s.mu.Unlock()
		switch {
		case ready >= n:
			return nil
		case failed > s.cfg.Size-n:
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

// reload has every worker that is there now replaced, and returns when the last of them is gone. A replacement that does not
// start ends it with that error: the old workers go on serving, and the supervisor goes on trying.
func (s *supervisor) reload(ctx context.Context) error {
	generation := s.generation.Add(1)
	s.mu.Lock()
	failed := s.failed
	s.mu.Unlock()
	s.kick()
	for {
		s.mu.Lock()
		stale, err, changed := 0, error(nil), s.changed
		for w := range s.live {
			if w.generation < generation {
				stale++
			}
		}
		if s.failed > failed {
			err = s.startErr
		}
		s.mu.Unlock()
		switch {
		case stale == 0:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ctx.Done():
			return errStopped
		}
	}
}

// workers lists the live processes, oldest first.
func (s *supervisor) workers() []*worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*worker, 0, len(s.live))
	for w := range s.live {
		list = append(list, w)
	}
	slices.SortFunc(list, bySeq)
	return list
}

// snapshot fills the worker counts, all of one moment.
func (s *supervisor) snapshot(st *Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Workers = len(s.live)
	for w := range s.live {
		switch w.state() {
		case "idle":
			st.Idle++
		case "busy":
			st.Busy++
		case "starting":
			st.Starting++
		}
	}
	st.WorkersStarted, st.WorkersExited, st.Recycled = s.spawned, s.exited, s.recycled
	st.Breaker = s.breakerLocked()
}

// breakerLocked names the state of the pool's circuit: half-open is the time of a probe.
func (s *supervisor) breakerLocked() string {
	switch {
	case s.frozen && s.circuit.refuses() != nil:
		return "open"
	case s.circuit.closed():
		return "closed"
	case s.starting > 0:
		return "half-open"
	}
	return "open"
}
