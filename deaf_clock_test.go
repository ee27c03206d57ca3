package pypool

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// How long calls are waited for that do not stop: against the clock, as call_clock_test.go.

// deafFleet has each start of the fleet take 5 s, and "deaf" hang whatever it is asked; "late" takes half
// a second. It returns a function that makes a call that is left after 100 ms, and says how long its
// worker lived on, and zero where it serves again.
func deafFleet(t *testing.T, f *fleet, change func(*Config)) (p *Pool, leave func(command string) time.Duration) {
	f.able = `["page","cancel"]`
	f.script = func(p *fakeProcess, req fakeRequest) bool {
		switch req.Command {
		case "hello":
			p.pause(5 * time.Second)
		case "deaf", "other":
			p.pause(time.Hour)
		case "late":
			p.pause(500 * time.Millisecond)
		}
		return false
	}
	cfg := f.config(1)
	if change != nil {
		change(&cfg)
	}
	p = open(t, cfg)
	return p, func(command string) time.Duration {
		before := f.alive()[0]
		_, err := p.ExecuteAnonymous(t.Context(), command, nil, WithTimeout(100*time.Millisecond))
		require.ErrorIs(t, err, ErrOperationTimeout)
		begun := time.Now()
		for !serving(p) && !isClosed(before.done) {
			time.Sleep(5 * time.Millisecond)
		}
		if !isClosed(before.done) {
			return 0
		}
		lived := time.Since(begun)
		for !serving(p) {
			time.Sleep(10 * time.Millisecond)
		}
		return lived
	}
}

const about = float64(30 * time.Millisecond)

func TestACommandWhoseCallsDoNotStopIsWaitedForOnceAMinute(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		p, leave := deafFleet(t, f, nil)
		defer p.Close()
		for range 3 {
			assert.InDelta(t, 5*time.Second, leave("deaf"), about, "as long as its worker's start took")
		}
		last := time.Now()
		for time.Since(last) < 40*time.Second {
			assert.InDelta(t, 250*time.Millisecond, leave("deaf"), about, "KillGrace")
		}
		assert.InDelta(t, 5*time.Second, leave("other"), about, "others have nothing to do with it")
		time.Sleep(time.Until(last.Add(time.Minute)))
		assert.InDelta(t, 5*time.Second, leave("deaf"), about, "a minute later")
		assert.InDelta(t, 250*time.Millisecond, leave("deaf"), about, "and for another minute")
	})
}

func TestACommandThatStopsHasAllItsTimeAgain(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		p, leave := deafFleet(t, f, nil)
		defer p.Close()
		for range 2 {
			assert.InDelta(t, 5*time.Second, leave("deaf"), about)
		}
		assert.Zero(t, leave("late"), "another one's stop")
		assert.InDelta(t, 5*time.Second, leave("deaf"), about, "is none of its own, but this was the third")
		assert.InDelta(t, 250*time.Millisecond, leave("deaf"), about)
		p.deaf.stopped("deaf")
		for range 3 {
			assert.InDelta(t, 5*time.Second, leave("deaf"), about)
		}
	})
}

func TestACancelGraceThatIsSetIsKept(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		p, leave := deafFleet(t, f, func(c *Config) { c.CancelGrace = 2 * time.Second })
		defer p.Close()
		for range 6 {
			assert.InDelta(t, 2*time.Second, leave("deaf"), about)
		}
	})
}
