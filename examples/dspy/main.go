// Command dspy runs DSPy programs from Go: a help desk that sorts tickets and answers them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pypool/pypool"
)

func main() {
	python := flag.String("python", "../.venv/bin/python", "the interpreter that has DSPy")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := run(ctx, *python, logger, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "dspy:", err)
		var start *pypool.StartError
		if errors.As(err, &start) {
			fmt.Fprint(os.Stderr, start.Stderr)
		}
		os.Exit(1)
	}
}

// The outputs of the programs, as their signatures in worker.py name them.
type (
	triage struct {
		Category string
		Urgent   bool
	}
	answer struct {
		Reasoning string
		Reply     string
	}
	desk struct {
		Category string
		Urgent   bool
		Reply    string
	}
)

// tickets arrive from three customers; each customer is a session.
var tickets = map[string][]string{
	"ann": {"I was charged twice in May.", "The app crashes when I export."},
	"bob": {"A dark mode would be nice.", "I was charged twice, too!"},
	"eve": {"It crashes.", "It still crashes.", "And it crashes again."},
}

func run(ctx context.Context, python string, logger *slog.Logger, out io.Writer) error {
	pool, err := pypool.New(ctx, pypool.Config{
		Script:           "worker.py",
		Python:           python,
		Size:             2,
		Overflow:         -1,          // importing DSPy takes seconds: more workers would come too late to help
		StartTimeout:     time.Minute, // and longer on a cold disk
		OperationTimeout: 30 * time.Second,
		Logger:           logger,
	})
	if err != nil {
		return err
	}
	defer pool.Close()

	// A signature with Predict, anonymously.
	sorted, err := ask[triage](ctx, pool, "triage", map[string]any{"ticket": "I was charged twice in May."})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "triage: %s, urgent: %t\n", sorted.Category, sorted.Urgent)

	// A ChainOfThought, in a session.
	inputs := map[string]any{"ticket": "The app crashes when I export.", "category": "bug"}
	thought, err := ask[answer](ctx, pool, "answer", inputs, pypool.WithSession("ann"))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "answer: %s\n        because: %s\n", thought.Reply, thought.Reasoning)

	// The module that does both, for all customers at once.
	urgent, err := serve(ctx, pool)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "desk:   %d urgent tickets\n", urgent)

	// The model says what its signature does not allow: DSPy raises, and Go gets the exception. The
	// worker lives on.
	_, err = pool.ExecuteProgram(ctx, "desk", map[string]any{"ticket": "Hello?"}, pypool.WithSession("bob"))
	var raised *pypool.PythonError
	if !errors.As(err, &raised) {
		return fmt.Errorf("an answer that does not parse gave %w", err)
	}
	fmt.Fprintf(out, "error:  %s.%s\n", raised.Module, raised.Type)

	for _, customer := range []string{"ann", "bob", "eve"} {
		session, _ := pool.Session(customer)
		fmt.Fprintf(out, "%s:    %d operations, %d errors\n", session.ID, session.Operations, session.Errors)
	}
	return pool.Shutdown(ctx)
}

// ask runs a DSPy program and decodes its prediction.
func ask[Out any](ctx context.Context, pool *pypool.Pool, id string, inputs any, opts ...pypool.CallOption) (out Out, err error) {
	result, err := pool.ExecuteProgram(ctx, id, inputs, opts...)
	if err == nil {
		err = result.Decode(&out)
	}
	return out, err
}

// serve has every ticket answered, each in its customer's session, and counts the urgent ones.
func serve(ctx context.Context, pool *pypool.Pool) (urgent int64, err error) {
	var count atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for customer, texts := range tickets {
		for _, text := range texts {
			group.Go(func() error {
				done, err := ask[desk](ctx, pool, "desk", map[string]any{"ticket": text}, pypool.WithSession(customer))
				if done.Urgent {
					count.Add(1)
				}
				return err
			})
		}
	}
	err = group.Wait()
	return count.Load(), err
}
