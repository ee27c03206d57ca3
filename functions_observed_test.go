package pypool

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// told is what an observer was told of functions.
type told struct {
	mu    sync.Mutex // guards the fields below
	infos []FunctionInfo
	errs  []error
}

type spanKey struct{}

func (l *told) observer() *Observer {
	return &Observer{
		CallStart: func(ctx context.Context, _ CallInfo) context.Context {
			return context.WithValue(ctx, spanKey{}, "call")
		},
		FunctionStart: func(ctx context.Context, f FunctionInfo) context.Context {
			if f.Function == "plain" {
				return nil
			}
			return context.WithValue(ctx, spanKey{}, ctx.Value(spanKey{}).(string)+" > "+f.Function)
		},
		FunctionEnd: func(_ context.Context, f FunctionInfo, err error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.infos, l.errs = append(l.infos, f), append(l.errs, err)
		},
	}
}

func (l *told) last(t *testing.T) (FunctionInfo, error) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.NotEmpty(t, l.infos)
	return l.infos[len(l.infos)-1], l.errs[len(l.errs)-1]
}

// A traceparent comes from Python where it has OpenTelemetry; here something else plays its part.
const functionsOfObserver = `
from pypool import HostError, command, host
import sys

class Telemetry:
    trace = None
    def enter(self, trace): self.trace = trace
    def outgoing(self): return "" if self.trace is None else ',"trace":"%s"' % self.trace.replace("ff", "!!")

sys.modules["pypool._call"].RUNNING.telemetry = Telemetry()

@command
def ask(name):
    try:
        return getattr(host, name)()
    except HostError as error:
        return error.type

@command(concurrency=4)
async def ask_shared(name):
    return await getattr(host.aio, name)()
`

func TestAnObserverIsToldOfFunctions(t *testing.T) {
	t.Parallel()
	var l told
	observer, trace := l.observer(), ""
	observer.TraceParent = func(context.Context) string { return trace }
	span := func(ctx context.Context, _ struct{}) (string, error) { return ctx.Value(spanKey{}).(string), nil }
	p := newPool(t, Config{
		Script: script(t, functionsOfObserver), Python: realPython(), Size: 1, Overflow: -1, Observer: observer,
		Functions: Functions{
			"look": Func(span), "plain": Func(span),
			"fails":  Func(func(context.Context, struct{}) (int, error) { return 0, errors.New("no") }),
			"panics": Func(func(context.Context, struct{}) (int, error) { panic("trouble") }),
		},
	})
	call := func(command, name string) string {
		out, err := Call[string](t.Context(), p, command, []string{name}, WithSession("s"))
		require.NoError(t, err)
		return out
	}
	for _, command := range []string{"ask", "ask_shared"} {
		trace = parent(7)
		require.Equal(t, "call > look", call(command, "look"))
		info, err := l.last(t)
		require.NoError(t, err)
		assert.Equal(t, []string{"look", command, "s", "pypool", parent(7)}, []string{info.Function, info.Command, info.Session, info.Pool, info.Trace})
		assert.NotZero(t, info.RequestID)
	}
	trace = "00-" + strings.Repeat("f", 32) + "-" + strings.Repeat("f", 16) + "-00" // which the script makes none of
	require.Equal(t, "call > look", call("ask", "look"))
	info, err := l.last(t)
	require.NoError(t, err)
	assert.Empty(t, info.Trace, "what is none is dropped")
	require.Equal(t, "call", call("ask", "plain"))
	trace = ""
	require.Equal(t, "error", call("ask", "fails"))
	_, err = l.last(t)
	require.EqualError(t, err, "no")
	require.Equal(t, "panic", call("ask", "panics"))
	info, err = l.last(t)
	require.ErrorIs(t, err, errFunctionFailed)
	require.Equal(t, "panics", info.Function)
	before := len(l.infos)
	require.Equal(t, "unknown_function", call("ask", "nobody"))
	require.Len(t, l.infos, before, "there is nothing to tell of")
}
