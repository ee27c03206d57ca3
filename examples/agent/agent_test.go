package main

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool/examples/internal/storytest"
	"github.com/pypool/pypool/pypooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStory(t *testing.T) {
	python := storytest.Python(t)
	defer http.DefaultClient.CloseIdleConnections()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), python, "", slog.New(slog.DiscardHandler), &out))
	require.Equal(t, storytest.Output(t), out.String())
}

// deadlines is a connection that takes a write only behind a deadline of its own.
type deadlines struct {
	*httptest.ResponseRecorder
	t     *testing.T
	fresh bool
}

func (d *deadlines) SetWriteDeadline(at time.Time) error {
	d.fresh = at.After(time.Now())
	return nil
}

func (d *deadlines) Write(p []byte) (int, error) {
	require.True(d.t, d.fresh, "%q has the deadline of what came before", p)
	d.fresh = false
	return d.ResponseRecorder.Write(p)
}

func (d *deadlines) WriteString(s string) (int, error) { return d.Write([]byte(s)) }

// What comes after a slow tool goes out, also the end, without which the page asks again. An answer that broke off does
// not end as a whole one does, and the log has why.
func TestEachEventHasADeadlineOfItsOwn(t *testing.T) {
	for _, last := range []error{nil, errors.New("it broke off")} {
		fake := pypooltest.New()
		pypooltest.HandleStream(fake, "chat", func(context.Context, struct {
			Question string `json:"question"`
		},
		) iter.Seq2[event, error] {
			return func(yield func(event, error) bool) {
				if yield(event{Tool: "refund"}, nil) && last != nil {
					yield(event{}, last)
				}
			}
		})
		var log bytes.Buffer
		w := &deadlines{httptest.NewRecorder(), t, false}
		handler(fake, slog.New(slog.NewTextHandler(&log, nil))).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/chat?q=x", nil))
		if last == nil {
			require.Equal(t, "data: {\"tool\":\"refund\"}\n\nevent: end\ndata: {}\n\n", w.Body.String())
			require.Empty(t, log.String())
			continue
		}
		require.Equal(t, "data: {\"tool\":\"refund\"}\n\nevent: failed\ndata: {}\n\n", w.Body.String())
		require.Contains(t, log.String(), last.Error())
	}
}

// A reader who leaves is no failure of the agent's.
func TestAReaderWhoLeavesIsNotLogged(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	fake := pypooltest.New()
	pypooltest.HandleStream(fake, "chat", func(ctx context.Context, _ map[string]any) iter.Seq2[event, error] {
		return func(yield func(event, error) bool) {
			if yield(event{Tool: "refund"}, nil) {
				leave()
				<-ctx.Done()
				yield(event{}, ctx.Err())
			}
		}
	})
	var log bytes.Buffer
	w := httptest.NewRecorder()
	handler(fake, slog.New(slog.NewTextHandler(&log, nil))).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/chat?q=x", nil))
	require.Equal(t, "data: {\"tool\":\"refund\"}\n\n", w.Body.String())
	require.Empty(t, log.String())
}
