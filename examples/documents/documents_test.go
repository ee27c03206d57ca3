package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/color"
	"image/png"
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
	"golang.org/x/sync/errgroup"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/examples/internal/storytest"
	"github.com/pypool/pypool/pypooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// start serves a pool of two workers until the test ends. What is left of the pool then fails the
// test.
func start(t *testing.T, script string) (*pypool.Pool, string) {
	t.Helper()
	cfg := config(storytest.Python(t), silent)
	cfg.Script, cfg.Size, cfg.Overflow = script, 2, -1
	cfg.CancelGrace = 10 * time.Second // a busy machine's worker may take more than 1 s to stop
	pool := pypooltest.Start(t, cfg)
	server := httptest.NewServer(newService(pool, silent))
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		server.Close()
	})
	return pool, server.URL
}

func TestStory(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), config(storytest.Python(t), silent), "", &out))
	require.Equal(t, storytest.Output(t), out.String())
}

func TestDocuments(t *testing.T) {
	pool, url := start(t, "worker.py")

	t.Run("the picture alone", func(t *testing.T) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/documents", bytes.NewReader(makePDF("A line of ink")))
		require.NoError(t, err)
		req.Header.Set("Accept", "image/png")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, "image/png", resp.Header.Get("Content-Type"))
		page, err := png.Decode(resp.Body)
		require.NoError(t, err)
		require.Equal(t, 800, page.Bounds().Dy())
		ink := map[bool]int{} // by whether it stands where the line does
		for y := range page.Bounds().Dy() {
			for x := range page.Bounds().Dx() {
				if color.GrayModel.Convert(page.At(x, y)).(color.Gray).Y < 128 {
					ink[y > 40 && y < 70]++
				}
			}
		}
		require.Greater(t, ink[true], 100)
		require.Zero(t, ink[false])
	})

	t.Run("a large one, whole", func(t *testing.T) {
		pages := make([]string, 300)
		for i := range pages {
			pages[i] = strings.TrimSuffix(strings.Repeat(fmt.Sprintf("Line of page %d, with (brackets) and \\.\n", i), 30), "\n")
		}
		doc, status, refusal, err := post(t.Context(), url, makePDF(pages...))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, refusal)
		require.Equal(t, pages, doc.Text)
	})

	for _, c := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"no PDF", "hello", 422, "this is no PDF that can be read: "},
		{"nothing", "", 422, "this is no PDF that can be read: "},
		{"without a page", string(makePDF()), 422, "this is no PDF that can be read: "},
		{"whose pages are none", strings.ReplaceAll(string(makePDF("one")), "/Type /Page ", "/Type /None "), 422, "this PDF is damaged: "},
		{"too large", strings.Repeat(" ", maxPDF+1), 413, "http: request body too large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, status, refusal, err := post(t.Context(), url, []byte(c.body))
			require.NoError(t, err)
			require.Equal(t, c.status, status)
			require.Contains(t, refusal, c.want)
			require.NotContains(t, refusal, "Traceback")
		})
	}

	t.Run("a client that hangs up while it uploads", func(t *testing.T) {
		before := pool.Stats().Started
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		require.NoError(t, err)
		_, err = io.WriteString(conn, "POST /documents HTTP/1.1\r\nHost: documents\r\nContent-Length: 1000\r\n\r\n%PDF-1.4\n")
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		_, status, _, err := post(t.Context(), url, makePDF("next"))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, before+1, pool.Stats().Started, "Python was asked to read half a body")
	})
	require.EqualValues(t, 2, pool.Stats().WorkersStarted, "what is wrong with a document costs no worker")
}

// TestClientHangsUp: the call ends with its client, and the worker serves the next.
func TestClientHangsUp(t *testing.T) {
	pool, url := start(t, "testdata/fragile.py")
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		before := pool.Stats().ByType[pypool.TypeCanceled]
		var group errgroup.Group
		group.Go(func() error {
			_, _, _, err := post(ctx, url, makePDF("hang"))
			return err
		})
		require.Eventually(t, func() bool {
			for _, w := range pool.Workers() {
				if w.State == "busy" { // not "canceling", as the call before it may still be
					return true
				}
			}
			return false
		}, 10*time.Second, time.Millisecond)
		cancel()
		require.ErrorIs(t, group.Wait(), context.Canceled)
		require.Eventually(t, func() bool { return pool.Stats().ByType[pypool.TypeCanceled] == before+1 }, 10*time.Second, time.Millisecond)
	}
	for range 4 {
		_, status, refusal, err := post(t.Context(), url, makePDF("next"))
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, refusal)
	}
	require.EqualValues(t, []int64{2, 0}, []int64{pool.Stats().WorkersStarted, pool.Stats().WorkersExited})
}

// TestCrash: a PDF that kills the library's process fails its own upload, and none of those beside
// it.
func TestCrash(t *testing.T) {
	const clients, uploads, crashes = 8, 20, 3
	pool, url := start(t, "testdata/fragile.py")
	var group errgroup.Group
	for c := range clients {
		group.Go(func() error {
			for i := range uploads {
				text := fmt.Sprintf("Letter %d of %d.", i, c)
				doc, status, refusal, err := post(t.Context(), url, makePDF(text, "end"))
				if err != nil {
					return err
				}
				if status != http.StatusOK || len(doc.Text) != 2 || doc.Text[0] != text {
					return fmt.Errorf("%s: %d, %q %s", text, status, doc.Text, refusal)
				}
			}
			return nil
		})
	}
	for range crashes {
		_, status, refusal, err := post(t.Context(), url, makePDF("crash"))
		require.NoError(t, err)
		require.Equal(t, http.StatusBadGateway, status)
		require.Equal(t, "the PDF library has crashed on this document", refusal)
	}
	require.NoError(t, group.Wait())
	stats := pool.Stats()
	require.EqualValues(t, crashes, stats.WorkersExited)
	require.Equal(t, map[pypool.ErrorType]int64{pypool.TypeWorkerExited: crashes}, stats.ByType)
}

// TestWhatTheClientIsTold: nothing of Python's own, and what is asked again is told when.
func TestWhatTheClientIsTold(t *testing.T) {
	fake := pypooltest.New()
	pypooltest.Handle(fake, "read", func(_ context.Context, in upload) (document, error) {
		return document{Text: []string{string(in.PDF)}, FirstPage: []byte{1, 2}}, nil
	})
	server := httptest.NewServer(newService(fake, silent))
	defer server.Close()
	for _, typ := range []pypool.ErrorType{pypool.TypeQueueFull, pypool.TypeOperationTimeout, pypool.TypePython} {
		fake.Fail("read", pypooltest.Error(typ))
		resp, err := server.Client().Post(server.URL+"/documents", "application/pdf", strings.NewReader("%PDF"))
		require.NoError(t, err)
		var body failure
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&body))
		require.NoError(t, resp.Body.Close())
		want := map[pypool.ErrorType]failure{
			pypool.TypeQueueFull:        {"Service Unavailable"},
			pypool.TypeOperationTimeout: {"this document takes too long"},
			pypool.TypePython:           {"Internal Server Error"},
		}
		require.Equal(t, want[typ], body)
		require.Equal(t, typ == pypool.TypeQueueFull, resp.Header.Get("Retry-After") == "1")
	}
	resp, err := server.Client().Post(server.URL+"/documents", "application/pdf", strings.NewReader("%PDF"))
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.JSONEq(t, `{"text":["%PDF"],"first_page":"AQI="}`, string(body))
}
