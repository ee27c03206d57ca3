package debugpage

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/pypool/pypool"
)

// The JSON. Durations are in milliseconds, and ages count to the moment of the snapshot, so that the
// reader's clock does not matter.

type view struct {
	Time    time.Time  `json:"time"`
	Version string     `json:"version"`
	Pools   []poolView `json:"pools"`
}

type poolView struct {
	Name           string        `json:"name"`
	State          string        `json:"state"` // serving, degraded or unavailable, by the number of workers that are ready
	UptimeMS       int64         `json:"uptime_ms"`
	Size           int           `json:"size"`
	Overflow       int           `json:"overflow"`
	Workers        int           `json:"workers"`
	Idle           int           `json:"idle"`
	Busy           int           `json:"busy"`
	Starting       int           `json:"starting"`
	Stopping       int           `json:"stopping"`
	Waiting        int           `json:"waiting"`
	Calls          callsView     `json:"calls"`
	ErrorRate      float64       `json:"error_rate"`
	Wait           latencyView   `json:"wait"`
	Run            latencyView   `json:"run"`
	Batches        *sizesView    `json:"batches,omitempty"`
	WorkersStarted int64         `json:"workers_started"`
	WorkersExited  int64         `json:"workers_exited"`
	Recycled       int64         `json:"recycled"`
	Retired        int64         `json:"retired"`
	Unreapable     int           `json:"unreapable"`
	LogsDropped    int64         `json:"logs_dropped"`
	EventsDropped  int64         `json:"events_dropped"`
	Circuits       []circuitView `json:"circuits"`
	WorkerList     []workerView  `json:"worker_list"`
	Commands       []commandView `json:"commands"`
	Sessions       int           `json:"sessions"`
	SessionList    []sessionView `json:"session_list"` // those used last, 50 at most
}

type callsView struct {
	Started   int64       `json:"started"`
	Succeeded int64       `json:"succeeded"`
	Failed    int64       `json:"failed"`
	InFlight  int64       `json:"in_flight"`
	ByType    []countView `json:"by_type"` // of the failed, most frequent first
}

type countView struct {
	Type  string `json:"type"`
	Count int64  `json:"count"`
}

type latencyView struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_ms"`
	P95   float64 `json:"p95_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

type sizesView struct {
	Count int64 `json:"count"`
	P50   int   `json:"p50"`
	P95   int   `json:"p95"`
	Max   int   `json:"max"`
}

type circuitView struct {
	Command   string  `json:"command"` // empty: the pool's own
	State     string  `json:"state"`
	RetryInMS float64 `json:"retry_in_ms,omitempty"`
	Cause     string  `json:"cause,omitempty"`
}

type workerView struct {
	ID          string        `json:"id"`
	Slot        int           `json:"slot"`
	PID         int           `json:"pid"`
	State       string        `json:"state"`
	AgeMS       int64         `json:"age_ms"`
	Calls       int64         `json:"calls"`
	Errors      int64         `json:"errors"`
	RSS         int64         `json:"rss_bytes"`
	Python      string        `json:"python"`
	Interpreter string        `json:"interpreter"`
	Overflow    bool          `json:"overflow"`
	Retired     string        `json:"retired,omitempty"` // why it has asked to be replaced
	Running     []runningView `json:"running"`
}

type runningView struct {
	Command string `json:"command"`
	Program string `json:"program,omitempty"`
	Session string `json:"session,omitempty"`
	Request string `json:"request,omitempty"` // a number that JavaScript could not hold
	ForMS   int64  `json:"for_ms"`
}

type commandView struct {
	callsView
	Name string      `json:"name"` // empty: what no worker has registered
	Wait latencyView `json:"wait"`
	Run  latencyView `json:"run"`
}

type sessionView struct {
	ID         string `json:"id"`
	AgeMS      int64  `json:"age_ms"`
	IdleMS     int64  `json:"idle_ms"`
	Operations int64  `json:"operations"`
	Errors     int64  `json:"errors"`
}

const mostSessions = 50

func viewOf(now time.Time, sources []Source) view {
	v := view{Time: now, Version: pypool.Version, Pools: []poolView{}}
	for _, source := range sources {
		v.Pools = append(v.Pools, poolOf(now, source))
	}
	return v
}

func poolOf(now time.Time, source Source) poolView {
	st, sessions := source.Stats(), source.Sessions()
	v := poolView{
		Name: source.Name(), State: "degraded", UptimeMS: st.Uptime.Milliseconds(), Size: st.Size, Overflow: st.Overflow, Workers: st.Workers,
		Idle: st.Idle, Busy: st.Busy, Starting: st.Starting, Stopping: max(0, st.Workers-st.Idle-st.Busy-st.Starting), Waiting: st.Waiting,
		Calls: callsOf(st.Started, st.Succeeded, st.Failed, st.InFlight, st.ByType), ErrorRate: st.ErrorRate, Wait: latencyOf(st.CheckoutWait), Run: latencyOf(st.Run),
		WorkersStarted: st.WorkersStarted, WorkersExited: st.WorkersExited, Recycled: st.Recycled, Retired: st.Retired, Unreapable: st.Unreapable,
		LogsDropped: st.LogsDropped, EventsDropped: st.EventsDropped, Sessions: st.Sessions,
		Circuits: []circuitView{}, WorkerList: []workerView{}, Commands: commandsOf(st), SessionList: []sessionView{},
	}
	switch ready := st.Idle + st.Busy; {
	case ready == 0:
		v.State = "unavailable"
	case ready >= st.Size:
		v.State = "serving"
	}
	if st.Batches.Count > 0 {
		v.Batches = &sizesView{st.Batches.Count, st.Batches.P50, st.Batches.P95, st.Batches.Max}
	}
	for _, c := range source.Circuits() {
		circuit := circuitView{Command: c.Command, State: c.State, Cause: c.Cause}
		if !c.RetryAt.IsZero() {
			circuit.RetryInMS = max(0, milliseconds(c.RetryAt.Sub(now)))
		}
		v.Circuits = append(v.Circuits, circuit)
	}
	for _, w := range source.Workers() {
		v.WorkerList = append(v.WorkerList, workerView{
			ID: w.ID, Slot: w.Slot, PID: w.PID, State: w.State, AgeMS: age(now, w.StartedAt), Calls: w.Calls, Errors: w.Errors, RSS: w.RSS,
			Python: w.Python, Interpreter: w.Interpreter, Overflow: w.Overflow, Retired: w.Retired, Running: runningOf(now, w),
		})
	}
	slices.SortFunc(sessions, func(a, b pypool.SessionInfo) int {
		return cmp.Or(b.LastActivity.Compare(a.LastActivity), cmp.Compare(a.ID, b.ID))
	})
	for _, s := range sessions[:min(len(sessions), mostSessions)] {
		v.SessionList = append(v.SessionList, sessionView{s.ID, age(now, s.StartedAt), age(now, s.LastActivity), s.Operations, s.Errors})
	}
	return v
}

func callsOf(started, succeeded, failed, inFlight int64, byType map[pypool.ErrorType]int64) callsView {
	v := callsView{started, succeeded, failed, inFlight, []countView{}}
	for typ, n := range byType {
		v.ByType = append(v.ByType, countView{string(typ), n})
	}
	slices.SortFunc(v.ByType, func(a, b countView) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Type, b.Type))
	})
	return v
}

func latencyOf(d pypool.Distribution) latencyView {
	return latencyView{d.Count, milliseconds(d.P50), milliseconds(d.P95), milliseconds(d.P99), milliseconds(d.Max)}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func age(now, since time.Time) int64 { return max(0, now.Sub(since).Milliseconds()) }

func commandsOf(st pypool.Stats) []commandView {
	commands := []commandView{}
	for name, c := range st.ByCommand {
		commands = append(commands, commandView{callsOf(c.Started, c.Succeeded, c.Failed, c.InFlight, c.ByType), name, latencyOf(c.CheckoutWait), latencyOf(c.Run)})
	}
	slices.SortFunc(commands, func(a, b commandView) int { return cmp.Compare(a.Name, b.Name) })
	return commands
}

func runningOf(now time.Time, w pypool.WorkerInfo) []runningView {
	running := []runningView{}
	for _, r := range w.Running {
		v := runningView{Command: r.Command, Program: r.Program, Session: r.Session, ForMS: age(now, r.Since)}
		if r.RequestID != 0 {
			v.Request = strconv.FormatUint(r.RequestID, 10)
		}
		running = append(running, v)
	}
	return running
}
