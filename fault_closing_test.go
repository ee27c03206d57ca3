//go:build linux

package pypool

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// streamsConfig is for rows of this file: one that has to wait for a StopGrace waits half a second.
func (r *rig) streamsConfig(t testing.TB, size int) Config {
	cfg := r.config(t)
	cfg.Script, cfg.Size = workerScript(t, "streams.py"), size
	return cfg
}

// returns fails the test when f does not return within d: it hangs, as a rule for ever.
func returns(t testing.TB, what string, d time.Duration, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s does not return within %v\n%s", what, d, buf[:runtime.Stack(buf, true)])
	}
}

// blockedBody is a loop over a stream whose body blocks in its first turn until it is let go.
type blockedBody struct {
	worker string
	let    chan struct{}
	errs   chan error // the loop's errors, closed at its end
	after  int        // items that came after the first; valid when errs is closed
}

func blockBody(t testing.TB, ctx context.Context, p *Pool, command string, opts ...CallOption) *blockedBody {
	t.Helper()
	b := &blockedBody{let: make(chan struct{}), errs: make(chan error, 10)}
	entered := make(chan struct{})
	go func() {
		defer close(b.errs)
		first := true
		for res, err := range p.Stream(ctx, command, nil, opts...) {
			switch {
			case err != nil:
				b.errs <- err
			case first:
				first, b.worker = false, res.Worker()
				close(entered)
				<-b.let
			default:
				b.after++
			}
		}
	}()
	select {
	case <-entered:
	case <-time.After(10 * time.Second):
		t.Fatal("the stream yields nothing")
	}
	return b
}

// end lets the body go on and returns the loop's one error.
func (b *blockedBody) end(t testing.TB) error {
	t.Helper()
	close(b.let)
	var errs []error
	timeout := time.After(10 * time.Second)
	for {
		select {
		case err, more := <-b.errs:
			if !more {
				require.Len(t, errs, 1)
				return errs[0]
			}
			errs = append(errs, err)
		case <-timeout:
			t.Fatal("the loop does not end")
		}
	}
}

// userCode is a place where the pool runs code of its user's. play has act run there, once, in a
// call of the pool.
type userCode struct {
	name string
	play func(t *testing.T, open func(Config) *Pool, cfg Config, act func())
}

type actsWhenDecoded struct{}

var decodeAct atomic.Pointer[func()]

func (*actsWhenDecoded) UnmarshalJSON([]byte) error {
	if act := decodeAct.Swap(nil); act != nil {
		(*act)()
	}
	return nil
}

type actsWhenEncoded struct{ act func() }

func (a actsWhenEncoded) MarshalJSON() ([]byte, error) {
	a.act()
	return []byte("[1]"), nil
}

// actsWhenLogged is a log handler.
type actsWhenLogged struct{ act func() }

func (h actsWhenLogged) Enabled(context.Context, slog.Level) bool { return true }
func (h actsWhenLogged) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h actsWhenLogged) WithGroup(string) slog.Handler            { return h }
func (h actsWhenLogged) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "print") {
		h.act()
	}
	return nil
}

var bg = context.Background()

func observed(set func(o *Observer, act func())) func(*testing.T, func(Config) *Pool, Config, func()) {
	return func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		cfg.Observer = &Observer{}
		set(cfg.Observer, act)
		p := open(cfg)
		for range Map[int](bg, p, "echo", slices.Values([]int{1, 2, 3})) {
		}
		_, _ = p.ExecuteAnonymous(bg, "echo", nil)
		for range p.Stream(bg, "brief", []int{2}) {
		}
	}
}

var userCodes = []userCode{
	{"a stream's body", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		for range open(cfg).Stream(bg, "tokens", nil) {
			act()
		}
	}},
	{"Each's decoding", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		p := open(cfg)
		decodeAct.Store(&act)
		for range Each[actsWhenDecoded](bg, p, "tokens", nil) {
		}
	}},
	{"a body in a body", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		p := open(cfg)
		for range p.Stream(bg, "tokens", nil) {
			for range p.Stream(bg, "async_tokens", nil) {
				act()
			}
		}
	}},
	{"a pulled stream", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		next, stop := iter.Pull2(open(cfg).Stream(bg, "tokens", nil))
		defer stop()
		next()
		act()
		next()
	}},
	{"Map's body", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		for range Map[int](bg, open(cfg), "echo", slices.Values(make([]int, 10_000))) {
			act()
		}
	}},
	{"Map's decoding", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		p := open(cfg)
		decodeAct.Store(&act)
		for range Map[actsWhenDecoded](bg, p, "echo", slices.Values(make([]int, 10_000))) {
		}
	}},
	{"Map's encoding", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		for range Map[int](bg, open(cfg), "echo", slices.Values([]actsWhenEncoded{{act}})) {
		}
	}},
	{"Map's items", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		for range Map[int](bg, open(cfg), "echo", func(yield func(int) bool) { _ = yield(1) && yield(2); act() }) {
		}
	}},
	{"Call's decoding", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		p := open(cfg)
		decodeAct.Store(&act)
		_, _ = Call[actsWhenDecoded](bg, p, "echo", nil)
	}},
	{"a call's encoding", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		_, _ = open(cfg).ExecuteAnonymous(bg, "echo", actsWhenEncoded{act})
	}},
	{"CallStart", observed(func(o *Observer, act func()) {
		o.CallStart = func(ctx context.Context, _ CallInfo) context.Context { act(); return ctx }
	})},
	{"CallEnd", observed(func(o *Observer, act func()) { o.CallEnd = func(context.Context, CallInfo, CallOutcome) { act() } })},
	{"Event", observed(func(o *Observer, act func()) { o.Event = func(Event) { act() } })},
	{"a log handler", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		cfg.Script = script(t, "from pypool import command\n@command\ndef say(): print('printed')\n")
		cfg.Logger = slog.New(actsWhenLogged{act})
		_, _ = open(cfg).ExecuteAnonymous(bg, "say", nil)
	}},
	{"ErrorRate.Func", func(t *testing.T, open func(Config) *Pool, cfg Config, act func()) {
		cfg.ErrorRate = ErrorRate{Window: 200 * time.Millisecond, MinCalls: 1, Func: func(ErrorRateAlert) { act() }}
		_, _ = open(cfg).ExecuteAnonymous(bg, "stubborn_sleep", nil, WithTimeout(time.Millisecond))
	}},
}

// Group G, closing: it waits for processes, never for code of the user's; and such code holds a
// worker for StallTimeout at most.
var closingFaults = []fault{
	{name: "G2_close_returns_from_wherever_it_is_called", run: func(t *testing.T, r *rig) {
		r.pool = nil
		for _, where := range userCodes {
			t.Run(where.name, func(t *testing.T) {
				before := r.census()
				var p *Pool
				opened, closed := make(chan struct{}), make(chan struct{})
				var once sync.Once
				act := func() {
					once.Do(func() {
						defer close(closed)
						<-opened
						pids := pids(p)
						if err := p.Close(); err != nil {
							t.Error(err)
						}
						for _, pid := range pids {
							if processExists(pid) {
								t.Errorf("process %d is still there", pid)
							}
						}
					})
				}
				open := func(cfg Config) *Pool {
					p = newPool(t, cfg)
					close(opened)
					return p
				}
				cfg := r.streamsConfig(t, 2)
				cfg.Script = erring(t)
				returns(t, "the call", 15*time.Second, func() { where.play(t, open, cfg, act) })
				returns(t, "Close", 15*time.Second, func() { <-closed })
				accounted(t, p)
				r.settled(t, before)
			})
		}
	}},
	{name: "G2b_shutdown_returns_soon_after_its_context_wherever_code_of_the_user_blocks", run: func(t *testing.T, r *rig) {
		r.pool = nil
		for _, where := range userCodes {
			t.Run(where.name, func(t *testing.T) {
				before := r.census()
				p := make(chan *Pool, 1)
				let, entered := make(chan struct{}), make(chan struct{})
				var once sync.Once
				act := func() {
					once.Do(func() {
						close(entered)
						<-let
					})
				}
				open := func(cfg Config) *Pool {
					pool := newPool(t, cfg)
					p <- pool
					return pool
				}
				cfg := r.streamsConfig(t, 2)
				cfg.Script = erring(t)
				var user sync.WaitGroup
				user.Go(func() { where.play(t, open, cfg, act) })
				pool := <-p
				returns(t, "the way there", 10*time.Second, func() { <-entered })
				ctx, cancel := context.WithTimeout(bg, 300*time.Millisecond)
				defer cancel()
				workers := pids(pool)
				begun := time.Now()
				returns(t, "Shutdown", 10*time.Second, func() {
					if err := pool.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) { // nil where no worker is held
						t.Error(err)
					}
				})
				within(t, begun, 300*time.Millisecond+reporterGrace)
				returns(t, "Close", 10*time.Second, func() { require.NoError(t, pool.Close()) })
				for _, pid := range workers {
					require.False(t, processExists(pid))
				}
				eventually(t, "no descriptor of it is left, though the code blocks", func() bool { return openDescriptors() <= before.fds })
				close(let)
				returns(t, "the call", 10*time.Second, user.Wait)
				accounted(t, pool)
				r.settled(t, before)
			})
		}
	}},
	{name: "G2c_nothing_is_left_while_a_body_still_blocks", run: func(t *testing.T, r *rig) {
		before := r.census()
		p := r.own(t, r.streamsConfig(t, 2))
		ctx, cancel := context.WithCancel(bg)
		defer cancel()
		a := blockBody(t, ctx, p, "tokens")
		b := blockBody(t, ctx, p, "stubborn", WithSession("s"))
		returns(t, "Close", 10*time.Second, func() { require.NoError(t, p.Close()) })
		eventually(t, "only the two goroutines of the loops are left", func() bool {
			now := r.census()
			return now.fds <= before.fds && now.goroutines <= before.goroutines+2
		})
		cancel() // comes too late to matter
		for _, body := range []*blockedBody{a, b} {
			failsWith(t, body.end(t), ErrPoolClosed, MaybeExecuted)
			require.Zero(t, body.after)
		}
		st := accounted(t, p)
		require.EqualValues(t, 2, st.ByType[TypePoolNotAvailable])
		info, _ := p.Session("s")
		require.EqualValues(t, 1, info.Operations)
	}},
	{name: "G2d_calls_in_a_body_end_with_the_pool", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.streamsConfig(t, 3))
		var loops sync.WaitGroup
		entered := make(chan struct{}, 2)
		for range 2 {
			loops.Go(func() {
				for _, err := range p.Stream(bg, "tokens", nil) {
					select {
					case entered <- struct{}{}:
					default:
					}
					if _, inner := p.ExecuteAnonymous(bg, "echo", nil); inner != nil && !errors.Is(inner, ErrPoolClosed) {
						t.Error(inner)
					}
					if err != nil && !errors.Is(err, ErrPoolClosed) {
						t.Error(err)
					}
				}
			})
		}
		<-entered
		<-entered
		time.Sleep(time.Duration(rand.N(20)) * time.Millisecond)
		returns(t, "Close", 10*time.Second, func() { _ = p.Close() })
		returns(t, "the loops", 10*time.Second, loops.Wait)
		accounted(t, p)
	}},
	{name: "G2e_a_process_that_died_in_the_body_is_closed_too", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.streamsConfig(t, 1))
		body := blockBody(t, bg, p, "tokens")
		pid := p.Workers()[0].PID
		process, err := os.FindProcess(pid)
		require.NoError(t, err)
		require.NoError(t, process.Kill())
		gone(t, pid)
		eventually(t, "its end is known", func() bool { return p.Stats().WorkersExited == 1 })
		returns(t, "Close", 10*time.Second, func() { _ = p.Close() })
		failsWith(t, body.end(t), ErrPoolClosed, MaybeExecuted)
	}},
	{name: "G2f_a_stalled_stream_gives_its_worker_to_others", run: func(t *testing.T, r *rig) {
		for _, tc := range []struct {
			command string
			kept    bool
		}{{"tokens", true}, {"async_tokens", true}, {"quarrelsome", true}, {"stubborn", false}} {
			t.Run(tc.command, func(t *testing.T) {
				cfg := r.streamsConfig(t, 1)
				cfg.StallTimeout, cfg.Breaker = 100*time.Millisecond, Breaker{Failures: 1, OpenFor: time.Hour}
				p := r.own(t, cfg)
				body := blockBody(t, bg, p, tc.command)
				executed(t, p, "echo", nil) // waits until the worker is taken away
				st := p.Stats()
				require.EqualValues(t, 1, st.InFlight, "the loop has not come back")
				e := failsWith(t, body.end(t), ErrStalled, MaybeExecuted)
				require.Equal(t, CategoryTimeout, e.Category)
				require.Equal(t, body.worker, e.Context.Worker)
				require.Contains(t, e.Message, "StallTimeout, 100ms")
				require.Zero(t, body.after)
				st = accounted(t, p)
				require.EqualValues(t, 1, st.ByType[TypeStreamStalled])
				require.Zero(t, st.ErrorRate)
				require.Equal(t, tc.kept, st.WorkersStarted == 1, "workers: %d", st.WorkersStarted)
				for _, err := range p.Stream(bg, tc.command, nil) { // its circuit is closed
					require.NoError(t, err)
					break
				}
				r.epilogue(t)
			})
		}
	}},
	{name: "G2g_four_stalled_streams_are_seen_and_end", run: func(t *testing.T, r *rig) {
		cfg := r.streamsConfig(t, 4)
		cfg.StallTimeout = pingTimeout + 1500*time.Millisecond
		p := r.own(t, cfg)
		var bodies []*blockedBody
		for range 4 {
			bodies = append(bodies, blockBody(t, bg, p, "tokens"))
		}
		h, err := p.HealthCheck(bg)
		require.NoError(t, err)
		require.True(t, h.Healthy, "they have only begun")
		eventually(t, "the stall is seen", func() bool { h, err = p.HealthCheck(bg); return err != nil })
		require.False(t, h.Healthy)
		require.Zero(t, h.Responsive)
		require.Len(t, h.Checks, 4)
		for _, c := range h.Checks {
			require.ErrorIs(t, c.Err, ErrStalled)
			require.ErrorContains(t, c.Err, "stalled stream of ")
		}
		eventually(t, "all are taken away", func() bool { return serving(p) })
		h, err = p.HealthCheck(bg)
		require.NoError(t, err)
		require.True(t, h.Healthy)
		for _, b := range bodies {
			failsWith(t, b.end(t), ErrStalled, MaybeExecuted)
		}
	}},
	{name: "G2h_reload_and_shutdown_wait_for_a_stalled_stream_until_it_is_stalled", run: func(t *testing.T, r *rig) {
		cfg := r.streamsConfig(t, 1)
		cfg.StallTimeout = 300 * time.Millisecond
		p := r.own(t, cfg)
		body := blockBody(t, bg, p, "tokens")
		returns(t, "Reload", 10*time.Second, func() { require.NoError(t, p.Reload(bg)) })
		require.NotEqual(t, body.worker, p.Workers()[0].ID)
		failsWith(t, body.end(t), ErrStalled, MaybeExecuted)
		body = blockBody(t, bg, p, "tokens")
		pid := p.Workers()[0].PID
		returns(t, "Shutdown", 10*time.Second, func() { require.NoError(t, p.Shutdown(bg)) })
		require.False(t, processExists(pid))
		failsWith(t, body.end(t), ErrStalled, MaybeExecuted)
		accounted(t, p)
	}},
	{name: "G2i_the_end_of_a_streams_context_costs_no_worker", run: func(t *testing.T, r *rig) {
		cfg := r.streamsConfig(t, 2)
		journal := filepath.Join(t.TempDir(), "journal")
		p := r.own(t, cfg)
		const users = 6 // of a chat, who close the tab
		var wg sync.WaitGroup
		for range users {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(bg)
				defer cancel()
				var last error
				n := 0
				for _, err := range p.Stream(ctx, "tokens", []any{0.001, journal}) {
					if n++; n == 1 {
						time.AfterFunc(200*time.Millisecond, cancel)
					}
					last = err
				}
				e := failsWith(t, last, ErrCanceled, MaybeExecuted)
				if !errors.Is(e, context.Canceled) || detail[*HangError](t, e).Killed {
					t.Error(e)
				}
			})
		}
		returns(t, "the chats", 20*time.Second, wg.Wait)
		eventually(t, "the last has been wound up", func() bool { return serving(p) })
		st := accounted(t, p)
		require.EqualValues(t, users, st.ByType[TypeCanceled])
		require.EqualValues(t, 2, st.WorkersStarted)
		text, err := os.ReadFile(journal)
		require.NoError(t, err)
		require.Equal(t, strings.Repeat("closed\n", users), string(text))
	}},
	{name: "G2j_the_context_of_200_streams_ends_at_any_moment", run: func(t *testing.T, r *rig) {
		cfg := r.streamsConfig(t, 4)
		cfg.MaxQueue, cfg.StopGrace = 1000, 5*time.Second
		var starts, ends atomic.Int64
		cfg.Observer = &Observer{
			CallStart: func(ctx context.Context, _ CallInfo) context.Context { starts.Add(1); return ctx },
			CallEnd:   func(context.Context, CallInfo, CallOutcome) { ends.Add(1) },
		}
		p := r.own(t, cfg)
		var wg sync.WaitGroup
		var good, bad atomic.Int64
		for i := range 200 {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(bg)
				defer cancel()
				if i%3 == 0 {
					ctx, cancel = context.WithTimeout(bg, time.Duration(rand.N(20))*time.Millisecond)
					defer cancel()
				}
				command, args := "tokens", []any{0.001}
				switch i % 4 {
				case 1:
					command = "async_tokens"
				case 2:
					command, args = "brief", []any{rand.N(4)}
				}
				at, leave := rand.N(6), rand.N(8) == 0
				var last error
				n := 0
				for res, err := range p.Stream(ctx, command, args, WithSession("s")) {
					if last = err; err != nil {
						break
					}
					if command != "brief" && string(res.Raw()) != fmt.Sprint(n) {
						t.Errorf("item %d is %s", n, res.Raw())
					}
					if n++; n > at {
						if leave {
							break
						}
						go cancel()
						time.Sleep(time.Duration(rand.N(3)) * time.Millisecond)
					}
				}
				switch {
				case last == nil:
					good.Add(1)
				case errors.Is(last, ErrCanceled), errors.Is(last, ErrOperationTimeout), errors.Is(last, ErrCheckoutTimeout):
					bad.Add(1)
				default:
					t.Error(last)
				}
				if _, err := p.ExecuteAnonymous(bg, "echo", []int{i}); err != nil {
					t.Error(err)
				}
			})
		}
		returns(t, "all", 60*time.Second, wg.Wait)
		eventually(t, "the last has been wound up", func() bool { return serving(p) })
		st := accounted(t, p)
		require.EqualValues(t, 400, st.Started)
		require.EqualValues(t, 400, starts.Load())
		require.EqualValues(t, 400, ends.Load())
		require.EqualValues(t, 200, good.Load()+bad.Load())
		info, _ := p.Session("s")
		require.EqualValues(t, 200, info.Operations)
		require.EqualValues(t, 4, st.WorkersStarted, "no worker was lost")
	}},
	{name: "G2k_an_items_deadline_returns_by_killgrace_and_kills_only_what_does_not_stop", run: func(t *testing.T, r *rig) {
		cfg := r.streamsConfig(t, 1)
		cfg.Breaker = Breaker{Failures: 1, OpenFor: time.Hour}
		cfg.OperationTimeout, cfg.KillGrace, cfg.StopGrace = 200*time.Millisecond, time.Second, 5*time.Second
		p := r.own(t, cfg)
		gate := newLatch(t)
		var last error
		begun := time.Now()
		for _, err := range p.Stream(bg, "thinks", []any{gate.path}) {
			last = err
		}
		within(t, begun, cfg.OperationTimeout+cfg.KillGrace)
		e := failsWith(t, last, ErrOperationTimeout, MaybeExecuted)
		hang := detail[*HangError](t, e)
		require.Contains(t, hang.Stacks, "in thinks")
		require.False(t, hang.Killed)
		gate.release(t) // it comes to its next item, and stops
		eventually(t, "it is given back", func() bool { return serving(p) })
		require.EqualValues(t, 1, accounted(t, p).WorkersStarted)
		require.Zero(t, p.sup.breakers.count.Load(), "no worker was lost")

		for _, err := range p.Stream(bg, "pauses", nil) {
			last = err
		}
		failsWith(t, last, ErrOperationTimeout, MaybeExecuted)
		eventually(t, "it is killed", func() bool { return p.Stats().WorkersStarted == 2 && serving(p) })
		for _, err := range p.Stream(bg, "pauses", nil) {
			failsWith(t, err, ErrCircuitOpen, NotExecuted)
		}
	}},
	{name: "G2l_the_end_of_a_context_in_a_hang_is_no_outcome_for_the_circuit", run: func(t *testing.T, r *rig) {
		cfg := r.streamsConfig(t, 1)
		cfg.Breaker, cfg.KillGrace = Breaker{Failures: 1, OpenFor: time.Hour}, time.Second
		p := r.own(t, cfg)
		ctx, cancel := context.WithTimeout(bg, 200*time.Millisecond)
		defer cancel()
		var last error
		begun := time.Now()
		for _, err := range p.Stream(ctx, "pauses", nil) {
			last = err
		}
		within(t, begun, 200*time.Millisecond+cfg.KillGrace)
		require.Contains(t, detail[*HangError](t, failsWith(t, last, ErrOperationTimeout, MaybeExecuted)).Stacks, "in pauses")
		eventually(t, "it is killed", func() bool { return p.Stats().WorkersStarted == 2 && serving(p) })
		for _, err := range p.Stream(bg, "pauses", nil) {
			require.NoError(t, err)
			break
		}
	}},
	{name: "G2m_a_cancel_line_meets_no_other_call", run: func(t *testing.T, r *rig) {
		cfg := r.streamsConfig(t, 1)
		p := r.own(t, cfg)
		for i := range 300 {
			ctx, cancel := context.WithCancel(bg)
			n := 0
			for _, err := range p.Stream(ctx, "brief", []any{i % 3}) {
				if n++; err == nil && i%2 == 0 {
					cancel() // the generator may have ended by now, and its final line may be on its way
				} else if err == nil {
					break
				}
			}
			cancel()
			if i%10 == 0 {
				k := 0
				for v, err := range Map[int](bg, p, "echo", slices.Values([]int{0, 1, 2, 3, 4, 5, 6, 7})) {
					require.NoError(t, err)
					require.Equal(t, k, v)
					k++
				}
				require.Equal(t, 8, k)
			}
			require.Equal(t, fmt.Sprint(i), string(executed(t, p, "echo", []int{i}).Raw()))
		}
		eventually(t, "the last has been wound up", func() bool { return serving(p) })
		require.EqualValues(t, 1, accounted(t, p).WorkersStarted)
	}},
	{name: "G2n_a_body_that_panics_or_exits_costs_no_worker", run: func(t *testing.T, r *rig) {
		cfg := r.streamsConfig(t, 1)
		p := r.own(t, cfg)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				defer func() { _ = recover() }()
				for range p.Stream(bg, "tokens", nil, WithSession("s")) {
					if i%2 == 0 {
						panic("mine")
					}
					runtime.Goexit()
				}
			})
		}
		returns(t, "all", 20*time.Second, wg.Wait)
		executed(t, p, "echo", nil)
		eventually(t, "the last has been wound up", func() bool { return serving(p) })
		st := accounted(t, p)
		require.EqualValues(t, 1, st.WorkersStarted)
		require.EqualValues(t, 20, st.ByType[TypeInternal])
		info, _ := p.Session("s")
		require.EqualValues(t, 20, info.Operations)
	}},
}

// erring is streams.py with one command more, which takes too long.
func erring(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(workerScript(t, "streams.py"))
	require.NoError(t, err)
	return script(t, string(text)+"\n\n@command\ndef stubborn_sleep():\n    time.sleep(600)\n")
}
