package pypoolnats

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
