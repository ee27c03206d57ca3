//go:build linux

package pypool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (r *rig) pairsConfig(t testing.TB, size int) Config {
	t.Helper()
	cfg := r.config(t)
	cfg.Script, cfg.Size = workerScript(t, "pairs.py"), size
	return cfg
}

// pairItem is an item of a Map: it notes its number, and does something.
type pairItem struct {
	Path string `json:"path"`
	N    int    `json:"n"`
	Then string `json:"then,omitempty"`
	File string `json:"file,omitempty"`
}

// pairItems are n items, of which those named do something: not the first ones, because a line of
// many comes about when the Map knows how long an item takes.
func pairItems(path string, n int, then map[int]string) iter.Seq[pairItem] {
	return func(yield func(pairItem) bool) {
		for i := range n {
			if !yield(pairItem{Path: path, N: i, Then: then[i]}) {
				return
			}
		}
	}
}

// mapped runs such a Map. All items but those that act are to succeed with their own number; it
// returns the errors of the others.
func mapped(t *testing.T, p *Pool, items iter.Seq[pairItem], then map[int]string, opts ...CallOption) map[int]error {
	t.Helper()
	errs := map[int]error{}
	i := 0
	for out, err := range Map[any](context.Background(), p, "item", items, opts...) {
		if err != nil {
			require.NotEmpty(t, then[i], "item %d: %v", i, err)
			errs[i] = err
		} else {
			require.EqualValues(t, i, out)
		}
		i++
	}
	return errs
}

// ranOnce asserts that each of n items was noted once.
func ranOnce(t *testing.T, path string, n int) {
	t.Helper()
	times := timesNoted(t, path)
	require.Len(t, times, n)
	for i, k := range times {
		require.Equal(t, 1, k, "item %d", i)
	}
}

func timesNoted(t *testing.T, path string) map[int]int {
	t.Helper()
	times := map[int]int{}
	for line := range strings.Lines(procFile(t, path)) {
		n, err := strconv.Atoi(strings.TrimSpace(line))
		require.NoError(t, err)
		times[n]++
	}
	return times
}

// pull ranges over a stream on the test's goroutine, item by item.
func pull(t *testing.T, p *Pool, ctx context.Context, command string, args any, opts ...CallOption) (next func() (Result, error, bool), stop func()) {
	t.Helper()
	next, stop = iter.Pull2(p.Stream(ctx, command, args, opts...))
	t.Cleanup(stop)
	return next, stop
}

// Group I: what came later, crossed with what can go wrong.
var pairFaults = []fault{
	{name: "I1_a_line_of_many_and_a_worker_stopped_in_the_middle", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 2))
		path := filepath.Join(t.TempDir(), "notes")
		then := map[int]string{150: "stop"}
		errs := mapped(t, p, pairItems(path, 400, then), then, WithTimeout(400*time.Millisecond))
		require.Len(t, errs, 1)
		failsWith(t, errs[150], ErrOperationTimeout, MaybeExecuted)
		ranOnce(t, path, 400)
	}},
	{name: "I1b_and_continued", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		dir := t.TempDir()
		path, file := filepath.Join(dir, "notes"), filepath.Join(dir, "pid")
		continued := make(chan struct{})
		go func() { // joined by continued
			defer close(continued)
			pid := pidIn(t, file)
			eventually(t, "it has stopped", func() bool { state, _ := processState(pid); return state == "T" })
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}()
		items := func(yield func(pairItem) bool) {
			for it := range pairItems(path, 400, map[int]string{150: "stop and tell"}) {
				it.File = file
				if !yield(it) {
					return
				}
			}
		}
		require.Empty(t, mapped(t, p, items, nil))
		<-continued
		ranOnce(t, path, 400)
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "I2_a_line_of_many_whose_item_forks_and_both_sides_return", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		path := filepath.Join(t.TempDir(), "notes")
		require.Empty(t, mapped(t, p, pairItems(path, 400, map[int]string{100: "fork", 101: "fork", 250: "fork"}), nil))
		ranOnce(t, path, 400)
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "I2b_a_stream_that_forks_leaves_no_child_behind", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		file := filepath.Join(t.TempDir(), "pid")
		n := 0
		for _, err := range p.Stream(context.Background(), "forks", []any{file}) {
			require.NoError(t, err)
			if n++; n == 20 {
				gone(t, pidIn(t, file))
				break
			}
		}
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "I3_a_line_of_many_whose_item_closes_every_descriptor", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 2))
		path := filepath.Join(t.TempDir(), "notes")
		then := map[int]string{150: "close"}
		errs := mapped(t, p, pairItems(path, 400, then), then)
		require.Len(t, errs, 1)
		failsWith(t, errs[150], ErrWorkerExited, MaybeExecuted)
		ranOnce(t, path, 400)
	}},
	{name: "I3b_a_line_of_many_without_a_descriptor_left", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		path := filepath.Join(t.TempDir(), "notes")
		in := func(yield func(pairItem) bool) {
			_ = yield(pairItem{Path: path, N: 0, Then: "no descriptor"}) && yield(pairItem{Path: path, N: 1}) && yield(pairItem{Path: path, N: 2})
		}
		i := 0
		for out, err := range Map[any](context.Background(), p, "item", in) {
			if i == 0 {
				require.NoError(t, err)
				require.EqualValues(t, 0, out)
			} else {
				require.Equal(t, "OSError", detail[*PythonError](t, failsWith(t, err, ErrPython, Executed)).Type)
			}
			i++
		}
		require.Equal(t, 3, i)
		for range 3 { // what a command's first call needs may not be had
			if _, err := p.ExecuteAnonymous(context.Background(), "echo", []any{1}); err != nil {
				require.True(t, SafeToRetry(err), "%v", err)
			}
		}
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "I3c_a_line_of_many_whose_item_replaces_builtins_and_modules", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		path := filepath.Join(t.TempDir(), "notes")
		then := map[int]string{150: "builtins"}
		executed(t, p, "echo", nil) // of a command's first call the runtime asks more
		require.Empty(t, mapped(t, p, pairItems(path, 400, then), then))
		ranOnce(t, path, 400)
		for i := range 100 {
			require.Equal(t, i, decoded[int](t, executed(t, p, "echo", []any{i})))
		}
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "I4_bytes_and_traces_beside_plain_items_when_workers_die", run: func(t *testing.T, r *rig) {
		cfg := r.pairsConfig(t, 2)
		parents := map[int]string{}
		for n := range 3 {
			parents[n] = fmt.Sprintf("00-%032x-%016x-01", n+1, n+1)
		}
		var began atomic.Int64 // CallStart and TraceParent run on the feeder alone, one item at a time
		type key struct{}
		cfg.Observer = &Observer{}
		cfg.Observer.CallStart = func(ctx context.Context, info CallInfo) context.Context {
			if info.Command != "kind" {
				return ctx
			}
			return context.WithValue(ctx, key{}, int(began.Add(1)-1))
		}
		cfg.Observer.TraceParent = func(ctx context.Context) string {
			n, ok := ctx.Value(key{}).(int)
			if !ok || n%7 > 2 {
				return ""
			}
			return parents[n%7]
		}
		p := r.own(t, cfg)
		path := filepath.Join(t.TempDir(), "notes")
		const total = 600
		deadly := func(i int) bool { return i%97 == 50 }
		items := func(yield func(any) bool) {
			for i := range total {
				var data any = fmt.Sprint("text ", i)
				if i%5 == 0 {
					data = []byte{byte(i), 0, byte(i >> 8)}
				}
				then := ""
				if deadly(i) {
					then = []string{"exit", "kill"}[i%2]
				}
				if !yield(map[string]any{"path": path, "n": i, "data": data, "then": then}) {
					return
				}
			}
		}
		i := 0
		for out, err := range Map[[]any](context.Background(), p, "kind", iter.Seq[any](items)) {
			if deadly(i) {
				failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			} else {
				require.NoError(t, err)
				require.EqualValues(t, i, out[0])
				if i%5 == 0 {
					require.Equal(t, hex.EncodeToString([]byte{byte(i), 0, byte(i >> 8)}), out[1])
				} else {
					require.Equal(t, fmt.Sprint("text ", i), out[1])
				}
				if i%7 > 2 {
					require.Nil(t, out[2])
				} else {
					require.Equal(t, parents[i%7], out[2])
				}
			}
			i++
		}
		require.Equal(t, total, i)
		ranOnce(t, path, total)
	}},
	{name: "I5_a_line_of_many_with_messages_over_the_limit", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		path := filepath.Join(t.TempDir(), "notes")
		then := map[int]string{100: "large", 101: "large", 200: strings.Repeat("y", 2<<20)}
		errs := mapped(t, p, pairItems(path, 400, then), then)
		require.Len(t, errs, 3)
		failsWith(t, errs[100], ErrMessageTooLarge, Executed)
		failsWith(t, errs[101], ErrMessageTooLarge, Executed)
		failsWith(t, errs[200], ErrMessageTooLarge, NotExecuted)
		require.Len(t, timesNoted(t, path), 399)
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "I7_a_worker_killed_while_both_sides_poll", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		path := filepath.Join(t.TempDir(), "notes")
		touch(t, path)
		n, fine := 0, map[int]bool{}
		for range 15 {
			victim := p.Workers()[0]
			killed := make(chan error, 1)
			hot := make(chan struct{})
			go func() { // joined by killed
				<-hot
				killed <- syscall.Kill(victim.PID, syscall.SIGKILL)
			}()
			for begun := n; ; n++ {
				if n == begun+50 {
					close(hot)
				}
				res, err := p.ExecuteAnonymous(context.Background(), "item", []any{path, n})
				if err != nil {
					failsWith(t, err, ErrWorkerExited, MaybeExecuted)
					n++
					break
				}
				require.Equal(t, n, decoded[int](t, res))
				fine[n] = true
				if res.Worker() != victim.ID {
					n++
					break // it died between two calls
				}
			}
			require.NoError(t, <-killed)
			eventually(t, "there is another worker", func() bool { return serving(p) })
		}
		times := timesNoted(t, path)
		for i := range n {
			require.LessOrEqual(t, times[i], 1, "call %d", i)
			require.True(t, !fine[i] || times[i] == 1, "call %d", i)
		}
	}},
	{name: "I8_a_polling_worker_stopped_and_continued", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		pid := p.Workers()[0].PID
		for round := range 10 {
			for i := range 200 {
				require.Equal(t, i, decoded[int](t, executed(t, p, "echo", []any{i})))
			}
			stop(t, pid)
			end := background(p, context.Background(), "echo", []any{-round})
			eventually(t, "the request is in the pipe", func() bool { return unbegun(p.sup.workers()[0]) > 0 })
			require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
			o := ended(t, end)
			require.NoError(t, o.err)
			require.Equal(t, -round, decoded[int](t, o.res))
		}
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "I9_random_words_in_the_page_while_speed_hints_are_in_use", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		flag := filepath.Join(t.TempDir(), "enough")
		for i := range 100 {
			require.Equal(t, i, decoded[int](t, executed(t, p, "echo", []any{i})))
		}
		require.NotEqual(t, "list", decoded[string](t, executed(t, p, "scribble_beside", []any{flag})), "there is a page")
		for i := range 1000 {
			require.Equal(t, i, decoded[int](t, executed(t, p, "echo", []any{i})))
		}
		i := 0
		for out, err := range Map[int](context.Background(), p, "echo", integers(3000)) {
			require.NoError(t, err)
			require.Equal(t, i, out)
			i++
		}
		require.Equal(t, 3000, i)
		touch(t, flag)
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "I10_encoders_that_a_handler_replaces", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		look := func() {
			_, err := p.ExecuteAnonymous(context.Background(), "value", []any{"nan"})
			failsWith(t, err, ErrInvalidResult, Executed)
			_, err = p.ExecuteAnonymous(context.Background(), "value", []any{"surrogate"})
			failsWith(t, err, ErrInvalidResult, Executed)
			_, err = p.ExecuteAnonymous(context.Background(), "value", []any{"keys"})
			failsWith(t, err, ErrInvalidResult, Executed)
			require.Equal(t, `{"a":[1`+strings.Repeat("0", 300)+`,-18446744073709551616]}`, string(executed(t, p, "value", []any{"huge"}).Raw()))
			wide := `{"a":9007199254740993,"b":1e+300,"c":"\u2028\u00e9"}`
			require.JSONEq(t, "["+wide+","+wide+","+wide+"]", string(executed(t, p, "value", []any{"wide"}).Raw()))
			require.Contains(t, string(executed(t, p, "value", []any{"wide"}).Raw()), `"a":9007199254740993`)
		}
		look()
		t.Logf("with orjson: %v", decoded[bool](t, executed(t, p, "spoil_encoders", nil)))
		for range 3 {
			look()
		}
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "I11_an_edit_during_a_stream_that_stalls", run: func(t *testing.T, r *rig) {
		r.pool = nil
		const source = "from pypool import command\n@command\ndef items():\n    while True: yield VERSION\n@command\ndef value():\n    return VERSION\n@command\ndef ping_(): pass\nVERSION = "
		p, write, _ := watched(t, map[string]string{"worker.py": source + "1\n"}, func(cfg *Config) {
			cfg.StallTimeout, cfg.ExtraEnv = 500*time.Millisecond, []string{r.mark}
		})
		answers(t, p, "1")
		body := blockBody(t, context.Background(), p, "items")
		write("worker.py", source+"2\n")
		answers(t, p, "2") // not before no old worker is left
		for _, w := range p.Workers() {
			require.NotEqual(t, body.worker, w.ID)
		}
		failsWith(t, body.end(t), ErrStalled, MaybeExecuted)
		r.pool = p
	}},
	{name: "I12_a_script_that_is_gone_while_workers_die_and_comes_back", run: func(t *testing.T, r *rig) {
		executedOnly(t)
		r.pool = nil
		p, write, logs := watched(t, map[string]string{"worker.py": value("1")}, func(cfg *Config) {
			cfg.ExtraEnv, cfg.Breaker = []string{r.mark}, Breaker{Failures: -1}
		})
		answers(t, p, "1")
		path := p.cfg.Script
		away := path + ".away"
		require.NoError(t, os.Rename(path, away))
		kill(t, pids(p)...)
		eventually(t, "the failure is logged", func() bool {
			return strings.Contains(logs.String(), "No such file") || strings.Contains(logs.String(), "no such file")
		})
		require.NoError(t, os.Rename(away, path)) // as it was, its time of modification too
		eventually(t, "it heals, though no start is repeated by itself", func() bool {
			write("touched", "") // in case that the watch first saw the folder with the script in it
			require.NoError(t, os.Remove(filepath.Join(filepath.Dir(path), "touched")))
			return serving(p)
		})
		require.Equal(t, "1", string(executed(t, p, "value", nil).Raw()))
		r.pool = p
	}},
	{name: "I12b_a_broken_edit_while_workers_are_killed", run: func(t *testing.T, r *rig) {
		r.pool = nil
		p, write, logs := watched(t, map[string]string{"worker.py": value("1")}, func(cfg *Config) {
			cfg.ExtraEnv = []string{r.mark}
		})
		answers(t, p, "1")
		write("worker.py", "def broken(:\n")
		eventually(t, "the broken edit is logged", func() bool { return strings.Contains(logs.String(), "SyntaxError") })
		for _, pid := range pids(p) {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			gone(t, pid)
		}
		eventually(t, "the pool knows", func() bool { return p.Stats().Workers == 0 })
		_, err := p.ExecuteAnonymous(context.Background(), "value", nil, WithCheckoutTimeout(200*time.Millisecond))
		require.Error(t, err)
		require.True(t, SafeToRetry(err), "%v", err)
		write("worker.py", value("2"))
		answers(t, p, "2")
		r.pool = p
	}},
	{name: "I13_two_pools_that_watch_one_file", run: func(t *testing.T, r *rig) {
		r.pool = nil
		change := func(cfg *Config) { cfg.ExtraEnv = []string{r.mark} }
		p, write, logs := watched(t, map[string]string{"worker.py": value("1")}, change)
		second := &logBuffer{}
		cfg := p.cfg
		cfg.Logger = second.logger(-4)
		q := newPool(t, cfg)
		answers(t, p, "1")
		answers(t, q, "1")
		write("worker.py", value("2"))
		answers(t, p, "2")
		answers(t, q, "2")
		eventually(t, "each has seen it", func() bool { return reloads(logs) == 1 && reloads(second) == 1 })
		r.pool = p
	}},
	{name: "I15_Reload_while_a_Map_runs", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 2))
		var stop atomic.Bool
		old := pids(p)
		items := func(yield func(int) bool) {
			for i := 0; !stop.Load() && yield(i); i++ {
			}
		}
		reloaded := make(chan error, 1)
		seen := map[int]bool{}
		n := 0
		for pid, err := range Map[int](context.Background(), p, "slow_pid", items) {
			require.NoError(t, err)
			if n++; n == 500 {
				go func() { // joined by reloaded
					ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
					defer cancel()
					err := p.Reload(ctx)
					stop.Store(true)
					reloaded <- err
				}()
			}
			seen[pid] = true
		}
		require.NoError(t, <-reloaded, "Reload waits for no Map's end")
		fresh := 0
		for pid := range seen {
			if !slices.Contains(old, pid) {
				fresh++
			}
		}
		require.Positive(t, fresh, "the Map goes on with new workers")
		accounted(t, p)
	}},
	{name: "I15b_a_Map_wears_workers_out", run: func(t *testing.T, r *rig) {
		for _, wear := range []func(*Config){func(cfg *Config) { cfg.MaxCalls = 500 }, func(cfg *Config) { cfg.MaxLifetime = 100 * time.Millisecond }} {
			cfg := r.pairsConfig(t, 2)
			wear(&cfg)
			p := r.own(t, cfg)
			end := time.Now().Add(10 * time.Second)
			seen := map[int]bool{}
			for pid, err := range Map[int](context.Background(), p, "slow_pid", func(yield func(int) bool) {
				for i := 0; yield(i); i++ {
				}
			}) {
				require.NoError(t, err)
				if seen[pid] = true; len(seen) > 5 || time.Now().After(end) {
					break
				}
			}
			require.Greater(t, len(seen), 5, "worn-out workers are replaced while a Map runs")
			accounted(t, p)
			require.NoError(t, p.Close())
		}
	}},
	{name: "I16_Reload_while_a_stream_is_wound_up", run: func(t *testing.T, r *rig) {
		cfg := r.pairsConfig(t, 1)
		cfg.StopGrace = 20 * time.Second
		p := r.own(t, cfg)
		l := newLatch(t)
		began := filepath.Join(t.TempDir(), "began")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		next, _ := pull(t, p, ctx, "at_latch", []any{l.path, began})
		first, err, ok := next()
		require.True(t, ok)
		require.NoError(t, err)
		pidIn(t, began)
		cancel()
		_, err, ok = next()
		require.True(t, ok)
		failsWith(t, err, ErrCanceled, MaybeExecuted)
		reloaded := make(chan error, 1)
		go func() { reloaded <- p.Reload(context.Background()) }() // joined by reloaded
		eventually(t, "the replacement is ready", func() bool { return p.Stats().WorkersStarted == 2 && p.Stats().Idle == 1 })
		select {
		case err := <-reloaded:
			t.Fatalf("the old worker's generator still runs: %v", err)
		default:
		}
		l.release(t)
		require.NoError(t, <-reloaded)
		require.NotEqual(t, decoded[int](t, first), decoded[int](t, executed(t, p, "pid", nil)))
	}},
	{name: "I18_a_stalled_stream_on_a_worker_that_is_worn_out", run: func(t *testing.T, r *rig) {
		for _, wear := range []func(*Config){func(cfg *Config) { cfg.MaxCalls = 1 }, func(cfg *Config) { cfg.MaxLifetime = time.Second }} {
			cfg := r.pairsConfig(t, 1)
			cfg.StallTimeout = 100 * time.Millisecond
			wear(&cfg)
			p := r.own(t, cfg)
			body := blockBody(t, context.Background(), p, "endless")
			eventually(t, "its worker was replaced", func() bool {
				return serving(p) && !slices.ContainsFunc(p.Workers(), func(w WorkerInfo) bool { return w.ID == body.worker })
			})
			failsWith(t, body.end(t), ErrStalled, MaybeExecuted)
			executed(t, p, "pid", nil)
			accounted(t, p)
			require.NoError(t, p.Close())
		}
	}},
	{name: "I20_a_loop_left_whose_worker_is_stopped", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 2))
		begun := time.Now()
		var pid int
		for res, err := range p.Stream(context.Background(), "endless", nil) {
			require.NoError(t, err)
			pid = decoded[int](t, res)
			stop(t, pid)
			begun = time.Now()
			break
		}
		within(t, begun, p.cfg.StopGrace+p.cfg.KillGrace)
		gone(t, pid)
		accounted(t, p)
	}},
	{name: "I20b_a_streams_context_that_ends_while_its_worker_is_stopped", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 2))
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var pid int
		var begun time.Time
		var last error
		for res, err := range p.Stream(ctx, "endless", nil) {
			if err != nil {
				last = err
				break
			}
			pid = decoded[int](t, res)
			stop(t, pid)
			begun = time.Now()
			cancel()
		}
		within(t, begun, p.cfg.KillGrace)
		failsWith(t, last, ErrCanceled, MaybeExecuted)
		gone(t, pid)
		accounted(t, p)
	}},
	{name: "I21_frames_and_raw_output_of_workers_that_are_killed", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 2))
		requests := map[string]uint64{}
		const total = 24
		for n := range total {
			then := ""
			if n%4 == 3 {
				then = "kill"
			}
			res, err := p.ExecuteAnonymous(context.Background(), "talk", []any{9000 + n, then})
			if then == "" {
				require.NoError(t, err)
				requests[fmt.Sprint(9000+n)] = decoded[uint64](t, res)
			} else {
				e := failsWith(t, err, ErrWorkerExited, MaybeExecuted)
				requests[fmt.Sprint(9000+n)] = e.Context.RequestID
			}
		}
		for n := range total {
			number := fmt.Sprint(9000 + n)
			for _, text := range []string{"mine " + number, "also mine " + number, "nobody's " + number} {
				r.logged(t, text)
			}
		}
		mine := 0
		for _, l := range r.told("") {
			words := strings.Fields(l.Msg)
			if len(words) < 2 {
				continue
			}
			id, ours := requests[words[len(words)-1]]
			switch {
			case strings.HasPrefix(l.Msg, "nobody's"):
				require.Zero(t, l.Request, l.Msg)
			case ours && strings.Contains(l.Msg, "mine"):
				mine++
				require.Equal(t, id, l.Request, l.Msg)
			}
		}
		require.GreaterOrEqual(t, mine, 2*total)
	}},
	{name: "I22_Close_during_a_flood_of_output", run: func(t *testing.T, r *rig) {
		cfg := r.pairsConfig(t, 2)
		cfg.Logger = quiet()
		p := r.own(t, cfg)
		dir := t.TempDir()
		var ends []<-chan outcome
		var floods []int
		for i := range 2 {
			began := filepath.Join(dir, fmt.Sprint(i))
			ends = append(ends, background(p, context.Background(), "flood", []any{began}))
			floods = append(floods, pidIn(t, began))
		}
		begun := time.Now()
		require.NoError(t, p.Close())
		within(t, begun, 2*time.Second)
		for i, end := range ends {
			failsWith(t, ended(t, end).err, ErrPoolClosed, MaybeExecuted)
			gone(t, floods[i])
		}
	}},
	{name: "I22b_Close_while_a_line_of_many_is_stopped", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		dir := t.TempDir()
		path, file := filepath.Join(dir, "notes"), filepath.Join(dir, "pid")
		closed := make(chan time.Duration, 1)
		go func() { // joined by closed
			pid := pidIn(t, file)
			eventually(t, "it has stopped", func() bool { state, _ := processState(pid); return state == "T" })
			begun := time.Now()
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			closed <- time.Since(begun)
		}()
		i, unbegun := 0, map[int]bool{}
		for out, err := range Map[any](context.Background(), p, "item", func(yield func(pairItem) bool) {
			for it := range pairItems(path, 400, map[int]string{150: "stop and tell"}) {
				if it.File = file; !yield(it) {
					return
				}
			}
		}) {
			switch {
			case err == nil:
				require.EqualValues(t, i, out)
			default:
				require.ErrorIs(t, err, ErrPoolClosed)
				unbegun[i] = SafeToRetry(err)
			}
			i++
		}
		require.Equal(t, 400, i)
		require.Less(t, <-closed, 3*time.Second)
		for n, k := range timesNoted(t, path) {
			require.Equal(t, 1, k)
			require.LessOrEqual(t, n, 150)
			require.False(t, unbegun[n], "item %d has begun", n)
		}
		accounted(t, p)
	}},
	{name: "I23_bytes_at_the_limit_of_a_message", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		fits := func(n int) bool {
			t.Helper()
			data := make([]byte, n)
			for i := range data {
				data[i] = byte(i * 7)
			}
			res, err := p.ExecuteAnonymous(context.Background(), "digest", []any{data})
			if err == nil {
				require.Equal(t, fmt.Sprintf("%d %x", n, sha256.Sum256(data)), decoded[string](t, res))
				return true
			}
			failsWith(t, err, ErrMessageTooLarge, NotExecuted)
			return false
		}
		low, high := (1<<20)-1024, 1<<20 // the largest that fits: payloads count, and so does the line
		require.True(t, fits(low))
		require.False(t, fits(high))
		for high-low > 1 {
			if mid := (low + high) / 2; fits(mid) {
				low = mid
			} else {
				high = mid
			}
		}
		require.False(t, fits(1<<20))
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "I24_very_many_places_of_bytes", run: func(t *testing.T, r *rig) {
		p := r.own(t, r.pairsConfig(t, 1))
		pieces := make([][]byte, 20_000)
		for i := range pieces {
			pieces[i] = []byte{byte(i), byte(i >> 8)}
		}
		require.Equal(t, pieces, decoded[[][]byte](t, executed(t, p, "echo", []any{pieces})))
		deep := any([]byte("deep"))
		for range 300 {
			deep = map[string]any{"k": []any{deep}}
		}
		got := decoded[any](t, executed(t, p, "echo", []any{deep}))
		for range 300 {
			got = got.(map[string]any)["k"].([]any)[0]
		}
		require.Equal(t, "ZGVlcA==", got)
		i := 0
		for out, err := range Map[[][]byte](context.Background(), p, "echo", slices.Values([]any{[]any{pieces[:5000]}, []any{nil}, []any{pieces[5000:10000]}})) {
			require.NoError(t, err)
			if i != 1 {
				require.Equal(t, pieces[i/2*5000:][:5000], out)
			}
			i++
		}
		require.Equal(t, 3, i)
		_, err := p.ExecuteAnonymous(context.Background(), "echo", []any{slices.Repeat(pieces, 6)})
		failsWith(t, err, ErrMessageTooLarge, NotExecuted)
		require.EqualValues(t, 1, p.Stats().WorkersStarted)
	}},
	{name: "I26_a_CallEnd_that_panics_in_a_line_of_many_whose_worker_dies", run: func(t *testing.T, r *rig) {
		for _, then := range []string{"kill", "stop"} {
			cfg := r.pairsConfig(t, 1)
			var ends atomic.Int64
			cfg.Observer = &Observer{}
			cfg.Observer.CallEnd = func(_ context.Context, info CallInfo, o CallOutcome) {
				if info.Command == "item" && o.Err != nil {
					if ends.Add(1) == 1 {
						panic("told")
					}
				}
			}
			p := r.own(t, cfg)
			path := filepath.Join(t.TempDir(), "notes")
			require.PanicsWithValue(t, "told", func() {
				for _, err := range Map[any](context.Background(), p, "item", pairItems(path, 400, map[int]string{150: then}), WithTimeout(400*time.Millisecond)) {
					require.NoError(t, err)
				}
			})
			for n, k := range timesNoted(t, path) {
				require.Equal(t, 1, k, "item %d", n)
			}
			eventually(t, "it goes on", func() bool { return serving(p) })
			accounted(t, p)
			require.NoError(t, p.Close())
		}
	}},
}
