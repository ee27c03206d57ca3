package foreign

import (
	"context"
	"time"
)

// guardedContext is a caller's context, made fit for derivation: package context asks the parent of
// a derived context on goroutines of its own, unless the parent is one of its kind. What can be
// asked once is asked on the caller's goroutine.
type guardedContext struct {
	context.Context
	done     <-chan struct{}
	deadline time.Time
	limited  bool
}

// Context is ctx, guarded if package context would otherwise ask it on a goroutine of its own: what
// can be asked once is asked here, and what panics, or has ended without an error, is canceled.
func Context(ctx context.Context) context.Context {
	done := foreignDone(ctx)
	if done == nil {
		return ctx
	}
	g := &guardedContext{Context: ctx, done: done}
	g.deadline, g.limited = ctx.Deadline()
	return g
}

// foreignDone is the Done of a context that package context would have to ask. nil: it has none, or
// is guarded, or is one of package context's, or around one, which is told and asks nothing.
func foreignDone(ctx context.Context) <-chan struct{} {
	done := ctx.Done()
	if _, is := ctx.(*guardedContext); is || done == nil {
		return nil
	}
	if own, ok := ctx.Value(cancelKey).(context.Context); ok && own.Done() == done {
		return nil
	}
	return done
}

// Caller is ctx as its caller's own goroutine may ask it: one that has ended without an error is
// canceled, and what panics does so there.
func Caller(ctx context.Context) context.Context {
	done := foreignDone(ctx)
	if done == nil {
		return ctx
	}
	return &callersContext{ctx, done}
}

// callersContext is a caller's context that has an error once it has ended.
type callersContext struct {
	context.Context
	done <-chan struct{}
}

func (c *callersContext) Err() error {
	if err := c.Context.Err(); err != nil || !isClosed(c.done) {
		return err
	}
	return context.Canceled
}

// cancelKey is the key by which package context looks for a context of its own kind. It is learned
// from its asking: were it none, all that can end would be guarded.
var cancelKey = func() any {
	var l listener
	_, cancel := context.WithCancel(&l)
	cancel()
	return l.key
}()

// IsForContext reports whether a key is the one by which package context asks for its own kind.
func IsForContext(key any) bool { return key == cancelKey }

// listener is a context that hears what it is asked.
type listener struct{ key any }

func (l *listener) Deadline() (time.Time, bool)         { return time.Time{}, false }
func (l *listener) Done() <-chan struct{}               { return make(chan struct{}) }
func (l *listener) Err() error                          { return nil }
func (l *listener) Value(key any) any                   { l.key = key; return nil }
func (l *listener) AfterFunc(func()) (stop func() bool) { return func() bool { return true } }

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func (g *guardedContext) Done() <-chan struct{}       { return g.done }
func (g *guardedContext) Deadline() (time.Time, bool) { return g.deadline, g.limited }

// Err calls it canceled when the caller's Err panics, or knows nothing of a done that is closed:
// package context panics upon one that is nil then.
func (g *guardedContext) Err() (err error) {
	defer func() {
		if recover() != nil || err == nil && isClosed(g.done) {
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
