package pypool

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pypool/pypool/internal/interp"
	"github.com/pypool/pypool/internal/proc"
	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// How a worker becomes ready, or why it does not.

// startWorker spawns a process, greets it and pings it. It returns within StartTimeout, or soon
// after ctx ends. On failure nothing is left of the process, and the error is an *Error with a
// *StartError.
func startWorker(ctx context.Context, env *workerEnv, seq, generation int64, slot int) (*worker, error) {
	w := newWorker(env, fmt.Sprintf("w%d", seq), seq, generation, slot)
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

func newWorker(env *workerEnv, id string, seq, generation int64, slot int) *worker {
	now := time.Now()
	w := &worker{id: id, seq: seq, slot: slot, env: env, generation: generation, started: now, imported: now, ready: make(chan struct{}), watched: make(chan struct{})}
	if d := env.cfg.MaxLifetime; d > 0 {
		w.lifetime = jitter(d)
	}
	return w
}

// start is startWorker for a worker that was made.
func (w *worker) start(ctx context.Context) *Error {
	env := w.env
	process, err := w.spawn(ctx)
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			return e // of its fork server's start
		}
		if errors.As(err, new(*proc.UnfitError)) {
			return w.startError(stageImport, err)
		}
		return w.startError(stageSpawn, err)
	}
	w.proc = process
	w.x = newExchange(process.Transport(), env.cfg.MaxMessageBytes)
	w.x.killing = env.killing
	w.x.functions, w.x.caller, w.x.retires = env.functions, w.current.now, w.asksToRetire
	w.word = rand.Text()
	w.log = newStderrLog(process.Stderr(), w.word, w.logLine)
	env.onSpawn(w)
	go w.watch()

	var deadline time.Time
	if d := env.cfg.StartTimeout; d > 0 {
		deadline = w.started.Add(d)
	}
	w.x.begin(ctx, deadline, spin.Park)
	stage, err := w.greet()
	w.x.end()
	if err == nil {
		w.heavy = env.cfg.MaxRSS > 0 && w.memory() > env.cfg.MaxRSS
		env.onReady(w)
		w.readyAt = time.Now()
		w.freed = w.readyAt
		close(w.ready)
		return nil
	}
	if w.forks != nil {
		defer w.forks.Close()
	}
	return w.failStart(ctx, stage, err)
}

// spawn starts the process, within StartTimeout and ctx.
func (w *worker) spawn(ctx context.Context) (p proc.Process, err error) {
	cfg := w.env.cfg
	if d := cfg.StartTimeout; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, w.started.Add(d), fmt.Errorf("not started within StartTimeout, %v", d))
		defer cancel()
	}
	if err := w.prepare(ctx); err != nil {
		return nil, err
	}
	switch {
	case w.forking:
		p, w.forks, err = proc.StartServer(ctx, w.env.spawner, w.spec)
		return p, err
	case w.env.servers != nil:
		return w.env.servers.fork(ctx, w)
	}
	return cfg.spawn(ctx, w.env.spawner, w.spec)
}

// memory is what of the worker's memory counts for MaxRSS: of a forked one what is its own, and never
// what payloads lie in, which the pool uses again and again.
func (w *worker) memory() int64 {
	if w.server != nil {
		return proc.PrivateBytes(w.proc.PID())
	}
	resident := proc.ResidentBytes(w.proc.PID())
	if m := w.x.memory; m != nil {
		resident -= int64(m.Size())
	}
	return resident
}

// watch tells the pool of the process's end. stop joins it.
func (w *worker) watch() {
	defer close(w.watched)
	<-w.proc.Exited()
	if w.end.Swap(endReached) == endGivenUp {
		w.env.unreapable.Add(-1)
	}
	if s := w.sharing.Load(); s != nil {
		s.exited()
	}
	w.env.onExit(w)
	if w.server != nil {
		w.env.servers.leave(w.server)
	}
}

// greet sends hello, which has the runtime import the user's code, and a first ping.
func (w *worker) greet() (stage string, err error) {
	hello, err := w.helloRequest()
	if err != nil {
		return stageHello, err
	}
	var answer struct {
		Protocol     int      `json:"protocol"`
		Runtime      string   `json:"runtime"`
		Python       string   `json:"python"`
		PID          int      `json:"pid"`
		Executable   string   `json:"executable"`
		Commands     []string `json:"commands"`
		Programs     []string `json:"programs"`
		Capabilities []string `json:"capabilities"`

		Batches    []batchRule    `json:"batches"`
		Concurrent map[string]int `json:"concurrent"`
		Health     bool           `json:"health"`
	}
	if err := w.sayHello(hello.Seal(0, 0, false), &answer); err != nil {
		return stageHello, err
	}
	if answer.Protocol != protocolVersion || answer.Runtime != Version {
		return stageHello, versionMismatch(answer.Protocol, answer.Runtime)
	}
	if err := w.proc.Adopt(answer.PID); err != nil {
		return stageHello, err
	}
	w.python, w.runs, w.commands, w.programs = answer.Python, answer.Executable, answer.Commands, answer.Programs
	w.paged = slices.Contains(answer.Capabilities, "page")
	w.cancelable = slices.Contains(answer.Capabilities, "cancel")
	w.packs = slices.Contains(answer.Capabilities, "packed")
	if slices.Contains(answer.Capabilities, "memory") {
		w.x.memory = w.proc.Memory()
	}
	if slices.Contains(answer.Capabilities, "batch") {
		w.batches = batchRules(answer.Batches, answer.Commands, answer.Programs)
	}
	if slices.Contains(answer.Capabilities, "shared") {
		w.concurrent = answer.Concurrent
	}
	if r := w.retirement.Load(); r != nil {
		return stageHello, errors.New("it has asked to be replaced while it started: " + r.reason)
	}
	if w.forking {
		return "", nil
	}
	if err := w.exchangePing(nil); err != nil {
		return stagePing, err
	}
	if r := w.retirement.Load(); r != nil {
		return stagePing, errors.New("it has asked to be replaced while it started: " + r.reason)
	}
	w.checks = answer.Health
	return "", nil
}

// helloArgs is docs/protocol.md, "Hello".
type helloArgs struct {
	Protocol        []int    `json:"protocol"`
	Version         string   `json:"version"`
	Capabilities    []string `json:"capabilities"`
	Pool            string   `json:"pool"`
	WorkerID        string   `json:"worker_id"`
	Slot            int      `json:"slot"`
	PID             int      `json:"pid"`
	MaxMessageBytes int      `json:"max_message_bytes"`
	Script          *string  `json:"script"`
	Module          *string  `json:"module"`
	ModuleDir       string   `json:"module_dir,omitempty"`
	Args            []string `json:"args"`
	LogLevel        int      `json:"log_level"`
	Sources         bool     `json:"sources,omitempty"`
	StackFD         int      `json:"stack_fd,omitempty"`
	PageFD          int      `json:"page_fd,omitempty"`
	LeashFD         int      `json:"leash_fd,omitempty"`
	AskFD           int      `json:"ask_fd,omitempty"`
	Functions       []string `json:"functions,omitempty"`
	BlobFunctions   []string `json:"blob_functions,omitempty"`
	MinBlob         int      `json:"min_blob"`
	MinLent         int      `json:"min_lent"`
	ForkFD          int      `json:"fork_fd,omitempty"`
	Runtime         string   `json:"runtime,omitempty"`
	LogWord         string   `json:"log_word"` // behind the sources, so that no sample of this line has it

	Environ map[string]string `json:"environ,omitempty"`
}

// helloPart is which steps of a start a process takes: docs/protocol.md, "Fork server".
type helloPart int

const (
	helloWhole  helloPart = iota // runtime, import and setup
	helloServer                  // runtime and import
	helloForked                  // setup
)

func (w *worker) part() helloPart {
	switch {
	case w.forking:
		return helloServer
	case w.server != nil:
		return helloForked
	}
	return helloWhole
}

func (w *worker) helloRequest() (wire.Request, error) {
	cfg, part := w.env.cfg, w.part()
	hello := helloArgs{
		Protocol: []int{protocolVersion}, Version: Version, Capabilities: []string{"stream", "page", "log", "packed", "cancel", "batch", "functions", "shared", "retire", "memory"},
		Pool: cfg.Name, WorkerID: w.id, Slot: w.slot, PID: w.proc.PID(), MaxMessageBytes: cfg.MaxMessageBytes,
		Functions: slices.Sorted(maps.Keys(cfg.Functions)), Args: append([]string{}, cfg.Args...), LogLevel: w.env.reporter.pythonLevel(), LogWord: w.word, Environ: w.hidden,
		MinBlob: wire.SmallestBlob(), MinLent: wire.SmallestLent(), Sources: cfg.WatchScripts,
	}
	for _, name := range hello.Functions {
		if cfg.Functions[name].takes {
			hello.BlobFunctions = append(hello.BlobFunctions, name)
		}
	}
	if script := cfg.scriptPath(); script != "" {
		hello.Script = &script
	}
	if cfg.Module != "" {
		hello.Module, hello.ModuleDir = &cfg.Module, cfg.filesDir
	}
	if part != helloForked {
		pack := packedRuntime
		if part == helloServer {
			pack = packedServer
		}
		hello.Runtime = pack()
		if proc.ExtraFiles {
			hello.StackFD, hello.PageFD, hello.LeashFD, hello.AskFD = proc.StackFD, proc.PageFD, proc.LeashFD, proc.AskFD
		}
	}
	if part == helloServer {
		hello.ForkFD = proc.ForkFD
	}
	return wire.Encode(nil, commandHello, hello, "", false)
}

// sayHello sends hello and decodes its answer. What the interpreter, or what runs in its place,
// says before that goes to the log.
func (w *worker) sayHello(line []byte, answer any) error {
	if err := w.x.write(line); err != nil { // no send: a banner may have come already
		_ = w.x.t.SetDeadline(time.Time{}) // an expired one refuses even a read that would not wait
		if n, _ := w.x.t.TryRead(w.x.buf); n > 0 {
			w.log.add(w.x.buf[:n])
		}
		return err
	}
	banner, err := w.x.skipBanner(line, w.x.readNext)
	if len(banner) > 0 {
		w.log.add(banner)
	}
	if err != nil {
		return err
	}
	return w.x.receiveInto(0, answer)
}

// exchangePing pings the worker, with the question for its health if it is to be asked that.
func (w *worker) exchangePing(args any) error {
	var pong struct {
		Status string `json:"status"`
	}
	if err := w.converse(commandPing, args, &pong); err != nil {
		return err
	}
	if pong.Status != "ok" {
		return &ProtocolError{Reason: "a ping was answered with status " + quoteSample([]byte(pong.Status))}
	}
	return nil
}

// failStart ends a worker that did not become ready, and says why.
func (w *worker) failStart(ctx context.Context, stage string, err error) *Error {
	w.x.doubt(err)
	cause := err
	var we *wireError
	switch {
	case errors.As(err, &we):
		if we.Stage != "" {
			stage = we.Stage
		}
		w.python = cmp.Or(we.Python, w.python)
		cause = we.startCause()
	case ctx.Err() != nil:
		cause = context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		cause = joinDetail(errors.New("not ready within StartTimeout, "+w.env.cfg.StartTimeout.String()), w.killHung("it did not start"))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isShortWrite(err):
		// A deadline of its own, and no longer than a hang's: the process may have closed its
		// channel and live on.
		if w.awaitExit(max(w.env.cfg.KillGrace, 100*time.Millisecond)) || w.proc.Ending() && w.awaitExit(exitWait) {
			exit := w.exitError()
			cause = exit
			if stage != stageHello || w.server != nil { // it has begun
			} else if failed := w.spec.FailedExec(exit.Code, exit.Stderr); failed != nil {
				stage, cause = stageSpawn, failed
			} else {
				var old error
				if w.python, old = interp.AskVersion(ctx, w.spec); old != nil {
					cause = joinDetail(old, cause)
				}
			}
		} else {
			cause = &ProtocolError{Reason: "the process closed its output before it was ready"}
		}
	}
	e := w.startError(stage, cause)
	w.stop() // stderr is complete then
	detail := e.Err.(*StartError)
	detail.Stderr = w.log.text()
	if we != nil {
		detail.sources = we.Sources
	}
	var py *PythonError
	if errors.As(cause, &py) && !strings.Contains(detail.Stderr, py.Traceback) {
		detail.Stderr += py.Traceback
	}
	return e
}

// startError builds the error of a failed start.
func (w *worker) startError(stage string, cause error) *Error {
	python := w.env.python
	python.Version = w.python
	e := startError(w.env.cfg, python, stage, w.started, cause)
	e.Context.Worker = w.id
	if w.proc != nil {
		e.Context.PID = w.proc.PID()
	}
	return e
}

// startError is the error of a worker, or of a pool before it has any, that did not start.
func startError(cfg *Config, python interp.Interpreter, stage string, begun time.Time, cause error) *Error {
	detail := &StartError{Stage: stage, Python: python.String(), Err: cause, interpreter: python}
	e := newError(TypeWorkerStart, NotExecuted, detail.Error(), detail)
	if target := cfg.target(); target != "" {
		e.Message = oneLine(target) + ": " + e.Message
	}
	e.Context = ErrorContext{Pool: cfg.Name, Elapsed: time.Since(begun)}
	return e
}
