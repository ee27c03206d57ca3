package pypool

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// What the wire means: docs/protocol.md. Its lines are package wire's. This file knows neither
// processes nor pools.

const (
	protocolVersion = 1
	frameSlack      = 64 << 10 // what an envelope may add to a result of exactly MaxMessageBytes
	maxBanner       = 64 << 10 // what may be printed before the first answer
	maxPolls        = 1024     // of one exchange's waits for an answer: more than spin.Limit has room for
	maxAsked        = 16       // times that a worker asks to be replaced: once is the rule, and who looks what is there must come to an end
	largeFrame      = 64 << 10 // from here on the read buffer is given away with the frame instead of being copied
)

// wireError is the error object of a response.
type wireError struct {
	Kind      string   `json:"kind"`
	Type      string   `json:"type"`
	Module    string   `json:"module"`
	Message   string   `json:"message"`
	Traceback string   `json:"traceback"`
	Notes     []string `json:"notes"`
	Stage     string   `json:"stage"`
	Python    string   `json:"python"`
	What      string   `json:"what"`
	Names     []string `json:"names"`
	Path      string   `json:"path"`
	Size      int64    `json:"size"`
	Limit     int64    `json:"limit"`
	Supported []int    `json:"supported"`
	Sources   []string `json:"sources"`
	File      string   `json:"file"`
	Line      int      `json:"line"`
	Function  string   `json:"function"`

	Errors []FieldError `json:"errors"`

	Entered *bool `json:"entered"` // whether code of the command had run, where that is not what its kind says
	Retires bool  `json:"retires"` // its call asks that the worker be replaced
}

func (e *wireError) Error() string { return e.Kind + ": " + e.Message }

// toError turns an error answer to a call into an *Error.
func (e *wireError) toError(info CallInfo) *Error {
	for i := range errorTypes {
		if row := &errorTypes[i]; row.wire != "" && row.wire == e.Kind {
			message, detail := row.read(e, info)
			delivery := row.proves
			if e.Entered != nil {
				delivery = NotExecuted
				if *e.Entered {
					delivery = Executed
				}
			}
			return newError(row.typ, delivery, message, detail)
		}
	}
	return newError(TypeInternal, MaybeExecuted, "the worker's runtime failed: "+e.Kind+": "+e.Message, e.exception())
}

// versionMismatch says which side to update.
func versionMismatch(protocol int, version string) error {
	if protocol != protocolVersion {
		side := "the Python package pypool"
		if protocol > protocolVersion {
			side = "the Go module github.com/pypool/pypool"
		}
		return fmt.Errorf("the worker speaks protocol %d, this library %d: update %s", protocol, protocolVersion, side)
	}
	return fmt.Errorf("the worker runs the runtime %s, this library embeds %s: remove the other one", version, Version)
}

// startCause is the cause of a start that the runtime refused.
func (e *wireError) startCause() error {
	if e.Kind == "protocol_mismatch" {
		highest := 0
		for _, v := range e.Supported {
			highest = max(highest, v)
		}
		return versionMismatch(highest, "")
	}
	return e.exception()
}

func (e *wireError) exception() *PythonError {
	return &PythonError{Type: e.Type, Module: e.Module, Message: e.Message, Traceback: e.Traceback, Notes: e.Notes, File: e.File, Line: e.Line, Function: e.Function}
}

// The readers of errorTypes.

func (e *wireError) raised(CallInfo) (string, error) {
	py := e.exception()
	return py.Error(), py
}

// badArguments has no detail where the runtime says no more than the line.
func (e *wireError) badArguments(info CallInfo) (string, error) {
	name := cmp.Or(info.Program, info.Command) // the message begins with it, and so will the error's line
	message := strings.TrimPrefix(e.Message, name+": ")
	if len(e.Errors) == 0 {
		return message, nil
	}
	detail := &ArgumentError{e.Errors}
	detail.readIndexes()
	return message, detail
}

// readIndexes makes ints of the numbers in what was read as JSON.
func (e *ArgumentError) readIndexes() {
	for _, field := range e.Errors {
		for i, part := range field.Loc {
			if index, ok := part.(float64); ok {
				field.Loc[i] = int(index)
			}
		}
	}
}

func (e *wireError) unknown(info CallInfo) (string, error) {
	name := info.Command
	if e.What == "program" {
		name = info.Program
	}
	unknown := &UnknownCommandError{Name: name, Names: e.Names}
	return unknown.Error(), unknown
}

func (e *wireError) badResult(CallInfo) (string, error) {
	bad := &InvalidResultError{Path: e.Path, Reason: e.Message}
	message := bad.Error()
	switch e.Message {
	case "nan is not JSON", "inf is not JSON", "-inf is not JSON":
		message += `: put None in its place, or use @command(nan="null")`
	}
	return message, bad
}

func (e *wireError) tooLarge(CallInfo) (string, error) {
	return fmt.Sprintf("the result is %d bytes, MaxMessageBytes is %d", e.Size, e.Limit), nil
}

func quoteSample(b []byte) string {
	return strconv.QuoteToASCII(string(b[:min(len(b), 256)]))
}
