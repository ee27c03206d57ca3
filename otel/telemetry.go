// Package pypoolotel tells OpenTelemetry what a pool of Python workers does: a span for each call,
// under which Python's own spans come, and the functions of the Go program that Python calls; the
// durations of calls, and the pool's state, as metrics; and the log of the pool and its workers,
// record by record with the span of the call that it is about.
//
//	telemetry, err := pypoolotel.New()
//	pool, err := pypool.New(ctx, telemetry.Instrument(pypool.Config{Script: "worker.py"}))
//	stop, err := telemetry.Watch(pool)
package pypoolotel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
	"go.opentelemetry.io/otel/semconv/v1.40.0/rpcconv"
	"go.opentelemetry.io/otel/trace"

	"github.com/pypool/pypool"
)

const scope = "github.com/pypool/pypool/otel"

// Option changes a [Telemetry].
type Option func(*options)

type options struct {
	tracers trace.TracerProvider
	meters  metric.MeterProvider
	texts   bool
}

// WithTracerProvider sets where spans go, in place of the global provider, which nil stands for.
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(o *options) {
		if p != nil {
			o.tracers = p
		}
	}
}

// WithMeterProvider sets where metrics go, in place of the global provider, which nil stands for.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(o *options) {
		if p != nil {
			o.meters = p
		}
	}
}

// WithoutTexts keeps what Python has put into an exception, its message and traceback, and the text
// of errors out of spans. Their types are there.
func WithoutTexts() Option { return func(o *options) { o.texts = false } }

// Telemetry is the instrumentation of one or several pools, each with a Config.Name of its own. It
// is safe for concurrent use.
type Telemetry struct {
	tracer trace.Tracer
	meter  metric.Meter
	texts  bool
	calls  spans
	known  sync.Map // the methods' names that a worker has shown to know

	duration rpcconv.ClientCallDuration
	serves   rpcconv.ServerCallDuration
	wait     metric.Float64Histogram
	run      metric.Float64Histogram
}

// bounds of the histograms, in seconds: calls may be as short as 20 µs.
var bounds = []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120}

// New makes the instruments. An error is the meter provider's.
func New(opts ...Option) (*Telemetry, error) {
	o := options{tracers: otel.GetTracerProvider(), meters: otel.GetMeterProvider(), texts: true}
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	t := &Telemetry{
		tracer: o.tracers.Tracer(scope, trace.WithInstrumentationVersion(pypool.Version), trace.WithSchemaURL(semconv.SchemaURL)),
		meter:  o.meters.Meter(scope, metric.WithInstrumentationVersion(pypool.Version), metric.WithSchemaURL(semconv.SchemaURL)),
		texts:  o.texts,
	}
	buckets := metric.WithExplicitBucketBoundaries(bounds...)
	var errs [4]error
	t.duration, errs[0] = rpcconv.NewClientCallDuration(t.meter, buckets)
	t.serves, errs[1] = rpcconv.NewServerCallDuration(t.meter, buckets)
	t.wait, errs[2] = t.meter.Float64Histogram("pypool.call.wait.duration", buckets, metric.WithUnit("s"), metric.WithDescription("How long a call waited for a worker."))
	t.run, errs[3] = t.meter.Float64Histogram("pypool.call.run.duration", buckets, metric.WithUnit("s"), metric.WithDescription("How long a worker had a call."))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return t, nil
}

// Instrument returns cfg with Telemetry's Observer around the one that is there, and its log
// handler around that of the Logger that is there, or of slog's default.
func (t *Telemetry) Instrument(cfg pypool.Config) pypool.Config {
	cfg.Observer = t.Observer(cfg.Observer)
	logger := cfg.Logger
	if logger == nil {
		logger = slog.Default()
	}
	cfg.Logger = slog.New(t.Handler(logger.Handler()))
	return cfg
}

// Observer returns the observer of a pool's calls and functions. It calls next's functions, too, as
// far as next has them, inside its own: their contexts have the span. next's TraceParent is asked
// where the context has no span, as with a tracer provider that makes none. next may be nil.
func (t *Telemetry) Observer(next *pypool.Observer) *pypool.Observer {
	o := &pypool.Observer{}
	if next != nil {
		*o = *next
	}
	callStart, callEnd, functionStart, functionEnd := o.CallStart, o.CallEnd, o.FunctionStart, o.FunctionEnd
	key := &callKey{}
	o.CallStart = func(ctx context.Context, c pypool.CallInfo) context.Context {
		started, one := t.callStart(ctx, c)
		started = context.WithValue(started, key, one)
		if callStart == nil {
			return started
		}
		ended := false
		defer func() {
			if !ended { // it panics, and CallEnd gets the context from before
				t.callEnd(started, one, c, pypool.CallOutcome{Err: pypool.NewError(pypool.TypeInternal, pypool.NotExecuted, "CallStart has panicked", nil)})
			}
		}()
		observed := one.keptIn(started, callStart(started, c), key)
		ended = true
		return observed
	}
	o.CallEnd = func(ctx context.Context, c pypool.CallInfo, end pypool.CallOutcome) {
		defer func() {
			if one := callIn(ctx, key, callID{c.Pool, c.RequestID}, false); one != nil {
				t.callEnd(ctx, one, c, end)
			}
		}()
		if callEnd != nil {
			callEnd(ctx, c, end)
		}
	}
	o.FunctionStart = func(ctx context.Context, f pypool.FunctionInfo) context.Context {
		started, one := t.functionStart(ctx, f)
		started = context.WithValue(started, key, one)
		if functionStart == nil {
			return started
		}
		ended := false
		defer func() {
			if !ended {
				t.functionEnd(started, one, f, pypool.NewError(pypool.TypeInternal, pypool.NotExecuted, "FunctionStart has panicked", nil))
			}
		}()
		observed := one.keptIn(started, functionStart(started, f), key)
		ended = true
		return observed
	}
	o.FunctionEnd = func(ctx context.Context, f pypool.FunctionInfo, err error) {
		defer func() {
			if one := callIn(ctx, key, callID{f.Pool, f.RequestID}, true); one != nil {
				t.functionEnd(ctx, one, f, err)
			}
		}()
		if functionEnd != nil {
			functionEnd(ctx, f, err)
		}
	}
	traceParent := o.TraceParent
	o.TraceParent = func(ctx context.Context) string {
		if parent := TraceParent(ctx); parent != "" || traceParent == nil {
			return parent
		}
		return traceParent(ctx)
	}
	return o
}

// TraceParent returns the W3C traceparent of the context's span, empty where it has none.
func TraceParent(ctx context.Context) string {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() {
		return ""
	}
	return fmt.Sprintf("00-%s-%s-%s", span.TraceID(), span.SpanID(), span.TraceFlags())
}

// spanOf parses what Python says of its span, whose form pypool has checked.
func spanOf(traceParent string) trace.SpanContext {
	traceID, err := trace.TraceIDFromHex(traceParent[3:35])
	spanID, err2 := trace.SpanIDFromHex(traceParent[36:52])
	flags, err3 := strconv.ParseUint(traceParent[53:55], 16, 8)
	if errors.Join(err, err2, err3) != nil {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, TraceFlags: trace.TraceFlags(flags) & trace.FlagsSampled, Remote: true})
}

// system is the value of rpc.system.name.
const system = "pypool"

// method is the value of rpc.method: a command, or a program as Stats names it.
func method(c pypool.CallInfo) string {
	if c.Program != "" {
		return c.Command + ":" + c.Program
	}
	return c.Command
}

// call is what callEnd needs to know of callStart, and functionEnd of functionStart.
type call struct {
	span     trace.Span
	begun    time.Time
	id       callID
	function bool
}

// callKey is where an Observer keeps its calls in contexts. Each has one of its own, so that one
// may be inside another.
type callKey struct{ _ byte }

// callIn is the call that began with such a context; nil where its start has panicked, and what is
// there is the one around it.
func callIn(ctx context.Context, key *callKey, id callID, function bool) *call {
	if one, ok := ctx.Value(key).(*call); ok && one.id == id && one.function == function {
		return one
	}
	return nil
}

// keptIn is the context that somebody's Observer has made of started: where it is not derived from
// that, it has lost the call, which would never end, and perhaps the span.
func (one *call) keptIn(started, observed context.Context, key *callKey) context.Context {
	switch {
	case observed == nil:
		return started
	case observed.Value(key) == any(one):
		return observed
	case !trace.SpanContextFromContext(observed).IsValid():
		observed = trace.ContextWithSpan(observed, one.span)
	}
	return context.WithValue(observed, key, one)
}

func (t *Telemetry) callStart(ctx context.Context, c pypool.CallInfo) (context.Context, *call) {
	attrs := append(make([]attribute.KeyValue, 0, 5), semconv.RPCSystemNameKey.String(system), semconv.RPCMethod(method(c)),
		attribute.String("pypool.pool.name", c.Pool), attribute.Int64("pypool.request.id", int64(c.RequestID)))
	if c.Session != "" {
		attrs = append(attrs, semconv.SessionID(c.Session))
	}
	if c.TraceParent != "" && !trace.SpanContextFromContext(ctx).IsValid() { // the call was passed on from elsewhere
		ctx = trace.ContextWithRemoteSpanContext(ctx, spanOf(c.TraceParent))
	}
	begun := time.Now()
	ctx, span := t.tracer.Start(ctx, method(c), trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(begun), trace.WithAttributes(attrs...))
	if c.RequestID != 0 { // else it is a Caller's, of which no log record tells
		t.calls.begin(c.Pool, c.RequestID, span.SpanContext())
	}
	return ctx, &call{span, begun, callID{c.Pool, c.RequestID}, false}
}

func (t *Telemetry) callEnd(ctx context.Context, one *call, c pypool.CallInfo, end pypool.CallOutcome) {
	now := time.Now()
	if c.RequestID != 0 {
		t.calls.end(c.Pool, c.RequestID)
	}
	name := method(c)
	var e *pypool.Error
	if errors.As(end.Err, &e) && e != nil && e.Type == pypool.TypeUnknownCommand {
		one.span.SetAttributes(semconv.RPCMethod(other), semconv.RPCMethodOriginal(name))
		name = other
	}
	if one.span.IsRecording() {
		t.describe(one.span, now, end, e)
	}
	one.span.End(trace.WithTimestamp(now))

	attrs := append(make([]attribute.KeyValue, 0, 3), semconv.RPCMethod(t.label(name, end, e)), attribute.String("pypool.pool.name", c.Pool))
	set := metric.WithAttributes(attrs...)
	t.wait.Record(ctx, end.Queued.Seconds(), set)
	if end.Worker != "" {
		t.run.Record(ctx, end.Ran.Seconds(), set)
	}
	if end.Err != nil {
		attrs = append(attrs, semconv.ErrorTypeKey.String(errorType(end.Err)))
	}
	t.duration.Record(ctx, now.Sub(one.begun).Seconds(), system, attrs...)
}

const other = "_OTHER"

// label is the method's name for the metrics: another one is not made of a name that no worker has
// shown to know, so that callers cannot make labels up. That a worker had the call shows nothing:
// it may have been lost, or the caller have left, before it had looked for the name.
func (t *Telemetry) label(name string, end pypool.CallOutcome, e *pypool.Error) string {
	if _, known := t.known.Load(name); known || name == other {
		return name
	}
	if end.Err != nil && !showsName(e) {
		return other
	}
	t.known.Store(name, true)
	return name
}

// showsName reports whether a worker that failed so has what was called: it has run it, or has
// compared the arguments with what it takes.
func showsName(e *pypool.Error) bool {
	var refused *pypool.ArgumentError
	return e != nil && (e.Delivery == pypool.Executed || errors.As(e.Err, &refused))
}

// describe puts the outcome of a call into its span.
func (t *Telemetry) describe(span trace.Span, now time.Time, end pypool.CallOutcome, e *pypool.Error) {
	given := now.Add(-end.Ran)
	span.AddEvent("pypool.queue", trace.WithTimestamp(given.Add(-end.Queued)), trace.WithAttributes(attribute.Float64("pypool.queue.duration", end.Queued.Seconds())))
	if end.Worker != "" {
		worker := []attribute.KeyValue{attribute.String("pypool.worker.id", end.Worker)}
		if end.PID != 0 { // a Caller's results do not tell it
			worker = append(worker, semconv.ProcessPID(end.PID))
		}
		span.SetAttributes(worker...)
		span.AddEvent("pypool.run", trace.WithTimestamp(given), trace.WithAttributes(append(worker, attribute.Float64("pypool.run.duration", end.Ran.Seconds()))...))
	}
	if end.Err == nil {
		return
	}
	span.SetAttributes(semconv.ErrorTypeKey.String(errorType(end.Err)))
	if e != nil {
		span.SetAttributes(attribute.String("pypool.delivery", e.Delivery.String()))
	}
	var raised *pypool.PythonError
	if errors.As(end.Err, &raised) && raised != nil {
		exception := []attribute.KeyValue{semconv.ExceptionType(qualified(raised))}
		if t.texts {
			exception = append(exception, semconv.ExceptionMessage(raised.Message), semconv.ExceptionStacktrace(raised.Traceback))
		}
		span.AddEvent("exception", trace.WithTimestamp(now), trace.WithAttributes(exception...))
	}
	t.failed(span, end.Err)
}

func (t *Telemetry) failed(span trace.Span, err error) {
	text := errorType(err)
	if t.texts {
		text = fmt.Sprint(err) // which knows what nil pointers are
	}
	span.SetStatus(codes.Error, text)
}

// qualified is the exception's class as Python names it.
func qualified(e *pypool.PythonError) string {
	if e.Module == "" || e.Module == "builtins" {
		return e.Type
	}
	return e.Module + "." + e.Type
}

// errorType is the value of error.type: pypool's type, or that of a Go error.
func errorType(err error) string {
	var e *pypool.Error
	if errors.As(err, &e) && e != nil {
		return string(e.Type)
	}
	return fmt.Sprintf("%T", err)
}

// --- functions that Python calls ----------------------------------------------------------------------------------------

func (t *Telemetry) functionStart(ctx context.Context, f pypool.FunctionInfo) (context.Context, *call) {
	if f.Trace != "" { // else the call's own span is the parent
		ctx = trace.ContextWithRemoteSpanContext(ctx, spanOf(f.Trace))
	}
	begun := time.Now()
	ctx, span := t.tracer.Start(ctx, f.Function, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(begun), trace.WithAttributes(
		semconv.RPCSystemNameKey.String(system), semconv.RPCMethod(f.Function), attribute.String("pypool.pool.name", f.Pool),
		attribute.Int64("pypool.request.id", int64(f.RequestID)),
	))
	return ctx, &call{span, begun, callID{f.Pool, f.RequestID}, true}
}

func (t *Telemetry) functionEnd(ctx context.Context, one *call, f pypool.FunctionInfo, err error) {
	attrs := []attribute.KeyValue{semconv.RPCMethod(f.Function), attribute.String("pypool.pool.name", f.Pool)}
	if err != nil {
		kind := semconv.ErrorTypeKey.String(errorType(err))
		one.span.SetAttributes(kind)
		t.failed(one.span, err)
		attrs = append(attrs, kind)
	}
	now := time.Now()
	one.span.End(trace.WithTimestamp(now))
	t.serves.Record(ctx, now.Sub(one.begun).Seconds(), system, attrs...)
}
