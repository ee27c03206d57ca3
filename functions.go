package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pypool/pypool/internal/wire"
)

// Functions that Python calls in the host. A call of one comes as a frame while a request is served
// (docs/protocol.md, "Functions of the host"): whoever reads the request's answer has the function
// run on another goroutine, and goes on reading, or lets that one read on (functions_standin.go).

// Functions are what workers may call in the host, by the names that they have in Python: ASCII
// letters, digits and underscores, the first of them a letter; no keyword of Python's, and not aio.
type Functions map[string]Function

// Function is a function of the host's that Python may call. [Func] makes one.
type Function struct {
	run   func(ctx context.Context, args arguments) (any, error)
	takes bool // payloads in its arguments
}

// Func makes a [Function]. In Python its keyword arguments are the fields of In, by the rules of
// encoding/json; of one that In, a struct, does not have nothing is guessed: it is refused. One
// positional argument is the In itself, several are an array. Bytes in Python are []byte here, in
// In as in Out. What does not fit In, by the rules of [Result.Decode], is
// pypool.HostError("invalid_arguments", …) in Python, and f is not called. An Out that is struct{}
// arrives as None.
//
// f is called on a goroutine that is not the caller's, which it leaves as it has found it, several
// times at once when Python has threads or tasks that do so. Its ctx is the call's, with what
// [Observer].CallStart put there, the call's deadline and its end: when the call ends for its
// caller ctx ends, and an answer that comes after the call's is dropped. [CallFromContext] tells
// the call. In a batch of several calls (max_batch_size) f is called for all of them: its ctx has the
// values, the session and the deadline of none, and ends when all their callers have gone. An error
// that f returns is raised in Python as pypool.HostError(type, message): type is
// the ErrorType of an [*Error], "canceled" or "deadline_exceeded" for a context's, else the name of
// its Go type. So is a panic ("panic", and its stack is in the log) and runtime.Goexit ("goexit").
//
// A call of the same pool that is made with ctx, or with one derived from it, never waits for
// another call: when no worker is idle it fails at once with an [ErrNestedCall]. (One that is being
// pinged, or runs its @health functions, is idle, and waited for.) f should return soon after
// ctx's end: Close waits for processes, and only a moment for functions.
func Func[In, Out any](f func(ctx context.Context, in In) (Out, error)) Function {
	if f == nil {
		return Function{}
	}
	return Function{takes: takesBlobs(reflect.TypeFor[In]()), run: func(ctx context.Context, args arguments) (any, error) {
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
var pythonNames = strings.Fields("aio False None True and as assert async await break class continue def del elif else except finally for from global if import in is lambda " +
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
	reply
}

func (a arguments) decode(in any) error {
	raw, keywords, rep := a.raw, false, a.reply
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
			rep = rep.onlyItem(items[0])
			raw = rep.raw
		}
	}
	var err error
	switch {
	case rep.blobs != nil:
		err = storeBlobs(rep, in, true)
	case string(rep.raw) == "null" && !takesNull(in):
		err = errors.New("it is null (None in Python); a pointer takes that")
	default:
		if err = unmarshal(rep.raw, rep.bigInt, in); err == nil {
			err = checkFit(rep.raw, in, 0)
		}
	}
	if err != nil {
		return &hostError{hostArguments, fmt.Sprintf("the arguments do not fit %v: %v", reflect.TypeOf(in).Elem(), err)}
	}
	if keywords {
		return refuseUnknown(raw, reflect.TypeOf(in).Elem())
	}
	return nil
}

// onlyItem is a list of one item as that item.
func (r reply) onlyItem(item json.RawMessage) reply {
	at := 1 + len(r.raw[1:]) - len(bytes.TrimLeft(r.raw[1:], " \t\r\n"))
	blobs := slices.Clone(r.blobs)
	for i := range blobs {
		blobs[i].At -= at
		blobs[i].Path = blobs[i].Path[1:]
	}
	return reply{raw: item, bigInt: r.bigInt, blobs: blobs}
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
	case errors.As(err, &ours) && ours != nil:
		return ours.kind, message
	case errors.As(err, &e) && e != nil:
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

// size is bytes.
func (a arguments) size() int64 { return int64(len(a.raw) + wire.BlobsSize(a.blobs)) }
