package pypool

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

// SessionInfo is what the pool remembers of a session: when and how often it was used. No Python
// state belongs to it.
type SessionInfo struct {
	ID           string
	StartedAt    time.Time
	LastActivity time.Time // start or end of its latest call
	Operations   int64     // finished calls
	Errors       int64     // those of them that failed
}

// Why a session left the table: the Cause of its [EventSessionEnded].
const (
	sessionEnded   = "ended"
	sessionExpired = "unused for SessionTTL"
	sessionEvicted = "MaxSessions reached"
)

// sessionTable counts calls by session id. It knows nothing of workers.
type sessionTable struct {
	max   int
	born  time.Time // times are kept as monotonic offsets from it
	ended func(id, why string)

	entries sync.Map // string -> *session
	count   atomic.Int64

	evicting sync.Mutex // guards evict: one at a time
}

type session struct {
	id      string
	started time.Duration
	last    atomic.Int64 // time.Duration
	ops     atomic.Int64
	errs    atomic.Int64
	users   atomic.Int64 // calls in it now; -1 once it is removed, so that a sweep cannot remove a session in use
}

func newSessionTable(max int, ended func(id, why string)) *sessionTable {
	return &sessionTable{max: max, born: time.Now(), ended: ended}
}

// validLabel reports whether s is 1 to 256 bytes of printable UTF-8, as session ids and names must
// be.
func validLabel(s string) bool {
	if len(s) == 0 || len(s) > 256 || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

func (t *sessionTable) now() time.Duration { return time.Since(t.born) }

// enter gets or creates the session and marks it in use; leave must follow.
func (t *sessionTable) enter(id string) *session {
	for {
		if v, ok := t.entries.Load(id); ok {
			if s := v.(*session); s.use() {
				s.last.Store(int64(t.now()))
				return s
			}
			runtime.Gosched() // its remover is about to delete it, and to count that
			continue
		}
		s := &session{id: strings.Clone(id), started: t.now()} // a clone: id may be a small part of a large request
		s.last.Store(int64(s.started))
		s.users.Store(1)
		if _, loaded := t.entries.LoadOrStore(s.id, s); loaded {
			continue
		}
		if t.count.Add(1) > int64(t.max) {
			t.evict()
		}
		return s
	}
}

// use adds a user, unless the session has been removed.
func (s *session) use() bool {
	for {
		n := s.users.Load()
		if n < 0 {
			return false
		}
		if s.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave counts one finished call.
func (t *sessionTable) leave(s *session, failed bool) {
	s.ops.Add(1)
	if failed {
		s.errs.Add(1)
	}
	s.last.Store(int64(t.now()))
	s.users.Add(-1)
}

func (t *sessionTable) remove(s *session, why string) bool {
	if !t.entries.CompareAndDelete(s.id, s) {
		return false
	}
	t.count.Add(-1)
	t.ended(s.id, why)
	return true
}

// removeUnused removes s only if no call is in it.
func (t *sessionTable) removeUnused(s *session, why string) bool {
	return s.users.CompareAndSwap(0, -1) && t.remove(s, why)
}

// end forgets the session. Calls in it go on.
func (t *sessionTable) end(id string) bool {
	v, ok := t.entries.Load(id)
	return ok && t.remove(v.(*session), sessionEnded)
}

// sweep forgets the sessions that were not used for ttl.
func (t *sessionTable) sweep(ttl time.Duration) {
	limit := int64(t.now() - ttl)
	for s := range t.all() {
		if s.last.Load() < limit {
			t.removeUnused(s, sessionExpired)
		}
	}
}

// evict brings the table back under its bound by forgetting the longest unused tenth, so that its
// cost is spread over many new sessions.
func (t *sessionTable) evict() {
	t.evicting.Lock()
	defer t.evicting.Unlock()
	excess := int(t.count.Load()) - t.max
	if excess <= 0 {
		return
	}
	type aged struct {
		s    *session
		last int64
	}
	var idle []aged
	for s := range t.all() {
		if s.users.Load() == 0 {
			idle = append(idle, aged{s, s.last.Load()})
		}
	}
	slices.SortFunc(idle, func(a, b aged) int { return cmp.Compare(a.last, b.last) })
	for _, a := range idle[:min(len(idle), excess+t.max/10)] {
		t.removeUnused(a.s, sessionEvicted)
	}
}

func (t *sessionTable) all() func(yield func(*session) bool) {
	return func(yield func(*session) bool) {
		t.entries.Range(func(_, v any) bool { return yield(v.(*session)) })
	}
}

func (t *sessionTable) info(s *session) SessionInfo {
	return SessionInfo{
		ID: s.id, StartedAt: t.born.Add(s.started), LastActivity: t.born.Add(time.Duration(s.last.Load())),
		Operations: s.ops.Load(), Errors: s.errs.Load(),
	}
}

func (t *sessionTable) get(id string) (SessionInfo, bool) {
	v, ok := t.entries.Load(id)
	if !ok {
		return SessionInfo{}, false
	}
	return t.info(v.(*session)), true
}

// list returns all sessions, oldest first.
func (t *sessionTable) list() []SessionInfo {
	list := []SessionInfo{}
	for s := range t.all() {
		list = append(list, t.info(s))
	}
	slices.SortFunc(list, func(a, b SessionInfo) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

func (t *sessionTable) size() int { return int(t.count.Load()) }

// Sessions describes the known sessions, oldest first.
func (p *Pool) Sessions() []SessionInfo {
	if !p.wasStarted() {
		return []SessionInfo{}
	}
	return p.sessions.list()
}

// Session describes one session; false when it is not known (any more).
func (p *Pool) Session(id string) (SessionInfo, bool) {
	if !p.wasStarted() {
		return SessionInfo{}, false
	}
	return p.sessions.get(id)
}

// EndSession forgets a session and reports whether it was known. Calls in it go on; the next call
// in it starts a new count.
func (p *Pool) EndSession(id string) bool { return p.wasStarted() && p.sessions.end(id) }
