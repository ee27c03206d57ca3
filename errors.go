package pypool

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/pypool/pypool/internal/interp"
	"github.com/pypool/pypool/internal/proc"
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
	// ErrOperationTimeout: the call ran out of time; its worker was killed. Detail: [HangError].
	ErrOperationTimeout error = TypeOperationTimeout.row()
	// ErrCanceled: the caller's context was canceled. The error also matches ctx.Err(). Detail once
	// it ran: [HangError].
	ErrCanceled error = TypeCanceled.row()
	// ErrStalled: the body of a loop over a stream took longer than StallTimeout for one item, and
	// the worker was taken away.
	ErrStalled error = TypeStreamStalled.row()
	// ErrPoolClosed: the pool is closed, or was closed during the call.
	ErrPoolClosed error = TypePoolNotAvailable.row()
	// ErrQueueFull: Config.MaxQueue callers wait already. Not executed.
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

// HangError is the detail of a call that was stopped while it ran.
type HangError struct {
	Stacks   string // the Python stacks of all threads when it was stopped, newest call first; of a concurrent command those of its task, unless a handler blocks the loop; empty when NoStacks says why
	NoStacks string // why there are none
	Killed   bool   // the worker had been killed when the error was made; a stream's is first asked to stop, and then may be
}

func (e *HangError) Error() string {
	if e == nil {
		return nilText(e)
	}
	if at := innermostFrame(e.Stacks); at != "" {
		return "stopped in " + at
	}
	if e.NoStacks != "" {
		return "stopped while it ran (no stacks: " + e.NoStacks + ")"
	}
	return "stopped while it ran"
}

// ExitError is the detail of a worker whose process ended.
type ExitError struct {
	Code   int            // exit code; -1 when a signal ended it or the code is unknown
	Signal syscall.Signal // the signal that ended it, or 0
	OOM    bool           // suspicion: a SIGKILL that pypool did not send, and the kernel's out-of-memory killer may have
	Stderr string         // the last 64 KiB of its standard error
	Stacks string         // faulthandler's report of a crash in native code, when there is one
	Uptime time.Duration
	Calls  int64 // calls it had served

	ours, overtime bool // as in proc.ExitState
}

// channelClosed is what the runtime says on stderr before it ends itself because it can neither
// read nor answer any more.
const channelClosed = "pypool: the channel to the host is closed"

func (e *ExitError) Error() string {
	if e == nil {
		return nilText(e)
	}
	switch {
	case e.Signal == syscall.SIGKILL && strings.Contains(e.Stderr, channelClosed):
		return "ended itself: its channel to the host was closed (by a handler that closes descriptors it did not open?)"
	case e.OOM:
		return "killed by a SIGKILL that pypool did not send (out of memory?)"
	case e.Signal == syscall.SIGKILL && e.overtime:
		return "killed by the kernel: its limit of CPU time (RLIMIT_CPU) was used up"
	case e.Signal == syscall.SIGKILL && !e.ours:
		return "killed by a SIGKILL that neither pypool nor the out-of-memory killer sent"
	case e.Signal != 0:
		text := "ended by signal " + proc.SignalName(e.Signal)
		if at := innermostFrame(e.Stacks); at != "" {
			text += " in " + at
		}
		return text
	case e.Code < 0:
		return "ended, exit code unknown"
	}
	return fmt.Sprintf("exited with code %d", e.Code)
}

// byItself reports whether a process that ended so did it of its own: by exiting, or by a crash.
// Who has sent a KILL or a TERM is not known.
func byItself(code int, signal syscall.Signal) bool {
	switch signal {
	case syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL:
		return true
	}
	return signal == 0 && code >= 0
}

// fromOutside reports whether somebody else may have ended the process, and with it others: neither
// itself, nor pypool, nor the kernel for what it used.
func (e *ExitError) fromOutside() bool {
	return !e.ours && !e.OOM && !e.overtime && !byItself(e.Code, e.Signal) && !strings.Contains(e.Stderr, channelClosed)
}

// The stages of a start, as StartError names them.
const (
	stageFiles  = "files"
	stageSpawn  = "spawn"
	stageHello  = "hello"
	stageImport = "import" // as the runtime says, and so is the next
	stageSetup  = "setup"
	stagePing   = "ping"
	stageServe  = "serve" // it became ready, and was of no use
)

// StartError is the detail of a worker that never became ready.
type StartError struct {
	Stage  string // files (Config.Files could not be written), spawn, bootstrap (Python too old), hello, import, setup, health or ping; or serve: it became ready, and has asked to be replaced
	Stderr string // its standard error, and the Python traceback when there is one
	Python string // the interpreter, and its version when known
	Err    error  // the cause: *PythonError, *ExitError, *HangError, *ProtocolError or an operating system error

	interpreter interp.Interpreter // Python
}

func (e *StartError) Error() string {
	if e == nil {
		return nilText(e)
	}
	text := "at " + e.Stage
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *StartError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// PythonError is an exception raised by Python code.
type PythonError struct {
	Type      string   // class name, like ValueError
	Module    string   // the class's module, like builtins
	Message   string   // str(exception)
	Traceback string   // as Python prints it, without pypool's own frames
	Notes     []string // __notes__ (PEP 678)
	File      string   // where it was raised: the innermost place in code of the user's own; empty when there is none
	Line      int      // in File, from 1; of a SyntaxError the line that is wrong
	Function  string   // around Line; <module> outside any, empty for a SyntaxError
}

// Error returns one line: the type, the message (Message has all of a long one), and in parentheses
// where it was raised.
func (e *PythonError) Error() string {
	if e == nil {
		return nilText(e)
	}
	text := e.Type
	if e.Message != "" {
		text += ": " + printable(e.Message, maxPythonMessage)
	}
	if e.File == "" {
		return text
	}
	at := fmt.Sprintf("%s:%d", filepath.Base(e.File), e.Line)
	if e.Function != "" && e.Function != "<module>" {
		at += " in " + e.Function
	}
	return text + " (" + printable(at, 200) + ")"
}

const maxPythonMessage = 700 // bytes of it in a line: the place behind it, and what stands before it, must find room

// ArgumentError is the detail of arguments that the command's signature, its type hints or a model
// (pydantic) refused. Errors is never empty, and holds all that is known to be wrong.
type ArgumentError struct {
	Errors []FieldError
}

func (e *ArgumentError) Error() string {
	if e == nil {
		return nilText(e)
	}
	var b strings.Builder
	for i, field := range e.Errors {
		if i > 0 {
			b.WriteString("; ")
		}
		if at := field.path(); at != "" {
			b.WriteString(at + ": ")
		}
		b.WriteString(field.Msg)
	}
	return oneLine(b.String())
}

// FieldError is one thing that is wrong with a call's arguments. As JSON it is what pydantic's
// errors() and FastAPI's answers look like.
type FieldError struct {
	// Loc leads to it: the argument's name, or its position as an int, then keys (string) and
	// indexes (int) within it. Empty: the arguments as a whole.
	Loc []any  `json:"loc"`
	Msg string `json:"msg"`
	// Type is a word for programs: missing, unknown, too_many, type (it does not fit the hint),
	// arguments (no object, array or null); or, where pydantic refused it, pydantic's own word,
	// such as int_parsing.
	Type string `json:"type"`
}

// path is Loc as a person writes it.
func (f *FieldError) path() string {
	var b strings.Builder
	for i, part := range f.Loc {
		switch part := part.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", part)
		default:
			if i > 0 {
				b.WriteByte('.')
			}
			fmt.Fprint(&b, part)
		}
	}
	return b.String()
}

// ProtocolError is the detail of a worker whose output was not an answer.
type ProtocolError struct {
	Reason string
	Sample string // the start of the offending output, quoted, at most 256 bytes of it
}

func (e *ProtocolError) Error() string {
	if e == nil {
		return nilText(e)
	}
	if e.Sample == "" {
		return e.Reason
	}
	return e.Reason + ": " + e.Sample
}

// UnknownCommandError is the detail of an unknown command or program.
type UnknownCommandError struct {
	Name  string
	Names []string // those that exist, as far as they are known, nearest first
}

func (e *UnknownCommandError) Error() string {
	if e == nil {
		return nilText(e)
	}
	if len(e.Names) == 0 {
		return fmt.Sprintf("%q is not registered", e.Name)
	}
	near := e.Names[:min(3, len(e.Names))]
	return fmt.Sprintf("%q is not registered; nearest: %s", e.Name, strings.Join(near, ", "))
}

// InvalidResultError is the detail of a result that JSON cannot carry.
type InvalidResultError struct {
	Path   string // to the value, like $.rows[3].score
	Reason string
}

func (e *InvalidResultError) Error() string {
	if e == nil {
		return nilText(e)
	}
	if e.Path == "" {
		return e.Reason
	}
	return e.Reason + " at " + e.Path
}

// CircuitError is the detail of a call refused by an open circuit. What opened the circuit happened
// to others, and so errors.Is and errors.As on the refused call's error do not find it.
type CircuitError struct {
	Command string    // the command whose circuit is open ("execute_program:" and the id for a program); empty for the pool's own
	RetryAt time.Time // when the next probe is due; now, while one is under way
	// Cause is the last failure that opened it, an *Error: for the pool's own circuit the failed
	// start, with its [StartError]; for a command's the type and the message of the last loss,
	// without details and without anything of the call that suffered it.
	Cause error
}

func (e *CircuitError) Error() string {
	if e == nil {
		return nilText(e)
	}
	who := "workers cannot start"
	if e.Command != "" {
		who = oneLine(e.Command) + " keeps costing workers"
	}
	if e.Cause != nil {
		who += ": " + e.Cause.Error()
	}
	return who
}

// error is what a refused call gets.
func (e *CircuitError) error() *Error { return newError(TypeCircuitOpen, NotExecuted, e.Error(), e) }

// pair carries a detail and a second cause (a context's error), so that errors.Is and As find both.
type pair struct{ detail, cause error }

func (p *pair) Error() string   { return p.detail.Error() + ": " + p.cause.Error() }
func (p *pair) Unwrap() []error { return []error{p.detail, p.cause} }

func joinDetail(detail, cause error) error {
	switch {
	case detail == nil:
		return cause
	case cause == nil:
		return detail
	}
	return &pair{detail, cause}
}

// oneLine makes text from a worker fit for one line of a log or terminal: control characters are
// escaped, so that nothing from Python can forge a log line or move a cursor.
func oneLine(s string) string { return printable(s, maxErrorLine) }

const maxErrorLine = 1024 // bytes

// printable is oneLine with a limit of its own, in bytes.
func printable(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	clean := !cut
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError:
			if !cut || i < len(s)-utf8.UTFMax {
				b.WriteString("\ufffd")
			}
		case r == '\n':
			b.WriteString(`\n`)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	if cut {
		b.WriteString("...")
	}
	return b.String()
}

// innermostFrame picks `File "x.py", line 3 in f` of the most recent call out of faulthandler's
// text. The thread is the one that runs handlers, or the user's import. Where that cannot be told,
// as in a stack deeper than faulthandler prints, it is the one that faulthandler marks, or else the
// last it prints, the main thread, unless that is the runtime's own.
func innermostFrame(stacks string) string {
	const header = "most recent call first"
	var place string
	best := 0
	threads := strings.Split(stacks, header)
	for i, thread := range threads[1:] {
		var frames []string // innermost first
		for line := range strings.Lines(thread) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "File ") {
				frames = append(frames, line)
			}
		}
		if len(frames) == 0 || strings.HasPrefix(frames[len(frames)-1], `File "<pypool>/`) {
			continue // a thread that the runtime has begun
		}
		title := threads[i][strings.LastIndexByte(threads[i], '\n')+1:]
		worth := 1
		switch {
		case strings.Contains(thread, `File "<pypool>/_worker.py"`), strings.Contains(thread, `File "<pypool>/_start.py"`):
			worth = 3
		case strings.Contains(title, "Current thread"):
			worth = 2
		}
		if worth >= best {
			place, best = frames[0], worth
		}
	}
	return oneLine(place)
}
