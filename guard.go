package pypool

import (
	"context"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/pypool/pypool/internal/foreign"
)

// How code of the caller's (iterators, marshalers, observers, log handlers, contexts) is run on
// goroutines of pypool's, where nobody but pypool could recover its panics. On the caller's own
// goroutine it needs nothing of this: a panic passes through.

// trouble is how code of the caller's left a goroutine that it was called on: by a panic, or by
// runtime.Goexit.
type trouble struct{ value any } // of the panic; nil: Goexit

// raise has the same happen on this goroutine.
func (t *trouble) raise() {
	if t.value == nil {
		runtime.Goexit()
	}
	panic(t.value)
}

// describe puts it into one line.
func (t *trouble) describe() string { return oneLine(foreign.Cause(t.value)) }

const maxStack = 8 << 10

// stackHere is this goroutine's stack, cut to maxStack bytes. Called while a panic unwinds, it
// shows where that began.
func stackHere() string {
	stack := debug.Stack()
	return strings.ToValidUTF8(string(stack[:min(len(stack), maxStack)]), "")
}

// guardedContext is a caller's context, made fit for derivation: package context asks the parent of
// a derived context on goroutines of its own, unless the parent is one of its kind. What can be
// asked once is asked on the caller's goroutine.
type guardedContext struct {
	context.Context
	done     <-chan struct{}
	deadline time.Time
	limited  bool
}

// watchable is ctx, guarded if package context would otherwise ask it on a goroutine of its own.
func watchable(ctx context.Context) context.Context {
	done := ctx.Done()
	if done == nil {
		return ctx
	}
	if own, ok := ctx.Value(cancelKey).(context.Context); ok && own.Done() == done {
		return ctx // one of package context's, or around one: it is told, and asks nothing
	}
	g := &guardedContext{Context: ctx, done: done}
	g.deadline, g.limited = ctx.Deadline()
	return g
}

// cancelKey is the key by which package context looks for a context of its own kind. It is learned
// from its asking: were it none, all that can end would be guarded.
var cancelKey = func() any {
	var l listener
	_, cancel := context.WithCancel(&l)
	cancel()
	return l.key
}()

// listener is a context that hears what it is asked.
type listener struct{ key any }

func (l *listener) Deadline() (time.Time, bool)         { return time.Time{}, false }
func (l *listener) Done() <-chan struct{}               { return make(chan struct{}) }
func (l *listener) Err() error                          { return nil }
func (l *listener) Value(key any) any                   { l.key = key; return nil }
func (l *listener) AfterFunc(func()) (stop func() bool) { return func() bool { return true } }

func (g *guardedContext) Done() <-chan struct{}       { return g.done }
func (g *guardedContext) Deadline() (time.Time, bool) { return g.deadline, g.limited }

// Err calls it canceled when the caller's Err panics: it is asked for once done is closed.
func (g *guardedContext) Err() (err error) {
	defer func() {
		if recover() != nil {
			err = context.Canceled
		}
	}()
	return g.Context.Err()
}

func (g *guardedContext) Value(key any) (value any) {
	defer func() {
		if recover() != nil {
			value = nil
		}
	}()
	return g.Context.Value(key)
}
