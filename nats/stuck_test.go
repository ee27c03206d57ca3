package pypoolnats

import (
	"context"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// frozen is a way to the broker that takes nothing from its client while the gate is locked.
func frozen(t *testing.T, b *broker, gate *sync.Mutex) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		down, err := l.Accept()
		if err != nil {
			return
		}
		defer down.Close()
		up, err := net.Dial("tcp", strings.TrimPrefix(b.url(), "nats://"))
		if err != nil {
			return
		}
		all.Go(func() {
			defer down.Close()
			_, _ = io.Copy(down, up)
		})
		defer up.Close()
		buf := make([]byte, 64<<10)
		for {
			gate.Lock()
			n, err := down.Read(buf)
			gate.Unlock()
			if err != nil {
				return
			}
			if _, err := up.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return "nats://" + l.Addr().String()
}

// A client that does not come to look at its answers for a moment loses none of them.
func TestManyLargeAnswersAtOnce(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	nc := b.connect(t)
	const calls = 80 // of which the answers are more than NATS keeps for a subscription by itself
	asked := make(chan string, calls)
	_, err := nc.Subscribe("pypool.odd.call.*", func(m *nats.Msg) { asked <- m.Reply })
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	c := client(t, b, "odd", WithRetry(Retry{Attempts: 1}), WithLostAfter(time.Minute)) // nobody says that the calls are served
	results := make(chan error, calls)
	var group sync.WaitGroup
	defer group.Wait()
	for range calls {
		group.Go(func() {
			_, err := c.ExecuteAnonymous(t.Context(), "f", nil)
			results <- err
		})
	}
	answer := (&control{Kind: kindResult, Seq: 1}).message("", "", []byte(`"`+strings.Repeat("x", 1_000_000)+`"`))
	subjects := make([]string, calls)
	for i := range subjects {
		subjects[i] = <-asked
	}
	c.mu.Lock()
	for few := range slices.Chunk(subjects, 8) { // so that the nats-server, which keeps 64 MiB for a connection, has few to keep
		for _, subject := range few {
			answer.Subject = subject
			require.NoError(t, nc.PublishMsg(answer))
		}
		require.NoError(t, nc.Flush())
		require.NoError(t, c.nc.Flush()) // behind them
	}
	c.mu.Unlock()
	for range calls {
		require.NoError(t, <-results)
	}
}

// A nats-server that is stopped, or a network that drops all, has a write block for up to a minute,
// and then the connection can be asked nothing. A call ends with its context all the same.
func TestAConnectionThatTakesNothing(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	serve(t, b, "test", p)
	var gate sync.Mutex
	nc, err := nats.Connect(frozen(t, b, &gate), nats.PingInterval(time.Hour))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	c := NewClient(nc, "test", WithRetry(Retry{Attempts: 1}))
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	shut := make(chan struct{})
	go func() {
		defer close(shut)
		gate.Lock() // once the read that is under way has ended
	}()
	_, err = pypool.Call[int](t.Context(), c, "add", []any{1})
	require.NoError(t, err)
	require.NoError(t, nc.Publish("something", nil)) // should the call have been before
	<-shut

	const large = 16
	text := strings.Repeat("x", 1_000_000)
	var group sync.WaitGroup
	results := make(chan error, large)
	for range large {
		group.Go(func() {
			_, err := pypool.Call[int](t.Context(), c, "length", []any{text})
			results <- err
		})
	}
	defer group.Wait()
	var once sync.Once
	thaw := func() { once.Do(gate.Unlock) }
	defer thaw()
	eventually(t, "a write blocks", func() bool {
		told := make(chan struct{})
		go func() {
			defer close(told)
			nc.IsConnected()
		}()
		select {
		case <-told:
			return false
		case <-time.After(100 * time.Millisecond):
			return true
		}
	})
	bounded := func(call func(ctx context.Context) error) error {
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		err := call(ctx)
		require.Less(t, time.Since(begun), 15*time.Second, "it is a minute else")
		return err
	}
	maybe := 0
	for range 3 {
		err := bounded(func(ctx context.Context) error {
			_, err := c.ExecuteAnonymous(ctx, "add", []any{1})
			return err
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		if !pypool.SafeToRetry(err) {
			maybe++
		}
		err = bounded(func(ctx context.Context) error {
			for _, err := range c.Stream(ctx, "count", []any{3, 1}) {
				if err != nil {
					return err
				}
			}
			return nil
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		if !pypool.SafeToRetry(err) {
			maybe++
		}
	}
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	err = bounded(func(ctx context.Context) error {
		_, err := Enqueue(ctx, js, "test", "add", []any{1})
		return err
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
	err = bounded(func(ctx context.Context) error {
		_, err := OpenJob(js, "test", "job").Wait(ctx)
		return err
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrOperationTimeout).Delivery)
	other := NewClient(nc, "test")
	closed := make(chan error, 1)
	go func() {
		_, err := other.ExecuteAnonymous(t.Context(), "add", []any{1}) // it subscribes first
		closed <- err
	}()
	require.NoError(t, bounded(func(context.Context) error { return other.Close() }))
	require.Equal(t, pypool.NotExecuted, failure(t, <-closed, pypool.ErrPoolClosed).Delivery)

	thaw()
	for range large {
		require.NoError(t, <-results, "those who wait have their answers")
	}
	eventually(t, "what was left has ended", func() bool { return c.stuck.Load() == 0 && other.stuck.Load() == 0 })
	require.NoError(t, nc.Flush())
	require.LessOrEqual(t, accounted(t, p).Started, int64(1+large+maybe), "what is NotExecuted has not run")
	c.stuck.Store(maxStuck + 1)
	_, err = c.ExecuteAnonymous(t.Context(), "add", []any{1})
	require.Equal(t, pypool.NotExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
	require.ErrorContains(t, err, "the connection takes nothing")
}
