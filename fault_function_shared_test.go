//go:build linux

package pypool

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (r *rig) sharedFunctions(t *testing.T, functions Functions) Config {
	t.Helper()
	cfg := r.functionsConfig(t, 1, functions)
	cfg.Script = workerScript(t, "concurrent_host.py")
	return cfg
}

// Group K goes on: functions that concurrent commands call.
var sharedFunctionFaults = []fault{
	{name: "K14_a_shared_worker_is_killed_inside_functions", run: func(t *testing.T, r *rig) {
		began, ended := make(chan struct{}, 8), make(chan struct{}, 8)
		p := r.own(t, r.sharedFunctions(t, Functions{"block": Func(func(ctx context.Context, _ struct{}) (int, error) {
			began <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
			return 0, ctx.Err()
		})}))
		pid := pids(p)[0]
		wait := inBackground(8, func(int) (Result, error) {
			return p.ExecuteAnonymous(context.Background(), "call", args{"name": "block"})
		})
		for range 8 {
			<-began
		}
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		allSeatsFail(t, wait(), ErrWorkerExited, MaybeExecuted)
		for range 8 {
			<-ended
		}
	}},
	{name: "K15_forged_calls_on_a_shared_worker", run: func(t *testing.T, r *rig) {
		for _, line := range []string{`{"id":1,"host":9,"function":"echo"}`, `{"id":0,"host":9,"function":"echo"}`, `{"id":%d,"host":9,"function":7}`, `{"id":%d,"host":0,"function":"echo"}`} {
			p := r.own(t, r.sharedFunctions(t, Functions{"echo": echoFunction()}))
			_ = executed(t, p, "pid", nil)
			pid := pids(p)[0]
			_, err := p.ExecuteAnonymous(context.Background(), "forge", args{"lines": []string{line}})
			require.ErrorIs(t, err, ErrProtocol, line)
			gone(t, pid)
		}
		p := r.own(t, r.sharedFunctions(t, Functions{"echo": echoFunction()}))
		_, err := p.ExecuteAnonymous(context.Background(), "forge", args{"lines": []string{`{"id":%d,"host":9,"function":"echo"}`, `{"id":%d,"host":9,"function":"nobody's"}`}})
		require.NoError(t, err, "whose answers nobody waits for")
		require.Equal(t, 5.0, askHost(t, p, "echo", nil, 5).Result)
		require.Zero(t, p.Stats().WorkersExited)
	}},
	{name: "K15b_forged_calls_where_the_pool_has_no_functions", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.sharedFunctions(t, nil))
		_, err := p.ExecuteAnonymous(context.Background(), "forge", args{"lines": []string{`{"id":%d,"host":9,"function":"echo"}`}})
		require.ErrorIs(t, err, ErrProtocol)
	}},
	{name: "K16_a_loop_that_does_not_read_its_replies_does_not_fill_the_host", run: func(t *testing.T, r *rig) {
		cfg := r.sharedFunctions(t, Functions{"big": Func(func(context.Context, any) (string, error) { return strings.Repeat("x", 200<<10), nil })})
		cfg.MaxQueueBytes, cfg.MaxMessageBytes = 1<<20, 1<<20
		p := r.own(t, cfg)
		lines := make([]string, 400) // 80 MB of answers to one that writes, and does not read
		for i := range lines {
			lines[i] = `{"id":%d,"host":7,"function":"big"}`
		}
		_, err := p.ExecuteAnonymous(context.Background(), "forge", args{"lines": lines})
		if err != nil { // it was faster than the functions otherwise
			require.ErrorIs(t, err, ErrProtocol)
			require.Contains(t, err.Error(), "that it does not read")
		}
	}},
	{name: "K16b_nor_does_an_item_of_a_Map_behind_an_answer", run: func(t *testing.T, r *rig) {
		cfg := r.functionsConfig(t, 1, Functions{"echo": echoFunction()})
		cfg.Script = script(t, `
import os
from pypool import _channel, command, current_call
@command
def flood(times: int) -> int:
    block = b'{"id":%d,"host":1,"function":"nobodys"}\n' % current_call().id * 1500
    for _ in range(times):
        data = block
        while data:
            data = data[os.write(_channel.OURS.channel.fd_out, data):]
    return times
`)
		cfg.MaxQueueBytes, cfg.MaxMessageBytes = 1<<20, 1<<20
		p := r.own(t, cfg)
		var last error
		n := 0
		for _, err := range Map[int](context.Background(), p, "flood", slices.Values([]int{0, 0, 0, 0, 1 << 30}), WithTimeout(20*time.Second)) {
			n, last = n+1, err
		}
		require.Equal(t, 5, n)
		require.ErrorIs(t, last, ErrProtocol)
		require.Contains(t, last.Error(), "that it does not read")
	}},
	{name: "K17_a_function_that_never_returns_holds_up_neither_a_concurrent_call_nor_Close", run: func(t *testing.T, r *rig) {
		gate := make(chan struct{})
		defer close(gate)
		p := r.own(t, r.sharedFunctions(t, Functions{"echo": echoFunction(), "block": Func(func(context.Context, struct{}) (int, error) {
			<-gate
			return 0, nil
		})}))
		pid := pids(p)[0]
		_, err := p.ExecuteAnonymous(context.Background(), "call", args{"name": "block"}, WithTimeout(50*time.Millisecond))
		failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
		require.Equal(t, 5.0, askHost(t, p, "echo", nil, 5).Result)
		require.Equal(t, pid, pids(p)[0], "the task was stopped, and its worker kept")
		wait := inBackground(2, func(int) (Result, error) {
			return p.ExecuteAnonymous(context.Background(), "call", args{"name": "block"})
		})
		eventually(t, "both run", func() bool { return p.Stats().InFlight == 2 })
		require.NoError(t, p.Close())
		for _, out := range wait() {
			failure(t, out.err, ErrPoolClosed)
		}
	}},
	{name: "K18_leaving_at_random_moments_of_a_concurrent_commands_functions", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.sharedFunctions(t, Functions{"echo": echoFunction()}))
		wait := inBackground(8, func(k int) (Result, error) {
			for i := range 60 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+(i*7+k)%40)*100*time.Microsecond)
				_, err := p.ExecuteAnonymous(ctx, []string{"many", "threads"}[(i+k)%2], args{"n": 20})
				cancel()
				if err != nil && failureOf(err).Category != CategoryTimeout {
					return Result{}, err
				}
			}
			return Result{}, nil
		})
		allWell(t, wait())
		for range 20 {
			require.Len(t, decoded[[]int](t, executed(t, p, "many", args{"n": 20})), 40)
		}
		require.Zero(t, p.Stats().WorkersExited, "no worker was lost")
	}},
}
