package pypool

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Category is the coarse class of an [Error].
type Category string

// The categories.
const (
	CategoryTimeout       Category = "timeout_error"
	CategoryResource      Category = "resource_error"
	CategoryCommunication Category = "communication_error"
	CategoryExecution     Category = "execution_error"
	CategorySystem        Category = "system_error"
)

// ErrorType is the exact class of an [Error]. docs/errors.md says for each what happened, what
// pypool has already done about it and what the caller should do.
type ErrorType string

// The error types.
const (
	TypeCheckoutTimeout  ErrorType = "checkout_timeout"
	TypeOperationTimeout ErrorType = "operation_timeout"
	TypeCanceled         ErrorType = "canceled"
	TypeStreamStalled    ErrorType = "stream_stalled"
	TypePoolNotAvailable ErrorType = "pool_not_available"
	TypeQueueFull        ErrorType = "queue_full"
	TypeNestedCall       ErrorType = "nested_call"
	TypeCircuitOpen      ErrorType = "circuit_open"
	TypeWorkerStart      ErrorType = "worker_start_failed"
	TypeWorkerExited     ErrorType = "worker_exited"
	TypeProtocol         ErrorType = "protocol_violation"
	TypeMessageTooLarge  ErrorType = "message_too_large"
	TypeInvalidArguments ErrorType = "invalid_arguments"
	TypeUnknownCommand   ErrorType = "unknown_command"
	TypePython           ErrorType = "python_exception"
	TypeInvalidResult    ErrorType = "invalid_result"
	TypeDecode           ErrorType = "decode_failed"
	TypeInternal         ErrorType = "unexpected_error"
)

// The sentinels, one for each [ErrorType]; match them with errors.Is.
var (
	// ErrCheckoutTimeout: no worker fell free in time. Not executed.
	ErrCheckoutTimeout error = TypeCheckoutTimeout.row()
	// ErrOperationTimeout: the call ran out of time. The handler is stopped, and its worker killed
	// only if it does not stop within CancelGrace. Detail: [HangError].
	ErrOperationTimeout error = TypeOperationTimeout.row()
	// ErrCanceled: the caller's context was canceled. The error also matches ctx.Err(). Detail once
	// it ran: [HangError].
	ErrCanceled error = TypeCanceled.row()
	// ErrStalled: the body of a loop over a stream took longer than StallTimeout for one item, and
	// the worker was taken away.
	ErrStalled error = TypeStreamStalled.row()
	// ErrPoolClosed: the pool is closed, or was closed during the call.
	ErrPoolClosed error = TypePoolNotAvailable.row()
	// ErrQueueFull: Config.MaxQueue callers wait already, or their requests would exceed
	// Config.MaxQueueBytes with this one. Not executed.
	ErrQueueFull error = TypeQueueFull.row()
	// ErrNestedCall: a function of Config.Functions made the call with its context, and no worker
	// was idle. Not executed.
	ErrNestedCall error = TypeNestedCall.row()
	// ErrCircuitOpen: workers cannot start, or this command keeps costing workers. Not executed.
	// Detail: [CircuitError].
	ErrCircuitOpen error = TypeCircuitOpen.row()
	// ErrWorkerStart: a worker did not become ready. Detail: [StartError].
	ErrWorkerStart error = TypeWorkerStart.row()
	// ErrWorkerExited: the worker's process ended during the call. Detail: [ExitError].
	ErrWorkerExited error = TypeWorkerExited.row()
	// ErrProtocol: the worker sent what is not an answer. Detail: [ProtocolError].
	ErrProtocol error = TypeProtocol.row()
	// ErrMessageTooLarge: the request or the result is over Config.MaxMessageBytes.
	ErrMessageTooLarge error = TypeMessageTooLarge.row()
	// ErrInvalidArguments: the arguments are not JSON, do not fit the command's signature, or an
	// option or id is invalid. Not executed. Detail, when Python refused them: [ArgumentError].
	ErrInvalidArguments error = TypeInvalidArguments.row()
	// ErrUnknownCommand: no command or program of that name. Not executed. Detail:
	// [UnknownCommandError].
	ErrUnknownCommand error = TypeUnknownCommand.row()
	// ErrPython: the command raised an exception. Detail: [PythonError].
	ErrPython error = TypePython.row()
	// ErrInvalidResult: the command finished, and its result is not JSON. Detail:
	// [InvalidResultError].
	ErrInvalidResult error = TypeInvalidResult.row()
	// ErrDecode: the command finished, and its result does not fit the Go type asked for.
	ErrDecode error = TypeDecode.row()
	// ErrInternal: a fault of pypool itself.
	ErrInternal error = TypeInternal.row()
)

// errorRow is all that the package knows of one [ErrorType]. It is what errors.Is compares an
// *Error with, too: by type, never by text.
type errorRow struct {
	typ      ErrorType
	category Category
	text     string // of the sentinel

	// wire is the kind of the answers that become this type (empty: none do), proves what such an
	// answer says of the handler, and read takes the message and the detail out of it.
	wire   string
	proves Delivery
	read   func(*wireError, CallInfo) (message string, detail error)

	infrastructure bool // counts toward the error rate, and is logged
	losesWorker    bool // is charged to the command's circuit, unless NotExecuted
	repeated       bool // has the call repeated at once on another worker, if NotExecuted
}

func (r *errorRow) Error() string { return "pypool: " + r.text }

// errorTypes is the one table of the error types.
var errorTypes = [...]errorRow{
	{typ: TypeCheckoutTimeout, category: CategoryTimeout, text: "no worker fell free in time", infrastructure: true},
	{typ: TypeOperationTimeout, category: CategoryTimeout, text: "the call ran out of time", infrastructure: true, losesWorker: true},
	{typ: TypeCanceled, category: CategoryTimeout, text: "the caller canceled"},
	{typ: TypeStreamStalled, category: CategoryTimeout, text: "the loop over a stream stalled"},
	{typ: TypePoolNotAvailable, category: CategoryResource, text: "the pool is closed"},
	{typ: TypeQueueFull, category: CategoryResource, text: "the queue is full", infrastructure: true},
	{typ: TypeNestedCall, category: CategoryResource, text: "no worker is idle for a nested call", infrastructure: true},
	{typ: TypeCircuitOpen, category: CategoryResource, text: "the circuit is open", infrastructure: true},
	{typ: TypeWorkerStart, category: CategoryResource, text: "a worker did not start", infrastructure: true},
	{typ: TypeWorkerExited, category: CategoryCommunication, text: "the worker exited", infrastructure: true, losesWorker: true, repeated: true},
	{typ: TypeProtocol, category: CategoryCommunication, text: "the worker broke the protocol", infrastructure: true, losesWorker: true, repeated: true},
	{typ: TypeMessageTooLarge, category: CategoryCommunication, text: "the message is too large",
		wire: "message_too_large", proves: Executed, read: (*wireError).tooLarge},
	{typ: TypeInvalidArguments, category: CategoryExecution, text: "invalid arguments",
		wire: "invalid_arguments", proves: NotExecuted, read: (*wireError).badArguments},
	{typ: TypeUnknownCommand, category: CategoryExecution, text: "unknown command",
		wire: "unknown_command", proves: NotExecuted, read: (*wireError).unknown},
	{typ: TypePython, category: CategoryExecution, text: "the command raised an exception",
		wire: "python_exception", proves: Executed, read: (*wireError).raised},
	{typ: TypeInvalidResult, category: CategoryExecution, text: "the result is not JSON",
		wire: "invalid_result", proves: Executed, read: (*wireError).badResult},
	{typ: TypeDecode, category: CategoryExecution, text: "the result does not fit the Go type"},
	{typ: TypeInternal, category: CategorySystem, text: "unexpected error", infrastructure: true, losesWorker: true},
}

// index is the type's place in errorTypes; that of TypeInternal, the last, for a type of nobody's.
func (t ErrorType) index() int {
	for i := range errorTypes {
		if errorTypes[i].typ == t {
			return i
		}
	}
	return len(errorTypes) - 1
}

func (t ErrorType) row() *errorRow { return &errorTypes[t.index()] }

// Delivery says what is known about the handler of a failed call.
type Delivery int

// The deliveries. The zero value claims nothing.
const (
	// MaybeExecuted: the handler may have begun, and may have finished.
	MaybeExecuted Delivery = iota
	// NotExecuted is a proof that the handler never began: the call is safe to repeat.
	NotExecuted
	// Executed: the worker has answered; the handler ran to its end (its result or exception).
	Executed
)

// String returns the constant's name.
func (d Delivery) String() string {
	switch d {
	case NotExecuted:
		return "NotExecuted"
	case Executed:
		return "Executed"
	default:
		return "MaybeExecuted"
	}
}

// MarshalText returns the constant's name: it is what JSON and logs show.
func (d Delivery) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a constant's name.
func (d *Delivery) UnmarshalText(text []byte) error {
	for _, known := range []Delivery{MaybeExecuted, NotExecuted, Executed} {
		if known.String() == string(text) {
			*d = known
			return nil
		}
	}
	return fmt.Errorf("%q is no Delivery", text)
}

// Error is the one error type of this package: every error that a function of it returns is an
// *Error, or wraps one. Match its class with errors.Is against the sentinels, its details with
// errors.As. As JSON it has the fields' names, with Err as text; as an attribute of a slog record
// it is a group, see [Error.LogValue].
type Error struct {
	Category Category
	Type     ErrorType
	Message  string // one line: the cause
	Context  ErrorContext
	Delivery Delivery
	Err      error // the detail and the cause, or nil

	retires string    // why its worker is replaced, where its call has asked for that; empty: it has not
	stale   bool      // another call had asked for that before, or none
	given   time.Time // when its worker had the call; zero: it had none
	guilt   guilt     // of the worker that was lost
}

// ErrorContext says where an error happened. Fields that do not apply are zero.
type ErrorContext struct {
	Pool      string
	Worker    string
	PID       int
	Session   string
	Command   string
	Program   string
	RequestID uint64 // as in the logs of both sides
	Elapsed   time.Duration
}

func newError(t ErrorType, d Delivery, message string, err error) *Error {
	return &Error{Category: t.row().category, Type: t, Message: oneLine(message), Delivery: d, Err: err}
}

// clone returns a copy, for another call that ends the same way: what others can see already is not
// written to any more.
func (e *Error) clone() *Error {
	c := *e
	return &c
}

// forStrangers returns what other callers may see of the error: its class and its cause in words.
// Another's session, context and output are not theirs, and an errors.Is of theirs must not find
// what happened to somebody else.
func (e *Error) forStrangers() *Error {
	text := logCause(e, e.Message)
	if e.retires != "" { // what was raised may be about the call
		text = "a worker has asked to be replaced: " + e.retires
	}
	c := newError(e.Type, e.Delivery, text, nil)
	c.Context = ErrorContext{Pool: e.Context.Pool, Command: e.Context.Command, Program: e.Context.Program}
	return c
}

// nilText is the text of a nil pointer that has become an error: somebody has returned a variable
// of its type where nil was meant.
func nilText(err error) string {
	return fmt.Sprintf("a nil %T, which is an error that says nothing", err)
}

// Error returns one line: the type, the command or script, the cause.
func (e *Error) Error() string {
	if e == nil {
		return "pypool: " + nilText(e)
	}
	var b strings.Builder
	b.WriteString("pypool: ")
	b.WriteString(string(e.Type))
	switch {
	case e.Context.Program != "":
		b.WriteString(": program " + oneLine(e.Context.Program))
	case e.Context.Command != "":
		b.WriteString(": " + oneLine(e.Context.Command))
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	return b.String()
}

// Unwrap returns the detail and the cause.
func (e *Error) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// errorJSON is an Error without its methods, and with the detail and the cause as text.
type errorJSON struct {
	Category Category
	Type     ErrorType
	Message  string
	Context  ErrorContext
	Delivery Delivery
	Err      string `json:",omitempty"`
}

// MarshalJSON writes the fields under their names: Delivery by its name, Context.Elapsed in
// nanoseconds, Err as its text.
func (e *Error) MarshalJSON() ([]byte, error) {
	if e == nil {
		return []byte("null"), nil
	}
	out := errorJSON{e.Category, e.Type, e.Message, e.Context, e.Delivery, ""}
	if e.Err != nil {
		out.Err = e.Err.Error()
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON has written: type, delivery and context are as they were,
// Err is a text without details.
func (e *Error) UnmarshalJSON(data []byte) error {
	var in errorJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	*e = Error{Category: in.Category, Type: in.Type, Message: in.Message, Context: in.Context, Delivery: in.Delivery}
	if in.Err != "" {
		e.Err = errors.New(in.Err)
	}
	return nil
}

// LogValue is the error as a group of attributes: error (the line), type and delivery; pool,
// worker, pid, command, program, session, request and elapsed, as far as they apply; and of the
// details traceback, stacks and stderr. A traceback and stderr may hold whatever Python put there.
func (e *Error) LogValue() slog.Value {
	if e == nil {
		return slog.AnyValue(nil)
	}
	at := &e.Context
	attrs := []slog.Attr{slog.String("error", e.Error()), slog.String("type", string(e.Type)), slog.String("delivery", e.Delivery.String())}
	text := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	text("pool", at.Pool)
	text("worker", at.Worker)
	if at.PID != 0 {
		attrs = append(attrs, slog.Int("pid", at.PID))
	}
	text("command", at.Command)
	text("program", at.Program)
	text("session", at.Session)
	if at.RequestID != 0 {
		attrs = append(attrs, slog.Uint64("request", at.RequestID))
	}
	if at.Elapsed != 0 {
		attrs = append(attrs, slog.Duration("elapsed", at.Elapsed))
	}
	var py *PythonError
	var hang *HangError
	var exit *ExitError
	var start *StartError
	var circuit *CircuitError
	detail := e.Err
	if errors.As(detail, &circuit) && circuit != nil { // what its cause says is the pool's, or says nothing of a call
		detail = circuit.Cause
	}
	if errors.As(detail, &py) && py != nil {
		text("traceback", py.Traceback)
	}
	switch {
	case errors.As(detail, &hang) && hang != nil:
		text("stacks", hang.Stacks)
	case errors.As(detail, &exit) && exit != nil:
		text("stacks", exit.Stacks)
	}
	switch {
	case errors.As(detail, &start) && start != nil:
		text("stderr", start.Stderr)
	case errors.As(detail, &exit) && exit != nil:
		text("stderr", exit.Stderr)
	}
	return slog.GroupValue(attrs...)
}

// Is matches the sentinel of the error's type.
func (e *Error) Is(target error) bool {
	row, ok := target.(*errorRow)
	return ok && e != nil && row.typ == e.Type
}

// SafeToRetry reports whether err proves that the handler never began, so that repeating the call
// cannot execute it twice. It is true exactly when err is (or wraps) an *Error whose Delivery is
// [NotExecuted].
func SafeToRetry(err error) bool {
	var e *Error
	return errors.As(err, &e) && e != nil && e.Delivery == NotExecuted
}
