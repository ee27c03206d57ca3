//go:build linux

package pypool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hostileNames are labels that have broken out of somewhere.
var hostileNames = []string{
	"", "\x00", "a\nlevel=ERROR msg=forged", "\x1b[31mred", "a\rb", "\u2028", "\u202eevil", "\xff\xfe", "a\xffb", strings.Repeat("x", 257), "\ufeff",
}

// Group E: sessions.
var sessionFaults = []fault{
	{name: "E1_sessions_without_end_are_bounded_in_number_and_memory", run: func(t *testing.T, r *rig) {
		evicted := 0
		const sessions, limit = 30_000, 1_000
		table := newSessionTable(limit, func(string, string) { evicted++ })
		before := heapBytes()
		for i := range sessions {
			s := table.enter(fmt.Sprintf("session-%d", i))
			table.leave(s, false)
			if table.size() > limit {
				t.Fatalf("%d sessions", table.size())
			}
		}
		require.Equal(t, sessions, table.size()+evicted)
		require.Less(t, heapBytes()-before, int64(4<<20))
		runtime.KeepAlive(table)
	}},
	{name: "E1b_sessions_in_use_are_never_evicted", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.MaxSessions = 3
		p := r.own(t, cfg)
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				id := fmt.Sprintf("s%d", i)
				res, err := p.ExecuteInSession(context.Background(), id, "session", nil)
				if err != nil || string(res.Raw()) != fmt.Sprintf("%q", id) {
					t.Errorf("%s: %s %v", id, res.Raw(), err)
				}
			})
		}
		wg.Wait()
		executed(t, p, "ping", nil)
		_, err := p.ExecuteInSession(context.Background(), "last", "session", nil)
		require.NoError(t, err)
		require.LessOrEqual(t, p.Stats().Sessions, 3)
		_, known := p.Session("last")
		require.True(t, known)
	}},
	{name: "E2_huge_id_is_refused", run: func(t *testing.T, r *rig) {
		_, err := r.pool.ExecuteInSession(context.Background(), strings.Repeat("x", 10<<20), "echo", nil)
		failsWith(t, err, ErrInvalidArguments, NotExecuted)
		require.Less(t, len(err.Error()), 1000)
		_, err = r.pool.ExecuteInSession(context.Background(), strings.Repeat("é", 128), "echo", nil)
		require.NoError(t, err, "256 bytes are allowed")
		require.True(t, r.pool.EndSession(strings.Repeat("é", 128)))
	}},
	{name: "E3_hostile_ids_are_refused_everywhere", run: func(t *testing.T, r *rig) {
		sessions := r.pool.Stats().Sessions
		for _, id := range hostileNames {
			_, err := r.pool.ExecuteInSession(context.Background(), id, "echo", nil)
			failsWith(t, err, ErrInvalidArguments, NotExecuted)
			_, err = r.pool.ExecuteProgram(context.Background(), "p", nil, WithSession(id))
			failsWith(t, err, ErrInvalidArguments, NotExecuted)
			_, err = Call[any](context.Background(), r.pool, "echo", nil, WithSession(id))
			failsWith(t, err, ErrInvalidArguments, NotExecuted)
			for _, err := range r.pool.Stream(context.Background(), "numbers", []any{1}, WithSession(id)) {
				failsWith(t, err, ErrInvalidArguments, NotExecuted)
			}
			for _, c := range err.Error() {
				require.True(t, c >= 0x20 && c != 0x7f, "%q", err.Error())
			}
		}
		require.Equal(t, sessions, r.pool.Stats().Sessions, "a refused id is not remembered")
		for _, id := range []string{"../../etc/passwd", "{{.}}", "%s%n", "$(reboot)", "'; DROP TABLE", "日本語", "null", `"`, `\`} {
			res, err := r.pool.ExecuteInSession(context.Background(), id, "session", nil)
			require.NoError(t, err)
			require.Equal(t, id, decoded[string](t, res), "it is a label, and arrives as it is")
			require.True(t, r.pool.EndSession(id))
		}
	}},
	{name: "E4_an_id_forges_no_log_line", run: func(t *testing.T, r *rig) {
		id := "E4 user=\"x\" level=ERROR"
		_, err := r.pool.ExecuteInSession(context.Background(), id, "os_exit", []any{1})
		failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		r.logged(t, "E4 user=")
		for line := range strings.Lines(r.logs.String()) {
			if strings.Contains(line, "E4 user=") {
				require.Contains(t, line, `E4 user=\"x\" level=ERROR`, "quoted, in an attribute of its own")
			}
			require.NotContains(t, line, "msg=forged\n")
		}
		require.True(t, r.pool.EndSession(id))
	}},
	{name: "E5_a_sweep_never_takes_a_session_that_is_in_use", run: func(t *testing.T, r *rig) {
		table := newSessionTable(100, func(string, string) {})
		stop := make(chan struct{})
		var sweeper, users sync.WaitGroup
		sweeper.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					table.sweep(0)
					runtime.Gosched()
				}
			}
		})
		for range 4 {
			users.Go(func() {
				for range 10_000 {
					s := table.enter(fmt.Sprintf("s%d", rand.N(20)))
					if v, ok := table.entries.Load(s.id); !ok || v != s {
						t.Error("a session in use is not in the table")
					}
					table.leave(s, false)
				}
			})
		}
		users.Wait()
		close(stop)
		sweeper.Wait()
		time.Sleep(2 * time.Millisecond) // older than a TTL of 0
		table.sweep(0)
		require.Zero(t, table.size())
	}},
	{name: "E6_the_sum_of_the_sessions_is_the_number_of_calls", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.config(t))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range 25 {
					command := "echo"
					if n%5 == 0 {
						command = "raise_value_error"
					}
					_, _ = p.ExecuteInSession(context.Background(), fmt.Sprintf("s%d", i%3), command, nil)
				}
			})
		}
		wg.Wait()
		var ops, errs int64
		for _, s := range p.Sessions() {
			ops, errs = ops+s.Operations, errs+s.Errors
		}
		st := accounted(t, p)
		require.EqualValues(t, 200, ops)
		require.Equal(t, st.Started, ops)
		require.Equal(t, st.Failed, errs)
	}},
	{name: "E7_an_id_cut_out_of_a_large_text_does_not_keep_the_text", run: func(t *testing.T, r *rig) {
		table := newSessionTable(1000, func(string, string) {})
		before := heapBytes()
		for i := range 64 {
			text := fmt.Sprintf("%08d", i) + strings.Repeat("x", 1<<20)
			table.leave(table.enter(text[:8]), false)
		}
		require.Less(t, heapBytes()-before, int64(8<<20))
		runtime.KeepAlive(table)
	}},
	{name: "E8_one_session_may_run_on_several_workers_at_once", run: func(t *testing.T, r *rig) {
		file := filepath.Join(t.TempDir(), "meeting")
		pids := make(chan string, 2)
		for range 2 {
			go func() {
				res, err := r.pool.ExecuteInSession(context.Background(), "shared", "meet", []any{file, 2})
				if err != nil {
					t.Error(err)
				}
				pids <- string(res.Raw())
			}()
		}
		require.NotEqual(t, <-pids, <-pids)
		info, _ := r.pool.Session("shared")
		require.EqualValues(t, 2, info.Operations)
		require.True(t, r.pool.EndSession("shared"))
	}},
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
