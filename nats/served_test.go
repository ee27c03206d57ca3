package pypoolnats

import (
	"bytes"
	"cmp"
	"context"
	"iter"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// A request that is being refused while its parts have stopped coming ends once.
func TestAnIncompleteRequestEndsOnce(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	s := serve(t, b, "test", caller{})
	for name, end := range map[string]func(c *served){
		"refused":  func(c *served) { c.refuse(lostRequest("one end")) },
		"canceled": func(c *served) { c.quiet(); c.s.leave(c) },
	} {
		c := &served{s: s, reply: "nobody." + name, size: 10, told: make(chan struct{}, 1), ctl: control{Alive: minAlive}, moved: time.Now().Add(-time.Hour)}
		require.Nil(t, s.enter(c))
		require.True(t, c.abandon())
		c.hooks.Add(1)
		c.alive() // its timer had run before quiet could stop it
		require.Equal(t, 1, s.stats().InFlight, "it is the other end that takes leave")
		require.NotPanics(t, func() { end(c) }, name)
		require.Zero(t, s.stats().InFlight)
		require.Zero(t, s.held)
	}
}

// counts is a caller whose stream has n items, and takes no notice of its context.
func counts(n int) caller {
	return caller{stream: func(context.Context) iter.Seq2[pypool.Result, error] {
		return func(yield func(pypool.Result, error) bool) {
			for range n {
				if !yield(result("1"), nil) {
					return
				}
			}
		}
	}}
}

// A stream of which an item could not be sent does not end as if it had been.
func TestAStreamThatIsCutIsNotWhole(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	t.Run("Close", func(t *testing.T) {
		t.Parallel()
		s := serve(t, b, "closes", counts(windowItems+1))
		c := client(t, b, "closes", WithRetry(Retry{Attempts: 1}))
		n := 0
		var last error
		for _, last = range c.Stream(t.Context(), "f", nil) {
			if last == nil {
				if n++; n == 1 {
					require.NoError(t, s.Close()) // the last item waits until the loop has more of them
				}
			}
		}
		require.Equal(t, windowItems, n)
		require.Equal(t, pypool.MaybeExecuted, failure(t, last, pypool.ErrPoolClosed).Delivery)
		require.ErrorContains(t, last, "the service was shut down during the call")
	})
	t.Run("deadline", func(t *testing.T) {
		t.Parallel()
		serve(t, b, "late", counts(3))
		nc := b.connect(t)
		inbox, err := nc.SubscribeSync(nc.NewInbox())
		require.NoError(t, err)
		ctl := control{Stream: true, Items: 1, Bytes: 100, Deadline: 50 * time.Millisecond, Alive: maxAlive}
		require.NoError(t, nc.PublishMsg(ctl.message(callSubject("late", "f"), inbox.Subject, nil)))
		for _, kind := range []string{kindItem, kindError} {
			m, err := inbox.NextMsg(20 * time.Second)
			require.NoError(t, err)
			got, err := readControl(m.Header)
			require.NoError(t, err)
			require.Equal(t, kind, got.Kind)
			if kind == kindError {
				e, err := pypool.DecodeError(m.Data)
				require.NoError(t, err)
				require.Equal(t, pypool.MaybeExecuted, failure(t, e, pypool.ErrOperationTimeout).Delivery)
				require.ErrorIs(t, e, context.DeadlineExceeded)
			}
		}
	})
}

// incomplete begins a call, of f where ctl does not say another command, whose request is the first
// byte of an empty list of so many, and returns where its rest goes.
func incomplete(t *testing.T, nc *nats.Conn, name string, size int, ctl control) (inbox *nats.Subscription, from string) {
	t.Helper()
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	require.NoError(t, err)
	ctl.Size, ctl.Items, ctl.Bytes = size, 1, 1
	require.NoError(t, nc.PublishMsg(ctl.message(callSubject(name, cmp.Or(ctl.Command, "f")), inbox.Subject, []byte("["))))
	m, err := inbox.NextMsg(20 * time.Second)
	require.NoError(t, err)
	more, err := readControl(m.Header)
	require.NoError(t, err)
	require.Equal(t, kindMore, more.Kind)
	return inbox, more.From
}

// whole sends the rest of such a request in one part.
func whole(t *testing.T, nc *nats.Conn, from string, size int) {
	t.Helper()
	rest := bytes.Repeat([]byte(" "), size-1)
	rest[len(rest)-1] = ']'
	require.NoError(t, nc.PublishMsg((&control{Kind: kindPart, Seq: 1}).message(from, "", rest)))
}

// ending returns the last message of an answer.
func ending(t *testing.T, inbox *nats.Subscription) (control, *nats.Msg) {
	t.Helper()
	for {
		m, err := inbox.NextMsg(20 * time.Second)
		require.NoError(t, err)
		ctl, err := readControl(m.Header)
		require.NoError(t, err)
		if ctl.Kind == kindResult || ctl.Kind == kindError {
			return ctl, m
		}
	}
}

// Who was not told a call's subject reaches no call.
func TestACallsSubjectCannotBeGuessed(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	s := serve(t, b, "test", caller{call: func(context.Context, string, any) (pypool.Result, error) { return result("1"), nil }})
	nc := b.connect(t)
	inbox, from := incomplete(t, nc, "test", 10, control{Alive: maxAlive})
	_, second := incomplete(t, nc, "test", 10, control{Alive: maxAlive})
	require.Len(t, second, len(s.one)+1+26, "130 bits")
	for n := range uint64(2000) {
		require.NoError(t, nc.PublishMsg((&control{Kind: kindCancel}).message(s.one+"."+strconv.FormatUint(n, 36), "", nil)))
	}
	whole(t, nc, from, 10)
	end, _ := ending(t, inbox)
	require.Equal(t, kindResult, end.Kind)
	require.NoError(t, nc.PublishMsg((&control{Kind: kindCancel}).message(second, "", nil)))
}

// What requests say that they will be keeps nobody out: only what has come counts.
func TestWhatIsHeldHasCome(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	answers := caller{call: func(context.Context, string, any) (pypool.Result, error) { return result("1"), nil }}
	s := serve(t, b, "test", answers, WithMaxRequestBytes(math.MaxInt))
	nc := b.connect(t)
	c := client(t, b, "test", WithRetry(Retry{Attempts: 1}))
	var from string
	var inbox *nats.Subscription
	for _, size := range []int{maxHeld / 4, maxHeld / 4, maxHeld / 4, maxHeld / 4, 10} {
		inbox, from = incomplete(t, nc, "test", size, control{Alive: maxAlive})
	}
	_, err := c.ExecuteAnonymous(t.Context(), "f", []any{strings.Repeat("x", 3<<20)}) // in parts
	require.NoError(t, err)
	held := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.held
	}
	require.Less(t, held(), 10_000)
	eventually(t, "the answered one has left", func() bool { return s.stats().InFlight == 5 })
	require.ErrorIs(t, s.enter(&served{s: s, reply: "nobody", size: math.MaxInt}), pypool.ErrQueueFull, "what would never fit is refused at once")

	// What comes counts, and is refused when it is too much.
	s.mu.Lock()
	s.held += maxHeld
	s.mu.Unlock()
	whole(t, nc, from, 10)
	_, m := ending(t, inbox)
	e, err := pypool.DecodeError(m.Data)
	require.NoError(t, err)
	require.Equal(t, pypool.NotExecuted, failure(t, e, pypool.ErrQueueFull).Delivery)
	_, err = c.ExecuteAnonymous(t.Context(), "f", nil)
	require.Equal(t, pypool.NotExecuted, failure(t, err, pypool.ErrQueueFull).Delivery)
	s.mu.Lock()
	s.held -= maxHeld
	s.mu.Unlock()

	// However seldom a client wants to hear of its call, its request is not waited for so long.
	s.mu.Lock()
	for _, c := range s.byID {
		c.mu.Lock()
		c.moved = time.Now().Add(-patience * defaultAlive)
		c.mu.Unlock()
	}
	s.mu.Unlock()
	eventually(t, "what has stopped coming is dropped", func() bool { return s.stats().InFlight == 0 })
	require.Zero(t, held())
}

// The deadline of a request that comes in parts counts from its first one.
func TestADeadlineIsNotBegunAnew(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	deadlines := make(chan time.Time, 1)
	serve(t, b, "test", p, WithContext(func(ctx context.Context, _ nats.Header) context.Context {
		end, _ := ctx.Deadline()
		deadlines <- end
		return ctx
	}))
	nc := b.connect(t)
	const d = 200 * time.Millisecond
	inbox, from := incomplete(t, nc, "test", 10, control{Command: "meta", Deadline: d})
	told := time.Now()
	time.Sleep(500 * time.Millisecond) // it is over before the last part comes
	whole(t, nc, from, 10)
	_, m := ending(t, inbox)
	require.LessOrEqual(t, (<-deadlines).Sub(told), d)
	e, err := pypool.DecodeError(m.Data)
	require.NoError(t, err, "%s", m.Data)
	require.Equal(t, pypool.NotExecuted, e.Delivery, e)
	require.ErrorIs(t, e, context.DeadlineExceeded)
}
