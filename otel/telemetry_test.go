package pypoolotel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/pypooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// interpreter is a Python with OpenTelemetry's SDK: what make test names, or that of build/venv.
func interpreter(t *testing.T) string {
	t.Helper()
	python := os.Getenv("PYPOOL_OTEL_PYTHON")
	named := python != ""
	if !named {
		var err error
		python, err = filepath.Abs("../build/venv/bin/python")
		require.NoError(t, err)
	}
	if out, err := exec.Command(python, "-c", "import opentelemetry.sdk").CombinedOutput(); err != nil {
		if named && exec.Command(python, "-c", "import sys; sys.exit(sys.version_info >= (3, 10))").Run() != nil {
			t.Fatalf("%s has no OpenTelemetry: %v\n%s", python, err, out)
		}
		t.Skip("no Python with OpenTelemetry's SDK here, which has to be 3.10 or later: make test-go installs it")
	}
	return python
}

// recorded is a pool of testdata/worker.py, and what its telemetry was given.
type recorded struct {
	pool   *pypool.Pool
	tracer trace.Tracer
	spans  *tracetest.SpanRecorder
	reader *sdkmetric.ManualReader
	logs   *syncBuffer
	tel    *Telemetry
}

type syncBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func start(t *testing.T, cfg pypool.Config, opts ...Option) *recorded {
	t.Helper()
	r := &recorded{spans: tracetest.NewSpanRecorder(), reader: sdkmetric.NewManualReader(), logs: &syncBuffer{}}
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r.spans))
	r.tracer = tracers.Tracer("test")
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.reader))
	telemetry, err := New(append([]Option{WithTracerProvider(tracers), WithMeterProvider(meters)}, opts...)...)
	require.NoError(t, err)
	r.tel = telemetry
	cfg.Script, cfg.Python, cfg.Logger = "testdata/worker.py", interpreter(t), slog.New(slog.NewJSONHandler(r.logs, nil))
	cfg.Functions = pypool.Functions{"lookup": pypool.Func(func(ctx context.Context, in struct{ ID string }) (string, error) {
		_, span := r.tracer.Start(ctx, "database")
		defer span.End()
		if in.ID == "nobody" {
			return "", errors.New("there is nobody")
		}
		return strings.ToUpper(in.ID), nil
	})}
	r.pool = pypooltest.Start(t, telemetry.Instrument(cfg))
	return r
}

// named are the spans of that name that have ended.
func (r *recorded) named(name string) (list []sdktrace.ReadOnlySpan) {
	for _, span := range r.spans.Ended() {
		if span.Name() == name {
			list = append(list, span)
		}
	}
	return list
}

func (r *recorded) one(t *testing.T, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	list := r.named(name)
	require.Len(t, list, 1, name)
	return list[0]
}

// pythonSpan is a span as Python's SDK writes it.
type pythonSpan struct {
	Name    string
	Context struct {
		TraceID string `json:"trace_id"`
		SpanID  string `json:"span_id"`
	}
	ParentID string `json:"parent_id"`
	Links    []struct {
		Context struct {
			TraceID string `json:"trace_id"`
			SpanID  string `json:"span_id"`
		}
	}
}

func (r *recorded) python(t *testing.T) []pythonSpan {
	t.Helper()
	list, err := pypool.Call[[]pythonSpan](t.Context(), r.pool, "spans", nil)
	require.NoError(t, err)
	return list
}

func attributes(span sdktrace.ReadOnlySpan) map[string]any { return values(span.Attributes()) }

func values(list []attribute.KeyValue) map[string]any {
	m := map[string]any{}
	for _, kv := range list {
		m[string(kv.Key)] = kv.Value.AsInterface()
	}
	return m
}

// TestOneTrace: from an HTTP client through a handler in Go, a call, Python, a function in Go that
// Python calls, and what that does. All under one trace, each under the one before.
func TestOneTrace(t *testing.T) {
	t.Run("started", func(t *testing.T) { testOneTrace(t, pypool.Config{}) })
	t.Run("forked", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			t.Skip("a fork server needs Linux")
		}
		testOneTrace(t, pypool.Config{ForkServer: true})
	})
}

func testOneTrace(t *testing.T, cfg pypool.Config) {
	r := start(t, cfg)
	propagator := propagation.TraceContext{}
	handler := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx := propagator.Extract(req.Context(), propagation.HeaderCarrier(req.Header))
		ctx, span := r.tracer.Start(ctx, "GET /greet", trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		greeting, err := pypool.Call[string](ctx, r.pool, req.URL.Query().Get("command"), []string{"ann"}, pypool.WithSession("s"))
		assert.NoError(t, err)
		_, _ = w.Write([]byte(greeting))
	})
	server := httptest.NewServer(handler)
	defer server.Close()
	for _, command := range []string{"greet", "greet", "greet_later", "greet_shared"} {
		r.spans.Reset()
		ctx, client := r.tracer.Start(t.Context(), "client")
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"?command="+command, nil)
		require.NoError(t, err)
		propagator.Inject(ctx, propagation.HeaderCarrier(req.Header))
		resp, err := server.Client().Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		client.End()
		require.Eventually(t, func() bool { return len(r.named("GET /greet")) == 1 }, 10*time.Second, time.Millisecond)

		work := r.python(t)
		require.Len(t, work, 1)
		served, called, function, database := r.one(t, "GET /greet"), r.one(t, command), r.one(t, "lookup"), r.one(t, "database")
		id := client.SpanContext().TraceID().String()
		for _, span := range []sdktrace.ReadOnlySpan{served, called, function, database} {
			require.Equal(t, id, span.SpanContext().TraceID().String(), span.Name())
			require.Equal(t, codes.Unset, span.Status().Code)
		}
		require.Equal(t, "0x"+id, work[0].Context.TraceID)
		require.Equal(t, client.SpanContext().SpanID(), served.Parent().SpanID())
		require.Equal(t, served.SpanContext().SpanID(), called.Parent().SpanID())
		require.Equal(t, "0x"+called.SpanContext().SpanID().String(), work[0].ParentID)
		require.Equal(t, work[0].Context.SpanID, "0x"+function.Parent().SpanID().String())
		require.True(t, function.Parent().IsRemote())
		require.Equal(t, function.SpanContext().SpanID(), database.Parent().SpanID())

		require.Equal(t, []trace.SpanKind{trace.SpanKindClient, trace.SpanKindServer}, []trace.SpanKind{called.SpanKind(), function.SpanKind()})
		attrs := attributes(called)
		for key, want := range map[string]any{"rpc.system.name": "pypool", "rpc.method": command, "session.id": "s", "pypool.pool.name": "pypool", "pypool.worker.id": "w1"} {
			require.Equal(t, want, attrs[key], key)
		}
		require.EqualValues(t, r.pool.Workers()[0].PID, attrs["process.pid"])
		require.Equal(t, attrs["pypool.request.id"], attributes(function)["pypool.request.id"])
		events := called.Events()
		require.Equal(t, []string{"pypool.queue", "pypool.run"}, []string{events[0].Name, events[1].Name})
		require.False(t, events[0].Time.After(events[1].Time))
		require.False(t, events[1].Time.After(called.EndTime()))
		require.Positive(t, values(events[1].Attributes)["pypool.run.duration"])
	}
}

func TestStreamsMapsAndBatches(t *testing.T) {
	r := start(t, pypool.Config{})
	ctx, root := r.tracer.Start(t.Context(), "root")
	defer root.End()
	for _, err := range pypool.Each[string](ctx, r.pool, "greet_all", map[string]any{"names": []string{"a", "b"}}) {
		require.NoError(t, err)
	}
	stream := r.one(t, "greet_all")
	for _, work := range r.python(t) {
		require.Equal(t, "0x"+stream.SpanContext().SpanID().String(), work.ParentID)
	}
	require.Len(t, r.named("lookup"), 2)

	r.spans.Reset()
	for _, err := range pypool.Map[string](ctx, r.pool, "greet", slices.Values([]string{"a", "b", "c"})) {
		require.NoError(t, err)
	}
	parents := map[string]bool{}
	for _, span := range r.named("greet") {
		parents["0x"+span.SpanContext().SpanID().String()] = true
	}
	for _, work := range r.python(t) {
		require.True(t, parents[work.ParentID], "each item's span is its own")
		delete(parents, work.ParentID)
	}
	require.Empty(t, parents)

	r.spans.Reset()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			_, err := pypool.Call[string](ctx, r.pool, "greet_many", []string{"a"})
			assert.NoError(t, err)
		})
	}
	group.Wait()
	got := r.python(t)
	i := slices.IndexFunc(got, func(s pythonSpan) bool { return s.Name == "batch greet_many" })
	require.GreaterOrEqual(t, i, 0, "%+v", got)
	linked := map[string]bool{}
	for _, link := range got[i].Links {
		linked[link.Context.SpanID] = true
	}
	for _, span := range r.named("greet_many") {
		require.True(t, linked["0x"+span.SpanContext().SpanID().String()])
	}
	require.Len(t, linked, 4)
	work := slices.IndexFunc(got, func(s pythonSpan) bool { return s.Name == "work" })
	require.Equal(t, got[i].Context.SpanID, got[work].ParentID)
}

func TestFailuresAreInTheSpans(t *testing.T) {
	for name, texts := range map[string]bool{"with texts": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			var opts []Option
			if !texts {
				opts = append(opts, WithoutTexts())
			}
			r := start(t, pypool.Config{}, opts...)
			_, err := pypool.Call[string](t.Context(), r.pool, "bad", nil)
			require.ErrorIs(t, err, pypool.ErrPython)
			bad := r.one(t, "bad")
			attrs := attributes(bad)
			require.Equal(t, []any{"python_exception", "Executed"}, []any{attrs["error.type"], attrs["pypool.delivery"]})
			require.Equal(t, codes.Error, bad.Status().Code)
			exception := bad.Events()[2]
			require.Equal(t, "exception", exception.Name)
			got := values(exception.Attributes)
			require.Equal(t, "ValueError", got["exception.type"])
			if texts {
				require.Equal(t, "it is bad", got["exception.message"])
				require.Contains(t, got["exception.stacktrace"], "Traceback (most recent call last)")
				require.Contains(t, bad.Status().Description, "it is bad")
			} else {
				require.Len(t, got, 1)
				require.Equal(t, "python_exception", bad.Status().Description)
			}
			_, err = pypool.Call[string](t.Context(), r.pool, "unknown", nil)
			require.Error(t, err)
			attrs = attributes(r.one(t, "unknown"))
			require.Equal(t, []any{"_OTHER", "unknown", "unknown_command"}, []any{attrs["rpc.method"], attrs["rpc.method_original"], attrs["error.type"]})
			_, err = pypool.Call[string](t.Context(), r.pool, "greet", []string{"nobody"})
			require.ErrorIs(t, err, pypool.ErrPython)
			lookup := r.one(t, "lookup")
			require.Equal(t, codes.Error, lookup.Status().Code)
			require.Equal(t, "*errors.errorString", attributes(lookup)["error.type"])
			canceled, cancel := context.WithCancel(t.Context())
			cancel()
			_, err = pypool.Call[string](canceled, r.pool, "greet", []string{"a"})
			require.ErrorIs(t, err, pypool.ErrCanceled)
			last := r.named("greet")[1]
			require.Equal(t, "canceled", attributes(last)["error.type"])
			require.Len(t, last.Events(), 1, "it was never given to a worker")
		})
	}
}

func TestMetrics(t *testing.T) {
	r := start(t, pypool.Config{Name: "models"})
	stop, err := r.tel.Watch(r.pool)
	require.NoError(t, err)
	for range 3 {
		_, err := pypool.Call[string](t.Context(), r.pool, "greet", []string{"a"}, pypool.WithSession("s"))
		require.NoError(t, err)
	}
	_, err = pypool.Call[string](t.Context(), r.pool, "bad", nil)
	require.Error(t, err)
	_, err = pypool.Call[string](t.Context(), r.pool, "unknown", nil)
	require.Error(t, err)
	got := r.metrics(t)
	histogram := func(name, method, failed string) metricdata.HistogramDataPoint[float64] {
		t.Helper()
		for _, p := range got[name].Data.(metricdata.Histogram[float64]).DataPoints {
			attrs := values(p.Attributes.ToSlice())
			if kind, _ := attrs["error.type"].(string); attrs["rpc.method"] == method && kind == failed {
				return p
			}
		}
		t.Fatalf("%s has no %s %s", name, method, failed)
		panic("unreachable")
	}
	require.Equal(t, "s", got["rpc.client.call.duration"].Unit)
	greet := histogram("rpc.client.call.duration", "greet", "")
	require.EqualValues(t, 3, greet.Count)
	require.Positive(t, greet.Sum)
	require.Equal(t, map[string]any{"rpc.method": "greet", "rpc.system.name": "pypool", "pypool.pool.name": "models"}, values(greet.Attributes.ToSlice()))
	require.EqualValues(t, 1, histogram("rpc.client.call.duration", "bad", "python_exception").Count)
	require.EqualValues(t, 1, histogram("rpc.client.call.duration", "_OTHER", "unknown_command").Count)
	require.EqualValues(t, 3, histogram("rpc.server.call.duration", "lookup", "").Count)
	require.EqualValues(t, 3, histogram("pypool.call.wait.duration", "greet", "").Count)
	require.EqualValues(t, 3, histogram("pypool.call.run.duration", "greet", "").Count)
	number := func(name string, key, value string) int64 {
		t.Helper()
		var points []metricdata.DataPoint[int64]
		switch data := got[name].Data.(type) {
		case metricdata.Sum[int64]:
			points = data.DataPoints
		case metricdata.Gauge[int64]:
			points = data.DataPoints
		}
		for _, p := range points {
			attrs := values(p.Attributes.ToSlice())
			found, _ := attrs[key].(string)
			if found == value && attrs["pypool.pool.name"] == "models" {
				return p.Value
			}
		}
		t.Fatalf("%s has no %s=%s", name, key, value)
		panic("unreachable")
	}
	for _, tc := range []struct {
		name, key, value string
		want             int64
	}{
		{"pypool.worker.count", "pypool.worker.state", "idle", 1}, {"pypool.worker.count", "pypool.worker.state", "busy", 0},
		{"pypool.worker.limit", "", "", 1}, {"pypool.worker.started", "", "", 1}, {"pypool.worker.exited", "", "", 0}, {"pypool.worker.recycled", "", "", 0}, {"pypool.worker.retired", "", "", 0}, {"pypool.queue.length", "", "", 0},
		{"pypool.call.active", "rpc.method", "greet", 0}, {"pypool.call.active", "rpc.method", "_OTHER", 0}, {"pypool.session.count", "", "", 1},
		{"pypool.circuit.state", "rpc.method", "", 0}, {"pypool.circuit.state", "rpc.method", "bad", 0},
	} {
		require.Equal(t, tc.want, number(tc.name, tc.key, tc.value), "%+v", tc)
	}
	require.NoError(t, stop())
	require.NotContains(t, r.metrics(t), "pypool.worker.count")
}

// A name that no worker has had makes no label, whatever its call failed with.
func TestCallersMakeNoLabelsUp(t *testing.T) {
	r := start(t, pypool.Config{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, ctx := range []context.Context{ended, t.Context(), ended} {
		_, err := r.pool.ExecuteAnonymous(ctx, "greet", []string{"a"})
		require.Equal(t, ctx == ended, err != nil)
		_, err = r.pool.ExecuteAnonymous(ctx, "made up", nil)
		require.Error(t, err)
		_, err = r.pool.ExecuteProgram(ctx, "made up", nil)
		require.Error(t, err)
	}
	// A worker had these, and has said of none that it knows it
	for i := range 3 {
		name := fmt.Sprint("made up ", i)
		_, err := r.pool.ExecuteAnonymous(t.Context(), name, nil, pypool.WithTimeout(1))
		require.Error(t, err)
		_, err = r.pool.ExecuteAnonymous(t.Context(), name, json.RawMessage(`{"a": `+strings.Repeat("1", 5000)+`}`))
		require.ErrorIs(t, err, pypool.ErrInvalidArguments, "no int of Python's takes that")
		for _, err := range r.pool.Stream(t.Context(), name, nil, pypool.WithTimeout(1)) {
			require.Error(t, err)
		}
	}
	observer := r.tel.Observer(nil)
	for i, typ := range []pypool.ErrorType{pypool.TypeCanceled, pypool.TypeOperationTimeout, pypool.TypeWorkerExited, pypool.TypeProtocol} {
		info := pypool.CallInfo{Command: fmt.Sprint("made up ", typ), Pool: "another", RequestID: uint64(i)}
		end := pypool.CallOutcome{Worker: "w1", Err: pypool.NewError(typ, pypool.MaybeExecuted, "", nil)}
		observer.CallEnd(observer.CallStart(t.Context(), info), info, end)
	}
	_, err := r.pool.ExecuteAnonymous(t.Context(), "greet_later", map[string]any{"nobody": 1})
	require.ErrorIs(t, err, pypool.ErrInvalidArguments, "it has looked at what that takes")
	_, err = r.tel.Caller(elsewhere{}).ExecuteAnonymous(t.Context(), "made up elsewhere", nil)
	require.ErrorIs(t, err, pypool.ErrPoolClosed)
	_, err = r.tel.Caller(elsewhere{r.pool}).ExecuteAnonymous(t.Context(), "bad", nil)
	require.ErrorIs(t, err, pypool.ErrPython)
	counts := map[any]uint64{}
	for _, p := range r.metrics(t)["rpc.client.call.duration"].Data.(metricdata.Histogram[float64]).DataPoints {
		counts[values(p.Attributes.ToSlice())["rpc.method"]] += p.Count
	}
	require.Equal(t, map[any]uint64{"_OTHER": 21, "greet": 2, "greet_later": 1, "bad": 2}, counts)
}

func (r *recorded) metrics(t *testing.T) map[string]metricdata.Metrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, r.reader.Collect(t.Context(), &all))
	found := map[string]metricdata.Metrics{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			found[m.Name] = m
		}
	}
	return found
}

func TestLogRecordsHaveTheSpanOfTheirCall(t *testing.T) {
	r := start(t, pypool.Config{})
	_, err := pypool.Call[string](t.Context(), r.pool, "greet", []string{"ann"})
	require.NoError(t, err)
	require.NoError(t, r.pool.Close()) // and with it the log
	span := r.one(t, "greet").SpanContext()
	found := false
	for line := range strings.Lines(r.logs.String()) {
		var record map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &record))
		if record["msg"] == "greeting ann" {
			found = true
			require.Equal(t, []any{span.TraceID().String(), span.SpanID().String()}, []any{record["trace_id"], record["span_id"]})
		} else {
			require.NotContains(t, record, "trace_id", line)
		}
	}
	require.True(t, found, r.logs.String())
}

// The spans of calls that have ended are forgotten behind many others.
func TestSpansForLogRecordsAreForgotten(t *testing.T) {
	var s spans
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}})
	s.begin("p", 1, span)
	_, known := s.of("p", 1)
	require.False(t, known, "no handler wants it")
	s.wanted.Store(true)
	s.begin("p", 0, span) // goes on
	for i := range uint64(3 * remembered) {
		s.begin("p", i+1, span)
		s.end("p", i+1)
	}
	require.Len(t, s.known, remembered+1)
	_, known = s.of("p", 0)
	require.True(t, known)
	_, known = s.of("q", 0)
	require.False(t, known)
}

type contextKey struct{}

// An Observer that was there goes on, inside of the span, and what it panics with ends the span.
func TestAnotherObserverGoesOn(t *testing.T) {
	var seen []string
	inner := &pypool.Observer{
		CallStart: func(ctx context.Context, c pypool.CallInfo) context.Context {
			if c.Command == "spans" {
				panic("trouble")
			}
			seen = append(seen, "start "+trace.SpanContextFromContext(ctx).SpanID().String())
			return context.WithValue(ctx, contextKey{}, "kept")
		},
		CallEnd: func(ctx context.Context, _ pypool.CallInfo, _ pypool.CallOutcome) {
			kept, _ := ctx.Value(contextKey{}).(string)
			seen = append(seen, "end "+kept)
		},
		FunctionEnd: func(_ context.Context, f pypool.FunctionInfo, err error) { seen = append(seen, f.Function) },
	}
	r := start(t, pypool.Config{Observer: inner})
	_, err := pypool.Call[string](t.Context(), r.pool, "greet", []string{"ann"})
	require.NoError(t, err)
	require.Equal(t, []string{"start " + r.one(t, "greet").SpanContext().SpanID().String(), "lookup", "end kept"}, seen)
	require.Panics(t, func() { _, _ = r.pool.ExecuteAnonymous(t.Context(), "spans", nil) })
	require.Equal(t, codes.Error, r.one(t, "spans").Status().Code)
}

// The Observer inside gives Python its trace where there is no span of this one's: as with a provider that makes none.
func TestTheTraceParentOfAnotherObserverGoesOn(t *testing.T) {
	script := filepath.Join(t.TempDir(), "worker.py")
	require.NoError(t, os.WriteFile(script, []byte("from pypool import command, current_call\n@command\ndef told(): return current_call().trace or \"\"\n"), 0o600))
	const theirs = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	inner := &pypool.Observer{
		CallStart: func(ctx context.Context, _ pypool.CallInfo) context.Context {
			return context.WithValue(ctx, contextKey{}, theirs)
		},
		TraceParent: func(ctx context.Context) string {
			parent, _ := ctx.Value(contextKey{}).(string)
			return parent
		},
	}
	told := func(provider trace.TracerProvider, observer *pypool.Observer) string {
		telemetry, err := New(WithTracerProvider(provider))
		require.NoError(t, err)
		pool := pypooltest.Start(t, telemetry.Instrument(pypool.Config{Script: script, Python: os.Getenv("PYPOOL_PYTHON"), Observer: observer}))
		parent, err := pypool.Call[string](t.Context(), pool, "told", nil)
		require.NoError(t, err)
		return parent
	}
	require.Equal(t, theirs, told(tracenoop.NewTracerProvider(), inner))
	require.Empty(t, told(tracenoop.NewTracerProvider(), &pypool.Observer{}))
	spans := tracetest.NewSpanRecorder()
	parent := told(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)), inner)
	require.Len(t, spans.Ended(), 1)
	require.Equal(t, TraceParent(trace.ContextWithSpanContext(t.Context(), spans.Ended()[0].SpanContext())), parent, "Python's spans come under the call's")
}

func TestTraceParents(t *testing.T) {
	require.Empty(t, TraceParent(context.Background()))
	for _, parent := range []string{"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"} {
		require.Equal(t, parent, TraceParent(trace.ContextWithSpanContext(context.Background(), spanOf(parent))))
	}
	require.True(t, spanOf("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0b").IsSampled())
}
