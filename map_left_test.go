//go:build linux

package pypool

import (
	"context"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Who waits for a worker with an item when the loop is left has nothing to send any more.
func TestALoopThatWasLeftHasNoItemSentThatWaitedForAWorker(t *testing.T) {
	t.Parallel()
	const size = 4
	p, n, gate := batchPool(t, func(c *Config) { c.Size, c.StopGrace = size, 20*time.Second }), newNotes(t), newDoor(t)
	var free []func()
	for range size {
		free = append(free, occupy(t, p))
	}
	items := func(yield func([]any) bool) {
		for i := 0; yield([]any{i, n.path, gate.path}); i++ {
		}
		gate.open() // nothing more is wanted
	}
	done := make(chan error, 1)
	go func() {
		for _, err := range Map[int](context.Background(), p, "turn", iter.Seq[[]any](items)) {
			done <- err
			break
		}
		close(done)
	}()
	eventually(t, "each lane waits with an item", func() bool { return p.Stats().Waiting == size })
	free[0]() // the one worker that all lanes take turns at
	require.NoError(t, <-done)
	<-done
	require.LessOrEqual(t, len(n.read()), 2, "the first item, and the one that was in flight: %v", n.read())
	for _, open := range free[1:] {
		open()
	}
	accounted(t, p)
}

// An answer does not wait for what has come behind it, and what comes behind it has all its time.
func TestAnItemThatCallsAFunctionBehindAnAnswerHoldsNobodyUp(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.able = `["page","functions"]`
		const slow = 50  // by then as many items as it likes are in the pipe
		var ids []uint64 // of the requests, in the hands of the process's one goroutine
		answered := 0
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			switch {
			case req.Command == "work":
				switch ids = append(ids, req.ID); {
				case len(ids) <= slow, answered > slow+1:
					p.reply(req.ID, fmt.Sprint(answered))
					answered++
				case len(ids) == slow+2:
					p.pause(900 * time.Millisecond)
					p.say(fmt.Sprintf(`{"id":%d,"success":true,"result":%d}`+"\n"+`{"id":%d,"host":1,"function":"look","args":{}}`+"\n", ids[slow], slow, ids[slow+1]))
					answered++
				}
				return true
			case req.Host == 1:
				p.pause(300 * time.Millisecond)
				for _, id := range ids[answered:] {
					p.reply(id, fmt.Sprint(answered))
					answered++
				}
				return true
			}
			return false
		}
		cfg := f.config(1)
		had := make(chan struct{})
		cfg.Functions = Functions{"look": Func(func(ctx context.Context, _ struct{}) (any, error) {
			select {
			case <-had:
				return nil, ctx.Err()
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})}
		p := open(t, cfg)
		defer p.Close()
		i := 0
		for got, err := range Map[int](t.Context(), p, "work", numbers(2*slow), WithTimeout(time.Second)) {
			require.NoError(t, err, "item %d", i)
			require.Equal(t, i, got)
			if i++; i == slow+1 {
				close(had)
			}
		}
		require.Equal(t, 2*slow, i)
	})
}

// Items that found no room in the pipe before ctx's end are told of when nobody holds the worker any
// more: an Observer may do with the pool what it likes.
func TestTheUnsentItemsOfAnEndedMapHoldNoWorkerInCallEnd(t *testing.T) {
	for name, does := range map[string]func(p *Pool) error{
		"calls the pool":  func(p *Pool) error { _, err := p.ExecuteAnonymous(bg, "other", nil); return err },
		"closes the pool": (*Pool).Close,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				f.able = `["page","cancel"]`
				ctx, cancel := context.WithCancel(bg)
				defer cancel()
				f.script = func(p *fakeProcess, req fakeRequest) bool {
					p.pipe.full.Store(req.Command == "work") // a Map waits for room for one request, and has the others wait
					if string(req.Args) == "[110]" {
						cancel()
						p.pause(time.Millisecond) // the lane has noticed
					}
					return false
				}
				var p *Pool
				var once sync.Once
				unsent := 0
				cfg := f.config(1)
				cfg.Observer = &Observer{CallEnd: func(_ context.Context, info CallInfo, outcome CallOutcome) {
					if e := failureOf(outcome.Err); info.Command == "work" && e != nil && e.Context.Worker != "" && e.Delivery == NotExecuted {
						unsent++
						once.Do(func() { assert.NoError(t, does(p)) })
					}
				}}
				p = open(t, cfg)
				defer p.Close()
				for range Map[any](ctx, p, "work", count(100, 200)) {
				}
				assert.Positive(t, unsent)
			})
		})
	}
}

// What waits in the host's memory for room in the pipe is not sent any more once the loop is left,
// or the pool is being closed.
func TestAMapThatEndsSendsNothingThatWaitsForRoomInThePipe(t *testing.T) {
	t.Parallel()
	const fast, most = 300, 16 // most: what the pipe, and the worker, have taken of requests of 16 KB
	for _, way := range []string{"left", "shut down"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			n, gate := newNotes(t), newDoor(t)
			p := newPool(t, Config{Script: script(t, `
import os, time
from pypool import command
@command
def f(i: int, log: str, gate: str, weight: str) -> int:
    if i >= `+fmt.Sprint(fast)+`:
        with open(log, "a") as notes: notes.write("%d\n" % i)
        while not os.path.exists(gate): time.sleep(0.002)
    return i
`), Python: realPython(), Size: 1, Overflow: -1, Logger: quiet(), StopGrace: 20 * time.Second, OperationTimeout: time.Minute})
			items := func(yield func([]any) bool) {
				weight := ""
				for i := 0; yield([]any{i, n.path, gate.path, weight}); i++ {
					if i >= fast {
						weight = strings.Repeat("w", 16<<10)
					}
				}
				gate.open() // the loop is over
			}
			closed := make(chan error, 1)
			next := 0
			for got, err := range Map[int](t.Context(), p, "f", iter.Seq[[]any](items)) {
				if err != nil {
					require.Equal(t, "shut down", way)
					failsWith(t, err, ErrPoolClosed, NotExecuted)
					break
				}
				require.Equal(t, next, got)
				if next++; next != fast {
					continue
				}
				eventually(t, "the first slow one runs", func() bool { return len(n.read()) > 0 })
				if way == "left" {
					break
				}
				go func() { closed <- p.Shutdown(context.Background()) }() // joined below
				<-p.closing
				gate.open()
			}
			if way == "shut down" {
				require.NoError(t, <-closed)
			}
			require.LessOrEqual(t, len(n.read()), most, "%v", n.read())
			accounted(t, p)
		})
	}
}

// slowResult is a result whose decoding takes longer than an item may, now and then.
type slowResult int

const (
	slowEach = 500
	slowFor  = 2 * time.Second
)

func (s *slowResult) UnmarshalJSON(b []byte) error {
	n, err := strconv.Atoi(string(b))
	if *s = slowResult(n); n%slowEach == slowEach-1 {
		time.Sleep(slowFor)
	}
	return err
}

// The time that the caller's code has taken is not the next item's.
func TestSlowCodeOfTheCallersCostsNoItemOfAMap(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Script: script(t, `
from pypool import command
@command
def f(i: int, weight: str) -> int:
    return i
`), Python: realPython(), Size: 1, Overflow: -1, Logger: quiet()})
	before := pids(p)
	weight := strings.Repeat("w", 16<<10)
	items := func(yield func([]any) bool) {
		for i := 0; i < 6*slowEach && yield([]any{i, weight}); i++ {
		}
	}
	next := 0
	for got, err := range Map[slowResult](t.Context(), p, "f", iter.Seq[[]any](items), WithTimeout(slowFor/2)) { // a busy machine takes its time
		require.NoError(t, err, "item %d", next)
		require.Equal(t, slowResult(next), got)
		next++
	}
	require.Equal(t, 6*slowEach, next)
	require.Equal(t, before, pids(p))
}
