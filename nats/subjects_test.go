package pypoolnats

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// Long names take room in a message, too.
func TestLongNamesBesideLargeArguments(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	serve(t, b, "test", p)
	c := client(t, b, "test")
	nc := b.connect(t)
	session := strings.Repeat("é", 100)
	for _, size := range []int{0, 100, room / 2, room} {
		_, err := c.ExecuteProgram(t.Context(), strings.Repeat("<", maxProgram), args{"x": strings.Repeat("x", int(nc.MaxPayload())-room-size)}, pypool.WithSession(session))
		failure(t, err, pypool.ErrUnknownCommand)
	}
	js := stream(t, b)
	_, err := EnqueueProgram(patient(t), js, "test", strings.Repeat("<", maxProgram), args{"x": strings.Repeat("x", int(nc.MaxPayload())-room-100)})
	failure(t, err, pypool.ErrMessageTooLarge)
}

// A call that is interrupted again and again, and hears of its server between, is not interrupted
// for a minute; and silence counts while somebody listens.
func TestInterruptionsAreCountedApart(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	nc := b.connect(t)
	c := NewClient(nc, "test", WithLostAfter(patience*maxAlive))
	p := &pending{begun: time.Now().Add(-24 * time.Hour)} // and nothing was heard
	a := &attempt{c: c, p: p, r: &request{item: func(pypool.Result) bool { return true }}, ctx: t.Context(), head: control{Kind: kindItem}}
	require.ErrorContains(t, a.watch(), "the call's server is lost")
	_, _, err := a.whole()
	require.Nil(t, err)
	require.Nil(t, a.watch(), "the loop's body has run until now")
	b.stop()
	eventually(t, "the connection is interrupted", func() bool { return !nc.IsConnected() })
	for range 3 {
		require.Nil(t, a.watch())
		p.heard.Store(int64(time.Since(p.begun)))
	}
	require.Nil(t, a.watch())
	require.ErrorContains(t, a.watch(), "the connection has been interrupted for 1m0s")
}
