package pypoolnats

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// A server that has not heard how much its client has taken in hears it again.
func TestALostCreditIsRepeated(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	nc := b.connect(t)
	replies := make(chan string, 1)
	told := 0
	_, err := nc.Subscribe("pypool.odd.one.x.1", func(m *nats.Msg) {
		if ctl, err := readControl(m.Header); err != nil || ctl.Kind != kindCredit || ctl.Items < windowItems {
			return
		}
		if told++; told == 2 { // the first one was lost
			_ = nc.PublishMsg((&control{Kind: kindEnd, Seq: windowItems + 1}).message(<-replies, "", nil))
		}
	})
	require.NoError(t, err)
	_, err = nc.Subscribe("pypool.odd.call.*", func(m *nats.Msg) {
		for i := range windowItems {
			_ = nc.PublishMsg((&control{Kind: kindItem, Seq: uint64(i + 1), From: "pypool.odd.one.x.1"}).message(m.Reply, "", []byte("1")))
		}
		replies <- m.Reply
	})
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	c := client(t, b, "odd", WithRetry(Retry{Attempts: 1}), WithLostAfter(5*time.Second))
	n := 0
	for _, err := range c.Stream(t.Context(), "f", nil) {
		require.NoError(t, err)
		n++
	}
	require.Equal(t, windowItems, n)
}

// A server that has not heard that its client has left hears it when it says that it is serving.
func TestALostCancelIsRepeated(t *testing.T) {
	t.Parallel()
	b, _, c := pair(t, 1)
	_, err := c.ExecuteAnonymous(t.Context(), "add", []any{1}) // so that it listens
	require.NoError(t, err)
	g := newGate(t)
	payload := []byte(`["` + g.fifo + `","` + g.mark + `"]`)
	m := (&control{Alive: minAlive}).message(callSubject("test", "hold"), c.inbox+"gone", payload)
	require.NoError(t, b.connect(t).PublishMsg(m))
	eventually(t, "the handler is stopped", func() bool { return exists(g.mark + ".left") })
}

// dialer is a way to the broker that may be closed.
type dialer struct{ closed atomic.Bool }

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	if d.closed.Load() {
		return nil, net.ErrClosed
	}
	return net.Dial(network, address)
}

// An answer that comes while the client's connection is cut, as a nats-server does with one that has
// too much to take, is lost, and its server is not blamed for that.
func TestAnAnswerThatIsLostWithTheConnection(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	serve(t, b, "test", newPool(t, config(1)))
	answered := make(chan struct{})
	_, err := b.connect(t).Subscribe("_INBOX.>", func(m *nats.Msg) {
		if ctl, err := readControl(m.Header); err == nil && ctl.Kind == kindResult {
			close(answered)
		}
	})
	require.NoError(t, err)
	var way dialer
	nc := b.connect(t, nats.SetCustomDialer(&way))
	c := NewClient(nc, "test", WithRetry(Retry{Attempts: 1}), WithLostAfter(lostSoon))
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	g := newGate(t)
	done := g.call(t.Context(), c)
	g.awaitBegun(t)
	way.closed.Store(true)
	id, err := nc.GetClientID()
	require.NoError(t, err)
	require.NoError(t, b.srv.DisconnectClientByID(id))
	eventually(t, "the connection is cut", func() bool { return !nc.IsConnected() })
	g.open(t)
	<-answered
	way.closed.Store(false)
	err = <-done
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
	require.ErrorContains(t, err, "the server, the request or the answer is lost: the client's connection was interrupted during the call")
}
