// Command http is a net/http service in front of a pool of Python workers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pypool/pypool"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	python := flag.String("python", "", "the Python interpreter (default: as pypool finds it)")
	requests := flag.Int("load", 0, "send this many requests to itself and stop")
	flag.Parse()

	// SIGTERM is how an orchestrator asks a service to go, SIGINT is Ctrl-C. The library installs
	// no signal handlers.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg := pypool.Production()
	cfg.Script = "worker.py"
	cfg.Python = *python
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))

	var err error
	if *requests > 0 {
		err = loadItself(ctx, cfg, *requests, os.Stdout)
	} else {
		err = listenAndServe(ctx, cfg, *addr)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "http:", err)
		var start *pypool.StartError
		if errors.As(err, &start) {
			fmt.Fprint(os.Stderr, start.Stderr)
		}
		os.Exit(1)
	}
}

func listenAndServe(ctx context.Context, cfg pypool.Config, addr string) error {
	pool, err := pypool.New(ctx, cfg) // before the port opens: who can connect is served at once
	if err != nil {
		return err
	}
	defer pool.Close()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "listening on", listener.Addr())
	return serve(ctx, listener, pool, cfg.Logger)
}

const (
	requestTimeout = 10 * time.Second // of a request: the wait for a worker and the run together
	shutdownGrace  = 20 * time.Second // for the requests that run when the service is asked to go
)

// serve answers requests until ctx ends, then lets the running ones finish: first the server's,
// then the pool's.
func serve(ctx context.Context, listener net.Listener, pool *pypool.Pool, logger *slog.Logger) error {
	server := &http.Server{Handler: newService(pool, logger, requestTimeout), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	err := server.Shutdown(ctx) // no new requests; returns when the running ones are answered
	<-failed                    // http.ErrServerClosed
	return errors.Join(err, pool.Shutdown(ctx))
}

// loadItself serves on a free port, sends itself requests and says how it went.
func loadItself(ctx context.Context, cfg pypool.Config, requests int, out io.Writer) error {
	pool, err := pypool.New(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- serve(ctx, listener, pool, cfg.Logger) }()

	const clients = 16
	begun := time.Now()
	got := load(ctx, http.DefaultClient, "http://"+listener.Addr().String(), requests, clients)
	took := time.Since(begun)
	http.DefaultClient.CloseIdleConnections()
	stats := pool.Stats()
	fmt.Fprintf(out, "%d requests from %d clients: %d answered, %d of them rightly\n", requests, clients, got.status[http.StatusOK], got.right)
	fmt.Fprintf(out, "the pool: %d calls = %d succeeded + %d failed + %d in flight; %d sessions\n",
		stats.Started, stats.Succeeded, stats.Failed, stats.InFlight, stats.Sessions)
	fmt.Fprintf(os.Stderr, "%.0f requests a second; the wait for a worker was %v in the median\n",
		float64(requests)/took.Seconds(), stats.CheckoutWait.P50.Round(time.Microsecond))
	cancel() // as a signal would
	return errors.Join(<-done, got.err)
}
