package pypool

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
	"github.com/pypool/pypool/internal/spin"
	"github.com/pypool/pypool/internal/wire"
)

// dripping is a pipe in which one more byte of an endless line is found at each look; Read minds the
// deadline. Looks end the test where nobody ends them.
type dripping struct {
	proc.Transport
	looks int
	until time.Time
}

func (d *dripping) drip(p []byte) (int, error) {
	if d.looks++; d.looks > 100_000 {
		return 0, os.ErrClosed
	}
	time.Sleep(10 * time.Microsecond)
	return copy(p, "{"), nil
}

func (d *dripping) TryRead(p []byte) (int, error) { return d.drip(p) }
func (*dripping) Unwatch()                        {}

func (d *dripping) SetDeadline(at time.Time) error {
	d.until = at
	return nil
}

func (d *dripping) Read(p []byte) (int, error) {
	if !d.until.IsZero() && !time.Now().Before(d.until) {
		return 0, os.ErrDeadlineExceeded
	}
	return d.drip(p)
}

// Who polls does not mind the deadline: so he parks in time, whatever comes meanwhile.
func TestAWorkerThatDripsIsNotPolledBeyondTheDeadline(t *testing.T) {
	for _, how := range []spin.Mode{spin.Park, spin.SpinYield, spin.Spin} {
		synctest.Test(t, func(t *testing.T) {
			const limit = 100 * time.Millisecond
			begun := time.Now()
			x := newExchange(&dripping{}, 1<<20)
			x.begin(context.Background(), begun.Add(limit), how)
			defer x.end()
			var f wire.Frame
			require.ErrorIs(t, x.receiveFinal(1, &f), os.ErrDeadlineExceeded)
			require.Less(t, time.Since(begun), limit+time.Millisecond)
		})
	}
}
