package pypool

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCircuitsAreDescribed(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{
		Name: "described", Script: script(t, `
import os
from pypool import command

@command
def leave(secret: str):
    os.write(1, secret.encode() + b"\n")
    os._exit(3)

@command
def noise(secret: str):
    for fd in range(3, 1024):
        try:
            os.write(fd, secret.encode() + b"\n")
        except OSError:
            pass
`), Python: realPython(), Size: 1, Overflow: -1, Breaker: Breaker{Failures: 2, OpenFor: time.Hour},
	})
	require.Equal(t, "described", p.Name())
	require.Equal(t, []CircuitInfo{{State: "closed"}}, p.Circuits())
	for _, command := range []string{"leave", "noise"} {
		for range 2 {
			_, err := p.ExecuteAnonymous(t.Context(), command, args{"secret": "hunter2"})
			require.Error(t, err)
			eventually(t, "a worker is back", func() bool { return serving(p) })
		}
	}
	circuits := p.Circuits()
	require.Len(t, circuits, 3)
	require.Equal(t, "leave", circuits[1].Command)
	require.Equal(t, "open", circuits[1].State)
	require.Contains(t, circuits[1].Cause, "exited with code 3")
	require.WithinDuration(t, time.Now().Add(time.Hour), circuits[1].RetryAt, time.Minute)
	require.Equal(t, "noise", circuits[2].Command)
	for _, c := range circuits {
		require.NotContains(t, c.Cause, "hunter2")
		require.NotContains(t, c.Cause, "\n")
	}
	require.NoError(t, p.Close())
	require.Empty(t, (*Pool)(nil).Circuits())
	require.Empty(t, (*Pool)(nil).Name())
}

func TestThePoolsOwnCircuitTellsItsCause(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{
		Script: script(t, "raise OSError('no model')\n"), Python: realPython(), Size: 1, Overflow: -1, MinReady: -1, MaxRestarts: 2,
		RestartBackoff: Backoff{Min: time.Millisecond, Max: time.Hour}, Logger: quiet(),
	})
	eventually(t, "the circuit is open", func() bool { return p.Circuits()[0].State == "open" })
	require.Contains(t, p.Circuits()[0].Cause, "at import: OSError: no model")
}
