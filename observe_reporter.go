package pypool

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/receive"
)

const (
	maxQueuedLogs     = 1024 // log records, of some 8 KiB at most; what comes beyond is dropped, and counted
	maxUnwantedLogs   = 64   // records of a level that the logger did not take when it was last asked
	maxQueuedEvents   = 4096 // calls of Observer.Event and ErrorRate.Func
	maxQueuedSessions = 1024 // those of them that tell the end of a session: as many as there are calls, where each has its own
	maxQueuedDetails  = 256  // events whose Err keeps all its text; an exit's may be 128 KiB
	levelPatience     = 100 * time.Millisecond
	reporterGrace     = 1 * time.Second // what close waits for user code that is being called
)

// reporter hands log records and events to user code, in order, on a goroutine of its own: neither
// a slow log handler nor a slow observer can hold up a worker, a caller or the supervisor. User
// code is called there alone, without a lock held, and its panics end there; one that ends the
// goroutine (runtime.Goexit) has another go on.
type reporter struct {
	logger *slog.Logger
	attrs  []slog.Attr // on every record

	wake chan struct{} // capacity 1
	done chan struct{}

	logsDropped   atomic.Int64
	eventsDropped atomic.Int64

	mu      sync.Mutex // guards the fields below
	queue   []report
	waiting [kinds]int   // how many of each are in queue
	details int          // how many events of queue have an Err
	dropped [kinds]int64 // since queue was last taken
	off     [4]bool      // levels that the logger did not take when it was last asked
	closed  bool

	// The goroutine's own.
	batch []report
	known map[string]bool // functions of the Observer that have panicked: said once of each
	lost  int64           // log records that the handler panicked on, not yet told
	why   string          // its last panic
}

type reportKind int

const (
	reportLog        reportKind = iota
	reportUnwanted              // a log record that the logger may not take
	reportEvent                 // a call of Observer.Event or ErrorRate.Func
	reportSessionEnd            // the same, of a session's end
	reportQuestion              // which levels the logger takes
	reportFailure               // what user code has done
	kinds
)

var kindLimits = [kinds]int{
	reportLog: maxQueuedLogs, reportUnwanted: maxUnwantedLogs, reportFailure: maxUnwantedLogs,
	reportEvent: maxQueuedEvents, reportSessionEnd: maxQueuedSessions,
}

// report is something to be told to user code.
type report struct {
	kind  reportKind
	at    time.Time
	level slog.Level
	text  string
	attrs []slog.Attr

	tell   func(Event) // Observer.Event
	event  Event
	call   func() // something else
	answer chan<- int

	who     string // the function of the Config that is called, or has failed
	trouble *trouble
	lost    int64 // for a record that tells of lost ones
}

// newReporter starts the goroutine; close must follow.
func newReporter(logger *slog.Logger, attrs ...slog.Attr) *reporter {
	r := &reporter{logger: logger, attrs: attrs, wake: make(chan struct{}, 1), done: make(chan struct{}), known: map[string]bool{}}
	go r.run()
	return r
}

// levelIndex is the level's place in reporter.off.
func levelIndex(level slog.Level) int { return min(max(int(level-slog.LevelDebug)/4, 0), 3) }

// takes reports whether a record of the level has a chance to be logged. The logger itself is asked
// when it gets the record.
func (r *reporter) takes(level slog.Level) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.off[levelIndex(level)] || r.waiting[reportUnwanted] < maxUnwantedLogs
}

// log queues a record, or drops it when too many wait.
func (r *reporter) log(level slog.Level, text string, attrs ...slog.Attr) {
	r.add(report{kind: reportLog, at: time.Now(), level: level, text: text, attrs: attrs})
}

// event queues a call of Observer.Event, or drops it when too many wait.
func (r *reporter) event(tell func(Event), ev Event) {
	kind := reportEvent
	if ev.Kind == EventSessionEnded {
		kind = reportSessionEnd
	}
	r.add(report{kind: kind, who: "Observer.Event", tell: tell, event: ev})
}

// tell queues another call into user code, of the function that who names.
func (r *reporter) tell(who string, call func()) {
	r.add(report{kind: reportEvent, who: who, call: call})
}

// failure has it logged that code of the caller's has panicked, or called runtime.Goexit, where
// nobody can recover it.
func (r *reporter) failure(who string, t *trouble) {
	r.add(report{kind: reportFailure, at: time.Now(), who: who, trouble: t, text: stackHere()})
}

// pythonLevel is the lowest level of Python's logging that the logger takes. While the logger does
// not say, it is what it last was; at first it takes everything.
func (r *reporter) pythonLevel() int {
	answer := make(chan int, 1)
	r.add(report{kind: reportQuestion, answer: answer})
	timer := time.NewTimer(levelPatience)
	defer timer.Stop()
	select {
	case level := <-answer:
		return level
	case <-r.done:
	case <-timer.C:
	}
	return r.lastLevel()
}

func (r *reporter) lastLevel() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return pythonLevel(func(level slog.Level) bool { return !r.off[levelIndex(level)] })
}

func (r *reporter) add(rep report) {
	if r.push(rep) {
		r.ring()
	}
}

func (r *reporter) ring() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reporter) push(rep report) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	if rep.kind == reportLog && r.off[levelIndex(rep.level)] {
		rep.kind = reportUnwanted
	}
	if limit := kindLimits[rep.kind]; limit > 0 && r.waiting[rep.kind] >= limit {
		r.dropped[rep.kind]++
		switch rep.kind {
		case reportLog:
			r.logsDropped.Add(1)
		case reportEvent, reportSessionEnd:
			r.eventsDropped.Add(1)
		}
		return false
	}
	r.waiting[rep.kind]++
	if rep.event.Err != nil {
		if r.details++; r.details > maxQueuedDetails {
			rep.event.Err = withoutDetails(rep.event.Err)
		}
	}
	r.queue = append(r.queue, rep)
	return true
}

// run is the goroutine, or its successor. close joins it.
func (r *reporter) run() {
	ended := false
	defer func() {
		if ended {
			close(r.done)
		} else {
			go r.run() // user code has ended this one
		}
	}()
	for r.deliverBatch() {
	}
	ended = true
}

// deliverBatch delivers what is queued, or waits for something; false: the reporter is closed, and
// nothing is left.
func (r *reporter) deliverBatch() bool {
	for len(r.batch) > 0 {
		rep := r.batch[0]
		r.batch[0] = report{}
		r.batch = r.batch[1:]
		r.deliver(rep)
	}
	r.mu.Lock()
	batch, dropped, closed := r.queue, r.dropped, r.closed
	r.queue, r.details = nil, 0
	r.waiting, r.dropped = [kinds]int{}, [kinds]int64{}
	r.mu.Unlock()
	if len(batch) == 0 {
		if !closed {
			<-r.wake
		}
		return !closed
	}
	r.batch = batch
	for kind, n := range dropped {
		r.confess(reportKind(kind), n)
	}
	return true
}

// confess adds to the batch that n reports were dropped behind it.
func (r *reporter) confess(kind reportKind, n int64) {
	if n == 0 {
		return
	}
	var what string
	switch kind {
	case reportLog:
		r.batch = append(r.batch, report{kind: reportLog, at: time.Now(), level: slog.LevelWarn,
			text:  "log records of workers were dropped: they came faster than the logger took them",
			attrs: []slog.Attr{slog.Int64("dropped", n)}})
		return
	case reportSessionEnd:
		what = string(EventSessionEnded)
	case reportEvent:
		what = "other"
	default:
		return
	}
	cause := fmt.Sprintf("%d %s events came faster than Observer.Event took them", n, what)
	r.batch = append(r.batch, report{kind: reportLog, at: time.Now(), level: slog.LevelWarn,
		text: "events were dropped: they came faster than the Observer took them", attrs: []slog.Attr{slog.String("kind", what), slog.Int64("dropped", n)}})
	i := slices.IndexFunc(r.batch, func(rep report) bool { return rep.tell != nil })
	if i >= 0 {
		r.batch = append(r.batch, report{kind: reportEvent, who: "Observer.Event", tell: r.batch[i].tell,
			event: Event{Time: time.Now(), Kind: EventDropped, Pool: r.batch[i].event.Pool, Cause: cause, Dropped: n}})
	}
}

// deliver calls user code. A panic of it ends here.
func (r *reporter) deliver(rep report) {
	done := false
	defer func() {
		if !done {
			r.failed(&rep, &trouble{recover()})
		}
	}()
	switch rep.kind {
	case reportEvent, reportSessionEnd:
		if rep.tell != nil {
			rep.tell(rep.event)
		} else {
			rep.call()
		}
	case reportQuestion:
		for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
			r.enabled(level)
		}
		rep.answer <- r.lastLevel()
	case reportFailure:
		rep.level = slog.LevelError
		rep.attrs = []slog.Attr{slog.String("func", rep.who), slog.String("cause", rep.trouble.describe()), slog.String("stack", rep.text)}
		rep.text = "a function of the host failed on a goroutine of the pool"
		r.write(&rep)
	default:
		r.write(&rep)
	}
	done = true
}

// enabled asks the logger, and notes the answer.
func (r *reporter) enabled(level slog.Level) bool {
	enabled := r.logger.Enabled(context.Background(), level)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.off[levelIndex(level)] = !enabled
	return enabled
}

// write logs a record.
func (r *reporter) write(rep *report) {
	if !r.enabled(rep.level) {
		return
	}
	record := slog.NewRecord(rep.at, rep.level, rep.text, 0)
	record.AddAttrs(r.attrs...)
	record.AddAttrs(rep.attrs...)
	_ = r.logger.Handler().Handle(context.Background(), record)
	switch {
	case rep.lost > 0:
		r.lost -= rep.lost
	case r.lost > 0: // the handler works again
		r.batch = slices.Insert(r.batch, 0, report{kind: reportLog, at: time.Now(), level: slog.LevelWarn,
			text: "log records were lost: the log handler failed", lost: r.lost,
			attrs: []slog.Attr{slog.Int64("dropped", r.lost), slog.String("cause", r.why)}})
	}
}

// failed books that user code has panicked, or called runtime.Goexit.
func (r *reporter) failed(rep *report, t *trouble) {
	switch rep.kind {
	case reportEvent, reportSessionEnd:
		if !r.known[rep.who] {
			r.known[rep.who] = true
			r.batch = slices.Insert(r.batch, 0, report{kind: reportFailure, at: time.Now(), who: rep.who, trouble: t, text: stackHere()})
		}
	case reportQuestion:
		rep.answer <- r.lastLevel()
	default:
		if rep.lost == 0 {
			r.lost++
			r.logsDropped.Add(1)
			r.why = "runtime.Goexit"
			if t.value != nil {
				r.why = fmt.Sprintf("a panic with a %T", t.value) // its text might take further code of the handler's
			}
		}
	}
}

// close delivers what is queued and joins the goroutine. It gives up after reporterGrace, because
// the user code being called may itself be waiting for the pool to close.
func (r *reporter) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.ring()
	receive.Within(r.done, reporterGrace)
}
