package pypool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/pypool/pypool/internal/proc"
)

// forkServers make the workers of a pool with Config.ForkServer. A server is a process that has
// imported the script, and forks; there is one for each generation, which stays as long as workers
// of it live, since it alone can reap them. It is a *worker that serves nobody: it is started,
// diagnosed and stopped as one.
type forkServers struct {
	sup  *supervisor
	env  workerEnv      // of the servers
	jobs sync.WaitGroup // one for each server, from its start until it is gone

	mu     sync.Mutex // guards the fields below, and what a forkServer says it does
	newest *forkServer
	live   map[*forkServer]struct{}
	seq    int64
	closed bool
}

// forkServer is one of them.
type forkServer struct {
	generation int64
	process    *worker
	ready      chan struct{} // closed when it can fork, or has failed to start
	err        *Error        // why it has; valid when ready is closed
	lost       chan struct{} // closed when it forks no more
	over       chan struct{} // closed when nobody needs it any more
	uses       int           // forks under way, and workers that live; forkServers.mu guards it and the next
	pid        int           // 0 before it is spawned
}

// noSlot is a fork server's: it has none.
const noSlot = -1

// forkAttempts is how many servers may be lost over one start before that fails.
const forkAttempts = 3

func newForkServers(s *supervisor) *forkServers {
	f := &forkServers{sup: s, env: *s.env, live: map[*forkServer]struct{}{}}
	f.env.onSpawn, f.env.onReady, f.env.onExit = f.onSpawn, f.onReady, f.onExit
	f.env.onEndBetween, f.env.onStuck = func(*worker) {}, s.onStuck
	return f
}

// fork starts the process of a worker, whose watch calls leave. When the server is lost meanwhile
// another is asked.
func (f *forkServers) fork(ctx context.Context, w *worker) (proc.Process, error) {
	for attempt := 1; ; attempt++ {
		server := f.use(w.generation)
		if server == nil {
			return nil, errStopped
		}
		p, err := f.forkFrom(ctx, server, w)
		if err == nil {
			w.server, w.generation, w.imported = server, server.generation, server.process.started
			return p, nil
		}
		f.leave(server)
		if !errors.Is(err, proc.ErrForkServerLost) || attempt == forkAttempts || ctx.Err() != nil {
			return nil, err
		}
		select { // use hands it out until run has seen that it is lost
		case <-server.lost:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// forkFrom waits for the server's start, which StartTimeout bounds: its error is the one that says
// what it hangs in.
func (f *forkServers) forkFrom(ctx context.Context, n *forkServer, w *worker) (proc.Process, error) {
	select {
	case <-n.ready:
	case <-f.sup.ctx.Done():
		return nil, errStopped
	}
	if n.err != nil {
		return nil, n.err.clone()
	}
	w.forked = time.Now()
	return n.process.forks.Fork(ctx)
}

// use returns the server that forks workers of the generation, or of a later one; leave must
// follow. nil: the pool is closing.
func (f *forkServers) use(generation int64) *forkServer {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	if n := f.newest; n == nil || n.generation < generation || isClosed(n.lost) {
		f.startLocked(generation)
	}
	f.newest.uses++
	return f.newest
}

// leave says that a fork, or a worker, needs the server no more.
func (f *forkServers) leave(n *forkServer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n.uses--
	f.dismissLocked(n)
}

// dismissLocked has a server that nobody needs stop.
func (f *forkServers) dismissLocked(n *forkServer) {
	if n != nil && n.uses == 0 && (n != f.newest || f.closed) && !isClosed(n.over) {
		close(n.over)
	}
}

func (f *forkServers) startLocked(generation int64) {
	f.seq++
	n := &forkServer{
		generation: generation, process: newWorker(&f.env, fmt.Sprintf("f%d", f.seq), 0, generation, noSlot),
		ready: make(chan struct{}), lost: make(chan struct{}), over: make(chan struct{}),
	}
	n.process.forking = true
	old := f.newest
	f.newest, f.live[n] = n, struct{}{}
	f.dismissLocked(old)
	f.jobs.Go(func() { f.run(n) })
}

// run is a server's life.
func (f *forkServers) run(n *forkServer) {
	w := n.process
	err := w.start(f.sup.ctx)
	if err != nil {
		n.err = err
		close(n.lost)
		close(n.ready)
		f.gone(n, false)
		return
	}
	close(n.ready)
	left := false
	select {
	case <-n.over:
		left = true
	case <-w.proc.Exited():
		w.x.doubt(errors.New("it has ended"))
	case <-w.forks.Lost():
		w.x.doubt(proc.ErrForkServerLost)
		w.blame("it does not fork")
	}
	close(n.lost)
	w.stop()
	w.forks.Close()
	f.gone(n, !left && time.Since(w.readyAt) >= young)
}

// gone takes a server out that has ended. With again the next is started before anybody needs it;
// one that ended young would only end again.
func (f *forkServers) gone(n *forkServer, again bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, n)
	if again && !f.closed && f.newest == n {
		f.startLocked(f.sup.generation.Load())
	}
}

func (f *forkServers) onSpawn(w *worker) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := range f.live {
		if n.process == w {
			n.pid = w.proc.PID()
		}
	}
}

// pids are those of the servers.
func (f *forkServers) pids() (list []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := range f.live {
		if n.pid != 0 {
			list = append(list, n.pid)
		}
	}
	return list
}

// onReady tells of a server that can fork.
func (f *forkServers) onReady(w *worker) {
	f.env.reporter.log(slog.LevelDebug, "fork server started", slog.String("worker", w.id), slog.Int("pid", w.proc.PID()),
		slog.String("python", w.python), slog.Duration("took", time.Since(w.started)))
}

// onExit tells of a server's end.
func (f *forkServers) onExit(w *worker) {
	exit := w.exitError()
	cause, level := exit.Error(), slog.LevelWarn
	switch {
	case w.retired.Load(), isClosed(f.env.killing):
		level = slog.LevelDebug
	case !isClosed(w.ready):
		return // the start's error tells it
	}
	if why := w.blamed.Load(); why != nil {
		cause = *why + ": " + cause
	}
	f.env.reporter.log(level, "fork server ended", slog.String("worker", w.id), slog.Int("pid", w.proc.PID()), slog.String("cause", cause))
}

// close ends the servers. Every worker has been stopped.
func (f *forkServers) close() {
	f.mu.Lock()
	f.closed = true
	for n := range f.live {
		n.uses = min(n.uses, 0) // of processes that were given up
		f.dismissLocked(n)
	}
	f.mu.Unlock()
	f.jobs.Wait()
}
