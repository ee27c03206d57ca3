// Package receive waits for what another goroutine brings, but not for ever.
package receive

import "time"

// Within waits for at most d for something to come from the channel, or for its end. What is there
// when the time is over counts, too: a select takes either, by chance.
func Within[T any](from <-chan T, d time.Duration) (v T, ok bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case v = <-from:
		return v, true
	case <-timer.C:
	}
	select {
	case v = <-from:
		return v, true
	default:
		return v, false
	}
}
