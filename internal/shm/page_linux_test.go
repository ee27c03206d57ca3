package shm

import (
	"math"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func aPage(t *testing.T) *Page {
	page, file := New(0)
	require.NotNil(t, page)
	t.Cleanup(func() {
		page.Close()
		_ = file.Close()
	})
	return page
}

func TestDoorbellRingsForAWorkerThatListens(t *testing.T) {
	page := aPage(t)
	bell := page.word(doorbell)
	page.Ring()
	page.Spin(time.Microsecond, false)
	page.Ring()
	require.Zero(t, *bell)
	page.Spin(time.Microsecond, true)
	page.Ring()
	require.EqualValues(t, 1, *bell)
}

// The runtime shares its process with code that may store anything.
func TestWhatCannotBeAServiceTimeIsNone(t *testing.T) {
	page := aPage(t)
	for value, want := range map[uint64]time.Duration{
		0: 0, 1: 1, uint64(maxServed): maxServed, uint64(maxServed) + 1: 0, math.MaxInt64: 0, math.MaxInt64 + 1: 0, math.MaxUint64: 0,
	} {
		*page.word(served) = value
		require.Equal(t, want, page.ServiceTime(), "%d", value)
	}
}

// Whoever has the descriptor may neither shrink the page, which would end the host by SIGBUS, nor
// grow it.
func TestThePageIsSealed(t *testing.T) {
	page, file := New(0)
	require.NotNil(t, page)
	defer page.Close()
	defer file.Close()
	size := int64(len(page.mem))
	require.Error(t, file.Truncate(0))
	require.Error(t, file.Truncate(2*size))
	page.Spin(time.Second, true)
	require.EqualValues(t, time.Second, *page.word(spin))
}

func TestTheRuntimeMapsNoMoreThanAPage(t *testing.T) {
	require.LessOrEqual(t, 8*words, len(aPage(t).mem))
}

// Some code looks at the words of a worker that is gone in that moment.
func TestWhoComesLateFindsAPageOfTheHostsOwn(t *testing.T) {
	for range 200 {
		page, file := New(1 << 20)
		require.NotNil(t, page)
		*page.word(shielded) = 1
		begun, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for n := range 1000 {
				page.Ring()
				page.Spin(time.Duration(n), true)
				page.Cancel(uint64(n))
				_, _, _ = page.ServiceTime(), page.Retires(), page.Shielded()
				if n == 10 {
					close(begun)
				}
			}
		}()
		<-begun
		page.Close()
		page.Close()
		<-done
		require.False(t, page.Shielded())
		_, _, ok := page.Memory().Lend([]byte("x"))
		require.False(t, ok)
		_ = file.Close()
	}
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	require.NotContains(t, string(maps), "pypool-page")
}
