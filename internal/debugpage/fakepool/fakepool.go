// Package fakepool makes debugpage.Sources for tests: as large, as broken and as hostile as they
// want them.
package fakepool

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/pypool/pypool"
)

// Pool says what it has been given.
type Pool struct {
	mu sync.Mutex // guards the fields below

	PoolName string
	Figures  pypool.Stats
	List     []pypool.WorkerInfo
	Labels   []pypool.SessionInfo
	Breakers []pypool.CircuitInfo
	Where    string // the stacks of any worker
	Reads    int
}

// Name is a Source's.
func (p *Pool) Name() string { return p.PoolName }

// Stats is a Source's.
func (p *Pool) Stats() pypool.Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Reads++
	return p.Figures
}

// Workers is a Source's.
func (p *Pool) Workers() []pypool.WorkerInfo { return p.List }

// Sessions is a Source's.
func (p *Pool) Sessions() []pypool.SessionInfo { return p.Labels }

// Circuits is a Source's.
func (p *Pool) Circuits() []pypool.CircuitInfo { return p.Breakers }

// Stacks is a Source's.
func (p *Pool) Stacks(ctx context.Context, worker string) (string, error) {
	if p.Where == "" {
		return "", fmt.Errorf("there is no worker %s", worker)
	}
	return p.Where, ctx.Err()
}

// Change changes the pool while it is shown.
func (p *Pool) Change(f func(*Pool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

// Large is a pool of n workers with all that there is to show.
func Large(n int) *Pool {
	now := time.Now()
	latency := func(ms int) pypool.Distribution {
		d := time.Duration(ms) * time.Millisecond
		return pypool.Distribution{Count: 918_273, Sum: 918_273 * d, P50: d, P95: 4 * d, P99: 9 * d, Max: 71 * d}
	}
	p := &Pool{
		PoolName: "inference",
		Figures: pypool.Stats{
			Size: n - n/50, Overflow: n / 50, MaxSize: n, Workers: n, Waiting: 37, Started: 918_400, Succeeded: 912_001, Failed: 6_272, InFlight: 127,
			ByType: map[pypool.ErrorType]int64{
				pypool.TypePython: 5_800, pypool.TypeOperationTimeout: 312, pypool.TypeWorkerExited: 96, pypool.TypeCanceled: 64,
			},
			ByCommand: map[string]pypool.CommandStats{
				"embed":  {Started: 800_000, Succeeded: 799_000, Failed: 900, InFlight: 100, CheckoutWait: latency(1), Run: latency(12)},
				"rerank": {Started: 100_000, Succeeded: 96_000, Failed: 3_990, InFlight: 10, CheckoutWait: latency(2), Run: latency(45), ByType: map[pypool.ErrorType]int64{pypool.TypePython: 3_990}},
				"":       {Started: 12, Failed: 12, ByType: map[pypool.ErrorType]int64{pypool.TypeUnknownCommand: 12}},
			},
			WorkersStarted: int64(n) + 131, WorkersExited: 131, Recycled: 35, Retired: 2, Sessions: 4_211, CheckoutWait: latency(1), Run: latency(14),
			Batches:   pypool.SizeDistribution{Count: 81_000, P50: 11, P95: 32, P99: 32, Max: 32},
			ErrorRate: 0.004, Breaker: "closed", Uptime: 53*time.Hour + 12*time.Minute,
		},
		Breakers: []pypool.CircuitInfo{{State: "closed"}, {Command: "rerank", State: "half-open", Cause: "worker_exited: ended by signal SIGSEGV in rank.py:41"}},
		Where:    "Thread 0x00007f3c (most recent call first):\n  File \"/srv/app/worker.py\", line 41 in rank\n  File \"/srv/app/worker.py\", line 12 in rerank\n",
	}
	for i := range n {
		state := []string{"idle", "busy", "busy", "busy", "shared", "idle", "busy", "starting", "canceling", "stopping"}[i%10]
		w := pypool.WorkerInfo{
			ID: fmt.Sprintf("w%d", i+1), Slot: i, PID: 40_000 + i, State: state, StartedAt: now.Add(-time.Duration(i) * time.Minute), Calls: int64(4_000 + 31*i), Errors: int64(i % 7),
			RSS: int64(900+i) << 20, Python: "3.12.4", Interpreter: "/srv/app/.venv/bin/python", Overflow: i >= p.Figures.Size,
		}
		switch state {
		case "idle":
			p.Figures.Idle++
		case "starting":
			p.Figures.Starting++
		case "busy", "shared", "canceling":
			p.Figures.Busy++
			w.Running = []pypool.RunningCall{{CallInfo: pypool.CallInfo{Command: "embed", Session: fmt.Sprintf("user-%d", i), RequestID: 1 << 62}, Since: now.Add(-time.Duration(3*i) * time.Millisecond)}}
		}
		if i == 1 {
			w.Retired = "DeadContext"
		}
		p.List = append(p.List, w)
	}
	for i := range 60 {
		p.Labels = append(p.Labels, pypool.SessionInfo{ID: fmt.Sprintf("user-%d", i), StartedAt: now.Add(-time.Hour), LastActivity: now.Add(-time.Duration(i) * time.Second), Operations: int64(i), Errors: int64(i % 3)})
	}
	return p
}

// Loop is a pool whose workers cannot start.
func Loop(cause string) *Pool {
	return &Pool{
		PoolName: "broken",
		Figures: pypool.Stats{
			Size: 4, Overflow: 2, MaxSize: 6, Workers: 1, Starting: 1, Started: 3_120, Succeeded: 1_000, Failed: 2_120, ErrorRate: 1, Breaker: "open", Uptime: 3 * time.Hour,
			ByType: map[pypool.ErrorType]int64{pypool.TypeCircuitOpen: 2_100, pypool.TypeWorkerStart: 20}, WorkersStarted: 611, WorkersExited: 610,
		},
		List:     []pypool.WorkerInfo{{ID: "w611", PID: 4711, State: "starting", StartedAt: time.Now(), Interpreter: "/usr/bin/python3"}},
		Breakers: []pypool.CircuitInfo{{State: "open", RetryAt: time.Now().Add(17 * time.Second), Cause: cause}},
	}
}

// Hostile is a Large pool in which every string is the text.
func Hostile(text string) *Pool {
	p := Large(6)
	p.Figures.ByCommand = map[string]pypool.CommandStats{text: p.Figures.ByCommand["rerank"]}
	p.Figures.ByType = map[pypool.ErrorType]int64{pypool.ErrorType(text): 3}
	p.Breakers = []pypool.CircuitInfo{{State: "open"}, {Command: text, State: "open"}}
	Fill(reflect.ValueOf(p).Elem(), text)
	for i := range p.List {
		p.List[i].ID = fmt.Sprint(i, text) // rows are told apart by it
	}
	return p
}

// Fill sets every string below v, but in maps.
func Fill(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		if v.CanSet() {
			v.SetString(text)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			Fill(v.Field(i), text)
		}
	case reflect.Slice:
		for i := range v.Len() {
			Fill(v.Index(i), text)
		}
	}
}
