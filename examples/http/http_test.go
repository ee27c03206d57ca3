package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/examples/internal/storytest"
	"github.com/pypool/pypool/pypooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// start serves a pool of cfg on the loopback interface until the test ends. What is left of the pool
// then fails the test.
func start(t *testing.T, cfg pypool.Config, timeout time.Duration) (*pypool.Pool, *httptest.Server) {
	t.Helper()
	cfg.Logger = silent
	pool := pypooltest.Start(t, cfg)
	server := httptest.NewServer(newService(pool, silent, timeout))
	t.Cleanup(server.Close)
	return pool, server
}

func trouble(size, queue int) pypool.Config {
	return pypool.Config{Script: "testdata/trouble.py", Size: size, Overflow: -1, MaxQueue: queue, Breaker: pypool.Breaker{Failures: 2}}
}

// post asks for a summary of text and returns the status, the answer's headers and its body.
func post(t *testing.T, ctx context.Context, server *httptest.Server, text, session string) (int, http.Header, string) {
	t.Helper()
	body, err := json.Marshal(request{Text: text})
	require.NoError(t, err)
	return postRaw(t, ctx, server, string(body), session)
}

func postRaw(t *testing.T, ctx context.Context, server *httptest.Server, raw, session string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/summarize", strings.NewReader(raw))
	require.NoError(t, err)
	if session != "" {
		req.Header.Set(sessionHeader, session)
	}
	resp, err := server.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header, strings.TrimSpace(string(body))
}

func get(t *testing.T, server *httptest.Server, path string, into any) int {
	t.Helper()
	resp, err := server.Client().Get(server.URL + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.NoError(t, json.NewDecoder(resp.Body).Decode(into))
	return resp.StatusCode
}

func TestStory(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, loadItself(t.Context(), pypool.Config{Script: "worker.py", Size: 2, Logger: silent}, 500, &out))
	require.Equal(t, storytest.Output(t), out.String())
}

func TestStatuses(t *testing.T) {
	pool, server := start(t, trouble(1, 0), 300*time.Millisecond)
	for _, c := range []struct {
		name, body, session string
		status              int
		want                string
	}{
		{"an answer", `{"text": "hi"}`, "ann", 200, `{"sentences":["hi","ann"],"words":2}`},
		{"no session", `{"text": "hi", "sentences": 3}`, "", 200, `{"sentences":["hi",""],"words":3}`},
		{"no JSON", `text`, "", 400, `{"error":"invalid character 'e' in literal true (expecting 'r')"}`},
		{"a wrong session", `{"text": "hi"}`, strings.Repeat("a", 300), 400, `{"error":"Bad Request"}`},
		{"a long text", `{"text": "` + strings.Repeat("a", 2<<20) + `"}`, "", 413, `{"error":"http: request body too large"}`},
		{"a bad input", `{"text": "raise ValueError"}`, "", 422, `{"error":"it is ValueError"}`},
		{"a fault of ours", `{"text": "raise KeyError"}`, "", 500, `{"error":"Internal Server Error"}`},
		{"no JSON in Python", `{"text": "nan"}`, "", 500, `{"error":"Internal Server Error"}`},
		{"a slow call", `{"text": "sleep 60"}`, "", 504, `{"error":"Gateway Timeout"}`},
		{"a crash", `{"text": "exit 3"}`, "", 502, `{"error":"Bad Gateway"}`},
		{"another crash", `{"text": "exit 3"}`, "", 502, `{"error":"Bad Gateway"}`},
		{"a command that costs workers", `{"text": "hi"}`, "", 503, `{"error":"Service Unavailable"}`},
	} {
		require.Eventually(t, func() bool { return pool.Stats().Idle == 1 }, 30*time.Second, time.Millisecond, "no worker came in the place of the last one")
		begun := time.Now()
		status, header, body := postRaw(t, t.Context(), server, c.body, c.session)
		require.Equal(t, c.status, status, "%s: %s", c.name, body)
		require.Equal(t, c.want, body, c.name)
		require.Equal(t, status == 503, header.Get("Retry-After") == "1", c.name)
		require.Less(t, time.Since(begun), 5*time.Second, c.name)
	}
	resp, err := server.Client().Get(server.URL + "/summarize")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
}

// TestClientHangsUp: the call ends with the client, not at its own end.
func TestClientHangsUp(t *testing.T) {
	pool, server := start(t, trouble(1, 0), time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(300*time.Millisecond, cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/summarize", strings.NewReader(`{"text": "sleep 60"}`))
	require.NoError(t, err)
	_, err = server.Client().Do(req)
	require.ErrorIs(t, err, context.Canceled)
	require.Eventually(t, func() bool { return pool.Stats().ByType[pypool.TypeCanceled] == 1 }, 10*time.Second, 10*time.Millisecond)
	status, _, body := post(t, t.Context(), server, "next", "")
	require.Equal(t, http.StatusOK, status, body)
}

func TestHealthAndStats(t *testing.T) {
	pool, server := start(t, trouble(2, 0), time.Minute)
	var health struct {
		Healthy             bool
		Workers, Responsive int
		Circuit             string
	}
	require.Equal(t, http.StatusOK, get(t, server, "/healthz", &health))
	require.True(t, health.Healthy)
	require.Equal(t, []any{2, 2, "closed"}, []any{health.Workers, health.Responsive, health.Circuit})

	for _, text := range []string{"one", "raise KeyError", "two"} {
		post(t, t.Context(), server, text, "ann")
	}
	var stats pypool.Stats
	require.Equal(t, http.StatusOK, get(t, server, "/stats", &stats))
	require.Equal(t, []int64{3, 2, 1, 0}, []int64{stats.Started, stats.Succeeded, stats.Failed, stats.InFlight})
	require.Equal(t, map[pypool.ErrorType]int64{pypool.TypePython: 1}, stats.ByType)
	session, found := pool.Session("ann")
	require.True(t, found)
	require.Equal(t, []int64{3, 1}, []int64{session.Operations, session.Errors})

	require.NoError(t, pool.Close())
	require.Equal(t, http.StatusServiceUnavailable, get(t, server, "/healthz", &health))
	status, _, _ := post(t, t.Context(), server, "three", "")
	require.Equal(t, http.StatusServiceUnavailable, status)
}

// TestLoad sends what the pool can take: every answer is the right one, and all counters agree.
func TestLoad(t *testing.T) {
	const requests, clients = 600, 16
	pool, server := start(t, pypool.Config{Script: "worker.py", Size: 2, Overflow: -1}, 30*time.Second)
	got := load(t.Context(), server.Client(), server.URL, requests, clients)
	require.NoError(t, got.err)
	require.Equal(t, tally{status: map[int]int{200: requests}, right: requests}, got)

	stats := pool.Stats()
	require.Equal(t, []int64{requests, requests, 0, 0}, []int64{stats.Started, stats.Succeeded, stats.Failed, stats.InFlight})
	require.EqualValues(t, []int64{2, 0}, []int64{stats.WorkersStarted, stats.WorkersExited})
	require.EqualValues(t, requests, stats.Run.Count)
	sessions, operations := pool.Sessions(), int64(0)
	for _, s := range sessions {
		require.Zero(t, s.Errors)
		operations += s.Operations
	}
	require.LessOrEqual(t, len(sessions), clients)
	require.EqualValues(t, requests, operations)
}

// TestOverload sends more than the pool can take: what is refused is refused at once, says so, and
// is counted.
func TestOverload(t *testing.T) {
	const requests, clients, queue = 400, 16, 3
	pool, server := start(t, pypool.Config{Script: "worker.py", Size: 1, Overflow: -1, MaxQueue: queue}, 30*time.Second)
	got := load(t.Context(), server.Client(), server.URL, requests, clients)
	require.NoError(t, got.err)
	require.Zero(t, got.failed)
	served, refused := got.status[http.StatusOK], got.status[http.StatusServiceUnavailable]
	require.Equal(t, requests, served+refused, "other statuses: %v", got.status)
	require.Equal(t, served, got.right)
	require.Positive(t, served)
	require.Positive(t, refused, "16 clients never outran one worker with a queue of 3")

	stats := pool.Stats()
	require.Equal(t, []int64{requests, int64(served), int64(refused), 0}, []int64{stats.Started, stats.Succeeded, stats.Failed, stats.InFlight})
	require.Equal(t, map[pypool.ErrorType]int64{pypool.TypeQueueFull: int64(refused)}, stats.ByType)
}

// TestShutdown: the request that runs when the service is asked to go is answered; the next finds
// the door closed.
func TestShutdown(t *testing.T) {
	cfg := trouble(2, 0)
	cfg.Logger = silent
	pool, err := pypool.New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, signal := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, listener, pool, silent) }()

	url := "http://" + listener.Addr().String() + "/summarize"
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	answer := make(chan int, 1)
	go func() {
		resp, err := client.Post(url, "application/json", strings.NewReader(`{"text": "sleep 1"}`))
		if err != nil {
			answer <- 0
			return
		}
		resp.Body.Close()
		answer <- resp.StatusCode
	}()
	require.Eventually(t, func() bool { return pool.Stats().Busy == 1 }, 10*time.Second, time.Millisecond)
	signal()
	require.Equal(t, http.StatusOK, <-answer)
	require.NoError(t, <-served)
	require.Empty(t, pool.Workers())
	_, err = client.Post(url, "application/json", strings.NewReader(`{"text": "late"}`))
	require.ErrorContains(t, err, "connection refused")
}
