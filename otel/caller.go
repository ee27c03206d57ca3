package pypoolotel

import (
	"cmp"
	"context"
	"iter"

	"github.com/pypool/pypool"
)

// Caller returns a Caller that makes calls of next, each with a span that goes along with it, and
// the durations among the metrics. It is for one whose calls are served elsewhere, as the module
// nats has: there the call's span is under this one if the pool is instrumented, too, and Python's
// are in any case. A pool of this program's has an Observer. Calls of a nil next fail as those of a
// pool that was never started.
func (t *Telemetry) Caller(next pypool.Caller) pypool.Caller {
	if next == nil {
		next = (*pypool.Pool)(nil)
	}
	return &caller{t, next}
}

type caller struct {
	t    *Telemetry
	next pypool.Caller
}

var _ pypool.Caller = (*caller)(nil)

// one makes a call under a span.
func (c *caller) one(
	ctx context.Context, info pypool.CallInfo, opts []pypool.CallOption, call func(context.Context, []pypool.CallOption) (pypool.Result, error),
) (res pypool.Result, err error) {
	if o, wrong := pypool.ReadCallOptions(opts...); wrong == nil { // else the call fails
		info.Session, info.TraceParent = cmp.Or(info.Session, o.Session), o.TraceParent
	}
	ctx, begun := c.t.callStart(ctx, info)
	ended := false
	defer func() {
		if !ended { // it panics
			err = pypool.NewError(pypool.TypeInternal, pypool.MaybeExecuted, "the Caller has panicked", nil)
		}
		c.t.callEnd(ctx, begun, info, pypool.CallOutcome{Worker: res.Worker(), Queued: res.Queued(), Ran: res.Ran(), Err: err})
	}()
	res, err = call(ctx, along(ctx, opts))
	ended = true
	return res, err
}

// along are the options with the span of ctx.
func along(ctx context.Context, opts []pypool.CallOption) []pypool.CallOption {
	if parent := TraceParent(ctx); parent != "" {
		opts = append(opts[:len(opts):len(opts)], pypool.WithTraceParent(parent))
	}
	return opts
}

// ExecuteInSession is next's.
func (c *caller) ExecuteInSession(ctx context.Context, sessionID, command string, args any, opts ...pypool.CallOption) (pypool.Result, error) {
	return c.one(ctx, pypool.CallInfo{Command: command, Session: sessionID}, opts, func(ctx context.Context, opts []pypool.CallOption) (pypool.Result, error) {
		return c.next.ExecuteInSession(ctx, sessionID, command, args, opts...)
	})
}

// ExecuteAnonymous is next's.
func (c *caller) ExecuteAnonymous(ctx context.Context, command string, args any, opts ...pypool.CallOption) (pypool.Result, error) {
	return c.one(ctx, pypool.CallInfo{Command: command}, opts, func(ctx context.Context, opts []pypool.CallOption) (pypool.Result, error) {
		return c.next.ExecuteAnonymous(ctx, command, args, opts...)
	})
}

// ExecuteProgram is next's.
func (c *caller) ExecuteProgram(ctx context.Context, programID string, inputs any, opts ...pypool.CallOption) (pypool.Result, error) {
	info := pypool.CallInfo{Command: "execute_program", Program: programID}
	return c.one(ctx, info, opts, func(ctx context.Context, opts []pypool.CallOption) (pypool.Result, error) {
		return c.next.ExecuteProgram(ctx, programID, inputs, opts...)
	})
}

// Stream is next's. The span ends with the loop.
func (c *caller) Stream(ctx context.Context, command string, args any, opts ...pypool.CallOption) iter.Seq2[pypool.Result, error] {
	return func(yield func(pypool.Result, error) bool) {
		_, _ = c.one(ctx, pypool.CallInfo{Command: command}, opts, func(ctx context.Context, opts []pypool.CallOption) (last pypool.Result, _ error) {
			for res, err := range c.next.Stream(ctx, command, args, opts...) {
				if err == nil {
					last = res
				}
				if !yield(res, err) || err != nil {
					return last, err
				}
			}
			return last, nil
		})
	}
}
