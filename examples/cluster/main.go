// Command cluster has three services, each a process with a pool of its own, share the calls of one
// client over a nats-server. It kills one of them in the midst, and shows where the load goes.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pypool/pypool"
	pypoolnats "github.com/pypool/pypool/nats"
)

func main() {
	server := flag.String("nats-server", "nats-server", "the nats-server's program")
	python := flag.String("python", "", "the Python interpreter (default: as pypool finds it)")
	service := flag.String("serve", "", "be the service of that name")
	url := flag.String("nats", nats.DefaultURL, "the nats-server that a service connects to")
	stdin := flag.Bool("stdin", false, "end the service with its standard input, too")
	flag.Parse()
	var err error
	if *service != "" {
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		if *stdin { // which a machine's own services do not have
			go func() { // until the process ends
				_, _ = io.Copy(io.Discard, os.Stdin) // to its end, which is that of the program that has begun this one
				stop()
			}()
		}
		err = serve(ctx, *service, *url, *python)
	} else {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		err = run(ctx, show{server: *server, python: *python, every: time.Second, rows: 4, callers: 16}, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

var names = []string{"alpha", "beta", "gamma"}

// show is what is shown, and how.
type show struct {
	server, python string
	every          time.Duration // a row
	rows           int           // in each of the three parts
	callers        int
}

func run(ctx context.Context, s show, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "cluster-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	url, stop, err := startServer(ctx, s.server, dir)
	if err != nil {
		return err
	}
	defer stop()
	c := &services{url: url, python: s.python, running: map[string]*process{}}
	defer c.stop()
	for _, name := range names {
		if err := c.start(name); err != nil {
			return err
		}
	}

	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close()
	// A stamp may be made twice: a call whose service was killed may go to another one.
	client := pypoolnats.NewClient(nc, "stamps",
		pypoolnats.WithLostAfter(time.Second), pypoolnats.WithRetry(pypoolnats.Retry{Attempts: 5, MaybeExecuted: true}))
	defer client.Close()
	l := &load{client: client, answered: map[string]int{}}
	wait := l.begin(ctx, s.callers)

	fmt.Fprintf(out, "%8s%8s%8s%8s%8s\n", "row", names[0], names[1], names[2], "failed")
	row := 0
	part := func() error {
		for range s.rows {
			select {
			case <-time.After(s.every):
			case <-ctx.Done():
				return ctx.Err()
			}
			row++
			of, failed := l.take()
			fmt.Fprintf(out, "%8d%8d%8d%8d%8d\n", row, of[names[0]], of[names[1]], of[names[2]], failed)
		}
		return nil
	}
	steps := []func() error{
		part,
		func() error { return c.kill("beta") },
		func() error { _, err := fmt.Fprintln(out, "beta was killed"); return err },
		part,
		func() error { return c.start("beta") },
		func() error { _, err := fmt.Fprintln(out, "beta is back"); return err },
		part,
	}
	for _, step := range steps {
		if err = step(); err != nil {
			break
		}
	}
	total, failed := wait()
	if err == nil {
		fmt.Fprintf(out, "%d calls answered, %d failed\n", total, failed)
	}
	return err
}

// --- the load ------------------------------------------------------------------------------------

// load is callers that call again and again.
type load struct {
	client *pypoolnats.Client

	mu              sync.Mutex     // guards the fields below
	answered        map[string]int // by service, since take
	failed          int            // since take
	total, failures int
}

// begin has so many callers call; wait ends them, and joins them.
func (l *load) begin(ctx context.Context, callers int) (wait func() (total, failures int)) {
	over := make(chan struct{})
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				l.call(ctx, fmt.Sprintf("text %d of caller %d", n, i))
			}
		})
	}
	return func() (int, int) {
		close(over)
		group.Wait()
		return l.total, l.failures
	}
}

func (l *load) call(ctx context.Context, text string) {
	type stamped struct{ Service, Stamp string }
	got, err := pypool.Call[stamped](ctx, l.client, "stamp", map[string]any{"text": text})
	if errors.Is(err, context.Canceled) {
		return // by Ctrl-C
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed++
		l.failures++
		fmt.Fprintln(os.Stderr, err)
		return
	}
	l.answered[got.Service]++
	l.total++
}

// take returns what was counted since the last time.
func (l *load) take() (answered map[string]int, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	answered, failed = l.answered, l.failed
	l.answered, l.failed = map[string]int{}, 0
	return answered, failed
}

// --- processes -----------------------------------------------------------------------------------

const startTimeout = 30 * time.Second

// startServer starts a nats-server on a port of its own choice.
func startServer(ctx context.Context, program, dir string) (url string, stop func(), err error) {
	cmd := exec.Command(program, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", dir)
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("%w (`make cluster` builds one)", err)
	}
	stop = func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	path := filepath.Join(dir, fmt.Sprintf("%s_%d.ports", filepath.Base(program), cmd.Process.Pid))
	for {
		var ports struct{ Nats []string }
		if text, err := os.ReadFile(path); err == nil && json.Unmarshal(text, &ports) == nil && len(ports.Nats) > 0 {
			return ports.Nats[0], stop, nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			stop()
			return "", nil, errors.New("the nats-server did not come up")
		}
	}
}

// services are the processes that serve.
type services struct {
	url, python string
	running     map[string]*process
}

type process struct {
	cmd   *exec.Cmd
	stdin io.Closer // its end asks the service to go
}

// start starts a service, and returns when it serves.
func (c *services) start(name string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-serve", name, "-nats", c.url, "-python", c.python, "-stdin")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.running[name] = &process{cmd, stdin}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		return fmt.Errorf("%s did not come up: %q: %w", name, line, err)
	}
	return nil
}

// kill kills a service, as the end of its machine would.
func (c *services) kill(name string) error {
	p := c.running[name]
	delete(c.running, name)
	err := p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it says that it was killed
	return err
}

// stop has all services finish what they have, and go.
func (c *services) stop() {
	for _, p := range c.running {
		_ = p.stdin.Close()
	}
	for _, p := range c.running {
		_ = p.cmd.Wait()
	}
}
