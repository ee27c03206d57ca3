package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pypool/pypool"
	pypoolnats "github.com/pypool/pypool/nats"
)

const drain = 10 * time.Second // for the calls that run when a service is asked to go

// serve is one service: what runs on each machine. It serves until SIGTERM, Ctrl-C or the end of
// ctx, and then lets the calls that it has taken finish.
func serve(ctx context.Context, name, url, python string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	pool, err := pypool.New(ctx, pypool.Config{
		Script: "worker.py", Python: python, Size: 1, Overflow: -1, Name: name, ExtraEnv: []string{"SERVICE=" + name},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		return err
	}
	defer pool.Close()
	nc, err := nats.Connect(url, nats.Name(name), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	service, err := pypoolnats.Serve(nc, "stamps", pool, pypoolnats.WithMetadata(map[string]string{"service": name}))
	if err != nil {
		return err
	}
	fmt.Println("serving")
	<-ctx.Done()
	grace, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	return service.Shutdown(grace)
}
