package pypool

import (
	"context"
	"iter"
)

// Stream runs a generator command and yields its items as they come; a command that is no generator yields its result as
// the one item. The worker is held until the loop ends. Leaving the loop stops the generator (its finally blocks run) and keeps the worker;
// one that does not stop within StopGrace is killed. Back-pressure is the pipe's: a slow loop halts the generator.
//
// OperationTimeout bounds the wait for each item; the time that the loop's body takes does not count. An error is yielded
// once, as the last pair, with a zero Result; items before it stand. Each range over the sequence is a call of its own.
func (p *Pool) Stream(ctx context.Context, command string, args any, opts ...CallOption) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		c := call{job: job{info: CallInfo{Command: command}}, args: args}
		c.item = func(r reply) bool {
			return yield(Result{reply: r, worker: c.worker, queued: c.queued}, nil)
		}
		if _, err := p.execute(ctx, &c, opts); err != nil && !c.stopped {
			yield(Result{}, err)
		}
	}
}

// Each is Stream with every item decoded into an Out. An item that does not fit ends the loop with an ErrDecode.
func Each[Out any](ctx context.Context, p *Pool, command string, args any, opts ...CallOption) iter.Seq2[Out, error] {
	return func(yield func(Out, error) bool) {
		for res, err := range p.Stream(ctx, command, args, opts...) {
			var out Out
			if err == nil {
				err = res.Decode(&out)
			}
			if !yield(out, err) || err != nil {
				return
			}
		}
	}
}
