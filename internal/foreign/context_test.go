package foreign

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// foreignContext is no context of package context.
type foreignContext struct {
	context.Context
	done chan struct{}
}

func (c foreignContext) Done() <-chan struct{} { return c.done }
func (c foreignContext) Err() error            { return nil }
func (c foreignContext) Value(any) any         { return nil }

// embedding has the end of a context of package context's, and one method of its own.
type embedding struct {
	context.Context
	err func() error
}

func (c embedding) Err() error { return c.err() }

func TestOnlyContextsThatReachTheCallersCodeAreGuarded(t *testing.T) {
	foreign := foreignContext{context.Background(), make(chan struct{})}
	canceled, cancel := context.WithCancel(context.Background())
	defer cancel()
	timed, cancelTimed := context.WithTimeout(context.WithValue(canceled, contextKey{}, 1), time.Hour)
	defer cancelTimed()
	for _, ctx := range []context.Context{
		context.Background(), canceled, timed, context.WithValue(timed, contextKey{}, 2), t.Context(),
	} {
		require.True(t, ctx == Context(ctx) && ctx == Caller(ctx) && ctx == Watched(ctx), "%T", ctx)
		require.Zero(t, testing.AllocsPerRun(10, func() { Watched(Caller(Context(ctx))) }), "%T: it costs nothing", ctx)
	}
	around, cancelAround := context.WithCancel(foreign)
	for _, ctx := range []context.Context{around, context.WithoutCancel(foreign)} {
		require.True(t, ctx == Caller(ctx) && ctx == Watched(ctx), "%T: its error is package context's", ctx)
		require.IsType(t, &guardedContext{}, Context(ctx), "%T: its values are not", ctx)
	}
	cancelAround() // package context itself would ask foreign
	embeds := embedding{canceled, func() error { return nil }}
	for _, ctx := range []context.Context{foreign, context.WithValue(foreign, contextKey{}, 1), embeds, context.WithValue(embeds, contextKey{}, 1), embedding{context.Background(), embeds.err}} {
		require.IsType(t, &callersContext{}, Caller(ctx))
		require.IsType(t, &guardedContext{}, Watched(ctx))
		guarded := Context(ctx)
		require.IsType(t, &guardedContext{}, guarded)
		derived, cancel := context.WithCancel(guarded)
		require.NoError(t, derived.Err())
		cancel()
	}
	derived, cancelDerived := context.WithCancel(Context(foreign))
	defer cancelDerived()
	close(foreign.done)
	<-derived.Done()
	require.ErrorIs(t, derived.Err(), context.Canceled)
}

type contextKey struct{}

// endedContext has ended, and says that it has not.
type endedContext struct {
	context.Context
	done chan struct{}
}

func (c endedContext) Done() <-chan struct{} { return c.done }
func (c endedContext) Err() error            { return nil }

func TestAContextThatEndsWithoutAnErrorIsCanceled(t *testing.T) {
	c := endedContext{context.Background(), make(chan struct{})}
	guarded := Context(c)
	require.True(t, guarded == Context(guarded), "once is enough")
	derived, cancel := context.WithTimeout(guarded, time.Hour)
	defer cancel()
	require.NoError(t, guarded.Err())
	close(c.done)
	<-derived.Done()
	require.ErrorIs(t, derived.Err(), context.Canceled)
	require.ErrorIs(t, guarded.Err(), context.Canceled)
}

// hostile is an error that panics when it is compared.
type hostile []int

func (hostile) Error() string { panic("Error") }
func (hostile) Is(error) bool { panic("Is") }

func TestAGuardedContextsErrorIsOneOfPackageContexts(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for name, err := range map[string]func() error{
		"nil": func() error { return nil }, "one that is hostile": func() error { return hostile{} },
		"a panic": func() error { panic("Err") }, "Goexit": func() error { runtime.Goexit(); return nil },
	} {
		fails := false
		guarded := Context(embedding{ended, func() error {
			if fails {
				return err()
			}
			return context.Canceled
		}})
		fails = true
		require.Equal(t, context.Canceled, guarded.Err(), name)
	}
	late := Context(embedding{ended, func() error { return fmt.Errorf("late: %w", context.DeadlineExceeded) }})
	require.Equal(t, context.DeadlineExceeded, late.Err())
}
