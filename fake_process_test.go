package pypool

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pypool/pypool/internal/proc"
	"github.com/pypool/pypool/internal/shm"
)

// fleet spawns scripted processes in place of Python's, so that a synctest bubble can decide what
// happens when.
type fleet struct {
	able string // the capabilities of its runtimes, as JSON; empty: ["page"]
	// script answers one request; nil, or false returned: the process answers as a healthy runtime
	// would.
	script func(p *fakeProcess, req fakeRequest) bool
	// setup prepares each process before it runs; nil: none.
	setup func(p *fakeProcess)
	// fails makes the nth spawn (from 1) fail; nil: none.
	fails func(n int) error

	mu     sync.Mutex // guards the fields below
	procs  []*fakeProcess
	spawns []time.Time
}

// config is a pool of the fleet. It must be used inside a bubble.
func (f *fleet) config(size int) Config {
	return Config{Python: "/bin/sh", Size: size, Overflow: -1, Logger: quiet(), HealthCheckInterval: -1, spawn: f.spawn}
}

func (f *fleet) spawn(_ context.Context, _ *proc.Spawner, spec proc.Spec) (proc.Process, error) {
	f.mu.Lock()
	f.spawns = append(f.spawns, time.Now())
	n := len(f.spawns)
	f.mu.Unlock()
	if f.fails != nil {
		if err := f.fails(n); err != nil {
			return nil, err
		}
	}
	p := &fakeProcess{n: n, fleet: f, env: spec.Env, done: make(chan struct{}), requests: make(chan []byte, 64)}
	p.pipe.changed = make(chan struct{})
	p.pipe.process = p
	if f.setup != nil {
		f.setup(p)
	}
	f.mu.Lock()
	f.procs = append(f.procs, p)
	f.mu.Unlock()
	go p.run()
	return p, nil
}

// spawned returns the times of all spawns.
func (f *fleet) spawned() []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]time.Time(nil), f.spawns...)
}

// alive returns the processes that have not exited, oldest first.
func (f *fleet) alive() (list []*fakeProcess) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.procs {
		if !isClosed(p.done) {
			list = append(list, p)
		}
	}
	return list
}

// nth returns the process of the nth spawn.
func (f *fleet) nth(n int) *fakeProcess {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.procs {
		if p.n == n {
			return p
		}
	}
	return nil
}

type fakeRequest struct {
	ID      uint64          `json:"id"`
	Command string          `json:"command"`
	Args    json.RawMessage `json:"args"`
	Session *string         `json:"session_id"`
	Timeout *int64          `json:"timeout_ms"`
	Host    uint64          `json:"host"`   // of the reply of a function
	Shared  *fakeRequest    `json:"shared"` // a request that is served beside others
	Cancel  bool            `json:"cancel"`
	line    string
}

// fakeProcess is a process that answers from a goroutine of its own, one request at a time.
type fakeProcess struct {
	n        int // the nth of its fleet
	env      []string
	fleet    *fleet
	pipe     fakePipe
	requests chan []byte

	dump       string        // what stacks returns
	dumpTakes  time.Duration // and how long it takes to
	ignoreTerm bool
	retires    func() bool // what its page says, at each look; nil: false
	slowExit   bool        // it closes its channel first, and is ending until somebody kills it

	mu    sync.Mutex // guards the fields below
	left  int        // bytes that were written and not read
	seen  []string   // the lines it was sent
	done  chan struct{}
	state proc.ExitState
}

func (p *fakeProcess) run() {
	var partial []byte
	for {
		select {
		case <-p.done:
			return
		case chunk, ok := <-p.requests:
			if !ok { // end of file on stdin: the host is gone
				p.end(proc.ExitState{Code: 1})
				return
			}
			partial = append(partial, chunk...)
			for {
				line, rest, whole := bytes.Cut(partial, []byte("\n"))
				if !whole {
					break
				}
				partial = rest
				p.serve(line)
			}
		}
	}
}

func (p *fakeProcess) serve(line []byte) {
	if bytes.HasPrefix(line, []byte(`{"id":0,"command":"hello"`)) {
		line = []byte(`{"id":0,"command":"hello"}`) // it carries the whole runtime
	}
	req := fakeRequest{line: string(line)}
	if err := json.Unmarshal(line, &req); err != nil {
		panic(err)
	}
	p.mu.Lock()
	p.seen = append(p.seen, req.line)
	p.mu.Unlock()
	if p.fleet.script != nil && p.fleet.script(p, req) {
		return
	}
	switch req.Command {
	case "hello":
		p.reply(req.ID, `{"protocol":1,"runtime":"`+Version+`","python":"3.99.0","commands":["work"],"capabilities":`+cmp.Or(p.fleet.able, `["page"]`)+`}`)
	case "ping":
		p.reply(req.ID, `{"status":"ok"}`)
	case "shutdown":
		p.reply(req.ID, `null`)
		p.end(proc.ExitState{})
	default:
		p.reply(req.ID, fmt.Sprintf(`{"process":%d,"args":%s}`, p.n, orNull(req.Args)))
	}
}

func orNull(raw json.RawMessage) string {
	if raw == nil {
		return "null"
	}
	return string(raw)
}

func (p *fakeProcess) reply(id uint64, result string) {
	p.say(fmt.Sprintf(`{"id":%d,"success":true,"result":%s}`+"\n", id, result))
}

func (p *fakeProcess) say(text string) { p.pipe.put([]byte(text), false) }

// pause lets d pass in the process, or its end.
func (p *fakeProcess) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.done:
	}
}

// hang does nothing until the process ends.
func (p *fakeProcess) hang() bool {
	<-p.done
	return true
}

// end is the process's exit, by itself or by a signal. The first counts.
func (p *fakeProcess) end(state proc.ExitState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if isClosed(p.done) {
		return
	}
	p.state = state
	p.pipe.put(nil, true)
	close(p.done)
}

// killed is what the test, or the kernel, does to it from outside.
func (p *fakeProcess) killed() { p.end(proc.ExitState{Code: -1, Signal: syscall.SIGKILL}) }

func (p *fakeProcess) lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.seen...)
}

func (p *fakeProcess) PID() int                  { return 1<<30 + p.n } // no process has it
func (p *fakeProcess) Transport() proc.Transport { return &p.pipe }
func (p *fakeProcess) Exited() <-chan struct{}   { return p.done }
func (p *fakeProcess) Ending() bool              { return p.slowExit || isClosed(p.done) }
func (p *fakeProcess) Release()                  {}
func (p *fakeProcess) Kill()                     { p.end(proc.ExitState{Code: -1, Signal: syscall.SIGKILL, Ours: true}) }
func (p *fakeProcess) Stderr() io.Reader         { return endOfFile{p.done} }

func (p *fakeProcess) Exit() proc.ExitState {
	if !isClosed(p.done) {
		return proc.ExitState{Code: -1}
	}
	return p.state
}

func (p *fakeProcess) Terminate() {
	if !p.ignoreTerm {
		p.end(proc.ExitState{Code: -1, Signal: syscall.SIGTERM, Ours: true})
	}
}

func (p *fakeProcess) Spin(time.Duration, bool)   {}
func (p *fakeProcess) Memory() *shm.Memory        { return nil }
func (p *fakeProcess) Cancel(uint64)              {}
func (p *fakeProcess) Shielded() bool             { return false }
func (p *fakeProcess) Retires() bool              { return p.retires != nil && p.retires() }
func (p *fakeProcess) ServiceTime() time.Duration { return time.Microsecond }
func (p *fakeProcess) Unread() (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left, true
}

func (p *fakeProcess) Adopt(int) error { return nil }

func (p *fakeProcess) Stacks(d time.Duration) (string, string) {
	time.Sleep(min(d, p.dumpTakes))
	return p.dump, ""
}

// endOfFile is a stderr that stays silent until the process's end.
type endOfFile struct{ done <-chan struct{} }

func (r endOfFile) Read([]byte) (int, error) {
	<-r.done
	return 0, io.EOF
}

// fakePipe is the host's end of a fakeProcess. As with os.File, a deadline applies to what is under
// way, too.
type fakePipe struct {
	process *fakeProcess
	// atDeadline is put before a read that has hit its deadline returns: the answer of the same
	// instant.
	atDeadline []byte
	full       atomic.Bool // it takes nothing but what Write waits for

	mu       sync.Mutex // guards the fields below
	buf      []byte
	eof      bool
	closed   bool
	deadline time.Time
	changed  chan struct{} // closed and replaced at each change
}

func (t *fakePipe) put(data []byte, eof bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, data...)
	t.eof = t.eof || eof
	t.broadcast()
}

func (t *fakePipe) broadcast() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// take returns what is there now; wait is non-nil when that is nothing.
func (t *fakePipe) take(b []byte) (n int, wait <-chan struct{}, deadline time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return 0, nil, t.deadline, os.ErrClosed
	case t.expired():
		t.buf = append(t.buf, t.atDeadline...)
		t.atDeadline = nil
		return 0, nil, t.deadline, os.ErrDeadlineExceeded
	case len(t.buf) > 0:
		n = copy(b, t.buf)
		t.buf = t.buf[n:]
		return n, nil, t.deadline, nil
	case t.eof:
		return 0, nil, t.deadline, io.EOF
	}
	return 0, t.changed, t.deadline, nil
}

func (t *fakePipe) expired() bool { return !t.deadline.IsZero() && !time.Now().Before(t.deadline) }

func (t *fakePipe) Read(b []byte) (int, error) {
	for {
		n, wait, deadline, err := t.take(b)
		if wait == nil {
			return n, err
		}
		var expiry <-chan time.Time
		var timer *time.Timer
		if !deadline.IsZero() {
			timer = time.NewTimer(time.Until(deadline))
			expiry = timer.C
		}
		select {
		case <-wait:
		case <-expiry:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// TryRead takes a moment when nothing is there: a bubble's time would not pass for those who poll.
func (t *fakePipe) TryRead(b []byte) (int, error) {
	t.mu.Lock()
	if len(t.buf) == 0 && !t.eof {
		t.mu.Unlock()
		time.Sleep(10 * time.Microsecond)
		t.mu.Lock()
	}
	defer t.mu.Unlock()
	if len(t.buf) == 0 && t.eof {
		return 0, io.EOF
	}
	n := copy(b, t.buf)
	t.buf = t.buf[n:]
	return n, nil
}

func (t *fakePipe) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return 0, os.ErrClosed
	case t.expired():
		return 0, os.ErrDeadlineExceeded
	case t.eof:
		return 0, syscall.EPIPE
	}
	t.process.requests <- bytes.Clone(b)
	return len(b), nil
}

// TryWrite has room for all, or for nothing.
func (t *fakePipe) TryWrite(b []byte) (int, error) {
	if t.full.Load() {
		return 0, nil
	}
	return t.Write(b)
}

// Unwatch: nobody is woken in vain.
func (*fakePipe) Unwatch() {}

func (t *fakePipe) SetDeadline(at time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.deadline = at
	t.broadcast()
	return nil
}

// SetReadDeadline is for writes, too, which never wait.
func (t *fakePipe) SetReadDeadline(at time.Time) error { return t.SetDeadline(at) }

func (t *fakePipe) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.closed = true
		close(t.process.requests)
		t.broadcast()
	}
	return nil
}
