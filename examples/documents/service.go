package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/pypool/pypool"
)

const (
	maxPDF      = 20 << 20         // bytes of a body
	callTimeout = 20 * time.Second // the wait for a worker and the run together
)

// service is the HTTP side of the pool.
type service struct {
	pool   pypool.Caller
	logger *slog.Logger
}

func newService(pool pypool.Caller, logger *slog.Logger) http.Handler {
	s := &service{pool, logger}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /documents", s.documents)
	return mux
}

// upload is what Python is given: a []byte here, bytes there.
type upload struct {
	PDF []byte `json:"pdf"`
}

// document is what it gives. To the client encoding/json writes FirstPage as base64.
type document struct {
	Text      []string `json:"text"`
	FirstPage []byte   `json:"first_page"` // a PNG
}

// documents takes a PDF as the request's body. Who accepts image/png gets the picture of the first
// page alone.
func (s *service) documents(w http.ResponseWriter, r *http.Request) {
	pdf, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPDF))
	if err != nil {
		status := http.StatusBadRequest // or the client has gone in the midst of it: Python was not asked
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		s.reply(w, status, failure{err.Error()})
		return
	}
	// The request's context ends when the client hangs up, and the call with it: its handler is stopped
	// by an exception, and the worker serves the next.
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	out, err := pypool.Call[document](ctx, s.pool, "read", upload{pdf})
	if err != nil {
		s.fail(ctx, w, err)
		return
	}
	if r.Header.Get("Accept") == "image/png" {
		w.Header().Set("Content-Type", "image/png")
		if _, err := w.Write(out.FirstPage); err != nil {
			s.logger.Debug("the client has gone", "error", err)
		}
		return
	}
	s.reply(w, http.StatusOK, out)
}

type failure struct {
	Error string `json:"error"`
}

// fail tells the client what it can act on, and the log the rest.
func (s *service) fail(ctx context.Context, w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	message := ""
	var raised *pypool.PythonError
	switch {
	case errors.As(err, &raised) && raised.Type == "ValueError": // how Python says that the input is bad
		status, message = http.StatusUnprocessableEntity, raised.Message
	case errors.Is(err, pypool.ErrWorkerExited):
		status, message = http.StatusBadGateway, "the PDF library has crashed on this document"
	case errors.Is(err, pypool.ErrOperationTimeout):
		status, message = http.StatusGatewayTimeout, "this document takes too long"
	case errors.Is(err, pypool.ErrCanceled):
		status = 499 // the client has gone; only our log sees it
	case errors.Is(err, pypool.ErrQueueFull), errors.Is(err, pypool.ErrCheckoutTimeout),
		errors.Is(err, pypool.ErrCircuitOpen), errors.Is(err, pypool.ErrPoolClosed):
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	if message == "" {
		message = http.StatusText(status)
	}
	if status >= http.StatusInternalServerError {
		s.logger.ErrorContext(ctx, "read", "status", status, "error", err)
	}
	s.reply(w, status, failure{message})
}

func (s *service) reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.logger.Debug("the client has gone", "error", err)
	}
}
