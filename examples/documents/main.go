// Command documents serves what is in PDFs: a Go HTTP server takes them, and PDFium, in Python,
// reads their text and draws their first page.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image/png"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pypool/pypool"
)

func main() {
	python := flag.String("python", "../.venv/bin/python", "the interpreter that has pypdfium2")
	addr := flag.String("serve", "", "serve on this address, such as localhost:8080, in place of the tour")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := run(ctx, config(*python, logger), *addr, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "documents:", err)
		var start *pypool.StartError
		if errors.As(err, &start) {
			fmt.Fprint(os.Stderr, start.Stderr)
		}
		os.Exit(1)
	}
}

func config(python string, logger *slog.Logger) pypool.Config {
	cfg := pypool.Production()
	cfg.Script = "worker.py"
	cfg.Python = python
	cfg.Logger = logger
	cfg.MaxMessageBytes = 2 * maxPDF // an upload, or the text and the picture of a large one
	cfg.MaxQueueBytes = 10 * maxPDF  // uploads that wait; the next gets 503
	cfg.MaxRSS = 1 << 30             // a worker that has grown beyond a gigabyte is replaced, between two calls
	return cfg
}

// run serves on addr until ctx ends; without one it serves itself on a free port: the tour.
func run(ctx context.Context, cfg pypool.Config, addr string, out io.Writer) error {
	pool, err := pypool.New(ctx, cfg) // before the port opens: who can connect is served at once
	if err != nil {
		return err
	}
	defer pool.Close()
	listen := addr
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	if addr != "" {
		fmt.Fprintln(os.Stderr, "listening on", listener.Addr())
		return serve(ctx, listener, pool, cfg.Logger)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- serve(ctx, listener, pool, cfg.Logger) }()
	err = tour(ctx, "http://"+listener.Addr().String(), out)
	http.DefaultClient.CloseIdleConnections()
	cancel() // as a signal would
	return errors.Join(err, <-done)
}

// serve answers requests until ctx ends, then lets the running ones finish: first the server's,
// then the pool's.
func serve(ctx context.Context, listener net.Listener, pool *pypool.Pool, logger *slog.Logger) error {
	// A body that trickles in holds memory: ReadTimeout bounds that.
	server := &http.Server{Handler: newService(pool, logger), ReadTimeout: 30 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	err := server.Shutdown(ctx) // no new requests; returns when the running ones are answered
	<-failed                    // http.ErrServerClosed
	return errors.Join(err, pool.Shutdown(ctx))
}

// tour uploads what a client would, and says what comes back.
func tour(ctx context.Context, url string, out io.Writer) error {
	letter := makePDF("Dear Ann,\nthe tea has come.", "Yours, Bob\n(P.S. It is good.)")
	doc, status, _, err := post(ctx, url, letter)
	if err != nil {
		return err
	}
	picture, err := png.DecodeConfig(bytes.NewReader(doc.FirstPage))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "a letter: %d, %d pages, the first one as a PNG of %d × %d\n", status, len(doc.Text), picture.Width, picture.Height)
	for i, text := range doc.Text {
		fmt.Fprintf(out, "  page %d: %q\n", i+1, text)
	}

	_, status, refusal, err := post(ctx, url, []byte("%PDF-1.4 and no more"))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "a broken one: %d, %s\n", status, refusal)

	var group errgroup.Group
	const uploads = 64
	for i := range uploads {
		group.Go(func() error {
			text := fmt.Sprintf("Letter %d.", i)
			doc, status, refusal, err := post(ctx, url, makePDF(text))
			if err == nil && (status != http.StatusOK || strings.Join(doc.Text, "") != text) {
				err = fmt.Errorf("letter %d: %d, %q %s", i, status, doc.Text, refusal)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d at the same time: each has its own text back\n", uploads)
	return nil
}

// post uploads a PDF.
func post(ctx context.Context, url string, pdf []byte) (doc document, status int, refusal string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/documents", bytes.NewReader(pdf))
	if err != nil {
		return doc, 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return doc, 0, "", err
	}
	defer resp.Body.Close()
	var answer struct {
		document
		failure
	}
	err = json.NewDecoder(resp.Body).Decode(&answer)
	return answer.document, resp.StatusCode, answer.Error, err
}
