package pypoolnats

import (
	"context"
	"iter"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// caller is a pool of the test's making. What is nil is not called.
type caller struct {
	call   func(ctx context.Context, command string, args any) (pypool.Result, error)
	stream func(ctx context.Context) iter.Seq2[pypool.Result, error]
}

func (c caller) ExecuteInSession(ctx context.Context, _, command string, args any, _ ...pypool.CallOption) (pypool.Result, error) {
	return c.call(ctx, command, args)
}

func (c caller) ExecuteAnonymous(ctx context.Context, command string, args any, _ ...pypool.CallOption) (pypool.Result, error) {
	return c.call(ctx, command, args)
}

func (c caller) ExecuteProgram(ctx context.Context, program string, args any, _ ...pypool.CallOption) (pypool.Result, error) {
	return c.call(ctx, program, args)
}

func (c caller) Stream(ctx context.Context, _ string, _ any, _ ...pypool.CallOption) iter.Seq2[pypool.Result, error] {
	return c.stream(ctx)
}

// result is a result of that JSON.
func result(text string) pypool.Result { return pypool.NewResult([]byte(text), pypool.ResultInfo{}) }

// Each service of a connection learns that it is closed, also behind the end of another one.
func TestTheConnectionOfTwoServicesIsClosed(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	begun, why := make(chan struct{}), make(chan error, 1)
	waits := caller{call: func(ctx context.Context, _ string, _ any) (pypool.Result, error) {
		close(begun)
		<-ctx.Done()
		why <- context.Cause(ctx)
		return pypool.Result{}, pypool.NewError(pypool.TypeCanceled, pypool.MaybeExecuted, "", ctx.Err())
	}}
	nc := b.connect(t)
	first, err := Serve(nc, "first", waits, WithLogger(silent))
	require.NoError(t, err)
	second, err := Serve(nc, "second", waits, WithLogger(silent))
	require.NoError(t, err)
	other := b.connect(t)
	require.NoError(t, other.PublishRequest(callSubject("second", "f"), other.NewInbox(), nil))
	<-begun
	require.NoError(t, first.Close())
	nc.Close()
	eventually(t, "what runs is stopped", func() bool { return len(why) == 1 })
	require.ErrorIs(t, <-why, nats.ErrConnectionClosed)
	require.NoError(t, second.Close())
}
