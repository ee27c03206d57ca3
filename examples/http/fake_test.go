package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/pypooltest"
)

// fakePool is a pool without Python: the handlers' own logic is tested in microseconds.
type fakePool struct {
	*pypooltest.Fake
	stats     pypool.Stats
	unhealthy error
}

func (p *fakePool) HealthCheck(context.Context) (pypool.Health, error) {
	return pypool.Health{Healthy: p.unhealthy == nil, Breaker: "closed"}, p.unhealthy
}

func (p *fakePool) Stats() pypool.Stats { return p.stats }

// startFake serves a fake pool whose summaries are their texts.
func startFake(t *testing.T) (*fakePool, *httptest.Server) {
	t.Helper()
	pool := &fakePool{Fake: pypooltest.New()}
	pypooltest.Handle(pool.Fake, "summarize", func(_ context.Context, in request) (summary, error) {
		return summary{Sentences: []string{in.Text}, Words: in.Sentences}, nil
	})
	server := httptest.NewServer(newService(pool, silent, time.Minute))
	t.Cleanup(server.Close)
	return pool, server
}

// TestStatusOfEveryError: each way in which a call can fail has its status, also those that are hard
// to bring about with Python.
func TestStatusOfEveryError(t *testing.T) {
	pool, server := startFake(t)
	for typ, want := range map[pypool.ErrorType]int{
		pypool.TypeCheckoutTimeout: 503, pypool.TypeOperationTimeout: 504, pypool.TypeCanceled: 499, pypool.TypeStreamStalled: 500, pypool.TypePoolNotAvailable: 503,
		pypool.TypeQueueFull: 503, pypool.TypeNestedCall: 500, pypool.TypeCircuitOpen: 503, pypool.TypeWorkerStart: 500, pypool.TypeWorkerExited: 502, pypool.TypeProtocol: 502,
		pypool.TypeMessageTooLarge: 500, pypool.TypeInvalidArguments: 400, pypool.TypeUnknownCommand: 500, pypool.TypePython: 500, pypool.TypeInvalidResult: 500,
		pypool.TypeDecode: 500, pypool.TypeInternal: 500,
	} {
		pool.Fail("summarize", pypooltest.Error(typ))
		status, header, body := post(t, t.Context(), server, "hi", "")
		require.Equal(t, want, status, "%s: %s", typ, body)
		require.Equal(t, want == 503, header.Get("Retry-After") == "1", typ)
		require.NotContains(t, body, "Traceback", typ)
	}
	pool.Fail("summarize", pypooltest.Exception("ValueError", "it is bad"))
	status, _, body := post(t, t.Context(), server, "hi", "")
	require.Equal(t, 422, status)
	require.Equal(t, `{"error":"it is bad"}`, body)
}

// TestWhatPythonIsAsked: the request's text and session reach the call, with the request's deadline.
func TestWhatPythonIsAsked(t *testing.T) {
	pool, server := startFake(t)
	status, _, body := postRaw(t, t.Context(), server, `{"text": "hi", "sentences": 3}`, "ann")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, `{"sentences":["hi"],"words":3}`, body)
	status, _, _ = postRaw(t, t.Context(), server, `text`, "ann")
	require.Equal(t, http.StatusBadRequest, status)
	calls := pool.Calls()
	require.Len(t, calls, 1, "what is no JSON costs Python nothing")
	require.Equal(t, "ann", calls[0].Session)
	require.JSONEq(t, `{"text":"hi","sentences":3}`, string(calls[0].Args))
}

func TestUnhealthy(t *testing.T) {
	pool, server := startFake(t)
	var health struct{ Healthy bool }
	require.Equal(t, http.StatusOK, get(t, server, "/healthz", &health))
	require.True(t, health.Healthy)
	pool.unhealthy = pypooltest.Error(pypool.TypeWorkerStart)
	require.Equal(t, http.StatusServiceUnavailable, get(t, server, "/healthz", &health))
	require.False(t, health.Healthy)
	resp, err := server.Client().Post(server.URL+"/healthz", "", strings.NewReader(""))
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
}
