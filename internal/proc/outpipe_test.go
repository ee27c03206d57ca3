package proc

import (
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func newTestPipe(t *testing.T) (*outPipe, *os.File) {
	t.Helper()
	ours, theirs, err := newOutPipe()
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = ours.Close()
		_ = theirs.Close()
	})
	return ours, theirs
}

// Whatever comes between two reads, and whenever it comes: a Read returns.
func TestOutPipeReadMissesNothing(t *testing.T) {
	ours, theirs := newTestPipe(t)
	require.NoError(t, ours.SetReadDeadline(time.Now().Add(time.Minute)))
	const rounds = 5000
	turn := make(chan time.Duration)
	written := make(chan error, 1)
	go func() { // ends with turn, and is joined by written
		var err error
		for pause := range turn {
			time.Sleep(pause)
			if _, e := theirs.Write([]byte("x")); e != nil {
				err = e
			}
		}
		written <- err
	}()
	random := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 16)
	for range rounds {
		if random.IntN(2) == 0 {
			ours.Unwatch()
		}
		turn <- []time.Duration{0, 0, time.Microsecond, 100 * time.Microsecond}[random.IntN(4)]
		n := 0
		for range random.IntN(4) {
			more, err := ours.TryRead(buf[n:])
			require.NoError(t, err)
			n += more
			if random.IntN(4) == 0 {
				ours.Unwatch()
			}
		}
		if n == 0 {
			var err error
			n, err = ours.Read(buf)
			require.NoError(t, err)
		}
		require.Equal(t, 1, n)
	}
	close(turn)
	require.NoError(t, <-written)
}

func TestOutPipeReadEndsAtItsDeadline(t *testing.T) {
	ours, theirs := newTestPipe(t)
	for _, watched := range []bool{true, false} {
		if !watched {
			ours.Unwatch()
		}
		require.NoError(t, ours.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, err := ours.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
	require.NoError(t, ours.SetReadDeadline(time.Time{}))
	_, err := theirs.Write([]byte("x"))
	require.NoError(t, err)
	n, err := ours.Read(make([]byte, 2))
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

func TestOutPipeTellsTheEnd(t *testing.T) {
	ours, theirs := newTestPipe(t)
	ours.Unwatch()
	n, err := ours.TryRead(make([]byte, 1))
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, theirs.Close())
	_, err = ours.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	_, err = ours.TryRead(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestOutPipeCloseInterruptsARead(t *testing.T) {
	ours, _ := newTestPipe(t)
	failed := make(chan error)
	go func() { // joined by failed
		_, err := ours.Read(make([]byte, 1))
		failed <- err
	}()
	time.Sleep(time.Millisecond) // either order will do
	require.NoError(t, ours.Close())
	require.Error(t, <-failed)
}

// A pipe that is closed twice must not close whatever has got its number since.
func TestOutPipeClosesNothingTwice(t *testing.T) {
	ours, _ := newTestPipe(t)
	require.NoError(t, ours.Close())
	strangers := make([]*os.File, 8)
	for i := range strangers {
		var err error
		strangers[i], err = os.Open(os.DevNull)
		require.NoError(t, err)
		defer strangers[i].Close()
	}
	require.ErrorIs(t, ours.Close(), os.ErrClosed)
	for _, f := range strangers {
		_, err := f.Stat()
		require.NoError(t, err)
	}
}
