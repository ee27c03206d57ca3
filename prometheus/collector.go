// Package pypoolprometheus tells Prometheus what pools of Python workers do: a collector with the
// calls, waits and runs of each command as histograms, errors by type, workers, sessions and
// circuits. dashboard.json is a Grafana dashboard of them.
//
//	prometheus.MustRegister(pypoolprometheus.NewCollector(pool))
package pypoolprometheus

import (
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pypool/pypool"
)

// Option changes a collector.
type Option func(*collector)

// WithBuckets sets the upper bounds of the histograms of waits and runs, ascending, in place of
// [DefaultBuckets]. The counts at a bound are exact to 1/16 of it.
func WithBuckets(bounds ...time.Duration) Option {
	return func(c *collector) { c.bounds = bounds }
}

// DefaultBuckets are the bounds from 100 µs, about what the least of calls takes, to the 120 s of
// the default OperationTimeout.
func DefaultBuckets() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{
		ms / 10, ms / 4, ms / 2, ms, 5 * ms / 2, 5 * ms, 10 * ms, 25 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms,
		time.Second, 2500 * ms, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute,
	}
}

// NewCollector returns a collector of a pool's figures, which are asked for when it is scraped:
// they cost calls nothing. Each pool has a collector; of several in one registry each must have a
// Config.Name of its own, which is the label pool. The collector of a pool that is nil, or that New
// has not made, cannot be registered: the registry says so.
func NewCollector(pool *pypool.Pool, opts ...Option) prometheus.Collector {
	if pool.Name() == "" {
		return none{}
	}
	c := &collector{pool: pool, bounds: DefaultBuckets(), descs: map[*family]*prometheus.Desc{}}
	for _, opt := range opts {
		if opt != nil {
			opt(c)
		}
	}
	for _, f := range families {
		c.descs[f] = prometheus.NewDesc("pypool_"+f.name, f.help, f.labels, prometheus.Labels{"pool": pool.Name()})
	}
	return c
}

// none is the collector of no pool.
type none struct{}

var errNoPool = errors.New("pypoolprometheus: there is no pool: New makes pools")

func (none) Describe(descs chan<- *prometheus.Desc) { descs <- prometheus.NewInvalidDesc(errNoPool) }

func (none) Collect(metrics chan<- prometheus.Metric) {
	metrics <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(errNoPool), errNoPool)
}

type collector struct {
	pool   *pypool.Pool
	bounds []time.Duration
	descs  map[*family]*prometheus.Desc
}

// states are a worker's, as pypool.WorkerInfo names them.
var states = []string{"starting", "idle", "busy", "shared", "canceling", "stopping"}

// circuits are a circuit's states, as the value of a metric.
var circuits = map[string]float64{"closed": 0, "half-open": 1, "open": 2}

// family is the metrics of one name.
type family struct {
	name, help string
	labels     []string
}

var families []*family

func newFamily(name, help string, labels ...string) *family {
	f := &family{name, help, labels}
	families = append(families, f)
	return f
}

var (
	calls      = newFamily("calls_total", "Calls that have ended, by command and type: ok, or the error's. Command is empty for built-in and unknown ones.", "command", "type")
	inFlight   = newFamily("calls_in_flight", "Calls that have begun and not ended, those that wait for a worker included.", "command")
	wait       = newFamily("call_wait_seconds", "How long calls waited for a worker.", "command")
	run        = newFamily("call_run_seconds", "How long workers had calls.", "command")
	circuit    = newFamily("circuit_state", "A circuit: 0 closed, 1 half-open, 2 open. Command is empty for the pool's own.", "command")
	waiting    = newFamily("queue_length", "Callers that wait for a worker.")
	batchSize  = newFamily("batch_size", "Calls in a batch.")
	size       = newFamily("size", "Workers that the pool keeps ready.")
	maxSize    = newFamily("size_max", "Workers that the pool has at most: Size and Overflow.")
	workers    = newFamily("workers", "Worker processes, by state.", "state")
	started    = newFamily("workers_started_total", "Worker processes that were started.")
	exited     = newFamily("workers_exited_total", "Worker processes that have ended.")
	recycled   = newFamily("workers_recycled_total", "Workers that were replaced because they were worn out.")
	retired    = newFamily("workers_retired_total", "Workers that have asked to be replaced, because they are broken.")
	unreapable = newFamily("workers_unreapable", "Killed processes that do not end.")
	resident   = newFamily("worker_resident_bytes", "Resident memory of the workers in a slot, shared pages included.", "slot")
	running    = newFamily("worker_running_seconds", "For how long the oldest call on the worker in a slot has been running; 0: it has none.", "slot")
	sessions   = newFamily("sessions", "Sessions that are remembered.")
	errorRate  = newFamily("error_ratio", "Share of the calls of the last Config.ErrorRate.Window that the infrastructure failed.")
	uptime     = newFamily("uptime_seconds", "Time since the pool was made.")
	dropped    = newFamily("dropped_total", "Log records and events that were lost, because their takers were too slow.", "what")
)

// Describe implements [prometheus.Collector].
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		descs <- d
	}
}

// Collect implements [prometheus.Collector]. It takes some microseconds, and a read of /proc for
// each worker.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	s := scrape{c, metrics}
	st := c.pool.Stats()
	for command, one := range st.ByCommand {
		s.counter(calls, one.Succeeded, command, "ok")
		for typ, n := range one.ByType {
			s.counter(calls, n, command, string(typ))
		}
		s.gauge(inFlight, float64(one.InFlight), command)
		s.histogram(wait, one.CheckoutWait, command)
		s.histogram(run, one.Run, command)
		if command != "" {
			s.gauge(circuit, circuits[one.Circuit], command)
		}
	}
	s.gauge(circuit, circuits[st.Breaker], "")
	s.gauge(waiting, float64(st.Waiting))
	b := st.Batches
	s.metric(prometheus.NewConstSummary(s.descs[batchSize], uint64(b.Count), float64(b.Sum), map[float64]float64{
		0.5: quantile(b.P50, b.Count), 0.95: quantile(b.P95, b.Count), 0.99: quantile(b.P99, b.Count), 1: quantile(b.Max, b.Count),
	}))
	s.gauge(size, float64(st.Size))
	s.gauge(maxSize, float64(st.MaxSize))
	s.counter(started, st.WorkersStarted)
	s.counter(exited, st.WorkersExited)
	s.counter(recycled, st.Recycled)
	s.counter(retired, st.Retired)
	s.gauge(unreapable, float64(st.Unreapable))
	s.workers(c.pool.Workers())
	s.gauge(sessions, float64(st.Sessions))
	s.gauge(errorRate, st.ErrorRate)
	s.gauge(uptime, st.Uptime.Seconds())
	s.counter(dropped, st.LogsDropped, "logs")
	s.counter(dropped, st.EventsDropped, "events")
}

// quantile is NaN where nothing was counted, as Prometheus has it.
func quantile(v int, count int64) float64 {
	if count == 0 {
		return math.NaN()
	}
	return float64(v)
}

// scrape is one Collect.
type scrape struct {
	*collector
	metrics chan<- prometheus.Metric
}

func (s *scrape) metric(m prometheus.Metric, err error) {
	if err != nil {
		m = prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
	}
	s.metrics <- m
}

func (s *scrape) counter(f *family, n int64, labels ...string) {
	s.metric(prometheus.NewConstMetric(s.descs[f], prometheus.CounterValue, float64(n), labels...))
}

func (s *scrape) gauge(f *family, v float64, labels ...string) {
	s.metric(prometheus.NewConstMetric(s.descs[f], prometheus.GaugeValue, v, labels...))
}

func (s *scrape) histogram(f *family, durations pypool.Distribution, labels ...string) {
	buckets := make(map[float64]uint64, len(s.bounds))
	for _, bound := range s.bounds {
		buckets[bound.Seconds()] = uint64(durations.UpTo(bound))
	}
	s.metric(prometheus.NewConstHistogram(s.descs[f], uint64(durations.Count), durations.Sum.Seconds(), buckets, labels...))
}

func (s *scrape) workers(list []pypool.WorkerInfo) {
	now := time.Now()
	count := map[string]int{}
	memory, longest := map[int]int64{}, map[int]time.Duration{}
	for _, w := range list {
		count[w.State]++
		memory[w.Slot] += w.RSS // a worker and its replacement may share a slot for a moment
		d := longest[w.Slot]
		if len(w.Running) > 0 {
			d = max(d, now.Sub(w.Running[0].Since))
		}
		longest[w.Slot] = d
	}
	for _, state := range states {
		s.gauge(workers, float64(count[state]), state)
	}
	for slot, bytes := range memory {
		label := strconv.Itoa(slot)
		s.gauge(resident, float64(bytes), label)
		s.gauge(running, longest[slot].Seconds(), label)
	}
}
