package foreign

import (
	"context"
	"errors"
	"reflect"
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

// Context is ctx for goroutines of pypool's. Whatever is no context of package context, or is around
// one that is not, is guarded: what can be asked once is asked here, and what panics later, or has
// ended without an error, is canceled.
func Context(ctx context.Context) context.Context {
	if isPlain(ctx, true) {
		return ctx
	}
	_ = ctx.Err() // what always panics does so here
	return guard(ctx)
}

// Watched is Context for package context alone, which asks for the end and its error.
func Watched(ctx context.Context) context.Context {
	if isPlain(ctx, false) {
		return ctx
	}
	return guard(ctx)
}

func guard(ctx context.Context) context.Context {
	g := &guardedContext{Context: ctx, done: ctx.Done()}
	g.deadline, g.limited = ctx.Deadline()
	_ = ctx.Value(cancelKey) // as in Context
	return g
}

// Caller is ctx as its caller's own goroutine may ask it: one that has ended without an error is
// canceled, and what panics does so there.
func Caller(ctx context.Context) context.Context {
	if isPlain(ctx, false) {
		return ctx
	}
	_ = ctx.Value(cancelKey) // package context will ask for it: what panics does so before there is a worker
	return &callersContext{ctx, ctx.Done()}
}

// isPlain reports whether package context itself answers what ctx is asked, as far as the types
// tell: its end and its error, or all. What embeds one of its contexts is none of them: it may have
// methods of its own.
func isPlain(ctx context.Context, all bool) bool {
	for {
		switch k := kindOf(ctx); {
		case k.root, k.ends && !all:
			return true
		case k.around == nil:
			return false
		default:
			ctx, _ = reflect.ValueOf(ctx).Elem().FieldByIndex(k.around).Interface().(context.Context)
		}
	}
}

// kind is a type of package context's, or of this one.
type kind struct {
	of     reflect.Type
	root   bool  // it is around none, or guarded
	ends   bool  // it has an end and an error of its own, whatever it is around
	around []int // the field with the context that it is around; nil: it cannot be looked into
}

// kindOf is the zero kind for a type of anybody else's.
func kindOf(ctx context.Context) *kind {
	t := reflect.TypeOf(ctx)
	for i := range kinds {
		if kinds[i].of == t {
			return &kinds[i]
		}
	}
	return &foreignKind
}

var foreignKind kind

// kinds are learned from contexts, as package context does not export them. One that is built in
// another way than is known here is guarded.
var kinds = func() []kind {
	background := context.Background()
	canceled, cancel := context.WithCancel(background)
	cancel()
	timed, cancel := context.WithTimeout(background, time.Hour)
	cancel()
	value := context.WithValue(background, &listener{}, 0)
	return []kind{ // the most frequent ones first
		{of: reflect.TypeOf(background), root: true},
		{of: reflect.TypeOf(canceled), ends: true, around: around(canceled)},
		{of: reflect.TypeOf(timed), ends: true, around: around(timed)},
		{of: reflect.TypeOf(value), around: around(value)},
		{of: reflect.TypeFor[*guardedContext](), root: true},
		{of: reflect.TypeOf(context.WithoutCancel(background)), ends: true},
		{of: reflect.TypeOf(context.TODO()), root: true},
	}
}()

// around is the index of the field by which ctx, which is around the background, is so.
func around(ctx context.Context) []int {
	v := reflect.ValueOf(ctx)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return nil
	}
	f, ok := v.Type().Elem().FieldByName("Context")
	if !ok || !v.Elem().FieldByIndex(f.Index).CanInterface() || v.Elem().FieldByIndex(f.Index).Interface() != any(context.Background()) {
		return nil
	}
	return f.Index
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

// Err is one of package context's two errors: nobody asks a third one's methods on a goroutine of
// pypool's. It is canceled when the caller's Err panics, or ends its goroutine, or knows nothing of
// a done that is closed: package context panics upon one that is nil then.
func (g *guardedContext) Err() (err error) {
	failed := true
	guarded(func() {
		switch e := g.Context.Err(); {
		case e == nil:
		case errors.Is(e, context.DeadlineExceeded):
			err = context.DeadlineExceeded
		default:
			err = context.Canceled
		}
		failed = false
	})
	if failed || err == nil && isClosed(g.done) {
		return context.Canceled
	}
	return err
}

func (g *guardedContext) Value(key any) (value any) {
	guarded(func() { value = g.Context.Value(key) })
	return value
}
