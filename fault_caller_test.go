//go:build linux

package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// traps are set by a test, and sprung by code of the caller's at a place: once, unless it says
// otherwise.
type traps struct {
	mu     sync.Mutex // guards the fields below
	at     string
	skip   int // so often it passes the place
	every  bool
	do     func()
	sprung int
}

func (s *traps) set(at string, skip int, every bool, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.skip, s.every, s.do, s.sprung = at, skip, every, do, 0
}

func (s *traps) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sprung
}

func (s *traps) pass(at string) {
	s.mu.Lock()
	do := s.do
	if s.at != at || do == nil {
		s.mu.Unlock()
		return
	}
	if s.skip--; s.skip >= 0 {
		s.mu.Unlock()
		return
	}
	if s.sprung++; !s.every {
		s.do = nil
	}
	s.mu.Unlock()
	do()
}

// trapped is where the types below look for a trap.
var trapped traps

// touchy is an argument and a result that runs code of the caller's whenever it is encoded or
// decoded.
type touchy struct{ n int }

func (v touchy) MarshalJSON() ([]byte, error) {
	trapped.pass("MarshalJSON")
	return fmt.Appendf(nil, "[%d]", v.n), nil
}

func (v *touchy) UnmarshalJSON(b []byte) error {
	trapped.pass("UnmarshalJSON")
	return json.Unmarshal(b, &v.n)
}

// touchyText is the same by encoding.TextMarshaler and TextUnmarshaler.
type touchyText struct{ s string }

func (v touchyText) MarshalText() ([]byte, error) {
	trapped.pass("MarshalText")
	return []byte(v.s), nil
}

func (v *touchyText) UnmarshalText(b []byte) error {
	trapped.pass("UnmarshalText")
	v.s = string(b)
	return nil
}

// touchyContext is no context of package context.
type touchyContext struct {
	context.Context
	done chan struct{}
}

func (c *touchyContext) Done() <-chan struct{} { trapped.pass("Done"); return c.done }
func (c *touchyContext) Value(key any) any     { trapped.pass("Value"); return c.Context.Value(key) }
func (c *touchyContext) Deadline() (time.Time, bool) {
	trapped.pass("Deadline")
	return time.Now().Add(time.Minute), true
}
func (c *touchyContext) Err() error {
	trapped.pass("Err")
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// aroundContext has the end of a context of package context's, and methods of its own.
type aroundContext struct{ context.Context }

func (c aroundContext) Err() error        { trapped.pass("Err"); return c.Context.Err() }
func (c aroundContext) Value(key any) any { trapped.pass("Value"); return c.Context.Value(key) }
func (c aroundContext) Deadline() (time.Time, bool) {
	trapped.pass("Deadline")
	return c.Context.Deadline()
}

// ending is how a goroutine ended.
type ending struct {
	returned bool
	value    any // of a panic; nil without returned: runtime.Goexit
}

// endingOf runs f on a goroutine of its own, and returns how that ended.
func endingOf(t testing.TB, f func()) ending {
	t.Helper()
	end := make(chan ending, 1)
	go func() {
		var e ending
		defer func() {
			if !e.returned {
				e.value = recover()
			}
			end <- e
		}()
		f()
		e.returned = true
	}()
	select {
	case e := <-end:
		return e
	case <-time.After(20 * time.Second):
		buf := make([]byte, 1<<20)
		t.Fatalf("it does not end\n%s", buf[:runtime.Stack(buf, true)])
		panic("unreachable")
	}
}

func countedTouchy(n int) iter.Seq[touchy] {
	return func(yield func(touchy) bool) {
		for i := range n {
			trapped.pass("iterator")
			if !yield(touchy{i}) {
				return
			}
		}
	}
}

// TestTroubleOfTheCallersCodeSurfacesInTheCaller is a matrix: each way to call, each place where
// code of the caller's runs, each way in which that goes wrong.
func TestTroubleOfTheCallersCodeSurfacesInTheCaller(t *testing.T) {
	var starts, ends atomic.Int64
	p := newPool(t, Config{
		Script: workerScript(t, "faults.py"), Python: realPython(), Size: 2, Overflow: -1, Breaker: Breaker{Failures: -1},
		RestartBackoff: Backoff{Min: 5 * time.Millisecond, Max: 50 * time.Millisecond},
		Observer: &Observer{
			CallStart: func(ctx context.Context, _ CallInfo) context.Context {
				starts.Add(1)
				trapped.pass("CallStart")
				return ctx
			},
			TraceParent: func(context.Context) string {
				trapped.pass("TraceParent")
				return ""
			},
			CallEnd: func(ctx context.Context, _ CallInfo, _ CallOutcome) {
				ends.Add(1)
				if ctx == nil {
					t.Error("CallEnd has no context")
				}
				trapped.pass("CallEnd")
			},
		},
	})
	callers := map[string]func(ctx context.Context){
		"Call": func(ctx context.Context) { _, _ = Call[touchy](ctx, p, "echo", touchy{1}) },
		"Execute": func(ctx context.Context) {
			res, err := p.ExecuteInSession(ctx, "s", "echo", touchy{1})
			if err == nil {
				_ = res.Decode(&touchy{})
			}
		},
		"Each": func(ctx context.Context) {
			for range Each[touchy](ctx, p, "numbers", touchy{5}) {
				trapped.pass("body")
			}
		},
		"Stream": func(ctx context.Context) {
			for res, err := range p.Stream(ctx, "numbers", touchy{5}) {
				if err == nil {
					_ = res.Decode(&touchy{})
				}
				trapped.pass("body")
			}
		},
		"Map": func(ctx context.Context) {
			for range Map[touchy](ctx, p, "echo", countedTouchy(500), WithSession("s")) {
				trapped.pass("body")
			}
		},
		"Map of text": func(ctx context.Context) {
			items := func(yield func(touchyText) bool) {
				for i := range 100 {
					trapped.pass("iterator")
					if !yield(touchyText{fmt.Sprint(i)}) {
						return
					}
				}
			}
			for range Map[touchyText](ctx, p, "echo", items) {
				trapped.pass("body")
			}
		},
	}
	places := map[string][]string{
		"Call":        {"MarshalJSON", "UnmarshalJSON", "CallStart", "TraceParent", "CallEnd", "Err", "Done", "Deadline", "Value"},
		"Execute":     {"MarshalJSON", "UnmarshalJSON", "CallStart", "TraceParent", "CallEnd", "Err", "Done", "Deadline", "Value"},
		"Each":        {"MarshalJSON", "UnmarshalJSON", "CallStart", "CallEnd", "body", "Err", "Done", "Deadline", "Value"},
		"Stream":      {"MarshalJSON", "UnmarshalJSON", "CallStart", "CallEnd", "body", "Err", "Done", "Deadline", "Value"},
		"Map":         {"MarshalJSON", "UnmarshalJSON", "CallStart", "TraceParent", "CallEnd", "iterator", "body", "Err", "Done", "Deadline", "Value"},
		"Map of text": {"MarshalText", "UnmarshalText", "CallStart", "TraceParent", "CallEnd", "iterator", "body"},
	}
	var nilError *fs.PathError
	ways := map[string]any{"panic": "the caller's own", "panic with an error": errors.New("mine"), "panic with a nil error": nilError, "panic(nil)": nil, "Goexit": nil}
	for name, call := range callers {
		for _, place := range places[name] {
			for way, value := range ways {
				for _, skip := range []int{0, 2} {
					for _, every := range []bool{false, true} {
						if every && (skip == 0 || !strings.HasPrefix(name, "Map")) || skip > 0 && (place == "Deadline" || place == "Value") {
							continue
						}
						t.Run(fmt.Sprintf("%s/%s/%s/%d/%t", name, place, way, skip, every), func(t *testing.T) {
							eventually(t, "the pool is whole", func() bool { return serving(p) })
							before := pids(p)
							trapped.set(place, skip, every, func() {
								if way == "Goexit" {
									runtime.Goexit()
								}
								panic(value)
							})
							end := endingOf(t, func() { call(&touchyContext{context.Background(), make(chan struct{})}) })
							sprung := trapped.times()
							trapped.set("", 0, false, nil)
							switch {
							case sprung == 0: // so often it is not called there
								require.Positive(t, skip, "nothing has happened")
								require.Equal(t, ending{returned: true}, end)
							case way == "panic(nil)":
								require.IsType(t, &runtime.PanicNilError{}, end.value)
							default:
								require.Equal(t, ending{value: value}, end)
							}
							accounted(t, p)
							require.Equal(t, starts.Load(), ends.Load(), "CallEnd exactly once for each CallStart")
							stream := name == "Each" || name == "Stream"
							if stream && slices.Contains([]string{"body", "UnmarshalJSON"}, place) || slices.Contains([]string{"Err", "Done", "Deadline", "Value"}, place) && skip > 0 {
								eventually(t, "the pool is whole", func() bool { return serving(p) })
							} else {
								require.Equal(t, before, pids(p), "no worker was lost")
							}
							executed(t, p, "echo", []any{1})
						})
					}
				}
			}
		}
	}
}

// trappedHandler is a slog.Handler that can go wrong. It writes JSON.
type trappedHandler struct {
	slog.Handler
}

func (h trappedHandler) Enabled(ctx context.Context, level slog.Level) bool {
	trapped.pass("Enabled")
	return h.Handler.Enabled(ctx, level)
}

func (h trappedHandler) Handle(ctx context.Context, r slog.Record) error {
	trapped.pass("Handle")
	return h.Handler.Handle(ctx, r)
}

// Group G, trials 3 and 14: code of the caller's runs only where the caller can recover it, and
// what waits for it is bounded.
var callerFaults = []fault{
	{name: "G3_code_of_the_caller_that_fails_on_the_pools_goroutine_ends_nothing", run: func(t *testing.T, r *rig) {
		for _, place := range []string{"Event", "ErrorRate.Func", "Handle", "Enabled"} {
			for _, way := range []string{"panic", "panic with what contains itself", "Goexit"} {
				if way == "panic with what contains itself" && place != "Event" && place != "ErrorRate.Func" {
					continue // it is told of those alone
				}
				for _, every := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/%t", place, way, every), func(t *testing.T) {
						log, events := &logBuffer{}, &eventLog{}
						var alerts atomic.Int64
						cfg := r.config(t)
						cfg.Logger = slog.New(trappedHandler{slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})})
						cfg.Observer = &Observer{Event: func(e Event) { trapped.pass("Event"); events.add(e) }}
						cfg.ErrorRate = ErrorRate{Window: time.Second, MinCalls: 1, Func: func(ErrorRateAlert) { trapped.pass("ErrorRate.Func"); alerts.Add(1) }}
						trapped.set(place, 0, every, func() {
							switch way {
							case "Goexit":
								runtime.Goexit()
							case "panic with what contains itself":
								panic(containsItself())
							}
							panic("the operator's own")
						})
						defer trapped.set("", 0, false, nil)
						p := newPool(t, cfg)
						for range 2 {
							_, err := p.ExecuteAnonymous(context.Background(), "os_exit", []any{1})
							failsWith(t, err, ErrWorkerExited, MaybeExecuted)
						}
						eventually(t, "the trap is sprung", func() bool { return trapped.times() > 0 })
						eventually(t, "the pool is whole", func() bool { return serving(p) })
						executed(t, p, "echo", []any{1})
						if every {
							trapped.set("", 0, false, nil) // mended
						}
						_, err := p.ExecuteAnonymous(context.Background(), "os_exit", []any{1})
						failsWith(t, err, ErrWorkerExited, MaybeExecuted)
						eventually(t, "the pool is whole", func() bool { return serving(p) })
						accounted(t, p)
						require.NoError(t, p.Close())
						require.NotEmpty(t, events.of(EventWorkerExited), "events go on")
						require.NotEmpty(t, log.with(t, "call failed"), "logs go on")
						switch failures := log.with(t, "a function of the host failed on a goroutine of the pool"); place {
						case "Event", "ErrorRate.Func":
							require.Len(t, failures, 1, "said once")
							require.Contains(t, failures[0]["func"], place)
							require.Contains(t, failures[0]["stack"], "goroutine")
							require.Contains(t, failures[0]["cause"], map[string]string{"panic": "the operator's own", "Goexit": "Goexit", "panic with what contains itself": "which cannot be told"}[way])
							if way != "Goexit" {
								require.Contains(t, failures[0]["stack"], "traps).pass")
							}
						case "Handle":
							require.Positive(t, p.Stats().LogsDropped)
							lost := log.with(t, "log records were lost: the log handler failed")
							require.NotEmpty(t, lost)
							var sum float64
							for _, record := range lost {
								sum += record["dropped"].(float64)
							}
							require.EqualValues(t, p.Stats().LogsDropped, sum)
						}
					})
				}
			}
		}
	}},
	{name: "G3b_Enabled_may_ask_the_pool", run: func(t *testing.T, r *rig) {
		var p atomic.Pointer[Pool]
		cfg := r.config(t)
		cfg.Logger = slog.New(trappedHandler{slog.DiscardHandler})
		trapped.set("Enabled", 0, true, func() {
			if p := p.Load(); p != nil {
				p.Stats()
				p.Workers()
				p.Sessions()
			}
		})
		defer trapped.set("", 0, false, nil)
		p.Store(r.own(t, cfg))
		_, err := p.Load().ExecuteAnonymous(context.Background(), "os_exit", []any{1})
		failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		require.NoError(t, p.Load().Reload(context.Background()))
	}},
	{name: "G3c_a_log_handler_that_blocks_holds_nobody_up", run: func(t *testing.T, r *rig) {
		for _, place := range []string{"Handle", "Enabled"} {
			blocks := make(chan struct{})
			cfg := r.config(t)
			cfg.Logger = slog.New(trappedHandler{slog.DiscardHandler})
			trapped.set(place, 0, true, func() { <-blocks })
			p := newPool(t, cfg)
			_, err := p.ExecuteAnonymous(context.Background(), "stderr_flood", []any{4}, WithTimeout(20*time.Second))
			require.NoError(t, err, "its stderr is drained")
			_, err = p.ExecuteAnonymous(context.Background(), "os_exit", []any{1})
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			eventually(t, "the pool is whole", func() bool { return serving(p) })
			begun := time.Now()
			require.NoError(t, p.Close())
			within(t, begun, reporterGrace+2*time.Second)
			trapped.set("", 0, false, nil)
			close(blocks)
			<-p.reporter.done
		}
	}},
	{name: "G3d_a_context_that_fails_after_its_end_ends_nothing_else", run: func(t *testing.T, r *rig) {
		// Package context asks it on a goroutine of its own.
		p := r.own(t, r.config(t))
		for _, way := range []string{"panic", "Goexit"} {
			ctx := &touchyContext{context.Background(), make(chan struct{})}
			began := newLatch(t).path + ".began"
			end := make(chan ending, 1)
			go func() {
				end <- endingOf(t, func() {
					_, _ = p.ExecuteAnonymous(ctx, "block", []any{newLatch(t).path, began}, WithTimeout(time.Second))
				})
			}()
			pidIn(t, began)
			trapped.set("Err", 0, true, func() {
				if way == "Goexit" {
					runtime.Goexit()
				}
				panic("ctx")
			})
			close(ctx.done)
			require.False(t, (<-end).returned)
			trapped.set("", 0, false, nil)
			accounted(t, p)
		}
	}},
	{name: "G3m_a_context_around_another_that_fails_once_it_has_ended_ends_nothing_else", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.config(t))
		for name, call := range map[string]func(ctx context.Context, items iter.Seq[int]) error{
			"Call": func(ctx context.Context, items iter.Seq[int]) error {
				for range items {
				}
				_, err := p.ExecuteAnonymous(ctx, "echo", []any{1})
				return err
			},
			"Stream": func(ctx context.Context, items iter.Seq[int]) (last error) {
				for _, err := range p.Stream(ctx, "numbers", []any{1000}) {
					if last = err; err == nil {
						for range items {
						}
					}
				}
				return last
			},
			"Map": func(ctx context.Context, items iter.Seq[int]) (last error) {
				for _, last = range Map[int](ctx, p, "echo", items) {
				}
				return last
			},
			"Map over a Caller": func(ctx context.Context, items iter.Seq[int]) (last error) {
				for _, last = range Map[int](ctx, struct{ Caller }{p}, "echo", items) {
				}
				return last
			},
		} {
			for _, place := range []string{"Err", "Value", "Deadline"} {
				for _, way := range []string{"panic", "Goexit"} {
					t.Run(name+"/"+place+"/"+way, func(t *testing.T) {
						inner, cancel := context.WithCancel(bg)
						defer cancel()
						var fed atomic.Int64
						items := func(yield func(int) bool) {
							for i := range 300 { // what has come when the context ends is not sent any more
								if i == 200 {
									trapped.set(place, 0, true, func() {
										if way == "Goexit" {
											runtime.Goexit()
										}
										panic("ctx")
									})
									cancel()
								}
								if !yield(i) {
									break
								}
								fed.Add(1)
							}
						}
						var err error
						end := endingOf(t, func() { err = call(aroundContext{inner}, items) })
						trapped.set("", 0, false, nil)
						switch {
						case end.returned:
							require.ErrorIs(t, err, context.Canceled)
						case way == "panic":
							require.Equal(t, "ctx", end.value)
						}
						require.Positive(t, fed.Load())
						eventually(t, "all is settled", func() bool { return p.Stats().InFlight == 0 && serving(p) })
						accounted(t, p)
						executed(t, p, "echo", []any{1})
					})
				}
			}
		}
	}},
	{name: "G3e_Map_ends_with_its_context_though_the_items_block", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Observer = &Observer{CallStart: func(ctx context.Context, _ CallInfo) context.Context { trapped.pass("CallStart"); return ctx }}
		p := r.own(t, cfg)
		for _, place := range []string{"iterator", "MarshalJSON", "CallStart"} {
			for _, how := range []string{"ctx", "break"} {
				blocks, reached, returned := make(chan struct{}), make(chan struct{}), make(chan struct{})
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				trapped.set(place, 10, false, func() { close(reached); <-blocks })
				items := func(yield func(touchy) bool) {
					defer close(returned)
					countedTouchy(20)(yield)
				}
				n := 0
				var last error
				var stopped time.Time
				for out, err := range Map[touchy](ctx, p, "echo", items) {
					if last = err; err != nil {
						break
					}
					require.Equal(t, n, out.n)
					if n++; n == 10 {
						<-reached
						stopped = time.Now()
						if how == "break" {
							break
						}
						cancel()
					}
				}
				within(t, stopped, p.cfg.StopGrace+p.cfg.KillGrace)
				require.Equal(t, 10, n)
				if how == "ctx" {
					failsWith(t, last, ErrCanceled, NotExecuted)
				}
				select {
				case <-returned:
					t.Fatal("it does not block")
				default:
				}
				executed(t, p, "echo", []any{1})
				close(blocks)
				<-returned
				eventually(t, "what it was in the midst of is settled", func() bool { return p.Stats().InFlight == 0 })
				accounted(t, p)
			}
		}
	}},
	{name: "G3f_the_panic_of_items_that_outlive_their_Map_is_logged", run: func(t *testing.T, r *rig) {
		log := &logBuffer{}
		cfg := r.config(t)
		cfg.Logger = log.logger(slog.LevelInfo)
		p := r.own(t, cfg)
		blocks := make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for _, err := range Map[int](ctx, p, "echo", func(yield func(int) bool) {
			yield(1)
			<-blocks
			panic("too late")
		}) {
			if err != nil {
				failsWith(t, err, ErrCanceled, NotExecuted)
			}
			cancel()
		}
		close(blocks)
		eventually(t, "it is logged", func() bool {
			return len(log.with(t, "a function of the host failed on a goroutine of the pool")) == 1
		})
		require.Contains(t, log.String(), "too late")
	}},
	{name: "G3l_items_that_go_wrong_after_they_were_told_to_end", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.config(t))
		for how, after := range map[string]func(yield func(int) bool){
			"panics in its cleanup":  func(func(int) bool) { panic("cleanup") },
			"ends in its cleanup":    func(func(int) bool) { runtime.Goexit() },
			"does not heed the word": func(yield func(int) bool) { yield(1) },
		} {
			for _, why := range []string{"break", "ctx"} {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				end := endingOf(t, func() {
					for range Map[int](ctx, p, "echo", func(yield func(int) bool) {
						for i := 0; yield(i); i++ {
						}
						after(yield)
					}) {
						if cancel(); why == "break" {
							break
						}
					}
				})
				require.False(t, end.returned, how)
				if how == "panics in its cleanup" {
					require.Equal(t, "cleanup", end.value)
				}
				require.Equal(t, how == "ends in its cleanup", end.value == nil, how)
				accounted(t, p)
			}
		}
	}},
	{name: "G3g_a_probe_of_a_circuit_that_the_caller_breaks_off_leaves_it_testable", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Breaker = Breaker{Failures: 1, OpenFor: 50 * time.Millisecond}
		p := r.own(t, cfg)
		for _, way := range []string{"panic", "Goexit"} {
			_, err := p.ExecuteAnonymous(context.Background(), "stamp", []any{"/nowhere/at/all", "x"})
			require.Error(t, err)
			_, err = p.ExecuteAnonymous(context.Background(), "journal", []any{"/dev/null", "x", "exit"})
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			_, err = p.ExecuteAnonymous(context.Background(), "journal", []any{"/dev/null", "x"})
			failsWith(t, err, ErrCircuitOpen, NotExecuted)
			time.Sleep(60 * time.Millisecond) // half-open
			end := endingOf(t, func() {
				for range p.Stream(context.Background(), "journal", []any{"/dev/null", "x"}) {
					if way == "Goexit" {
						runtime.Goexit()
					}
					panic("mine")
				}
			})
			require.False(t, end.returned)
			eventually(t, "the next probe is let in, and closes it", func() bool {
				_, err := p.ExecuteAnonymous(context.Background(), "journal", []any{"/dev/null", "x"})
				return err == nil
			})
		}
	}},
	{name: "G3h_a_CallStart_that_returns_no_context", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Observer = &Observer{
			CallStart: func(context.Context, CallInfo) context.Context { return nil },
			CallEnd: func(ctx context.Context, _ CallInfo, _ CallOutcome) {
				if ctx.Value(contextKey{}) != "kept" {
					t.Error("CallEnd has not the caller's context")
				}
			},
		}
		p := r.own(t, cfg)
		ctx := context.WithValue(context.Background(), contextKey{}, "kept")
		_, err := p.ExecuteAnonymous(ctx, "echo", []any{1})
		require.NoError(t, err)
		for _, err := range Map[int](ctx, p, "echo", slices.Values([]int{1, 2})) {
			require.NoError(t, err)
		}
		cfg.Observer.CallEnd = nil
	}},
	{name: "G3i_New_whose_context_panics_leaves_nothing", run: func(t *testing.T, r *rig) {
		for skip, place := range []string{"Done", "Done", "Err"} {
			trapped.set(place, skip%2, true, func() { panic("ctx") })
			ctx := &touchyContext{context.Background(), make(chan struct{})}
			if place == "Err" {
				close(ctx.done)
			}
			end := endingOf(t, func() {
				p, err := New(ctx, r.config(t))
				if err == nil {
					_ = p.Close()
				}
			})
			trapped.set("", 0, false, nil)
			require.Equal(t, ending{value: "ctx"}, end)
		}
		r.pool, r.shared = nil, false
	}},
	{name: "G3j_the_error_of_a_cause_is_not_asked", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		p := r.own(t, cfg)
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		n := 0
		for _, err := range Map[int](ctx, p, "echo", func(yield func(int) bool) {
			for i := 0; yield(i); i++ {
			}
		}) {
			if n++; err != nil {
				failsWith(t, err, ErrCanceled, failureOf(err).Delivery) // some items are on their way
			}
			cancel(hostileError{})
		}
		require.Positive(t, n)
	}},
	{name: "G3k_code_of_the_caller_that_holds_no_worker_and_blocks_does_not_hold_up_Close", run: func(t *testing.T, r *rig) {
		for name, call := range map[string]func(p *Pool) error{
			"Call": func(p *Pool) error {
				_, err := Call[touchy](context.Background(), p, "echo", touchy{1})
				return err
			},
			"Stream": func(p *Pool) (last error) {
				for _, last = range p.Stream(context.Background(), "numbers", touchy{1}) {
				}
				return last
			},
			"Map": func(p *Pool) (last error) {
				for _, last = range Map[int](context.Background(), p, "double", countedTouchy(3)) {
				}
				return last
			},
		} {
			for _, place := range []string{"MarshalJSON", "CallStart", "CallEnd", "UnmarshalJSON", "iterator"} {
				if place == "iterator" && name != "Map" || place == "UnmarshalJSON" && name != "Call" || place == "CallEnd" && name == "Map" {
					continue
				}
				blocks, reached := make(chan struct{}), make(chan struct{})
				trapped.set(place, 0, false, func() { close(reached); <-blocks })
				cfg := r.config(t)
				cfg.Observer = &Observer{
					CallStart: func(ctx context.Context, _ CallInfo) context.Context { trapped.pass("CallStart"); return ctx },
					CallEnd:   func(context.Context, CallInfo, CallOutcome) { trapped.pass("CallEnd") },
				}
				p := newPool(t, cfg)
				end := make(chan error, 1)
				go func() { end <- call(p) }()
				<-reached
				begun := time.Now()
				require.NoError(t, p.Close())
				within(t, begun, time.Second)
				close(blocks)
				if err := <-end; place == "CallEnd" || place == "UnmarshalJSON" {
					require.NoError(t, err, "%s %s: it had been answered", name, place)
				} else {
					failsWith(t, err, ErrPoolClosed, NotExecuted)
				}
				accounted(t, p)
			}
		}
	}},
	{name: "G14_the_ends_of_sessions_that_nobody_takes_are_bounded", run: func(t *testing.T, r *rig) {
		blocks := make(chan struct{})
		var once sync.Once
		events, log := &eventLog{}, &logBuffer{}
		cfg := r.config(t)
		cfg.Logger, cfg.MaxSessions = log.logger(slog.LevelInfo), 10
		cfg.Observer = &Observer{Event: func(e Event) {
			if e.Kind == EventSessionEnded {
				once.Do(func() { <-blocks })
			}
			events.add(e)
		}}
		p := r.own(t, cfg)
		const calls = 20_000
		ids := make([]int, calls)
		for i := range ids { // as ExecuteInSession does, without the call
			p.sessions.leave(p.sessions.enter(fmt.Sprintf("session-%d-%s", i, strings.Repeat("x", 200))), false)
		}
		before := heapBytes()
		for i := range ids {
			p.sessions.leave(p.sessions.enter(fmt.Sprintf("again-%d-%s", i, strings.Repeat("x", 200))), false)
		}
		require.Less(t, heapBytes()-before, int64(2<<20))
		_, err := p.ExecuteAnonymous(context.Background(), "os_exit", []any{1})
		failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		eventually(t, "the pool is whole", func() bool { return serving(p) })
		close(blocks)
		require.NoError(t, p.Close())
		require.Len(t, events.of(EventWorkerExited), 1+2, "what is no session's end is not dropped")
		var dropped int64
		for _, e := range events.of(EventDropped) {
			require.Positive(t, e.Dropped)
			require.Contains(t, e.Cause, "session_ended")
			require.Equal(t, cfg.Name+"pypool", e.Pool)
			require.False(t, e.Time.IsZero())
			dropped += e.Dropped
		}
		require.Positive(t, dropped)
		require.Equal(t, dropped, p.Stats().EventsDropped)
		require.EqualValues(t, 2*calls-p.sessions.size(), dropped+int64(len(events.of(EventSessionEnded))))
		require.Contains(t, log.String(), "events were dropped")
	}},
	{name: "G14b_other_events_are_bounded_too_and_lose_their_long_texts_first", run: func(t *testing.T, r *rig) {
		blocks := make(chan struct{})
		var got []Event
		rep := newReporter(quiet())
		tell := func(e Event) { <-blocks; got = append(got, e) }
		before := heapBytes()
		for i := range 3 * maxQueuedEvents {
			exit := &ExitError{Code: i, Stderr: strings.Repeat("x", 64<<10)}
			rep.event(tell, Event{Kind: EventWorkerExited, Err: newError(TypeWorkerExited, MaybeExecuted, "", exit)})
		}
		require.Less(t, heapBytes()-before, int64(64<<20))
		close(blocks)
		rep.close()
		require.GreaterOrEqual(t, len(got), maxQueuedEvents)
		last := got[len(got)-1]
		require.Equal(t, EventDropped, last.Kind)
		require.EqualValues(t, 3*maxQueuedEvents, last.Dropped+int64(len(got)-1))
		for i, e := range got[:len(got)-1] {
			require.Equal(t, i, detail[*ExitError](t, e.Err).Code, "in order, and none before the bound is lost")
		}
		r.pool, r.shared = nil, false
	}},
	{name: "G14c_names_of_the_callers_are_bounded_in_what_waits_for_the_logger", run: func(t *testing.T, r *rig) {
		log := &logBuffer{}
		cfg := r.config(t)
		cfg.Logger, cfg.Size = log.logger(slog.LevelInfo), 1
		p := r.own(t, cfg)
		b := r.block(t, context.Background())
		_, err := p.ExecuteProgram(context.Background(), strings.Repeat("p", 100<<10), nil, WithCheckoutTimeout(10*time.Millisecond))
		failsWith(t, err, ErrCheckoutTimeout, NotExecuted)
		b.release(t)
		require.NoError(t, ended(t, b.end).err)
		eventually(t, "it is logged", func() bool { return len(log.with(t, "call failed")) == 1 })
		require.Less(t, len(log.String()), 16<<10)
	}},
	{name: "G14d_a_level_that_is_off_takes_no_room_from_others_and_may_come_on", run: func(t *testing.T, r *rig) {
		blocks := make(chan struct{})
		var level slog.LevelVar
		level.Set(slog.LevelWarn)
		var out bytes.Buffer
		handler := trappedHandler{slog.NewTextHandler(&out, &slog.HandlerOptions{Level: &level})}
		rep := newReporter(slog.New(handler))
		require.Equal(t, 30, rep.pythonLevel())
		trapped.set("Handle", 0, false, func() { <-blocks })
		rep.log(slog.LevelWarn, "the first")
		eventually(t, "the handler blocks", func() bool { return trapped.times() == 1 })
		trapped.set("", 0, false, nil)
		for range 10_000 {
			rep.log(slog.LevelInfo, "noise")
		}
		for i := range maxQueuedLogs {
			rep.log(slog.LevelWarn, fmt.Sprintf("kept-%d.", i))
		}
		require.Equal(t, 30, rep.pythonLevel(), "what it was, while the logger does not say")
		close(blocks)
		require.Zero(t, rep.logsDropped.Load())
		eventually(t, "all is delivered", func() bool { rep.mu.Lock(); defer rep.mu.Unlock(); return len(rep.queue) == 0 })
		require.Equal(t, 30, rep.pythonLevel())
		level.Set(slog.LevelDebug)
		rep.log(slog.LevelInfo, "came on")
		require.Equal(t, 10, rep.pythonLevel())
		rep.close()
		require.Contains(t, out.String(), "came on")
		require.Contains(t, out.String(), fmt.Sprintf("kept-%d.", maxQueuedLogs-1))
		require.NotContains(t, out.String(), "noise")
		r.pool, r.shared = nil, false
	}},
}

// hostileError panics whatever it is asked.
type hostileError struct{}

func (hostileError) Error() string   { panic("Error") }
func (hostileError) Is(error) bool   { panic("Is") }
func (hostileError) As(any) bool     { panic("As") }
func (hostileError) Unwrap() []error { panic("Unwrap") }
