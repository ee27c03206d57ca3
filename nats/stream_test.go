package pypoolnats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

func TestStreams(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 1)
	for name, caller := range map[string]pypool.Caller{"pool": p, "client": c} {
		t.Run(name, func(t *testing.T) {
			for _, n := range []int{0, 1, 500} {
				var got []int
				for item, err := range pypool.Each[int](t.Context(), caller, "count", []any{n}, pypool.WithSession("ann")) {
					require.NoError(t, err)
					got = append(got, item)
				}
				require.Len(t, got, n)
				for i, item := range got {
					require.Equal(t, i, item)
				}
			}
			for item, err := range pypool.Each[int](t.Context(), caller, "add", []any{1}) {
				require.NoError(t, err, "a command that is no generator has one item")
				require.Equal(t, 2, item)
			}
			n := 0
			for item, err := range pypool.Each[string](t.Context(), caller, "count", []any{3, 400_000}) {
				require.NoError(t, err)
				require.Len(t, item, 400_000)
				n++
			}
			require.Equal(t, 3, n)
			var last error
			for _, last = range pypool.Each[int](t.Context(), caller, "fail", []any{"no"}) {
				require.Error(t, last)
			}
			require.NotEmpty(t, detail[*pypool.PythonError](t, last).Traceback)
			for range 2 { // a sequence may be ranged over again
				for range caller.Stream(t.Context(), "count", []any{3}, pypool.WithSession("a\nb")) {
				}
			}
		})
	}
	accounted(t, p)
}

// Leaving the loop stops the generator, and keeps the worker.
func TestAStreamThatIsLeft(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 1)
	for name, leave := range map[string]func(n int, cancel func()) bool{
		"break":   func(n int, _ func()) bool { return n == 3 },
		"context": func(n int, cancel func()) bool { cancel(); return false },
	} {
		t.Run(name, func(t *testing.T) {
			mark := t.TempDir() + "/mark"
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			n := 0
			var last error
			for _, last = range c.Stream(ctx, "count", args{"n": 1_000_000, "size": 2000, "mark": mark}) {
				if n++; leave(n, cancel) {
					break
				}
			}
			if name == "context" {
				require.ErrorIs(t, last, pypool.ErrCanceled)
			}
			accounted(t, p)
			eventually(t, "the generator has ended", func() bool { return p.Stats().Idle == 1 })
			text, err := os.ReadFile(mark + ".at")
			require.NoError(t, err)
			reached, _ := strconv.Atoi(string(text)) // it may have been stopped while it wrote: 0
			require.Less(t, reached, 1000, "the generator did not run on")
			require.Equal(t, int64(1), p.Stats().WorkersStarted)
		})
	}
	require.Panics(t, func() {
		for range c.Stream(t.Context(), "count", []any{1_000_000}) {
			panic("the body's")
		}
	})
	accounted(t, p)
}

// A slow loop halts the generator: no more than the window is on its way. Nothing is lost of it,
// and others are not held up.
func TestASlowLoopHaltsTheGenerator(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 2)
	mark := t.TempDir() + "/mark"
	at := func() int {
		text, _ := os.ReadFile(mark + ".at") // until it is there: 0
		n, _ := strconv.Atoi(string(text))
		return n
	}
	const total = 200
	n := 0
	for item, err := range pypool.Each[string](t.Context(), c, "count", args{"n": total, "size": 20_000, "mark": mark}) {
		require.NoError(t, err)
		require.Len(t, item, 20_000)
		if n++; n == 1 || n == 50 {
			reached := -1
			eventually(t, "the generator has halted", func() bool {
				before := reached
				reached = at()
				time.Sleep(50 * time.Millisecond)
				return reached == before
			})
			// What the loop has had, the window, and what the pipe and the pool hold.
			require.LessOrEqual(t, reached, n+windowItems+16)
			sum, err := pypool.Call[int](t.Context(), c, "add", []any{1})
			require.NoError(t, err)
			require.Equal(t, 2, sum)
		}
	}
	require.Equal(t, total, n)
	accounted(t, p)
}

func TestAStalledLoopLosesItsWorkerToOthers(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 1)
	n := 0
	var last error
	for _, err := range pypool.Each[int](t.Context(), c, "count", []any{10_000}, pypool.WithStallTimeout(50*time.Millisecond)) {
		if last = err; err != nil {
			break
		}
		if n++; n == 1 {
			sum, err := pypool.Call[int](t.Context(), c, "add", []any{1}, pypool.WithCheckoutTimeout(20*time.Second))
			require.NoError(t, err)
			require.Equal(t, 2, sum)
		}
	}
	require.Equal(t, pypool.MaybeExecuted, failure(t, last, pypool.ErrStalled).Delivery)
	require.GreaterOrEqual(t, n, windowItems, "items before it stand")
	accounted(t, p)
}

func TestADeadlineEndsAStream(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var last error
	for _, err := range c.Stream(ctx, "count", []any{100_000_000}) {
		last = err
	}
	require.ErrorIs(t, last, pypool.ErrOperationTimeout)
	require.ErrorIs(t, last, context.DeadlineExceeded)
	accounted(t, p)
}

// Payloads that no message takes travel in parts, both ways.
func TestLargePayloads(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 2)
	random := make([]byte, 1<<20) // the race detector takes seconds for each that is text on its way
	source := rand.NewChaCha8([32]byte{7})
	_, _ = source.Read(random) // it always does
	n, err := pypool.Call[int](t.Context(), c, "size", args{"data": random})
	require.NoError(t, err)
	require.Equal(t, len(random), n)
	text, err := pypool.Call[string](t.Context(), c, "big", []any{10 << 20})
	require.NoError(t, err)
	require.Len(t, text, 10<<20)
	var group sync.WaitGroup
	for i := range 2 {
		group.Go(func() {
			text := strings.Repeat(fmt.Sprint(i), 2<<20)
			got, err := pypool.Call[string](t.Context(), c, "echo", args{"value": text})
			if err != nil || got != text {
				t.Errorf("%d: %v, %d bytes", i, err, len(got))
			}
		})
	}
	group.Wait()
	for _, size := range []int{1<<20 - room - 12, 1<<20 - room - 2} {
		got, err := pypool.Call[string](t.Context(), c, "echo", args{"value": strings.Repeat("x", size)})
		require.NoError(t, err)
		require.Len(t, got, size)
	}
	accounted(t, p)
}

// same is require.Equal for what nobody wants to read.
func same(t *testing.T, want, got string) {
	t.Helper()
	if want != got {
		t.Fatalf("%d bytes, want %d; they begin with %.100q", len(got), len(want), got)
	}
}

// A server whose messages are small, as leaf nodes' may be.
func TestSmallMessages(t *testing.T) {
	t.Parallel()
	for _, size := range []int32{16 << 10, 8 << 10} {
		t.Run(strconv.Itoa(int(size)), func(t *testing.T) {
			t.Parallel()
			testSmallMessages(t, size)
		})
	}
}

func testSmallMessages(t *testing.T, size int32) {
	b := newBroker(t, func(o *server.Options) { o.MaxPayload = size })
	p := newPool(t, config(1))
	serve(t, b, "test", p)
	// What is told again when nothing has come for a while would hide that a window's credit is
	// missing: here that takes longer than the test.
	c := client(t, b, "test", WithLostAfter(time.Hour))
	ctx := patient(t)
	text := strings.Repeat("0123456789", 100_000)
	got, err := pypool.Call[string](ctx, c, "echo", args{"value": text})
	require.NoError(t, err)
	same(t, text, got)
	_, err = pypool.Call[string](ctx, c, "fail", []any{text})
	_, direct := pypool.Call[string](ctx, p, "fail", []any{text})
	same(t, detail[*pypool.PythonError](t, direct).Message, detail[*pypool.PythonError](t, err).Message)
	n := 0
	for item, err := range pypool.Each[string](ctx, c, "count", []any{50, 40_000}) {
		require.NoError(t, err)
		require.Len(t, item, 40_000)
		n++
	}
	require.Equal(t, 50, n)
}

func TestWhatIsTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := config(1)
	cfg.MaxMessageBytes = 2 << 20
	p := newPool(t, cfg)
	serve(t, b, "test", p, WithMaxRequestBytes(3<<19))
	c := client(t, b, "test", WithMaxResultBytes(1<<19))
	for size, by := range map[int]string{1 << 20: "", 3 << 19: "WithMaxRequestBytes is 1572864", 3 << 20: "WithMaxRequestBytes is 1572864"} {
		_, err := pypool.Call[int](t.Context(), c, "size", args{"data": bytes.Repeat([]byte{1}, size*3/4)}) // base64 now
		if by == "" {
			require.NoError(t, err)
			continue
		}
		e := failure(t, err, pypool.ErrMessageTooLarge)
		require.Contains(t, e.Message, by)
		require.True(t, pypool.SafeToRetry(err))
	}
	_, err := pypool.Call[string](t.Context(), c, "big", []any{1<<19 - 100})
	require.NoError(t, err)
	_, err = pypool.Call[string](t.Context(), c, "big", []any{3 << 19})
	e := failure(t, err, pypool.ErrMessageTooLarge)
	require.Equal(t, pypool.Executed, e.Delivery)
	require.Contains(t, e.Message, "WithMaxResultBytes is 524288")
	_, err = pypool.Call[string](t.Context(), c, "big", []any{3 << 20})
	require.Equal(t, pypool.Executed, failure(t, err, pypool.ErrMessageTooLarge).Delivery)
	for _, err := range pypool.Each[string](t.Context(), c, "count", []any{1, 3 << 19}) {
		require.ErrorIs(t, err, pypool.ErrMessageTooLarge)
	}
	accounted(t, p)
}

// Who leaves while the request is on its way knows that it did not run.
func TestALargeRequestThatIsLeft(t *testing.T) {
	t.Parallel()
	_, p, c := pair(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	text := strings.Repeat("x", 12<<20)
	c = c.With(WithRetry(Retry{Attempts: 1}))
	go func() {
		eventually(t, "the request is on its way", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, p := range c.calls {
				return p.from.Load() != nil
			}
			return false
		})
		cancel()
	}()
	_, err := c.ExecuteAnonymous(ctx, "echo", args{"value": text})
	if err != nil { // else it was there first
		require.ErrorIs(t, err, pypool.ErrCanceled)
		st := accounted(t, p)
		if pypool.SafeToRetry(err) {
			require.Zero(t, st.Started)
		}
	}
	require.False(t, errors.Is(err, pypool.ErrProtocol))
	sum, err := pypool.Call[int](t.Context(), c, "add", []any{1})
	require.NoError(t, err)
	require.Equal(t, 2, sum)
}

// Who leaves while the loop's body runs has the generator stopped there and then.
func TestAStreamThatIsLeftInItsBody(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]error{"context": pypool.ErrCanceled, "own": pypool.ErrCanceled, "close": pypool.ErrPoolClosed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p, c := pair(t, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if name == "own" {
				done := make(chan struct{})
				ctx, cancel = ownContext{t.Context(), done}, func() { close(done) }
			}
			left := make(chan struct{})
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				<-left
				eventually(t, "the generator is stopped", func() bool { return p.Stats().InFlight == 0 && p.Stats().Idle == 1 })
			}()
			n := 0
			var last error
			for _, last = range c.Stream(ctx, "count", []any{1_000_000}, pypool.WithStallTimeout(-1)) {
				if n++; last != nil {
					break
				}
				require.Equal(t, 1, n, "and no item comes behind")
				if name == "close" {
					require.NoError(t, c.Close())
				} else {
					cancel()
				}
				close(left)
				<-stopped
			}
			require.Equal(t, pypool.MaybeExecuted, failure(t, last, want).Delivery)
			require.Equal(t, int64(1), p.Stats().WorkersStarted, "and its worker kept")
			accounted(t, p)
		})
	}
}

// ownContext is none of package context's, and of little use.
type ownContext struct {
	context.Context
	done chan struct{}
}

func (c ownContext) Done() <-chan struct{} { return c.done }
func (c ownContext) Err() error {
	select {
	case <-c.done:
		panic("it has ended")
	default:
		return nil
	}
}
func (c ownContext) Value(any) any { return nil }
