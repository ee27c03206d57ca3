// Command agent serves a DSPy agent whose tools are Go functions: what it does is streamed to a
// page of a Go server, and a reader who closes the tab takes nothing down.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/pypool/pypool"
)

func main() {
	python := flag.String("python", "../.venv/bin/python", "the interpreter that has DSPy")
	addr := flag.String("serve", "", "serve on this address, such as localhost:8080, in place of the tour")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := run(ctx, *python, *addr, logger, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		var start *pypool.StartError
		if errors.As(err, &start) {
			fmt.Fprint(os.Stderr, start.Stderr)
		}
		os.Exit(1)
	}
}

// desk is what the agent's tools work on.
type desk struct {
	hold chan struct{} // while it is open refunds wait, as a slow bank does; nil: they do not
}

type customer struct {
	Customer string `json:"customer"`
}

type order struct {
	ID       int    `json:"id"`
	Payments int    `json:"payments"`
	Session  string `json:"session"`
}

// findOrder is a tool. It knows on whose behalf it runs.
func (d *desk) findOrder(ctx context.Context, in customer) (order, error) {
	call, _ := pypool.CallFromContext(ctx)
	return order{ID: 7, Payments: 2, Session: call.Session}, nil
}

// refund is another. Its context ends when the reader leaves.
func (d *desk) refund(ctx context.Context, id int) (string, error) {
	if d.hold != nil {
		select {
		case <-d.hold:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return fmt.Sprintf("order %d: one payment is sent back", id), nil
}

func newPool(ctx context.Context, python string, logger *slog.Logger, d *desk) (*pypool.Pool, error) {
	return pypool.New(ctx, pypool.Config{
		Script: "worker.py", Python: python, Size: 2, Overflow: -1, StartTimeout: time.Minute, Logger: logger,
		Functions: pypool.Functions{
			"find_order": pypool.Func(d.findOrder),
			"refund":     pypool.Func(d.refund),
			"name":       pypool.Func(func(context.Context, struct{}) (string, error) { return "the shop", nil }),
		},
	})
}

const page = `<!doctype html><title>agent</title><form><input name=q value="I was charged twice."><button>ask</button></form><p id=out></p><script>
const q = new URLSearchParams(location.search).get("q")
if (q) {
  const source = new EventSource("/chat?q=" + encodeURIComponent(q))
  source.onmessage = e => { const d = JSON.parse(e.data); out.append(d.word ? d.word + " " : "[" + d.tool + "] ") }
  for (const last of ["end", "failed"]) source.addEventListener(last, () => source.close())
  source.addEventListener("failed", () => out.append("[the answer broke off]"))
}
</script>`

// event is what the generator yields.
type event struct {
	Tool string `json:"tool,omitempty"`
	Word string `json:"word,omitempty"`
}

// handler serves the page, and what it reads. The log has why an answer broke off.
func handler(pool pypool.Caller, logger *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, page)
	})
	mux.HandleFunc("GET /chat", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		out := http.NewResponseController(w)
		// Each event has ten seconds of its own to go out, however long a tool took before it: one that
		// met a deadline of before would cut the connection, and the page would ask again.
		send := func(event string) error {
			_ = out.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.WriteString(w, event+"\n\n"); err != nil {
				return err
			}
			return out.Flush()
		}
		question := map[string]any{"question": r.FormValue("q")}
		// The request's context ends when the reader closes the tab. The generator and the tools
		// are told, and the worker serves on.
		for e, err := range pypool.Each[event](r.Context(), pool, "chat", question, pypool.WithSession("ann")) {
			if err != nil && r.Context().Err() != nil {
				return // the reader has gone
			}
			if err != nil {
				logger.WarnContext(r.Context(), "the agent", "error", err)
				_ = send("event: failed\ndata: {}") // a browser takes no event without data
				return
			}
			data, _ := json.Marshal(e)
			if err := send("data: " + string(data)); err != nil {
				return // the reader has gone
			}
		}
		_ = send("event: end\ndata: {}") // else the reader has gone
	})
	return mux
}

func run(ctx context.Context, python, addr string, logger *slog.Logger, out io.Writer) error {
	d := &desk{}
	pool, err := newPool(ctx, python, logger, d)
	if err != nil {
		return err
	}
	defer pool.Close()
	listen := addr
	if listen == "" {
		listen = "localhost:0"
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler(pool, logger), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }() // until Close
	defer server.Close()
	if addr != "" {
		fmt.Fprintf(out, "http://%s\n", listener.Addr())
		<-ctx.Done()
		return nil
	}
	return tour(ctx, "http://"+listener.Addr().String(), pool, d, out)
}

// tour is two readers: one who stays, and one who leaves while a tool runs.
func tour(ctx context.Context, base string, pool *pypool.Pool, d *desk, out io.Writer) error {
	opening, err := pypool.Call[string](ctx, pool, "opening", nil)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, opening)
	said, err := read(ctx, base, func(event) bool { return true })
	if err != nil {
		return err
	}
	fmt.Fprintln(out, said)
	before := pool.Stats().WorkersStarted
	d.hold = make(chan struct{})
	left, err := read(ctx, base, func(e event) bool { return e.Tool != "refund" })
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "a reader left after: %s\n", left)
	for pool.Stats().Busy > 0 {
		time.Sleep(time.Millisecond)
	}
	close(d.hold)
	said, err = read(ctx, base, func(event) bool { return true })
	if err != nil {
		return err
	}
	fmt.Fprintln(out, said)
	fmt.Fprintf(out, "workers lost: %d\n", pool.Stats().WorkersStarted-before)
	return nil
}

// read asks the agent and reads what it does, for as long as more says so: then it closes the tab.
func read(ctx context.Context, base string, more func(event) bool) (said string, err error) {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/chat?q="+url.QueryEscape("I was charged twice."), nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var parts []string
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if lines.Text() == "event: failed" {
			return "", errors.New("the answer broke off")
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || data == "{}" {
			continue
		}
		var e event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return "", err
		}
		if e.Tool != "" {
			parts = append(parts, "["+e.Tool+"]")
		} else {
			parts = append(parts, e.Word)
		}
		if !more(e) {
			break
		}
	}
	return strings.Join(parts, " "), nil
}
