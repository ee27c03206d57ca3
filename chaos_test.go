//go:build linux

package pypool

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	chaosDuration = flag.Duration("chaos.duration", 3*time.Second, "how long TestFaultChaos runs, for each seed")
	chaosSeed     = flag.Uint64("chaos.seed", 0, "the one seed of TestFaultChaos; 0: those that are committed")
)

// chaosSeeds are played by a plain `go test`. A seed that has failed is added here.
var chaosSeeds = []uint64{1}

const (
	chaosCallers = 32
	chaosSlack   = 5 * time.Second // what a busy machine may add to a bound
)

// TestFaultChaos has callers of all kinds, a killer, a descriptor squeezer, short-lived pools and
// churning sessions at work together, then checks what must hold after any run: the invariants I1
// to I12 of docs/guarantees.md.
func TestFaultChaos(t *testing.T) {
	seeds := chaosSeeds
	if *chaosSeed != 0 {
		seeds = []uint64{*chaosSeed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed_%d", seed), func(t *testing.T) { runChaos(t, seed, *chaosDuration) })
	}
}

// chaos is one run.
type chaos struct {
	t      *testing.T
	seed   uint64
	cfg    Config
	mark   string
	pool   *Pool
	ledger *ledger
	logs   *logBuffer
	stop   chan struct{}

	progress atomic.Int64 // calls that have ended
	signals  atomic.Int64 // sent by the killer
	spoiled  atomic.Int64 // calls that cost their worker
	cycles   atomic.Int64
	calls    atomic.Int64
	inTable  atomic.Int64 // calls in sessions that nobody ends

	mu     sync.Mutex // guards the fields below
	byType map[ErrorType]int64
	ring   []string // the latest operations
}

func runChaos(t *testing.T, seed uint64, duration time.Duration) {
	c := &chaos{
		t: t, seed: seed, mark: fmt.Sprintf("%s=%d.%x", faultMark, os.Getpid(), rand.Uint64()), ledger: newLedger(t), logs: &logBuffer{},
		stop: make(chan struct{}), byType: map[ErrorType]int64{},
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.mu.Lock()
			defer c.mu.Unlock()
			t.Logf("run it again with -run Chaos -chaos.seed=%d -chaos.duration=%v; the latest operations:\n%s", seed, duration, strings.Join(c.ring, "\n"))
		}
	})
	c.cfg = Config{
		Script: workerScript(t, "chaos.py"), Python: realPython(), Size: 4, Overflow: -1, Logger: c.logs.logger(-4), ExtraEnv: []string{c.mark},
		MaxQueue: 24, StartTimeout: 6 * time.Second, KillGrace: 100 * time.Millisecond, StopGrace: 200 * time.Millisecond, MaxRestarts: -1, MaxCalls: 500, MaxSessions: 1000,
		Breaker: Breaker{Failures: -1}, RestartBackoff: Backoff{Min: time.Millisecond, Max: 50 * time.Millisecond}, HealthCheckInterval: 200 * time.Millisecond,
		StallTimeout: chaosStall, CancelGrace: []time.Duration{-1, 20 * time.Millisecond, 100 * time.Millisecond}[seed%3],
	}
	c.cfg.Functions = Functions{"echo": echoFunction(), "nap": Func(func(ctx context.Context, in string) (string, error) {
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
		return in, nil
	})}
	c.cfg.Observer = &Observer{CallStart: c.callStart, CallEnd: c.callEnd}
	heap := heapBytes()
	fds, goroutines := openDescriptors(), runtime.NumGoroutine()
	p, err := New(t.Context(), c.cfg)
	require.NoError(t, err)
	c.pool = p
	defer func() { require.NoError(t, p.Close()) }()

	var callers, actors sync.WaitGroup
	for i := range chaosCallers {
		callers.Go(func() { c.caller(c.rand(i)) })
	}
	for i, loop := range []func(*rand.Rand){c.streamer, c.streamer, c.mapper} {
		callers.Go(func() { loop(c.rand(500 + i)) })
	}
	for i, actor := range []func(*rand.Rand){c.killer, c.squeezer, c.cycler, c.churner, c.disturber} {
		actors.Go(func() { actor(c.rand(1000 + i)) })
	}
	c.watch(duration) // I5
	close(c.stop)
	actors.Wait()
	callers.Wait()

	// I6: capacity is back, and all of it is of use.
	calm := time.Now()
	eventually(t, "the pool is at its full size", func() bool {
		for _, w := range p.Workers() {
			_ = syscall.Kill(w.PID, syscall.SIGCONT)
		}
		return serving(p)
	})
	healed := time.Since(calm)
	c.meet()
	eventually(t, "the pool is at its full size after the meeting", func() bool { return serving(p) })
	eventually(t, "every worker given back: a destroyed one holds its place until its destructor is done", func() bool {
		st := p.sup.checkout.puddle.Stat()
		return st.AcquiredResources() == int32(c.cfg.Size) && st.ConstructingResources() == 0 && p.sup.checkout.idleNow() == c.cfg.Size
	})

	// I9: the counters add up, and agree with what the callers saw.
	st := accounted(t, p)
	c.mu.Lock()
	require.Equal(t, c.byType, st.ByType)
	c.mu.Unlock()
	require.Equal(t, c.calls.Load(), st.Started)
	require.EqualValues(t, st.Workers, st.WorkersStarted-st.WorkersExited)
	var inSessions int64
	for _, s := range p.Sessions() {
		if strings.HasPrefix(s.ID, "session-") {
			inSessions += s.Operations
		}
	}
	require.Equal(t, c.inTable.Load(), inSessions)

	// I10: nothing starts workers but the loss of workers.
	require.LessOrEqual(t, st.WorkersStarted, int64(c.cfg.Size)+c.signals.Load()+c.spoiled.Load()+2*st.Recycled)

	require.NoError(t, p.Close())
	c.ledger.check(t) // I1, I3
	// I7, I8: nothing is left.
	require.Empty(t, marked(c.mark))
	require.Empty(t, zombies())
	eventually(t, "descriptors and goroutines are at the baseline", func() bool {
		return openDescriptors() <= fds && runtime.NumGoroutine() <= goroutines
	})
	require.NotContains(t, c.logs.String(), secret) // I11
	if duration >= time.Minute {                    // I12
		c.logs, c.cfg = &logBuffer{}, Config{} // whose Logger has the old one
		c.ledger, c.pool, p = nil, nil, nil
		grown := heapBytes() - heap
		t.Logf("the heap has grown by %d KiB", grown>>10)
		require.Less(t, grown, int64(64<<20))
	}
	t.Logf("seed %d, %v: %d calls, %d signals, %d workers, %d pools cycled, at full size after %v; run %+v; %v",
		seed, duration, st.Started, c.signals.Load(), st.WorkersStarted, c.cycles.Load(), healed.Round(time.Millisecond), st.Run, st.ByType)
}

func (c *chaos) rand(actor int) *rand.Rand { return rand.New(rand.NewPCG(c.seed, uint64(actor))) }

// done reports whether the run is over; it waits d for that.
func (c *chaos) done(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.stop:
		return true
	case <-timer.C:
		return false
	}
}

func (c *chaos) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ring) > 200 {
		c.ring = append(c.ring[:0], c.ring[100:]...)
	}
	c.ring = append(c.ring, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// watch returns after d. Ten seconds without a call that ends are an error.
func (c *chaos) watch(d time.Duration) {
	end := time.Now().Add(d)
	last, since := int64(0), time.Now()
	for time.Now().Before(end) {
		time.Sleep(50 * time.Millisecond)
		if n := c.progress.Load(); n != last {
			last, since = n, time.Now()
		}
		if time.Since(since) > 10*time.Second {
			buf := make([]byte, 1<<20)
			c.t.Errorf("no call has ended for 10 s: %+v\n%s", c.pool.Stats(), buf[:runtime.Stack(buf, true)])
			return
		}
	}
}

// chaosKinds are drawn from with equal chances: most calls harm nothing, or there would be no
// workers left to harm.
var chaosKinds = strings.Fields(strings.Repeat("stamp ", 40) +
	strings.Repeat("stamp_batch stamp_task stamp_host stamp_task_host stamp_batch_host ", 5) + strings.Repeat("large typed nap raise nan ", 6) +
	"exit kill loop unknown misfit bad panics decodes observed canceled canceled impatient impatient tiny tiny")

// caller makes calls until the run is over.
func (c *chaos) caller(r *rand.Rand) {
	for !c.done(time.Duration(r.IntN(8)) * time.Millisecond) {
		c.call(r, chaosKinds[r.IntN(len(chaosKinds))])
	}
}

func (c *chaos) call(r *rand.Rand, kind string) {
	nonce := c.ledger.begin()
	c.calls.Add(1)
	var end CallOutcome
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), callEnd{}, &end))
	defer cancel()
	checkout, timeout := time.Duration(20+r.IntN(400))*time.Millisecond, time.Duration(50+r.IntN(300))*time.Millisecond
	command, value := "stamp", randomValue(r, 3)
	in := args{"path": c.ledger.path, "nonce": nonce, "value": []any{secret, value}}
	journal := func(then string) {
		command = "journal"
		delete(in, "value")
		in["then"] = then
	}
	naps := []string{"journal", "nap_batch", "nap_task", "nap_host", "nap_task_host"}
	nap := func() {
		journal("nap")
		if command = naps[r.IntN(len(naps))]; command != "journal" {
			delete(in, "then")
		}
	}
	switch kind {
	case "stamp", "typed":
	case "stamp_batch", "stamp_task", "stamp_host", "stamp_task_host", "stamp_batch_host":
		command = kind
	case "large":
		value = strings.Repeat("x", 100_000+r.IntN(200_000))
		in["value"] = []any{secret, value}
	case "nap":
		nap()
	case "raise", "nan", "exit", "kill", "loop":
		journal(kind)
	case "unknown":
		command = "stomp"
	case "misfit":
		in["extra"] = secret
	case "bad":
		in["value"] = func() {}
	case "panics":
		in["value"] = panicking{}
	case "canceled":
		nap()
		after := time.AfterFunc(time.Duration(r.IntN(5000))*time.Microsecond, cancel)
		defer after.Stop()
	case "impatient":
		nap()
		var end context.CancelFunc
		ctx, end = context.WithTimeout(ctx, time.Duration(r.IntN(4000))*time.Microsecond)
		defer end()
	case "observed":
		ctx = context.WithValue(ctx, observerPanics{}, true)
	case "tiny":
		timeout = time.Duration(r.IntN(2000)) * time.Microsecond
	}
	opts := []CallOption{WithTimeout(max(timeout, 1)), WithCheckoutTimeout(checkout)}
	session := ""
	if r.IntN(2) == 0 {
		session = fmt.Sprintf("session-%d", r.IntN(50))
		opts = append(opts, WithSession(session))
		c.inTable.Add(1)
	}
	begun := time.Now()
	var raw json.RawMessage
	var err error
	func() {
		defer func() {
			switch v := recover(); v {
			case nil:
			case "marshal":
				err = newError(TypeInternal, NotExecuted, "panicked", nil) // as the pool has counted it
			case "unmarshal", "observer": // behind the call's end
				command, err = "", end.Err
			default:
				panic(v)
			}
		}()
		if kind == "decodes" {
			_, err = Call[panicking](ctx, c.pool, command, in, opts...)
			return
		}
		raw, err = Call[json.RawMessage](ctx, c.pool, command, in, opts...)
	}()
	took := time.Since(begun)
	c.progress.Add(1)
	c.ledger.end(c.t, nonce, err)
	pid := end.PID
	c.note("%s %s -> pid %d, %v, queued %v, ran %v: %v", nonce, kind, pid, took.Round(time.Millisecond), end.Queued.Round(time.Millisecond), end.Ran.Round(time.Millisecond), err)
	// I4, without what encoding/json takes of a busy machine's time before and after.
	if end.Queued > checkout+chaosSlack || end.Ran > timeout+c.cfg.KillGrace+chaosSlack || took > 10*time.Second {
		c.t.Errorf("%s %s took %v, was queued %v of %v, and ran %v of %v: %v", nonce, kind, took, end.Queued, checkout, end.Ran, timeout, err)
	}
	if err != nil {
		e := err.(*Error)
		c.mu.Lock()
		c.byType[e.Type]++
		c.mu.Unlock()
		if e.Type == TypeProtocol {
			c.t.Logf("%s %s: %v", nonce, kind, err)
		}
		switch {
		case e.Context.Worker != "" && (e.Category == CategoryTimeout || e.Category == CategoryCommunication):
			c.spoiled.Add(1)
		}
		return
	}
	// I2: it is this call's answer, from the process that was asked.
	switch {
	case strings.HasPrefix(command, "stamp"):
		want, _ := json.Marshal([]any{nonce, pid, in["value"]})
		if !sameJSON(want, raw) {
			c.t.Errorf("%s of pid %d got somebody else's answer: %.300s", nonce, pid, raw)
		}
	case command == "journal", strings.HasPrefix(command, "nap"):
		if string(raw) != `"`+nonce+`"` {
			c.t.Errorf("%s got somebody else's answer: %.300s", nonce, raw)
		}
	}
}

func sameJSON(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	left, _ := json.Marshal(x)
	right, _ := json.Marshal(y)
	return string(left) == string(right)
}

// randomValue is any JSON value.
func randomValue(r *rand.Rand, depth int) any {
	switch kind := r.IntN(8); {
	case kind < 2 && depth > 0:
		list := []any{}
		for range r.IntN(4) {
			list = append(list, randomValue(r, depth-1))
		}
		return list
	case kind == 2 && depth > 0:
		object := map[string]any{}
		for range r.IntN(4) {
			object[randomText(r)] = randomValue(r, depth-1)
		}
		return object
	case kind == 3:
		return r.Float64() * 1e6
	case kind == 4:
		return r.IntN(2) == 0
	case kind == 5:
		return nil
	case kind == 6:
		return r.Int64N(1<<53) - 1<<52
	}
	return randomText(r)
}

func randomText(r *rand.Rand) string {
	text := make([]rune, r.IntN(12))
	for i := range text {
		for text[i] = r.Int32N(0x3000); text[i] >= 0xd800 && text[i] <= 0xdfff; text[i] = r.Int32N(0x3000) {
		}
	}
	return string(text)
}

// killer sends signals to workers.
func (c *chaos) killer(r *rand.Rand) {
	for !c.done(time.Duration(100+r.IntN(200)) * time.Millisecond) {
		ws := c.pool.Workers()
		if len(ws) == 0 {
			continue
		}
		w := ws[r.IntN(len(ws))]
		if w.State == workerStarting && r.IntN(4) > 0 { // or a slow machine has none that serve
			continue
		}
		signal := []syscall.Signal{syscall.SIGKILL, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGTERM, syscall.SIGSTOP}[r.IntN(5)]
		c.signals.Add(1)
		c.note("%v to %s (pid %d, %s)", signal, w.ID, w.PID, w.State)
		_ = syscall.Kill(w.PID, signal)
	}
}

// squeezer takes the descriptors away that a start would need, for a while.
func (c *chaos) squeezer(r *rand.Rand) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return
	}
	full := limit
	defer func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &full) }()
	for !c.done(time.Duration(200+r.IntN(400)) * time.Millisecond) {
		limit.Cur = uint64(openDescriptors() + r.IntN(8))
		c.note("descriptors are limited to %d", limit.Cur)
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
		over := c.done(time.Duration(r.IntN(100)) * time.Millisecond)
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &full)
		if over {
			return
		}
	}
}

// cycler opens and closes pools of its own.
func (c *chaos) cycler(r *rand.Rand) {
	for !c.done(time.Duration(r.IntN(100)) * time.Millisecond) {
		cfg := c.cfg
		cfg.Size, cfg.Observer = 1+r.IntN(2), nil
		if r.IntN(3) == 0 {
			cfg.MinReady = -1
		}
		p, err := New(context.Background(), cfg)
		if err != nil {
			if !errors.Is(err, ErrWorkerStart) {
				c.t.Errorf("New: %v", err)
			}
			continue
		}
		var calls sync.WaitGroup
		how := r.IntN(4)
		calls.Go(func() { closeInMidstream(how, p) })
		for range 3 {
			calls.Go(func() {
				if res, err := p.ExecuteAnonymous(context.Background(), "echo", []any{7}); err == nil && string(res.Raw()) != "7" {
					c.t.Errorf("echo: %s", res.Raw())
				}
			})
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(300))*time.Millisecond)
		begun := time.Now()
		_ = p.Shutdown(ctx)
		cancel()
		calls.Wait()
		if took := time.Since(begun); took > 300*time.Millisecond+reapWait+chaosSlack {
			c.t.Errorf("Shutdown took %v", took)
		}
		if st := p.Stats(); st.Workers != 0 || st.Started != st.Succeeded+st.Failed {
			c.t.Errorf("after Shutdown: %+v", st)
		}
		c.cycles.Add(1)
	}
}

// churner makes sessions and ends them.
func (c *chaos) churner(r *rand.Rand) {
	for !c.done(time.Millisecond) {
		id := fmt.Sprintf("churn-%d", r.IntN(100))
		s := c.pool.sessions.enter(id)
		if r.IntN(2) == 0 {
			c.pool.EndSession(id)
		}
		c.pool.sessions.leave(s, false)
		_ = c.pool.Sessions()
		_, _ = c.pool.Session(id)
	}
}

// disturber changes what the Go runtime does meanwhile.
func (c *chaos) disturber(r *rand.Rand) {
	procs, percent := runtime.GOMAXPROCS(0), debug.SetGCPercent(100)
	defer func() {
		runtime.GOMAXPROCS(procs)
		debug.SetGCPercent(percent)
	}()
	for !c.done(100 * time.Millisecond) {
		runtime.GOMAXPROCS(1 + r.IntN(procs))
		debug.SetGCPercent(5 + r.IntN(100))
		_, _ = c.pool.Stats(), c.pool.Workers()
	}
}

// meet proves that Size calls run at the same time.
func (c *chaos) meet() {
	file := filepath.Join(c.t.TempDir(), "meeting")
	var calls sync.WaitGroup
	for range c.cfg.Size {
		c.calls.Add(1)
		calls.Go(func() {
			if _, err := c.pool.ExecuteAnonymous(context.Background(), "meet", []any{file, c.cfg.Size}, WithTimeout(20*time.Second)); err != nil {
				c.t.Errorf("the meeting: %v", err)
			}
		})
	}
	calls.Wait()
}
