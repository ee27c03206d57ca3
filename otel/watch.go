package pypoolotel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"

	"github.com/pypool/pypool"
)

// Watch has the pool's state among the metrics, each time they are collected, until stop is called:
//
//	pypool.worker.count       {worker}   processes, by pypool.worker.state
//	pypool.worker.limit       {worker}   as many as the pool has at most: Size and Overflow
//	pypool.worker.started     {worker}   processes that were started
//	pypool.worker.exited      {worker}   processes that have ended
//	pypool.worker.recycled    {worker}   of these, those that were worn out
//	pypool.worker.retired     {worker}   workers that have asked to be replaced
//	pypool.queue.length       {call}     callers that wait for a worker
//	pypool.call.active        {call}     calls under way, by rpc.method
//	pypool.session.count      {session}  sessions that are remembered
//	pypool.circuit.state                 0 closed, 1 half-open, 2 open, by rpc.method; without it the pool's own
//
// An error is the meter provider's, or says that there is no pool: it is nil, or New has not made
// it.
func (t *Telemetry) Watch(pool *pypool.Pool) (stop func() error, err error) {
	if pool.Name() == "" {
		return nil, errors.New("pypoolotel: there is no pool: New makes pools")
	}
	w := &watched{pool: pool, name: attribute.String("pypool.pool.name", pool.Name())}
	var errs []error
	counter := func(name, unit, text string) metric.Int64ObservableCounter {
		i, err := t.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(text))
		errs, w.all = append(errs, err), append(w.all, i)
		return i
	}
	number := func(name, unit, text string) metric.Int64ObservableUpDownCounter {
		i, err := t.meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(text))
		errs, w.all = append(errs, err), append(w.all, i)
		return i
	}
	w.workers = number("pypool.worker.count", "{worker}", "Worker processes, by state.")
	w.limit = number("pypool.worker.limit", "{worker}", "Workers that the pool has at most.")
	w.started = counter("pypool.worker.started", "{worker}", "Worker processes that were started.")
	w.exited = counter("pypool.worker.exited", "{worker}", "Worker processes that have ended.")
	w.recycled = counter("pypool.worker.recycled", "{worker}", "Workers that were replaced because they were worn out.")
	w.retired = counter("pypool.worker.retired", "{worker}", "Workers that have asked to be replaced, because they are broken.")
	w.queue = number("pypool.queue.length", "{call}", "Callers that wait for a worker.")
	w.active = number("pypool.call.active", "{call}", "Calls under way, those that wait included.")
	w.sessions = number("pypool.session.count", "{session}", "Sessions that are remembered.")
	gauge, err := t.meter.Int64ObservableGauge("pypool.circuit.state", metric.WithDescription("A circuit: 0 closed, 1 half-open, 2 open."))
	errs, w.all, w.circuit = append(errs, err), append(w.all, gauge), gauge
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	registration, err := t.meter.RegisterCallback(w.observe, w.all...)
	if err != nil {
		return nil, err
	}
	return registration.Unregister, nil
}

type watched struct {
	pool *pypool.Pool
	name attribute.KeyValue
	all  []metric.Observable

	workers, limit, queue, active, sessions metric.Int64ObservableUpDownCounter
	started, exited, recycled, retired      metric.Int64ObservableCounter
	circuit                                 metric.Int64ObservableGauge
}

var states = []string{"starting", "idle", "busy", "shared", "canceling", "stopping"}

var circuits = map[string]int64{"closed": 0, "half-open": 1, "open": 2}

func (w *watched) observe(_ context.Context, o metric.Observer) error {
	st := w.pool.Stats()
	plain := metric.WithAttributes(w.name)
	count := map[string]int64{}
	for _, worker := range w.pool.Workers() {
		count[worker.State]++
	}
	for _, state := range states {
		o.ObserveInt64(w.workers, count[state], metric.WithAttributes(w.name, attribute.String("pypool.worker.state", state)))
	}
	o.ObserveInt64(w.limit, int64(st.MaxSize), plain)
	o.ObserveInt64(w.started, st.WorkersStarted, plain)
	o.ObserveInt64(w.exited, st.WorkersExited, plain)
	o.ObserveInt64(w.recycled, st.Recycled, plain)
	o.ObserveInt64(w.retired, st.Retired, plain)
	o.ObserveInt64(w.queue, int64(st.Waiting), plain)
	o.ObserveInt64(w.sessions, int64(st.Sessions), plain)
	o.ObserveInt64(w.circuit, circuits[st.Breaker], plain)
	for name, one := range st.ByCommand {
		if name == "" {
			name = "_OTHER"
		} else {
			o.ObserveInt64(w.circuit, circuits[one.Circuit], metric.WithAttributes(w.name, semconv.RPCMethod(name)))
		}
		o.ObserveInt64(w.active, one.InFlight, metric.WithAttributes(w.name, semconv.RPCMethod(name)))
	}
	return nil
}
