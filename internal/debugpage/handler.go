// Package debugpage is what package pypooldebug serves, of sources that need not be pools.
package debugpage

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // for the page's parts
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pypool/pypool"
)

// Source is a pool, or what passes for one.
type Source interface {
	Name() string
	Stats() pypool.Stats
	Workers() []pypool.WorkerInfo
	Sessions() []pypool.SessionInfo
	Circuits() []pypool.CircuitInfo
	Stacks(ctx context.Context, workerID string) (string, error)
}

const (
	fresh      = 500 * time.Millisecond // how long what was read is served again
	stacksTime = 10 * time.Second
)

// The page is one document: what it runs and how it looks are in it, and named by their hashes.
var (
	//go:embed page.html
	document string
	//go:embed page.css
	style string
	//go:embed page.js
	script string

	page   = strings.NewReplacer("/*style*/", style, "/*script*/", script).Replace(document)
	policy = "default-src 'none'; connect-src 'self'; img-src data:; style-src '" + hash(style) + "'; script-src '" + hash(script) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// Handler serves the page.
type Handler struct {
	sources []Source

	mu   sync.Mutex // guards the fields below, and has one request at a time read the sources
	body []byte
	read time.Time

	stacks chan struct{} // room for one who asks for stacks
}

// New makes the handler.
func New(sources ...Source) *Handler {
	return &Handler{sources: sources, stacks: make(chan struct{}, 1)}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	query := r.URL.Query()
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "this page is for reading", http.StatusMethodNotAllowed)
	case query.Has("stacks"):
		h.serveStacks(w, r, query.Get("pool"), query.Get("stacks"))
	case wantsJSON(r):
		body, err := h.snapshot()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		header.Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	default:
		header.Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(page))
	}
}

// wantsJSON: by the query, by the path's end, or by the one type that is accepted.
func wantsJSON(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return r.URL.Query().Get("format") == "json" || strings.HasSuffix(r.URL.Path, ".json") || strings.HasSuffix(r.URL.Path, "/json") ||
		strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

// snapshot is the JSON of all sources, of now or of a moment ago.
func (h *Handler) snapshot() ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.body != nil && now.Sub(h.read) < fresh {
		return h.body, nil
	}
	body, err := marshal(viewOf(now, h.sources))
	if err != nil {
		return nil, err
	}
	h.body, h.read = body, now
	return body, nil
}

// marshal escapes what HTML would take for its own, too.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(true)
	err := encoder.Encode(v)
	return buf.Bytes(), err
}

// serveStacks answers with where one worker is. Those who ask take turns: a dump costs the worker a
// moment.
func (h *Handler) serveStacks(w http.ResponseWriter, r *http.Request, pool, worker string) {
	type answer struct {
		Stacks string `json:"stacks,omitempty"`
		Error  string `json:"error,omitempty"`
	}
	reply := func(status int, a answer) {
		body, _ := marshal(a) // two strings
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}
	i, err := strconv.Atoi(pool)
	if pool == "" {
		i, err = 0, nil
	}
	if err != nil || i < 0 || i >= len(h.sources) {
		reply(http.StatusNotFound, answer{Error: "there is no such pool: pool is its index in the list"})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), stacksTime)
	defer cancel()
	select {
	case h.stacks <- struct{}{}:
		defer func() { <-h.stacks }()
	case <-ctx.Done():
		reply(http.StatusServiceUnavailable, answer{Error: "others are asking for stacks"})
		return
	}
	text, err := h.sources[i].Stacks(ctx, worker)
	if err != nil {
		reply(http.StatusUnprocessableEntity, answer{Error: err.Error()})
		return
	}
	reply(http.StatusOK, answer{Stacks: text})
}
