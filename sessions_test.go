package pypool

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newTable(max int) *sessionTable { return newSessionTable(max, func(string, string) {}) }

func TestSeed12ASessionBeginsWithNoOperations(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	table := newTable(10)
	table.enter("s")
	info, ok := table.get("s")
	require.True(t, ok)
	assert.Equal(t, "s", info.ID)
	assert.Zero(t, info.Operations)
	assert.Zero(t, info.Errors)
	assert.WithinRange(t, info.StartedAt, begun, time.Now())
	assert.Equal(t, info.StartedAt, info.LastActivity)

	p := corePool(t, 1, 0)
	h := hold(t, t.Context(), p, "running")
	info, ok = p.Session("running")
	require.True(t, ok)
	assert.Zero(t, info.Operations, "a call counts when it has finished")
	h.finish(t)
	info, _ = p.Session("running")
	assert.Equal(t, int64(1), info.Operations)
}

func TestSeed13ActivityCountsAndMovesLastActivity(t *testing.T) {
	t.Parallel()
	table := newTable(10)
	table.leave(table.enter("s"), false)
	before, _ := table.get("s")
	table.leave(table.enter("s"), true)
	after, ok := table.get("s")
	require.True(t, ok)
	assert.Equal(t, before.Operations+1, after.Operations)
	assert.Equal(t, before.Errors+1, after.Errors)
	assert.Equal(t, before.StartedAt, after.StartedAt, "get or create: never begun anew")
	assert.False(t, after.LastActivity.Before(before.LastActivity))
}

func TestSeed14EndSessionForgetsItAndEndingAgainIsNoError(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	_, err := p.ExecuteInSession(t.Context(), "s", "ping", nil)
	require.NoError(t, err)
	assert.True(t, p.EndSession("s"))
	_, ok := p.Session("s")
	assert.False(t, ok)
	assert.Empty(t, p.Sessions())
	assert.False(t, p.EndSession("s"))
	assert.False(t, p.EndSession("never seen"))
	assert.Zero(t, p.Stats().Sessions)
}

func TestSeed15SessionsReturnsACopyOfAllWithAllFields(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	for i := range 3 {
		id := fmt.Sprint("s", i)
		for range i {
			_, err := p.ExecuteInSession(t.Context(), id, "ping", nil)
			require.NoError(t, err)
		}
		_, err := p.ExecuteInSession(t.Context(), id, "fail", args{"message": "no"})
		require.ErrorIs(t, err, ErrPython)
	}
	list := p.Sessions()
	require.Len(t, list, 3)
	for i, s := range list { // oldest first
		assert.Equal(t, fmt.Sprint("s", i), s.ID)
		assert.Equal(t, int64(i+1), s.Operations)
		assert.Equal(t, int64(1), s.Errors)
		assert.False(t, s.StartedAt.IsZero())
		assert.False(t, s.LastActivity.Before(s.StartedAt))
	}
	list[0].Operations = 99
	list[0].ID = "changed"
	again, _ := p.Session("s0")
	assert.Equal(t, int64(1), again.Operations)
}

func TestSeed16StatsAreCompleteWithSessionsTracked(t *testing.T) {
	t.Parallel()
	p := corePool(t, 3, 2)
	for i := range 4 {
		_, err := p.ExecuteInSession(t.Context(), fmt.Sprint("s", i), "ping", nil)
		require.NoError(t, err)
	}
	_, err := p.ExecuteInSession(t.Context(), "s0", "fail", args{"message": "x"})
	require.ErrorIs(t, err, ErrPython)
	st := accounted(t, p)
	assert.Equal(t, 3, st.Size)
	assert.Equal(t, 2, st.Overflow)
	assert.Equal(t, 5, st.MaxSize)
	assert.Equal(t, 3, st.Workers)
	assert.Equal(t, 3, st.Idle)
	assert.Zero(t, st.Busy+st.Starting+st.Waiting)
	assert.Equal(t, int64(5), st.Started)
	assert.Equal(t, int64(4), st.Succeeded)
	assert.Equal(t, map[ErrorType]int64{TypePython: 1}, st.ByType)
	assert.Equal(t, int64(3), st.WorkersStarted)
	assert.Zero(t, st.WorkersExited+st.Recycled)
	assert.Equal(t, 4, st.Sessions)
	assert.Equal(t, int64(5), st.Run.Count)
	assert.Equal(t, int64(5), st.CheckoutWait.Count)
	assert.Positive(t, st.Run.P50)
	assert.LessOrEqual(t, st.Run.P50, st.Run.P95)
	assert.LessOrEqual(t, st.Run.P99, st.Run.Max)
	assert.Zero(t, st.ErrorRate, "an exception is not the infrastructure's failure")
	assert.Equal(t, "closed", st.Breaker)
	assert.Positive(t, st.Uptime)
}

func TestSeed26TheSweepForgetsStaleSessionsAndKeepsActiveOnes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		f := &fleet{script: func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "wait" {
				<-gate
			}
			return false
		}}
		cfg := f.config(2)
		cfg.SessionTTL, cfg.SessionCleanupInterval = 50*time.Millisecond, 10*time.Millisecond
		ended := &eventLog{}
		cfg.Observer = &Observer{Event: ended.add}
		p, err := New(t.Context(), cfg)
		require.NoError(t, err)
		defer p.Close()
		touch := func(id string) {
			_, err := p.ExecuteInSession(t.Context(), id, "work", nil)
			require.NoError(t, err)
		}
		touch("stale")
		inUse := inBackground(1, func(int) (Result, error) { return p.ExecuteInSession(t.Context(), "in use", "wait", nil) })
		for range 10 { // 200 ms
			touch("active")
			time.Sleep(20 * time.Millisecond)
		}
		synctest.Wait()
		_, stale := p.Session("stale")
		assert.False(t, stale)
		active, ok := p.Session("active")
		require.True(t, ok)
		assert.Equal(t, int64(10), active.Operations)
		used, ok := p.Session("in use")
		assert.True(t, ok, "a session in use is not stale, however long its call takes")
		assert.Zero(t, used.Operations)
		close(gate)
		require.NoError(t, inUse()[0].err)
		time.Sleep(45 * time.Millisecond)
		_, ok = p.Session("in use")
		assert.True(t, ok, "its TTL begins with the end of its call")
		time.Sleep(30 * time.Millisecond)
		synctest.Wait()
		assert.Empty(t, p.Sessions())
		events := ended.of(EventSessionEnded)
		require.Len(t, events, 3)
		assert.Equal(t, "stale", events[0].Session)
		assert.Equal(t, sessionExpired, events[0].Cause)
	})
}

func TestASessionIDMustBePrintableUTF8Of1To256Bytes(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	for _, id := range []string{"", "\x00", "a\nb", "\xff", "tab\t", "\u2028", strings.Repeat("x", 257), "\u202e"} {
		for _, call := range []func() error{
			func() error { _, err := p.ExecuteInSession(t.Context(), id, "ping", nil); return err },
			func() error { _, err := p.ExecuteProgram(t.Context(), "double", nil, WithSession(id)); return err },
		} {
			err := call()
			e := failure(t, err, ErrInvalidArguments)
			assert.Equal(t, NotExecuted, e.Delivery, "%q", id)
			assert.Empty(t, e.Context.Session, "an invalid id goes nowhere")
			assert.NotContains(t, e.Error(), "\n")
		}
	}
	for _, id := range []string{"a", "user 42", "é世界😀", strings.Repeat("x", 256)} {
		_, err := p.ExecuteInSession(t.Context(), id, "ping", nil)
		require.NoError(t, err, "%q", id)
	}
	assert.Equal(t, 4, p.Stats().Sessions)
	accounted(t, p)
}

func TestASessionOptionThatContradictsTheMethodIsRefused(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	_, err := p.ExecuteAnonymous(t.Context(), "ping", nil, WithSession("s"))
	failure(t, err, ErrInvalidArguments)
	_, err = p.ExecuteInSession(t.Context(), "s", "ping", nil, WithSession("other"))
	assert.Equal(t, "s", failure(t, err, ErrInvalidArguments).Context.Session)
	_, err = p.ExecuteInSession(t.Context(), "same", "ping", nil, WithSession("same"))
	require.NoError(t, err)
	out, err := Call[map[string]any](t.Context(), p, "echo_meta", nil, WithSession("typed"))
	require.NoError(t, err)
	assert.Equal(t, "typed", out["session_id"])
	n, err := p.ExecuteProgram(t.Context(), "double", args{"x": 21}, WithSession("program"))
	require.NoError(t, err)
	assert.Equal(t, 42, decoded[int](t, n))
	info, ok := p.Session("program")
	require.True(t, ok)
	assert.Equal(t, int64(1), info.Operations)
}

func TestSessionCountersAreExactUnderConcurrentUse(t *testing.T) {
	t.Parallel()
	table := newTable(1000)
	const goroutines, rounds = 16, 2000
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range rounds {
				table.leave(table.enter(fmt.Sprint("s", (g+i)%7)), i%4 == 0)
			}
		})
	}
	wg.Wait()
	var ops, errs int64
	for _, s := range table.list() {
		ops += s.Operations
		errs += s.Errors
	}
	assert.Equal(t, int64(goroutines*rounds), ops)
	assert.Equal(t, int64(goroutines*rounds/4), errs)
	assert.Equal(t, 7, table.size())
}

func TestTheSweepCannotRemoveASessionInUse(t *testing.T) {
	t.Parallel()
	table := newTable(1000)
	s := table.enter("s")
	table.sweep(-time.Hour) // everything is older than the future
	_, ok := table.get("s")
	require.True(t, ok)
	table.leave(s, false)
	table.sweep(-time.Hour)
	_, ok = table.get("s")
	require.False(t, ok)
	assert.Zero(t, table.size())
}

func TestUseAndRemovalAtTheSameTimeKeepTheCountRight(t *testing.T) {
	t.Parallel()
	var ended sync.Map
	table := newSessionTable(1000, func(id, why string) { n, _ := ended.LoadOrStore(id, 0); ended.Store(id, n.(int)+1) })
	stop := make(chan struct{})
	var sweepers, users sync.WaitGroup
	sweepers.Go(func() {
		for !isClosed(stop) {
			table.sweep(-time.Hour)
			table.end("s0")
			runtime.Gosched()
		}
	})
	for range 8 {
		users.Go(func() {
			for i := range 20000 {
				s := table.enter(fmt.Sprint("s", i%3))
				table.leave(s, false)
			}
		})
	}
	users.Wait()
	close(stop)
	sweepers.Wait()
	assert.Equal(t, len(table.list()), table.size(), "what the count says is what there is")
	table.sweep(-time.Hour)
	assert.Zero(t, table.size())
	assert.Empty(t, table.list())
}

func TestASessionEnteredWhileItIsBeingRemovedIsCountedOnce(t *testing.T) {
	t.Parallel()
	table := newTable(1000)
	s := table.enter("s")
	table.leave(s, false)
	require.True(t, s.users.CompareAndSwap(0, -1), "the sweep is between its two steps")
	entered := make(chan *session)
	go func() { entered <- table.enter("s") }()
	for range 1000 {
		runtime.Gosched()
	}
	assert.True(t, table.remove(s, sessionExpired), "the sweep alone removes it, and counts it")
	assert.NotSame(t, s, <-entered)
	assert.Equal(t, 1, table.size())
	assert.Len(t, table.list(), 1)
}

func TestEvictionForgetsTheLongestUnusedAndNeverACallInProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		why := map[string]string{}
		table := newSessionTable(10, func(id, cause string) { why[id] = cause })
		busy := table.enter("busy")
		for i := range 20 {
			time.Sleep(time.Millisecond)
			table.leave(table.enter(fmt.Sprint("s", i)), false)
			assert.LessOrEqual(t, table.size(), 10)
		}
		_, ok := table.get("busy")
		assert.True(t, ok, "the oldest, but in use")
		_, ok = table.get("s19")
		assert.True(t, ok)
		_, ok = table.get("s0")
		assert.False(t, ok)
		assert.Equal(t, sessionEvicted, why["s0"])
		table.leave(busy, false)
		assert.Len(t, table.list(), table.size())
	})
}

func TestMoreSessionsInUseThanMaxSessionsFailNoCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		f := &fleet{script: func(p *fakeProcess, req fakeRequest) bool { <-gate; return false }}
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command == "wait" {
				<-gate
			}
			return false
		}
		cfg := f.config(1)
		cfg.MaxSessions = 2
		p, err := New(t.Context(), cfg)
		require.NoError(t, err)
		defer p.Close()
		wait := inBackground(20, func(i int) (Result, error) {
			return p.ExecuteInSession(t.Context(), fmt.Sprint("s", i), "wait", nil)
		})
		synctest.Wait()
		assert.Equal(t, 20, p.Stats().Sessions, "all are in use")
		close(gate)
		for _, out := range wait() {
			require.NoError(t, out.err)
		}
		_, err = p.ExecuteInSession(t.Context(), "one more", "wait", nil)
		require.NoError(t, err)
		assert.LessOrEqual(t, p.Stats().Sessions, 2)
	})
}

func TestTheSessionTableHoldsAfterADeadlineAndACrash(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	_, err := p.ExecuteInSession(t.Context(), "s", "crash", nil)
	require.ErrorIs(t, err, ErrWorkerExited)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.ExecuteInSession(ctx, "s", "pid", nil)
	require.ErrorIs(t, err, ErrCanceled)
	info, ok := p.Session("s")
	require.True(t, ok)
	assert.Equal(t, int64(2), info.Operations)
	assert.Equal(t, int64(2), info.Errors)
}
