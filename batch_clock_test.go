package pypool

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/wire"
)

// Who waits for a batch, against the clock.

// batchCheckout is a bareCheckout whose workers take batches of "b", of three calls.
func batchCheckout(t *testing.T, workers int, wait time.Duration) *checkout {
	d := bareCheckout(t, workers)
	rules := batchRules([]batchRule{{Command: "b", Size: 3, WaitMS: float64(wait.Milliseconds())}}, []string{"b"}, nil)
	for w := range d.members {
		w.batches = rules
	}
	d.maxLine = 1000
	d.batched = func(members []*member) *callBatch { return newBatch(nil, members) }
	d.learn(rules)
	return d
}

// lineUp has a caller of "b" wait, with a request of so many bytes.
func lineUp(d *checkout, bytes int, deadline time.Time) <-chan grant {
	outcome := make(chan grant, 1)
	l := d.lineupOf("b")
	m := &member{}
	m.job.req, _ = wire.Encode(nil, "b", []string{strings.Repeat("x", bytes)}, "", false)
	go func() {
		outcome <- d.waitInLine(context.Background(), deadline, l, m, time.Duration(l.patience.Load()), never)
	}()
	synctest.Wait()
	return outcome
}

// batchOf expects these callers to have become one batch, in their order, whose worker is the first
// one's to launch.
func batchOf(t *testing.T, res *resource, callers ...<-chan grant) {
	t.Helper()
	synctest.Wait()
	var b *callBatch
	for i, c := range callers {
		require.Len(t, c, 1, "caller %d", i)
		g := <-c
		require.NoError(t, g.err)
		require.NotNil(t, g.member)
		if i == 0 {
			require.Same(t, res, g.res)
			b = g.member.b
			require.Len(t, b.members, len(callers))
		} else {
			require.Nil(t, g.res)
		}
		require.Same(t, b.members[i], g.member)
	}
}

func TestABatchIsWhatWaitsWhenAWorkerFallsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := batchCheckout(t, 1, 0)
		res := d.tryTake()
		var callers []<-chan grant
		for range 5 {
			callers = append(callers, lineUp(d, 40, time.Time{}))
		}
		plain := queueUp(d, t.Context(), time.Time{})
		require.Equal(t, 3, d.demand(), "two batches and a call")
		d.put(res)
		batchOf(t, res, callers[:3]...)
		require.Equal(t, 2, d.demand())
		d.put(res)
		batchOf(t, res, callers[3:]...)
		require.Equal(t, 1, d.demand())
		d.put(res)
		synctest.Wait()
		require.Equal(t, grant{res: res}, <-plain)
		require.Zero(t, d.demand())
		alone := lineUp(d, 40, time.Time{})
		d.put(res)
		synctest.Wait()
		require.Equal(t, grant{res: res}, <-alone, "one alone is a plain call")
		require.Zero(t, d.waiting.Load())
		require.Zero(t, d.bytes)
	})
}

func TestAnUnripeBatchHoldsNoWorkerAndKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := batchCheckout(t, 1, time.Second)
		first := lineUp(d, 40, time.Time{})
		require.Zero(t, d.demand(), "it does not need another worker")
		require.NoError(t, d.full())
		res := d.tryTake()
		require.NotNil(t, res)
		plain := queueUp(d, t.Context(), time.Time{})
		d.put(res)
		synctest.Wait()
		require.Equal(t, grant{res: res}, <-plain, "who waits for no company passes by")
		time.Sleep(2 * time.Second)
		second, third := queueUp(d, t.Context(), time.Time{}), lineUp(d, 40, time.Time{})
		d.put(res)
		batchOf(t, res, first, third) // third comes along, ripe or not
		require.Empty(t, second)
		d.put(res)
		synctest.Wait()
		require.Equal(t, grant{res: res}, <-second)
		d.put(res)

		begun := time.Now()
		alone := lineUp(d, 40, time.Time{})
		require.Equal(t, grant{res: res}, <-alone)
		require.Equal(t, time.Second, time.Since(begun), "its wait ends on time when a worker is idle")
		d.put(res)

		begun = time.Now()
		a, b := lineUp(d, 40, time.Time{}), lineUp(d, 40, time.Time{})
		time.Sleep(300 * time.Millisecond)
		c := lineUp(d, 40, time.Time{})
		batchOf(t, res, a, b, c) // it is full
		require.Equal(t, 300*time.Millisecond, time.Since(begun))
		d.put(res)
	})
}

func TestDeadlinesInALineup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := batchCheckout(t, 1, 0)
		res := d.tryTake()
		a := lineUp(d, 40, time.Time{})
		b := lineUp(d, 40, time.Now().Add(time.Second))
		c := lineUp(d, 40, time.Time{})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Equal(t, grant{err: errTimeout}, <-b)
		d.put(res)
		batchOf(t, res, a, c)
		d.put(res)
	})
}

func TestALongLineIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := batchCheckout(t, 1, 0)
		res := d.tryTake()
		a, b, c := lineUp(d, 300, time.Time{}), lineUp(d, 300, time.Time{}), lineUp(d, 5000, time.Time{})
		e, f := lineUp(d, 300, time.Time{}), lineUp(d, 300, time.Time{})
		d.put(res)
		batchOf(t, res, a, b)
		d.put(res)
		synctest.Wait()
		require.Equal(t, grant{res: res}, <-c, "one that is too long for any company goes alone")
		d.put(res)
		batchOf(t, res, e, f)
		d.put(res)
	})
}

// A worker of another generation than the latest takes what it knows.
func TestAWorkerThatTakesNoBatchesGetsOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := batchCheckout(t, 1, 0)
		res := d.tryTake()
		res.Value().batches = nil
		a, b := lineUp(d, 40, time.Time{}), lineUp(d, 40, time.Time{})
		d.put(res)
		synctest.Wait()
		require.Equal(t, grant{res: res}, <-a)
		d.learn(nil)
		require.Equal(t, 1, d.lineupOf("b").size)
		require.Nil(t, d.lineupOf("other"))
		d.put(res)
		synctest.Wait()
		require.Equal(t, grant{res: res}, <-b)
		d.put(res)
	})
}

// A worker's page may say that it asks to be replaced from one look to the next.
func TestAWorkerThatAsksBetweenTwoLooksIsGrantedOrNot(t *testing.T) {
	for callers := 1; callers <= 2; callers++ {
		for says := range 1 << 3 { // at the first three looks, and then no more
			synctest.Test(t, func(t *testing.T) {
				d := batchCheckout(t, 2, time.Second)
				for w := range d.members {
					w.x = &exchange{} // it is in no doubt
				}
				other, looks := d.tryTake(), -1
				res := d.idle[0]
				var waiting []<-chan grant
				for range callers {
					waiting = append(waiting, lineUp(d, 40, time.Time{}))
				}
				d.mu.Lock()
				res.Value().proc.(*fakeProcess).retires = func() bool { // with d.mu held
					looks++
					return looks < 3 && says>>looks&1 == 1
				}
				d.mu.Unlock()
				time.Sleep(2 * time.Second) // expire gives them the worker, or leaves them to the next
				if len(waiting[0]) == 0 {
					res = other
					d.put(other)
				}
				if callers > 1 {
					batchOf(t, res, waiting...)
				} else {
					require.Equal(t, grant{res: res}, <-waiting[0])
				}
			})
		}
	}
}

// The word of the only worker there is spares it for nobody.
func TestTheOnlyWorkerServesWhateverItsPageSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, looks := bareCheckout(t, 1), 0
		w := d.idle[0].Value()
		w.x = &exchange{}
		w.proc.(*fakeProcess).retires = func() bool { looks++; return looks%2 == 1 }
		require.NotNil(t, d.tryTake())
	})
}

// What workers say of batches fills no table, start for start.
func TestTheLineupsAreThoseOfTheWorkersOwnCommands(t *testing.T) {
	var rules []batchRule
	var names []string
	for i := range 2 * maxTallies {
		rules, names = append(rules, batchRule{Command: fmt.Sprint(i), Size: 2}), append(names, fmt.Sprint(i))
	}
	require.Len(t, batchRules(rules, names, nil), maxTallies)
	require.Empty(t, batchRules(rules, nil, names), "of programs")
	synctest.Test(t, func(t *testing.T) {
		d := batchCheckout(t, 1, 0)
		res := d.tryTake()
		first := lineUp(d, 40, time.Time{})
		second := lineUp(d, 40, time.Time{})
		held := d.lineupOf("b")
		for _, name := range []string{"c", "d"} {
			d.learn(batchRules([]batchRule{{Command: name, Size: 2}, {Command: "nobody's"}, {Command: "execute_program", Program: name, Size: 2}}, []string{name}, []string{name}))
			require.Len(t, *d.lineups.Load(), 3)
		}
		require.NotNil(t, d.lineupOf("b"), "somebody waits there")
		d.put(res)
		batchOf(t, res, first, second)
		d.learn(batchRules(rules[:1], names[:1], nil))
		require.Len(t, *d.lineups.Load(), 1)
		late := make(chan grant, 1)
		go func() { late <- d.waitInLine(t.Context(), time.Time{}, held, &member{}, 0, never) }()
		synctest.Wait()
		require.Equal(t, 1, d.demand())
		d.put(res)
		require.Equal(t, grant{res: res}, <-late, "who has come before the last of its kind had gone")
	})
}
