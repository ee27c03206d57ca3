package pypool

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPaceDecidesWhoPolls(t *testing.T) {
	const now = time.Duration(0)
	twoCPUs := func(work ...time.Duration) *paces {
		ps := &paces{cpus: 2, born: time.Now().Add(-time.Hour)}
		for _, w := range work {
			ps.of("work", nil).learn(w)
		}
		return ps
	}
	polls := func(ps *paces, idle time.Duration) bool {
		return ps.begin(ps.of("work", nil), time.Now(), idle) != asleep
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

	one := &paces{}
	one.of("work", nil).learn(brief)
	assert.False(t, polls(one, now), "the only processor is the worker's")

	many := &paces{cpus: 2}
	for i := range 2 * maxPaces {
		many.of(string(rune(i)), nil).learn(brief)
	}
	assert.EqualValues(t, maxPaces, many.count.Load(), "names that a caller makes up do not fill the memory")
}

// The runtime says how long it worked, so that a slow wake-up, or a busy machine, does not make a command look slow.
func TestPaceLearnsFromTheRuntime(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the shared page is Linux's")
	}
	p := newPool(t, Config{Script: script(t, `
import time
from pypool import command

@command
def brief(): pass

@command
def long(): time.sleep(0.02)
`), Size: 1})
	learned := func(command string) time.Duration {
		for range 2 { // what the first took is looked at by the second
			_, err := p.ExecuteAnonymous(context.Background(), command, nil)
			require.NoError(t, err)
		}
		v, ok := p.paces.known.Load(command)
		require.True(t, ok)
		return time.Duration(v.(*pace).work.Load())
	}
	// The runtime says it a moment after the answer: on a busy machine the next call may be there before.
	eventually(t, "the brief command's time is known", func() bool { return learned("brief") > 0 })
	eventually(t, "the long command is known as such", func() bool { return learned("long") > briefWork })
	proc := p.sup.workers()[0].proc
	eventually(t, "the runtime has said how long it took", func() bool { return proc.worked() >= 20*time.Millisecond })
	assert.Less(t, proc.worked(), 10*time.Second)
}

func TestPaceTellsCallsThatRunOneAtATime(t *testing.T) {
	born := time.Now()
	ps := &paces{cpus: 2, born: born}
	work := ps.of("work", nil)
	work.learn(5 * time.Microsecond)
	at := func(since time.Duration) polling { return ps.begin(work, born.Add(since), 0) }
	assert.Equal(t, alone, at(time.Hour))
	assert.Equal(t, polite, at(time.Hour), "the first is still running")
	ps.end()
	ps.end()
	assert.Equal(t, polite, at(time.Hour+aloneAfter), "there may be two again at any moment")
	ps.end()
	assert.Equal(t, alone, at(time.Hour+2*aloneAfter))
	assert.Equal(t, 1, polite.looks())
	assert.Greater(t, alone.looks(), 1)
}
