package pypool

import (
	"encoding/json"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/metrics"
)

// Stats is a snapshot of a pool. Its counters add up: Started == Succeeded + Failed + InFlight, ByType sums to Failed,
// WorkersStarted - WorkersExited is the number of live processes.
type Stats struct {
	Size, Overflow, MaxSize                 int                 // configured: Size, Overflow, their sum
	Workers, Idle, Busy, Starting           int                 // processes now; the rest of Workers is stopping
	Waiting                                 int                 // callers queued
	Started, Succeeded, Failed, InFlight    int64               // calls; InFlight includes the queued
	ByType                                  map[ErrorType]int64 // Failed by error type
	WorkersStarted, WorkersExited, Recycled int64
	Sessions                                int
	CheckoutWait, Run                       Distribution
	ErrorRate                               float64 // share of the calls of the last ErrorRate.Window that the infrastructure failed
	Breaker                                 string  // the pool's own circuit: closed, open or half-open
	Uptime                                  time.Duration
	Unreapable                              int   // processes that did not end within 5 s of being killed, and have not ended since
	LogsDropped, EventsDropped              int64 // what Config.Logger and the Observer were not given: they were too slow, or the log handler failed
}

// WorkerInfo is a snapshot of one process.
type WorkerInfo struct {
	ID            string
	PID           int
	State         string // starting, idle, busy or stopping
	StartedAt     time.Time
	Calls, Errors int64  // answered, and those of them with an error
	RSS           int64  // resident memory in bytes, pages shared with other processes included; 0 where it cannot be read
	Python        string // the version, like 3.11.7; empty until the worker is ready
	Interpreter   string // what runs it: Python's sys.executable, or the path that was started until the worker is ready
	Overflow      bool
}

// Health is the result of [Pool.HealthCheck].
type Health struct {
	Healthy    bool // at least Size workers respond and the circuit is closed
	Workers    int
	Responsive int // idle ones that answered a ping, and busy ones, but for those that a stalled stream holds
	Breaker    string
	LastError  error // the last failed start or lost worker since Size workers were last ready
	Checks     []WorkerHealth
}

// WorkerHealth is one worker's part of [Health].
type WorkerHealth struct {
	WorkerInfo
	Responsive bool
	RTT        time.Duration // of the ping; 0 for a busy worker, which is not pinged
	Err        error
}

// CommandInfo describes a registered command or program.
type CommandInfo struct {
	Name      string      `json:"name"`
	Doc       string      `json:"doc"`
	Signature string      `json:"signature"`
	Kind      string      `json:"kind"` // function, generator or program
	Params    []ParamInfo `json:"params"`
	Returns   string      `json:"returns"`
}

// ParamInfo describes one parameter of a command.
type ParamInfo struct {
	Name     string          `json:"name"`
	Type     string          `json:"type"` // the annotation as written
	Required bool            `json:"required"`
	Default  json.RawMessage `json:"default,omitempty"` // nil when there is none, or JSON cannot carry it
}

// Distribution summarises durations since the pool's start. The quantiles are exact to 1/16 of their value.
type Distribution struct {
	Count              int64
	P50, P95, P99, Max time.Duration
}

// ErrorRate configures the watch over the share of calls that the infrastructure failed (timeouts, lost or missing workers,
// a full queue; never exceptions, bad arguments or cancellations). Func is called when the share over Window, with at
// least MinCalls calls in it, comes to Threshold or more, and again when it falls below. Zero values: 1 min, 0.5, 20.
type ErrorRate struct {
	Window    time.Duration
	Threshold float64
	MinCalls  int
	Func      func(ErrorRateAlert)
}

// ErrorRateAlert is one crossing of the threshold.
type ErrorRateAlert struct {
	Pool      string
	Above     bool // crossed upward
	Rate      float64
	Threshold float64
	Calls     int64 // finished in the window
	Failures  int64
	Window    time.Duration
}

// errorTypes gives each type its counter.
var errorTypes = []ErrorType{
	TypeCheckoutTimeout, TypeOperationTimeout, TypeCanceled, TypeStreamStalled, TypePoolNotAvailable, TypeQueueFull, TypeCircuitOpen, TypeWorkerStart,
	TypeWorkerExited, TypeProtocol, TypeMessageTooLarge, TypeInvalidArguments, TypeUnknownCommand, TypePython, TypeInvalidResult,
	TypeInternal,
}

// infrastructure reports whether an error of this type counts toward the error rate.
func (t ErrorType) infrastructure() bool {
	switch t {
	case TypeCheckoutTimeout, TypeOperationTimeout, TypeQueueFull, TypeCircuitOpen, TypeWorkerStart, TypeWorkerExited, TypeProtocol, TypeInternal:
		return true
	}
	return false
}

// counters are the pool's running figures.
type counters struct {
	started, succeeded atomic.Int64
	failed             []atomic.Int64 // parallel to errorTypes
	wait, run          metrics.Histogram
	rate               metrics.Rate
}

func newCounters(window time.Duration) *counters {
	c := &counters{failed: make([]atomic.Int64, len(errorTypes))}
	c.rate.Init(window)
	return c
}

// succeed counts n calls that ended well.
func (c *counters) succeed(n int64, now time.Duration) {
	c.succeeded.Add(n)
	c.rate.Add(n, now, false)
}

// fail counts one that did not.
func (c *counters) fail(err *Error, now time.Duration) {
	at := len(errorTypes) - 1 // unexpected_error
	for i, t := range errorTypes {
		if t == err.Type {
			at = i
		}
	}
	c.failed[at].Add(1)
	c.rate.Add(1, now, err.Type.infrastructure())
}

// snapshot fills the call counters. Ends are read before starts, so that InFlight cannot come out negative; and again when
// calls began meanwhile, so that it is not too large by those that came and went.
func (c *counters) snapshot(s *Stats) {
	for range 10 {
		before := c.started.Load()
		s.Failed, s.ByType = 0, map[ErrorType]int64{}
		for i, t := range errorTypes {
			if n := c.failed[i].Load(); n > 0 {
				s.ByType[t] = n
				s.Failed += n
			}
		}
		s.Succeeded = c.succeeded.Load()
		s.Started = c.started.Load()
		if s.Started == before {
			break
		}
	}
	s.InFlight = s.Started - s.Succeeded - s.Failed
	s.CheckoutWait, s.Run = Distribution(c.wait.Distribution()), Distribution(c.run.Distribution())
}
