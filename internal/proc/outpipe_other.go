//go:build !linux

package proc

import (
	"errors"
	"os"
)

// outPipe is our end of a worker's stdout. Go's network poller always watches it here.
type outPipe struct {
	*os.File
	reads *attempt
}

// newOutPipe returns our end of a pipe and the child's.
func newOutPipe() (_ *outPipe, theirs *os.File, err error) {
	ours, theirs, err := newPipe("stdout", false)
	if err != nil {
		return nil, nil, err
	}
	raw, err := ours.SyscallConn()
	if err != nil {
		return nil, nil, errors.Join(err, ours.Close(), theirs.Close())
	}
	return &outPipe{ours, newAttempt(raw.Read, readNow)}, theirs, nil
}

// TryRead reads what is there.
func (o *outPipe) TryRead(p []byte) (int, error) { return o.reads.do(p, false) }

// Unwatch has no effect.
func (*outPipe) Unwatch() {}

func (*outPipe) descriptors() []uintptr { return nil }

func (*outPipe) unread() (int, bool) { return 0, false }
