// Command quickstart is a first tour of pypool: it measures the source files of the Python standard
// library, each in a call to a pool of Python workers, and then the same with one worker, to show
// what the pool is worth.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"time"

	"github.com/pypool/pypool"
)

type options struct {
	workers int
	limit   int
	python  string
	script  string
}

func main() {
	var opts options
	flag.IntVar(&opts.workers, "workers", runtime.GOMAXPROCS(0), "number of Python workers")
	flag.IntVar(&opts.limit, "limit", 0, "measure at most this many files; 0 means all")
	flag.StringVar(&opts.python, "python", "", "the Python interpreter (default: as pypool finds it)")
	flag.StringVar(&opts.script, "script", "worker.py", "the worker script")
	flag.Parse()
	if flag.NArg() > 0 || opts.workers < 1 || opts.limit < 0 {
		fmt.Fprintln(os.Stderr, "quickstart takes no arguments, -workers must be 1 or more and -limit 0 or more")
		flag.Usage()
		os.Exit(2)
	}

	// Signals are the program's business; the library only ever sees a context.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	err := run(ctx, opts)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		fmt.Fprintf(os.Stderr, "quickstart: interrupted (%v); all workers are stopped\n", err)
		os.Exit(130)
	default:
		explain(err)
		os.Exit(1)
	}
}

func run(ctx context.Context, opts options) error {
	all, err := measure(ctx, opts, opts.workers)
	if err != nil {
		return err
	}
	printSurvey(os.Stdout, all.survey)
	if opts.workers == 1 {
		printRuns(os.Stdout, all)
		return nil
	}
	one, err := measure(ctx, opts, 1)
	if err != nil {
		return err
	}
	printRuns(os.Stdout, all, one)
	return nil
}

// outcome is one run of the job on one pool.
type outcome struct {
	workers int
	ready   time.Duration // New: until all workers were started and had answered a ping
	took    time.Duration // the job
	survey  *survey
	stats   pypool.Stats
}

// measure runs the whole job on a pool of its own.
func measure(ctx context.Context, opts options, workers int) (*outcome, error) {
	begun := time.Now()
	pool, err := pypool.New(ctx, pypool.Config{
		Script:   opts.script,
		Python:   opts.python,
		Size:     workers,
		Overflow: -1, // exactly Size: this is a comparison
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	out := &outcome{workers: workers, ready: time.Since(begun)}
	fmt.Fprintf(os.Stderr, "Python %s: %s ready in %s\n", pool.Workers()[0].Python, plural(workers, "worker"), round(out.ready))

	files, err := pypool.Call[[]string](ctx, pool, "stdlib_files", map[string]any{"limit": opts.limit})
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("this interpreter has no source files of its standard library")
	}
	begun = time.Now()
	bar := newProgress(os.Stderr, len(files), fmt.Sprintf("%d files, %s", len(files), plural(workers, "worker")))
	out.survey, err = analyzeAll(ctx, pool, files, 2*workers, bar.step)
	bar.done()
	if err != nil {
		return nil, err
	}
	out.took, out.stats = time.Since(begun), pool.Stats()
	return out, pool.Shutdown(ctx)
}

// explain prints an error, and what Python said about it.
func explain(err error) {
	fmt.Fprintln(os.Stderr, "quickstart:", err)
	var start *pypool.StartError
	var python *pypool.PythonError
	switch {
	case errors.As(err, &start):
		fmt.Fprint(os.Stderr, start.Stderr)
	case errors.As(err, &python):
		fmt.Fprint(os.Stderr, python.Traceback)
	}
}
