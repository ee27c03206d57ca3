//go:build unix

package pypool

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func retirementPool(t testing.TB, size int, change func(*Config)) (*Pool, folder) {
	t.Helper()
	return healthPool(t, size, func(c *Config) {
		c.Script = workerScript(t, "retirement.py")
		if change != nil {
			change(c)
		}
	})
}

func (p folder) has(name string) bool {
	_, err := os.Stat(filepath.Join(p.dir, name))
	return err == nil
}

// sayBetween has a worker say between two calls that it is to be replaced, and returns its pid.
func sayBetween(t testing.TB, p *Pool, at folder) int {
	t.Helper()
	at.put("in the call")
	pid := decoded[int](t, executed(t, p, "leave_later", nil))
	at.take("in the call")
	eventually(t, "it is said", func() bool { return at.has("said") })
	at.take("said")
	return pid
}

// kindsOfCalls fail as they are told, one by one.
func kindsOfCalls(t *testing.T, p *Pool) map[string]func(how string) error {
	return map[string]func(how string) error{
		"a call": func(how string) error {
			_, err := p.ExecuteAnonymous(t.Context(), "call", args{"how": how})
			return err
		},
		"a program": func(how string) error { _, err := p.ExecuteProgram(t.Context(), "told", args{"how": how}); return err },
		"a stream": func(how string) (last error) {
			for _, err := range p.Stream(t.Context(), "items", args{"how": how}) {
				last = err
			}
			return last
		},
		"an item of a Map": func(how string) (last error) {
			for _, err := range Map[string](t.Context(), p, "call", slices.Values([]args{{"how": how}})) {
				last = err
			}
			return last
		},
		"a batch": func(how string) error {
			_, err := p.ExecuteAnonymous(t.Context(), "batch", args{"how": how})
			return err
		},
		"a call beside others": func(how string) error {
			_, err := p.ExecuteAnonymous(t.Context(), "beside", args{"how": how})
			return err
		},
	}
}

// The call that brings what was said between two calls has nothing to do with it.
func TestWhatIsSaidBetweenTwoCallsIsNobodys(t *testing.T) {
	t.Parallel()
	logs, events := &logBuffer{}, &eventLog{}
	p, at := retirementPool(t, 1, func(c *Config) {
		c.Breaker.Failures, c.Logger, c.Observer = 2, logs.logger(-4), &Observer{Event: events.add}
	})
	n := 0
	for name, fail := range kindsOfCalls(t, p) {
		for _, how := range []string{"bad", "dead"} {
			if how == "dead" && name != "a call" && name != "a batch" {
				continue
			}
			n++
			pid := sayBetween(t, p, at)
			err := fail(how)
			require.ErrorIs(t, err, ErrPython, name)
			if how == "bad" {
				require.NotContains(t, err.Error(), "replaced", name)
			} else {
				require.ErrorContains(t, err, "; its worker is replaced: said between two calls", name)
			}
			eventually(t, "it is replaced", func() bool { return serving(p) && pids(p)[0] != pid })
			require.Equal(t, int64(n), p.Stats().Retired)
		}
	}
	for _, ev := range toldOf(t, events, EventWorkerRetired, n) {
		assert.Equal(t, "said between two calls", ev.Cause)
		assert.Empty(t, ev.Command)
		assert.Zero(t, ev.RequestID)
	}
	for _, record := range logs.with(t, "a worker asks to be replaced") {
		assert.NotContains(t, record, "command")
		assert.NotContains(t, record, "request")
	}
	for _, c := range p.Circuits() {
		assert.Empty(t, c.Command, "nobody pays for a stranger")
	}
}

// Nor has the call during which a thread says so that another call has left behind.
func TestWhatACallHasLeftBehindSpeaksForNoOther(t *testing.T) {
	t.Parallel()
	events := &eventLog{}
	p, at := retirementPool(t, 1, func(c *Config) { c.Breaker.Failures, c.Observer = 1, &Observer{Event: events.add} })
	at.put("in the call")
	executed(t, p, "leave_later", nil)
	wait := inBackground(1, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "until_said", nil) })
	eventually(t, "the other one runs", func() bool { return at.has("waits") })
	at.take("in the call")
	err := wait()[0].err
	require.ErrorIs(t, err, ErrPython)
	require.NotContains(t, err.Error(), "replaced")
	ev := toldOf(t, events, EventWorkerRetired, 1)[0]
	assert.Equal(t, "said between two calls", ev.Cause)
	assert.Empty(t, ev.Command)
	for _, c := range p.Circuits() {
		assert.Empty(t, c.Command, "nobody pays for a stranger")
	}
}

// Each call that asks for it says so, however many have before; one worker is lost.
func TestEachErrorSaysThatItsWorkerIsReplaced(t *testing.T) {
	t.Parallel()
	p, at := retirementPool(t, 1, func(c *Config) { c.Breaker.Failures = 2 })
	at.put("hold starts")
	const reason = "; its worker is replaced: command call raised retirement.Dead (retire_on)"
	require.ErrorContains(t, kindsOfCalls(t, p)["a call"]("dead"), reason)
	for name, fail := range kindsOfCalls(t, p) {
		for range 2 {
			for _, how := range []string{"dead", "retire"} {
				err := fail(how)
				require.ErrorIs(t, err, ErrPython, name)
				require.ErrorContains(t, err, reason, "%s: %s", name, how)
			}
			err := fail("bad")
			require.ErrorIs(t, err, ErrPython, name)
			require.NotContains(t, err.Error(), "replaced", name)
		}
	}
	require.ErrorContains(t, kindsOfCalls(t, p)["a batch"]("all"), reason)
	require.Equal(t, int64(1), p.Stats().Retired)
	for _, c := range p.Circuits() {
		assert.Equal(t, "closed", c.State, c.Command)
	}
	at.take("hold starts")
	eventually(t, "it is replaced", func() bool { return serving(p) && p.Stats().Recycled == 1 })
}

// Of several calls that a worker has the event names the one that has caused it.
func TestTheEventNamesTheCallThatHasCausedIt(t *testing.T) {
	t.Parallel()
	events := &eventLog{}
	p, at := retirementPool(t, 1, func(c *Config) { c.Breaker.Failures, c.Observer = -1, &Observer{Event: events.add} })
	n := 0
	named := func(what string, err error, session string) {
		t.Helper()
		e := failure(t, err, ErrPython)
		require.Contains(t, e.Message, "; its worker is replaced: ", what)
		n++
		ev := toldOf(t, events, EventWorkerRetired, n)[n-1]
		assert.Equal(t, e.Context.Command, ev.Command, what)
		assert.Equal(t, e.Context.RequestID, ev.RequestID, what)
		assert.Equal(t, session, ev.Session, what)
		eventually(t, "it is replaced", func() bool { return serving(p) && p.Workers()[0].ID != e.Context.Worker })
		pidNow(t, p) // it is of use
	}
	for _, how := range []string{"dead", "retire"} {
		innocent := inBackground(2, func(i int) (Result, error) {
			return p.ExecuteInSession(t.Context(), "innocent", "beside", args{"how": []string{"bad", "good"}[i], "wait": "go"})
		})
		eventually(t, "they run", func() bool {
			return at.has("begun go") && p.Workers()[0].State == "shared" && len(p.Workers()[0].Running) == 2
		})
		_, err := p.ExecuteInSession(t.Context(), "guilty", "beside", args{"how": how})
		at.put("go")
		bad := innocent()[0].err
		require.ErrorIs(t, bad, ErrPython)
		require.NotContains(t, bad.Error(), "replaced")
		named(how+" beside others", err, "guilty")
		at.take("go")
		at.take("begun go")

		if how == "retire" {
			break
		}
		var last error
		hows := []string{"1", "2", how, "4"}
		for _, err := range Map[string](t.Context(), p, "call", slices.Values(hows)) {
			if err != nil {
				last = err
			}
		}
		named(how+" in a Map", last, "")

		for name, fail := range kindsOfCalls(t, p) {
			if name != "a batch" && name != "a call beside others" {
				named(how+" in "+name, fail(how), "")
			}
		}
	}
	out := inBackground(4, func(i int) (Result, error) {
		return p.ExecuteAnonymous(t.Context(), "batch", args{"how": []string{"dead", "1", "2", "3"}[i]})
	})()
	require.ErrorContains(t, out[0].err, "; its worker is replaced: ")
	n++
	ev := toldOf(t, events, EventWorkerRetired, n)[n-1]
	assert.Equal(t, "batch", ev.Command)
	assert.Zero(t, ev.RequestID, "it is none of them alone")
}
