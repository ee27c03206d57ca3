package pypoolotel

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"
)

// Handler returns a log handler that passes records on to next: those of a call's (what its
// command prints and logs, and what the pool says of it) with the call's span in the context, as
// bridges to OpenTelemetry's logs want it, and as the attributes trace_id and span_id. A nil next
// takes nothing.
func (t *Telemetry) Handler(next slog.Handler) slog.Handler {
	if next == nil {
		next = slog.DiscardHandler
	}
	t.calls.wanted.Store(true)
	return &handler{next, &t.calls}
}

type handler struct {
	next  slog.Handler
	calls *spans
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h *handler) Handle(ctx context.Context, record slog.Record) error {
	var pool string
	var request uint64
	record.Attrs(func(a slog.Attr) bool {
		switch {
		case a.Key == "pool" && a.Value.Kind() == slog.KindString:
			pool = a.Value.String()
		case a.Key == "request" && a.Value.Kind() == slog.KindUint64:
			request = a.Value.Uint64()
		}
		return true
	})
	if span, known := h.calls.of(pool, request); known {
		record = record.Clone()
		record.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
		ctx = trace.ContextWithSpanContext(ctx, span)
	}
	return h.next.Handle(ctx, record)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.next.WithAttrs(attrs), h.calls}
}
func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.next.WithGroup(name), h.calls}
}

const remembered = 4096 // calls that have ended: their last records come behind their ends

// spans are the spans of calls, for their log records. Nothing is kept before a Handler wants it.
type spans struct {
	wanted atomic.Bool

	mu     sync.Mutex // guards the fields below
	known  map[callID]trace.SpanContext
	ended  [remembered]callID
	oldest int
}

type callID struct {
	pool    string
	request uint64
}

func (s *spans) begin(pool string, request uint64, span trace.SpanContext) {
	if !s.wanted.Load() || !span.IsValid() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[callID]trace.SpanContext{}
	}
	s.known[callID{pool, request}] = span
}

func (s *spans) end(pool string, request uint64) {
	if !s.wanted.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, s.ended[s.oldest])
	s.ended[s.oldest] = callID{pool, request}
	s.oldest = (s.oldest + 1) % remembered
}

func (s *spans) of(pool string, request uint64) (trace.SpanContext, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	span, known := s.known[callID{pool, request}]
	return span, known
}
