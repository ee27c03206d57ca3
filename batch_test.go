//go:build linux

package pypool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func batchPool(t *testing.T, change func(*Config)) *Pool {
	t.Helper()
	cfg := Config{
		Script: workerScript(t, "batch.py"), Python: realPython(), Size: 1, Overflow: -1, Logger: quiet(),
		OperationTimeout: 20 * time.Second, CheckoutTimeout: 20 * time.Second, Breaker: Breaker{Failures: -1},
	}
	if change != nil {
		change(&cfg)
	}
	return newPool(t, cfg)
}

// door is a file that a handler waits for.
type door struct {
	t    *testing.T
	path string
}

func newDoor(t *testing.T) door { return door{t, filepath.Join(t.TempDir(), "door")} }

func (d door) open() { require.NoError(d.t, os.WriteFile(d.path, nil, 0o600)) }

// occupy has one worker of the pool run until free is called.
func occupy(t *testing.T, p *Pool) (free func()) {
	t.Helper()
	started, gate, done := newDoor(t), newDoor(t), make(chan error, 1)
	go func() {
		_, err := p.ExecuteAnonymous(context.Background(), "sit", []any{started.path, gate.path})
		done <- err
	}()
	eventually(t, "the worker is busy", func() bool { _, err := os.Stat(started.path); return err == nil })
	return func() {
		gate.open()
		require.NoError(t, <-done)
	}
}

// crowd is calls that wait in the queue, in this order.
type crowd struct {
	t    *testing.T
	p    *Pool
	done []chan outcome
}

// join adds a call, and returns when it waits.
func (c *crowd) join(call func() (Result, error)) {
	c.t.Helper()
	before := c.p.Stats().Waiting
	done := make(chan outcome, 1)
	c.done = append(c.done, done)
	go func() {
		res, err := call()
		done <- outcome{res, err}
	}()
	eventually(c.t, "the call waits", func() bool { return c.p.Stats().Waiting == before+1 })
}

func (c *crowd) command(name string, args any, opts ...CallOption) {
	c.t.Helper()
	c.join(func() (Result, error) { return c.p.ExecuteAnonymous(context.Background(), name, args, opts...) })
}

func (c *crowd) outcomes() (all []outcome) {
	for _, done := range c.done {
		all = append(all, <-done)
	}
	return all
}

// together runs calls of one command as one batch: they wait for the pool's only worker.
func together(t *testing.T, p *Pool, command string, each ...any) []outcome {
	t.Helper()
	free := occupy(t, p)
	c := &crowd{t: t, p: p}
	for _, one := range each {
		c.command(command, one)
	}
	free()
	return c.outcomes()
}

func TestCallsThatWaitAreServedTogether(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	for i, o := range together(t, p, "sizes", []any{0}, args{"x": 1}, []any{2}, []any{3}) {
		require.NoError(t, o.err)
		require.Equal(t, []int{i, 4}, decoded[[]int](t, o.res))
	}
	require.Equal(t, []int{7, 1}, decoded[[]int](t, executed(t, p, "sizes", []any{7})), "who finds a worker idle does not wait for others")
	require.Equal(t, SizeDistribution{Count: 2, Sum: 5, P50: 4, P95: 4, P99: 4, Max: 4}, p.Stats().Batches)
}

func TestABatchIsCutAtItsSize(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	var sizes []int
	for _, o := range together(t, p, "threes", []any{0}, []any{1}, []any{2}, []any{3}, []any{4}, []any{5}, []any{6}) {
		require.NoError(t, o.err)
		sizes = append(sizes, decoded[int](t, o.res))
	}
	require.Equal(t, []int{3, 3, 3, 3, 3, 3, 1}, sizes)
}

func TestABatchIsCutWhereItsLineWouldBeTooLong(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.MaxMessageBytes = 64 << 10 })
	text := strings.Repeat("x", 30<<10)
	var sizes []int
	for _, o := range together(t, p, "large", []any{text}, []any{text}, []any{text}, []any{text[:100]}) {
		require.NoError(t, o.err)
		sizes = append(sizes, decoded[int](t, o.res))
	}
	require.Equal(t, []int{2, 2, 2, 2}, sizes)
}

func TestProgramsAndCoroutinesHaveBatchesToo(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	free := occupy(t, p)
	c := &crowd{t: t, p: p}
	for i := range 3 {
		c.join(func() (Result, error) { return p.ExecuteProgram(context.Background(), "double", args{"x": i}) })
	}
	free()
	for i, o := range c.outcomes() {
		require.NoError(t, o.err)
		require.Equal(t, []int{2 * i, 3}, decoded[[]int](t, o.res))
	}
	for i, o := range together(t, p, "later", []any{0}, []any{1}, []any{2}) {
		require.NoError(t, o.err)
		require.InDelta(t, float64(i)/2, decoded[float64](t, o.res), 0)
	}
	require.InDelta(t, 2.5, decoded[float64](t, executed(t, p, "later", []any{5})), 0)
}

func TestEachCallOfABatchHasItsOwnSessionDeadlineObserverAndStatistics(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ended := map[uint64]CallOutcome{}
	p := batchPool(t, func(c *Config) {
		c.OperationTimeout = -1
		c.Observer = &Observer{CallEnd: func(_ context.Context, info CallInfo, o CallOutcome) {
			mu.Lock()
			defer mu.Unlock()
			if info.Command == "who" {
				ended[info.RequestID] = o
			}
		}}
	})
	free := occupy(t, p)
	c := &crowd{t: t, p: p}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c.join(func() (Result, error) { return p.ExecuteInSession(context.Background(), "anna", "who", []any{0}) })
	c.join(func() (Result, error) {
		return p.ExecuteAnonymous(context.Background(), "who", []any{1}, WithTimeout(time.Minute))
	})
	c.join(func() (Result, error) { return p.ExecuteInSession(ctx, "berta", "who", []any{2}) })
	c.command("who", []any{"x", "y"})
	free()
	type seen struct {
		X        int
		ID       uint64
		Session  *string
		Deadline bool
		Message  string
	}
	var sessions []string
	var deadlines []bool
	outcomes := c.outcomes()
	for i, o := range outcomes[:3] {
		require.NoError(t, o.err)
		s := decoded[seen](t, o.res)
		require.Equal(t, i, s.X)
		require.Equal(t, "a batch is running: current_calls() lists its calls", s.Message)
		require.NoError(t, ended[s.ID].Err)
		require.NotEmpty(t, ended[s.ID].Worker)
		require.Positive(t, ended[s.ID].Ran)
		require.Positive(t, ended[s.ID].Queued)
		sessions = append(sessions, "-")
		if s.Session != nil {
			sessions[i] = *s.Session
		}
		deadlines = append(deadlines, s.Deadline)
	}
	require.Equal(t, []string{"anna", "-", "berta"}, sessions)
	require.Equal(t, []bool{false, true, true}, deadlines)
	refused := failure(t, outcomes[3].err, ErrInvalidArguments)
	require.Equal(t, NotExecuted, refused.Delivery, "a bad argument refuses its own call, before the batch is made")
	require.Contains(t, refused.Error(), "takes at most 1 argument, got 2")
	st := p.Stats()
	require.EqualValues(t, 5, st.Started)
	require.EqualValues(t, 4, st.Succeeded)
	require.Equal(t, map[ErrorType]int64{TypeInvalidArguments: 1}, st.ByType)
	info, ok := p.Session("anna")
	require.True(t, ok)
	require.EqualValues(t, 1, info.Operations)
}

func TestACallsErrorInABatchIsItsOwn(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	out := together(t, p, "picky", []any{1}, []any{-2}, []any{0}, args{"z": 1}, []any{5})
	require.NoError(t, out[0].err)
	require.NoError(t, out[4].err)
	require.Equal(t, 5, decoded[int](t, out[4].res))
	raised := failure(t, out[1].err, ErrPython)
	require.Equal(t, "negative: -2", detail[*PythonError](t, raised).Message)
	require.Equal(t, Executed, raised.Delivery)
	bad := failure(t, out[2].err, ErrInvalidResult)
	require.Equal(t, "$", detail[*InvalidResultError](t, bad).Path)
	require.Equal(t, NotExecuted, failure(t, out[3].err, ErrInvalidArguments).Delivery)
	require.EqualValues(t, 6, p.Workers()[0].Calls)
}

// unreadable is JSON to Go, and a number too large for Python's floats.
var unreadable = json.RawMessage("1e999")

// The batch's number is the highest of all its ids, that of the refused one too.
func TestACallOfABatchThatPythonCannotReadIsRefusedAlone(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.Functions = Functions{"echo": echoFunction()} })
	before := pids(p)
	for i, o := range together(t, p, "echoed", []any{0}, []any{1}, []any{unreadable}) {
		if i == 2 {
			require.Equal(t, NotExecuted, failure(t, o.err, ErrInvalidArguments).Delivery)
			continue
		}
		require.NoError(t, o.err)
		require.Equal(t, i, decoded[int](t, o.res))
	}
	var items []any
	for i := range 100 {
		items = append(items, i)
		if i%3 == 2 {
			items[i] = []any{unreadable}
		}
	}
	i := 0
	for got, err := range Map[int](context.Background(), p, "echoed", slices.Values(items)) {
		if i%3 == 2 {
			require.ErrorIs(t, err, ErrInvalidArguments)
		} else {
			require.NoError(t, err)
			require.Equal(t, i, got)
		}
		i++
	}
	require.Equal(t, 100, i)
	require.Equal(t, before, pids(p))
}

func TestABatchWithACallThatPythonCannotReadIsStopped(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.CancelGrace = 20 * time.Second })
	before, n, gate := pids(p), newNotes(t), newDoor(t)
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	free := occupy(t, p)
	c := &crowd{t: t, p: p}
	for _, x := range []any{0, 1, unreadable} {
		c.join(func() (Result, error) { return p.ExecuteAnonymous(ctx, "hold", []any{x, n.path, gate.path}) })
	}
	free()
	n.await("held2")
	leave()
	for _, o := range c.outcomes() {
		require.ErrorIs(t, o.err, ErrCanceled)
	}
	n.await("held2", "Canceled")
	executed(t, p, "sizes", []any{1})
	require.Equal(t, before, pids(p))
}

func TestWhatAHandlerRaisesFailsTheWholeBatch(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	ids := map[uint64]bool{}
	for _, o := range together(t, p, "boom", []any{1}, []any{2}, []any{3}) {
		e := failure(t, o.err, ErrPython)
		require.Equal(t, Executed, e.Delivery)
		require.Equal(t, "'all 3 of them'", detail[*PythonError](t, e).Message)
		require.Equal(t, "boom", detail[*PythonError](t, e).Function)
		ids[e.Context.RequestID] = true
	}
	require.Len(t, ids, 3)
}

func TestResultsThatAreNotOneForEachCall(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	for command, words := range map[string]string{
		"short": "the list has 2 results, for a batch of 3 calls", "scalar": "a batch of 3 calls takes a list of as many results, not a number",
	} {
		for _, o := range together(t, p, command, []any{1}, []any{2}, []any{3}) {
			e := failure(t, o.err, ErrInvalidResult)
			require.Equal(t, Executed, e.Delivery)
			require.Contains(t, e.Error(), words)
		}
	}
	_, err := p.ExecuteAnonymous(context.Background(), "short", []any{1})
	require.Contains(t, failure(t, err, ErrInvalidResult).Error(), "the list has 0 results, for a batch of 1 call")
}

func TestABatchHasThePlaceOfItsFirstCallInTheQueue(t *testing.T) {
	t.Parallel()
	p, n := batchPool(t, nil), newNotes(t)
	free := occupy(t, p)
	c := &crowd{t: t, p: p}
	c.command("plain", []any{n.path, "a"})
	c.command("logged", []any{n.path, "b"})
	c.command("plain", []any{n.path, "c"})
	c.command("logged", []any{n.path, "d"})
	c.command("plain", []any{n.path, "e"})
	free()
	for _, o := range c.outcomes() {
		require.NoError(t, o.err)
	}
	require.Equal(t, []string{"a", "b+d", "c", "e"}, n.read())
}

func TestAFirstCallWaitsForCompanyAndHoldsNoWorker(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	c := &crowd{t: t, p: p}
	for i := range 7 {
		c.command("patient", []any{i})
	}
	require.Equal(t, 1, p.Stats().Idle)
	executed(t, p, "sizes", []any{1}) // the worker serves others meanwhile
	done := make(chan outcome, 1)
	go func() {
		res, err := p.ExecuteAnonymous(context.Background(), "patient", []any{7})
		done <- outcome{res, err}
	}()
	c.done = append(c.done, done)
	for _, o := range c.outcomes() {
		require.NoError(t, o.err)
		require.Equal(t, 8, decoded[int](t, o.res), "a full batch waits no longer")
	}
}

func TestTheWaitForCompanyEnds(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	begun := time.Now()
	require.Equal(t, 1, decoded[int](t, executed(t, p, "hasty", []any{newNotes(t).path, "x"})))
	require.GreaterOrEqual(t, time.Since(begun), 20*time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	res, err := p.ExecuteAnonymous(ctx, "patient", []any{1}) // it would wait for longer than the caller has time
	require.NoError(t, err)
	require.Equal(t, 1, decoded[int](t, res))
}

func TestACallThatWaitsForCompanyKeepsItsPlace(t *testing.T) {
	t.Parallel()
	p, n := batchPool(t, nil), newNotes(t)
	free := occupy(t, p)
	c := &crowd{t: t, p: p}
	c.command("hasty", []any{n.path, "first"})
	c.command("plain", []any{n.path, "second"})
	eventually(t, "its wait is over", func() bool { return !unripe(p) })
	free()
	for _, o := range c.outcomes() {
		require.NoError(t, o.err)
	}
	require.Equal(t, []string{"first", "second"}, n.read())
}

// unripe reports whether the first in the queue waits for company.
func unripe(p *Pool) bool {
	c := p.sup.checkout
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.first != nil && !c.queue.first.ripe()
}

func TestTheQueuesBoundsAreEachCallers(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.MaxQueue = 3 })
	free := occupy(t, p)
	c := &crowd{t: t, p: p}
	ctx, cancel := context.WithCancel(context.Background())
	c.join(func() (Result, error) { return p.ExecuteAnonymous(ctx, "sizes", []any{0}) })
	c.command("sizes", []any{1}, WithCheckoutTimeout(2*time.Second)) // it is to be seen in the queue
	c.command("sizes", []any{2})
	_, err := p.ExecuteAnonymous(context.Background(), "sizes", []any{3})
	require.ErrorIs(t, err, ErrQueueFull)
	cancel()
	left := failure(t, (<-c.done[0]).err, ErrCanceled)
	require.Equal(t, NotExecuted, left.Delivery)
	require.Equal(t, NotExecuted, failure(t, (<-c.done[1]).err, ErrCheckoutTimeout).Delivery)
	free()
	o := <-c.done[2]
	require.NoError(t, o.err)
	require.Equal(t, []int{2, 1}, decoded[[]int](t, o.res))
}

// holding has three callers in a running batch of "hold" or the like.
func holding(t *testing.T, p *Pool, command string, opts ...CallOption) (c *crowd, cancel []context.CancelFunc, n notebook, gate door) {
	t.Helper()
	n, gate = newNotes(t), newDoor(t)
	free := occupy(t, p)
	c = &crowd{t: t, p: p}
	for i := range 3 {
		ctx, stop := context.WithCancel(context.Background())
		t.Cleanup(stop)
		cancel = append(cancel, stop)
		c.join(func() (Result, error) {
			return p.ExecuteAnonymous(ctx, command, []any{i, n.path, gate.path}, opts...)
		})
	}
	free()
	n.await("held3")
	return c, cancel, n, gate
}

func TestWhoLeavesARunningBatchLeavesTheOthersInIt(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.CancelGrace = 20 * time.Second })
	before := pids(p)
	c, cancel, n, gate := holding(t, p, "hold")
	cancel[1]()
	require.Equal(t, MaybeExecuted, failure(t, (<-c.done[1]).err, ErrCanceled).Delivery)
	require.Equal(t, []string{"held3"}, n.read())
	gate.open()
	for _, i := range []int{0, 2} {
		o := <-c.done[i]
		require.NoError(t, o.err)
		require.Equal(t, 3, decoded[int](t, o.res))
	}
	n.await("held3", "done")
	require.Equal(t, before, pids(p))
}

// Each batch that has its worker replaced costs one, whoever of its callers is there to be told.
func TestABatchThatRetiresItsWorkerIsChargedOnce(t *testing.T) {
	t.Parallel()
	for _, leavers := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("%d leave", leavers), func(t *testing.T) {
			t.Parallel()
			p := batchPool(t, func(c *Config) {
				c.CancelGrace, c.Breaker = 20*time.Second, Breaker{Failures: 3, OpenFor: time.Hour}
				c.RestartBackoff = Backoff{Min: 5 * time.Millisecond, Max: 50 * time.Millisecond}
			})
			for range 3 {
				before := pids(p)[0]
				require.Equal(t, circuitClosed, p.sup.breakers.state("spoil"))
				c, cancel, _, gate := holding(t, p, "spoil")
				for i := range leavers {
					cancel[i]()
					failure(t, (<-c.done[i]).err, ErrCanceled)
				}
				gate.open()
				for _, done := range c.done[leavers:] {
					require.ErrorContains(t, failure(t, (<-done).err, ErrPython), "; its worker is replaced: ")
				}
				eventually(t, "it is replaced", func() bool { return serving(p) && pids(p)[0] != before })
			}
			require.Equal(t, circuitOpen, p.sup.breakers.state("spoil"))
		})
	}
}

func TestABatchIsStoppedWhenAllHaveLeft(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.CancelGrace = 20 * time.Second })
	before := pids(p)
	c, cancel, n, _ := holding(t, p, "hold")
	for i := range 3 {
		cancel[i]()
		require.ErrorIs(t, (<-c.done[i]).err, ErrCanceled)
	}
	n.await("held3", "Canceled")
	require.Equal(t, []int{1, 1}, decoded[[]int](t, executed(t, p, "sizes", []any{1})))
	require.Equal(t, before, pids(p), "its worker serves on")
}

func TestADeadlineOfOneInABatchIsItsOwn(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.CancelGrace, c.KillGrace = 20*time.Second, stackGrace })
	n, gate := newNotes(t), newDoor(t)
	free := occupy(t, p)
	c := &crowd{t: t, p: p}
	c.command("hold", []any{0, n.path, gate.path})
	c.command("hold", []any{1, n.path, gate.path}, WithTimeout(time.Second)) // a first call imports
	free()
	e := failure(t, (<-c.done[1]).err, ErrOperationTimeout)
	require.Equal(t, MaybeExecuted, e.Delivery)
	require.Contains(t, detail[*HangError](t, e).Stacks, "in hold")
	require.False(t, detail[*HangError](t, e).Killed)
	gate.open()
	require.NoError(t, (<-c.done[0]).err)
}

func TestABatchWhoseTimeIsOverIsStopped(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) {
		c.CancelGrace, c.OperationTimeout, c.Breaker = 20*time.Second, 300*time.Millisecond, Breaker{Failures: 1, OpenFor: time.Hour}
		c.KillGrace = stackGrace
	})
	n, gate := newNotes(t), newDoor(t)
	c := &crowd{t: t, p: p}
	free := occupy(t, p)
	for i := range 3 {
		c.command("hold", []any{i, n.path, gate.path})
	}
	free()
	for _, o := range c.outcomes() {
		require.Contains(t, detail[*HangError](t, failure(t, o.err, ErrOperationTimeout)).Stacks, "in hold")
	}
	n.await("held3", "Canceled")
	executed(t, p, "sizes", []any{1})
}

func TestABatchThatDoesNotStopIsKilledAndChargedOnce(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) {
		c.CancelGrace, c.OperationTimeout, c.Breaker = 50*time.Millisecond, 300*time.Millisecond, Breaker{Failures: 2, OpenFor: time.Hour}
	})
	for round := range 2 {
		n, gate := newNotes(t), newDoor(t)
		c := &crowd{t: t, p: p}
		free := occupy(t, p)
		for i := range 3 {
			c.command("stubborn", []any{i, n.path, gate.path})
		}
		pid := pids(p)[0]
		free()
		for _, o := range c.outcomes() {
			require.ErrorIs(t, o.err, ErrOperationTimeout, round)
		}
		eventually(t, "it is killed and replaced", func() bool { list := pids(p); return len(list) == 1 && list[0] != pid && serving(p) })
	}
	_, err := p.ExecuteAnonymous(context.Background(), "stubborn", []any{0, "", ""})
	require.ErrorIs(t, err, ErrCircuitOpen, "three callers of one batch count as one lost worker: this is the second")
}

func TestCancelGraceBelowZeroKillsABatchThatAllHaveLeft(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.CancelGrace = -1 })
	before := pids(p)
	c, cancel, _, _ := holding(t, p, "hold")
	cancel[0]()
	require.False(t, detail[*HangError](t, (<-c.done[0]).err).Killed)
	cancel[1]()
	require.False(t, detail[*HangError](t, (<-c.done[1]).err).Killed)
	cancel[2]()
	require.True(t, detail[*HangError](t, (<-c.done[2]).err).Killed)
	require.Equal(t, []int{1, 1}, decoded[[]int](t, executed(t, p, "sizes", []any{1})))
	require.NotEqual(t, before, pids(p))
}

func TestAWorkerThatDiesInABatch(t *testing.T) {
	t.Parallel()
	for how, sentinel := range map[string]error{"exit": ErrWorkerExited, "kill": ErrWorkerExited, "close": ErrProtocol} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			p := batchPool(t, func(c *Config) { c.Breaker = Breaker{Failures: 2, OpenFor: time.Hour} })
			executed(t, p, "sizes", []any{1}) // the thread that would say that its channel is closed watches by now
			ids := map[uint64]bool{}
			for _, o := range together(t, p, "die", []any{0, how}, []any{1, how}, []any{2, how}) {
				e := failure(t, o.err, sentinel)
				require.Equal(t, MaybeExecuted, e.Delivery)
				require.Equal(t, "die", e.Context.Command)
				ids[e.Context.RequestID] = true
			}
			require.Len(t, ids, 3, "each error is its call's own")
			executed(t, p, "die", []any{0, "not at all"}) // the circuit is not open: one worker was lost, not three
		})
	}
}

func TestAWorkerThatDiesBeforeItHasReadABatchCostsNobody(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	doomed := make(chan error, 1)
	started := newDoor(t)
	go func() {
		_, err := p.ExecuteAnonymous(context.Background(), "sit", []any{started.path, "never"})
		doomed <- err
	}()
	eventually(t, "the worker is busy", func() bool { _, err := os.Stat(started.path); return err == nil })
	c := &crowd{t: t, p: p}
	for i := range 3 {
		c.command("sizes", []any{i})
	}
	pid := pids(p)[0]
	proc, err := os.FindProcess(pid)
	require.NoError(t, err)
	require.NoError(t, proc.Kill())
	require.ErrorIs(t, <-doomed, ErrWorkerExited)
	for i, o := range c.outcomes() {
		require.NoError(t, o.err)
		require.Equal(t, []int{i, 3}, decoded[[]int](t, o.res))
	}
}

func TestAPoolThatClosesDuringABatch(t *testing.T) {
	t.Parallel()
	t.Run("Close", func(t *testing.T) {
		t.Parallel()
		p := batchPool(t, nil)
		c, _, _, _ := holding(t, p, "hold")
		require.NoError(t, p.Close())
		for _, o := range c.outcomes() {
			require.Equal(t, MaybeExecuted, failure(t, o.err, ErrPoolClosed).Delivery)
		}
	})
	t.Run("Shutdown", func(t *testing.T) {
		t.Parallel()
		p := batchPool(t, nil)
		c, _, _, gate := holding(t, p, "hold")
		done := make(chan error, 1)
		go func() { done <- p.Shutdown(context.Background()) }()
		eventually(t, "the pool is closing", func() bool { return isClosed(p.closing) })
		gate.open()
		for _, o := range c.outcomes() {
			require.NoError(t, o.err, "who runs finishes")
		}
		require.NoError(t, <-done)
	})
	t.Run("while it waits for company", func(t *testing.T) {
		t.Parallel()
		p := batchPool(t, nil)
		c := &crowd{t: t, p: p}
		c.command("patient", []any{1})
		require.NoError(t, p.Close())
		for _, o := range c.outcomes() {
			require.Equal(t, NotExecuted, failure(t, o.err, ErrPoolClosed).Delivery)
		}
	})
}

func TestLargeResultsOfABatch(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.MaxMessageBytes = 1 << 20 })
	sizes := []int{10, 300_000, 5, 2 << 20, 100_000, 1}
	var each []any
	for _, n := range sizes {
		each = append(each, []any{n})
	}
	for i, o := range together(t, p, "grow", each...) {
		if sizes[i] > 1<<20 {
			require.Equal(t, Executed, failure(t, o.err, ErrMessageTooLarge).Delivery)
			continue
		}
		require.NoError(t, o.err)
		require.Len(t, decoded[string](t, o.res), sizes[i])
	}
}

func TestCommandsDescribeABatchAsItIsCalled(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	list, err := p.Commands(context.Background())
	require.NoError(t, err)
	for _, c := range list {
		switch c.Name {
		case "picky":
			require.Equal(t, "(x: int, y: Optional[int] = None) -> int", c.Signature)
			require.Equal(t, 8, c.MaxBatchSize)
			require.Equal(t, []ParamInfo{{Name: "x", Type: "int", Required: true}, {Name: "y", Type: "Optional[int]", Default: json.RawMessage("null")}}, c.Params)
		case "hasty":
			require.InDelta(t, 20, c.MaxWaitMS, 0)
		case "sit":
			require.Zero(t, c.MaxBatchSize)
		}
	}
}

func TestManyCallersOfABatchCommand(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.Size = 2 })
	var callers sync.WaitGroup
	errs := make(chan error, 64)
	for i := range 64 {
		callers.Go(func() {
			for k := range 50 {
				x := i*1000 + k
				got, err := Call[[]int](context.Background(), p, "sizes", []any{x})
				if err != nil || got[0] != x {
					errs <- errors.Join(err, fmt.Errorf("sent %d, got %v", x, got))
					return
				}
			}
		})
	}
	callers.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	st := p.Stats()
	require.EqualValues(t, 64*50, st.Succeeded)
	require.Less(t, st.Batches.Count, int64(64*50))
	require.Equal(t, 8, st.Batches.Max)
}

func TestOverflowCountsBatchesNotCallers(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.Overflow = 3 })
	free := occupy(t, p)
	c := &crowd{t: t, p: p}
	for i := range 6 {
		c.command("patient", []any{i})
	}
	eventually(t, "a worker has been started", func() bool { return p.Stats().Idle == 1 })
	c.command("patient", []any{6})
	require.EqualValues(t, 2, p.Stats().WorkersStarted, "for six callers that wait for one batch")
	last := make(chan outcome, 1)
	c.done = append(c.done, last)
	go func() {
		res, err := p.ExecuteAnonymous(context.Background(), "patient", []any{7})
		last <- outcome{res, err}
	}()
	for _, o := range c.outcomes() {
		require.NoError(t, o.err)
		require.Equal(t, 8, decoded[int](t, o.res))
	}
	free()
}

// Callers come and leave at random, and each that stays has its own result.
func TestCallersWhoLeaveBatchesAtRandomInstants(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.Size = 2 })
	before := p.Stats().WorkersStarted
	var callers sync.WaitGroup
	errs := make(chan error, 32)
	for i := range 32 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(i)))
			for k := range 60 {
				ctx, cancel := context.WithCancel(context.Background())
				stop := time.AfterFunc(time.Duration(r.IntN(6000))*time.Microsecond, cancel)
				x := i*1000 + k
				got, err := Call[[]int](ctx, p, "sleepy", []any{x})
				stop.Stop()
				cancel()
				if !errors.Is(err, ErrCanceled) && (err != nil || got[0] != x) {
					errs <- errors.Join(err, fmt.Errorf("sent %d, got %v", x, got))
					return
				}
			}
		})
	}
	callers.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	eventually(t, "all workers serve", func() bool { return serving(p) })
	st := p.Stats()
	require.EqualValues(t, 32*60, st.Succeeded+st.Failed)
	require.Equal(t, before, st.WorkersStarted, "no worker was lost")
}

func TestMapMakesBatchesOfItsItems(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.Size = 2 })
	n, sizes := 0, map[int]int{}
	for got, err := range Map[[]int](context.Background(), p, "sizes", numbers(1000)) {
		require.NoError(t, err)
		require.Equal(t, n, got[0])
		sizes[got[1]]++
		n++
	}
	require.Equal(t, 1000, n)
	require.Greater(t, sizes[8], 900, "nearly all batches are full: %v", sizes)
	st := p.Stats()
	require.EqualValues(t, 1000, st.Succeeded)
	require.Equal(t, 8, st.Batches.Max)
	require.Less(t, st.Batches.Count, int64(150))
}

func numbers(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := 0; i < n && yield(i); i++ {
		}
	}
}

func TestAnItemsErrorInABatchOfAMapIsItsOwn(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	i := 0
	items := func(yield func(int) bool) {
		for n := range 100 {
			if n%10 == 3 {
				n = -n
			}
			if !yield(n + 1) {
				return
			}
		}
	}
	for got, err := range Map[int](context.Background(), p, "picky", items) {
		switch {
		case i%10 == 3:
			require.ErrorIs(t, err, ErrPython)
		default:
			require.NoError(t, err)
			require.Equal(t, i+1, got)
		}
		i++
	}
	require.Equal(t, 100, i)
}

func TestAWorkerThatDiesInABatchOfAMap(t *testing.T) {
	t.Parallel()
	p := batchPool(t, nil)
	type item struct {
		X   int    `json:"x"`
		How string `json:"how"`
	}
	items := func(yield func(item) bool) {
		for i := range 200 {
			how := ""
			if i == 100 {
				how = "exit"
			}
			if !yield(item{i, how}) {
				return
			}
		}
	}
	i, lost := 0, 0
	for got, err := range Map[int](context.Background(), p, "diesome", items) {
		if err != nil {
			require.Equal(t, MaybeExecuted, failure(t, err, ErrWorkerExited).Delivery)
			lost++
		} else {
			require.Equal(t, i, got)
		}
		i++
	}
	require.Equal(t, 200, i)
	require.Positive(t, lost)
	require.LessOrEqual(t, lost, 8, "one batch")
}

func TestAHandlerSeesThatAllCallersOfItsBatchHaveGone(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.CancelGrace = 20 * time.Second })
	c, cancel, n, _ := holding(t, p, "polite")
	for i, stop := range cancel {
		require.Equal(t, []string{"held3"}, n.read())
		stop()
		require.ErrorIs(t, (<-c.done[i]).err, ErrCanceled)
	}
	n.await("held3", "seen")
}

func TestABatchOfAMapThatIsLateStopsAndThoseBehindItGoOn(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.CancelGrace = 20 * time.Second })
	losesOneBatch(t, p, "late", 500*time.Millisecond, 8)
}

// losesOneBatch runs a Map of which the batch that has 100 in it is late, and stops: no other item
// is lost, and no worker.
func losesOneBatch(t *testing.T, p *Pool, command string, limit time.Duration, size int) {
	t.Helper()
	before := pids(p)
	i, late := 0, 0
	for got, err := range Map[int](context.Background(), p, command, numbers(200), WithTimeout(limit)) {
		if err != nil {
			require.Equal(t, MaybeExecuted, failure(t, err, ErrOperationTimeout).Delivery)
			late++
		} else {
			require.Equal(t, i, got)
		}
		i++
	}
	require.Equal(t, 200, i)
	require.Positive(t, late)
	require.LessOrEqual(t, late, size, "one batch")
	require.Equal(t, before, pids(p))
}

func TestABatchOfAMapThatIsLateMayCallFunctionsUntilItHasStopped(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) {
		c.CancelGrace = 20 * time.Second
		c.Functions = Functions{"echo": Func(func(_ context.Context, in struct {
			Value int `json:"value"`
		}) (int, error) {
			return in.Value, nil
		})}
	})
	losesOneBatch(t, p, "late_tells", time.Second, 4)
}

// A reply that the worker has not read says nothing of its request.
func TestABatchWhoseWorkerDiesBeforeItReadsAReplyMayHaveRun(t *testing.T) {
	t.Parallel()
	n := newNotes(t)
	var p *Pool
	var killing sync.WaitGroup
	p = batchPool(t, func(c *Config) {
		c.Functions = Functions{"ask": Func(func(_ context.Context, in struct {
			PID int `json:"pid"`
		}) (any, error) {
			stop(t, in.PID)
			w := p.sup.workers()[0]
			killing.Go(func() {
				eventually(t, "the reply is in the pipe", func() bool { return unbegun(w) > 0 })
				require.NoError(t, syscall.Kill(in.PID, syscall.SIGKILL))
			})
			return nil, nil
		})}
	})
	for _, o := range together(t, p, "asks", []any{1, n.path}, []any{2, n.path}) {
		require.Equal(t, MaybeExecuted, failure(t, o.err, ErrWorkerExited).Delivery)
	}
	killing.Wait()
	require.Equal(t, []string{"begun2"}, n.read())
}

func TestTheEndOfAMapsContextStopsABatch(t *testing.T) {
	t.Parallel()
	p := batchPool(t, func(c *Config) { c.KillGrace = 20 * time.Second })
	before := pids(p)
	ctx, cancel := context.WithCancel(context.Background())
	var last error
	i := 0
	for _, err := range Map[int](ctx, p, "late", numbers(200)) {
		if last = err; i == 90 {
			cancel()
		}
		i++
	}
	cancel()
	require.ErrorIs(t, last, ErrCanceled)
	executed(t, p, "sizes", []any{1})
	require.Equal(t, before, pids(p))
}
