package pypool

import (
	"cmp"
	"slices"
	"time"

	"github.com/sony/gobreaker/v2"
)

// CircuitInfo is a snapshot of one circuit breaker.
type CircuitInfo struct {
	Command string    // empty: the pool's own, which is over the starts of workers; of a program "execute_program:" and its id
	State   string    // closed, open or half-open
	RetryAt time.Time // when an open one lets the next call, or start, be tried; else zero
	Cause   string    // one line, as the log has it: what went wrong last; empty: nothing has since the pool last had Size workers ready
}

// Circuits describes the pool's own circuit, which comes first, and those of the commands that have
// lately cost workers, by name.
func (p *Pool) Circuits() []CircuitInfo {
	if !p.wasStarted() {
		return []CircuitInfo{}
	}
	return append([]CircuitInfo{p.sup.circuitInfo()}, p.sup.breakers.list()...)
}

func (s *supervisor) circuitInfo() CircuitInfo {
	info := CircuitInfo{}
	if err := s.lastError(); err != nil {
		info.Cause = oneLine(logCause(err, err.Error()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	info.State = s.breakerLocked()
	if info.State == circuitOpen {
		info.RetryAt = s.nextTryLocked()
	}
	return info
}

func (b *breakers) list() []CircuitInfo {
	list := []CircuitInfo{}
	for key, v := range b.keys.Range {
		e, last := v.(*commandBreaker), v.(*commandBreaker).lastLoss()
		info := CircuitInfo{Command: key.(string), State: e.cb.State().String()}
		if last.cause != nil {
			info.Cause = oneLine(logCause(last.cause, last.cause.Error()))
		}
		if e.cb.State() == gobreaker.StateOpen {
			info.RetryAt = last.at.Add(e.cfg.OpenFor)
		}
		list = append(list, info)
	}
	slices.SortFunc(list, func(a, b CircuitInfo) int { return cmp.Compare(a.Command, b.Command) })
	return list
}
