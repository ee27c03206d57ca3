package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/pypool/pypool"
)

// pool is what the service needs of a *pypool.Pool. Its tests give it a pypooltest.Fake, too.
type pool interface {
	pypool.Caller
	HealthCheck(ctx context.Context) (pypool.Health, error)
	Stats() pypool.Stats
}

// service is the HTTP side of the pool.
type service struct {
	pool    pool
	logger  *slog.Logger
	timeout time.Duration
}

func newService(pool pool, logger *slog.Logger, timeout time.Duration) http.Handler {
	s := &service{pool: pool, logger: logger, timeout: timeout}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /summarize", s.summarize)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /stats", s.stats)
	return mux
}

// request and summary are JSON both ways: between the client and us, and between us and Python.
type request struct {
	Text      string `json:"text"`
	Sentences int    `json:"sentences,omitempty"` // zero is not sent: Python's default applies
}

type summary struct {
	Sentences []string `json:"sentences"`
	Words     int      `json:"words"`
}

// sessionHeader names the session, a label that logs and counters have; any worker serves any
// session.
const sessionHeader = "X-Session-Id"

func (s *service) summarize(w http.ResponseWriter, r *http.Request) {
	var in request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&in); err != nil {
		status := http.StatusBadRequest
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		s.reply(w, status, failure{err.Error()})
		return
	}
	// The request's context ends when the client hangs up: with it, or at the deadline, the call in
	// Python ends too.
	ctx, cancel := context.WithTimeout(r.Context(), s.timeout)
	defer cancel()
	var opts []pypool.CallOption
	if id := r.Header.Get(sessionHeader); id != "" {
		opts = append(opts, pypool.WithSession(id))
	}
	out, err := pypool.Call[summary](ctx, s.pool, "summarize", in, opts...)
	if err != nil {
		s.fail(ctx, w, err)
		return
	}
	s.reply(w, http.StatusOK, out)
}

// statusOf is what an error of a call means to an HTTP client.
func statusOf(err error) int {
	var raised *pypool.PythonError
	switch {
	case errors.Is(err, pypool.ErrInvalidArguments):
		return http.StatusBadRequest
	case errors.As(err, &raised) && raised.Type == "ValueError": // how Python says that the input is bad
		return http.StatusUnprocessableEntity
	case errors.Is(err, pypool.ErrQueueFull), errors.Is(err, pypool.ErrCheckoutTimeout),
		errors.Is(err, pypool.ErrCircuitOpen), errors.Is(err, pypool.ErrPoolClosed):
		return http.StatusServiceUnavailable
	case errors.Is(err, pypool.ErrOperationTimeout):
		return http.StatusGatewayTimeout
	case errors.Is(err, pypool.ErrWorkerExited), errors.Is(err, pypool.ErrProtocol):
		return http.StatusBadGateway
	case errors.Is(err, pypool.ErrCanceled):
		return 499 // the client has gone; only our log sees it
	}
	return http.StatusInternalServerError
}

type failure struct {
	Error string `json:"error"`
}

// fail tells the client what it can act on, and the log the rest.
func (s *service) fail(ctx context.Context, w http.ResponseWriter, err error) {
	status := statusOf(err)
	message := http.StatusText(status)
	var raised *pypool.PythonError
	switch {
	case status == http.StatusUnprocessableEntity && errors.As(err, &raised):
		message = raised.Message
	case status == http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	if status >= http.StatusInternalServerError {
		s.logger.ErrorContext(ctx, "summarize", "status", status, "error", err)
	}
	s.reply(w, status, failure{message})
}

// healthz really pings the workers. A degraded pool serves, and so it is healthy enough for a load
// balancer.
func (s *service) healthz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	health, err := s.pool.HealthCheck(ctx)
	status := http.StatusOK
	if err != nil {
		status = http.StatusServiceUnavailable
		s.logger.WarnContext(ctx, "healthz", "error", err)
	}
	s.reply(w, status, map[string]any{
		"healthy": health.Healthy, "workers": health.Workers, "responsive": health.Responsive, "circuit": health.Breaker,
	})
}

func (s *service) stats(w http.ResponseWriter, _ *http.Request) {
	s.reply(w, http.StatusOK, s.pool.Stats())
}

func (s *service) reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.logger.Debug("the client has gone", "error", err)
	}
}
