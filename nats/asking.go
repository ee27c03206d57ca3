package pypoolnats

import (
	"context"
	"errors"
	"time"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/receive"
)

// stuckGrace is what the connection may take to do what it is asked after the context's end.
const stuckGrace = 100 * time.Millisecond

// The fates of a request.
const (
	unsent    = iota // it is not whole yet
	out              // its last message is sent, or about to be
	abandoned        // that will never be
)

// ask has the connection do something. A write to a server that takes nothing blocks for up to a
// minute (nats.FlusherTimeout), and with it all that the connection is asked: the call does not
// wait for that beyond its context's end. What was asked goes on then, to its own end.
func (a *attempt) ask(what func() *pypool.Error) *pypool.Error {
	answer, left := make(chan *pypool.Error), make(chan struct{})
	weight := int64(len(a.r.encoded)) + 64<<10 // with what a goroutine takes, and to bound their number
	go func() {
		err := what()
		select {
		case answer <- err:
		case <-left:
			a.leave()
			a.c.stuck.Add(-weight)
		}
	}()
	if err, came := await(answer, a.ctx.Done(), a.c.closing); came {
		return err
	}
	a.stuck = true
	a.c.stuck.Add(weight)
	close(left)
	d := pypool.MaybeExecuted
	if a.fate.CompareAndSwap(unsent, abandoned) {
		d = pypool.NotExecuted
	}
	if a.ctx.Err() != nil {
		return ended(a.ctx, d)
	}
	return unavailable(d, "the client was closed during the call", nil)
}

// finish is the attempt's end on its caller's goroutine.
func (a *attempt) finish() {
	if a.over != nil {
		close(a.over)
	}
	if !a.stuck && a.sent && !a.answered {
		a.answered = true
		_ = a.ask(func() *pypool.Error {
			a.cancel()
			a.join() // it may be telling the server
			return nil
		})
	}
	if !a.stuck {
		a.leave()
	}
}

// leave is the attempt's end, but for what finish has begun.
func (a *attempt) leave() {
	if a.sent && !a.answered {
		a.cancel()
	}
	a.join()
	if a.p != nil {
		a.c.forget(a.p)
	}
}

// join waits for watchBody, which ends when over is closed, and the connection has taken what it
// was asked.
func (a *attempt) join() {
	if a.beside != nil {
		<-a.beside
	}
}

var errStuck = errors.New("the connection takes nothing, and the context has ended")

// soon is ask for what is no call's: errStuck says that it goes on without the caller.
func soon(ctx context.Context, what func() error) error {
	answer := make(chan error, 1)
	go func() { answer <- what() }()
	if err, came := await(answer, ctx.Done(), nil); came {
		return err
	}
	return errors.Join(errStuck, ctx.Err())
}

// await waits for the answer until stuckGrace after one of the others is closed.
func await[E error](answer <-chan E, ended, closing <-chan struct{}) (err E, came bool) {
	select {
	case err = <-answer:
		return err, true
	case <-ended:
	case <-closing:
	}
	return receive.Within(answer, stuckGrace)
}
