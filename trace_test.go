package pypool

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const traced = `
from pypool import _requests, command, current_call, program

lines = []
plain = _requests._unpack
def unpack(text):
    requests = plain(text)
    lines.append(len({request[-1] for request in requests}))
    return requests
_requests._unpack = unpack

@command
def trace(n=0):
    return current_call().trace

@command
def convert(n: "set" = ()):
    return current_call().trace

@command
async def later():
    return current_call().trace

@command
def tokens():
    yield current_call().trace
    yield current_call().trace

@program("traced")
def run(n=0):
    return current_call().trace

@command
def shared():
    return lines
`

type traceKey struct{}

// parents is an observer that gives each call a traceparent of its own, through the context of
// CallStart.
type parents struct{ started, asked atomic.Int64 }

func parent(n int64) string { return fmt.Sprintf("00-%032x-%016x-01", n, n) }

func (p *parents) observer() *Observer {
	return &Observer{
		CallStart: func(ctx context.Context, _ CallInfo) context.Context {
			return context.WithValue(ctx, traceKey{}, parent(p.started.Add(1)))
		},
		TraceParent: func(ctx context.Context) string {
			p.asked.Add(1)
			trace, _ := ctx.Value(traceKey{}).(string)
			return trace
		},
	}
}

func TestPythonHasTheTraceParentOfEachCall(t *testing.T) {
	t.Parallel()
	var ps parents
	p := newPool(t, Config{Script: script(t, traced), Python: realPython(), Size: 1, Overflow: -1, Observer: ps.observer()})
	ctx := t.Context()
	n := int64(0)
	next := func() string { n++; return parent(n) }
	for range 3 { // the first call of a command goes another way than the later ones
		for _, command := range []string{"trace", "convert", "later"} {
			res, err := p.ExecuteAnonymous(ctx, command, nil)
			require.NoError(t, err)
			require.Equal(t, next(), decoded[string](t, res), command)
		}
		res, err := p.ExecuteInSession(ctx, "s", "trace", nil, WithTimeout(-1))
		require.NoError(t, err)
		require.Equal(t, next(), decoded[string](t, res))
		res, err = p.ExecuteProgram(ctx, "traced", nil)
		require.NoError(t, err)
		require.Equal(t, next(), decoded[string](t, res))
		want, items := next(), 0
		for trace, err := range Each[string](ctx, p, "tokens", nil) {
			require.NoError(t, err)
			require.Equal(t, want, trace)
			items++
		}
		require.Equal(t, 2, items)
	}
	_, err := p.ExecuteAnonymous(ctx, "trace", make(chan int))
	require.ErrorIs(t, err, ErrInvalidArguments)
	require.EqualValues(t, n+1, ps.asked.Load(), "asked once for each call")
}

// Requests of one trace share a line; those of different ones do not.
func TestPythonHasTheTraceParentOfEachItemOfAMap(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		of     func(item int64) int64
		shared bool
	}{
		"one for each item":      {func(item int64) int64 { return item }, false},
		"one for ten":            {func(item int64) int64 { return item/10 + 1 }, true},
		"one for all":            {func(int64) int64 { return 1 }, true},
		"none for every seventh": {func(item int64) int64 { return item % 7 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var begun, asked int64 // on the one goroutine that feeds
			p := newPool(t, Config{Script: script(t, traced), Python: realPython(), Size: 1, Overflow: -1, Observer: &Observer{
				CallStart: func(ctx context.Context, c CallInfo) context.Context {
					if c.Command != "trace" {
						return ctx
					}
					begun++
					return context.WithValue(ctx, traceKey{}, tc.of(begun))
				},
				TraceParent: func(ctx context.Context) string {
					n, _ := ctx.Value(traceKey{}).(int64)
					if n == 0 {
						return ""
					}
					asked++
					return parent(n)
				},
			}})
			const items = 8000 // more than there are slots
			i := int64(0)
			for trace, err := range Map[string](t.Context(), p, "trace", integers(items)) {
				require.NoError(t, err)
				i++
				want := ""
				if n := tc.of(i); n != 0 {
					want = parent(n)
				}
				require.Equal(t, want, trace, "item %d", i)
			}
			require.EqualValues(t, items, i)
			traces := decoded[[]int](t, executed(t, p, "shared", nil))
			require.Equal(t, tc.shared, len(traces) > 0, "lines of several requests: %d", len(traces))
			for _, n := range traces {
				require.Equal(t, 1, n, "traces in a line")
			}
		})
	}
}

func TestABadTraceParentIsNotSentAndToldOnce(t *testing.T) {
	t.Parallel()
	logs := &logBuffer{}
	value := "not\na traceparent"
	p := newPool(t, Config{Script: script(t, traced), Python: realPython(), Size: 1, Overflow: -1, Logger: logs.logger(slog.LevelInfo), Observer: &Observer{
		TraceParent: func(context.Context) string { return value },
	}})
	for range 3 {
		require.Equal(t, "null", string(executed(t, p, "trace", nil).Raw()))
	}
	value = parent(7)
	require.Equal(t, value, decoded[string](t, executed(t, p, "trace", nil)))
	value = ""
	require.Equal(t, "null", string(executed(t, p, "trace", nil).Raw()))
	require.NoError(t, p.Close())
	records := logs.with(t, "Observer.TraceParent returned what is no W3C traceparent: such calls are sent without")
	require.Len(t, records, 1)
	require.Equal(t, `not\na traceparent`, records[0]["value"])
}

// The examples and rules of https://www.w3.org/TR/trace-context/, section 3.2.
func TestValidTraceParent(t *testing.T) {
	t.Parallel()
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	at := func(i int, with string) string { return good[:i] + with + good[i+len(with):] }
	for value, want := range map[string]bool{
		good:         true,
		at(53, "00"): true,
		at(53, "ff"): true,
		at(0, "01"):  true,
		at(0, "cc") + "-what-the-future-will-be-like": true,
		at(0, "cc") + ".what-the-future-will-be-like": false,
		at(0, "cc") + "-a b":                          false,
		at(0, "cc") + "-" + strings.Repeat("a", 600):  false,
		at(0, "ff"):                     false,
		good + "-00":                    false,
		good + " ":                      false,
		good[:54]:                       false,
		strings.ToUpper(good):           false,
		at(3, strings.Repeat("0", 32)):  false,
		at(36, strings.Repeat("0", 16)): false,
		at(2, "_"):                      false,
		at(35, "_"):                     false,
		at(52, "_"):                     false,
		at(10, "g"):                     false,
		at(10, "-"):                     false,
		at(40, "\""):                    false,
		at(40, "\xff"):                  false,
		"":                              false,
		"00":                            false,
	} {
		assert.Equal(t, want, validTraceParent(value), "%q", value)
	}
}
