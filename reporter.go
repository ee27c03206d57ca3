package pypool

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	maxQueuedLogs = 1024            // beyond it log records are dropped, and counted
	reporterGrace = 1 * time.Second // what close waits for user code that is being called
)

// reporter hands log records and events to user code, in order, on a goroutine of its own: neither a slow log handler nor
// a slow observer can hold up a worker, a caller or the supervisor.
type reporter struct {
	logger *slog.Logger
	attrs  []slog.Attr // on every record

	wake chan struct{} // capacity 1
	done chan struct{}

	mu      sync.Mutex // guards the fields below
	queue   []report
	logs    int // how many of queue are log records
	dropped int64
	closed  bool
}

// report is a log record, or else a call into user code.
type report struct {
	at    time.Time
	level slog.Level
	text  string
	attrs []slog.Attr
	call  func()
}

// newReporter starts the goroutine; close must follow.
func newReporter(logger *slog.Logger, attrs ...slog.Attr) *reporter {
	r := &reporter{logger: logger, attrs: attrs, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go r.run()
	return r
}

func (r *reporter) enabled(level slog.Level) bool {
	return r.logger.Enabled(context.Background(), level)
}

// log queues a record, or drops it when too many wait.
func (r *reporter) log(level slog.Level, text string, attrs ...slog.Attr) {
	if r.enabled(level) {
		r.add(report{at: time.Now(), level: level, text: text, attrs: attrs})
	}
}

// tell queues a call into user code. Such calls are never dropped.
func (r *reporter) tell(call func()) { r.add(report{call: call}) }

func (r *reporter) add(rep report) {
	r.mu.Lock()
	switch {
	case r.closed:
		r.mu.Unlock()
		return
	case rep.call == nil && r.logs >= maxQueuedLogs:
		r.dropped++
		r.mu.Unlock()
		return
	case rep.call == nil:
		r.logs++
	}
	r.queue = append(r.queue, rep)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reporter) run() {
	defer close(r.done)
	for {
		r.mu.Lock()
		batch, dropped, closed := r.queue, r.dropped, r.closed
		r.queue, r.logs, r.dropped = nil, 0, 0
		r.mu.Unlock()
		for _, rep := range batch {
			r.deliver(rep)
		}
		if dropped > 0 {
			r.deliver(report{at: time.Now(), level: slog.LevelWarn, text: "log records of workers were dropped: they came faster than the logger took them",
				attrs: []slog.Attr{slog.Int64("dropped", dropped)}})
		}
		switch {
		case closed && len(batch) == 0:
			return
		case len(batch) == 0:
			<-r.wake
		}
	}
}

func (r *reporter) deliver(rep report) {
	if rep.call != nil {
		rep.call()
		return
	}
	record := slog.NewRecord(rep.at, rep.level, rep.text, 0)
	record.AddAttrs(r.attrs...)
	record.AddAttrs(rep.attrs...)
	_ = r.logger.Handler().Handle(context.Background(), record)
}

// close delivers what is queued and joins the goroutine. It gives up after reporterGrace, because the user code being
// called may itself be waiting for the pool to close.
func (r *reporter) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
	timer := time.NewTimer(reporterGrace)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
	}
}
