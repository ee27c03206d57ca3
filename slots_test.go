//go:build unix

package pypool

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func slotsConfig(t testing.TB, size int) Config {
	t.Helper()
	return Config{Script: workerScript(t, "slots.py"), Python: realPython(), Size: size, Overflow: -1, Logger: testLogger(t)}
}

// slotsOf are the slots of the workers that are neither starting nor on their way out, sorted.
func slotsOf(p *Pool) (slots []int) {
	for _, w := range p.Workers() {
		if w.State != workerStarting && w.State != workerStopping {
			slots = append(slots, w.Slot)
		}
	}
	slices.Sort(slots)
	return slots
}

func inSlot(t testing.TB, p *Pool, slot int) WorkerInfo {
	t.Helper()
	for _, w := range p.Workers() {
		if w.Slot == slot {
			return w
		}
	}
	t.Fatalf("nobody in slot %d", slot)
	return WorkerInfo{}
}

// toldOf waits for n events of the kind: they are told a moment later.
func toldOf(t testing.TB, events *eventLog, kind EventKind, n int) (list []Event) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d events %s are told", n, kind), func() bool { list = events.of(kind); return len(list) >= n })
	require.Len(t, list, n)
	return list
}

// killIn kills the worker in the slot, and waits for its replacement to be ready.
func killIn(t testing.TB, p *Pool, slot int) {
	t.Helper()
	victim := inSlot(t, p, slot)
	kill(t, victim.PID)
	eventually(t, "the replacement is in the same slot", func() bool { return replacedIn(p, slot, victim.ID) })
}

// replacedIn reports whether a worker is in the slot, ready, that is not the one of that name.
func replacedIn(p *Pool, slot int, was string) bool {
	return slices.ContainsFunc(p.Workers(), func(w WorkerInfo) bool {
		return w.Slot == slot && w.ID != was && w.State != workerStarting && w.State != workerStopping
	}) && !slices.ContainsFunc(p.Workers(), func(w WorkerInfo) bool { return w.ID == was })
}

type placeOf struct {
	ID       string
	Slot     int
	PID      int
	AtImport []any `json:"at_import"`
	InSetup  []any `json:"in_setup"`
	Device   string
}

// everyPlace calls until each slot has answered, and returns what they say, by slot.
func everyPlace(t testing.TB, p *Pool, size int) map[int]placeOf {
	t.Helper()
	found := map[int]placeOf{}
	eventually(t, "every slot has answered", func() bool {
		for _, out := range inBackground(2*size, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), "place", nil) })() {
			require.NoError(t, out.err)
			at := decoded[placeOf](t, out.res)
			found[at.Slot] = at
		}
		return len(found) == size
	})
	return found
}

func TestASlotIsAWorkersPlaceAndItsReplacementInheritsIt(t *testing.T) {
	executedOnly(t)
	t.Parallel()
	dir := t.TempDir()
	events := &eventLog{}
	cfg := slotsConfig(t, 3)
	cfg.Observer = &Observer{Event: events.add}
	cfg.WorkerEnv = func(slot int) []string { return []string{"DEVICE=" + filepath.Join(dir, strconv.Itoa(slot))} }
	p := newPool(t, cfg)
	require.Equal(t, []int{0, 1, 2}, slotsOf(p))
	names := map[string]int{}
	for slot, at := range everyPlace(t, p, 3) {
		device := filepath.Join(dir, strconv.Itoa(slot))
		assert.Equal(t, device, at.Device)
		assert.Equal(t, []any{float64(slot), device}, at.AtImport, "known when the script is imported")
		assert.Equal(t, []any{float64(slot), device}, at.InSetup)
		assert.Equal(t, inSlot(t, p, slot).ID, at.ID)
		assert.Equal(t, inSlot(t, p, slot).PID, at.PID)
		names[at.ID] = slot
	}
	for round := range 3 {
		killIn(t, p, round)
		require.Equal(t, []int{0, 1, 2}, slotsOf(p))
		names[inSlot(t, p, round).ID] = round
	}
	for _, w := range p.Workers() {
		assert.False(t, w.Overflow)
	}
	started := toldOf(t, events, EventWorkerStarted, 6)
	for _, e := range append(started, events.of(EventWorkerExited)...) {
		assert.Equal(t, names[e.Worker], e.Slot, "%+v", e)
	}
	assert.Equal(t, 1, decoded[int](t, callIn(t, p, 1, "in_a_child")))
}

// callIn calls the command until the worker of the slot serves it.
func callIn(t testing.TB, p *Pool, slot int, command string) (res Result) {
	t.Helper()
	eventually(t, "the worker in the slot serves", func() bool {
		for _, out := range inBackground(4, func(int) (Result, error) { return p.ExecuteAnonymous(t.Context(), command, nil) })() {
			require.NoError(t, out.err)
			if out.res.Worker() == inSlot(t, p, slot).ID {
				res = out.res
				return true
			}
		}
		return false
	})
	return res
}

func TestRecyclingAndReloadKeepTheSlots(t *testing.T) {
	t.Parallel()
	cfg := slotsConfig(t, 2)
	cfg.MaxCalls = 20
	p := newPool(t, cfg)
	for range 2 {
		require.NoError(t, p.Reload(t.Context()))
		require.Equal(t, []int{0, 1}, slotsOf(p))
	}
	for range 300 {
		executed(t, p, "place", nil)
	}
	eventually(t, "two workers again", func() bool { return serving(p) })
	require.Equal(t, []int{0, 1}, slotsOf(p))
	require.NotZero(t, p.Stats().Recycled)
}

// An overflow worker stands beyond Size, and does not take the place of one that has died.
func TestOverflowHasSlotsBeyondSize(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 2)
	cfg.overflowIdle = 50 * time.Millisecond
	p := newPool(t, cfg)
	a, b, c := hold(t, t.Context(), p, ""), hold(t, t.Context(), p, ""), hold(t, t.Context(), p, "")
	require.Equal(t, []int{0, 1, 2}, slotsOf(p))
	for _, w := range p.Workers() {
		assert.Equal(t, w.Slot > 0, w.Overflow)
	}
	regular := inSlot(t, p, 0)
	kill(t, regular.PID)
	eventually(t, "slot 0 is filled though overflow is there", func() bool { return replacedIn(p, 0, regular.ID) })
	lost := 0
	for _, h := range []*held{a, b, c} {
		select {
		case out := <-h.done:
			require.ErrorIs(t, out.err, ErrWorkerExited)
			lost++
		default:
			h.finish(t)
		}
	}
	require.Equal(t, 1, lost)
	eventually(t, "only slot 0 is left", func() bool { return serving(p) && slices.Equal(slotsOf(p), []int{0}) })
}

// traffic has n callers call the command until stop, which returns what failed.
func traffic(t testing.TB, p *Pool, n int, command string, args any) (stop func() []error) {
	t.Helper()
	over := make(chan struct{})
	end := sync.OnceFunc(func() { close(over) })
	var callers sync.WaitGroup
	var mu sync.Mutex // guards failed
	var failed []error
	for range n {
		callers.Go(func() {
			for !isClosed(over) {
				if _, err := p.ExecuteAnonymous(context.Background(), command, args); err != nil {
					mu.Lock()
					failed = append(failed, err)
					many := len(failed) > 1000
					mu.Unlock()
					if many {
						return
					}
				}
			}
		})
	}
	t.Cleanup(func() { end(); callers.Wait() })
	return func() []error {
		end()
		callers.Wait()
		return failed
	}
}

// Two devices that hold one model each, and what replaces workers: no process ever comes for a
// device that another one has.
func TestBreakBeforeMakeHasOneProcessADevice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := slotsConfig(t, 2)
	cfg.BreakBeforeMake = true
	cfg.RestartBackoff = Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond}
	cfg.WorkerEnv = func(slot int) []string { return []string{"DEVICE=" + filepath.Join(dir, strconv.Itoa(slot))} }
	failures := &logBuffer{}
	cfg.Logger = failures.logger(0)
	p := newPool(t, cfg)
	stop := traffic(t, p, 4, "work", nil)
	for round := range 3 {
		require.NoError(t, p.Reload(t.Context()))
		require.Equal(t, []int{0, 1}, slotsOf(p))
		killIn(t, p, round%2)
		require.Equal(t, []int{0, 1}, slotsOf(p))
	}
	both := []WorkerInfo{inSlot(t, p, 0), inSlot(t, p, 1)}
	kill(t, both[0].PID, both[1].PID)
	eventually(t, "both serve again", func() bool { return replacedIn(p, 0, both[0].ID) && replacedIn(p, 1, both[1].ID) })
	killed := 0
	for _, err := range stop() {
		require.ErrorIs(t, err, ErrWorkerExited)
		killed++
	}
	assert.LessOrEqual(t, killed, 5, "calls whose worker was killed")
	assert.Empty(t, failures.with(t, "a worker did not start"))
	everyPlace(t, p, 2)
}

// The same devices without it: the replacement comes while the old one is there.
func TestMakeBeforeBreakHasTwoProcessesADeviceForAMoment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := slotsConfig(t, 2)
	cfg.Logger = quiet()
	cfg.WorkerEnv = func(slot int) []string { return []string{"DEVICE=" + filepath.Join(dir, strconv.Itoa(slot))} }
	p := newPool(t, cfg)
	err := p.Reload(t.Context())
	require.ErrorIs(t, err, ErrWorkerStart)
	require.Contains(t, err.Error(), "the device is taken")
	executed(t, p, "work", nil)
}

func TestTroubleInWorkerEnvFailsTheStart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ask  func(int) []string
		want string
	}{
		"panic":         {func(int) []string { panic("no such GPU") }, "Config.WorkerEnv(0) panicked: no such GPU"},
		"endless":       {func(int) []string { panic(containsItself()) }, "Config.WorkerEnv(0) panicked: a value of type []interface {}, which cannot be told"},
		"Goexit":        {func(int) []string { runtime.Goexit(); return nil }, "Config.WorkerEnv(0) called runtime.Goexit"},
		"no KEY=value":  {func(int) []string { return []string{"A=1", "no_value"} }, `Config.WorkerEnv: the entry that begins with "no_value" is not KEY=value without NUL`},
		"a secret, NUL": {func(int) []string { return []string{"PASSWORD_OF_SOMETHING=hidden\x00"} }, `Config.WorkerEnv: the entry that begins with "PASSWORD_OF_SOME" is not`},
		"a short name":  {func(int) []string { return []string{"DB_PW=hidden\x00"} }, `Config.WorkerEnv: the entry that begins with "DB_PW" is not`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := slotsConfig(t, 1)
			cfg.Logger, cfg.WorkerEnv = quiet(), c.ask
			_, err := New(t.Context(), cfg)
			e := failure(t, err, ErrWorkerStart)
			assert.Equal(t, "spawn", detail[*StartError](t, err).Stage)
			assert.Contains(t, e.Message, c.want)
			assert.NotContains(t, e.Message, "hidden")
		})
	}
}

func TestAWorkerEnvThatDoesNotReturnHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	returned := make(chan struct{})
	cfg := slotsConfig(t, 1)
	cfg.Logger, cfg.StartTimeout = quiet(), 50*time.Millisecond
	cfg.WorkerEnv = func(int) []string { defer close(returned); <-release; return nil }
	_, err := New(t.Context(), cfg)
	require.ErrorIs(t, err, ErrWorkerStart)
	require.ErrorContains(t, err, "Config.WorkerEnv(0) has not returned: not started within StartTimeout")
	close(release)
	<-returned
}

// What fails while the pool serves costs nobody but the worker that was to start.
func TestWorkerEnvMayRecover(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	cfg := slotsConfig(t, 2)
	cfg.Logger, cfg.RestartBackoff = quiet(), Backoff{Min: time.Millisecond, Max: 5 * time.Millisecond}
	cfg.WorkerEnv = func(slot int) []string {
		if broken.Load() {
			panic(fmt.Sprint("no device for ", slot))
		}
		return nil
	}
	p := newPool(t, cfg)
	broken.Store(true)
	kill(t, inSlot(t, p, 0).PID)
	eventually(t, "the start fails", func() bool { h, _ := p.HealthCheck(t.Context()); return h.LastError != nil })
	executed(t, p, "work", nil)
	broken.Store(false)
	eventually(t, "both serve", func() bool { return serving(p) })
	require.Equal(t, []int{0, 1}, slotsOf(p))
}

func TestThreadsAreTheWorkersShare(t *testing.T) {
	// Not parallel: it sets variables of the host's.
	names := []string{}
	for _, v := range threadLimits {
		names = append(names, v.name)
		t.Setenv(v.name, "") // so that it is restored
		require.NoError(t, os.Unsetenv(v.name))
	}
	share := func(size int) string { return strconv.Itoa(max(1, runtime.GOMAXPROCS(0)/size)) }
	all := func(value any) map[string]any {
		m := map[string]any{}
		for _, name := range names {
			m[name] = value
		}
		return m
	}
	with := func(m map[string]any, value any, names ...string) map[string]any {
		for _, name := range names {
			m[name] = value
		}
		return m
	}
	followers := []string{"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS"}
	for _, c := range []struct {
		name string
		set  func(*Config)
		want map[string]any
	}{
		{"default", func(c *Config) {}, all(share(1))},
		{"of two", func(c *Config) { c.Size = 2 }, all(share(2))},
		{"more workers than processors", func(c *Config) { c.Size, c.MinReady = runtime.GOMAXPROCS(0)+1, 1 }, all("1")},
		{"a number", func(c *Config) { c.Threads = 3 }, all("3")},
		{"off", func(c *Config) { c.Threads = -1 }, all(nil)},
		{"set by the user", func(c *Config) { c.ExtraEnv = []string{"MKL_NUM_THREADS=7"} }, with(all(share(1)), "7", "MKL_NUM_THREADS")},
		{"OpenMP's set by the user", func(c *Config) { c.ExtraEnv = []string{"OMP_NUM_THREADS=7"} }, with(with(all(share(1)), nil, followers...), "7", "OMP_NUM_THREADS")},
		{"set for a slot", func(c *Config) { c.WorkerEnv = func(int) []string { return []string{"RAYON_NUM_THREADS=9"} } }, with(all(share(1)), "9", "RAYON_NUM_THREADS")},
		{"an environment of their own", func(c *Config) { c.Env = []string{} }, all(share(1))},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := slotsConfig(t, 1)
			c.set(&cfg)
			p := newPool(t, cfg)
			require.Equal(t, c.want, decoded[map[string]any](t, executed(t, p, "variables", args{"names": names})))
		})
	}
	t.Setenv("OPENBLAS_NUM_THREADS", "5")
	p := newPool(t, slotsConfig(t, 1))
	require.Equal(t, with(all(share(1)), "5", "OPENBLAS_NUM_THREADS"), decoded[map[string]any](t, executed(t, p, "variables", args{"names": names})), "the host's own count as the user's")
}

func TestWhatWorkerEnvSetsOfPythonsVariablesCounts(t *testing.T) {
	t.Parallel()
	executedOnly(t) // an interpreter reads them when it starts
	cfg := slotsConfig(t, 1)
	cfg.WorkerEnv = func(int) []string { return []string{"PYTHONHASHSEED=7", "PYTHONWARNINGS=error"} }
	p := newPool(t, cfg)
	got := decoded[map[string]string](t, executed(t, p, "variables", args{"names": []string{"PYTHONHASHSEED", "PYTHONWARNINGS"}}))
	require.Equal(t, map[string]string{"PYTHONHASHSEED": "7", "PYTHONWARNINGS": "error"}, got)
	require.True(t, strings.Contains(strings.Join(p.sup.workers()[0].spec.Args, " "), "-W error"))
}
