package pypool

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/pypool/pypool/internal/foreign"
	"github.com/pypool/pypool/internal/receive"
)

const (
	mapOutstanding = 64                     // calls of a Map over a Caller that is no Pool, whose size it cannot know
	itemsGrace     = 100 * time.Millisecond // what items may take to return when the loop is over, as with a Pool at the least
)

// mapCalls is Map over a Caller that is no Pool: a call of each item.
func mapCalls[Out, In any](ctx context.Context, c Caller, command string, items iter.Seq[In], opts []CallOption) iter.Seq2[Out, error] {
	return func(yield func(Out, error) bool) {
		ctx, cancel := context.WithCancel(foreign.Context(ctx))
		defer cancel()
		m := &callMapper[Out]{
			ctx: ctx, c: c, command: command, opts: opts,
			order: make(chan *mappedCall[Out], mapOutstanding-1), fed: make(chan struct{}), troubled: make(chan struct{}),
		}
		go m.feed(encodeItems(items))
		over := false
		defer func() {
			if t := m.join(cancel); over && t != nil { // else the loop's body has trouble of its own
				t.raise()
			}
		}()
		m.deliver(yield)
		over = true
	}
}

// callMapper is one such Map at work. The feeder begins the calls and puts them into order, where
// the loop's goroutine takes them: as many as order has room for, and the one that is waited for,
// are outstanding at most.
type callMapper[Out any] struct {
	ctx      context.Context
	c        Caller
	command  string
	opts     []CallOption
	order    chan *mappedCall[Out] // closed behind the last item
	fed      chan struct{}         // the feeder's end
	calls    sync.WaitGroup
	troubled chan struct{} // closed when code of the caller's has panicked

	mu       sync.Mutex // guards the fields below
	trouble  *trouble   // the first
	over     bool       // no call is begun any more
	returned bool       // nobody takes trouble any more
}

// mappedCall is the call of one item. What came of it is to be read once done is closed.
type mappedCall[Out any] struct {
	done chan struct{}
	out  Out
	err  error
}

// feed is the feeder's goroutine, which join joins as far as the caller's code can be.
func (m *callMapper[Out]) feed(items iter.Seq[any]) {
	ended := false
	defer func() {
		if !ended { // items has panicked, or called runtime.Goexit
			m.failed(recover())
		}
		close(m.order)
		close(m.fed)
	}()
	for item := range items {
		one := &mappedCall[Out]{done: make(chan struct{})}
		select {
		case m.order <- one:
		case <-m.ctx.Done():
		}
		if !m.begin() {
			break // nobody reads one any more
		}
		go m.call(one, itemArgs(item))
	}
	ended = true
}

// begin reports whether a call may be begun, and counts it in calls.
func (m *callMapper[Out]) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over || m.ctx.Err() != nil {
		return false
	}
	m.calls.Add(1)
	return true
}

// call is the goroutine of one call, which join joins.
func (m *callMapper[Out]) call(one *mappedCall[Out], args any) {
	defer m.calls.Done()
	ended := false
	defer func() {
		if !ended { // a marshaler or an unmarshaler, or the Caller, has panicked
			m.failed(recover())
		}
		close(one.done)
	}()
	one.out, one.err = Call[Out](m.ctx, m.c, m.command, args, m.opts...)
	ended = true
}

// failed stops the work, because code of the caller's has panicked with value (nil: it has called
// runtime.Goexit).
func (m *callMapper[Out]) failed(value any) {
	t := &trouble{value}
	m.mu.Lock()
	returned := m.returned
	if !returned && m.trouble == nil {
		m.trouble = t
		close(m.troubled)
	}
	m.mu.Unlock()
	if returned { // no loop is there any more to have it
		foreign.Logger(nil).Error("the items of a Map that has returned failed", "cause", t.describe(), "stack", stackHere())
	}
}

// deliver yields the results in the items' order.
func (m *callMapper[Out]) deliver(yield func(Out, error) bool) {
	var zero Out
	for {
		var one *mappedCall[Out]
		more := true
		select {
		case one, more = <-m.order:
			if more {
				select {
				case <-one.done:
				case <-m.ctx.Done():
				case <-m.troubled:
				}
			}
		case <-m.ctx.Done():
		case <-m.troubled:
		}
		switch {
		case isClosed(m.troubled):
			return
		case m.ctx.Err() != nil:
			e := contextError(m.ctx, NotExecuted, nil)
			e.Context = ErrorContext{Command: m.command}
			yield(zero, e)
			return
		case !more || !yield(one.out, one.err):
			return
		}
	}
}

// join ends the work, and returns the trouble that there was. It waits for the calls, but not for
// long for the items.
func (m *callMapper[Out]) join(cancel func()) *trouble {
	cancel()
	receive.Within(m.fed, itemsGrace)
	m.mu.Lock()
	m.over = true
	m.mu.Unlock()
	m.calls.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.returned = true
	return m.trouble
}
