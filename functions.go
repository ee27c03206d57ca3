package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// Functions that Python calls in the host. A call of one comes as a frame while a request is served
// (docs/protocol.md, "Functions of the host"): whoever waits for that request's answer has the
// function run on a goroutine of its own, and goes on waiting. He alone writes to the worker, the
// replies too.

// Functions are what workers may call in the host, by the names that they have in Python: ASCII
// letters, digits and underscores, the first of them a letter; not aio.
type Functions map[string]Function

// Function is a function of the host's that Python may call. [Func] makes one.
type Function struct {
	run func(ctx context.Context, args arguments) (any, error)
}

// Func makes a [Function]. In Python its keyword arguments are the fields of In, by the rules of
// encoding/json; of one that In, a struct, does not have nothing is guessed: it is refused. One
// positional argument is the In itself, several are an array. Bytes in Python are []byte here, in
// In as in Out. What does not fit In is pypool.HostError("invalid_arguments", …) in Python, and f
// is not called. An Out that is struct{} arrives as None.
//
// f is called on a goroutine of its own, several times at once when Python has threads or tasks
// that do so. Its ctx is the call's, with what [Observer].CallStart put there, the call's deadline
// and its end: when the call ends for its caller ctx ends, and an answer that comes after the
// call's is dropped. [CallFromContext] tells the call. An error that f returns is raised in Python
// as pypool.HostError(type, message): type is the ErrorType of an [*Error], "canceled" or
// "deadline_exceeded" for a context's, else the name of its Go type. So is a panic ("panic", and
// its stack is in the log) and runtime.Goexit ("goexit").
//
// A call of the same pool that is made with ctx, or with one derived from it, never waits for a
// worker: when none is idle it fails at once with an [ErrNestedCall]. f should return soon after
// ctx's end: Close waits for processes, and only a moment for functions.
func Func[In, Out any](f func(ctx context.Context, in In) (Out, error)) Function {
	if f == nil {
		return Function{}
	}
	return Function{func(ctx context.Context, args arguments) (any, error) {
		var in In
		if err := args.decode(&in); err != nil {
			return nil, err
		}
		out, err := f(ctx, in)
		if _, nothing := any(out).(struct{}); nothing {
			return nil, err
		}
		return out, err
	}}
}

// CallFromContext returns the call on whose behalf a function of [Config.Functions] runs; ok is
// false for the context of anything else.
func CallFromContext(ctx context.Context) (call CallInfo, ok bool) {
	info, ok := ctx.Value(callKey{}).(*CallInfo)
	if !ok {
		return CallInfo{}, false
	}
	return *info, true
}

type callKey struct{}

// nestedIn is the key of what a function's context has for its pool.
type nestedIn struct{ *functions }

// nested reports whether a call of the pool with this context is made by a function that one of its
// own calls has called.
func (p *Pool) nested(ctx context.Context) bool {
	return len(p.cfg.Functions) > 0 && ctx.Value(nestedIn{p.sup.env.functions}) != nil
}

// nestedError is the error of a call that must not wait.
func nestedError() *Error {
	return newError(TypeNestedCall, NotExecuted, "no worker is idle, and a call that a function of Config.Functions makes never waits for one: raise Size", nil)
}

// resolveFunctions checks the names, and copies the map.
func (c *Config) resolveFunctions(bad *faults) {
	functions := make(Functions, len(c.Functions))
	for name, f := range c.Functions {
		switch {
		case !isFunctionName(name):
			bad.add("Functions", "%q is not a letter and then letters, digits and underscores, of ASCII", name)
		case slices.Contains(pythonNames, name):
			bad.add("Functions", "%q cannot be a function's name: it is Python's, or pypool's", name)
		case f.run == nil:
			bad.add("Functions", "%q has no function: pypool.Func makes one", name)
		}
		functions[name] = f
	}
	c.Functions = functions
}

// pythonNames are the keywords of Python that could be a function's name, and what pypool.host has
// itself.
var pythonNames = strings.Fields("aio and as assert async await break class continue def del elif else except finally for from global if import in is lambda " +
	"nonlocal not or pass raise return try while with yield")

func isFunctionName(name string) bool {
	for i, c := range []byte(name) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return name != ""
}

// The types of what a HostError tells that no function has returned.
const (
	hostUnknown   = "unknown_function"
	hostArguments = "invalid_arguments"
	hostResult    = "invalid_result"
	hostTooLarge  = "message_too_large"
	hostTooMany   = "too_many_calls"
	hostPanic     = "panic"
	hostGoexit    = "goexit"
	hostCanceled  = "canceled"
	hostDeadline  = "deadline_exceeded"
)

// hostError is an error that Python is told under a type of pypool's own.
type hostError struct{ kind, message string }

func (e *hostError) Error() string { return e.message }

// arguments is what Python calls a function with: a JSON object of keyword arguments, an array of
// positional ones, or nil.
type arguments struct {
	raw    json.RawMessage
	bigInt bool
}

func (a arguments) decode(in any) error {
	raw, keywords := a.raw, false
	switch {
	case raw == nil:
		switch kind := reflect.TypeOf(in).Elem().Kind(); kind {
		case reflect.Struct, reflect.Map, reflect.Pointer, reflect.Interface, reflect.Slice, reflect.Array:
			return nil
		default:
			return &hostError{hostArguments, fmt.Sprintf("it takes one argument, %v, and got none", reflect.TypeOf(in).Elem())}
		}
	case raw[0] == '{':
		keywords = true
	default:
		var items []json.RawMessage
		if err := json.Unmarshal(raw, &items); err == nil && len(items) == 1 {
			raw = items[0]
		}
	}
	var err error
	if a.bigInt {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		err = dec.Decode(in)
	} else {
		err = json.Unmarshal(raw, in)
	}
	if err != nil {
		return &hostError{hostArguments, fmt.Sprintf("the arguments do not fit %v: %v", reflect.TypeOf(in).Elem(), err)}
	}
	if keywords {
		return refuseUnknown(raw, reflect.TypeOf(in).Elem())
	}
	return nil
}

// refuseUnknown refuses keyword arguments that a struct has no field for.
func refuseUnknown(raw json.RawMessage, in reflect.Type) error {
	if in.Kind() == reflect.Pointer {
		in = in.Elem()
	}
	if in.Kind() != reflect.Struct || reflect.PointerTo(in).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	names := wire.MemberNames(in)
	for quoted := range wire.Keys(raw) {
		name := string(quoted[1 : len(quoted)-1])
		if slices.Contains(names, name) {
			continue
		}
		_ = json.Unmarshal(quoted, &name)
		if !slices.ContainsFunc(names, func(known string) bool { return strings.EqualFold(known, name) }) {
			return &hostError{hostArguments, fmt.Sprintf("unknown argument %q; it takes %s", name, strings.Join(names, ", "))}
		}
	}
	return nil
}

// functions is what all workers of a pool may call, and what they have called.
type functions struct {
	cfg      *Config
	reporter *reporter
	running  atomic.Int64 // goroutines
	held     atomic.Int64 // bytes of their arguments
}

const (
	maxFunctions  = 1 << 14                // that run at once, of a pool: who wants more waits for some
	functionGrace = 250 * time.Millisecond // what Close waits for functions whose contexts it has ended
	functionNap   = 50 * time.Microsecond  // while a pipe has no room for a reply, at first
	maxNap        = time.Millisecond
)

// wait waits for the functions that still run, but not for long: that code is the caller's, and may
// never come back.
func (h *functions) wait() {
	for end := time.Now().Add(functionGrace); h.running.Load() > 0 && time.Now().Before(end); {
		time.Sleep(maxNap)
	}
}

// calls is the functions that a request has called, from the first to the end of its exchange. But
// for end and reply its methods are the exchange's holder's.
type calls struct {
	x      *exchange
	id     uint64
	info   *CallInfo
	ctx    context.Context // what all are derived from
	cancel context.CancelFunc
	lines  [][]byte // replies to be written
	rest   []byte   // of one that is written in part
	nap    time.Duration

	unwritten int // bytes of the replies that are to be written; counted anew when none is left

	missed int // polls in a row that came to nothing
	skip   int // polls that are left out

	mu    sync.Mutex // guards the fields below; the reader is woken under it
	ready [][]byte   // replies that nobody has taken yet
	awake bool       // the reader looks for itself
	over  bool       // the exchange has ended: no reply is wanted, and the reader is not to be woken
}

// serve has the function run that f calls. An error is a violation of the protocol.
func (x *exchange) serve(f *wire.Frame) error {
	c := x.calls.Load()
	if c == nil || c.id != f.ID {
		if c = x.newCalls(f.ID); c == nil {
			return x.violation(errors.New("a call of a function, and nothing runs that may call one"), f.Body)
		}
	}
	if c.unwritten > x.functions.cfg.MaxQueueBytes+x.functions.cfg.MaxMessageBytes {
		return x.violation(fmt.Errorf("calls of functions, and %d bytes of replies to earlier ones that it does not read", c.unwritten), f.Body)
	}
	x.spin = spin.Park
	c.begin(f.Host, f.Function, arguments{x.take(f), f.BigInt})
	return nil
}

// newCalls returns nil where the request is pypool's own.
func (x *exchange) newCalls(id uint64) *calls {
	if x.caller == nil {
		return nil
	}
	info := x.caller()
	if info == nil {
		return nil
	}
	x.endCalls()
	info.RequestID = id
	c := &calls{x: x, id: id, info: info, awake: true}
	ctx, over := x.ctx, x.left
	switch {
	case ctx == nil: // after the end, in the last look for an answer
		ctx, over = context.Background(), true
	case x.contextOf != nil:
		ctx = x.contextOf(id)
	}
	ctx, c.cancel = context.WithCancel(watchable(ctx))
	c.ctx = &functionContext{ctx, info, x.functions}
	if over {
		c.cancel()
	}
	x.called = id
	x.calls.Store(c)
	return c
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
	if key == cancelKey {
		return c.Context.Value(key)
	}
	defer func() {
		if recover() != nil {
			value = nil
		}
	}()
	return c.values.Value(key)
}

// leaveCalls ends the contexts of what the request in hand has called, and will call: its caller
// has gone.
func (x *exchange) leaveCalls() {
	x.left = true
	if c := x.calls.Load(); c != nil {
		c.cancel()
	}
}

// endCalls drops what functions have still to say: their request is answered, or its worker lost.
func (x *exchange) endCalls() {
	c := x.calls.Load()
	x.left = false
	if c == nil {
		return
	}
	c.end()
	x.calls.Store(nil)
	x.current, x.dirty = false, true // it may have woken a reader that was not there
	x.owed = c.rest
}

// end is safe beside everything else, and may come again.
func (c *calls) end() {
	c.mu.Lock()
	c.over, c.ready = true, nil
	c.mu.Unlock()
	c.cancel()
}

// begin runs a function, or answers for it. The goroutine is joined by functions.wait, as far as
// the caller's code can be.
func (c *calls) begin(number uint64, quoted []byte, args arguments) {
	h := c.x.functions
	if quoted == nil {
		c.reply(wire.ReplyError(c.id, number, hostArguments, "the arguments are nested too deeply"))
		return
	}
	var name string
	_ = json.Unmarshal(quoted, &name) // it has been read as JSON
	f, known := h.cfg.Functions[name]
	if !known {
		c.reply(wire.ReplyError(c.id, number, hostUnknown, fmt.Sprintf("the host has no function %.64q", name)))
		return
	}
	size := int64(len(args.raw))
	if h.running.Add(1) > maxFunctions || h.held.Add(size)-size > int64(h.cfg.MaxQueueBytes) {
		h.finished(size)
		c.reply(wire.ReplyError(c.id, number, hostTooMany, fmt.Sprintf("%d functions run already, or their arguments are %d bytes", maxFunctions, h.cfg.MaxQueueBytes)))
		return
	}
	ctx, cancel := c.ctx, context.CancelFunc(func() {})
	if !c.x.deadline.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, c.x.deadline)
	}
	go c.run(ctx, cancel, f, number, name, args)
}

func (h *functions) finished(size int64) {
	h.held.Add(-size)
	h.running.Add(-1)
}

// run is the function's goroutine.
func (c *calls) run(ctx context.Context, cancel func(), f Function, number uint64, name string, args arguments) {
	h := c.x.functions
	ended := false
	var line []byte
	defer func() {
		if !ended {
			t := &trouble{recover()}
			h.reporter.failure("the function "+name+" of Config.Functions", t)
			line = c.told(number, t)
		}
		cancel()
		c.reply(line)
		h.finished(int64(len(args.raw)))
	}()
	line = c.answer(ctx, f, number, args)
	ended = true
}

// told is the reply for a function that has ended its goroutine.
func (c *calls) told(number uint64, t *trouble) (line []byte) {
	kind := hostPanic
	if t.value == nil {
		kind = hostGoexit
	}
	defer func() {
		if recover() != nil { // a method of the value
			line = wire.ReplyError(c.id, number, kind, "panicked with a value that cannot be told")
		}
	}()
	return wire.ReplyError(c.id, number, kind, strings.TrimPrefix(t.describe(), "panicked: "))
}

// answer runs the function, and returns the reply. It runs code of the caller's.
func (c *calls) answer(ctx context.Context, f Function, number uint64, args arguments) []byte {
	out, err := f.run(ctx, args)
	if err != nil {
		kind, message := describeHostError(err)
		return wire.ReplyError(c.id, number, kind, message)
	}
	line, err := wire.Reply(c.id, number, out)
	if err != nil {
		return wire.ReplyError(c.id, number, hostResult, "the result cannot be sent: "+err.Error())
	}
	if limit := c.x.functions.cfg.MaxMessageBytes; len(line) > limit {
		return wire.ReplyError(c.id, number, hostTooLarge, fmt.Sprintf("the result is %d bytes, MaxMessageBytes is %d", len(line), limit))
	}
	return line
}

const maxHostMessage = 64 << 10 // of an error's text

// describeHostError returns what Python is told of an error. It calls methods of it.
func describeHostError(err error) (kind, message string) {
	message = err.Error()
	if len(message) > maxHostMessage {
		message = strings.ToValidUTF8(message[:maxHostMessage], "") + "…"
	}
	var ours *hostError
	var e *Error
	switch {
	case errors.As(err, &ours):
		return ours.kind, message
	case errors.As(err, &e):
		return string(e.Type), message
	case errors.Is(err, context.Canceled):
		return hostCanceled, message
	case errors.Is(err, context.DeadlineExceeded):
		return hostDeadline, message
	}
	for {
		kind = strings.TrimLeft(reflect.TypeOf(err).String(), "*")
		inner := errors.Unwrap(err)
		if inner == nil || !strings.HasPrefix(kind, "fmt.") {
			break
		}
		err = inner
	}
	if kind == "errors.errorString" || strings.HasPrefix(kind, "fmt.") {
		kind = "error"
	}
	return kind, message
}

// reply hands a line over to whoever reads, and wakes him; once the exchange has ended it goes
// nowhere.
func (c *calls) reply(line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.ready = append(c.ready, line)
	if !c.awake {
		_ = c.x.t.SetReadDeadline(time.Unix(1, 0))
	}
}

// flush writes the replies, as far as the pipe takes them at once: to wait for room while the
// worker waits for its own output to be read would be for ever. Where some are left the next read
// is a short one.
func (c *calls) flush(awake bool) {
	c.mu.Lock()
	ready := c.ready
	c.ready, c.awake = nil, awake
	c.mu.Unlock()
	for _, line := range ready {
		c.unwritten += len(line)
	}
	if c.x.push != nil {
		if c.x.push(ready) {
			c.nap, c.unwritten = 0, 0
			return
		}
		c.takeNap()
		return
	}
	c.lines = append(c.lines, ready...)
	for len(c.rest) > 0 || len(c.lines) > 0 {
		line := c.rest
		if len(line) == 0 {
			line = c.lines[0]
		}
		n, err := c.x.t.TryWrite(line)
		if n > 0 {
			c.nap = 0
			if len(c.rest) == 0 {
				c.lines = c.lines[1:]
			}
			c.rest = line[n:]
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return // the read will say so
		}
		if n < len(line) {
			c.takeNap()
			return
		}
	}
	c.unwritten = 0
}

// await is the exchange's, once functions were called: it writes their replies meanwhile.
func (c *calls) await(p []byte) (int, error) {
	x := c.x
	for c.awaitBrief() {
		c.flush(true)
		if n, err := c.poll(p); n > 0 || err != nil {
			return n, err
		}
	}
	for {
		x.applyDeadline()
		c.flush(false)
		n, err := x.t.Read(p)
		x.current = false // a reply may have woken this, or there may be room for more of one
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || x.isOver() {
			return n, err
		}
	}
}

// poll looks for what comes behind a reply, for so long as that pays: 0, nil when nothing has come.
func (c *calls) poll(p []byte) (int, error) {
	if c.skip > 0 {
		c.skip--
		return 0, nil
	}
	c.x.t.Unwatch()
	end := time.Now().Add(spin.Brief)
	for range maxPolls { // so that it ends also where the clock stands still
		c.x.applyDeadline()
		n, err := c.x.t.TryRead(p)
		switch {
		case n > 0:
			c.missed = 0
			return n, nil
		case errors.Is(err, os.ErrDeadlineExceeded) && !c.x.isOver():
			c.x.current = false // a reply has woken a reader that was not there
			continue
		case err != nil:
			return 0, err
		}
		if time.Until(end) < 0 {
			break
		}
		spin.Yield()
	}
	c.missed = min(c.missed+1, 6)
	c.skip = 1<<c.missed - 1
	return 0, nil
}

// awaitBrief lets functions run that have just begun, and reports whether one has ended: most are
// brief, and whoever waits for them awake need not be woken.
func (c *calls) awaitBrief() bool {
	for range 3 {
		c.mu.Lock()
		c.awake = true
		ready := len(c.ready) > 0
		c.mu.Unlock()
		if ready {
			return true
		}
		runtime.Gosched()
	}
	return false
}

// takeNap has the next read end soon, to try again.
func (c *calls) takeNap() {
	c.nap = min(max(2*c.nap, functionNap), maxNap)
	at := time.Now().Add(c.nap)
	if end := c.x.deadline; end.IsZero() || at.Before(end) {
		_ = c.x.t.SetReadDeadline(at)
	}
}

// unsent takes the rest of a reply that is written in part.
func (c *calls) unsent() []byte {
	rest := c.rest
	c.rest = nil
	return rest
}
