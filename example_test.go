package pypool_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/pypool/pypool"
)

const worker = `
from pypool import command, current_call, program

@command
def summarize(text: str, limit: int = 100) -> dict:
    return {"summary": text[:limit], "length": len(text)}

@command
def whoami():
    return current_call().session_id

@command
def parse(number: str) -> int:
    return int(number)

@program("double")
def double(x: int) -> int:
    return 2 * x
`

// newPool writes the worker to a file and opens a pool of it, as an example's own main would with
// its worker.py.
func newPool() (*pypool.Pool, func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	script := filepath.Join(dir, "worker.py")
	if err := os.WriteFile(script, []byte(worker), 0o600); err != nil {
		log.Fatal(err)
	}
	pool, err := pypool.New(context.Background(), pypool.Config{Script: script, Size: 2, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		log.Fatal(err)
	}
	return pool, func() {
		pool.Close()
		os.RemoveAll(dir)
	}
}

func Example() {
	pool, done := newPool() // pypool.New(ctx, pypool.Config{Script: "worker.py"})
	defer done()

	ctx := context.Background()
	out, err := pool.ExecuteInSession(ctx, "user-42", "summarize", map[string]any{"text": "A long text.", "limit": 6})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(out.Raw()))
	// Output: {"summary":"A long","length":12}
}

func ExampleCall() {
	pool, done := newPool()
	defer done()

	type Args struct {
		Text string `json:"text"`
	}
	type Summary struct {
		Summary string
		Length  int
	}
	sum, err := pypool.Call[Summary](context.Background(), pool, "summarize", Args{Text: "A long text."})
	fmt.Println(sum.Summary, sum.Length, err)
	// Output: A long text. 12 <nil>
}

func ExamplePool_ExecuteProgram() {
	pool, done := newPool()
	defer done()

	res, err := pool.ExecuteProgram(context.Background(), "double", map[string]any{"x": 21}, pypool.WithSession("user-42"))
	if err != nil {
		log.Fatal(err)
	}
	var n int
	fmt.Println(res.Decode(&n), n)
	// Output: <nil> 42
}

func ExamplePool_Session() {
	pool, done := newPool()
	defer done()

	ctx := context.Background()
	for range 3 {
		res, _ := pool.ExecuteInSession(ctx, "user-42", "whoami", nil)
		fmt.Println(string(res.Raw()))
	}
	session, known := pool.Session("user-42")
	fmt.Println(session.Operations, session.Errors, known)
	// Output:
	// "user-42"
	// "user-42"
	// "user-42"
	// 3 0 true
}

func ExampleError() {
	pool, done := newPool()
	defer done()

	_, err := pool.ExecuteAnonymous(context.Background(), "parse", map[string]any{"number": "seven"})
	fmt.Println(err)

	var e *pypool.Error
	if errors.As(err, &e) {
		fmt.Println(e.Category, e.Type, e.Delivery)
	}
	var py *pypool.PythonError
	if errors.As(err, &py) {
		fmt.Println(py.Type)
	}
	// Output:
	// pypool: python_exception: parse: ValueError: invalid literal for int() with base 10: 'seven' (worker.py:14 in parse)
	// execution_error python_exception Executed
	// ValueError
}

func ExampleSafeToRetry() {
	pool, done := newPool()
	defer done()

	_, err := pool.ExecuteAnonymous(context.Background(), "sumarize", nil)
	fmt.Println(errors.Is(err, pypool.ErrUnknownCommand), pypool.SafeToRetry(err))
	var unknown *pypool.UnknownCommandError
	if errors.As(err, &unknown) {
		fmt.Println("did you mean", unknown.Names[0])
	}
	// Output:
	// true true
	// did you mean summarize
}

func ExamplePool_HealthCheck() {
	pool, done := newPool()
	defer done()

	health, err := pool.HealthCheck(context.Background())
	fmt.Println(health.Healthy, health.Responsive, health.Breaker, err)
	// Output: true 2 closed <nil>
}

func ExamplePool_Shutdown() {
	pool, done := newPool()
	defer done()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(pool.Shutdown(ctx))
	_, err := pool.ExecuteAnonymous(ctx, "whoami", nil)
	fmt.Println(err)
	// Output:
	// <nil>
	// pypool: pool_not_available: whoami: the pool is closed
}
