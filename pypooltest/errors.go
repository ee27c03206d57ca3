package pypooltest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pypool/pypool"
)

// Error makes an error of a type as a pool's calls fail with: with a delivery and the detail that
// such an error has, so that code under test finds with errors.As what it would find. What fits a
// case better is made with [pypool.NewError], and so is another delivery; a [Fake] fills in its
// Context. t must be one of pypool's types.
func Error(t pypool.ErrorType) *pypool.Error {
	build, known := errorsOf[t]
	if !known {
		panic(fmt.Sprintf("pypooltest: %q is no pypool.ErrorType", t))
	}
	return build(t)
}

// Exception makes the error of a call whose command raised an exception of that type (its class's
// name, as ValueError) with that message.
func Exception(typ, message string) *pypool.Error {
	return pypool.NewError(pypool.TypePython, pypool.Executed, "", exception(typ, message))
}

func exception(typ, message string) *pypool.PythonError {
	line := typ
	if message != "" {
		line += ": " + message
	}
	return &pypool.PythonError{
		Type: typ, Module: "builtins", Message: message, File: "/fake/worker.py", Line: 1, Function: "command",
		Traceback: "Traceback (most recent call last):\n  File \"/fake/worker.py\", line 1, in command\n" + line + "\n",
	}
}

const hungIn = "Thread 0x0000000000000001 (most recent call first):\n  File \"/fake/worker.py\", line 1 in command\n"

// errorsOf makes an error of each type, with the delivery that it has as a rule.
var errorsOf = map[pypool.ErrorType]func(pypool.ErrorType) *pypool.Error{
	pypool.TypeCheckoutTimeout: because(pypool.NotExecuted, "no worker fell free within 45s"),
	pypool.TypeOperationTimeout: func(t pypool.ErrorType) *pypool.Error {
		hang := &pypool.HangError{Stacks: hungIn}
		return pypool.NewError(t, pypool.MaybeExecuted, "no answer within 2m0s: "+hang.Error(), hang)
	},
	pypool.TypeCanceled: func(t pypool.ErrorType) *pypool.Error {
		hang := &pypool.HangError{}
		return pypool.NewError(t, pypool.MaybeExecuted, "canceled by the caller: "+hang.Error(), errors.Join(hang, context.Canceled))
	},
	pypool.TypeStreamStalled: because(pypool.MaybeExecuted, "the loop's body took 2m0s for one item, and the worker was taken away after StallTimeout, 2m0s: "+
		"read faster, buffer the items, or raise it"),
	pypool.TypePoolNotAvailable: because(pypool.NotExecuted, "the pool is closed"),
	pypool.TypeQueueFull:        because(pypool.NotExecuted, "1024 callers wait already"),
	pypool.TypeNestedCall:       because(pypool.NotExecuted, "no worker is idle, and a call that a function of Config.Functions makes never waits for one: raise Size"),
	pypool.TypeCircuitOpen: func(t pypool.ErrorType) *pypool.Error {
		cause := pypool.NewError(pypool.TypeWorkerExited, pypool.MaybeExecuted, "exited with code 3", nil)
		return pypool.NewError(t, pypool.NotExecuted, "", &pypool.CircuitError{Command: "command", RetryAt: time.Now().Add(10 * time.Second), Cause: cause})
	},
	pypool.TypeWorkerStart: func(t pypool.ErrorType) *pypool.Error {
		raised := exception("ModuleNotFoundError", "No module named 'nmupy'")
		return pypool.NewError(t, pypool.NotExecuted, "", &pypool.StartError{Stage: "import", Stderr: raised.Traceback, Python: "/usr/bin/python3 3.11.7", Err: raised})
	},
	pypool.TypeWorkerExited: func(t pypool.ErrorType) *pypool.Error {
		return pypool.NewError(t, pypool.MaybeExecuted, "", &pypool.ExitError{Code: 3, Uptime: time.Minute, Calls: 1})
	},
	pypool.TypeProtocol: func(t pypool.ErrorType) *pypool.Error {
		return pypool.NewError(t, pypool.MaybeExecuted, "", &pypool.ProtocolError{Reason: "the line is not a JSON object", Sample: `"loading model..."`})
	},
	pypool.TypeMessageTooLarge: because(pypool.NotExecuted, "the request is 67108865 bytes, MaxMessageBytes is 67108864"),
	pypool.TypeInvalidArguments: func(pypool.ErrorType) *pypool.Error {
		return refused("missing argument 'name'", pypool.FieldError{Loc: []any{"name"}, Msg: "missing argument", Type: "missing"})
	},
	pypool.TypeUnknownCommand: func(t pypool.ErrorType) *pypool.Error {
		return pypool.NewError(t, pypool.NotExecuted, "", &pypool.UnknownCommandError{Name: "comand", Names: []string{"command"}})
	},
	pypool.TypePython: func(pypool.ErrorType) *pypool.Error { return Exception("RuntimeError", "it failed") },
	pypool.TypeInvalidResult: func(t pypool.ErrorType) *pypool.Error {
		return pypool.NewError(t, pypool.Executed, "", &pypool.InvalidResultError{Path: "$.score", Reason: "nan is not JSON"})
	},
	pypool.TypeDecode: func(pypool.ErrorType) *pypool.Error {
		var n int
		var e *pypool.Error
		errors.As(Result("text").Decode(&n), &e)
		return e
	},
	pypool.TypeInternal: func(t pypool.ErrorType) *pypool.Error {
		raised := exception("TypeError", "'NoneType' object is not callable")
		return pypool.NewError(t, pypool.MaybeExecuted, "the worker's runtime failed: internal: "+raised.Message, raised)
	},
}

// because makes an error without a detail.
func because(d pypool.Delivery, message string) func(pypool.ErrorType) *pypool.Error {
	return func(t pypool.ErrorType) *pypool.Error { return pypool.NewError(t, d, message, nil) }
}
