//go:build linux

package pypool

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A reply that is written in part when the loop over a stream is left does not keep the host from
// reading, for which the worker waits before it reads that reply.
func TestAStreamIsLeftWhileALargeReplyIsUnderWay(t *testing.T) {
	t.Parallel()
	notes := newNotes(t)
	cfg := functionsConfig(t, Functions{"large": Func(func(context.Context, struct{}) (string, error) { return strings.Repeat("x", 4<<20), nil })})
	cfg.StopGrace = 20 * time.Second
	cfg.Script = script(t, `
import asyncio, time
from pypool import command, host

@command
async def tokens(path):
    asking = asyncio.ensure_future(host.aio.large())
    await asyncio.sleep(0)
    time.sleep(0.5)  # the reply is under way, and nobody reads
    try:
        for i in range(100):
            yield "x" * 20_000
    finally:
        asking.cancel()
        with open(path, "a") as notes:
            notes.write("cleaned")
`)
	p := newPool(t, cfg)
	begun := time.Now()
	for _, err := range p.Stream(t.Context(), "tokens", []string{notes.path}) {
		require.NoError(t, err)
		time.Sleep(200 * time.Millisecond) // the worker has no room for more items
		break
	}
	within(t, begun, 10*time.Second)
	notes.await("cleaned")
	require.EqualValues(t, 1, p.Stats().WorkersStarted)
}
