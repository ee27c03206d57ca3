package receive

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWhatIsThereWhenTheTimeIsOverCounts(t *testing.T) {
	for range 100 { // a select would take the timer every other time
		there := make(chan int, 1)
		there <- 7
		v, ok := Within(there, -time.Second)
		require.Equal(t, 7, v)
		require.True(t, ok)
	}
	closed := make(chan int)
	close(closed)
	_, ok := Within(closed, 0)
	require.True(t, ok, "the channel's end is what was waited for")
}

func TestTheWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		_, ok := Within(make(chan int), time.Second)
		require.False(t, ok)
		require.Equal(t, time.Second, time.Since(begun))
	})
}
