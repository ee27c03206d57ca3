// Command container is a service for a container: the worker's code is in the binary, the pool's
// size is the container's, and health is the pool's own.
package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pypool/pypool"
)

//go:embed all:python
var code embed.FS

func main() {
	addr := flag.String("addr", ":8080", "where to listen")
	health := flag.String("health", "", "ask the service at this address whether it is ready, for HEALTHCHECK")
	check := flag.Bool("check", false, "try the configuration, and stop")
	flag.Parse()
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	cfg := pypool.Production() // a worker for each processor that the container may use
	cfg.Files, cfg.Script = code, "python/worker.py"
	cfg.Logger = logger
	var err error
	switch {
	case *health != "":
		err = ready(ctx, *health)
	case *check:
		err = pypool.Check(ctx, cfg)
	default:
		err = serve(ctx, cfg, *addr)
	}
	if err != nil {
		logger.Error(err.Error())
		var start *pypool.StartError
		if errors.As(err, &start) {
			fmt.Fprint(os.Stderr, start.Stderr)
		}
		os.Exit(1)
	}
}

// ready asks a service, as a container's health check does.
func ready(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/ready", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", response.Status)
	}
	return nil
}

// serve answers until ctx ends, then lets what runs finish.
func serve(ctx context.Context, cfg pypool.Config, addr string) error {
	pool, err := pypool.New(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	server := &http.Server{Addr: addr, Handler: handler(pool), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	err = server.Shutdown(deadline)
	<-failed
	return errors.Join(err, pool.Shutdown(deadline))
}

func handler(pool *pypool.Pool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { // the process answers: no reason to kill it
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) { // Python answers: send requests
		if _, err := pool.HealthCheck(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("POST /call/{command}", func(w http.ResponseWriter, r *http.Request) {
		args := map[string]any{}
		for name, values := range r.URL.Query() {
			args[name] = values[0]
		}
		result, err := pool.ExecuteAnonymous(r.Context(), r.PathValue("command"), args)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(result.Raw())
	})
	return mux
}
