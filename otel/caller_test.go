package pypoolotel

import (
	"context"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/pypool/pypool"
)

// elsewhere is a Caller whose calls are served without their contexts' values, as a client's on
// another machine are.
type elsewhere struct{ pool *pypool.Pool }

func (e elsewhere) ExecuteInSession(_ context.Context, id, command string, args any, opts ...pypool.CallOption) (pypool.Result, error) {
	return e.pool.ExecuteInSession(context.Background(), id, command, args, opts...)
}

func (e elsewhere) ExecuteAnonymous(_ context.Context, command string, args any, opts ...pypool.CallOption) (pypool.Result, error) {
	return e.pool.ExecuteAnonymous(context.Background(), command, args, opts...)
}

func (e elsewhere) ExecuteProgram(_ context.Context, id string, inputs any, opts ...pypool.CallOption) (pypool.Result, error) {
	return e.pool.ExecuteProgram(context.Background(), id, inputs, opts...)
}

func (e elsewhere) Stream(_ context.Context, command string, args any, opts ...pypool.CallOption) iter.Seq2[pypool.Result, error] {
	return e.pool.Stream(context.Background(), command, args, opts...)
}

// One trace over a Caller whose calls are served elsewhere: its span, that pool's, Python's.
func TestATraceGoesThroughACaller(t *testing.T) {
	r := start(t, pypool.Config{})
	caller := r.tel.Caller(elsewhere{r.pool})
	ctx, root := r.tracer.Start(t.Context(), "root")
	for name, call := range map[string]func() error{
		"greet": func() error {
			_, err := pypool.Call[string](ctx, caller, "greet", []string{"ann"}, pypool.WithSession("s"))
			return err
		},
		"greet_later": func() error {
			_, err := pypool.Call[string](ctx, caller, "greet_later", []string{"ann"})
			return err
		},
		"greet_all": func() error {
			for _, err := range pypool.Each[string](ctx, caller, "greet_all", map[string]any{"names": []string{"a"}}) {
				if err != nil {
					return err
				}
			}
			return nil
		},
	} {
		r.spans.Reset()
		require.NoError(t, call())
		spans := r.named(name)
		require.Len(t, spans, 2, name)
		inner, outer := spans[0], spans[1] // in the order of their ends
		require.Equal(t, root.SpanContext().SpanID(), outer.Parent().SpanID())
		require.Equal(t, outer.SpanContext().SpanID(), inner.Parent().SpanID())
		require.True(t, inner.Parent().IsRemote())
		work := r.python(t)
		require.Len(t, work, 1)
		require.Equal(t, "0x"+inner.SpanContext().SpanID().String(), work[0].ParentID)
		require.Equal(t, "0x"+root.SpanContext().TraceID().String(), work[0].Context.TraceID)
		told := attributes(outer)
		require.Equal(t, "w1", told["pypool.worker.id"])
		require.NotContains(t, told, "process.pid", "a result does not tell it")
		require.Contains(t, attributes(inner), "process.pid")
		ran := slices.IndexFunc(outer.Events(), func(e sdktrace.Event) bool { return e.Name == "pypool.run" })
		require.GreaterOrEqual(t, ran, 0)
		require.Positive(t, values(outer.Events()[ran].Attributes)["pypool.run.duration"], "of a stream: until its last item")
	}
}

// A trace that a call was passed on with goes on through a Caller, as through a pool.
func TestACallersCallGoesOnWithTheTraceItWasGiven(t *testing.T) {
	r := start(t, pypool.Config{})
	caller := r.tel.Caller(elsewhere{r.pool})
	ctx, root := r.tracer.Start(t.Context(), "root")
	passed := pypool.WithTraceParent(TraceParent(ctx))
	for name, call := range map[string]func() error{
		"greet": func() error {
			_, err := caller.ExecuteInSession(context.Background(), "s", "greet", []string{"ann"}, passed)
			return err
		},
		"greet_all": func() error {
			for _, err := range caller.Stream(context.Background(), "greet_all", map[string]any{"names": []string{"a"}}, passed) {
				if err != nil {
					return err
				}
			}
			return nil
		},
	} {
		r.spans.Reset()
		require.NoError(t, call())
		spans := r.named(name)
		require.Len(t, spans, 2, name)
		inner, outer := spans[0], spans[1]
		require.Equal(t, root.SpanContext().SpanID(), outer.Parent().SpanID(), name)
		require.True(t, outer.Parent().IsRemote())
		require.Equal(t, outer.SpanContext().SpanID(), inner.Parent().SpanID())
		work := r.python(t)
		require.Len(t, work, 1)
		require.Equal(t, "0x"+root.SpanContext().TraceID().String(), work[0].Context.TraceID)
	}
	r.spans.Reset()
	within, other := r.tracer.Start(t.Context(), "other")
	_, err := caller.ExecuteAnonymous(within, "greet", []string{"ann"}, passed)
	require.NoError(t, err)
	require.Equal(t, other.SpanContext().SpanID(), r.named("greet")[1].Parent().SpanID(), "the context's span is nearer")
}

// A Caller's calls have no number, and so no log record is about them.
func TestACallersCallHasNoLogRecords(t *testing.T) {
	r := start(t, pypool.Config{})
	log := slog.New(r.tel.Handler(slog.NewJSONHandler(r.logs, nil)))
	for range r.tel.Caller(elsewhere{r.pool}).Stream(t.Context(), "greet_all", map[string]any{"names": []string{"a"}}) {
		log.Info("of nothing")
	}
	found := false
	for line := range strings.Lines(r.logs.String()) {
		if strings.Contains(line, "of nothing") {
			found = true
			require.NotContains(t, line, "trace_id")
		}
	}
	require.True(t, found)
}

func TestFailuresOfACallerAreInItsSpans(t *testing.T) {
	r := start(t, pypool.Config{})
	caller := r.tel.Caller(elsewhere{r.pool})
	_, err := caller.ExecuteProgram(t.Context(), "none", nil)
	require.ErrorIs(t, err, pypool.ErrUnknownCommand)
	outer := r.named("execute_program:none")[1]
	require.Equal(t, codes.Error, outer.Status().Code)
	require.Equal(t, "execute_program:none", attributes(outer)["rpc.method_original"])
	for range caller.Stream(t.Context(), "greet_all", map[string]any{"names": []string{"a", "b"}}) {
		break
	}
	require.Equal(t, codes.Unset, r.named("greet_all")[1].Status().Code, "who leaves a loop has not failed")
	require.Panics(t, func() {
		for range caller.Stream(t.Context(), "greet_all", map[string]any{"names": []string{"a"}}) {
			panic("trouble")
		}
	})
	require.Equal(t, codes.Error, r.named("greet_all")[3].Status().Code)
}
