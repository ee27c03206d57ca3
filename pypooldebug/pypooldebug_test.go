package pypooldebug_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/pypooldebug"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const worker = `
import os, sys
from pypool import command

@command
def echo(secret: str) -> str:
    print(secret)
    return secret

@command
def fail(secret: str) -> str:
    raise ValueError(secret)

@command
def leave(secret: str) -> str:
    sys.stderr.write(secret)
    os._exit(3)

@command(name="<img/src=x/onerror=alert(1)>")
def odd(secret: str) -> str:
    return secret
`

func open(t *testing.T, cfg pypool.Config) *pypool.Pool {
	t.Helper()
	cfg.Script = filepath.Join(t.TempDir(), "worker.py")
	require.NoError(t, os.WriteFile(cfg.Script, []byte(worker), 0o600))
	cfg.Logger = slog.New(slog.DiscardHandler)
	p, err := pypool.New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func read(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url) //nolint:gosec,noctx // the test's own server
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

func TestPoolsAreShownWithoutArgumentsAndResults(t *testing.T) {
	const secret = "correct-horse-battery"
	first := open(t, pypool.Config{Name: "first", Size: 2, Overflow: -1})
	second := open(t, pypool.Config{Name: "second", Size: 1, Overflow: -1, Breaker: pypool.Breaker{Failures: 1}})
	in := map[string]any{"secret": secret}
	for _, command := range []string{"echo", "fail", "<img/src=x/onerror=alert(1)>"} {
		_, _ = first.ExecuteInSession(t.Context(), "user-7", command, in)
	}
	_, err := second.ExecuteAnonymous(t.Context(), "leave", in)
	require.ErrorIs(t, err, pypool.ErrWorkerExited)

	mux := http.NewServeMux()
	mux.Handle("/debug/pypool/", pypooldebug.Handler(first, nil, second))
	server := httptest.NewServer(mux)
	defer http.DefaultClient.CloseIdleConnections()
	defer server.Close()
	body := read(t, server.URL+"/debug/pypool/?format=json")
	assert.NotContains(t, body, secret)
	assert.NotContains(t, body, "<img")
	var shown struct {
		Pools []struct {
			Name       string
			Size       int
			State      string
			WorkerList []struct{ ID, Python string } `json:"worker_list"`
			Calls      struct{ Started, Succeeded, Failed int64 }
			Circuits   []struct{ Command, State, Cause string }
			Commands   []struct{ Name string }
			Sessions   []struct{ ID string } `json:"session_list"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(body), &shown))
	require.Len(t, shown.Pools, 2, "a nil pool is left out")
	a, b := shown.Pools[0], shown.Pools[1]
	assert.Equal(t, "first", a.Name)
	assert.Equal(t, "serving", a.State)
	assert.Len(t, a.WorkerList, 2)
	assert.NotEmpty(t, a.WorkerList[0].Python)
	assert.Equal(t, int64(3), a.Calls.Started)
	assert.Equal(t, int64(1), a.Calls.Failed)
	assert.Equal(t, "user-7", a.Sessions[0].ID)
	assert.Len(t, a.Commands, 3)
	require.Len(t, b.Circuits, 2)
	assert.Equal(t, "leave", b.Circuits[1].Command)
	assert.Equal(t, "open", b.Circuits[1].State)
	assert.Contains(t, b.Circuits[1].Cause, "exited with code 3")
	assert.Contains(t, read(t, server.URL+"/debug/pypool/"), "<!doctype html>")
	stacks := read(t, server.URL+"/debug/pypool/?pool=0&stacks="+a.WorkerList[0].ID)
	assert.Contains(t, stacks, `{"stacks":"`)
	assert.Contains(t, stacks, "(most recent call first)")
	assert.Contains(t, read(t, server.URL+"/debug/pypool/?pool=1&stacks=w9999"), `{"error":"pypool: invalid_arguments: there is no worker w9999`)
}

// Many look while many call, the pool is reloaded and closed; a closed pool is shown, too.
func TestLookingDisturbsNobody(t *testing.T) {
	p := open(t, pypool.Config{Size: 2, Overflow: -1})
	h := pypooldebug.Handler(p)
	look := func(target string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
		return w
	}
	ctx, done := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				if look("/?format=json").Code != http.StatusOK || look("/?pool=0&stacks=w1").Code == 0 {
					t.Error("no answer")
				}
			}
		})
	}
	for range 50 {
		_, err := p.ExecuteAnonymous(t.Context(), "echo", []any{"x"})
		assert.NoError(t, err)
	}
	assert.NoError(t, p.Reload(t.Context()))
	done()
	all.Wait()
	require.NoError(t, p.Shutdown(t.Context()))
	assert.Contains(t, look("/?format=json").Body.String(), `"pools":[{`)
}

func ExampleHandler() {
	pool, err := pypool.New(context.Background(), pypool.Config{Script: "worker.py"})
	if err != nil {
		panic(err)
	}
	defer pool.Close()
	mux := http.NewServeMux()
	mux.Handle("/debug/pypool/", pypooldebug.Handler(pool))
	// On an address that only the machine itself reaches
	_ = http.ListenAndServe("localhost:6060", mux)
}
