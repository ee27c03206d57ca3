package foreign

import (
	"context"
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
func (c foreignContext) Err() error            { panic("Err") }
func (c foreignContext) Value(any) any         { return nil }

func TestOnlyContextsThatWouldBeAskedOnAnotherGoroutineAreGuarded(t *testing.T) {
	foreign := foreignContext{context.Background(), make(chan struct{})}
	canceled, cancel := context.WithCancel(context.Background())
	defer cancel()
	timed, cancelTimed := context.WithTimeout(context.WithValue(canceled, contextKey{}, 1), time.Hour)
	defer cancelTimed()
	for _, ctx := range []context.Context{
		context.Background(), canceled, timed, context.WithValue(timed, contextKey{}, 2), context.WithoutCancel(foreign), t.Context(),
	} {
		require.True(t, ctx == Context(ctx), "%T: it costs nothing", ctx)
	}
	for _, ctx := range []context.Context{foreign, context.WithValue(foreign, contextKey{}, 1)} {
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
