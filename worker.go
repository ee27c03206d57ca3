package pypool

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pypool/pypool/internal/interp"
	"github.com/pypool/pypool/internal/proc"
	"github.com/pypool/pypool/internal/receive"
	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// worker is one Python process, from spawn to reap. It serves one job at a time. Its state is
// computed, never stored:
//
//	spawned --hello, ping--> ready closed --Acquire--> current != nil --Release--> ready
//	x.inDoubt() != nil: never serves again
//	retired: worn out or surplus, ends at its next release;  proc.exited closed: gone
type worker struct {
	id      string
	seq     int64 // counts up in the pool
	slot    int   // its place in the pool
	env     *workerEnv
	proc    proc.Process
	x       *exchange
	log     *stderrLog
	word    string // of its records on stderr: nobody else knows it
	started time.Time
	readyAt time.Time // set before ready is closed
	ready   chan struct{}
	watched chan struct{} // closed when env.onExit has returned

	python     string               // its version, known when ready
	runs       string               // its sys.executable, likewise
	commands   []string             // what it registered
	programs   []string             // likewise
	heavy      bool                 // it was over MaxRSS when it was ready: a replacement would be, too
	paged      bool                 // its runtime uses the shared page
	cancelable bool                 // its runtime can stop a call
	packs      bool                 // it reads lines with several requests
	batches    map[string]batchRule // its commands that take batches, by breakerKey; nil: none
	concurrent map[string]int       // how many calls of a command it serves side by side; none: one at a time

	spec   proc.Spec         // which has started it
	hidden map[string]string // variables that are not in its environment, and that its runtime puts there

	overflow bool // it was started beyond Size; the supervisor's mu guards it

	generation int64            // reloads that had happened when it started
	imported   time.Time        // no later than when it, or the process that it was forked from, began to read source files
	server     *forkServer      // which has forked it; nil: none has
	forked     time.Time        // when the server was asked to; zero: none was
	forking    bool             // it is a fork server
	forks      *proc.ForkServer // its socket then, once it is spawned
	lifetime   time.Duration
	canceling  atomic.Bool                // its caller has gone, and its call is to stop
	sharing    atomic.Pointer[sharing]    // it serves several calls; nil: one at most
	retired    atomic.Bool                // nothing is wrong with it, and it is to end
	retirement atomic.Pointer[retirement] // it has asked to be replaced; nil: it has not
	checks     bool                       // it has @health functions
	due        atomic.Bool                // they are to be asked when it next falls idle
	booked     bool                       // its retirement has been judged; the supervisor's mu guards this and the next
	useless    bool                       // by which it was a start of no use
	blamed     atomic.Pointer[string]     // why pypool kills it: the first reason given
	end        atomic.Int32               // endRunning and so on
	current    occupation
	dumps      stackDumps
	lease      atomic.Pointer[lease] // of a stream or a Map that has the worker; nil: no code of a caller can hold it
	charged    atomic.Bool           // its end, to the command of its last answer
	calls      atomic.Int64
	errs       atomic.Int64
	freed      time.Time         // the end of its last call that was sent, or when it was ready; whoever holds the worker may use this and the next two
	took       time.Duration     // for that call; 0 once lastTook has told
	service    *spin.ServiceTime // of that call's command
	pinged     atomic.Int64      // calls when it was last pinged
	rss        atomic.Int64
}

// workerEnv is what all workers of a pool share.
type workerEnv struct {
	cfg      *Config
	size     func() int // of the pool
	python   interp.Interpreter
	spec     proc.Spec // which starts a worker, but for what is its own
	spawner  *proc.Spawner
	reporter *reporter
	ids      *atomic.Uint64  // request ids
	killing  <-chan struct{} // closed when nothing is waited for any more

	functions *functions
	servers   *forkServers // which fork the workers; nil: each is executed

	onSpawn func(*worker)
	onReady func(*worker)
	onExit  func(*worker)
	// onRetire tells of a ready worker that has asked to be replaced.
	onRetire func(*worker)
	// onEndBetween tells of a worker that ended before it read the request of the call that it has.
	onEndBetween func(*worker)
	onStuck      func(*worker) // its process was given up; onExit may follow at last

	unreapable *atomic.Int64
}

// occupation is the call that a worker has, and had last, as others than its caller see it. Kept in
// the worker, it costs a call no allocation.
type occupation struct {
	mu       sync.Mutex // guards the fields below
	info     CallInfo   // a copy: the job itself is its caller's
	since    time.Time  // when it was given to the worker
	busy     bool
	last     CallInfo  // the last call that had its answer
	answered time.Time // when that was; zero: there was none
}

func (s *occupation) begin(info *CallInfo, given time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.info, s.since, s.busy = *info, given, true
}

// end takes the time of the answer; zero: the request was not executed.
func (s *occupation) end(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	if !at.IsZero() {
		s.last, s.answered = s.info, at
	}
}

// answer takes in that a call has its answer, and that the worker goes on with others: items of a
// Map, or calls beside it.
func (s *occupation) answer(info *CallInfo, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.answered = *info, at
}

// now returns a copy, nil when there is no call.
func (s *occupation) now() *CallInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.busy {
		return nil
	}
	info := s.info
	return &info
}

// running is now as WorkerInfo tells it.
func (s *occupation) running() []RunningCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.busy {
		return nil
	}
	return []RunningCall{{s.info, s.since}}
}

// lastAnswered returns the last call that had an answer, and when that came; zero when there was
// none.
func (s *occupation) lastAnswered() (info CallInfo, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.answered
}

// job is one request and its conditions, as a worker sees them.
type job struct {
	id      uint64
	info    CallInfo
	trace   string // W3C traceparent; empty: none
	req     wire.Request
	timeout time.Duration // of the operation; 0: none
	given   time.Time     // when the worker got it
	idle    time.Duration // how long the worker had been free by then
	spin    spin.Mode     // for the answer, before parking
	item    takeItem      // nil: items are not expected
	stopped bool          // item has returned false
	takes   bool          // payloads in what answers it
	open    bool          // the exchange has begun, and did not end in an answer
	left    bool          // by its caller: it goes on
}

// takeItem takes an item of a stream, and when it came; false stops the stream.
type takeItem func(item reply, came time.Time) bool

// reply is the raw JSON of a result or item.
type reply struct {
	raw    json.RawMessage // nil: an item that is nested too deeply
	bigInt bool
	blobs  []wire.Blob // for which nulls stand in raw
}

const (
	reapWait  = 5 * time.Second // what a KILL may take before the process is given up
	drainWait = time.Second     // what stderr may take to end after its process
	exitWait  = time.Second     // what a process may take to end after its channel has
)

// The end of a worker's process, as others than stop see it.
const (
	endRunning int32 = iota
	endGivenUp       // it did not end within reapWait of being killed
	endReached
)

// healthQuestion has a ping ask the @health functions, too.
var healthQuestion = map[string]bool{"health": true}

// ping proves that an idle worker answers within d. The caller holds the worker.
func (w *worker) ping(ctx context.Context, d time.Duration) (rtt time.Duration, err error) {
	start := time.Now()
	w.x.begin(ctx, start.Add(d), spin.Park)
	var args any
	if w.checks {
		args = healthQuestion
	}
	err = w.exchangePing(args)
	w.x.end()
	if err == nil {
		return time.Since(start), nil
	}
	w.x.doubt(err)
	return time.Since(start), w.failure(ctx, &job{info: CallInfo{Command: commandPing}}, err, start)
}

// call sends the job and returns its answer; doneWith must follow. After an error the worker may be
// in doubt: reusable tells.
func (w *worker) call(ctx context.Context, j *job) (reply, *Error) {
	start := j.given
	j.open, j.left = false, false
	left, limited := j.timeout, j.timeout > 0
	var deadline time.Time
	if limited {
		deadline = start.Add(left)
	}
	if end, ok := ctx.Deadline(); ok && (!limited || end.Before(deadline)) {
		left, limited = end.Sub(start), true // the interrupt keeps this one
	}
	line := j.req.Seal(j.id, left, limited)

	w.current.begin(&j.info, start)
	w.x.begin(ctx, deadline, j.spin)
	j.open = true
	defer w.x.end() // a method of ctx may panic: ctx must not keep hold of the worker
	err := w.x.sendRequest(&j.req, line, j.idle > aMoment)
	var f wire.Frame
	if err == nil {
		err = w.x.receiveFinal(j.id, &f)
	}
	w.x.end()
	if errors.Is(err, os.ErrDeadlineExceeded) && w.x.inDoubt() == nil && !nothingWritten(err) {
		switch w.x.receiveNow(j.id, &f) {
		case nil:
			if f.Kind != wire.KindItem {
				err = nil // the answer was there in the same instant: it wins
			}
		case os.ErrDeadlineExceeded:
			if w.cancels() {
				e := w.leave(ctx, j)
				j.left = true
				return reply{}, e
			}
		}
	}
	j.open = err != nil && !nothingWritten(err)
	return w.judge(ctx, j, &f, err)
}

// lastTook is how long the last call took, 0 where that has been asked before or there is no page:
// nobody polls there. One that was not brief may have been so for the runtime, because somebody had
// to be woken: it has said so by now.
func (w *worker) lastTook() time.Duration {
	took := w.took
	w.took = 0
	switch {
	case !w.paged:
		return 0
	case took > spin.Brief:
		return w.proc.ServiceTime()
	}
	return took
}

// served takes in the end of a call that the worker had, and returns when it had its answer; zero:
// the request was not executed, and what the worker may have said before has not been looked for.
func (w *worker) served(err *Error, end time.Time, took time.Duration) (answered time.Time) {
	if err != nil && err.Type == TypeUnknownCommand {
		w.service = nil // names that no worker knows are not remembered
	}
	if err != nil && err.Delivery == NotExecuted {
		return time.Time{}
	}
	w.freed, w.took = end, took
	return end
}

// doneWith ends the current job, whose answer came then. A worker in doubt keeps it: its exit and
// its last output are still told as that job's.
func (w *worker) doneWith(answered time.Time) {
	if w.x.inDoubt() == nil {
		w.current.end(answered)
	}
}

// abandon puts a worker in doubt whose exchange nobody goes on with.
func (w *worker) abandon() {
	w.x.doubt(errors.New("abandoned in mid-exchange"))
	w.blame("its call was abandoned: a function of the caller panicked, or ended its goroutine")
}

// blame says why the worker will have been killed, for the log. What was blamed first counts.
func (w *worker) blame(why string) { w.blamed.CompareAndSwap(nil, &why) }

// kill ends a worker that may not serve again, and says why.
func (w *worker) kill(why string) {
	w.blame(why)
	w.proc.Kill()
}

// exitError describes a process that has exited, or is about to.
func (w *worker) exitError() *ExitError {
	exited := w.isExited()
	state := w.proc.Exit()
	if exited || state.Code >= 0 || state.Signal != 0 { // else it may write yet
		receive.Within(w.log.done, drainWait)
	}
	lost := w.log.lostChannel()
	e := &ExitError{
		Code: state.Code, Signal: state.Signal, OOM: !state.Ours && state.Signal == syscall.SIGKILL && !state.NoOOM && !state.Overtime && !lost,
		Stderr: w.log.text(), Uptime: time.Since(w.started), Calls: w.calls.Load(), ours: state.Ours, overtime: state.Overtime, lost: lost, itself: byItself(state, lost),
	}
	if isCrash(state.Code, state.Signal) { // else a report is of another process, if it is one
		e.Stacks = w.log.report()
	}
	return e
}

func (w *worker) awaitExit(d time.Duration) bool {
	_, exited := receive.Within(w.proc.Exited(), d)
	return exited
}

// reusable reports whether the worker may serve again: no doubt, not gone, not worn out.
func (w *worker) reusable() bool {
	return w.x.inDoubt() == nil && !w.retired.Load() && !w.isExited()
}

func (w *worker) isExited() bool { return isClosed(w.proc.Exited()) }
func (w *worker) isReady() bool {
	return isClosed(w.ready) && !w.isExited() && !w.retired.Load() && w.x.inDoubt() == nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// isGivenUp reports whether the process is waited for no more. It may end yet.
func (w *worker) isGivenUp() bool { return w.end.Load() == endGivenUp }

// stop ends the process and frees what the host holds of it. A healthy one is asked first:
// shutdown, end of file, TERM, KILL, with StopGrace for each; one in doubt is killed. It returns
// when the process is reaped, or after reapWait.
func (w *worker) stop() {
	if w.x.inDoubt() == nil && !w.isExited() {
		w.retired.Store(true)
		if !isClosed(w.env.killing) {
			w.stopPolitely()
		}
	}
	w.proc.Kill()
	if w.awaitExit(reapWait) {
		<-w.watched
		receive.Within(w.log.done, drainWait)
	} else {
		if w.end.CompareAndSwap(endRunning, endGivenUp) {
			w.env.unreapable.Add(1)
			w.env.onStuck(w)
		}
	}
	w.proc.Release()
}

func (w *worker) stopPolitely() {
	grace := w.env.cfg.StopGrace
	var bye any
	_ = w.ask(context.Background(), grace, commandShutdown, nil, &bye)
	_ = w.x.t.Close()
	for _, step := range []func(){func() {}, w.proc.Terminate} {
		step()
		timer := time.NewTimer(grace)
		select {
		case <-w.proc.Exited():
		case <-w.env.killing:
		case <-timer.C:
		}
		timer.Stop()
		if w.isExited() || isClosed(w.env.killing) {
			return
		}
	}
}

// logLine sends one line of the worker's output to the log, with the call that it says it belongs
// to.
func (w *worker) logLine(line logLine) {
	if !w.env.reporter.takes(line.level) {
		return
	}
	attrs := []slog.Attr{slog.String("worker", w.id), slog.Int("pid", w.proc.PID())}
	if line.command != "" {
		attrs = append(attrs, slog.String("command", line.command))
	}
	if line.call != 0 {
		attrs = append(attrs, slog.Uint64("request", line.call))
	}
	if line.session != "" {
		attrs = append(attrs, slog.String("session", line.session))
	}
	source := "stderr"
	if line.logger != "" {
		source = "logging"
		attrs = append(attrs, slog.String("logger", line.logger))
	}
	if line.exc != "" {
		attrs = append(attrs, slog.String("exc", line.exc))
	}
	w.env.reporter.log(line.level, line.text, append(attrs, slog.String("source", source))...)
}

// The states of a worker, as WorkerInfo names them.
const (
	workerStarting  = "starting"
	workerIdle      = "idle"
	workerBusy      = "busy"
	workerShared    = "shared"    // it serves calls of concurrent commands, side by side
	workerCanceling = "canceling" // its caller has gone, and its call is to stop
	workerStopping  = "stopping"
)

// state names what the worker is doing.
func (w *worker) state() string {
	switch {
	case w.retired.Load(), w.x.inDoubt() != nil:
		return workerStopping
	case !isClosed(w.ready):
		return workerStarting
	case w.canceling.Load():
		return workerCanceling
	case w.sharing.Load() != nil:
		return workerShared
	case w.current.now() != nil:
		return workerBusy
	}
	return workerIdle
}

// info is the worker's snapshot.
func (w *worker) info() WorkerInfo {
	info := WorkerInfo{
		ID: w.id, Slot: w.slot, PID: w.proc.PID(), State: w.state(), StartedAt: w.started, Calls: w.calls.Load(), Errors: w.errs.Load(),
		RSS: proc.ResidentBytes(w.proc.PID()), Interpreter: w.env.python.Path,
	}
	if s := w.sharing.Load(); s != nil {
		info.Running = s.running()
	} else {
		info.Running = w.current.running()
	}
	if r := w.retirement.Load(); r != nil {
		info.Retired = r.reason
	}
	if isClosed(w.ready) {
		info.Python, info.Interpreter = w.python, cmp.Or(w.runs, w.env.python.Path)
	}
	return info
}
