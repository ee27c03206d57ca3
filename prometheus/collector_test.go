package pypoolprometheus

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/pypooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg pypool.Config) *pypool.Pool {
	t.Helper()
	cfg.Script, cfg.Python = "testdata/worker.py", os.Getenv("PYPOOL_PYTHON")
	return pypooltest.Start(t, cfg)
}

// figures are what a registry has, by name and labels as in its text.
type figures map[string]*dto.Metric

func gather(t *testing.T, registry *prometheus.Registry) figures {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	found := figures{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				if l.GetName() != "pool" {
					labels = append(labels, l.GetName()+"="+l.GetValue())
				}
			}
			found[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = m
		}
	}
	return found
}

func (f figures) value(t *testing.T, key string) float64 {
	t.Helper()
	m, found := f["pypool_"+key]
	require.True(t, found, "no %s", key)
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	default:
		return m.Gauge.GetValue()
	}
}

func TestWhatAPoolDoesIsInItsMetrics(t *testing.T) {
	pool := start(t, pypool.Config{Name: "numbers", Size: 2, Breaker: pypool.Breaker{Failures: 1, OpenFor: time.Hour}})
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(pool, WithBuckets(time.Microsecond, time.Hour)))
	ctx := t.Context()
	for i := range 5 {
		_, err := pypool.Call[int](ctx, pool, "add", []int{i, i}, pypool.WithSession("s"))
		require.NoError(t, err)
	}
	_, err := pypool.Call[int](ctx, pool, "bad", nil)
	require.ErrorIs(t, err, pypool.ErrPython)
	_, err = pypool.Call[int](ctx, pool, "die", nil)
	require.ErrorIs(t, err, pypool.ErrWorkerExited)
	_, err = pypool.Call[int](ctx, pool, "die", nil)
	require.ErrorIs(t, err, pypool.ErrCircuitOpen)
	_, err = pool.ExecuteProgram(ctx, "p", nil)
	require.NoError(t, err)
	_, err = pypool.Call[int](ctx, pool, "unknown", nil)
	require.Error(t, err)
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() { _, _ = pypool.Call[int](ctx, pool, "batch", []int{i}) })
	}
	group.Wait()
	gate := filepath.Join(t.TempDir(), "gate")
	group.Go(func() { _, _ = pypool.Call[any](ctx, pool, "wait", []string{gate}) })
	defer group.Wait()
	defer func() { require.NoError(t, os.WriteFile(gate, nil, 0o600)) }()
	require.Eventually(t, func() bool { st := pool.Stats(); return st.Busy == 1 && st.Idle == 1 }, 20*time.Second, time.Millisecond)

	got := gather(t, registry)
	for key, want := range map[string]float64{
		"calls_total{command=add,type=ok}":               5,
		"calls_total{command=bad,type=python_exception}": 1,
		"calls_total{command=die,type=worker_exited}":    1,
		"calls_total{command=die,type=circuit_open}":     1,
		"calls_total{command=execute_program:p,type=ok}": 1,
		"calls_total{command=,type=unknown_command}":     1,
		"calls_total{command=batch,type=ok}":             4,
		"calls_in_flight{command=wait}":                  1,
		"calls_in_flight{command=add}":                   0,
		"circuit_state{command=die}":                     2,
		"circuit_state{command=add}":                     0,
		"circuit_state{command=}":                        0,
		"queue_length{}":                                 0,
		"size{}":                                         2,
		"size_max{}":                                     2,
		"workers{state=busy}":                            1,
		"workers{state=idle}":                            1,
		"workers{state=canceling}":                       0,
		"workers_started_total{}":                        3,
		"workers_exited_total{}":                         1,
		"workers_recycled_total{}":                       0,
		"workers_retired_total{}":                        0,
		"workers_unreapable{}":                           0,
		"sessions{}":                                     1,
		"dropped_total{what=logs}":                       0,
		"dropped_total{what=events}":                     0,
	} {
		require.Equal(t, want, got.value(t, key), key)
	}
	require.Positive(t, got.value(t, "uptime_seconds{}"))
	require.Positive(t, got.value(t, "error_ratio{}"))
	require.Positive(t, got.value(t, "worker_resident_bytes{slot=0}"))
	require.Positive(t, got.value(t, "worker_running_seconds{slot=0}")+got.value(t, "worker_running_seconds{slot=1}"))
	st := pool.Stats().ByCommand["add"]
	for name, want := range map[string]pypool.Distribution{"call_run_seconds": st.Run, "call_wait_seconds": st.CheckoutWait} {
		h := got["pypool_"+name+"{command=add}"].Histogram
		require.EqualValues(t, 5, h.GetSampleCount())
		require.InDelta(t, want.Sum.Seconds(), h.GetSampleSum(), 1e-9)
		require.Len(t, h.Bucket, 2)
		require.EqualValues(t, want.UpTo(time.Microsecond), h.Bucket[0].GetCumulativeCount())
		require.EqualValues(t, 5, h.Bucket[1].GetCumulativeCount())
		require.InDelta(t, 3600, h.Bucket[1].GetUpperBound(), 1e-9)
	}
	batches := got["pypool_batch_size{}"].Summary
	require.EqualValues(t, 4, batches.GetSampleSum())
	require.InDelta(t, 4/batches.GetSampleCount(), batches.Quantile[0].GetValue(), 1)

	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestAWorkerThatAsksToBeReplacedIsCounted(t *testing.T) {
	pool := start(t, pypool.Config{})
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(pool))
	_, err := pool.ExecuteAnonymous(t.Context(), "tired", nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return gather(t, registry).value(t, "workers_retired_total{}") == 1 }, 20*time.Second, time.Millisecond)
}

func TestPoolsInOneRegistryAreToldApartByTheirNames(t *testing.T) {
	registry := prometheus.NewRegistry()
	a, b := start(t, pypool.Config{Name: "a"}), start(t, pypool.Config{Name: "b"})
	registry.MustRegister(NewCollector(a), NewCollector(b))
	require.ErrorAs(t, registry.Register(NewCollector(a)), new(prometheus.AlreadyRegisteredError))
	_, err := pypool.Call[int](t.Context(), b, "add", []int{1, 2})
	require.NoError(t, err)
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP pypool_size Workers that the pool keeps ready.
# TYPE pypool_size gauge
pypool_size{pool="a"} 1
pypool_size{pool="b"} 1
# HELP pypool_calls_total Calls that have ended, by command and type: ok, or the error's. Command is empty for built-in and unknown ones.
# TYPE pypool_calls_total counter
pypool_calls_total{command="add",pool="b",type="ok"} 1
`), "pypool_size", "pypool_calls_total"))
}

func TestAScrapeOverHTTP(t *testing.T) {
	pool := start(t, pypool.Config{})
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(pool))
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	defer server.Close()
	scrape := func() string {
		resp, err := server.Client().Get(server.URL)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode)
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(text)
	}
	require.Contains(t, scrape(), `pypool_batch_size{pool="pypool",quantile="0.5"} NaN`)
	_, err := pypool.Call[int](context.Background(), pool, "add", []int{1, 2})
	require.NoError(t, err)
	text := scrape()
	require.Contains(t, text, `pypool_calls_total{command="add",pool="pypool",type="ok"} 1`)
	require.Contains(t, text, `pypool_call_run_seconds_bucket{command="add",pool="pypool",le="120"} 1`)
	require.Contains(t, text, `pypool_workers{pool="pypool",state="idle"} 1`)
	require.NoError(t, pool.Close())
	require.Contains(t, scrape(), `pypool_workers{pool="pypool",state="idle"} 0`)
}

// The dashboard asks for metrics that there are, and for all of them.
func TestTheDashboardShowsTheMetrics(t *testing.T) {
	data, err := os.ReadFile("dashboard.json")
	require.NoError(t, err)
	var board struct {
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
			GridPos struct{ H, W, X, Y int }
		}
		Templating struct{ List []struct{ Definition string } }
	}
	require.NoError(t, json.Unmarshal(data, &board))
	known := map[string]bool{}
	for _, f := range families {
		known["pypool_"+f.name] = false
	}
	metric, suffix := regexp.MustCompile(`pypool_\w+`), regexp.MustCompile(`^(pypool_call_\w+_seconds)_(bucket|sum)$`)
	taken := map[string]string{}
	for _, p := range board.Panels {
		for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				cell := fmt.Sprint(x, ",", y)
				require.Empty(t, taken[cell], "%s lies on another panel", p.Title)
				taken[cell] = p.Title
			}
		}
		require.Equal(t, p.Type == "row", len(p.Targets) == 0, p.Title)
		for _, target := range p.Targets {
			require.Contains(t, target.Expr, `pool=~"$pool"`, p.Title)
			require.Equal(t, strings.Count(target.Expr, "("), strings.Count(target.Expr, ")"), target.Expr)
			for _, name := range metric.FindAllString(target.Expr, -1) {
				if of := suffix.FindStringSubmatch(name); of != nil {
					name = of[1]
				}
				_, exists := known[name]
				require.True(t, exists, "%s asks for %s", p.Title, name)
				known[name] = true
			}
		}
	}
	for name, shown := range known {
		require.True(t, shown, "no panel shows %s", name)
	}
	require.Equal(t, "label_values(pypool_size, pool)", board.Templating.List[1].Definition)
}

func TestDefaultBucketsAscend(t *testing.T) {
	last := time.Duration(0)
	for _, b := range DefaultBuckets() {
		require.Greater(t, b, last)
		last = b
	}
	require.True(t, math.IsNaN(quantile(0, 0)))
}
