package pypool

import (
	"sync"
	"time"
)

// lease is the hold of a worker by a call in the midst of which code of the caller runs: the body
// of a stream's loop, or what a Map decodes into, and its Observer. That code may never come back.
// As long as it runs nobody reads or writes, so the lease can be revoked: whoever did so has the
// worker, and gives it back. The holder learns of it when the code comes back, and then leaves the
// worker alone.
type lease struct {
	killing <-chan struct{} // nothing is lent any more

	mu      sync.Mutex // guards the fields below
	since   time.Time  // the caller's code runs since then; zero: it does not
	revoked revocation
}

// revocation is why a lease was revoked.
type revocation int

const (
	notRevoked      revocation = iota
	revokedStalled             // one turn of the loop's body took longer than StallTimeout
	revokedEnded               // the call's context ended
	revokedLeft                // the body panicked, or ended its goroutine
	revokedClosed              // the pool was closed
	revokedCanceled            // the caller canceled
	revokedForgone             // the call was not even sent: a ping stands for it
)

// lend must precede the caller's code, and reclaim follow it. False: the pool is being killed, and
// the code must not run, for nobody would revoke the lease.
func (l *lease) lend(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if isClosed(l.killing) {
		return false
	}
	l.since = now
	return true
}

// reclaim tells the holder whether the worker is still its own.
func (l *lease) reclaim() revocation {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = time.Time{}
	return l.revoked
}

// revoke takes the worker while the caller's code runs. True: the lease's holder has lost it to
// whoever asks, who gives it back.
func (l *lease) revoke(why revocation) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.revokeLocked(why)
}

func (l *lease) revokeLocked(why revocation) bool {
	if l.since.IsZero() || l.revoked != notRevoked {
		return false
	}
	l.revoked = why
	return true
}

// lent is for how long the caller's code has been running, 0 when it is not, or when the worker has
// been taken from it.
func (l *lease) lent(now time.Time) time.Duration {
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() || l.revoked != notRevoked {
		return 0
	}
	return now.Sub(l.since)
}
