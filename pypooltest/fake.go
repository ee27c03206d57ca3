// Package pypooltest is for the tests of code that calls Python with pypool: a [Fake] answers with
// Go functions in place of Python, in microseconds and without an interpreter; [Start] opens a real
// pool for one test, and checks that nothing of it is left.
//
// Code that is to be tested so takes a [pypool.Caller] in place of a *pypool.Pool.
//
//	fake := pypooltest.New()
//	pypooltest.Handle(fake, "greet", func(ctx context.Context, in Person) (string, error) {
//		if in.Name == "" {
//			return "", pypooltest.Exception("ValueError", "no name")
//		}
//		return "Hello, " + in.Name, nil
//	})
//	fake.Fail("greet", pypooltest.Error(pypool.TypeQueueFull)) // the first call
//	greeting, err := pypool.Call[string](ctx, fake, "greet", Person{"Ann"})
package pypooltest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/foreign"
)

// Fake is a [pypool.Caller] whose commands are functions in Go. What it does with arguments,
// options, contexts and errors is what a pool does: arguments and results cross as JSON, bytes and
// arrays beside it; a call returns at the end of its context or of WithTimeout, whatever its
// function does; each error is a *pypool.Error with its type, detail, delivery and context. What it
// has not is workers: nothing waits, there are no timeouts but those that a call brings, and no
// circuits; such errors are provoked with [Fake.Fail]. It is safe for concurrent use. The zero Fake
// has no commands, and is ready.
type Fake struct {
	running sync.WaitGroup // functions whose callers have left them, or may

	mu       sync.Mutex // guards the fields below
	commands map[string]handler
	programs map[string]handler
	failing  map[string][]error
	calls    []*Call
	closed   bool
}

var _ pypool.Caller = (*Fake)(nil)

// New returns a Fake without commands.
func New() *Fake { return &Fake{} }

// Call is a call that a Fake was asked for, as Python would have got it.
type Call struct {
	ID      uint64 // from 1, in the order of their begin
	Command string // empty for a program
	Program string
	Session string
	Args    json.RawMessage    // an object, an array or null, with bytes as base64 text and arrays as lists
	Options pypool.CallOptions // what its CallOptions said
	Stream  bool               // Stream or Each made it

	Ended  bool // the caller has its outcome; until then the next ones are zero
	Result json.RawMessage
	Items  int   // that a stream's loop was given
	Err    error // nil, or the *pypool.Error that the caller got

	args *values // where Args does not hold all of them
}

// Decode stores the arguments in v, as the function of a command gets them: see [Handle].
func (c Call) Decode(v any) error {
	switch {
	case c.args != nil:
		return c.args.decode(v)
	case c.Args == nil: // they could not be encoded
		return nil
	}
	return values{line: c.Args}.decode(v)
}

func (c *Call) key() string {
	if c.Program != "" {
		return "execute_program:" + c.Program
	}
	return c.Command
}

// handler runs a command: yield takes its result, or its items.
type handler struct {
	streams bool
	run     func(ctx context.Context, args values, yield func(values) bool) error
}

// Handle has h serve the calls of a command. An earlier one of that name is replaced.
//
// Keyword arguments are the fields of In by the rules of encoding/json; one that In, a struct, does
// not have is refused with ErrInvalidArguments, as Python refuses it, and so is one in another case
// than the field's tag. Positional arguments are the fields in their order, where In is a struct, else the one argument is In itself, and several are
// an array. What is not given stays zero: nothing is known of what Python requires.
//
// An error of h that is a *pypool.Error is the call's error, with the call in its Context. Any
// other error is an exception that Python raised: a *pypool.PythonError as it is, else an Exception
// with the error's text. h runs with the call's context, in which [CallFromContext] finds the call,
// on the caller's goroutine, or on one of its own if the call can end before it. If h panics, or
// calls t.FailNow, that happens on the caller's goroutine. Handle panics where f or h is nil.
func Handle[In, Out any](f *Fake, command string, h func(ctx context.Context, in In) (Out, error)) {
	given(f, command, h == nil)
	f.register(&f.commands, command, plain(h))
}

// HandleProgram is Handle for ExecuteProgram.
func HandleProgram[In, Out any](f *Fake, programID string, h func(ctx context.Context, in In) (Out, error)) {
	given(f, programID, h == nil)
	f.register(&f.programs, programID, plain(h))
}

// given panics where there is nothing to register, or nowhere.
func given(f *Fake, name string, none bool) {
	switch {
	case f == nil:
		panic(fmt.Sprintf("pypooltest: the Fake that is to handle %q is nil", name))
	case none:
		panic(fmt.Sprintf("pypooltest: the function that is to handle %q is nil", name))
	}
}

// HandleStream is Handle for a generator command, which Stream and Each call. The sequence that h
// returns runs on the goroutine of the loop over the stream; it is stopped at its next item when
// the context has ended, and has to look at that itself where it waits. An error ends it, behind
// the items before it. WithTimeout and WithStallTimeout have no effect.
func HandleStream[In, Out any](f *Fake, command string, h func(ctx context.Context, in In) iter.Seq2[Out, error]) {
	given(f, command, h == nil)
	f.register(&f.commands, command, generator(h))
}

// HandleProgramStream is HandleStream for a program that is a generator, which the clients that
// pypoolgen writes call: Stream and Each of the command execute_program, with the program's id and
// its inputs.
func HandleProgramStream[In, Out any](f *Fake, programID string, h func(ctx context.Context, in In) iter.Seq2[Out, error]) {
	given(f, programID, h == nil)
	f.register(&f.programs, programID, generator(h))
}

func generator[In, Out any](h func(context.Context, In) iter.Seq2[Out, error]) handler {
	return handler{true, func(ctx context.Context, args values, yield func(values) bool) error {
		var in In
		if err := args.decode(&in); err != nil {
			return err
		}
		for out, err := range h(ctx, in) {
			if err != nil {
				return err
			}
			raw, err := encodeResult(out)
			if err != nil {
				return err
			}
			if !yield(raw) {
				return nil
			}
		}
		return nil
	}}
}

func plain[In, Out any](h func(context.Context, In) (Out, error)) handler {
	return handler{false, func(ctx context.Context, args values, yield func(values) bool) error {
		var in In
		if err := args.decode(&in); err != nil {
			return err
		}
		out, err := h(ctx, in)
		if err != nil {
			return err
		}
		raw, err := encodeResult(out)
		if err != nil {
			return err
		}
		yield(raw)
		return nil
	}}
}

func (f *Fake) register(table *map[string]handler, name string, h handler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if *table == nil {
		*table = map[string]handler{}
	}
	(*table)[name] = h
}

func (f *Fake) handles(command string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, is := f.commands[command]
	return is
}

// Fail has the next calls of a command fail, one with each of the errors; nil lets one through.
// Their functions do not run. The name of a program's calls is "execute_program:" and its id. An
// error is what an error of a function is: see [Handle]; [Error] makes one of any type.
func (f *Fake) Fail(command string, errs ...error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failing == nil {
		f.failing = map[string][]error{}
	}
	f.failing[command] = append(f.failing[command], errs...)
}

// Calls returns the calls so far, in the order of their begin.
func (f *Fake) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]Call, len(f.calls))
	for i, c := range f.calls {
		list[i] = *c
	}
	return list
}

// CallsOf returns those of one command; of a program "execute_program:" and its id.
func (f *Fake) CallsOf(command string) []Call {
	return slices.DeleteFunc(f.Calls(), func(c Call) bool { return c.key() != command })
}

// Reset forgets the calls so far, and the failures that no call has had yet.
func (f *Fake) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.failing = nil, nil
}

// Close has all further calls fail with ErrPoolClosed, and waits for the functions whose callers
// have left them at their contexts' ends.
func (f *Fake) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.running.Wait()
	return nil
}

// ExecuteInSession is as of [pypool.Pool].
func (f *Fake) ExecuteInSession(ctx context.Context, sessionID, command string, args any, opts ...pypool.CallOption) (pypool.Result, error) {
	r := &running{call: &Call{Command: command, Session: sessionID}, fixed: true}
	if sessionID == "" {
		r.refused = invalid("the session id is empty")
	}
	return f.execute(ctx, r, args, opts)
}

// ExecuteAnonymous is as of [pypool.Pool].
func (f *Fake) ExecuteAnonymous(ctx context.Context, command string, args any, opts ...pypool.CallOption) (pypool.Result, error) {
	return f.execute(ctx, &running{call: &Call{Command: command}, fixed: true}, args, opts)
}

// ExecuteProgram is as of [pypool.Pool].
func (f *Fake) ExecuteProgram(ctx context.Context, programID string, inputs any, opts ...pypool.CallOption) (pypool.Result, error) {
	r := &running{call: &Call{Program: programID}}
	if programID == "" {
		r.call.Command, r.refused = "execute_program", invalid("the program id is empty")
	}
	return f.execute(ctx, r, inputs, opts)
}

func invalid(message string) *pypool.Error {
	return pypool.NewError(pypool.TypeInvalidArguments, pypool.NotExecuted, message, nil)
}

// Stream is as of [pypool.Pool].
func (f *Fake) Stream(ctx context.Context, command string, args any, opts ...pypool.CallOption) iter.Seq2[pypool.Result, error] {
	return func(yield func(pypool.Result, error) bool) {
		r := &running{f: f, call: &Call{Command: command, Stream: true}, begun: time.Now()}
		left := false
		err := r.do(ctx, args, opts, func(v values) bool {
			f.mu.Lock()
			r.call.Items++
			f.mu.Unlock()
			left = !yield(r.result(v), nil)
			return !left
		})
		if err != nil && !left {
			yield(pypool.Result{}, err)
		}
	}
}

func (f *Fake) execute(ctx context.Context, r *running, args any, opts []pypool.CallOption) (pypool.Result, error) {
	r.f, r.begun = f, time.Now()
	var out values
	if err := r.do(ctx, args, opts, func(v values) bool { out = v; return false }); err != nil {
		return pypool.Result{}, err
	}
	return r.result(out), nil
}

const worker = "fake" // the id of the only one

func (r *running) result(v values) pypool.Result {
	call := pypool.CallInfo{Pool: worker, Session: r.call.Session, Command: r.command(), Program: r.program(), RequestID: r.call.ID}
	return v.result(pypool.ResultInfo{Worker: worker, Ran: time.Since(r.begun), Call: call})
}

// command is what a pool's errors call it.
func (r *running) command() string {
	if r.call.Program != "" {
		return "execute_program"
	}
	return r.call.Command
}

// program is what they call the program: nothing, where a command's arguments name it.
func (r *running) program() string {
	if r.asCommand {
		return ""
	}
	return r.call.Program
}

// running is a call under way.
type running struct {
	f       *Fake
	call    *Call // the Fake's mu guards what changes in it
	fixed   bool  // its method has fixed the session
	refused error // it does not begin
	args    values
	begun   time.Time
	h       handler

	asCommand bool // the program is called through the command execute_program
}

type callKey struct{}

// CallFromContext returns the call that a function of a [Fake] serves.
func CallFromContext(ctx context.Context) (call Call, ok bool) {
	c, ok := ctx.Value(callKey{}).(Call)
	return c, ok
}

// do is the life of a call: its error is a *pypool.Error, or nil.
func (r *running) do(ctx context.Context, args any, opts []pypool.CallOption, yield func(values) bool) (err error) {
	ended := false
	defer func() {
		r.f.mu.Lock()
		defer r.f.mu.Unlock()
		r.call.Ended, r.call.Err = ended, err
	}()
	failed := r.begin(ctx, args, opts)
	if failed == nil {
		failed = r.run(ctx, func(v values) bool {
			if !r.call.Stream {
				r.f.mu.Lock()
				r.call.Result = v.result(pypool.ResultInfo{}).Raw()
				r.f.mu.Unlock()
			}
			return yield(v)
		})
	}
	ended = true
	if failed != nil {
		return r.complete(failed)
	}
	return nil
}

// begin is what happens to a call before its function runs.
func (r *running) begin(ctx context.Context, args any, opts []pypool.CallOption) error {
	c, f := r.call, r.f
	options, wrong := pypool.ReadCallOptions(opts...)
	if wrong == nil && r.fixed {
		wrong = options.InSession(c.Session)
	}
	if wrong == nil {
		c.Session = options.Session
	}
	c.Options = options
	if r.refused != nil {
		wrong = r.refused
	}
	var encoded error
	if r.args, encoded = encode(args); encoded != nil {
		wrong = encoded
	} else {
		if id, inputs, is := r.args.program(); is && c.Command == "execute_program" && !f.handles(c.Command) {
			c.Command, c.Program, r.args, r.asCommand = "", id, inputs, true
		}
		c.Args = r.args.result(pypool.ResultInfo{}).Raw()
		if len(r.args.payload.Blobs) > 0 {
			c.args = &r.args
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, c)
	c.ID = uint64(len(f.calls))
	switch {
	case f.closed:
		return pypool.NewError(pypool.TypePoolNotAvailable, pypool.NotExecuted, "the pool is closed", nil)
	case wrong != nil:
		return wrong
	}
	if next := f.failing[c.key()]; len(next) > 0 {
		f.failing[c.key()] = next[1:]
		if next[0] != nil {
			return next[0]
		}
	}
	if ctx.Err() != nil {
		return contextError(ctx, pypool.TypeCheckoutTimeout, pypool.NotExecuted, nil)
	}
	table, name := f.commands, c.Command
	if c.Program != "" {
		table, name = f.programs, c.Program
	}
	var known bool
	if r.h, known = table[name]; !known {
		unknown := &pypool.UnknownCommandError{Name: name, Names: slices.Sorted(maps.Keys(table))}
		return pypool.NewError(pypool.TypeUnknownCommand, pypool.NotExecuted, "", unknown)
	}
	if r.h.streams && !c.Stream {
		return invalid(fmt.Sprintf("command %q is a generator: call it with Stream or Each", name))
	}
	return nil
}

// run runs the function: on a goroutine of its own where the call may end before it.
func (r *running) run(parent context.Context, yield func(values) bool) error {
	parent = foreign.Context(parent)
	call := *r.call // its arguments and options change no more
	ctx := context.WithValue(parent, callKey{}, call)
	if limit := call.Options.Timeout; limit > 0 && !call.Stream {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	over := func() error { // at ctx's end
		hang := &pypool.HangError{NoStacks: "it is a fake"}
		if parent.Err() == nil {
			message := fmt.Sprintf("no answer within %v: %v", call.Options.Timeout, hang)
			return pypool.NewError(pypool.TypeOperationTimeout, pypool.MaybeExecuted, message, hang)
		}
		return contextError(parent, pypool.TypeOperationTimeout, pypool.MaybeExecuted, hang)
	}
	var o outcome
	if ctx.Done() == nil || r.h.streams {
		ended := false // the context, while the function went on
		o.err = r.h.run(ctx, r.args, func(v values) bool {
			ended = ctx.Err() != nil
			return !ended && yield(v)
		})
		if ended {
			return over()
		}
		o.ended = true
	} else {
		done := make(chan outcome, 1)
		if !r.start(ctx, r.args, done) {
			return pypool.NewError(pypool.TypePoolNotAvailable, pypool.NotExecuted, "the pool is closed", nil)
		}
		select {
		case o = <-done:
		case <-ctx.Done():
			return over()
		}
	}
	switch {
	case !o.ended && o.value == nil:
		runtime.Goexit()
	case !o.ended:
		panic(o.value)
	case o.err != nil && ctx.Err() != nil && errors.Is(o.err, ctx.Err()):
		return over()
	case o.err == nil && o.out.line != nil:
		yield(o.out)
	}
	return o.err
}

// outcome is how a function ended.
type outcome struct {
	out   values
	err   error
	value any  // of its panic
	ended bool // else by that, or by runtime.Goexit
}

// start runs the function on a goroutine that Close joins; false: the Fake is closed.
func (r *running) start(ctx context.Context, args values, done chan<- outcome) bool {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.running.Go(func() {
		var o outcome
		defer func() {
			if !o.ended {
				o.value = recover()
			}
			done <- o
		}()
		o.err = r.h.run(ctx, args, func(v values) bool { o.out = v; return false })
		o.ended = true
	})
	return true
}

// contextError is the error of a call whose context has ended; its deadline is an error of type t.
func contextError(ctx context.Context, t pypool.ErrorType, d pypool.Delivery, hang *pypool.HangError) *pypool.Error {
	message := "the context's deadline passed"
	if errors.Is(ctx.Err(), context.Canceled) {
		t, message = pypool.TypeCanceled, "canceled by the caller"
	}
	if hang == nil {
		return pypool.NewError(t, d, message, ctx.Err())
	}
	return pypool.NewError(t, d, message+": "+hang.Error(), errors.Join(hang, ctx.Err()))
}

// complete makes of an error what the call's caller gets.
func (r *running) complete(err error) *pypool.Error {
	var e *pypool.Error
	var python *pypool.PythonError
	switch {
	case errors.As(err, &e) && e != nil:
		copied := *e
		e = &copied
	case errors.As(err, &python) && python != nil:
		e = pypool.NewError(pypool.TypePython, pypool.Executed, "", python)
	default:
		e = Exception("Exception", fmt.Sprint(err)) // which knows what nil pointers are
	}
	e.Context = pypool.ErrorContext{
		Pool: worker, Session: r.call.Session, Command: r.command(), Program: r.program(), RequestID: r.call.ID, Elapsed: time.Since(r.begun),
	}
	if e.Delivery != pypool.NotExecuted {
		e.Context.Worker = worker
	}
	return e
}

// Result makes the Result that a call of a command that returned v has. It panics when v cannot be
// a result.
func Result(v any) pypool.Result {
	out, err := encodeResult(v)
	if err != nil {
		panic(err)
	}
	return out.result(pypool.ResultInfo{Worker: worker})
}
