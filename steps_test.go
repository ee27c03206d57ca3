//go:build linux

package pypool

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
)

// The step-boundary matrix: a call passes nine boundaries, and eight things can happen at each.
// Each of the 72 cells has one expected error type, delivery and worker's fate. The cells run in a
// synctest bubble, on a scripted process: what happens, happens exactly there.

// boundary is a moment in a call.
type boundary int

const (
	atCheckout        boundary = iota // the caller has called; no worker is chosen
	atLivenessCheck                   // the worker is chosen, and alive
	atFirstByte                       // nothing has been written
	atShortWrite                      // half of the request has been written
	atNewline                         // all of it has, and the runtime has begun it
	atFirstAnswerByte                 // half of the answer has come
	atLastAnswerByte                  // all of the answer has been sent, and not yet read
	atRelease                         // it has been read; the worker is not yet released
	atDestroy                         // the answer was garbage, and the worker is being killed
	boundaries
)

func (b boundary) String() string {
	return []string{"checkout", "liveness check", "first byte", "short write", "newline", "first answer byte", "last answer byte", "release", "destroy"}[b]
}

// cell is what is expected.
type cell struct {
	want   error // nil: success
	is     Delivery
	worker fate // of the first worker, after the next call
}

var (
	succeeds      = cell{nil, Executed, kept}
	succeedsElse  = cell{nil, Executed, replaced} // on another worker, or with the first one's last answer
	exited        = cell{ErrWorkerExited, MaybeExecuted, replaced}
	violated      = cell{ErrProtocol, MaybeExecuted, replaced}
	timedOut      = cell{ErrOperationTimeout, MaybeExecuted, replaced}
	timedOutShort = cell{ErrOperationTimeout, NotExecuted, replaced}
	timedOutKept  = cell{ErrOperationTimeout, NotExecuted, kept}
	notCheckedOut = cell{ErrCheckoutTimeout, NotExecuted, kept}
	canceled      = cell{ErrCanceled, MaybeExecuted, replaced}
	canceledShort = cell{ErrCanceled, NotExecuted, replaced}
	canceledStops = cell{ErrCanceled, MaybeExecuted, kept}
	canceledKept  = cell{ErrCanceled, NotExecuted, kept}
	closed        = cell{ErrPoolClosed, MaybeExecuted, replaced}
	closedUnsent  = cell{ErrPoolClosed, NotExecuted, replaced}
)

// matrix is indexed by the boundary; the rows are the events.
var matrix = map[string][boundaries]cell{
	//            checkout,      liveness,      first byte,    short write,   newline,  first answer, last answer,  release,      destroy
	"exit":     {succeedsElse, succeedsElse, succeedsElse, succeedsElse, exited, exited, succeedsElse, succeedsElse, violated},
	"SIGKILL":  {succeedsElse, succeedsElse, succeedsElse, succeedsElse, exited, exited, succeedsElse, succeedsElse, violated},
	"SIGSTOP":  {timedOut, timedOut, timedOut, timedOutShort, timedOut, timedOut, succeeds, succeeds, violated},
	"garbage":  {succeedsElse, succeedsElse, violated, violated, violated, violated, succeedsElse, succeedsElse, violated},
	"cancel":   {canceledKept, canceledKept, canceledKept, canceledShort, canceled, canceled, succeeds, succeeds, violated},
	"stop":     {canceledKept, canceledKept, canceledKept, canceledShort, canceledStops, canceledStops, succeeds, succeeds, violated}, // a cancel of what obeys
	"deadline": {notCheckedOut, timedOutKept, timedOutKept, timedOutShort, timedOut, timedOut, succeeds, succeeds, violated},
	"Close":    {closedUnsent, closedUnsent, closedUnsent, closedUnsent, closed, closed, succeedsElse, succeedsElse, violated},
}

func TestFaultSteps(t *testing.T) {
	cells := 0
	for event, row := range matrix {
		for at, want := range row {
			cells++
			t.Run(fmt.Sprintf("%s_at_%s", event, strings.ReplaceAll(boundary(at).String(), " ", "_")), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { playStep(t, event, boundary(at), want) })
			})
		}
	}
	require.Equal(t, 72, cells)
}

func playStep(t *testing.T, event string, at boundary, want cell) {
	s := &step{t: t, event: event, at: at}
	p := s.newPool()
	defer func() {
		require.NoError(t, p.Close())
		accounted(t, p)
	}()
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
	s.cancel = cancel
	defer cancel()
	first := p.Workers()[0].ID
	time.Sleep(2 * aMoment) // sooner nobody looks whether the worker has said something
	res, err := p.ExecuteAnonymous(s.ctx, "step", []any{"argument"}, WithTimeout(time.Hour))
	s.active.Store(false)
	s.sent.Store(false)
	require.True(t, s.happened.Load(), "the boundary was reached")
	failsWith(t, err, want.want, want.is)
	if want.want == nil {
		require.NotEmpty(t, res.Worker())
	}
	if event == "Close" {
		require.NoError(t, p.Close())
		require.Empty(t, p.Workers())
		return
	}
	s.stopped.Store(false) // SIGCONT
	time.Sleep(2 * aMoment)
	// The epilogue: the next call succeeds, on a pool of full size.
	_, err = p.ExecuteAnonymous(context.Background(), "work", nil)
	require.NoError(t, err)
	time.Sleep(time.Minute)
	synctest.Wait()
	require.True(t, serving(p))
	require.Equal(t, want.worker == kept, p.Workers()[0].ID == first, "whether the worker was kept")
	require.EqualValues(t, 1, p.sup.checkout.puddle.Stat().AcquiredResources())
	require.Equal(t, 1, p.sup.checkout.idleNow())
}

// step is one cell being played.
type step struct {
	t        *testing.T
	event    string
	at       boundary
	pool     *Pool
	process  *fakeProcess
	ctx      context.Context
	cancel   context.CancelFunc
	active   atomic.Bool // the call of the cell is under way
	sent     atomic.Bool // its request has been written, or half of it
	happened atomic.Bool
	stopped  atomic.Bool
	rest     atomic.Pointer[string] // of the answer to the request that runs
}

// newPool starts a pool of one fake worker, whose calls of the command "step" are the step's.
func (s *step) newPool() *Pool {
	var f fleet
	f.script = func(p *fakeProcess, req fakeRequest) bool {
		if p.n != 1 || req.Command != "step" {
			return false
		}
		s.handle(p, req)
		return true
	}
	if s.event == "stop" {
		f.able = `["page","cancel"]`
	}
	cfg := f.config(1)
	cfg.spawn = func(ctx context.Context, sp *proc.Spawner, spec proc.Spec) (proc.Process, error) {
		proc, err := f.spawn(ctx, sp, spec)
		if p := proc.(*fakeProcess); p.n == 1 {
			s.process = p
			return &steppedProcess{p, s}, err
		}
		return proc, err
	}
	cfg.Observer = &Observer{CallStart: func(ctx context.Context, c CallInfo) context.Context {
		if c.Command == "step" {
			s.active.Store(true)
			s.reach(atCheckout)
		}
		return ctx
	}}
	p, err := New(s.t.Context(), cfg)
	require.NoError(s.t, err)
	s.pool = p
	return p
}

// reach has the event happen if this is its boundary, and returns when all its consequences have
// come.
func (s *step) reach(at boundary) {
	if !s.active.Load() || at != s.at || s.happened.Swap(true) {
		return
	}
	switch s.event {
	case "exit":
		s.process.end(proc.ExitState{})
	case "SIGKILL":
		s.process.killed()
	case "SIGSTOP":
		s.stopped.Store(true)
	case "garbage":
		s.process.say("garbage\n")
	case "cancel", "stop":
		s.cancel()
	case "deadline":
		time.Sleep(2 * time.Minute)
	case "Close":
		go s.pool.Close()
	}
	synctest.Wait()
}

// handle is the runtime's part of the call: it has begun.
func (s *step) handle(p *fakeProcess, req fakeRequest) {
	answer := fmt.Sprintf(`{"id":%d,"success":true,"result":"answer"}`+"\n", req.ID)
	s.rest.Store(&answer)
	dead := s.stopped.Load() || s.happened.Load() && s.event != "garbage"
	switch {
	case dead || s.at == atNewline:
	case s.at == atDestroy:
		p.say("garbage\n")
	case s.at == atFirstAnswerByte:
		rest := answer[len(answer)/2:]
		s.rest.Store(&rest)
		p.say(answer[:len(answer)/2])
	default:
		p.say(answer)
	}
}

// steppedProcess tells the step of its transport's and its own operations.
type steppedProcess struct {
	*fakeProcess
	s *step
}

func (p *steppedProcess) Transport() proc.Transport { return &steppedPipe{&p.pipe, p.s} }

// Cancel is obeyed by a runtime that can.
func (p *steppedProcess) Cancel(id uint64) {
	if rest := p.s.rest.Swap(nil); id != 0 && rest != nil {
		p.say(*rest)
	}
}

func (p *steppedProcess) Kill() {
	p.s.reach(atDestroy)
	p.fakeProcess.Kill()
}

type steppedPipe struct {
	*fakePipe
	s *step
}

// late reports whether the deadline has passed: an os.File then refuses even what would not wait.
func (t *steppedPipe) late() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.expired()
}

func (t *steppedPipe) TryRead(b []byte) (int, error) {
	if t.s.sent.Load() { // the host polls for the answer before it waits for it
		return t.answer(b, t.tryRead)
	}
	t.s.reach(atLivenessCheck)
	return t.tryRead(b)
}

func (t *steppedPipe) tryRead(b []byte) (int, error) {
	if t.late() {
		return 0, os.ErrDeadlineExceeded
	}
	return t.fakePipe.TryRead(b)
}

func (t *steppedPipe) TryWrite(b []byte) (int, error) {
	t.s.reach(atFirstByte)
	if t.late() {
		return 0, os.ErrDeadlineExceeded
	}
	half := len(b)
	if t.s.active.Load() && t.s.at == atShortWrite {
		half /= 2
	}
	n, err := t.send(b[:half])
	if err != nil {
		return n, err
	}
	if t.s.active.Load() {
		synctest.Wait() // the process has what was written, and has done what it does about it
	}
	t.s.sent.Store(t.s.active.Load())
	if n == len(b) {
		t.s.reach(atNewline)
	} else {
		t.s.reach(atShortWrite)
	}
	return n, nil
}

// send writes past the deadline, as the pipe of a process that still reads would take it. A stopped
// one's takes it too, unread.
func (t *steppedPipe) send(b []byte) (int, error) {
	if t.s.stopped.Load() {
		return len(b), nil
	}
	t.mu.Lock()
	gone := t.eof || t.closed
	t.mu.Unlock()
	if gone {
		return 0, syscall.EPIPE
	}
	t.process.requests <- bytes.Clone(b)
	return len(b), nil
}

// Write is reached with the second half of a request, which a stopped process's pipe does not take.
func (t *steppedPipe) Write(b []byte) (int, error) {
	for t.s.stopped.Load() {
		if t.late() {
			return 0, os.ErrDeadlineExceeded
		}
		time.Sleep(time.Second)
	}
	if t.late() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := t.send(b)
	if err == nil {
		synctest.Wait()
	}
	return n, err
}

func (t *steppedPipe) Read(b []byte) (int, error) { return t.answer(b, t.fakePipe.Read) }

func (t *steppedPipe) answer(b []byte, read func([]byte) (int, error)) (int, error) {
	if t.s.active.Load() {
		synctest.Wait() // the process has said what it says
		t.s.reach(atFirstAnswerByte)
		t.s.reach(atLastAnswerByte)
	}
	n, err := read(b)
	if bytes.ContainsRune(b[:n], '\n') {
		t.s.reach(atRelease)
	}
	return n, err
}

// What comes within a moment of an answer, and not along with it, is found behind the next request:
// no caller is given it, and the worker is replaced even so.
func TestUnaskedOutputAMomentAfterAnAnswer(t *testing.T) {
	for wait, want := range map[time.Duration]cell{0: violated, 2 * aMoment: succeedsElse} {
		t.Run(wait.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var f fleet
				p, err := New(t.Context(), f.config(1))
				require.NoError(t, err)
				defer func() { require.NoError(t, p.Close()) }()
				_, err = p.ExecuteAnonymous(t.Context(), "work", nil)
				require.NoError(t, err)
				worker := p.Workers()[0].ID
				f.nth(1).say(`{"id":1,"success":true,"result":"garbage"}` + "\n")
				time.Sleep(wait)
				_, err = p.ExecuteAnonymous(t.Context(), "work", nil)
				failsWith(t, err, want.want, want.is)
				_, err = p.ExecuteAnonymous(t.Context(), "work", nil)
				require.NoError(t, err)
				require.NotEqual(t, worker, p.Workers()[0].ID)
			})
		})
	}
}

// A call that ended before it was sent has looked for nothing: the moment counts from the answer
// before it.
func TestUnaskedOutputBeforeACallThatWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &step{t: t, event: "cancel", at: atLivenessCheck}
		p := s.newPool()
		defer func() { require.NoError(t, p.Close()) }()
		worker := p.Workers()[0].ID
		time.Sleep(2 * aMoment)
		s.ctx, s.cancel = context.WithCancel(t.Context())
		_, err := p.ExecuteAnonymous(s.ctx, "step", nil)
		failsWith(t, err, ErrCanceled, NotExecuted)
		s.active.Store(false)
		require.Equal(t, worker, p.Workers()[0].ID)
		s.process.say("garbage\n")
		_, err = p.ExecuteAnonymous(t.Context(), "work", nil)
		require.NoError(t, err)
		require.NotEqual(t, worker, p.Workers()[0].ID)
	})
}
