//go:build linux

package pypool

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Group Q: what a worker does to the memory that payloads lie in costs it, and nobody else.

// memoryPool is a pool of one worker, which has memory for payloads.
func (r *rig) memoryPool(t *testing.T, change func(*Config)) *Pool {
	t.Helper()
	if pipeOnly.Load() {
		t.Skip("payloads are to take the pipe alone")
	}
	cfg := r.config(t)
	cfg.Script, cfg.Size, cfg.MaxMessageBytes = workerScript(t, "memory.py"), 1, 4<<20
	if change != nil {
		change(&cfg)
	}
	return r.own(t, cfg)
}

// travels has so many payloads go both ways, and compares each byte.
func travels(t *testing.T, p *Pool, n int) {
	t.Helper()
	for range n {
		want := pattern(20_000 + rand.IntN(300_000))
		got, err := Call[Array](context.Background(), p, "array", []any{ArrayOf(want)})
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got.Data))
	}
}

var memoryFaults = []fault{
	saysWrong("Q1_a_payload_in_memory_where_there_is_none", "{\"raw\":[[0,0,5]]}\n\n{\"id\":%,\"success\":true,\"result\":null,\"blobs\":[{\"at\":0}]}\n", "a payload in memory, and there is none"),
	{name: "Q2_places_that_are_none", run: func(t *testing.T, r *rig) {
		p := r.memoryPool(t, nil)
		for _, c := range []struct{ head, reason string }{
			{"[192,0,5]", "in slot 192"}, {"[0,4194305,0]", "at 4194305"}, {"[0,4194304,1]", "1 bytes at 4194304"}, {"[0,1,4194304]", "4194304 bytes at 1"},
			{"[0,2147483647,2147483647]", "more than"}, {"[0,99999999999999999999,1]", "malformed"}, {"[0,2147483648,1]", "malformed"}, {"[2147483648,0,1]", "malformed"},
			{"[-1,0,5]", "malformed"}, {"[0,-1,5]", "malformed"}, {"[0,0,-5]", "malformed"}, {"[0,0]", "malformed"}, {"[0,0,5,6]", "malformed"}, {"[0,0,5", "malformed"},
			{"[0,0,5.5]", "malformed"}, {"[]", "malformed"}, {"[[0,0,5]]", "malformed"}, {"[0,0,5],[0,4096,5]", "share their memory"}, {"[0,0,5],[1,4,5]", "share their memory"},
			{"[1,4096,5],5,[2,0,4097]", "share their memory"}, {"[0,0,3000000],[1,3000000,3000000]", "more than"}, {"[0,0,5],[1,4096,5]", "2 payloads came"},
		} {
			_, err := p.ExecuteAnonymous(context.Background(), "says", []any{"{\"raw\":[" + c.head + "]}\n\n{\"id\":%,\"success\":true,\"result\":null,\"blobs\":[{\"at\":0}]}\n"})
			failsWith(t, err, ErrProtocol, MaybeExecuted)
			require.Contains(t, detail[*ProtocolError](t, err).Reason, c.reason, c.head)
			travels(t, p, 1)
		}
	}},
	{name: "Q2b_a_place_that_is_none_behind_one_that_is_in_a_Map", run: func(t *testing.T, r *rig) {
		p := r.memoryPool(t, nil)
		for _, next := range []string{"[0,0,[2,0,1]]", "[0,0,5]"} { // a broken stream is not read on, where the first line's places would be those of the second
			says := "{\"raw\":[[0,0,1],[1,2147483647,1]]}\n{\"raw\":" + next + "}\n"
			n := 0
			for _, err := range Map[any](t.Context(), p, "says", slices.Values([][]any{{says}})) {
				n++
				failsWith(t, err, ErrProtocol, MaybeExecuted)
				require.Contains(t, detail[*ProtocolError](t, err).Reason, "1 bytes at 2147483647")
			}
			require.Equal(t, 1, n)
			travels(t, p, 1)
		}
	}},
	{name: "Q3_memory_that_a_handler_overwrites_or_gives_back", run: func(t *testing.T, r *rig) {
		p := r.memoryPool(t, nil)
		for range 5 {
			for _, how := range []string{"words", "bytes", "holes", "all words", "forgotten"} {
				executed(t, p, "spoil", []any{how})
				travels(t, p, 3)
				require.Equal(t, 1, decoded[int](t, executed(t, p, "keep", []any{ArrayOf(pattern(50_000))})))
				executed(t, p, "spoil", []any{how}) // what is kept may be the handler's own nonsense now
				executed(t, p, "drop", nil)
				travels(t, p, 3)
			}
		}
		require.Equal(t, int64(1), p.Stats().WorkersStarted)
	}},
	{name: "Q4_memory_that_a_handler_unmaps", run: func(t *testing.T, r *rig) {
		p := r.memoryPool(t, nil)
		executed(t, p, "spoil", []any{"unmapped"})
		_, err := p.ExecuteAnonymous(context.Background(), "array", []any{ArrayOf(pattern(50_000))})
		failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		require.Equal(t, syscall.SIGSEGV, detail[*ExitError](t, err).Signal)
		travels(t, p, 3)
	}},
	{name: "Q5_workers_that_are_killed_with_payloads_on_their_way", run: func(t *testing.T, r *rig) {
		p := r.memoryPool(t, nil)
		survivesKills(t, p, 5, 25, 1<<20, 1500*time.Microsecond, "array")
	}},
	{name: "Q6_callers_that_leave_while_their_payloads_are_in_use", run: func(t *testing.T, r *rig) {
		p := r.memoryPool(t, func(c *Config) { c.CancelGrace = 10 * time.Second })
		random := rand.New(rand.NewPCG(6, 6))
		for range 100 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(3000))*time.Microsecond)
			mine := pattern(50_000 + random.IntN(300_000))
			_, _ = Call[Array](ctx, p, "slowly", []any{ArrayOf(mine), 0.001})
			cancel()
			clear(mine) // it is the caller's again
			travels(t, p, 1)
		}
		require.Equal(t, int64(1), p.Stats().WorkersStarted, "each handler was stopped, and its worker kept")
	}},
	{name: "Q7_a_Reload_while_payloads_are_in_use", run: func(t *testing.T, r *rig) {
		p := r.memoryPool(t, func(c *Config) { c.Size = 2 })
		want := pattern(300_000)
		wait := inBackground(4, func(int) (Array, error) {
			return Call[Array](context.Background(), p, "slowly", []any{ArrayOf(want), 0.05})
		})
		for range 3 {
			require.NoError(t, p.Reload(t.Context()))
		}
		for _, out := range wait() {
			require.NoError(t, out.err)
			require.True(t, bytes.Equal(want, out.res.Data))
		}
	}},
	{name: "Q8_memory_that_is_full_of_what_handlers_keep", run: func(t *testing.T, r *rig) {
		p := r.memoryPool(t, nil)
		want := pattern(900_000)
		for i := range 8 { // four find room, the others take the pipe
			require.Equal(t, i+1, decoded[int](t, executed(t, p, "keep", []any{ArrayOf(want)})))
		}
		travels(t, p, 5)
		require.True(t, decoded[bool](t, executed(t, p, "drop", nil)), "what was kept is as it was")
		for i := range 250 { // more than there are slots
			require.Equal(t, i+1, decoded[int](t, executed(t, p, "keep", []any{ArrayOf(want[:17_000])})))
		}
		travels(t, p, 5)
		require.True(t, decoded[bool](t, executed(t, p, "drop", nil)))
		_, err := p.ExecuteAnonymous(context.Background(), "array", []any{ArrayOf(make([]byte, 5<<20))})
		failsWith(t, err, ErrMessageTooLarge, NotExecuted)
		travels(t, p, 5)
	}},
	{name: "Q9_a_forked_child_that_gives_payloads", run: func(t *testing.T, r *rig) {
		p := r.memoryPool(t, nil)
		for range 3 {
			number := 0
			for item, err := range Each[[]byte](context.Background(), p, "fork_and_return", []any{ArrayOf(pattern(50_000)), ""}) {
				require.NoError(t, err)
				require.Equal(t, bytes.Repeat([]byte{byte(number), 0}, 40_000), item, "they are the parent's")
				number++
			}
			require.Equal(t, 40, number)
		}
	}},
	{name: "Q10_no_address_space_for_it", run: func(t *testing.T, r *rig) {
		python := filepath.Join(t.TempDir(), "python")
		text := "#!/bin/sh\nulimit -v 1500000\nexec " + realPython() + " \"$@\"\n"
		require.NoError(t, os.WriteFile(python, []byte(text), 0o700))
		p := r.memoryPool(t, func(c *Config) { c.Python, c.MaxMessageBytes = python, 1<<30 })
		require.Equal(t, -1, lent(t, p), "payloads take the pipe")
		travels(t, p, 3)
	}},
	{name: "Q10b_a_script_that_limits_its_address_space", run: func(t *testing.T, r *rig) {
		p := r.memoryPool(t, func(c *Config) {
			c.MaxMessageBytes = 64 << 20
			c.Script = script(t, `
import resource
from pypool import command
@command
def limit(more):
    with open("/proc/self/statm") as f: now = int(f.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, -1))
@command
def array(a): return a
@command
def make(n): return b"x" * n
`)
		})
		executed(t, p, "limit", []any{40 << 20})
		worker := p.Workers()[0].ID
		for range 3 {
			travels(t, p, 2)
			_, err := Call[[]byte](context.Background(), p, "array", []any{make([]byte, 60<<20)})
			failsWith(t, err, ErrInvalidArguments, NotExecuted)
			require.ErrorContains(t, err, "MemoryError")
			_, err = Call[[]byte](context.Background(), p, "make", []any{60 << 20})
			failsWith(t, err, ErrPython, Executed)
			require.ErrorContains(t, err, "MemoryError")
		}
		travels(t, p, 2)
		require.Equal(t, worker, p.Workers()[0].ID, "that costs no worker")
	}},
	{name: "Q18_64_callers_on_16_workers", run: func(t *testing.T, r *rig) {
		p := r.memoryPool(t, func(c *Config) { c.Size, c.Overflow = 16, -1 })
		allWell(t, inBackground(64, func(i int) (Result, error) {
			random := rand.New(rand.NewPCG(uint64(i), 18))
			for range 8 {
				want := pattern(1000 + random.IntN(1<<(10+random.IntN(9))))
				got, err := Call[Array](context.Background(), p, "array", []any{ArrayOf(want)})
				if err != nil {
					return Result{}, err
				}
				if !bytes.Equal(want, got.Data) {
					return Result{}, errors.New("bytes of another call's")
				}
			}
			return Result{}, nil
		})())
	}},
}

// survivesKills has commands return large arrays, in turns, while each of so many workers is killed,
// within a random time. What arrives is whole.
func survivesKills(t *testing.T, p *Pool, seed uint64, workers, most int, within time.Duration, commands ...string) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, seed))
	for range workers {
		want := pattern(100_000 + random.IntN(most))
		pid, wait := pids(p)[0], time.Duration(random.Int64N(within.Microseconds()))*time.Microsecond
		killed := inBackground(1, func(int) (Result, error) {
			time.Sleep(wait)
			return Result{}, syscall.Kill(pid, syscall.SIGKILL)
		})
		for i := range 3 {
			got, err := Call[Array](context.Background(), p, commands[i%len(commands)], []any{ArrayOf(want)})
			if err == nil {
				require.True(t, bytes.Equal(want, got.Data))
			} else {
				require.ErrorIs(t, err, ErrWorkerExited)
			}
		}
		allWell(t, killed())
		eventually(t, "it is replaced", func() bool { return serving(p) && !slices.Contains(pids(p), pid) })
	}
}
