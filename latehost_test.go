//go:build linux

package pypool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const lateHostScript = `
import asyncio
from typing import List
from pypool import command, host

def wait(gate, mark):
    with open(mark, "a") as out:
        out.write("begun\n")
    open(gate).read()
    return "in time"

@command
def after(): return None
@command
def plain(gate: str, mark: str): return wait(gate, mark)
@command
def items(gate: str, mark: str): yield wait(gate, mark)
@command(max_batch_size=4)
def batch(gate: List[str], mark: List[str]): return [wait(gate[0], mark[0]) for _ in gate]
@command(concurrency=4)
async def shared(gate: str, mark: str): return await asyncio.to_thread(wait, gate, mark)
@command(concurrency=4)
async def leaves(gate: str, mark: str):
    try:
        await host.aio.leave()
        await asyncio.sleep(60)
    finally:
        await asyncio.to_thread(wait, gate, mark)
@command(concurrency=4)
async def shared_items(gate: str, mark: str): yield await asyncio.to_thread(wait, gate, mark)
`

const lateHostTimeout = time.Second

// A host that stands still past a deadline (SIGSTOP here, else a busy or a suspended machine) gets
// what the worker has answered in time.
func TestAnAnswerThatCameInTimeCountsWhenTheHostIsLate(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"plain", "plain, its context's", "items", "batch", "batch, its context's", "shared", "shared, its context's", "shared_items", "Map"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, "in time <nil>\n", outputOfALateHost(t, kind))
		})
	}
}

// Likewise a call that has stopped within its grace has not cost the worker.
func TestACallThatStoppedInTimeCostsNoWorkerWhenTheHostIsLate(t *testing.T) {
	t.Parallel()
	require.Equal(t, "canceled, 1 worker started\n", outputOfALateHost(t, "leaves"))
}

// outputOfALateHost lets a handler go on while its host stands still, until the handler's deadline
// is over.
func outputOfALateHost(t *testing.T, kind string) string {
	gate, begun := newLatch(t), newNotes(t)
	cmd := helperCommand(t, "late host", "PYPOOL_LATE_KIND="+kind, "PYPOOL_LATE_GATE="+gate.path, "PYPOOL_LATE_MARK="+begun.path, "PYPOOL_LATE_SCRIPT="+script(t, lateHostScript))
	cmd.Stderr = os.Stderr
	line, out := startHelper(t, cmd)
	require.Equal(t, "ready\n", line)
	begun.await("begun")
	stop(t, cmd.Process.Pid)
	gate.release(t)
	time.Sleep(lateHostTimeout + 200*time.Millisecond) // what the host's clock goes on by
	require.NoError(t, syscall.Kill(cmd.Process.Pid, syscall.SIGCONT))
	said, err := io.ReadAll(out)
	require.NoError(t, err)
	require.NoError(t, cmd.Wait())
	return string(said)
}

func init() {
	helpers["late host"] = func() {
		cfg := hostConfig()
		cfg.Script, cfg.Size = os.Getenv("PYPOOL_LATE_SCRIPT"), 1
		cfg.CancelGrace = lateHostTimeout
		ctx, limit := context.Background(), WithTimeout(lateHostTimeout)
		left, leave := context.WithCancel(ctx)
		cfg.Functions = Functions{"leave": Func(func(context.Context, struct{}) (any, error) { leave(); return nil, nil })}
		p, err := New(ctx, cfg)
		must(err)
		fmt.Println("ready")
		in := args{"gate": os.Getenv("PYPOOL_LATE_GATE"), "mark": os.Getenv("PYPOOL_LATE_MARK")}
		command, its := strings.CutSuffix(os.Getenv("PYPOOL_LATE_KIND"), ", its context's")
		if its {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, lateHostTimeout)
			defer cancel()
			limit = WithTimeout(0)
		}
		var got string
		switch command {
		case "leaves":
			_, err = p.ExecuteAnonymous(left, command, in, WithTimeout(0))
			if !errors.Is(err, ErrCanceled) {
				must(err)
			}
			_, err = p.ExecuteAnonymous(ctx, "after", nil)
			must(err)
			fmt.Printf("canceled, %d worker started\n", p.Stats().WorkersStarted)
			must(p.Close())
			return
		case "Map":
			for got, err = range Map[string](ctx, p, "plain", slices.Values([]args{in}), limit) {
				break
			}
		case "items", "shared_items":
			for got, err = range Each[string](ctx, p, command, in, limit) {
				break
			}
		default:
			got, err = Call[string](ctx, p, command, in, limit)
		}
		fmt.Println(got, err)
		must(p.Close())
	}
}
