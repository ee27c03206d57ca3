package pypool

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/spin"
)

// The runtime says how long it worked, so that a slow wake-up, or a busy machine, does not make a
// command look slow.
func TestSpinLearnsFromTheRuntime(t *testing.T) {
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
		took, ok := p.spin.Learned()[command]
		require.True(t, ok)
		return took
	}
	// The runtime says it a moment after the answer: on a busy machine the next call may be there
	// before.
	eventually(t, "the brief command's time is known", func() bool { return learned("brief") > 0 })
	eventually(t, "the long command is known as such", func() bool { return learned("long") > spin.Brief })
	proc := p.sup.workers()[0].proc
	eventually(t, "the runtime has said how long it took", func() bool { return proc.ServiceTime() >= 20*time.Millisecond })
	assert.Less(t, proc.ServiceTime(), 10*time.Second)
}
