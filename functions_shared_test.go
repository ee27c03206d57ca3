//go:build linux

package pypool

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func sharedFunctions(t testing.TB, functions Functions) Config {
	t.Helper()
	cfg := functionsConfig(t, functions)
	cfg.Script, cfg.CheckoutTimeout = workerScript(t, "concurrent_host.py"), 20*time.Second
	return cfg
}

func TestConcurrentCommandsCallFunctions(t *testing.T) {
	t.Parallel()
	p := newPool(t, sharedFunctions(t, Functions{
		"echo":    echoFunction(),
		"missing": Func(func(_ context.Context, in lookupKey) (int, error) { return 0, &notFound{in.ID} }),
		"panics":  Func(func(context.Context, any) (int, error) { panic("no such thing") }),
		"big": Func(func(_ context.Context, in struct {
			Size int `json:"size"`
		}) (string, error) {
			return strings.Repeat("x", in.Size), nil
		}),
		"length":     Func(func(_ context.Context, in string) (int, error) { return len(in), nil }),
		"echo_bytes": Func(func(_ context.Context, in []byte) ([]byte, error) { return bytes.Clone(in), nil }),
	}))
	for name, want := range map[string]hostAnswer{
		"echo":    {Result: map[string]any{"id": "9"}},
		"missing": {Type: "pypool.notFound", Message: "no user 9"},
		"panics":  {Type: "panic", Message: "no such thing"},
		"ecko":    {Type: "unknown_function", Message: "the host has no function 'ecko', did you mean 'echo'?", Attribute: true},
	} {
		assert.Equal(t, want, askHost(t, p, name, args{"id": "9"}), name)
	}
	wait := inBackground(32, func(i int) ([]int, error) { return Call[[]int](t.Context(), p, "many", args{"n": 20 + i}) })
	for i, out := range wait() {
		require.NoError(t, out.err)
		want := make([]int, 20+i)
		for n := range want {
			want[n] = n
		}
		require.Equal(t, append(want, want...), out.res)
	}
	streams := inBackground(8, func(int) (sum int, err error) {
		for i, err := range Each[int](t.Context(), p, "items", args{"n": 50}) {
			if err != nil {
				return sum, err
			}
			sum += i
		}
		return sum, nil
	})
	threads := inBackground(4, func(int) ([][]int, error) { return Call[[][]int](t.Context(), p, "threads", args{"n": 20}) })
	large := inBackground(2, func(int) (int, error) { return Call[int](t.Context(), p, "big", args{"size": 1 << 20}) })
	for _, out := range streams() {
		require.NoError(t, out.err)
		require.Equal(t, 1225, out.res)
	}
	for _, out := range threads() {
		require.NoError(t, out.err)
		require.Len(t, out.res, 3)
		for _, list := range out.res {
			require.Len(t, list, 20)
			for i, n := range list {
				require.Equal(t, i, n)
			}
		}
	}
	for _, out := range large() {
		require.NoError(t, out.err)
		require.Equal(t, 8<<20, out.res)
	}
	for _, size := range []int{0, 1, 4096} {
		same, err := Call[bool](t.Context(), p, "bytes_of", args{"size": size})
		require.NoError(t, err)
		require.True(t, same)
	}
	for how, part := range map[string]string{
		"blocking": "RuntimeError: host.echo() would block the event loop for all calls on this worker: await host.aio.echo()",
		"thread":   "LookupError: nothing tells for which of the calls",
		"callback": "LookupError: nothing tells for which of the calls",
	} {
		said, err := Call[string](t.Context(), p, "refused", args{"how": how})
		require.NoError(t, err, how)
		require.Contains(t, said, part, how)
	}
	require.EqualValues(t, 1, p.Stats().WorkersStarted)
}

func TestAFunctionOfAConcurrentCommandRunsUnderItsCallsContext(t *testing.T) {
	t.Parallel()
	type seen struct {
		info     CallInfo
		trace    any
		deadline time.Duration
	}
	got := make(chan seen, 1)
	cfg := sharedFunctions(t, Functions{"echo": Func(func(ctx context.Context, in any) (any, error) {
		var s seen
		s.info, _ = CallFromContext(ctx)
		s.trace = ctx.Value(hostTrace{})
		if end, limited := ctx.Deadline(); limited {
			s.deadline = time.Until(end)
		}
		got <- s
		return in, nil
	})})
	cfg.Observer = &Observer{CallStart: func(ctx context.Context, c CallInfo) context.Context {
		return context.WithValue(ctx, hostTrace{}, c.RequestID)
	}}
	p := newPool(t, cfg)
	_, err := p.ExecuteInSession(t.Context(), "user-42", "call", args{"name": "echo"}, WithTimeout(time.Hour))
	require.NoError(t, err)
	s := <-got
	assert.Equal(t, "user-42", s.info.Session)
	assert.Equal(t, "call", s.info.Command)
	assert.Equal(t, s.info.RequestID, s.trace)
	assert.InDelta(t, time.Hour, s.deadline, float64(time.Minute))
	for _, err := range Each[int](t.Context(), p, "items", args{"n": 1}, WithTimeout(time.Hour)) {
		require.NoError(t, err)
		s = <-got
		assert.Equal(t, "items", s.info.Command)
		assert.InDelta(t, time.Hour, s.deadline, float64(time.Minute), "that of the item")
	}
}

func TestAFunctionsContextEndsWithItsConcurrentCall(t *testing.T) {
	t.Parallel()
	began, ended, left := make(chan struct{}, 8), make(chan error, 8), make(chan struct{}, 8)
	cfg := sharedFunctions(t, Functions{
		"block": Func(func(ctx context.Context, _ struct{}) (string, error) {
			began <- struct{}{}
			<-ctx.Done()
			ended <- ctx.Err()
			<-left // an answer in the same instant would win
			return "late", nil
		}),
		"echo": echoFunction(),
	})
	cfg.CancelGrace = time.Minute // who is not struck would be waited for
	p := newPool(t, cfg)
	pid := pids(p)[0]
	for name, tc := range map[string]struct {
		how     string
		timeout time.Duration
		left    bool
		want    error
		is      error
	}{
		"canceled":             {"task", 0, true, ErrCanceled, context.Canceled},
		"canceled, shielded":   {"shielded", 0, true, ErrCanceled, context.Canceled},
		"a deadline":           {"task", 100 * time.Millisecond, false, ErrOperationTimeout, context.DeadlineExceeded},
		"canceled in a thread": {"thread", 0, true, ErrCanceled, context.Canceled},
	} {
		path := filepath.Join(t.TempDir(), "note")
		ctx, cancel := context.WithCancel(t.Context())
		if tc.left {
			go func() {
				<-began
				cancel()
			}()
		}
		_, err := p.ExecuteAnonymous(ctx, "stop", args{"path": path, "how": tc.how}, WithTimeout(tc.timeout))
		left <- struct{}{}
		require.ErrorIs(t, err, tc.want, name)
		require.ErrorIs(t, <-ended, tc.is, name)
		if !tc.left {
			<-began
		}
		cancel()
		eventually(t, name+": the handler has ended", func() bool {
			text, _ := os.ReadFile(path)
			return len(text) > 0
		})
		out, err := Call[[]int](t.Context(), p, "many", args{"n": 1})
		require.NoError(t, err, name)
		require.Equal(t, []int{0, 0}, out, name)
	}
	assert.Equal(t, pid, pids(p)[0], "no worker was lost")
}

func TestWhatAConcurrentCallLeavesBehindCallsNoFunction(t *testing.T) {
	t.Parallel()
	var blocked atomic.Int64
	p := newPool(t, sharedFunctions(t, Functions{
		"echo": echoFunction(),
		"block": Func(func(ctx context.Context, _ struct{}) (int, error) {
			blocked.Add(1)
			<-ctx.Done()
			return 0, nil
		}),
		"blocked": Func(func(context.Context, struct{}) (int64, error) { return blocked.Load(), nil }),
	}))
	dir := t.TempDir()
	gate, path := filepath.Join(dir, "gate"), filepath.Join(dir, "out")
	_ = executed(t, p, "leave", args{"gate": gate, "path": path})
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	eventually(t, "all are told", func() bool {
		_ = executed(t, p, "many", args{"n": 1}) // the loop, and with it the task, runs while the worker is shared
		text, _ := os.ReadFile(path)
		return strings.Count(string(text), "task\n") == 1 && strings.Count(string(text), "thread\n") == 2 && strings.Count(string(text), "late\n") == 1
	})
	for range 50 { // at every moment of the end of a call
		wait := inBackground(4, func(int) (Result, error) {
			return p.ExecuteAnonymous(t.Context(), "leave_calling", args{"threads": 2, "n": 20})
		})
		allWell(t, wait())
		_ = executed(t, p, "pid", nil)
	}
	require.EqualValues(t, 1, p.Stats().WorkersStarted)
}

func TestANestedConcurrentCallTakesASeatOrFails(t *testing.T) {
	t.Parallel()
	var p *Pool
	cfg := sharedFunctions(t, Functions{
		"echo": echoFunction(),
		"plain": Func(func(ctx context.Context, _ struct{}) (int, error) {
			return Call[int](ctx, p, "pid", nil)
		}),
		"nested": Func(func(ctx context.Context, in struct {
			Depth int `json:"depth"`
		}) (int, error) {
			if in.Depth == 0 {
				return 0, nil
			}
			out, err := Call[hostAnswer](ctx, p, "call", args{"name": "nested", "keyword": args{"depth": in.Depth - 1}})
			if err != nil {
				return 0, err
			}
			if out.Type != "" {
				return 0, &hostError{out.Type, out.Message}
			}
			return int(out.Result.(float64)) + 1, nil
		}),
	})
	p = newPool(t, cfg)
	assert.Equal(t, "nested_call", askHost(t, p, "plain", nil).Type)
	assert.Equal(t, 20.0, askHost(t, p, "nested", args{"depth": 20}).Result, "on the same worker")
	got := askHost(t, p, "nested", args{"depth": 100})
	assert.Equal(t, "nested_call", got.Type, "there are 64 seats")
	require.EqualValues(t, 1, p.Stats().WorkersStarted)
}
