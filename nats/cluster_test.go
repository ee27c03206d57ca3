package pypoolnats

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

var clusterCalls = flag.Int("cluster.calls", 5000, "how many calls TestOneOutcomeEach makes")

// --- processes -----------------------------------------------------------------------------------

func init() {
	helpers["server"] = runServer
	helpers["caller"] = runCaller
}

type serverInput struct {
	URL, Server, Journal string
	Size                 int
}

func dial(url string) *nats.Conn {
	nc, err := nats.Connect(url, nats.ReconnectWait(50*time.Millisecond), nats.MaxReconnects(-1))
	must(err)
	return nc
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "test helper:", err)
		os.Exit(1)
	}
}

// runServer serves until SIGTERM, then drains.
func runServer() {
	in := input[serverInput]()
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	cfg := config(in.Size)
	cfg.ExtraEnv = []string{"SERVER=" + in.Server, "JOURNAL=" + in.Journal}
	pool, err := pypool.New(context.Background(), cfg)
	must(err)
	nc := dial(in.URL)
	service, err := Serve(nc, "test", pool, WithLogger(silent))
	must(err)
	fmt.Println("ready")
	<-term
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	must(service.Shutdown(ctx))
	nc.Close()
	must(pool.Shutdown(ctx))
	st := pool.Stats()
	fmt.Printf("drained after %d calls, %d of them canceled or failed\n", st.Started, st.Failed)
	fmt.Println("gone")
}

type callerInput struct {
	URL, Prefix, Outcomes string
	Calls, Callers        int
	Allowed               bool // calls may run twice
}

// outcomes of calls, as their caller saw them: a line each, of the call's id, "ok" or the error's
// type, and the delivery.
func runCaller() {
	in := input[callerInput]()
	file, err := os.Create(in.Outcomes)
	must(err)
	out := bufio.NewWriter(file)
	var mu sync.Mutex // guards out
	nc := dial(in.URL)
	client := NewClient(nc, "test", WithLostAfter(3*time.Second), WithRetry(Retry{Attempts: 5, MaybeExecuted: in.Allowed}))
	var next atomic.Int64
	var group sync.WaitGroup
	for range in.Callers {
		group.Go(func() {
			for {
				n := next.Add(1)
				if n > int64(in.Calls) {
					return
				}
				id := fmt.Sprintf("%s-%d", in.Prefix, n)
				line := id + " " + oneCall(client, id) + "\n"
				mu.Lock()
				_, err := out.WriteString(line)
				mu.Unlock()
				must(err)
			}
		})
	}
	group.Wait()
	must(out.Flush())
	must(file.Close())
	must(client.Close())
	nc.Close()
	fmt.Println("done")
}

// oneCall writes the id into the journal, and tells how that ended. Some have little time, and some
// callers leave.
func oneCall(c pypool.Caller, id string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch rand.IntN(20) {
	case 0:
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(20_000))*time.Microsecond)
		defer cancel()
	case 1:
		ctx, cancel = context.WithCancel(ctx)
		timer := time.AfterFunc(time.Duration(rand.IntN(20_000))*time.Microsecond, cancel)
		defer timer.Stop()
		defer cancel()
	}
	got, err := pypool.Call[string](ctx, c, "journal", args{"n": id, "seconds": float64(rand.IntN(4)) / 1000})
	var e *pypool.Error
	switch {
	case err == nil && got == id:
		return "ok Executed"
	case err == nil:
		return "another's Executed"
	case errors.As(err, &e):
		return string(e.Type) + " " + e.Delivery.String()
	default:
		return "strange MaybeExecuted"
	}
}

// --- accounting ----------------------------------------------------------------------------------

// cluster is server processes around a broker.
type cluster struct {
	b       *broker
	journal string
	servers map[string]*child
}

func newCluster(t *testing.T, servers, size int) *cluster {
	c := &cluster{b: newBroker(t), journal: filepath.Join(t.TempDir(), "journal"), servers: map[string]*child{}}
	for i := range servers {
		c.begin(t, fmt.Sprint("s", i+1), size)
	}
	for _, s := range c.servers {
		s.await(t, "ready")
	}
	return c
}

func (c *cluster) begin(t *testing.T, name string, size int) *child {
	s := newChild(t, "server", serverInput{c.b.url(), name, c.journal, size})
	c.servers[name] = s
	return s
}

// ran counts how often each id has run.
func (c *cluster) ran(t *testing.T) map[string]int {
	text, err := os.ReadFile(c.journal)
	require.NoError(t, err)
	ran := map[string]int{}
	for line := range strings.Lines(string(text)) {
		ran[strings.TrimSpace(line)]++
	}
	return ran
}

// Three server processes, two client processes. One server is killed in the midst of calls and one
// drained under load, others come, and the nats-server is restarted. Each call has one outcome,
// what that says of the handler is true, and nothing ran twice but what was allowed to.
func TestOneOutcomeEach(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, 2)
	dir := t.TempDir()
	each := *clusterCalls / 2
	callers := map[string]*child{}
	for _, prefix := range []string{"once", "again"} {
		callers[prefix] = newChild(t, "caller", callerInput{
			URL: c.b.url(), Prefix: prefix, Outcomes: filepath.Join(dir, prefix), Calls: each, Callers: 16, Allowed: prefix == "again",
		})
	}
	done := func() int { return len(c.ranSafe()) }
	after := func(share float64) {
		t.Helper()
		want := int(share * float64(*clusterCalls))
		deadline := time.Now().Add(time.Duration(*clusterCalls)*10*time.Millisecond + 30*time.Second)
		for done() < want {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d calls only", done(), want)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	after(0.15)
	require.NoError(t, c.servers["s1"].cmd.Process.Signal(syscall.SIGKILL))
	c.begin(t, "s4", 2)
	after(0.3)
	require.NoError(t, c.servers["s2"].cmd.Process.Signal(syscall.SIGTERM))
	c.servers["s4"].await(t, "ready")
	c.servers["s2"].await(t, "gone")
	after(0.5)
	c.b.stop()
	c.b.start(t)
	for _, caller := range callers {
		eventuallyWithin(t, time.Duration(*clusterCalls)*10*time.Millisecond+time.Minute, "the callers are done", func() bool {
			return strings.Contains(caller.out.String(), "done\n")
		})
	}
	for _, name := range []string{"s3", "s4"} {
		require.NoError(t, c.servers[name].cmd.Process.Signal(syscall.SIGTERM))
		c.servers[name].await(t, "gone")
	}

	ran := c.ran(t)
	for prefix := range callers {
		text, err := os.ReadFile(filepath.Join(dir, prefix))
		require.NoError(t, err)
		seen, kinds, twice := map[string]bool{}, map[string]int{}, 0
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			require.Len(t, fields, 3, line)
			id, kind, delivery := fields[0], fields[1], fields[2]
			require.False(t, seen[id], "%s has two outcomes", id)
			seen[id] = true
			kinds[kind+" "+delivery]++
			times := ran[id]
			if times > 1 {
				twice++
			}
			switch {
			case delivery == "NotExecuted":
				assert.Zero(t, times, line)
			case prefix == "again" && delivery == "Executed":
				assert.GreaterOrEqual(t, times, 1, line)
			case prefix == "again":
				assert.LessOrEqual(t, times, 5, line)
			case delivery == "Executed":
				assert.Equal(t, 1, times, line)
			default:
				assert.LessOrEqual(t, times, 1, line)
			}
			assert.NotContains(t, []string{"another's", "strange"}, kind)
		}
		require.Len(t, seen, each, "one outcome each")
		assert.Greater(t, kinds["ok Executed"], each*8/10)
		if prefix == "once" {
			assert.Zero(t, twice)
		}
		t.Logf("%s: %v, ran twice or more: %d", prefix, kinds, twice)
	}
}

// ranSafe counts the ids in the journal; none where it is not there yet.
func (c *cluster) ranSafe() map[string]int {
	text, _ := os.ReadFile(c.journal)
	ran := map[string]int{}
	for line := range strings.Lines(string(text)) {
		ran[line]++
	}
	return ran
}

func eventuallyWithin(t testing.TB, limit time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// --- a process that is killed --------------------------------------------------------------------

// The calls of a server that is killed are MaybeExecuted, and run elsewhere only where that is
// allowed.
func TestAServerThatIsKilledInTheMidstOfACall(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, 1)
	once := client(t, c.b, "test", WithLostAfter(lostSoon), WithRetry(Retry{Attempts: 1}))
	again := once.With(WithRetry(Retry{Attempts: 100, MaybeExecuted: true}))
	g := newGate(t)
	failed := g.call(t.Context(), once)
	victim := g.awaitBegun(t)
	require.NoError(t, c.servers[victim].cmd.Process.Signal(syscall.SIGKILL))
	_, err := c.servers[victim].cmd.Process.Wait()
	require.NoError(t, err)
	err = <-failed
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
	require.ErrorContains(t, err, fmt.Sprint("the call's server is lost: nothing was heard of it for ", lostSoon))

	// The other is alone now; a third comes, as long as which one serves a call is known.
	c.begin(t, "s3", 1).await(t, "ready")
	g2 := newGate(t)
	answer := g2.call(t.Context(), again)
	victim = g2.awaitBegun(t)
	require.NoError(t, os.Remove(g2.mark))
	require.NoError(t, c.servers[victim].cmd.Process.Signal(syscall.SIGKILL))
	require.NotEqual(t, victim, g2.awaitBegun(t), "it began again")
	g2.open(t)
	require.NoError(t, <-answer)
}

// A request that was lost with the server that took it in has not run.
func TestAServerThatIsKilledInTheMidstOfARequest(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	nc := b.connect(t)
	taken := make(chan string, 10)
	sub, err := nc.QueueSubscribe("pypool.test.call.*", "q", func(m *nats.Msg) { // a server that takes the request, and is gone
		from := "pypool.test.one.gone.1"
		_ = nc.PublishMsg((&control{Kind: kindMore, From: from, Bytes: len(m.Data)}).message(m.Reply, "", nil))
		taken <- from
	})
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	c := client(t, b, "test", WithRetry(Retry{Attempts: 1}))
	_, err = c.ExecuteAnonymous(t.Context(), "echo", args{"value": strings.Repeat("x", 3<<20)})
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)))
	require.ErrorContains(t, err, "the call's server was lost before it had the request")
	require.NoError(t, sub.Unsubscribe())
	serve(t, b, "test", newPool(t, config(1)))
	got, err := pypool.Call[string](t.Context(), c, "echo", args{"value": strings.Repeat("x", 3<<20)})
	require.NoError(t, err)
	require.Len(t, got, 3<<20)
}

// Calls that run while the nats-server is restarted have their answers when the connections are
// back.
func TestTheNATSServerIsRestarted(t *testing.T) {
	t.Parallel()
	b, p, c := pair(t, 1)
	g := newGate(t)
	done := g.call(t.Context(), c)
	g.awaitBegun(t)
	b.stop()
	b.start(t)
	eventually(t, "the client is back", c.nc.IsConnected)
	eventually(t, "the server is back", func() bool {
		_, err := pypool.Call[int](t.Context(), c.With(WithRetry(Retry{Attempts: 1})), "add", []any{1}, pypool.WithCheckoutTimeout(time.Millisecond))
		return errors.Is(err, pypool.ErrCheckoutTimeout)
	})
	g.open(t)
	require.NoError(t, <-done)
	accounted(t, p)
}
