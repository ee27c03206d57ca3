//go:build linux

package pypool

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (r *rig) functionsConfig(t testing.TB, size int, functions Functions) Config {
	t.Helper()
	cfg := r.config(t)
	cfg.Script, cfg.Size, cfg.Functions = workerScript(t, "host.py"), size, functions
	cfg.CancelGrace = 20 * time.Second
	return cfg
}

// forge has a handler write lines into its own answers. %d is its call's id.
func forge(t *testing.T, r *rig, want error, lines ...string) {
	t.Helper()
	p := r.own(t, r.functionsConfig(t, 1, Functions{"echo": echoFunction()}))
	pid := pids(p)[0]
	_, err := p.ExecuteAnonymous(context.Background(), "forge", args{"lines": lines})
	if want == nil {
		require.NoError(t, err)
		require.Equal(t, pid, pids(p)[0], "the worker was kept")
		return
	}
	require.ErrorIs(t, err, want)
	gone(t, pid)
}

var functionFaults = []fault{
	{name: "K1_a_worker_killed_inside_a_function_ends_that_functions_context", run: func(t *testing.T, r *rig) {
		began, ended := make(chan struct{}), make(chan struct{})
		p := r.own(t, r.functionsConfig(t, 1, Functions{"block": Func(func(ctx context.Context, _ struct{}) (int, error) {
			close(began)
			<-ctx.Done()
			close(ended)
			return 0, ctx.Err()
		})}))
		pid := pids(p)[0]
		done := make(chan error, 1)
		go func() {
			_, err := p.ExecuteAnonymous(context.Background(), "unhandled", args{"name": "block"})
			done <- err
		}()
		<-began
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		failsWith(t, <-done, ErrWorkerExited, MaybeExecuted)
		<-ended
	}},
	{name: "K2_panics_and_Goexit_of_functions_are_Pythons", run: func(t *testing.T, r *rig) {
		var turn atomic.Int64
		p := r.own(t, r.functionsConfig(t, 2, Functions{"bad": Func(func(context.Context, struct{}) (int, error) {
			switch turn.Add(1) % 3 {
			case 0:
				panic(fmt.Errorf("a value"))
			case 1:
				runtime.Goexit()
			}
			panic(nil)
		})}))
		wait := inBackground(30, func(int) (Result, error) {
			return p.ExecuteAnonymous(context.Background(), "call", args{"name": "bad"})
		})
		for _, out := range wait() {
			require.NoError(t, out.err)
			require.Contains(t, []string{hostPanic, hostGoexit}, decoded[hostAnswer](t, out.res).Type)
		}
		require.Zero(t, p.Stats().WorkersExited)
	}},
	{name: "K3_a_function_that_never_returns_holds_up_neither_its_call_nor_Close", run: func(t *testing.T, r *rig) {
		gate := make(chan struct{})
		defer close(gate)
		p := r.own(t, r.functionsConfig(t, 1, Functions{"block": Func(func(context.Context, struct{}) (int, error) {
			<-gate
			return 0, nil
		})}))
		pid := pids(p)[0]
		_, err := p.ExecuteAnonymous(context.Background(), "unhandled", args{"name": "block"}, WithTimeout(50*time.Millisecond))
		failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
		require.Equal(t, 3, decoded[int](t, executed(t, p, "add", args{"a": 2})))
		require.Equal(t, pid, pids(p)[0], "the handler was stopped, and its worker kept")
		require.NoError(t, p.Close())
	}},
	{name: "K3b_Close_inside_a_function", run: func(t *testing.T, r *rig) {
		var p *Pool
		p = r.own(t, r.functionsConfig(t, 1, Functions{"close": Func(func(context.Context, struct{}) (int, error) {
			return 0, p.Close()
		})}))
		_, err := p.ExecuteAnonymous(context.Background(), "unhandled", args{"name": "close"})
		failsWith(t, err, ErrPoolClosed, MaybeExecuted)
	}},
	{name: "K4_results_beyond_what_the_pipe_holds_arrive_while_the_worker_writes_too", run: func(t *testing.T, r *rig) {
		cfg := r.functionsConfig(t, 1, Functions{"big": Func(func(_ context.Context, in struct {
			Size int `json:"size"`
		}) (string, error) {
			return strings.Repeat("x", in.Size), nil
		})})
		cfg.MaxMessageBytes = 16 << 20
		p := r.own(t, cfg)
		n, err := Call[int](context.Background(), p, "big_threads", args{"count": 4, "size": 3 << 20})
		require.NoError(t, err)
		require.Equal(t, 12<<20, n)
		for i := range 3 { // nobody takes these
			_, err = p.ExecuteAnonymous(context.Background(), "leave_big", args{"size": 3 << 20})
			require.NoError(t, err)
			require.Equal(t, i+1, decoded[int](t, executed(t, p, "add", args{"a": i})))
		}
		require.Zero(t, p.Stats().WorkersExited)
	}},
	{name: "K5_an_unknown_function_is_an_error_of_Pythons", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.functionsConfig(t, 1, Functions{"lookup": echoFunction()}))
		got := decoded[hostAnswer](t, executed(t, p, "call", args{"name": "lokup"}))
		require.Equal(t, hostUnknown, got.Type)
		require.Contains(t, got.Message, "'lookup'")
		p = r.own(t, r.functionsConfig(t, 1, nil))
		got = decoded[hostAnswer](t, executed(t, p, "call", args{"name": "lokup"}))
		require.Contains(t, got.Message, "it has none (Config.Functions)")
	}},
	{name: "K6_a_forged_call_of_another_request", run: func(t *testing.T, r *rig) {
		forge(t, r, ErrProtocol, `{"id":1,"host":9,"function":"echo"}`)
	}},
	{name: "K6b_a_forged_call_that_is_none", run: func(t *testing.T, r *rig) {
		forge(t, r, ErrProtocol, `{"id":%d,"host":9,"function":7}`)
	}},
	{name: "K6c_forged_calls_whose_answers_nobody_waits_for", run: func(t *testing.T, r *rig) {
		lines := make([]string, 3000)
		for i := range lines {
			lines[i] = fmt.Sprintf(`{"id":%%d,"host":%d,"function":"%s","args":[%d]}`, 1+i%7, []string{"echo", "nobody's"}[i%2], i)
		}
		forge(t, r, nil, lines...)
	}},
	{name: "K6d_a_forged_call_behind_the_answer", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.functionsConfig(t, 1, Functions{"echo": echoFunction()}))
		pid := pids(p)[0]
		_ = executed(t, p, "forge", args{"lines": []string{`{"id":%d,"success":true,"result":1}`, `{"id":%d,"host":9,"function":"echo"}`}, "stay": true})
		_, err := p.ExecuteAnonymous(context.Background(), "add", args{"a": 2})
		if err != nil { // it came a moment after the answer: row C9
			failsWith(t, err, ErrProtocol, MaybeExecuted)
		}
		gone(t, pid)
	}},
	{name: "K7_threads_that_call_when_their_call_is_over", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.functionsConfig(t, 1, Functions{"echo": echoFunction()}))
		for i := range 200 { // at every moment of the end of a call, and of the next one's beginning
			require.Equal(t, "null", string(executed(t, p, "leave_calling", args{"threads": 2, "n": 20}).Raw()))
			require.Equal(t, i+1, decoded[int](t, executed(t, p, "add", args{"a": i})))
		}
		require.Empty(t, decoded[[]string](t, executed(t, p, "unexpected", nil)))
		require.Zero(t, p.Stats().WorkersExited)
	}},
	{name: "K8_pools_nested_in_each_other_do_not_deadlock", run: func(t *testing.T, r *rig) {
		var a, b *Pool
		type levels struct {
			Depth int `json:"depth"`
		}
		ask := func(p **Pool) Function {
			return Func(func(ctx context.Context, in levels) (any, error) {
				return Call[any](ctx, *p, "dive", args{"depth": in.Depth})
			})
		}
		cfg := r.functionsConfig(t, 2, nil)
		cfg.CheckoutTimeout = -1
		cfg.Functions = Functions{"dive": ask(&b)}
		a = newPool(t, cfg)
		cfg.Functions = Functions{"dive": ask(&a)}
		b = newPool(t, cfg)
		r.pool, r.shared = a, false
		wait := inBackground(8, func(i int) (Result, error) {
			return a.ExecuteAnonymous(context.Background(), "dive", args{"depth": 2 + i%6}, WithTimeout(20*time.Second))
		})
		for _, out := range wait() {
			if out.err != nil {
				require.Equal(t, "HostError", detail[*PythonError](t, out.err).Type, out.err)
				require.Contains(t, out.err.Error(), "nested_call")
			}
		}
	}},
	{name: "K9_the_deadline_passes_in_a_function", run: func(t *testing.T, r *rig) {
		var late atomic.Int64
		p := r.own(t, r.functionsConfig(t, 2, Functions{"wait": Func(func(ctx context.Context, in struct {
			For int `json:"for"`
		}) (int, error) {
			time.Sleep(time.Duration(in.For) * time.Millisecond)
			if ctx.Err() != nil {
				late.Add(1)
			}
			return in.For, nil
		})}))
		wait := inBackground(40, func(i int) (Result, error) {
			return p.ExecuteAnonymous(context.Background(), "passes", args{"name": "wait", "keyword": args{"for": i % 20}}, WithTimeout(10*time.Millisecond))
		})
		for i, out := range wait() {
			if out.err == nil {
				require.Equal(t, i%20, decoded[int](t, out.res))
			} else {
				require.ErrorIs(t, out.err, ErrOperationTimeout)
			}
		}
		require.Positive(t, late.Load())
		eventually(t, "the workers are idle", func() bool { return p.sup.checkout.idleNow() == 2 })
		require.Zero(t, p.Stats().WorkersExited, "no worker was lost")
	}},
	{name: "K10_a_thousand_calls_from_eight_threads_and_the_handler", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.functionsConfig(t, 2, Functions{"echo": echoFunction()}))
		wait := inBackground(2, func(int) (Result, error) {
			return p.ExecuteAnonymous(context.Background(), "threads", args{"count": 8, "n": 125})
		})
		for _, out := range wait() {
			require.NoError(t, out.err)
			require.Equal(t, 1000, decoded[int](t, out.res))
		}
		require.Zero(t, p.Stats().WorkersExited)
	}},
	{name: "K11_a_Map_whose_items_call_functions_loses_a_worker", run: func(t *testing.T, r *rig) {
		var once sync.Once
		var p *Pool
		cfg := r.functionsConfig(t, 2, Functions{"echo": Func(func(_ context.Context, in []int) ([]int, error) {
			if in[0] == 500 {
				once.Do(func() { killed(pids(p)...) })
			}
			return in, nil
		})})
		p = r.own(t, cfg)
		items := make([]int, 1000)
		for i := range items {
			items[i] = i
		}
		next, failed := 0, 0
		for out, err := range Map[[]int](context.Background(), p, "echo_one", slices.Values(items)) {
			if err != nil {
				failed++
				require.ErrorIs(t, err, ErrWorkerExited)
			} else {
				require.Equal(t, []int{next}, out)
			}
			next++
		}
		require.Equal(t, 1000, next)
		require.LessOrEqual(t, failed, 2, "one item of each worker had begun")
	}},
	{name: "K12_leaving_at_random_moments_of_a_function", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.functionsConfig(t, 2, Functions{"echo": echoFunction()}))
		wait := inBackground(8, func(k int) (Result, error) {
			for i := range 60 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+(i*7+k)%40)*100*time.Microsecond)
				command := []string{"many", "coroutine", "threads", "mixed"}[(i+k)%4]
				in := args{"n": 30}
				if command == "threads" {
					in["count"] = 2
				}
				_, err := p.ExecuteAnonymous(ctx, command, in)
				cancel()
				if err != nil && failureOf(err).Category != CategoryTimeout {
					return Result{}, err
				}
			}
			return Result{}, nil
		})
		for _, out := range wait() {
			require.NoError(t, out.err)
		}
		for range 20 {
			require.Equal(t, 435, decoded[int](t, executed(t, p, "many", args{"n": 30})))
		}
		// One that is struck while it takes a reply apart ends, rather than lose what it has read.
		require.LessOrEqual(t, p.Stats().WorkersExited, int64(3), "hardly a worker was lost")
	}},
	{name: "K13_an_item_of_a_Map_whose_time_is_over_in_a_function", run: func(t *testing.T, r *rig) {
		gate := make(chan struct{})
		defer close(gate)
		p := r.own(t, r.functionsConfig(t, 1, Functions{"echo": Func(func(ctx context.Context, in []int) ([]int, error) {
			if in[0]%10 == 3 {
				<-gate // whatever becomes of ctx
			}
			return in, nil
		})}))
		pid := pids(p)[0]
		items := make([]int, 40)
		for i := range items {
			items[i] = i
		}
		next := 0
		for out, err := range Map[[]int](context.Background(), p, "echo_one", slices.Values(items), WithTimeout(100*time.Millisecond)) {
			if next%10 == 3 {
				require.ErrorIs(t, err, ErrOperationTimeout)
			} else {
				require.NoError(t, err)
				require.Equal(t, []int{next}, out)
			}
			next++
		}
		require.Equal(t, 40, next)
		require.Equal(t, pid, pids(p)[0], "no worker was lost")
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		for _, err := range Map[[]int](ctx, p, "echo_one", slices.Values([]int{1, 2, 3, 4})) {
			if err != nil {
				require.ErrorIs(t, err, ErrOperationTimeout)
			}
		}
		require.Equal(t, 3, decoded[int](t, executed(t, p, "add", args{"a": 2})))
		require.Equal(t, pid, pids(p)[0], "no worker was lost")
	}},
}

func failureOf(err error) *Error {
	e, _ := err.(*Error)
	return e
}
