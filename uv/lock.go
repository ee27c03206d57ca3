package pypooluv

import (
	"context"
	"errors"
	"os"
	"time"
)

// errWaited says that another process has had the lock until the end of the context.
var errWaited = errors.New("another process has the lock")

// acquire locks the file at the path, for this process alone, and waits until it can or ctx ends.
// Closing it gives it back, and so does the end of the process, whatever ends it.
func acquire(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		locked, err := tryLock(f)
		if locked {
			return f, nil
		}
		if err == nil {
			select {
			case <-ctx.Done():
				err = errWaited
			case <-time.After(wait):
			}
		}
		if err != nil {
			_ = f.Close()
			return nil, err
		}
	}
}
