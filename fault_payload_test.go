//go:build linux

package pypool

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Group Q goes on: payloads of functions of the host's, in what they take and in what they give.

// sized is what a function of these rows is asked for.
type sized struct {
	Size int `json:"size"`
}

// payloadFunctions are those that testdata/workers/payloads.py calls.
func payloadFunctions() Functions {
	give := func(_ context.Context, in sized) ([]byte, error) { return bytes.Repeat([]byte("give"), in.Size/4), nil }
	return Functions{
		"length": Func(func(_ context.Context, in []byte) (int, error) { return len(in), nil }),
		"give":   Func(give),
		"array":  Func(func(_ context.Context, in sized) (Array, error) { return ArrayOf(pattern(in.Size)), nil }),
		"same":   Func(func(_ context.Context, in Array) (Array, error) { return in, nil }),
		"text":   Func(func(_ context.Context, in sized) (string, error) { return strings.Repeat("x", in.Size), nil }),
	}
}

// payloadPool is a pool of one worker, which has memory for payloads.
func (r *rig) payloadPool(t *testing.T, functions Functions, change func(*Config)) *Pool {
	t.Helper()
	return r.memoryPool(t, func(c *Config) {
		c.Script, c.Functions, c.CancelGrace = workerScript(t, "payloads.py"), functions, 20*time.Second
		if change != nil {
			change(c)
		}
	})
}

// memoryOf is how many bytes of its memory the pool's one worker has used.
func memoryOf(t *testing.T, p *Pool) int {
	t.Helper()
	p.sup.mu.Lock()
	defer p.sup.mu.Unlock()
	require.Len(t, p.sup.live, 1)
	for w := range p.sup.live {
		return w.x.memory.Size()
	}
	return 0
}

// givenBack waits until the pool's one worker has no place of its memory, which it is told to keep
// nothing of.
func givenBack(t *testing.T, p *Pool) {
	t.Helper()
	executed(t, p, "drop", nil)
	eventually(t, "all places are given back", func() bool { return lent(t, p) == 0 })
}

var payloadFaults = []fault{
	{name: "Q11_payloads_of_functions_travel_by_memory_both_ways", run: func(t *testing.T, r *rig) {
		p := r.payloadPool(t, payloadFunctions(), nil)
		require.Zero(t, memoryOf(t, p))
		require.Equal(t, 300_000, decoded[int](t, executed(t, p, "sends", []any{300_000})))
		require.GreaterOrEqual(t, memoryOf(t, p), 300_000, "what the function gets lies in the worker's half")
		require.Equal(t, 500_000, decoded[int](t, executed(t, p, "takes", []any{500_000})))
		require.GreaterOrEqual(t, memoryOf(t, p), 800_000, "what it gives lies in the host's")
		givenBack(t, p)
		for i := range 4 {
			require.Equal(t, i+1, decoded[int](t, executed(t, p, "keep", []any{100_000 + i})))
			require.Equal(t, i+1, lent(t, p), "what a handler keeps keeps its place")
		}
		givenBack(t, p)
		for range 8 { // more than there is room for: the rest takes the pipe
			executed(t, p, "keep", []any{900_000})
		}
		givenBack(t, p)
	}},
	{name: "Q12_payloads_of_functions_from_calls_of_every_kind", run: func(t *testing.T, r *rig) {
		p := r.payloadPool(t, payloadFunctions(), nil)
		wait := inBackground(8, func(k int) (int, error) {
			random := rand.New(rand.NewPCG(uint64(k), 12))
			for range 12 {
				want := pattern(1 + random.IntN(1<<(10+random.IntN(9))))
				command := []string{"same", "asame", "tsame", "csame", "bsame"}[random.IntN(5)]
				got, err := Call[Array](context.Background(), p, command, []any{ArrayOf(want)})
				if err != nil {
					return 0, err
				}
				if !bytes.Equal(want, got.Data) {
					t.Errorf("%s: %d bytes came back changed", command, len(want))
				}
				for item, err := range Each[Array](context.Background(), p, []string{"items", "citems"}[random.IntN(2)], []any{ArrayOf(want)}) {
					if err != nil {
						return 0, err
					}
					if !bytes.Equal(want, item.Data) {
						t.Errorf("an item of %d bytes came back changed", len(want))
					}
				}
			}
			return 0, nil
		})
		for _, out := range wait() {
			require.NoError(t, out.err)
		}
		number, sizes := 0, []int{10, 20_000, 500_000, 5000, 100_000, 100_000, 100_000}
		sent := func(yield func([]any) bool) {
			for _, n := range sizes {
				if !yield([]any{ArrayOf(pattern(n))}) {
					return
				}
			}
		}
		for got, err := range Map[Array](context.Background(), p, "same", sent) {
			require.NoError(t, err)
			require.True(t, bytes.Equal(pattern(sizes[number]), got.Data))
			number++
		}
		require.Equal(t, len(sizes), number)
		givenBack(t, p)
		require.Equal(t, int64(1), p.Stats().WorkersStarted)
	}},
	{name: "Q13_replies_that_come_when_their_call_is_over_leave_no_place", run: func(t *testing.T, r *rig) {
		var gate chan struct{}
		functions := payloadFunctions()
		give := functions["give"]
		entered := make(chan struct{}, 64)
		functions["late"] = Func(func(_ context.Context, in sized) ([]byte, error) {
			entered <- struct{}{}
			<-gate
			return make([]byte, in.Size), nil
		})
		functions["give"] = give
		p := r.payloadPool(t, functions, nil)
		for _, command := range []string{"asks", "casks"} {
			gate = make(chan struct{})
			executed(t, p, command, []any{"late", 200_000, 8})
			for range 8 {
				<-entered
			}
			close(gate)
			eventually(t, "the functions have returned", func() bool { return p.sup.env.functions.running.Load() == 0 })
			givenBack(t, p)
			for i := range 20 { // those that cross the call's end on their way
				executed(t, p, command, []any{"give", 100_000, 1 + i%5})
			}
			gate = make(chan struct{})
			close(gate)
			sent := func(yield func([]any) bool) {
				for range 10 {
					if !yield([]any{"give", 100_000, 3}) {
						return
					}
				}
			}
			for _, err := range Map[any](context.Background(), p, command, sent) {
				require.NoError(t, err)
			}
			eventually(t, "the functions have returned", func() bool { return p.sup.env.functions.running.Load() == 0 })
			require.Equal(t, 7, decoded[int](t, executed(t, p, "number", []any{7})), "the worker has read what there was")
			givenBack(t, p)
		}
		require.Equal(t, int64(1), p.Stats().WorkersStarted)
	}},
	{name: "Q14_replies_behind_one_that_the_pipe_does_not_take", run: func(t *testing.T, r *rig) {
		p := r.payloadPool(t, payloadFunctions(), nil)
		plain := func(command string, args ...any) { executed(t, p, command, args) }
		mapped := func(command string, args ...any) {
			for _, err := range Map[any](context.Background(), p, command, slices.Values([][]any{args})) {
				require.NoError(t, err)
			}
		}
		streamed := func(_ string, _ ...any) {
			for item, err := range Each[Array](context.Background(), p, "items", []any{ArrayOf(pattern(1000))}) {
				require.NoError(t, err)
				require.True(t, bytes.Equal(pattern(1000), item.Data))
			}
		}
		shared := func(command string, args ...any) { executed(t, p, "c"+command, args) }
		for _, leave := range []func(string, ...any){plain, mapped, shared} {
			for _, next := range []func(string, ...any){plain, mapped, streamed, shared} {
				leave("leaves", 1_000_000, 3) // a part of the first reply is out, and nothing of the others
				next("number", 1)
				givenBack(t, p)
			}
		}
		require.Equal(t, int64(1), p.Stats().WorkersStarted, "each found the pipe as it should be")
	}},
	{name: "Q15_workers_that_are_killed_while_functions_give", run: func(t *testing.T, r *rig) {
		p := r.payloadPool(t, payloadFunctions(), nil)
		survivesKills(t, p, 15, 12, 1<<19, 3*time.Millisecond, "tsame", "csame")
		givenBack(t, p)
	}},
	{name: "Q16_callers_that_leave_while_functions_give", run: func(t *testing.T, r *rig) {
		p := r.payloadPool(t, payloadFunctions(), nil)
		wait := inBackground(6, func(k int) (Result, error) {
			random := rand.New(rand.NewPCG(uint64(k), 16))
			for range 25 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(8000))*time.Microsecond)
				want := pattern(20_000 + random.IntN(200_000))
				command := []string{"same", "asame", "csame", "tsame"}[random.IntN(4)]
				got, err := Call[Array](ctx, p, command, []any{ArrayOf(want)})
				cancel()
				switch {
				case err == nil && !bytes.Equal(want, got.Data):
					t.Errorf("%s: %d bytes came back changed", command, len(want))
				case err != nil && failureOf(err).Category != CategoryTimeout:
					return Result{}, err
				}
			}
			return Result{}, nil
		})
		allWell(t, wait())
		eventually(t, "the worker is idle", func() bool { return serving(p) })
		require.Equal(t, 7, decoded[int](t, executed(t, p, "number", []any{7})))
		givenBack(t, p)
		// One that is struck while it takes a reply apart ends, rather than lose what it has read.
		require.LessOrEqual(t, p.Stats().WorkersExited, int64(3), "hardly a worker was lost")
	}},
	{name: "Q17_words_that_a_handler_overwrites_while_functions_give", run: func(t *testing.T, r *rig) {
		p := r.payloadPool(t, payloadFunctions(), nil)
		for range 3 {
			_, err := p.ExecuteAnonymous(context.Background(), "scribble", []any{ArrayOf(pattern(50_000))}, WithTimeout(300*time.Millisecond))
			if err != nil { // what became of it is its own affair
				require.NotErrorIs(t, err, ErrInternal)
			}
			eventually(t, "the pool has its worker", func() bool { return serving(p) })
			require.NoError(t, p.Reload(t.Context()))
			got, err := Call[Array](context.Background(), p, "same", []any{ArrayOf(pattern(50_000))})
			require.NoError(t, err)
			require.True(t, bytes.Equal(pattern(50_000), got.Data))
		}
	}},
}
