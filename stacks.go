package pypool

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pypool/pypool/internal/foreign"
	"github.com/pypool/pypool/internal/proc"
	"github.com/pypool/pypool/internal/receive"
	"github.com/pypool/pypool/internal/wire"
)

// stacksWait is what the stacks of a worker may take that is asked for them by Pool.Stacks: one that
// runs answers in milliseconds, on a busy machine in some more.
const stacksWait = time.Second

// Stacks returns where a worker (WorkerInfo.ID) is: the Python stacks of all its threads, as
// faulthandler writes them, newest call first, and below them those of the tasks of the calls that
// it serves side by side. The worker is interrupted for the time of the dump alone: it goes on with
// what it does, whether it is starting, idle, busy or hung, and no call fails for it. While
// Shutdown waits for calls this shows what it waits for.
//
// The error says why there are none: an ErrInvalidArguments for a worker that is not there (any
// more), an ErrOperationTimeout, with a [HangError], for one that has not answered within a second.
// The end of ctx ends the wait.
func (p *Pool) Stacks(ctx context.Context, workerID string) (string, error) {
	if !p.wasStarted() {
		return "", neverStarted(CallInfo{})
	}
	if isClosed(p.closed) {
		return "", p.isClosedError()
	}
	ctx = foreign.Context(ctx)
	workers := p.sup.workers()
	i := slices.IndexFunc(workers, func(w *worker) bool { return w.id == workerID })
	if i < 0 {
		return "", p.noWorker(workerID)
	}
	w := workers[i]
	asked := time.Now()
	if ctx.Err() != nil { // nothing is asked, however quick the answer might be
		return "", w.withContext(contextError(ctx, NotExecuted, nil), &job{}, asked)
	}
	type dump struct{ text, none string }
	done := make(chan dump, 1)
	if !p.lookers.look(func() {
		var d dump
		d.text, d.none = w.stacksOf(stacksWait)
		done <- d
	}) {
		return "", p.isClosedError()
	}
	select {
	case d := <-done:
		if d.text != "" {
			return d.text, nil
		}
		if d.none == proc.HasEnded || w.endsWithin(ctx, stacksWait-time.Since(asked)) { // and the pool is about to notice
			return "", p.noWorker(workerID)
		}
		e := newError(TypeOperationTimeout, NotExecuted, "no stacks: "+d.none, &HangError{NoStacks: d.none})
		return "", w.withContext(e, &job{}, asked)
	case <-ctx.Done():
		return "", w.withContext(contextError(ctx, NotExecuted, nil), &job{}, asked)
	}
}

// lookers are those who wait for stacks, on goroutines that the pool's close joins when its workers
// are gone.
type lookers struct {
	jobs sync.WaitGroup

	mu     sync.Mutex // guards closed; held while a job begins
	closed bool
}

// look has f run; false: the pool is closed.
func (l *lookers) look(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.jobs.Go(f)
	}
	return !l.closed
}

func (l *lookers) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.jobs.Wait()
}

// endsWithin reports whether the process has ended in the time that is left. One that is ending has
// closed its pipes a moment before.
func (w *worker) endsWithin(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.proc.Exited():
	case <-timer.C:
	case <-ctx.Done():
	}
	return w.isExited()
}

// noWorker is the error of an id that no worker has, or none any more.
func (p *Pool) noWorker(id string) *Error {
	var others []string
	for _, w := range p.sup.workers() {
		if w.id != id {
			others = append(others, w.id)
		}
	}
	e := invalid(fmt.Sprintf("there is no worker %s; there are: %s", printable(id, 64), cmp.Or(strings.Join(others, ", "), "none")))
	e.Context.Pool = p.cfg.Name
	return e
}

// stacksOf is the stacks of all threads and tasks.
func (w *worker) stacksOf(d time.Duration) (text, none string) {
	text, none = w.stacks(d)
	if s := w.sharing.Load(); s != nil && text != "" {
		text += s.taskStacks(d)
	}
	return text, none
}

// stackDumps are the stack dumps of a worker: there is one at a time, for all who ask during it.
type stackDumps struct {
	mu     sync.Mutex // guards asking
	asking *stackDump // that is under way
}

type stackDump struct {
	done       chan struct{}
	text, none string
}

// stacks asks Python for the stacks of all threads, and waits at most d for them.
func (w *worker) stacks(d time.Duration) (text, none string) {
	end := time.Now().Add(d)
	for {
		w.dumps.mu.Lock()
		other := w.dumps.asking
		if other == nil {
			mine := &stackDump{done: make(chan struct{})}
			w.dumps.asking = mine
			w.dumps.mu.Unlock()
			mine.text, mine.none = w.proc.Stacks(time.Until(end))
			w.dumps.mu.Lock()
			w.dumps.asking = nil
			w.dumps.mu.Unlock()
			close(mine.done)
			return mine.text, mine.none
		}
		w.dumps.mu.Unlock()
		switch _, ended := receive.Within(other.done, time.Until(end)); {
		case !ended:
			return "", "they have been asked for before, and have not come yet"
		case other.text != "" || time.Until(end) <= 0:
			return other.text, other.none
		} // else that one had less time
	}
}

// taskStacks asks the runtime where the task of each call is suspended. What does not come within d
// is left out: a handler that blocks the loop is in the stacks of the threads.
func (s *sharing) taskStacks(d time.Duration) string {
	type asked struct {
		id   uint64
		info CallInfo
		told chan string
	}
	var calls []asked
	mu := &s.p.sup.checkout.mu
	mu.Lock()
	for id, t := range s.calls {
		a := asked{id, t.info, make(chan string, 1)}
		t.stacks, t.asked = append(t.stacks, a.told), t.asked+1
		calls = append(calls, a)
	}
	mu.Unlock()
	slices.SortFunc(calls, func(a, b asked) int { return int(int64(a.id) - int64(b.id)) }) // as they came
	for _, a := range calls {
		s.out.control(wire.AppendStack(nil, a.id))
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	var text strings.Builder
	for _, a := range calls {
		select {
		case stack := <-a.told:
			if stack != "" {
				fmt.Fprintf(&text, "\nRequest %d, %s:\n%s", a.id, label(a.info.Command), stack)
			}
		case <-timer.C:
			return text.String()
		}
	}
	return text.String()
}

// tellStackLocked gives a stack to all who have asked for that of the call: which of their lines is
// the first on its way nobody knows, and a canceled call answers no later one. False: nobody has.
func (t *seat) tellStackLocked(body []byte) bool {
	var text string
	if t.asked == 0 || json.Unmarshal(body, &text) != nil {
		return false
	}
	t.asked--
	for _, told := range t.stacks {
		select {
		case told <- text:
		default:
		}
	}
	t.stacks = nil
	return true
}

// untoldLocked tells those who have asked for the call's stack that it has ended. Its caller asks
// for himself.
func (t *seat) untoldLocked() {
	for _, told := range t.stacks {
		if told != t.stack {
			told <- "" // it has room for this one
		}
	}
	t.stacks = nil
}
