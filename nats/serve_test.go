package pypoolnats

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// The instances answer micro's discovery and statistics.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	b, p, c := pair(t, 1)
	nc := b.connect(t)
	ask := func(verb string, into any) {
		t.Helper()
		m, err := nc.Request("$SRV."+verb+".test", nil, 10*time.Second)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(m.Data, into))
	}
	var ping micro.Ping
	ask("PING", &ping)
	require.Equal(t, []string{"test", "0.0.0", "1.0"}, []string{ping.Name, ping.Version, ping.Metadata["pypool"]})
	var info micro.Info
	ask("INFO", &info)
	require.Equal(t, "pypool.test.call.*", info.Endpoints[0].Subject)
	for i := range 3 {
		_, err := pypool.Call[int](t.Context(), c, "add", []any{i})
		require.NoError(t, err)
	}
	_, err := pypool.Call[int](t.Context(), c, "fail", []any{"no"})
	require.Error(t, err)
	var stats micro.Stats
	var data serviceStats
	eventually(t, "the last call has ended", func() bool {
		ask("STATS", &stats)
		require.NoError(t, json.Unmarshal(stats.Endpoints[0].Data, &data))
		return data.InFlight == 0
	})
	require.Equal(t, []any{4, int64(4), int64(1)}, []any{stats.Endpoints[0].NumRequests, data.Served, data.Failed})
	require.Equal(t, p.Stats().Started, data.Pool.Started)
	other := newPool(t, config(1))
	s := serve(t, b, "test", other, WithVersion("1.2.3"), WithDescription("another"), WithMetadata(map[string]string{"host": "h"}))
	require.Equal(t, []string{"1.2.3", "another", "h", s.ID()}, []string{s.Info().Version, s.Info().Description, s.Info().Metadata["host"], s.Info().ID})
}

// Any program that speaks NATS may call: a plain request has a plain answer.
func TestAPlainRequest(t *testing.T) {
	t.Parallel()
	b, p, _ := pair(t, 1)
	nc := b.connect(t)
	m, err := nc.Request("pypool.test.call.add", []byte(`{"a": 40, "b": 2}`), 10*time.Second)
	require.NoError(t, err)
	require.Equal(t, "42", string(m.Data))
	require.Empty(t, m.Header)
	for request, want := range map[string]string{
		"add {}": "400 pypool: invalid_arguments: add", "nobody": "404 pypool: unknown_command: nobody", "fail [\"no\"]": "500 pypool: python_exception: fail: ValueError: no",
		"add {": "400 pypool: invalid_arguments: add", "crash": "502 pypool: worker_exited", "big [2000000]": "500 pypool: message_too_large: big: the result is 2000002 bytes",
	} {
		command, args, _ := strings.Cut(request, " ")
		m, err := nc.Request("pypool.test.call."+command, []byte(args), 20*time.Second)
		require.NoError(t, err)
		require.Contains(t, m.Header.Get(micro.ErrorCodeHeader)+" "+m.Header.Get(micro.ErrorHeader), want)
		require.Equal(t, m.Header.Get(micro.ErrorHeader), string(m.Data))
	}
	before := accounted(t, p).Started
	require.NoError(t, nc.Publish("pypool.test.call.add", []byte(`[1]`))) // nobody waits for that
	m, err = nc.Request("pypool.test.call.add", []byte(`[1]`), 10*time.Second)
	require.NoError(t, err)
	require.Equal(t, "2", string(m.Data))
	require.Equal(t, before+1, accounted(t, p).Started, "the one without a reply subject was dropped")
}

// raw sends a message as a client of another version, or of nobody's, might.
func raw(t *testing.T, nc *nats.Conn, subject, version, ctl string, data []byte) *nats.Msg {
	t.Helper()
	m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{}}
	if version != "" {
		m.Header.Set(headerVersion, version)
	}
	if ctl != "" {
		m.Header.Set(headerControl, ctl)
	}
	got, err := nc.RequestMsg(m, 10*time.Second)
	require.NoError(t, err)
	return got
}

func TestClientsOfOtherVersions(t *testing.T) {
	t.Parallel()
	b, _, _ := pair(t, 1)
	nc := b.connect(t)
	const subject = "pypool.test.call.add"
	later := raw(t, nc, subject, "1.7", `{"later":{"x":[1]},"session":"ann","deadline_ns":60000000000}`, []byte(`[1]`))
	require.Equal(t, "2", string(later.Data))
	require.Equal(t, version, later.Header.Get(headerVersion))
	for name, c := range map[string]struct{ version, control, want string }{
		"a later one":        {"2.0", `{}`, `it speaks version "2.0" of pypool's protocol on NATS, and this program version 1.0`},
		"what is no version": {"x", `{}`, `it speaks version "x"`},
		"no JSON":            {"1.0", `{`, "its header Pypool is unreadable"},
		"wrong JSON":         {"1.0", `{"session":7}`, "its header Pypool is unreadable"},
		"another kind":       {"1.0", `{"kind":"ask"}`, `the server does not know requests of the kind "ask"`},
	} {
		e, err := pypool.DecodeError(raw(t, nc, subject, c.version, c.control, []byte(`[1]`)).Data)
		require.NoError(t, err, name)
		require.Equal(t, pypool.NotExecuted, e.Delivery, name)
		require.Equal(t, pypool.TypeProtocol, e.Type, name)
		require.Contains(t, e.Message, c.want, name)
	}
	e, err := pypool.DecodeError(raw(t, nc, subject, "1.0", `{"session":"`+strings.Repeat("s", 400_000)+`"}`, nil).Data)
	require.NoError(t, err)
	require.ErrorIs(t, e, pypool.ErrInvalidArguments)
	e, err = pypool.DecodeError(raw(t, nc, subject, "1.0", `{"size":-1,"session":"\u0000"}`, nil).Data)
	require.NoError(t, err)
	require.ErrorIs(t, e, pypool.ErrInvalidArguments)
}

// A server that says strange things costs the call, and no memory.
func TestServersOfOtherVersions(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	nc := b.connect(t)
	answers := make(chan []*nats.Msg, 1)
	_, err := nc.Subscribe("pypool.odd.call.*", func(m *nats.Msg) {
		for _, answer := range <-answers {
			answer.Subject = m.Reply
			_ = nc.PublishMsg(answer)
		}
	})
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	c := client(t, b, "odd", WithRetry(Retry{Attempts: 1}), WithLostAfter(lostSoon))
	say := func(ctl, data string) *nats.Msg {
		return &nats.Msg{Data: []byte(data), Header: nats.Header{headerVersion: {"1.9"}, headerControl: {ctl}}}
	}
	answers <- []*nats.Msg{
		say(`{"later":"x"}`, "what is this"), say(`{"x":1,"kind":"alive"}`, ""), say(`{"kind":"later","seq":1}`, ""), say(`{"kind":"result","seq":2,"more":[]}`, "7"),
	}
	n, err := pypool.Call[int](t.Context(), c, "f", nil)
	require.NoError(t, err)
	require.Equal(t, 7, n)
	flood := make([]*nats.Msg, 2*maxFrames)
	for i := range flood {
		flood[i] = say(`{"kind":"later"}`, "")
	}
	for name, list := range map[string][]*nats.Msg{
		"unreadable": {say(`[`, "")}, "a version that nobody knows": {{Header: nats.Header{headerVersion: {"2.0"}, headerControl: {"{}"}}}},
		"a part of nothing": {say(`{"kind":"part","seq":1}`, "x")}, "more than it said": {say(`{"kind":"result","seq":1,"size":5}`, "1"), say(`{"kind":"part","seq":2}`, "123456")},
		"an item of no stream": {say(`{"kind":"item","seq":1}`, "1")}, "an error that is none": {say(`{"kind":"error","seq":1}`, "{}")},
		"nothing at all": {{Data: []byte("42")}}, "it takes more nowhere": {say(`{"kind":"more"}`, "")},
	} {
		answers <- list
		_, err := pypool.Call[int](t.Context(), c, "f", nil)
		require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrProtocol).Delivery, name)
	}
	answers <- []*nats.Msg{say(`{"kind":"result","seq":2}`, "7")}
	_, err = pypool.Call[int](t.Context(), c, "f", nil)
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
	require.ErrorContains(t, err, "a part of the answer was lost on the way")
	answers <- []*nats.Msg{say(`{"kind":"result","seq":1,"size":99999999999999}`, "7")}
	_, err = pypool.Call[int](t.Context(), c, "f", nil)
	require.ErrorIs(t, err, pypool.ErrMessageTooLarge)
	answers <- append(flood, say(`{"kind":"end","seq":1}`, ""))
	for _, err := range c.Stream(t.Context(), "f", nil) { // a loop that looks at nothing meanwhile might lose some
		require.ErrorIs(t, err, pypool.ErrProtocol)
	}
	answers <- nil
	_, err = pypool.Call[int](t.Context(), c, "f", nil)
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
	require.ErrorContains(t, err, fmt.Sprint("the call's server is lost: nothing was heard of it for ", lostSoon))
}

// A service that is shut down serves what it has, and loses no call to the others.
func TestShutdownUnderLoad(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	stays := newPool(t, config(1))
	serve(t, b, "test", stays)
	goes := newPool(t, config(1))
	c := client(t, b, "test")
	var group sync.WaitGroup
	stop := make(chan struct{})
	for range 16 {
		group.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if got, err := pypool.Call[int](t.Context(), c, "add", []any{n}); err != nil || got != n+1 {
					t.Errorf("%d: %d, %v", n, got, err)
					return
				}
			}
		})
	}
	for range 5 {
		nc := b.connect(t)
		s, err := Serve(nc, "test", goes, WithLogger(silent))
		require.NoError(t, err)
		before := goes.Stats().Succeeded
		eventually(t, "it serves", func() bool { return goes.Stats().Succeeded > before+20 })
		require.NoError(t, s.Shutdown(t.Context()))
		require.NoError(t, s.Shutdown(t.Context()))
		<-s.Done()
		nc.Close()
	}
	close(stop)
	group.Wait()
	accounted(t, goes)
	accounted(t, stays)
}

func TestTheEndOfShutdownsContextStopsWhatRuns(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	s := serve(t, b, "test", p)
	c := client(t, b, "test", WithRetry(Retry{Attempts: 1}))
	g := newGate(t)
	done := make(chan error, 2)
	go func() {
		_, err := c.ExecuteAnonymous(t.Context(), "hold", g.args())
		done <- err
	}()
	g.awaitBegun(t)
	go func() {
		_, err := c.ExecuteAnonymous(t.Context(), "add", []any{1})
		done <- err
	}()
	eventually(t, "one waits", func() bool { return p.Stats().Waiting == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
	var deliveries []pypool.Delivery
	for range 2 {
		err := <-done
		deliveries = append(deliveries, failure(t, err, pypool.ErrPoolClosed).Delivery)
		require.NotErrorIs(t, err, context.Canceled, "it was not the caller who canceled")
		require.ErrorContains(t, err, "the service was shut down during the call")
	}
	require.ElementsMatch(t, []pypool.Delivery{pypool.MaybeExecuted, pypool.NotExecuted}, deliveries)
	eventually(t, "the handler was stopped", func() bool { return exists(g.mark + ".left") })
	_, err := c.ExecuteAnonymous(t.Context(), "add", []any{1})
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)))
	accounted(t, p)
}

// The calls that are made once Serve has returned reach the instance.
func TestServeReturnsWhenTheServerKnowsTheInstance(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	c := client(t, b, "test", WithRetry(Retry{Attempts: 1}))
	for range 200 {
		s, err := Serve(b.connect(t), "test", p)
		require.NoError(t, err)
		_, err = c.ExecuteAnonymous(t.Context(), "add", []any{1, 2})
		require.NoError(t, err)
		require.NoError(t, s.Close())
	}
}

// A request whose parts have stopped coming holds up no Shutdown, and in the end is dropped.
func TestARequestThatIsNotWhole(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	s := serve(t, b, "test", p)
	nc := b.connect(t)
	first := func(alive time.Duration) (inbox *nats.Subscription, more control) {
		t.Helper()
		inbox, err := nc.SubscribeSync(nc.NewInbox())
		require.NoError(t, err)
		ctl := control{Command: "echo", Size: 1 << 20, Alive: alive, Items: 1, Bytes: 1}
		require.NoError(t, nc.PublishMsg(ctl.message("pypool.test.call.echo", inbox.Subject, []byte("["))))
		m, err := inbox.NextMsg(20 * time.Second)
		require.NoError(t, err)
		more, err = readControl(m.Header)
		require.NoError(t, err)
		require.Equal(t, []any{kindMore, 1}, []any{more.Kind, more.Bytes})
		return inbox, more
	}
	refused := func(inbox *nats.Subscription) *pypool.Error {
		t.Helper()
		for {
			m, err := inbox.NextMsg(20 * time.Second)
			require.NoError(t, err)
			if ctl, err := readControl(m.Header); err != nil || ctl.Kind != kindError {
				continue // that it is alive, or takes more
			}
			e, err := pypool.DecodeError(m.Data)
			require.NoError(t, err)
			require.Equal(t, pypool.NotExecuted, e.Delivery)
			return e
		}
	}
	inbox, _ := first(20 * time.Millisecond)
	require.Contains(t, refused(inbox).Message, "its parts have stopped coming")
	inbox, more := first(time.Minute)
	require.NoError(t, nc.PublishMsg((&control{Kind: kindPart, Seq: 2}).message(more.From, "", []byte("x"))))
	require.Contains(t, refused(inbox).Message, "part 2 of the request came in the place of part 1")
	inbox, more = first(time.Minute)
	require.NoError(t, nc.PublishMsg((&control{Kind: kindPart, Seq: 1}).message(more.From, "", make([]byte, 1<<20-room))))
	require.NoError(t, nc.PublishMsg((&control{Kind: kindPart, Seq: 2}).message(more.From, "", make([]byte, 1<<20-room))))
	require.Contains(t, refused(inbox).Message, "the request's parts are not the 1048576 bytes that it has")
	_, more = first(time.Minute)
	require.NoError(t, nc.PublishMsg((&control{Kind: kindCancel}).message(more.From, "", nil)))
	eventually(t, "it is canceled", func() bool { return s.stats().InFlight == 0 })
	inbox, _ = first(time.Minute)
	require.NoError(t, s.Close())
	require.ErrorIs(t, refused(inbox), pypool.ErrPoolClosed)
	require.Zero(t, p.Stats().Started)
	require.Zero(t, s.held)
}

// A cancel that comes before its request has that refused.
func TestACancelBeforeItsRequest(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	s := serve(t, b, "test", p)
	nc := b.connect(t)
	inbox, err := nc.SubscribeSync(nc.NewInbox())
	require.NoError(t, err)
	require.NoError(t, nc.PublishMsg((&control{Kind: kindCancel, Call: inbox.Subject}).message(allSubject("test"), "", nil)))
	for i := range 10_000 { // what is remembered is bounded
		require.NoError(t, nc.PublishMsg((&control{Kind: kindCancel, Call: fmt.Sprint(i)}).message(allSubject("test"), "", nil)))
		if i == maxDeparted/2 {
			eventually(t, "it is remembered", func() bool {
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.left.has(fmt.Sprint(i)) && s.left.has(inbox.Subject)
			})
			require.NoError(t, nc.PublishMsg((&control{}).message("pypool.test.call.meta", inbox.Subject, nil)))
			m, err := inbox.NextMsg(20 * time.Second)
			require.NoError(t, err)
			e, err := pypool.DecodeError(m.Data)
			require.NoError(t, err)
			require.Equal(t, pypool.NotExecuted, failure(t, e, pypool.ErrCanceled).Delivery)
		}
	}
	eventually(t, "it is forgotten", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return !s.left.has(inbox.Subject) && len(s.left.known) <= maxDeparted+1
	})
	require.Zero(t, p.Stats().Started)
}

// What a pool refuses another may take: the client asks again.
func TestACallGoesToAServerThatTakesIt(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	closed := newPool(t, config(1))
	serve(t, b, "test", closed)
	require.NoError(t, closed.Close())
	c := client(t, b, "test", WithRetry(Retry{Attempts: 3, Backoff: pypool.Backoff{Min: time.Millisecond}}))
	_, err := pypool.Call[int](t.Context(), c, "add", []any{1})
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)))
	require.ErrorContains(t, err, "the pool is closed")
	serve(t, b, "test", newPool(t, config(1)))
	c = c.With(WithRetry(Retry{Attempts: 100, Backoff: pypool.Backoff{Min: time.Millisecond, Max: time.Millisecond}}))
	for n := range 50 {
		got, err := pypool.Call[int](t.Context(), c, "add", []any{n})
		require.NoError(t, err)
		require.Equal(t, n+1, got)
	}
	var items []int
	for item, err := range pypool.Each[int](t.Context(), c, "count", []any{3}) {
		require.NoError(t, err)
		items = append(items, item)
	}
	require.Equal(t, []int{0, 1, 2}, items)
}

// A server whose connection is closed under it stops what runs, for nobody hears of that.
func TestAServersConnectionIsClosed(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	nc := b.connect(t)
	s, err := Serve(nc, "test", p, WithLogger(silent))
	require.NoError(t, err)
	c := client(t, b, "test", WithLostAfter(lostSoon), WithRetry(Retry{Attempts: 1}))
	g := newGate(t)
	done := g.call(t.Context(), c)
	g.awaitBegun(t)
	nc.Close()
	require.Equal(t, pypool.MaybeExecuted, failure(t, <-done, pypool.ErrPoolClosed).Delivery)
	eventually(t, "the handler was stopped", func() bool { return exists(g.mark + ".left") })
	require.NoError(t, s.Shutdown(t.Context()))
	accounted(t, p)
}

// A client that is gone cannot cancel: its server finds out.
func TestAClientThatIsGone(t *testing.T) {
	t.Parallel()
	b, p, _ := pair(t, 1)
	g := newGate(t)
	nc, err := nats.Connect(b.url())
	require.NoError(t, err)
	c := NewClient(nc, "test", WithLostAfter(lostSoon), WithRetry(Retry{Attempts: 1}))
	done := g.call(context.Background(), c)
	g.awaitBegun(t)
	nc.Close()
	require.Equal(t, pypool.MaybeExecuted, failure(t, <-done, pypool.ErrPoolClosed).Delivery)
	eventually(t, "the handler was stopped", func() bool { return exists(g.mark + ".left") })
	accounted(t, p)
	_, err = os.Stat(g.mark)
	require.NoError(t, err)
}
