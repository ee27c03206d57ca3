package foreign

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

type stringer func() string

func (s stringer) String() string { return s() }

type failure func() string

func (f failure) Error() string { return f() }

func TestDescribeTellsWhatFmtCanPrint(t *testing.T) {
	var none *stringer
	for want, value := range map[string]any{
		"no device": "no device",
		"mine":      errors.New("mine"),
		"7":         7,
		"{5 why}": struct {
			Code int
			Text string
		}{5, "why"},
		"&{5}":           &struct{ Code int }{5},
		"[1 2]":          []any{1, 2},
		"map[a:[1]]":     map[string]any{"a": []int{1}},
		"told by itself": stringer(func() string { return "told by itself" }),
		"<nil>":          none,
		"wrapped: mine":  fmt.Errorf("wrapped: %w", errors.New("mine")),
	} {
		require.Equal(t, want, Describe(value))
	}
}

func TestDescribeSurvivesAPanicOfTheValuesOwn(t *testing.T) {
	require.Contains(t, Describe(stringer(func() string { panic("in String") })), "in String")
}

// What fmt could not print would end the process, so that this test is its own judge.
func TestDescribeTellsTheTypeOfWhatCannotBePrinted(t *testing.T) {
	list, pairs := make([]any, 1), map[string]any{}
	list[0], pairs["itself"] = list, pairs
	type node struct{ Next any }
	ring := &node{}
	ring.Next = []any{*ring, pairs}
	wide := map[int]any{}
	for i := range 50 {
		wide[i] = wide
	}
	deep := any(0)
	for range 1_000_000 {
		deep = []any{deep}
	}
	for name, value := range map[string]any{
		"a slice in itself": list, "a map in itself": pairs, "a struct around them": ring, "a pointer to one": &pairs,
		"a map that has itself many times": wide, "a million deep": deep, "huge": make([]byte, 1<<30),
		"a Goexit in String": stringer(func() string { runtime.Goexit(); return "" }),
		"a Goexit in Error":  failure(func() string { runtime.Goexit(); return "" }),
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, Describe(value), fmt.Sprintf("%T", value)[:3])
		})
	}
}

// worst is a log handler that does one thing.
type worst struct{ does func() }

func (w worst) Enabled(context.Context, slog.Level) bool  { w.does(); return true }
func (w worst) Handle(context.Context, slog.Record) error { w.does(); return nil }
func (w worst) WithAttrs([]slog.Attr) slog.Handler        { w.does(); return w }
func (w worst) WithGroup(string) slog.Handler             { w.does(); return w }

func TestALoggersHandlerMayDoItsWorst(t *testing.T) {
	for name, does := range map[string]func(){"panics": func() { panic("full disk") }, "ends its goroutine": runtime.Goexit} {
		for after := range 4 { // in each of its methods, as it were
			t.Run(fmt.Sprint(name, after), func(t *testing.T) {
				calls := 0
				l := Logger(slog.New(worst{func() {
					if calls++; calls > after {
						does()
					}
				}}))
				l.With("a", 1).WithGroup("g").Info("said")
				require.Greater(t, calls, after)
			})
		}
	}
}
