package pypoolnats

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"strings"
	"sync"
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

// A message that NATS cannot read costs the service nothing, on whatever subject it comes.
func TestMalformedMessagesEndNoService(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url(), "nats://"))
	require.NoError(t, err)
	defer conn.Close()
	lines := bufio.NewReader(conn)
	_, err = lines.ReadString('\n') // INFO
	require.NoError(t, err)
	_, err = io.WriteString(conn, "CONNECT {\"verbose\":false,\"headers\":true}\r\n")
	require.NoError(t, err)
	heard := make(chan error, 10)
	nc := b.connect(t, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { heard <- err }))
	answers := caller{call: func(context.Context, string, any) (pypool.Result, error) { return result("1"), nil }}
	s, err := Serve(nc, "test", answers, WithLogger(silent))
	require.NoError(t, err)
	second, err := Serve(nc, "second", answers, WithLogger(silent))
	require.NoError(t, err)
	defer func() { require.NoError(t, second.Close()) }()
	c := client(t, b, "test", WithRetry(Retry{Attempts: 1}))
	for _, subject := range []string{callSubject("test", "greet"), "$SRV.PING", "$SRV.INFO.test", s.one + ".1", allSubject("test")} {
		_, err = fmt.Fprintf(conn, "HPUB %s 4 6\r\nabcd[]\r\nPING\r\n", subject)
		require.NoError(t, err)
		answer, err := lines.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "PONG\r\n", answer)
		require.ErrorIs(t, <-heard, nats.ErrBadHeaderMsg, "its maker's own handler has it")
		require.False(t, s.micro.Stopped(), subject)
		_, err = c.ExecuteAnonymous(t.Context(), "greet", nil)
		require.NoError(t, err, subject)
	}
	require.NoError(t, s.Close())
	_, err = fmt.Fprint(conn, "HPUB $SRV.PING 4 6\r\nabcd[]\r\n")
	require.NoError(t, err)
	<-heard
	require.False(t, second.micro.Stopped(), "nor behind the end of another service")
}

// The connection's handlers stay its maker's, whatever micro does, and those that were set last.
func TestTheConnectionsHandlersStay(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	nc := b.connect(t)
	none := caller{}
	closed := make(chan string, 1)
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			s, err := Serve(nc, fmt.Sprint("s", i), none, WithLogger(silent))
			if err != nil || s.Close() != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	group.Wait()
	s, err := Serve(nc, "test", none, WithLogger(silent))
	require.NoError(t, err)
	heard := make(chan error, 1)
	nc.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { heard <- err })
	nc.SetClosedHandler(func(*nats.Conn) { closed <- "mine" })
	require.NoError(t, s.Close())
	nc.ErrorHandler()(nc, nil, errStuck)
	require.ErrorIs(t, <-heard, errStuck)
	nc.Close()
	require.Equal(t, "mine", <-closed)
	exchanges.mu.Lock()
	defer exchanges.mu.Unlock()
	require.NotContains(t, exchanges.of, nc)
}

// What micro ends unasked is told.
func TestAnEndThatNobodyAskedForIsLogged(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	var out lines
	s := serve(t, b, "test", caller{}, WithLogger(slog.New(slog.NewTextHandler(&out, nil))))
	other := serve(t, b, "test", caller{}, WithLogger(slog.New(slog.NewTextHandler(&out, nil))))
	require.NoError(t, s.micro.Stop())
	eventually(t, "it is logged", func() bool { return strings.Contains(out.String(), "the service takes no calls any more") })
	require.NoError(t, other.Close())
	require.Equal(t, 1, strings.Count(out.String(), "\n"), "and what was asked for is not")
}
