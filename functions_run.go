package pypool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/foreign"
	"github.com/pypool/pypool/internal/receive"
	"github.com/pypool/pypool/internal/wire"
)

// A function of the host runs on behalf of a request that is served, on a goroutine of its own or
// behind others on a stand-in's (functions_standin.go). How its reply gets to the worker is the
// business of whoever holds that: of an exchange, whose holder alone writes (replies.go), or of all
// who share it (outbox.go).

// functions is what all workers of a pool may call, and what they have called.
type functions struct {
	cfg      *Config
	reporter *reporter
	running  atomic.Int64 // functions that run
	held     atomic.Int64 // bytes of their arguments
}

const (
	maxFunctions  = 1 << 14                // that run at once, of a pool: who wants more waits for some
	functionGrace = 250 * time.Millisecond // what Close waits for functions whose contexts it has ended
	functionNap   = time.Millisecond       // between looks at them
	lateReply     = time.Second            // what a reply waits, at most, for the end of its call that it has seen
)

// wait waits for the functions that still run, but not for long: that code is the caller's, and may
// never come back.
func (h *functions) wait() {
	for end := time.Now().Add(functionGrace); h.running.Load() > 0 && time.Now().Before(end); {
		time.Sleep(functionNap)
	}
}

// calls is the functions that a request has called, until the request's end.
type calls struct {
	functions *functions
	id        uint64
	info      *CallInfo
	ctx       context.Context // what all are derived from
	cancel    context.CancelFunc
	memory    wire.Memory          // of the worker, where payloads of replies go; nil: there is none
	reply     func(line replyLine) // has a reply written; behind the request's end it goes nowhere
	running   atomic.Int64         // functions that have not answered yet
	gone      chan struct{}        // is closed once the handler has been told that its caller has gone
	once      sync.Once            // closes it
}

// replyLine is a reply as it is written. Who does not write it takes back what was lent.
type replyLine struct {
	text []byte
	lent []int // slots of the worker's memory that payloads of it are in
}

// newCalls asks ctx what package context does.
func newCalls(ctx context.Context, x *exchange, info *CallInfo, reply func(line replyLine)) *calls {
	c := &calls{functions: x.functions, id: info.RequestID, info: info, memory: x.lender(), reply: reply, gone: make(chan struct{})}
	ctx, c.cancel = context.WithCancel(foreign.Context(ctx))
	c.ctx = &functionContext{ctx, info, x.functions}
	return c
}

// left ends the contexts, and lets those replies go that have waited for the handler to be told.
func (c *calls) left() {
	c.cancel()
	c.once.Do(func() { close(c.gone) })
}

// awaitLeft waits until the handler has been told that its call is over. A function that ends with
// its context answers in the same instant; its answer is not to reach the handler before that.
func (c *calls) awaitLeft() {
	receive.Within(c.gone, lateReply)
}

// functionContext is a call's context as its functions get it.
type functionContext struct {
	context.Context
	info      *CallInfo
	functions *functions
}

func (c *functionContext) Value(key any) any {
	switch key {
	case callKey{}:
		return c.info
	case nestedIn{c.functions}:
		return c
	}
	return c.Context.Value(key)
}

// observedContext is a context with the values of another, which is the caller's.
type observedContext struct {
	context.Context
	values context.Context
}

func (c observedContext) Value(key any) (value any) {
	if foreign.IsForContext(key) {
		return c.Context.Value(key)
	}
	defer func() {
		if recover() != nil {
			value = nil
		}
	}()
	return c.values.Value(key)
}

// functionRun is a function that is to be run.
type functionRun struct {
	calls    *calls
	f        Function
	number   uint64
	info     FunctionInfo
	args     arguments
	deadline time.Time
}

// begin runs a function on a goroutine of its own, or answers for it. functions.wait joins that, as
// far as the caller's code can be.
func (c *calls) begin(frame *wire.Frame, args arguments, deadline time.Time) {
	if run := c.prepare(frame, args, deadline); run != nil {
		go run.do()
	}
}

// prepare returns a function that is to run, and answers for one that is not: it returns nil then.
func (c *calls) prepare(frame *wire.Frame, args arguments, deadline time.Time) *functionRun {
	h, number := c.functions, frame.Host
	if frame.Function == nil {
		c.reply(c.failed(number, hostArguments, "the arguments are nested too deeply"))
		return nil
	}
	var name, trace string
	_ = json.Unmarshal(frame.Function, &name) // it has been read as JSON
	if frame.Trace != nil {
		if _ = json.Unmarshal(frame.Trace, &trace); !validTraceParent(trace) {
			trace = ""
		}
	}
	f, known := h.cfg.Functions[name]
	if !known {
		c.reply(c.failed(number, hostUnknown, fmt.Sprintf("the host has no function %.64q", name)))
		return nil
	}
	size := args.size()
	if many, held := h.running.Add(1), h.held.Add(size); many > maxFunctions || held-size > int64(h.cfg.MaxQueueBytes) {
		h.finished(size)
		c.reply(c.failed(number, hostTooMany, fmt.Sprintf("%d functions run already, or their arguments are %d bytes", maxFunctions, h.cfg.MaxQueueBytes)))
		return nil
	}
	c.running.Add(1)
	return &functionRun{c, f, number, FunctionInfo{*c.info, name, trace}, args, deadline}
}

func (h *functions) finished(size int64) {
	h.held.Add(-size)
	h.running.Add(-1)
}

// do runs the function, and has the reply written. It returns also where the function panics.
func (r *functionRun) do() {
	c := r.calls
	ended := false
	var line replyLine
	defer func() {
		if !ended {
			t := &trouble{recover()}
			c.functions.reporter.failure("the function "+r.info.Function+" of Config.Functions", t)
			line = c.told(r.number, t)
		}
		c.running.Add(-1)
		c.reply(line)
		c.functions.finished(r.args.size())
	}()
	ctx := c.ctx
	if !r.deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = untilDeadline(ctx, r.deadline)
		defer cancel()
	}
	line = c.answer(ctx, r.f, r.number, r.info, r.args)
	ended = true
	if ctx.Err() != nil {
		c.awaitLeft()
	}
}

// untilDeadline is ctx with the deadline of its call. Once that has passed it is what has ended the context:
// the call ends in the same instant, and would else say first that it was canceled.
func untilDeadline(ctx context.Context, deadline time.Time) (context.Context, context.CancelFunc) {
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	limited, release := context.WithDeadline(inner, deadline)
	stop := context.AfterFunc(ctx, func() {
		if time.Now().Before(deadline) {
			cancel(context.Cause(ctx))
		}
	})
	if ctx.Err() != nil && time.Now().Before(deadline) {
		cancel(context.Cause(ctx)) // at once
	}
	return limited, func() {
		stop()
		release()
		cancel(nil)
	}
}

// observed runs the function, and tells the observer.
func (f Function) observed(ctx context.Context, o *Observer, info FunctionInfo, args arguments) (out any, err error) {
	if o.FunctionStart != nil {
		if observed := o.FunctionStart(ctx, info); observed != nil {
			ctx = observed
		}
	}
	if o.FunctionEnd != nil {
		ended := false
		defer func() {
			if !ended {
				err = errFunctionFailed
			}
			o.FunctionEnd(ctx, info, err)
		}()
		out, err = f.run(ctx, args)
		ended = true
		return out, err
	}
	return f.run(ctx, args)
}

// errFunctionFailed is what the observer is told of a function that panics.
var errFunctionFailed = errors.New("it has panicked, or called runtime.Goexit")

// told is the reply for a function that has ended its goroutine.
func (c *calls) told(number uint64, t *trouble) replyLine {
	kind := hostPanic
	if t.value == nil {
		kind = hostGoexit
	}
	return c.failed(number, kind, strings.TrimPrefix(t.describe(), "panicked: "))
}

// failed is the reply for a function that has failed.
func (c *calls) failed(number uint64, kind, message string) replyLine {
	return replyLine{text: wire.ReplyError(c.id, number, kind, message)}
}

// answer runs the function, and returns the reply, which has copies of the payloads in the result.
// It runs code of the caller's.
func (c *calls) answer(ctx context.Context, f Function, number uint64, info FunctionInfo, args arguments) replyLine {
	out, err := f.observed(ctx, c.functions.cfg.Observer, info, args)
	if err != nil {
		kind, message := describeHostError(err)
		return c.failed(number, kind, message)
	}
	text, blobs, err := wire.Reply(c.id, number, out)
	if err != nil {
		return c.failed(number, hostResult, "the result cannot be sent: "+err.Error())
	}
	if size, limit := len(text)+wire.BlobsSize(blobs), c.functions.cfg.MaxMessageBytes; size > limit {
		return c.failed(number, hostTooLarge, fmt.Sprintf("the result is %d bytes, MaxMessageBytes is %d", size, limit))
	}
	text, lent := wire.Laden(text, blobs, c.memory)
	return replyLine{text, lent}
}
