package spin

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestPolicyDecidesWhoSpins(t *testing.T) {
	const now = time.Duration(0)
	twoCPUs := func(work ...time.Duration) *Policy {
		ps := &Policy{cpus: 2, born: time.Now().Add(-time.Hour)}
		for _, w := range work {
			ps.Of("work", nil).Learn(w)
		}
		return ps
	}
	polls := func(ps *Policy, idle time.Duration) bool {
		return ps.Begin(ps.Of("work", nil), time.Now(), idle) != Park
	}
	const brief, long = 5 * time.Microsecond, time.Millisecond
	assert.False(t, polls(twoCPUs(), now), "nothing is known of a new command")
	assert.True(t, polls(twoCPUs(brief), now))
	assert.False(t, polls(twoCPUs(brief), time.Millisecond), "its worker sleeps by now")
	assert.False(t, polls(twoCPUs(long), now))
	assert.True(t, polls(twoCPUs(brief, brief, time.Hour), now), "one that took long says little")
	assert.False(t, polls(twoCPUs(brief, long, brief, long, brief, long, brief, long), now))

	busy := twoCPUs(brief)
	assert.True(t, polls(busy, now))
	assert.True(t, polls(busy, now))
	assert.False(t, polls(busy, now), "more calls than processors")

	one := &Policy{}
	one.Of("work", nil).Learn(brief)
	assert.False(t, polls(one, now), "the only processor is the worker's")

	many := &Policy{cpus: 2}
	for i := range 2 * MaxCommands {
		many.Of(string(rune(i)), nil).Learn(brief)
	}
	assert.EqualValues(t, MaxCommands, many.count.Load(), "names that a caller makes up do not fill the memory")
}

func TestPolicyTellsCallsThatRunOneAtATime(t *testing.T) {
	born := time.Now()
	ps := &Policy{cpus: 2, born: born}
	work := ps.Of("work", nil)
	work.Learn(5 * time.Microsecond)
	at := func(since time.Duration) Mode { return ps.Begin(work, born.Add(since), 0) }
	assert.Equal(t, Spin, at(time.Hour))
	assert.Equal(t, SpinYield, at(time.Hour), "the first is still running")
	ps.End()
	ps.End()
	assert.Equal(t, SpinYield, at(time.Hour+aloneAfter), "there may be two again at any moment")
	ps.End()
	assert.Equal(t, Spin, at(time.Hour+2*aloneAfter))
	assert.Equal(t, 1, SpinYield.Looks())
	assert.Greater(t, Spin.Looks(), 1)
}
