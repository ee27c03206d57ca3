package shm

import (
	"bytes"
	"math"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func aMemory(t *testing.T, half int) *Memory {
	page, file := New(half)
	require.NotNil(t, page)
	t.Cleanup(func() {
		page.Close()
		_ = file.Close()
	})
	require.NotNil(t, page.Memory())
	return page.Memory()
}

func (m *Memory) letGo(slot int) { atomic.AddUint64(m.page.word(lentWords+slot), 1) }

func TestAPlaceIsLentAgainWhenItWasLetGo(t *testing.T) {
	m := aMemory(t, 64<<10)
	a, atA, ok := m.Lend(bytes.Repeat([]byte("a"), 5000))
	require.True(t, ok)
	b, atB, ok := m.Lend(bytes.Repeat([]byte("b"), 50_000))
	require.True(t, ok)
	require.NotEqual(t, a, b)
	require.GreaterOrEqual(t, atB, atA+5000)
	_, _, ok = m.Lend(make([]byte, 8000))
	require.False(t, ok, "there is no room")
	m.letGo(a)
	c, atC, ok := m.Lend(make([]byte, 8000))
	require.True(t, ok)
	require.Equal(t, atA, atC)
	require.Equal(t, bytes.Repeat([]byte("b"), 50_000), m.in[atB:atB+50_000])
	m.TakeBack([]int{b, c})
	places, size := m.Lent()
	require.Zero(t, places)
	require.Zero(t, size)
}

func TestWhatIsNoPlaceIsRefused(t *testing.T) {
	m := aMemory(t, 64<<10)
	for _, p := range [][3]int{{-1, 0, 1}, {Slots, 0, 1}, {0, -1, 1}, {0, 0, -1}, {0, 64<<10 + 1, 0}, {0, 1, 64 << 10}, {0, math.MaxInt, 1}, {0, 1, math.MaxInt}, {0, math.MaxInt, math.MaxInt}} {
		_, err := m.Take(p[0], p[1], p[2])
		require.Error(t, err, "%v", p)
	}
	copy(m.out[7:], "xyz")
	data, err := m.Take(3, 7, 3)
	require.NoError(t, err)
	require.Equal(t, "xyz", string(data))
}

func TestMemoryOfTheIdleIsGivenBack(t *testing.T) {
	page, file := New(1 << 20)
	require.NotNil(t, page)
	defer page.Close()
	defer file.Close()
	m := page.Memory()
	kept, at, ok := m.Lend(bytes.Repeat([]byte("k"), 100_000))
	require.True(t, ok)
	free, _, ok := m.Lend(make([]byte, 500_000))
	require.True(t, ok)
	m.letGo(free)
	used := func() int64 {
		var stat unix.Stat_t
		require.NoError(t, unix.Fstat(int(file.Fd()), &stat))
		return stat.Blocks * 512
	}
	require.Greater(t, used(), int64(500_000))
	m.Rest() // it was used a moment ago
	require.Greater(t, used(), int64(500_000))
	m.Rest()
	require.Less(t, used(), int64(200_000))
	require.Equal(t, bytes.Repeat([]byte("k"), 100_000), m.in[at:at+100_000])
	m.letGo(kept)
}

// A hole in memory that cannot be filled, as of a file that is too short, costs a payload and not the
// host.
func TestAFaultIsAnError(t *testing.T) {
	n, err := unix.MemfdCreate("short", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	defer unix.Close(n)
	mem, err := unix.Mmap(n, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.NoError(t, err)
	defer func() { _ = unix.Munmap(mem) }()
	require.False(t, unfaulted(func() { copy(mem, "x") }))
	require.False(t, unfaulted(func() { _ = bytes.Clone(mem) }))
	require.True(t, unfaulted(func() {}))
	require.PanicsWithValue(t, "other", func() { unfaulted(func() { panic("other") }) })
}
