package pypool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"syscall"
	"time"
)

// NewError makes an error as a pool's calls fail with, for who implements a [Caller] or provokes
// one in a test. It has the category of its type; message is put into one line, and where it is
// empty the detail's text takes its place. detail, which may be nil, is what errors.As finds, and
// errors.Is in it: one of the detail types that docs/errors.md names for the type, or [errors.Join]
// of one and a context's error. Context is to be filled in.
func NewError(t ErrorType, delivery Delivery, message string, detail error) *Error {
	if message == "" && detail != nil {
		message = detail.Error()
	}
	return newError(t, delivery, message, detail)
}

// EncodeError encodes an error for another process, where DecodeError makes an equal one of it:
// with type, message, context and delivery; with its details, which errors.As finds; and with the
// context's errors, which errors.Is finds. Of other causes the text remains. It is for a peer that
// is trusted: it holds tracebacks, stacks and stderr. Errors that are not pypool's become an
// ErrInternal.
func EncodeError(err error) []byte {
	var e *Error
	if !errors.As(err, &e) || e == nil {
		e = newError(TypeInternal, MaybeExecuted, fmt.Sprint(err), nil) // which knows what nil pointers are
	}
	out := encodeError(e)
	data, failed := json.Marshal(out)
	if failed != nil { // a detail of somebody's own making is not JSON: its text is
		out.Err = &encodedDetail{Text: e.Err.Error()}
		data, _ = json.Marshal(out)
	}
	return data
}

// DecodeError reads what EncodeError has written. A type that this version does not know becomes an
// ErrInternal with the rest as it was. err is not nil where data is no such thing.
func DecodeError(data []byte) (e *Error, err error) {
	var in encodedError
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("no error of pypool's: %w", err)
	}
	if in.Type == "" {
		return nil, errors.New("no error of pypool's: it has no type")
	}
	return in.decode(), nil
}

// encodedError is an *Error as another process is told of it.
type encodedError struct {
	Type     ErrorType
	Message  string `json:",omitempty"`
	Context  ErrorContext
	Delivery Delivery
	Err      *encodedDetail `json:",omitempty"`
}

// encodedDetail is what an *Error wraps: one of its fields is set, or Text and perhaps Inner.
type encodedDetail struct {
	Hang      *HangError           `json:",omitempty"`
	Exit      *encodedExit         `json:",omitempty"`
	Start     *encodedStart        `json:",omitempty"`
	Python    *PythonError         `json:",omitempty"`
	Arguments *ArgumentError       `json:",omitempty"`
	Protocol  *ProtocolError       `json:",omitempty"`
	Unknown   *UnknownCommandError `json:",omitempty"`
	Result    *InvalidResultError  `json:",omitempty"`
	Circuit   *encodedCircuit      `json:",omitempty"`
	Error     *encodedError        `json:",omitempty"`
	Context   string               `json:",omitempty"` // canceled or deadline_exceeded
	Text      string               `json:",omitempty"` // of an error of another kind
	Inner     []*encodedDetail     `json:",omitempty"` // what that one wraps
}

type encodedExit struct {
	Code           int
	Signal         int
	OOM            bool
	Stderr, Stacks string
	Uptime         time.Duration
	Calls          int64
	Ours, Overtime bool
	Lost           bool `json:",omitempty"`
	Itself         bool `json:",omitempty"`
}

type encodedStart struct {
	Stage, Stderr, Python string
	Err                   *encodedDetail `json:",omitempty"`
}

type encodedCircuit struct {
	Command string
	RetryAt time.Time
	Cause   *encodedDetail `json:",omitempty"`
}

func encodeError(e *Error) *encodedError {
	return &encodedError{e.Type, e.Message, e.Context, e.Delivery, encodeDetail(e.Err)}
}

func encodeDetail(err error) *encodedDetail {
	switch err {
	case nil:
		return nil
	case context.Canceled:
		return &encodedDetail{Context: hostCanceled}
	case context.DeadlineExceeded:
		return &encodedDetail{Context: hostDeadline}
	}
	if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.IsNil() {
		return &encodedDetail{Text: nilText(err)}
	}
	switch e := err.(type) {
	case *HangError:
		return &encodedDetail{Hang: e}
	case *ExitError:
		return &encodedDetail{Exit: &encodedExit{e.Code, int(e.Signal), e.OOM, e.Stderr, e.Stacks, e.Uptime, e.Calls, e.ours, e.overtime, e.lost, e.itself}}
	case *StartError:
		return &encodedDetail{Start: &encodedStart{e.Stage, e.Stderr, e.Python, encodeDetail(e.Err)}}
	case *PythonError:
		return &encodedDetail{Python: e}
	case *ArgumentError:
		return &encodedDetail{Arguments: e}
	case *ProtocolError:
		return &encodedDetail{Protocol: e}
	case *UnknownCommandError:
		return &encodedDetail{Unknown: e}
	case *InvalidResultError:
		return &encodedDetail{Result: e}
	case *CircuitError:
		return &encodedDetail{Circuit: &encodedCircuit{e.Command, e.RetryAt, encodeDetail(e.Cause)}}
	case *Error:
		return &encodedDetail{Error: encodeError(e)}
	}
	out := &encodedDetail{Text: err.Error()}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if inner := encodeDetail(e.Unwrap()); inner != nil {
			out.Inner = append(out.Inner, inner)
		}
	case interface{ Unwrap() []error }:
		for _, part := range e.Unwrap() {
			if inner := encodeDetail(part); inner != nil {
				out.Inner = append(out.Inner, inner)
			}
		}
	}
	return out
}

func (in *encodedError) decode() *Error {
	e := newError(in.Type, in.Delivery, "", in.Err.decode())
	e.Message, e.Context = printable(in.Message, 2*maxErrorLine), in.Context // the line may have been cut, and is not cut again
	if in.Type != e.Type.row().typ {
		e.Type = TypeInternal
	}
	return e
}

func (in *encodedDetail) decode() error {
	switch {
	case in == nil:
		return nil
	case in.Hang != nil:
		return in.Hang
	case in.Exit != nil:
		e := in.Exit
		return &ExitError{
			Code: e.Code, Signal: syscall.Signal(e.Signal), OOM: e.OOM, Stderr: e.Stderr, Stacks: e.Stacks, Uptime: e.Uptime, Calls: e.Calls,
			ours: e.Ours, overtime: e.Overtime, lost: e.Lost, itself: e.Itself,
		}
	case in.Start != nil:
		return &StartError{Stage: in.Start.Stage, Stderr: in.Start.Stderr, Python: in.Start.Python, Err: in.Start.Err.decode()}
	case in.Python != nil:
		return in.Python
	case in.Arguments != nil:
		in.Arguments.readIndexes()
		return in.Arguments
	case in.Protocol != nil:
		return in.Protocol
	case in.Unknown != nil:
		return in.Unknown
	case in.Result != nil:
		return in.Result
	case in.Circuit != nil:
		return &CircuitError{Command: in.Circuit.Command, RetryAt: in.Circuit.RetryAt, Cause: in.Circuit.Cause.decode()}
	case in.Error != nil:
		return in.Error.decode()
	case in.Context == hostCanceled:
		return context.Canceled
	case in.Context == hostDeadline:
		return context.DeadlineExceeded
	}
	out := &toldError{text: in.Text}
	for _, inner := range in.Inner {
		out.inner = append(out.inner, inner.decode())
	}
	return out
}

// toldError is an error of another process, of a kind that is not pypool's.
type toldError struct {
	text  string
	inner []error // what it wraps
}

func (e *toldError) Error() string   { return e.text }
func (e *toldError) Unwrap() []error { return e.inner }
