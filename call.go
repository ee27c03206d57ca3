package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pypool/pypool/internal/wire"
)

// CallOption changes one call.
type CallOption struct {
	kind    optionKind
	session string // or a traceparent
	d       time.Duration
}

type optionKind int

const (
	optionSession optionKind = iota + 1
	optionTimeout
	optionCheckoutTimeout
	optionStallTimeout
	optionTraceParent
	optionBlobs
)

// WithSession runs the call in a session: 1 to 256 bytes of printable UTF-8. It is for
// ExecuteProgram, Call, Stream, Each and Map; ExecuteAnonymous, or ExecuteInSession with another
// id, refuses it with ErrInvalidArguments.
func WithSession(id string) CallOption { return CallOption{kind: optionSession, session: id} }

// WithTimeout sets this call's operation timeout in place of Config.OperationTimeout. d <= 0 turns
// it off.
func WithTimeout(d time.Duration) CallOption { return CallOption{kind: optionTimeout, d: d} }

// WithCheckoutTimeout sets this call's checkout timeout in place of Config.CheckoutTimeout. d <= 0
// turns it off.
func WithCheckoutTimeout(d time.Duration) CallOption {
	return CallOption{kind: optionCheckoutTimeout, d: d}
}

// WithStallTimeout sets this stream's stall timeout in place of Config.StallTimeout. d <= 0 turns
// it off. It is for Stream and Each; other calls have no loop, and ignore it.
func WithStallTimeout(d time.Duration) CallOption {
	return CallOption{kind: optionStallTimeout, d: d}
}

// WithTraceParent sets the W3C traceparent that Python sees as current_call().trace, for a call that
// is passed on from elsewhere, where [Observer].TraceParent gives none. What is none is not sent.
// Observers have it in [CallInfo].
func WithTraceParent(trace string) CallOption {
	return CallOption{kind: optionTraceParent, session: trace}
}

// WithBlobs has bytes and arrays in the result come as they are, for [Result.Decode], instead of as
// base64 text and lists of numbers: several times as fast where they are large. Call, Each and Map
// need it not: they know what Out takes.
func WithBlobs() CallOption { return CallOption{kind: optionBlobs} }

// Result is the answer to a call. It is safe for concurrent use; the zero Result holds JSON null.
type Result struct {
	reply reply
	info  ResultInfo
}

// Raw returns the result as the worker sent it: valid JSON in ASCII. The caller must not change it.
//
// With [WithBlobs] it is made anew each time, of what has come: bytes are base64 text in it, arrays
// lists, and null stands for a NaN or an infinity in an array, and for an array that would be more
// lists than a million and one for each byte of the result.
func (r Result) Raw() json.RawMessage {
	switch {
	case r.reply.raw == nil:
		return json.RawMessage("null")
	case r.reply.blobs != nil:
		return spelled(r.reply)
	}
	return r.reply.raw
}

// Decode stores the result in v, a non-nil pointer, by the rules of encoding/json. What v has no type
// for is not rounded: when the result holds an integer of more than 15 digits, numbers in interface
// values become json.Number instead of float64. (A float of v's gets the number next to what came, as
// ever in encoding/json.) Nor is anything dropped or made up where encoding/json would: a list that
// an array of Go's is too short or too long for is an error, at any depth. A result that is null
// (Python's None) is an error where v points to a struct or an array, unless its type decodes itself,
// as time.Time does, and is no [Tuple]; a number or a string stays as it is. An error is an ErrDecode.
func (r Result) Decode(v any) error {
	return r.decode(v, false)
}

// decode is Decode; with own, the payloads go to v, and the result is of no use any more.
func (r Result) decode(v any, own bool) error {
	rep := r.reply
	if rep.raw == nil {
		rep.raw = json.RawMessage("null")
	}
	if err := decodeReply(rep, v, own); err != nil {
		return r.info.named(err)
	}
	return nil
}

// named has an error of decoding tell which call's result does not fit.
func (i *ResultInfo) named(err error) error {
	var e *Error
	if errors.As(err, &e) {
		c := &i.Call
		e.Context = ErrorContext{
			Pool: c.Pool, Worker: i.Worker, Session: c.Session, Command: c.Command, Program: c.Program,
			RequestID: c.RequestID, Elapsed: i.Queued + i.Ran,
		}
	}
	return err
}

// decodeReply stores a result in v; see Result.decode for own.
func decodeReply(rep reply, v any, own bool) (err error) {
	if rep.blobs != nil {
		return decodeBlobs(rep, v, own)
	}
	raw, bigInt := rep.raw, rep.bigInt
	if number, ok := v.(*int); ok && number != nil && isPlain(raw) {
		if n, err := strconv.Atoi(string(raw)); err == nil { // whatever it refuses is encoding/json's to judge
			*number = n
			return nil
		}
	}
	if string(raw) == "null" && !takesNull(v) {
		return newError(TypeDecode, Executed, fmt.Sprintf("cannot decode the result into %T: it is null (None in Python); a pointer takes that", v), nil)
	}
	if err = unmarshal(raw, bigInt, v); err == nil {
		err = checkFit(raw, v, 0)
	}
	return undecodable(v, err)
}

// isPlain reports whether an integer, if it is one, begins as JSON has it: Atoi takes +5 and 007, too.
func isPlain(raw []byte) bool {
	digits := bytes.TrimPrefix(raw, []byte("-"))
	return len(digits) > 0 && '0' <= digits[0] && digits[0] <= '9' && (digits[0] != '0' || len(digits) == 1)
}

// unmarshal is encoding/json's, which rounds nothing in interfaces where bigInt is set.
func unmarshal(raw []byte, bigInt bool, v any) error {
	if !bigInt {
		return json.Unmarshal(raw, v)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return dec.Decode(v)
}

// undecodable is the error of a result that does not fit v.
func undecodable(v any, err error) error {
	if err == nil {
		return nil
	}
	return newError(TypeDecode, Executed, fmt.Sprintf("cannot decode the result into %T: %v%s", v, err, arrayAdvice(err)), err)
}

// Worker returns the id of the worker that served the call.
func (r Result) Worker() string { return r.info.Worker }

// Queued returns how long the call waited for a worker.
func (r Result) Queued() time.Duration { return r.info.Queued }

// Ran returns how long the worker had the call, from the first byte written to the last byte read;
// of an item of a stream: until it came.
func (r Result) Ran() time.Duration { return r.info.Ran }

// Call runs a command and decodes its result into an Out; anonymously, unless WithSession is given.
// It is otherwise [Pool.ExecuteAnonymous]. A result that does not fit Out is an ErrDecode; the
// command has run.
func Call[Out any](ctx context.Context, c Caller, command string, args any, opts ...CallOption) (Out, error) {
	p, ok := c.(*Pool)
	takes := takesBlobs(reflect.TypeFor[Out]())
	if !ok {
		if takes {
			opts = append(slices.Clip(opts), WithBlobs())
		}
		res, err := executeOn(ctx, c, command, args, opts)
		return resultAs[Out](res, err, false) // whoever has made it may keep it
	}
	one := call{job: job{info: CallInfo{Command: command}, takes: takes}, args: args}
	res, err := p.execute(ctx, &one, opts)
	return resultAs[Out](res, err, true)
}

// resultAs is the result of a call as an Out; see Result.decode for own.
func resultAs[Out any](res Result, err error, own bool) (out Out, _ error) {
	if err == nil {
		err = res.decode(&out, own)
	}
	return out, err
}

// result is what the caller gets, or one item of a stream, which the worker has had for so long by
// now.
func (c *call) result(rep reply, now time.Duration) Result {
	return Result{reply: rep, info: ResultInfo{Worker: c.worker, Queued: c.queued, Ran: c.ran + now, Call: c.info}}
}

// Valuer is a value that encodes as another one: its MarshalJSON must be
// json.Marshal(v.PythonValue()). The types that pypoolgen writes are Valuers, so that a []byte
// inside them is found. A []byte inside any other json.Marshaler arrives in Python as whatever it
// wrote, mostly base64 text.
type Valuer interface {
	json.Marshaler
	PythonValue() any
}

// call is one request on its way through the pool.
type call struct {
	job
	args     any
	checkout time.Duration // timeout; 0: none
	stall    time.Duration // timeout of a turn of a stream's loop; 0: none
	refused  *Error        // it ends before it begins
	deep     bool          // the stream ends with an item that is nested too deeply
	fixed    bool          // the session is fixed by the method: WithSession may only repeat it
	session  *session
	tally    *tally          // where it is counted, from begin on
	buffer   *[]byte         // what req is written into, to be given back
	admitted admission       // to the command's circuit
	detached bool            // whoever winds it up ends admitted
	lineup   *lineup         // of a batch command; nil: it is none
	member   *member         // of a batch that has been made, until it waits for that one's outcome
	lent     []int           // slots of its worker's memory that its line's payloads are in, of an item of a Map
	spare    bool            // another call is charged with the worker that it lost
	shares   bool            // its command is concurrent
	nested   bool            // it waits, and must not wait for other calls
	leaving  <-chan struct{} // that its context has ended, of a concurrent command
	seat     *seat           // on a shared worker, until it is served there

	begun       time.Time
	queued, ran time.Duration
	worker      string
	pid         int
}

// apply takes the options and checks what the caller gave.
func (c *call) apply(cfg *Config, opts []CallOption) *Error {
	o, err := readCallOptions(opts)
	c.timeout = timeoutOf(o.Timeout, cfg.OperationTimeout)
	c.checkout = timeoutOf(o.CheckoutTimeout, cfg.CheckoutTimeout)
	c.stall = timeoutOf(o.StallTimeout, cfg.StallTimeout)
	c.trace, c.info.TraceParent, c.takes = o.TraceParent, o.TraceParent, c.takes || o.Blobs
	switch {
	case err != nil:
		return err
	case c.fixed:
		return o.fix(c.info.Session)
	case o.sessions > 0:
		c.info.Session = o.Session
	}
	return nil
}

func invalid(message string) *Error {
	return newError(TypeInvalidArguments, NotExecuted, message, nil)
}

func invalidSession(id string) *Error {
	return invalid(fmt.Sprintf("the session id %.64q (%d bytes) is not 1 to 256 bytes of printable UTF-8", id, len(id)))
}

// encode builds the request line, before any worker is taken: bad arguments cost none.
func (c *call) encode(cfg *Config) *Error {
	args := c.args
	if c.info.Command == commandExecuteProgram && c.info.Program != "" {
		args = wire.Program{ID: c.info.Program, Source: c.args}
	}
	c.buffer, _ = requestBuffers.Get().(*[]byte)
	if c.buffer == nil {
		c.buffer = new([]byte)
	}
	req, err := wire.Encode(*c.buffer, c.info.Command, args, c.info.Session, c.item != nil)
	if err != nil {
		return newError(TypeInvalidArguments, NotExecuted, "the arguments cannot be sent: "+err.Error(), err)
	}
	c.req, c.req.Trace, c.req.Takes = req, c.trace, c.takes
	return c.checkSize(cfg)
}

func (c *call) checkSize(cfg *Config) *Error {
	if size := c.req.Size(); size > cfg.MaxMessageBytes {
		return newError(TypeMessageTooLarge, NotExecuted, fmt.Sprintf("the request is %d bytes, MaxMessageBytes is %d", size, cfg.MaxMessageBytes), nil)
	}
	return nil
}

const keptBuffer = 16 << 20 // larger request buffers are left to the garbage collector

var requestBuffers sync.Pool // of *[]byte

// recycleBuffer gives the request's buffer back. No worker has it any more.
func (c *call) recycleBuffer() {
	if c.buffer == nil || cap(c.req.Buf) > keptBuffer {
		return
	}
	if c.req.Buf != nil {
		*c.buffer = c.req.Buf
	}
	c.req.Buf = nil
	requestBuffers.Put(c.buffer)
}

// breakerKey is what lost workers are charged to.
func (c *CallInfo) breakerKey() string {
	if c.Program != "" {
		return programKey + c.Program
	}
	return c.Command
}
