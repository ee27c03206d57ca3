package pypool

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestLoadOf64CallersIsAccountedExactlyAndEachGetsItsOwnAnswer(t *testing.T) {
	t.Parallel()
	const callers, calls = 64, 60
	p := corePool(t, 3, 1)
	var succeeded, raised, refused atomic.Int64
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			session := fmt.Sprint("s", caller%8)
			for i := range calls {
				switch own := fmt.Sprintf("%d/%d", caller, i); i % 10 {
				case 7:
					_, err := p.ExecuteInSession(t.Context(), session, "fail", args{"message": own})
					if assert.ErrorIs(t, err, ErrPython) && assert.Equal(t, own, detail[*PythonError](t, err).Message) {
						raised.Add(1)
					}
				case 9:
					_, err := p.ExecuteAnonymous(t.Context(), "no such command", nil)
					if assert.ErrorIs(t, err, ErrUnknownCommand) {
						refused.Add(1)
					}
				default:
					got, err := Call[string](t.Context(), p, "echo", args{"value": own}, WithSession(session))
					if assert.NoError(t, err) && assert.Equal(t, own, got) {
						succeeded.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	st := accounted(t, p)
	assert.Equal(t, int64(callers*calls), st.Started)
	assert.Equal(t, succeeded.Load(), st.Succeeded)
	assert.Equal(t, int64(callers*calls*8/10), st.Succeeded)
	assert.Equal(t, map[ErrorType]int64{TypePython: raised.Load(), TypeUnknownCommand: refused.Load()}, st.ByType)
	assert.Equal(t, st.Started, st.Run.Count)
	assert.Equal(t, 8, st.Sessions)
	var ops, errs, served int64
	for _, s := range p.Sessions() {
		ops += s.Operations
		errs += s.Errors
	}
	assert.Equal(t, int64(callers*calls*9/10), ops)
	assert.Equal(t, raised.Load(), errs)
	for _, w := range p.Workers() {
		served += w.Calls
	}
	assert.Equal(t, st.Started, served, "no worker was lost, and each call was answered by one")
	assert.Zero(t, st.WorkersExited)
}

func TestLoadWithFaultsIsAccountedExactlyAndThePoolIsWholeAfterwards(t *testing.T) {
	t.Parallel()
	const callers, calls = 16, 25
	cfg := coreConfig(t, 3, 0)
	cfg.Breaker.Failures, cfg.CancelGrace = -1, 30*time.Second
	p := newPool(t, cfg)
	byType := make([]map[ErrorType]int64, callers)
	var succeeded, lost atomic.Int64
	var wg sync.WaitGroup
	for caller := range callers {
		byType[caller] = map[ErrorType]int64{}
		random := rand.New(rand.NewPCG(7, uint64(caller)))
		wg.Go(func() {
			for i := range calls {
				own := fmt.Sprintf("%d/%d", caller, i)
				command, in, opts := "echo", args{"value": own}, []CallOption(nil)
				switch random.IntN(25) {
				case 0:
					command, in = "crash", nil
				case 1:
					command, in, opts = "busy_loop_of_the_test", nil, []CallOption{WithTimeout(20 * time.Millisecond)}
				case 2:
					command, in = "nan", nil
				}
				res, err := p.ExecuteAnonymous(t.Context(), command, in, opts...)
				if err != nil {
					e := detail[*Error](t, err)
					byType[caller][e.Type]++
					if e.Delivery == MaybeExecuted && e.Type != TypeOperationTimeout { // which stops its handler
						lost.Add(1)
					}
					assert.NotEqual(t, "echo", command, "a healthy call paid for another's fault: %v", err)
					continue
				}
				succeeded.Add(1)
				assert.Equal(t, own, decoded[string](t, res))
			}
		})
	}
	wg.Wait()
	want := map[ErrorType]int64{}
	for _, m := range byType {
		for typ, n := range m {
			want[typ] += n
		}
	}
	st := accounted(t, p)
	assert.Equal(t, want, st.ByType)
	assert.Equal(t, succeeded.Load(), st.Succeeded)
	eventually(t, "back at Size", func() bool { return serving(p) })
	eventually(t, "all dead ones are reaped", func() bool {
		st := p.Stats()
		return st.WorkersStarted-st.WorkersExited == int64(st.Workers) && st.Workers == st.Size
	})
	assert.Positive(t, lost.Load())
	assert.Equal(t, 3+lost.Load(), p.Stats().WorkersStarted, "one new worker for each that a call cost")
}

// heapInUse is what is reachable now.
func heapInUse() int64 {
	runtime.GC()
	runtime.GC() // sync.Pools let go at the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestMemoryOfThePoolsProcessIsFlatOver100000Calls(t *testing.T) {
	calls := 100_000
	if raceDetector {
		calls = 30_000
	}
	cfg := coreConfig(t, 2, 0)
	cfg.Logger = quiet()
	p := newPool(t, cfg)
	run := func(n int) {
		var wg sync.WaitGroup
		for caller := range 4 {
			wg.Go(func() {
				session := fmt.Sprint("s", caller)
				for i := range n / 4 {
					if i%100 == 0 {
						_, err := p.ExecuteInSession(t.Context(), session, "fail", args{"message": "no"})
						assert.ErrorIs(t, err, ErrPython)
						continue
					}
					_, err := p.ExecuteInSession(t.Context(), session, "add", args{"a": i})
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
	}
	run(2000)
	goroutines, fds, before := runtime.NumGoroutine(), openFDs(t), heapInUse()
	run(calls)
	assert.Less(t, heapInUse()-before, int64(1<<20), "growth over %d calls", calls)
	assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines+2)
	assert.LessOrEqual(t, openFDs(t), fds)
	assert.Equal(t, int64(calls+2000), accounted(t, p).Started)
}

func TestMemoryOfAMillionSessionIDsStaysWithinMaxSessions(t *testing.T) {
	limit, ids := 10_000, 1_000_000
	if raceDetector {
		limit, ids = 1000, 50_000
	}
	evicted := 0
	table := newSessionTable(limit, func(string, string) { evicted++ })
	before := heapInUse()
	peak := 0
	for i := range ids {
		table.leave(table.enter(fmt.Sprintf("session-%d", i)), false)
		peak = max(peak, table.size())
	}
	assert.LessOrEqual(t, peak, limit)
	assert.Equal(t, ids, evicted+table.size())
	_, ok := table.get(fmt.Sprintf("session-%d", ids-1))
	assert.True(t, ok)
	assert.Less(t, heapInUse()-before, int64(limit*2048), "2 KiB for each session of the bound, at the most")
	runtime.KeepAlive(table)
}
