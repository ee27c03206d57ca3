package debugpage

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/debugpage/fakepool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(h http.Handler, method, target, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestThePageIsForReadingAndRunsItsOwnCodeOnly(t *testing.T) {
	h := New(fakepool.Large(3))
	for _, path := range []string{"/", "/debug/pypool", "/debug/pypool/"} {
		w := get(h, http.MethodGet, path, "text/html,application/xhtml+xml,*/*;q=0.8")
		assert.Equal(t, http.StatusOK, w.Code)
		assert.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
		csp := w.Header().Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'sha256-", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			assert.Contains(t, csp, part)
		}
		assert.NotContains(t, csp, "unsafe")
		assert.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		assert.NotContains(t, w.Body.String(), "inference", "what comes of a pool comes as JSON")
		assert.NotRegexp(t, `(?i)innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?:[^w]|w[^w])`, w.Body.String())
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
		for _, target := range []string{"/", "/?format=json", "/?pool=0&stacks=w1"} {
			w := get(h, method, target, "")
			assert.Equal(t, http.StatusMethodNotAllowed, w.Code)
			assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
		}
	}
}

func TestTheJSONIsBesideThePage(t *testing.T) {
	h := New(fakepool.Large(200), fakepool.Loop("worker.py: at import: no"))
	for _, c := range []struct{ target, accept string }{
		{"/debug/pypool/?format=json", ""}, {"/debug/pypool/json", ""}, {"/debug/pypool.json", ""}, {"/debug/pypool/", "application/json"},
	} {
		w := get(h, http.MethodGet, c.target, c.accept)
		require.Equal(t, "application/json", w.Header().Get("Content-Type"), c.target)
		var v view
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &v))
		require.Len(t, v.Pools, 2)
		large, broken := v.Pools[0], v.Pools[1]
		require.Equal(t, "inference", large.Name)
		require.Equal(t, "degraded", large.State)
		require.Len(t, large.WorkerList, 200)
		require.Len(t, large.SessionList, 50)
		require.Equal(t, "user-0", large.SessionList[0].ID, "the one used last")
		require.Equal(t, large.Workers, large.Idle+large.Busy+large.Starting+large.Stopping)
		require.Equal(t, "4611686018427387904", large.WorkerList[1].Running[0].Request)
		require.Equal(t, []string{"", "embed", "rerank"}, []string{large.Commands[0].Name, large.Commands[1].Name, large.Commands[2].Name})
		require.Equal(t, []any{int64(2), "DeadContext", ""}, []any{large.Retired, large.WorkerList[1].Retired, large.WorkerList[0].Retired})
		require.InDelta(t, 14, large.Run.P50, 0)
		require.Equal(t, countView{"python_exception", 5_800}, large.Calls.ByType[0])
		require.Equal(t, "unavailable", broken.State)
		require.InDelta(t, 17_000, broken.Circuits[0].RetryInMS, 5_000)
	}
}

func TestNoReaderIsDearerThanOne(t *testing.T) {
	source := fakepool.Large(3)
	h := New(source)
	first := get(h, http.MethodGet, "/?format=json", "").Body.String()
	h.read = h.read.Add(fresh) // as if it had been read later
	for range 20 {
		require.Equal(t, first, get(h, http.MethodGet, "/?format=json", "").Body.String())
	}
	require.Equal(t, 1, source.Reads)
	h.read = h.read.Add(-4 * fresh)
	get(h, http.MethodGet, "/?format=json", "")
	require.Equal(t, 2, source.Reads)
}

func TestStacksAreAskedForAndTheirErrorsTold(t *testing.T) {
	broken := fakepool.Loop("no")
	h := New(fakepool.Large(3), broken)
	for target, want := range map[string]struct {
		status int
		text   string
	}{
		"/?pool=0&stacks=w1":  {http.StatusOK, `{"stacks":"Thread `},
		"/?stacks=w1":         {http.StatusOK, `{"stacks":"Thread `},
		"/?pool=1&stacks=<b>": {http.StatusUnprocessableEntity, `{"error":"there is no worker \u003cb\u003e"}`},
		"/?pool=3&stacks=w1":  {http.StatusNotFound, `{"error":`},
		"/?pool=-1&stacks=w":  {http.StatusNotFound, `{"error":`},
		"/?pool=x&stacks=w1":  {http.StatusNotFound, `{"error":`},
	} {
		w := get(h, http.MethodGet, target, "")
		assert.Equal(t, want.status, w.Code, target)
		assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
		assert.True(t, strings.HasPrefix(w.Body.String(), want.text), w.Body.String())
	}
}

// Every string that there is in a source's types is in the JSON as text that is none of HTML's; the
// browser's test is pypooldebug/browser.
func TestWhatPythonSaysIsEscaped(t *testing.T) {
	const attempt = `</script><img src=x onerror="alert(1)">&'`
	body := get(New(fakepool.Hostile(attempt)), http.MethodGet, "/?format=json", "").Body.String()
	assert.NotContains(t, body, "<")
	assert.NotContains(t, body, "&")
	var v view
	require.NoError(t, json.Unmarshal([]byte(body), &v))
	found := 0
	var look func(reflect.Value)
	look = func(x reflect.Value) {
		switch x.Kind() {
		case reflect.String:
			if strings.HasSuffix(x.String(), attempt) {
				found++
			}
		case reflect.Struct:
			for i := range x.NumField() {
				look(x.Field(i))
			}
		case reflect.Slice:
			for i := range x.Len() {
				look(x.Index(i))
			}
		}
	}
	look(reflect.ValueOf(v))
	assert.Greater(t, found, 20, "they came through")
}

func TestNoPoolsAndUnfinishedOnesAreShown(t *testing.T) {
	w := get(New(), http.MethodGet, "/?format=json", "")
	assert.Contains(t, w.Body.String(), `"pools":[]`)
	w = get(New(&fakepool.Pool{Figures: pypool.Stats{}}), http.MethodGet, "/?format=json", "")
	for _, list := range []string{"circuits", "worker_list", "commands", "session_list", "by_type"} {
		assert.Contains(t, w.Body.String(), `"`+list+`":[]`, "never null: scripts go through them")
	}
}
