package pypoolnats_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pypool/pypool"
	pypoolnats "github.com/pypool/pypool/nats"
)

func init() { slog.SetDefault(slog.New(slog.DiscardHandler)) }

// connect stands for a connection to your nats-server: here it is one in this process.
func connect() (*nats.Conn, func()) {
	dir, err := os.MkdirTemp("", "nats")
	if err != nil {
		log.Fatal(err)
	}
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, JetStream: true, StoreDir: dir})
	if err != nil {
		log.Fatal(err)
	}
	srv.Start()
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		log.Fatal(err)
	}
	return nc, func() {
		nc.Close()
		srv.Shutdown()
		srv.WaitForShutdown()
		_ = os.RemoveAll(dir)
	}
}

func startPool(ctx context.Context) *pypool.Pool {
	pool, err := pypool.New(ctx, pypool.Config{Script: "testdata/worker.py", Size: 2})
	if err != nil {
		log.Fatal(err)
	}
	return pool
}

func Example() {
	ctx := context.Background()
	nc, stop := connect()
	defer stop()

	// On each machine that serves.
	pool := startPool(ctx)
	defer pool.Close()
	service, err := pypoolnats.Serve(nc, "numbers", pool)
	if err != nil {
		log.Fatal(err)
	}
	defer service.Close()

	// On each machine that calls.
	client := pypoolnats.NewClient(nc, "numbers")
	defer client.Close()
	sum, err := pypool.Call[int](ctx, client, "add", map[string]any{"a": 40, "b": 2})
	fmt.Println(sum, err)
	for n, err := range pypool.Each[int](ctx, client, "count", []any{3}) {
		fmt.Println(n, err)
	}
	_, err = pypool.Call[int](ctx, client, "ad", nil)
	fmt.Println(err)
	// Output:
	// 42 <nil>
	// 0 <nil>
	// 1 <nil>
	// 2 <nil>
	// pypool: unknown_command: ad: "ad" is not registered; nearest: add, meta, fail
}

func ExampleClient_With() {
	ctx := context.Background()
	nc, stop := connect()
	defer stop()
	client := pypoolnats.NewClient(nc, "numbers")
	defer client.Close()

	impatient := client.With(pypoolnats.WithRetry(pypoolnats.Retry{Attempts: 1}))
	_, err := pypool.Call[int](ctx, impatient, "add", []int{40, 2})
	fmt.Println(err, pypool.SafeToRetry(err))
	// Output: pypool: pool_not_available: add: nobody serves "numbers" on NATS: nats: no responders available for request true
}

func ExampleEnqueue() {
	ctx, cancel := context.WithCancel(context.Background())
	nc, stop := connect()
	defer stop()
	js, err := jetstream.New(nc)
	if err != nil {
		log.Fatal(err)
	}

	job, err := pypoolnats.Enqueue(ctx, js, "numbers", "add", []int{40, 2}, pypoolnats.WithJobID("sum-1"))
	if err != nil {
		log.Fatal(err)
	}

	// On each machine that works.
	pool := startPool(ctx)
	defer pool.Close()
	done := make(chan error)
	go func() { done <- pypoolnats.Work(ctx, js, "numbers", pool) }()

	result, err := job.Wait(ctx)
	fmt.Println(string(result.Raw()), err)
	cancel()
	fmt.Println(<-done)
	// Output:
	// 42 <nil>
	// <nil>
}
