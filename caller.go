package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"slices"
	"time"

	"github.com/pypool/pypool/internal/wire"
)

// Caller is what calls Python: a [*Pool], the client of a pool elsewhere, or a fake in a test
// (package pypooltest). Code that only makes calls takes one of these, and [Call], [Each] and [Map]
// do so too. It is safe for concurrent use.
//
// Who implements one keeps to what the methods of Pool say. A call returns soon after its context's
// end. Its error is an [*Error], whose Delivery is the truth: [NewError] makes one, and
// [DecodeError] brings one from another process. [ReadCallOptions] reads the options, [NewResult]
// makes a Result; [EncodeArgs], [DecodeArgs], [EncodeResult] and [DecodeResult] are for who has its
// calls served in another process.
type Caller interface {
	ExecuteInSession(ctx context.Context, sessionID, command string, args any, opts ...CallOption) (Result, error)
	ExecuteAnonymous(ctx context.Context, command string, args any, opts ...CallOption) (Result, error)
	ExecuteProgram(ctx context.Context, programID string, inputs any, opts ...CallOption) (Result, error)
	Stream(ctx context.Context, command string, args any, opts ...CallOption) iter.Seq2[Result, error]
}

var _ Caller = (*Pool)(nil)

// CallOptions is what a list of [CallOption] says. The durations are as in a Config: zero stands
// for the pool's own, a negative one for none.
type CallOptions struct {
	Session         string        // WithSession; empty: it was not given
	Timeout         time.Duration // WithTimeout
	CheckoutTimeout time.Duration // WithCheckoutTimeout
	StallTimeout    time.Duration // WithStallTimeout
	TraceParent     string        // WithTraceParent, if it is one
	Blobs           bool          // WithBlobs

	sessions int // how many different ones were given, up to 2
}

// ReadCallOptions reads the options of a call. An error is an ErrInvalidArguments for the call's
// caller: a session id is invalid. Of an option that is given twice the last counts.
func ReadCallOptions(opts ...CallOption) (CallOptions, error) {
	o, err := readCallOptions(opts)
	if err != nil {
		return o, err
	}
	return o, nil
}

// InSession puts a call into the session that its method names, as ExecuteInSession does; an empty
// id is that of ExecuteAnonymous. An error is an ErrInvalidArguments for the call's caller: the id
// is invalid, or WithSession has named another one.
func (o *CallOptions) InSession(id string) error {
	if id != "" && !validLabel(id) {
		return invalidSession(id)
	}
	if err := o.fix(id); err != nil {
		return err
	}
	return nil
}

func readCallOptions(opts []CallOption) (o CallOptions, err *Error) {
	for _, opt := range opts {
		switch opt.kind {
		case optionTimeout:
			o.Timeout = orOff(opt.d)
		case optionCheckoutTimeout:
			o.CheckoutTimeout = orOff(opt.d)
		case optionStallTimeout:
			o.StallTimeout = orOff(opt.d)
		case optionBlobs:
			o.Blobs = true
		case optionTraceParent:
			if validTraceParent(opt.session) {
				o.TraceParent = opt.session
			}
		case optionSession:
			if !validLabel(opt.session) {
				return o, invalidSession(opt.session)
			}
			if o.Session != opt.session {
				o.sessions++
			}
			o.Session = opt.session
		}
	}
	return o, nil
}

// orOff is a duration that was given: none, unless it is positive.
func orOff(d time.Duration) time.Duration {
	if d <= 0 {
		return -1
	}
	return d
}

// timeoutOf is what an option says, def where it was not given; 0: none.
func timeoutOf(option, def time.Duration) time.Duration {
	offDuration(&option, def)
	return option
}

// fix is InSession for a valid id.
func (o *CallOptions) fix(session string) *Error {
	if o.sessions > 1 || o.sessions == 1 && o.Session != session {
		return invalid("WithSession contradicts the method: it names another session, or none")
	}
	o.Session = session
	return nil
}

// ResultInfo is what a [Result] tells beside its value.
type ResultInfo struct {
	Worker string        // the worker that served the call
	Queued time.Duration // how long the call waited for it
	Ran    time.Duration // how long it took
	Call   CallInfo      // the call that it is the result of, for an ErrDecode to name
}

// NewResult makes a Result for who implements a [Caller]. raw is JSON, and must not be changed any
// more; empty is null. What is not JSON is an ErrDecode when the Result is decoded.
func NewResult(raw json.RawMessage, info ResultInfo) Result {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		raw = nil
	}
	return Result{reply: reply{raw: raw, bigInt: wire.HasBigInt(raw)}, info: info}
}

// executeOn calls a command as Call does, of any Caller: in the session that opts name, or in none.
func executeOn(ctx context.Context, c Caller, command string, args any, opts []CallOption) (res Result, err error) {
	at := CallInfo{Command: command}
	if c == nil {
		return Result{}, neverStarted(at)
	}
	o, invalid := readCallOptions(opts)
	if invalid != nil {
		invalid.Context = ErrorContext{Command: command}
		return Result{}, invalid
	}
	if at.Session = o.Session; at.Session == "" {
		res, err = c.ExecuteAnonymous(ctx, command, args, opts...)
	} else {
		opts = slices.DeleteFunc(slices.Clone(opts), func(o CallOption) bool { return o.kind == optionSession })
		res, err = c.ExecuteInSession(ctx, at.Session, command, args, opts...)
	}
	if res.info.Call == (CallInfo{}) {
		res.info.Call = at // all that is known
	}
	return res, err
}
