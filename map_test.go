package pypool

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func integers(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

// TestMapYieldsResultsInTheItemsOrder runs more items than the window holds.
func TestMapYieldsResultsInTheItemsOrder(t *testing.T) {
	p := sequences(t, 3)
	const n = 30_000
	i := 0
	for out, err := range Map[int](context.Background(), p, "square", integers(n), WithSession("batch")) {
		require.NoError(t, err)
		if out != i*i {
			t.Fatalf("item %d gave %d", i, out)
		}
		i++
	}
	require.Equal(t, n, i)
	st := p.Stats()
	require.EqualValues(t, n, st.Started)
	require.EqualValues(t, n, st.Succeeded)
	require.Zero(t, st.InFlight)
	require.EqualValues(t, n, st.Run.Count)
	info, ok := p.Session("batch")
	require.True(t, ok)
	require.EqualValues(t, n, info.Operations)
	var calls int64
	for _, w := range p.Workers() {
		require.Positive(t, w.Calls)
		calls += w.Calls
	}
	require.EqualValues(t, n, calls)
}

// A long item holds up what stands behind it, and nothing else.
func TestMapYieldsWhatIsDoneBeforeALongItemEnds(t *testing.T) {
	for _, workers := range []int{1, 2} {
		p := newPool(t, Config{Size: workers, Script: script(t, `
from pypool import command

@command
def item(path):
    if path:
        open(path).close()
    return path
`)})
		for _, quick := range []int{1, 50, 1000} {
			long := newLatch(t)
			items := func(yield func(string) bool) {
				for range quick {
					if !yield("") {
						return
					}
				}
				if yield(long.path) {
					yield("")
				}
			}
			n := 0
			for _, err := range Map[string](context.Background(), p, "item", items, WithTimeout(20*time.Second)) {
				require.NoError(t, err)
				if n++; n == quick {
					long.release(t)
				}
			}
			require.Equal(t, quick+2, n)
		}
	}
}

// Refused items take no lane: they must not overrun the lanes, which have not looked at them yet.
func TestMapOfManyRefusedItems(t *testing.T) {
	p := sequences(t, 2)
	const n = 200_000
	got := 0
	for _, err := range Map[int](context.Background(), p, "", integers(n)) {
		if !errors.Is(err, ErrUnknownCommand) {
			t.Fatal(err)
		}
		got++
	}
	require.Equal(t, n, got)
	st := p.Stats()
	require.EqualValues(t, n, st.Started)
	require.EqualValues(t, n, st.ByType[TypeUnknownCommand])
}

// A loop that is slower than the workers does not fill the memory with results.
func TestMapOfLargeResultsWaitsForTheLoop(t *testing.T) {
	p := newPool(t, Config{Size: 2, Script: script(t, `
from pypool import command

@command
def large(n):
    return "x" * (1 << 20)
`)})
	const n = 60
	got := 0
	for out, err := range Map[string](context.Background(), p, "large", integers(n)) {
		require.NoError(t, err)
		require.Len(t, out, 1<<20)
		if got++; got == 1 {
			eventually(t, "the lanes wait", func() bool { s := p.Stats(); return s.Succeeded >= mapBytes>>20 && s.Busy == 0 })
			require.LessOrEqual(t, p.Stats().Succeeded, int64(mapBytes>>20+16))
		}
	}
	require.Equal(t, n, got)
}

// The source may wait for results: each item is made of the result before it.
func TestMapOfItemsThatDependOnResults(t *testing.T) {
	p := sequences(t, 2)
	results := make(chan int, 1)
	results <- 2
	n := 0
	for out, err := range Map[int](context.Background(), p, "square", func(yield func(int) bool) {
		for range 4 {
			if !yield(<-results) {
				return
			}
		}
	}) {
		require.NoError(t, err)
		n = out
		results <- out
	}
	require.Equal(t, 65536, n)
}

func TestMapOfNothingYieldsNothing(t *testing.T) {
	p := sequences(t, 1)
	for range Map[int](context.Background(), p, "square", integers(0)) {
		t.Fatal("an item out of nowhere")
	}
}

func TestMapItemsErrorIsItsOwn(t *testing.T) {
	p := sequences(t, 2)
	items := []any{[]any{2}, []any{"x"}, map[string]any{"y": 1}, make(chan int), []any{3}}
	var outs []int
	var errs []error
	for out, err := range Map[int](context.Background(), p, "square", slices.Values(items)) {
		outs, errs = append(outs, out), append(errs, err)
	}
	require.Equal(t, []int{4, 0, 0, 0, 9}, outs)
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], ErrPython)
	require.ErrorIs(t, errs[2], ErrInvalidArguments)
	require.ErrorIs(t, errs[3], ErrInvalidArguments)
	require.NoError(t, errs[4])
	st := p.Stats()
	require.EqualValues(t, 2, st.Succeeded)
	require.EqualValues(t, 3, st.Failed)
}

// TestMapRefusesAloneWhatPythonCannotRead: many requests share a line, and only these are
// unreadable in it.
func TestMapRefusesAloneWhatPythonCannotRead(t *testing.T) {
	p := sequences(t, 1)
	items := func(yield func(json.RawMessage) bool) {
		for i := range 500 {
			item := strconv.Itoa(i)
			if i%100 == 99 {
				item = "1e999"
			}
			if !yield(json.RawMessage("[" + item + "]")) {
				return
			}
		}
	}
	i := 0
	for out, err := range Map[int](context.Background(), p, "square", items, WithSession("s")) {
		if i%100 == 99 {
			require.ErrorIs(t, err, ErrInvalidArguments)
		} else {
			require.NoError(t, err)
			require.Equal(t, i*i, out)
		}
		i++
	}
	require.Equal(t, 500, i)
}

// TestMapOfAWorkerThatReadsOneRequestALine: lines of several are a capability, and this worker does
// not name it.
func TestMapOfAWorkerThatReadsOneRequestALine(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		p := open(t, f.config(1))
		defer p.Close()
		i := 0
		for out, err := range Map[struct{ Args []int }](context.Background(), p, "work", integers(300)) {
			require.NoError(t, err)
			require.Equal(t, []int{i}, out.Args)
			i++
		}
		require.Equal(t, 300, i)
	})
}

// TestMapTakesWhatARuleBreakerHadAsPossiblyExecuted: an answer out of turn means that the requests
// behind the first unanswered one may have begun, so none of them runs twice.
func TestMapTakesWhatARuleBreakerHadAsPossiblyExecuted(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		skipped := false
		f.script = func(_ *fakeProcess, req fakeRequest) bool {
			if req.Command != "work" || skipped || string(req.Args) != "[100]" {
				return false
			}
			skipped = true
			return true // no answer, and on to the next request
		}
		p := open(t, f.config(1))
		defer p.Close()
		lost, i := 0, 0
		for out, err := range Map[struct{ Args []int }](context.Background(), p, "work", integers(300)) {
			if err != nil {
				require.ErrorIs(t, err, ErrProtocol)
				require.False(t, SafeToRetry(err))
				lost++
			} else {
				require.Equal(t, []int{i}, out.Args)
			}
			i++
		}
		require.Equal(t, 300, i)
		require.Positive(t, lost)
		times := map[string]int{}
		for n := 1; f.nth(n) != nil; n++ {
			for _, line := range f.nth(n).lines() {
				if _, args, ok := strings.Cut(line, `"command":"work",`); ok {
					times[args]++
				}
			}
		}
		for args, n := range times {
			require.Equal(t, 1, n, args)
		}
	})
}

func TestMapDecodeErrorIsTheItemsAndTheCommandHasSucceeded(t *testing.T) {
	p := sequences(t, 1)
	for _, err := range Map[string](context.Background(), p, "square", integers(2)) {
		require.ErrorIs(t, err, ErrDecode)
	}
	require.EqualValues(t, 2, p.Stats().Succeeded)
}

type journalItem struct {
	File  string `json:"file"`
	Nonce int    `json:"nonce"`
	Die   bool   `json:"die"`
}

// TestMapRunsTheItemsBehindADeathElsewhereAndNoneTwice: every item's handler journals first; one in
// a hundred then kills its worker.
func TestMapRunsTheItemsBehindADeathElsewhereAndNoneTwice(t *testing.T) {
	p := newPool(t, Config{Script: workerScript(t, "sequences.py"), Size: 2, Overflow: -1, Breaker: Breaker{Failures: -1}})
	file := filepath.Join(t.TempDir(), "journal")
	const n = 1500
	items := func(yield func(journalItem) bool) {
		for i := range n {
			if !yield(journalItem{file, i, i%100 == 99}) {
				return
			}
		}
	}
	i := 0
	for out, err := range Map[int](context.Background(), p, "journaled", items) {
		if i%100 == 99 {
			require.ErrorIs(t, err, ErrWorkerExited)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, MaybeExecuted, e.Delivery)
		} else {
			require.NoError(t, err)
			require.Equal(t, i, out)
		}
		i++
	}
	require.Equal(t, n, i)
	seen := map[int]int{}
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		nonce, err := strconv.Atoi(lines.Text())
		require.NoError(t, err)
		seen[nonce]++
	}
	require.Len(t, seen, n)
	for nonce, times := range seen {
		require.Equal(t, 1, times, "item %d", nonce)
	}
}

func TestMapWithItemsLargerThanThePipesDoesNotBlock(t *testing.T) {
	p := sequences(t, 2)
	text := strings.Repeat("x", 300<<10)
	n := 0
	items := func(yield func(any) bool) {
		for i := range 60 {
			size := len(text)
			if i%3 > 0 {
				size = 10 // small ones between the large ones
			}
			if !yield(map[string]any{"text": text[:size]}) {
				return
			}
		}
	}
	for out, err := range Map[string](context.Background(), p, "echo", iter.Seq[any](items)) {
		require.NoError(t, err)
		if n%3 == 0 {
			require.Len(t, out, len(text))
		} else {
			require.Len(t, out, 10)
		}
		n++
	}
	require.Equal(t, 60, n)
}

func TestMapSlowLoopStopsTheFeed(t *testing.T) {
	p := sequences(t, 2)
	var fed atomic.Int64
	items := func(yield func(int) bool) {
		for i := 0; yield(i); i++ {
			fed.Add(1)
		}
	}
	n := 0
	for _, err := range Map[int](context.Background(), p, "square", items) {
		require.NoError(t, err)
		if n++; n == 1 {
			eventually(t, "the feed at a standstill", func() bool {
				before := fed.Load()
				time.Sleep(50 * time.Millisecond)
				return fed.Load() == before
			})
			require.LessOrEqual(t, fed.Load(), int64(mapBlock*mapBlocks))
		}
		if n == 20_000 {
			break
		}
	}
	st := p.Stats()
	require.Zero(t, st.InFlight)
	require.Equal(t, st.Started, st.Succeeded+st.Failed)
	require.EqualValues(t, 2, st.WorkersStarted, "leaving the loop costs no worker")
	executed(t, p, "square", []any{1})
}

func TestMapLeavingTheLoopKillsAHandlerThatDoesNotReturn(t *testing.T) {
	p := newPool(t, Config{Script: workerScript(t, "sequences.py"), Size: 2, Overflow: -1, StopGrace: 50 * time.Millisecond})
	l := newLatch(t)
	begun := time.Now()
	for _, err := range Map[string](context.Background(), p, "waits", slices.Values([]string{os.DevNull, l.path, l.path})) {
		require.NoError(t, err)
		break
	}
	require.Less(t, time.Since(begun), 5*time.Second)
	eventually(t, "the workers replaced", func() bool { return serving(p) })
	st := p.Stats()
	require.Equal(t, st.Started, st.Succeeded+st.Failed)
}

// Observers hear why an item was never sent: it is the loop's end, or the context's.
func TestTheItemsThatAMapHasNotSentSayWhy(t *testing.T) {
	for name, want := range map[string]ErrorType{"the loop is left": TypeCanceled, "the deadline passes": TypeOperationTimeout} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var unsent []error
			p := newPool(t, Config{Size: 1, Overflow: -1, Script: script(t, "import time\nfrom pypool import command\n@command\ndef nap(s): time.sleep(s)\n"),
				Observer: &Observer{CallEnd: func(_ context.Context, _ CallInfo, o CallOutcome) {
					mu.Lock()
					defer mu.Unlock()
					if o.Worker == "" {
						unsent = append(unsent, o.Err)
					}
				}}})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if want == TypeOperationTimeout {
				ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
				defer cancel()
			}
			items := func(yield func([]any) bool) {
				for i := 0; yield([]any{[]float64{0, 60}[min(i, 1)]}); i++ {
				}
			}
			for range Map[any](ctx, p, "nap", items) {
				if want == TypeCanceled {
					break
				}
			}
			require.NotEmpty(t, unsent)
			for _, err := range unsent {
				require.Equal(t, want, detail[*Error](t, err).Type, "%v", err)
			}
		})
	}
}

func TestMapEndOfContextEndsTheLoopWithItsError(t *testing.T) {
	p := sequences(t, 2)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l := newLatch(t)
	var last error
	n := 0
	for _, err := range Map[string](ctx, p, "waits", slices.Values([]string{os.DevNull, l.path, l.path, l.path})) {
		n++
		last = err
		cancel()
	}
	require.ErrorIs(t, last, ErrCanceled)
	require.ErrorIs(t, last, context.Canceled)
	st := p.Stats()
	require.Zero(t, st.InFlight)
	require.EqualValues(t, 1, st.Succeeded)
	eventually(t, "the workers replaced", func() bool { return serving(p) })
}

func TestMapTimeoutIsForEachItem(t *testing.T) {
	p := sequences(t, 1)
	l := newLatch(t)
	var errs []error
	for _, err := range Map[string](context.Background(), p, "waits", slices.Values([]string{os.DevNull, l.path, os.DevNull}), WithTimeout(200*time.Millisecond)) {
		errs = append(errs, err)
	}
	require.Len(t, errs, 3)
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], ErrOperationTimeout)
	require.NoError(t, errs[2])
}

func TestMapPanicOfTheItemsReachesTheCaller(t *testing.T) {
	p := sequences(t, 1)
	require.PanicsWithValue(t, "items", func() {
		for range Map[int](context.Background(), p, "square", func(yield func(int) bool) {
			yield(1)
			panic("items")
		}) {
		}
	})
	executed(t, p, "square", []any{1})
}

func TestMapOnAClosedPoolGivesEveryItemTheError(t *testing.T) {
	p := sequences(t, 1)
	require.NoError(t, p.Close())
	n := 0
	for _, err := range Map[int](context.Background(), p, "square", integers(5)) {
		require.ErrorIs(t, err, ErrPoolClosed)
		n++
	}
	require.Equal(t, 5, n)
}

func TestMapLeavesOtherCallersTheirTurn(t *testing.T) {
	p := sequences(t, 1)
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		for _, err := range Map[int](context.Background(), p, "square", func(yield func(int) bool) {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if !yield(i % 1000) {
					return
				}
			}
		}) {
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 50 {
		_, err := p.ExecuteAnonymous(context.Background(), "square", []any{3}, WithCheckoutTimeout(5*time.Second))
		require.NoError(t, err)
	}
	close(stop)
	require.NoError(t, <-done)
}

func TestMapInvalidOptionIsEveryItemsError(t *testing.T) {
	p := sequences(t, 1)
	for _, err := range Map[int](context.Background(), p, "square", integers(3), WithSession("a\nb")) {
		require.ErrorIs(t, err, ErrInvalidArguments)
	}
	for _, err := range Map[int](context.Background(), p, "shutdown", integers(1)) {
		require.ErrorIs(t, err, ErrUnknownCommand)
		var e *Error
		require.True(t, errors.As(err, &e))
	}
	require.Empty(t, p.Sessions())
}
