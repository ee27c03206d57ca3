// Package foreign deals with code of the caller's on goroutines where nobody but pypool could
// recover what it does: the values it panics with, and the log handlers it gives.
package foreign

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"runtime/debug"
)

// Apart runs f on a goroutine of its own and waits for it: code of the caller's that calls
// runtime.Goexit ends nothing else there.
func Apart(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// Failure is the error of code that has panicked, or called runtime.Goexit.
type Failure struct {
	Cause string
	Stack []byte
}

func (f *Failure) Error() string { return "it " + f.Cause }

// Try is Apart for code that may panic, too: that it has done either is a *Failure.
func Try(f func() error) (err error) {
	Apart(func() {
		ended := false
		defer func() {
			if !ended {
				err = &Failure{Cause(recover()), debug.Stack()}
			}
		}()
		err = f()
		ended = true
	})
	return err
}

// guarded is Try for code whose failure is nobody's business. It is not told: Describe is such code.
func guarded(f func()) {
	Apart(func() {
		defer func() { _ = recover() }()
		f()
	})
}

// Cause says how code of the caller's left a goroutine: by a panic with this value, or, where that
// is nil, by runtime.Goexit.
func Cause(value any) string {
	if value == nil {
		return "called runtime.Goexit"
	}
	return "panicked: " + Describe(value)
}

// Describe puts a value that code of the caller's has panicked with into words. Its methods may do
// what they like, except never return. One that package fmt could not print, because it contains
// itself, or which is larger than anyone reads, is told by its type: fmt would overflow the stack,
// and that ends the process.
func Describe(value any) string {
	text := fmt.Sprintf("a value of type %T, which cannot be told", value)
	guarded(func() {
		left := maxParts
		if printsItself(value) || finite(reflect.ValueOf(value), 0, &left) {
			text = fmt.Sprint(value)
		}
	})
	return text
}

const (
	maxParts = 1000 // of a value that is printed
	maxDepth = 20
)

// printsItself reports whether fmt asks the value itself for its text.
func printsItself(value any) bool {
	switch value.(type) {
	case error, fmt.Stringer, fmt.Formatter:
		return true
	}
	return false
}

// finite reports whether what fmt would print of v is at most maxDepth deep, and has at most so
// many parts as are left. fmt follows a pointer in the outermost place only.
func finite(v reflect.Value, depth int, left *int) bool {
	if *left--; *left < 0 || depth > maxDepth {
		return false
	}
	switch v.Kind() {
	case reflect.Pointer:
		return depth > 0 || v.IsNil() || finite(v.Elem(), 1, left)
	case reflect.Interface:
		return v.IsNil() || finite(v.Elem(), depth+1, left)
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if !finite(it.Key(), depth+1, left) || !finite(it.Value(), depth+1, left) {
				return false
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if !finite(v.Index(i), depth+1, left) {
				return false
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if !finite(v.Field(i), depth+1, left) {
				return false
			}
		}
	}
	return true
}

// Logger is l, or slog.Default where that is nil, for goroutines of pypool's: a record with which
// its handler panics, or calls runtime.Goexit, is lost, and nothing else is.
func Logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		l = slog.Default()
	}
	return slog.New(handler{l.Handler()})
}

// handler is a log handler of the caller's.
type handler struct{ of slog.Handler }

func (h handler) Enabled(ctx context.Context, level slog.Level) (enabled bool) {
	guarded(func() { enabled = h.of.Enabled(ctx, level) })
	return enabled
}

func (h handler) Handle(ctx context.Context, record slog.Record) (err error) {
	guarded(func() { err = h.of.Handle(ctx, record) })
	return err
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.derived(func() slog.Handler { return h.of.WithAttrs(attrs) })
}

func (h handler) WithGroup(name string) slog.Handler {
	return h.derived(func() slog.Handler { return h.of.WithGroup(name) })
}

// derived is what the handler makes of itself, or itself where that fails.
func (h handler) derived(derive func() slog.Handler) slog.Handler {
	of := h.of
	guarded(func() { of = derive() })
	return handler{of}
}
