package pypool

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pypool/pypool/internal/interp"
	"github.com/pypool/pypool/internal/proc"
)

// HangError is the detail of a call that was stopped while it ran.
type HangError struct {
	Stacks   string // the Python stacks of all threads when it was stopped, newest call first; of a concurrent command those of its task, unless a handler blocks the loop; empty when NoStacks says why, or when they were not asked for: the loop over a stream had it
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
	Stacks string         // faulthandler's report of a crash in native code, when there is one; of other ends there is none
	Uptime time.Duration
	Calls  int64 // calls it had served

	ours, overtime bool // as in proc.ExitState
	lost           bool // the runtime had lost its channel, and ended itself
	itself         bool // byItself
}

func (e *ExitError) Error() string {
	if e == nil {
		return nilText(e)
	}
	switch {
	case e.Signal == syscall.SIGKILL && e.lost:
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

// byItself reports whether a process that ended so did it of its own: by exiting, by a signal that
// nobody sends to end another, such as a crash's, a timer's or a limit's, or by the kernel for what
// it used. lost is as in ExitError. Who has sent the signals that people end processes with is not
// known.
func byItself(state proc.ExitState, lost bool) bool {
	switch state.Signal {
	case 0:
		return state.Code >= 0
	case syscall.SIGKILL:
		return !state.Ours && (state.Overtime || state.OOM || lost)
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT:
		return false
	}
	return true
}

// isCrash reports whether a process that ended so is one of which faulthandler reports. A shell around
// the interpreter ends with the signal's number and 128.
func isCrash(code int, signal syscall.Signal) bool {
	if signal == 0 && code > 128 {
		signal = syscall.Signal(code - 128)
	}
	switch signal {
	case syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL:
		return true
	}
	return false
}

// fromOutside reports whether somebody else may have ended the process, and with it others: neither
// itself, nor pypool, nor the kernel for what it used.
func (e *ExitError) fromOutside() bool {
	return !e.ours && !e.OOM && !e.itself
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
	sources     []string           // the user's source files that had been imported, where the pool watches them
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
	Names []string // those that exist, as far as they are known, nearest first; by the alphabet where no command can have the name
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
	RetryAt time.Time // when the next probe is due; now, while one is under way; zero while nothing is started because processes cannot be ended
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
