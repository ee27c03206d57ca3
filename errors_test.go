package pypool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
)

// errorCase provokes one type of error for real, on a pool of one worker.
type errorCase struct {
	change   func(cfg *Config)
	provoke  func(t *testing.T, p *Pool) error
	sentinel error
	category Category
	typ      ErrorType
	delivery Delivery
	replaced bool // the worker
	noWorker bool // none is named in the context
	check    func(t *testing.T, e *Error)
}

// stalledStream is the error of a loop whose body takes longer than d.
func stalledStream(p *Pool, d time.Duration) (last error) {
	for _, err := range p.Stream(context.Background(), "count", []int{3}, WithStallTimeout(d)) {
		if last = err; err == nil {
			time.Sleep(20 * d)
		}
	}
	return last
}

// errorTable is docs/errors.md, each type at least once.
var errorTable = map[string]errorCase{
	"checkout timeout": {
		provoke: func(t *testing.T, p *Pool) error {
			h := hold(t, t.Context(), p, "")
			defer h.finish(t)
			return command(t, p, "pid", nil, WithCheckoutTimeout(5*time.Millisecond))
		},
		sentinel: ErrCheckoutTimeout, category: CategoryTimeout, typ: TypeCheckoutTimeout, delivery: NotExecuted, noWorker: true,
	},
	"operation timeout": {
		provoke: func(t *testing.T, p *Pool) error {
			return command(t, p, "busy_loop_of_the_test", nil, WithTimeout(100*time.Millisecond))
		},
		sentinel: ErrOperationTimeout, category: CategoryTimeout, typ: TypeOperationTimeout, delivery: MaybeExecuted,
		check: func(t *testing.T, e *Error) {
			hang := detail[*HangError](t, e)
			assert.Contains(t, hang.Stacks, "busy_loop_of_the_test")
			assert.False(t, hang.Killed, "it stops")
			assert.Contains(t, e.Error(), "in busy_loop_of_the_test")
			assert.NotErrorIs(t, e, context.DeadlineExceeded, "it was no context's")
		},
	},
	"canceled while it ran": {
		provoke: func(t *testing.T, p *Pool) error {
			ctx, cancel := context.WithCancel(t.Context())
			h := hold(t, ctx, p, "s")
			cancel()
			return (<-h.done).err
		},
		sentinel: ErrCanceled, category: CategoryTimeout, typ: TypeCanceled, delivery: MaybeExecuted,
		check: func(t *testing.T, e *Error) {
			assert.ErrorIs(t, e, context.Canceled)
			assert.Empty(t, detail[*HangError](t, e).Stacks, "who cancels does not ask where the time went")
			assert.Equal(t, "s", e.Context.Session)
		},
	},
	"canceled before": {
		provoke: func(t *testing.T, p *Pool) error {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(errors.New("the user went away"))
			_, err := p.ExecuteAnonymous(ctx, "pid", nil)
			return err
		},
		sentinel: ErrCanceled, category: CategoryTimeout, typ: TypeCanceled, delivery: NotExecuted, noWorker: true,
		check: func(t *testing.T, e *Error) {
			assert.ErrorIs(t, e, context.Canceled)
			assert.ErrorContains(t, e.Err, "the user went away")
		},
	},
	"stalled stream": {
		provoke:  func(t *testing.T, p *Pool) error { return stalledStream(p, 5*time.Millisecond) },
		sentinel: ErrStalled, category: CategoryTimeout, typ: TypeStreamStalled, delivery: MaybeExecuted,
	},
	"closed pool": {
		provoke: func(t *testing.T, p *Pool) error {
			require.NoError(t, p.Close())
			return command(t, p, "pid", nil)
		},
		sentinel: ErrPoolClosed, category: CategoryResource, typ: TypePoolNotAvailable, delivery: NotExecuted, noWorker: true, replaced: true,
	},
	"pool closed in flight": {
		provoke: func(t *testing.T, p *Pool) error {
			h := hold(t, t.Context(), p, "")
			require.NoError(t, p.Close())
			return (<-h.done).err
		},
		sentinel: ErrPoolClosed, category: CategoryResource, typ: TypePoolNotAvailable, delivery: MaybeExecuted, replaced: true,
	},
	"queue full": {
		change: func(cfg *Config) { cfg.MaxQueue = 1 },
		provoke: func(t *testing.T, p *Pool) error {
			h := hold(t, t.Context(), p, "")
			q := queueHold(t, t.Context(), p, "")
			eventually(t, "one waits", func() bool { return p.Stats().Waiting == 1 })
			defer func() { h.finish(t); q.finish(t) }()
			return command(t, p, "pid", nil)
		},
		sentinel: ErrQueueFull, category: CategoryResource, typ: TypeQueueFull, delivery: NotExecuted, noWorker: true,
	},
	"open circuit": {
		change: func(cfg *Config) { cfg.Breaker = Breaker{Failures: 1, OpenFor: time.Hour} },
		provoke: func(t *testing.T, p *Pool) error {
			require.ErrorIs(t, command(t, p, "crash", nil), ErrWorkerExited)
			return command(t, p, "crash", nil)
		},
		sentinel: ErrCircuitOpen, category: CategoryResource, typ: TypeCircuitOpen, delivery: NotExecuted, noWorker: true, replaced: true,
		check: func(t *testing.T, e *Error) {
			circuit := detail[*CircuitError](t, e)
			assert.ErrorIs(t, circuit.Cause, ErrWorkerExited)
			assert.True(t, circuit.RetryAt.After(time.Now()))
		},
	},
	"worker exited by itself": {
		provoke:  func(t *testing.T, p *Pool) error { return command(t, p, "crash", args{"code": 7}) },
		sentinel: ErrWorkerExited, category: CategoryCommunication, typ: TypeWorkerExited, delivery: MaybeExecuted, replaced: true,
		check: func(t *testing.T, e *Error) {
			exit := detail[*ExitError](t, e)
			assert.Equal(t, 7, exit.Code)
			assert.Zero(t, exit.Signal)
			assert.False(t, exit.OOM)
			assert.Positive(t, exit.Uptime)
		},
	},
	"worker killed by a signal": {
		provoke:  func(t *testing.T, p *Pool) error { return command(t, p, "kill_self", args{"signal": 9}) },
		sentinel: ErrWorkerExited, category: CategoryCommunication, typ: TypeWorkerExited, delivery: MaybeExecuted, replaced: true,
		check: func(t *testing.T, e *Error) {
			exit := detail[*ExitError](t, e)
			assert.Equal(t, syscall.SIGKILL, exit.Signal)
			assert.Equal(t, -1, exit.Code)
			_, counted := proc.OOMKills()
			assert.Equal(t, !counted, exit.OOM, "a suspicion, unless the kernel says that it has ended nothing for want of memory")
		},
	},
	"crash in native code": {
		provoke:  func(t *testing.T, p *Pool) error { return command(t, p, "kill_self", args{"signal": 11}) },
		sentinel: ErrWorkerExited, category: CategoryCommunication, typ: TypeWorkerExited, delivery: MaybeExecuted, replaced: true,
		check: func(t *testing.T, e *Error) {
			exit := detail[*ExitError](t, e)
			assert.Equal(t, syscall.SIGSEGV, exit.Signal)
			assert.Contains(t, exit.Stacks, "in kill_self")
			assert.Contains(t, exit.Stderr, "Segmentation fault")
			assert.Contains(t, e.Error(), "SIGSEGV")
		},
	},
	"protocol violation": {
		provoke:  func(t *testing.T, p *Pool) error { return command(t, p, "noise", args{"text": "Hello!\x1b[2J\n"}) },
		sentinel: ErrProtocol, category: CategoryCommunication, typ: TypeProtocol, delivery: MaybeExecuted, replaced: true,
		check: func(t *testing.T, e *Error) {
			assert.Equal(t, `"Hello!\x1b[2J"`, detail[*ProtocolError](t, e).Sample)
			assert.NotContains(t, e.Error(), "\x1b")
		},
	},
	"request too large": {
		change: func(cfg *Config) { cfg.MaxMessageBytes = 2048 },
		provoke: func(t *testing.T, p *Pool) error {
			return command(t, p, "echo", args{"value": strings.Repeat("x", 3000)})
		},
		sentinel: ErrMessageTooLarge, category: CategoryCommunication, typ: TypeMessageTooLarge, delivery: NotExecuted, noWorker: true,
	},
	"result too large": {
		change:   func(cfg *Config) { cfg.MaxMessageBytes = 2048 },
		provoke:  func(t *testing.T, p *Pool) error { return command(t, p, "big", args{"n": 3000}) },
		sentinel: ErrMessageTooLarge, category: CategoryCommunication, typ: TypeMessageTooLarge, delivery: Executed,
	},
	"arguments that are not JSON": {
		provoke:  func(t *testing.T, p *Pool) error { return command(t, p, "echo", args{"value": math.NaN()}) },
		sentinel: ErrInvalidArguments, category: CategoryExecution, typ: TypeInvalidArguments, delivery: NotExecuted, noWorker: true,
	},
	"arguments that do not fit the signature": {
		provoke:  func(t *testing.T, p *Pool) error { return command(t, p, "add", args{"b": 1}) },
		sentinel: ErrInvalidArguments, category: CategoryExecution, typ: TypeInvalidArguments, delivery: NotExecuted,
		check: func(t *testing.T, e *Error) {
			assert.Contains(t, e.Error(), "add(a: int, b: int = 1) -> int", "the signature is shown")
			assert.Contains(t, e.Error(), "'a'")
		},
	},
	"unknown command": {
		provoke:  func(t *testing.T, p *Pool) error { return command(t, p, "ehco", nil) },
		sentinel: ErrUnknownCommand, category: CategoryExecution, typ: TypeUnknownCommand, delivery: NotExecuted,
		check: func(t *testing.T, e *Error) {
			unknown := detail[*UnknownCommandError](t, e)
			assert.Equal(t, "ehco", unknown.Name)
			assert.Equal(t, "echo", unknown.Names[0], "nearest first")
			assert.Contains(t, unknown.Names, "add")
			assert.Contains(t, e.Error(), "nearest: echo")
		},
	},
	"unknown program": {
		provoke: func(t *testing.T, p *Pool) error {
			_, err := p.ExecuteProgram(t.Context(), "duoble", args{"x": 1})
			return err
		},
		sentinel: ErrUnknownCommand, category: CategoryExecution, typ: TypeUnknownCommand, delivery: NotExecuted,
		check: func(t *testing.T, e *Error) {
			assert.Equal(t, "double", detail[*UnknownCommandError](t, e).Names[0])
			assert.Equal(t, "duoble", e.Context.Program)
		},
	},
	"Python exception": {
		provoke:  func(t *testing.T, p *Pool) error { return command(t, p, "fail", args{"message": "no such row"}) },
		sentinel: ErrPython, category: CategoryExecution, typ: TypePython, delivery: Executed,
		check: func(t *testing.T, e *Error) {
			py := detail[*PythonError](t, e)
			assert.Equal(t, "ValueError", py.Type)
			assert.Equal(t, "builtins", py.Module)
			assert.Equal(t, "no such row", py.Message)
			assert.Contains(t, py.Traceback, "core.py")
			assert.Contains(t, py.Traceback, "raise ValueError(message)")
			assert.Equal(t, "pypool: python_exception: fail: ValueError: no such row (core.py:62 in fail)", e.Error())
		},
	},
	"invalid result": {
		provoke:  func(t *testing.T, p *Pool) error { return command(t, p, "nan", nil) },
		sentinel: ErrInvalidResult, category: CategoryExecution, typ: TypeInvalidResult, delivery: Executed,
		check: func(t *testing.T, e *Error) {
			assert.Equal(t, "$.rows[1].score", detail[*InvalidResultError](t, e).Path)
		},
	},
	"fault of the runtime": {
		provoke: func(t *testing.T, p *Pool) error {
			executed(t, p, "list_commands", nil)
			executed(t, p, "sabotage", nil)
			_, err := p.Commands(t.Context())
			return err
		},
		sentinel: ErrInternal, category: CategorySystem, typ: TypeInternal, delivery: MaybeExecuted, replaced: true,
	},
}

// command runs a command in the session "case", and returns its error.
func command(t *testing.T, p *Pool, name string, in any, opts ...CallOption) error {
	_, err := p.ExecuteInSession(t.Context(), "case", name, in, opts...)
	return err
}

func TestEachErrorTypeIsProvokedForReal(t *testing.T) {
	t.Parallel()
	// Their own tests: startup_test.go, below, and functions_test.go.
	seen := map[ErrorType]bool{TypeWorkerStart: true, TypeDecode: true, TypeNestedCall: true}
	for name, c := range errorTable {
		seen[c.typ] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := coreConfig(t, 1, 0)
			cfg.Name, cfg.KillGrace = "errors", slack // for the stacks on a busy machine
			if c.change != nil {
				c.change(&cfg)
			}
			p := newPool(t, cfg)
			worker := p.Workers()[0]
			err := c.provoke(t, p)
			e := failure(t, err, c.sentinel)
			assert.Equal(t, c.category, e.Category)
			assert.Equal(t, c.typ, e.Type)
			assert.Equal(t, c.delivery, e.Delivery)
			assert.Equal(t, c.delivery == NotExecuted, SafeToRetry(err))
			assert.True(t, SafeToRetry(fmt.Errorf("wrapped: %w", err)) == SafeToRetry(err))
			assert.Equal(t, "errors", e.Context.Pool)
			assert.NotEmpty(t, e.Context.Command)
			assert.NotZero(t, e.Context.RequestID)
			assert.Positive(t, e.Context.Elapsed)
			assert.NotEmpty(t, e.Message)
			assert.True(t, strings.HasPrefix(e.Error(), "pypool: "+string(c.typ)+": "), e.Error())
			assert.NotContains(t, e.Error(), "\n", "one line")
			assert.Less(t, len(e.Error()), 2000)
			if c.noWorker {
				assert.Empty(t, e.Context.Worker)
				assert.Zero(t, e.Context.PID)
			} else if c.typ != TypeInternal {
				assert.Equal(t, worker.ID, e.Context.Worker)
				assert.Equal(t, worker.PID, e.Context.PID)
			}
			for other, o := range errorTable {
				if o.sentinel != c.sentinel {
					assert.NotErrorIs(t, err, o.sentinel, other)
				}
			}
			if c.check != nil {
				c.check(t, e)
			}
			if isClosed(p.closing) {
				return
			}
			eventually(t, "at Size", func() bool { return serving(p) })
			if c.replaced {
				assert.NotEqual(t, worker.PID, pids(p)[0])
				eventually(t, "the old one is gone", func() bool { return !processExists(worker.PID) })
			} else {
				assert.Equal(t, worker.PID, pids(p)[0], "the worker was kept")
			}
			assert.Equal(t, 5, decoded[int](t, executed(t, p, "add", args{"a": 4})), "the next call is fine")
			assert.Positive(t, accounted(t, p).ByType[c.typ])
		})
	}
	for _, row := range errorTypes {
		assert.True(t, seen[row.typ], "no case for %s", row.typ)
	}
}

func TestAResultThatDoesNotFitTheGoTypeIsADecodeErrorAndTheCallHasSucceeded(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	worker := p.Workers()[0]
	_, err := Call[[]int](t.Context(), p, "echo", args{"value": "text"}, WithSession("s"))
	e := failure(t, err, ErrDecode)
	assert.Equal(t, CategoryExecution, e.Category)
	assert.Equal(t, TypeDecode, e.Type)
	assert.Equal(t, Executed, e.Delivery)
	assert.False(t, SafeToRetry(err))
	assert.Equal(t, "echo", e.Context.Command)
	assert.Equal(t, "s", e.Context.Session)
	assert.Equal(t, worker.ID, e.Context.Worker)
	assert.NotZero(t, e.Context.RequestID)
	st := accounted(t, p)
	assert.Equal(t, int64(1), st.Succeeded)
	assert.Empty(t, st.ByType)
	assert.Equal(t, worker.PID, pids(p)[0])
	res := executed(t, p, "echo", args{"value": "text"})
	failure(t, res.Decode(new(int)), ErrDecode)
	failure(t, res.Decode(nil), ErrDecode)
	failure(t, res.Decode((*int)(nil)), ErrDecode)
	assert.Equal(t, "text", decoded[string](t, res), "it may be decoded again")
}

func TestErrorTypesAndSentinelsCorrespondOneToOne(t *testing.T) {
	t.Parallel()
	sentinels := map[ErrorType]error{
		TypeCheckoutTimeout: ErrCheckoutTimeout, TypeOperationTimeout: ErrOperationTimeout, TypeCanceled: ErrCanceled, TypeStreamStalled: ErrStalled,
		TypePoolNotAvailable: ErrPoolClosed, TypeQueueFull: ErrQueueFull, TypeCircuitOpen: ErrCircuitOpen, TypeWorkerStart: ErrWorkerStart,
		TypeWorkerExited: ErrWorkerExited, TypeProtocol: ErrProtocol, TypeMessageTooLarge: ErrMessageTooLarge,
		TypeInvalidArguments: ErrInvalidArguments, TypeUnknownCommand: ErrUnknownCommand, TypePython: ErrPython,
		TypeInvalidResult: ErrInvalidResult, TypeDecode: ErrDecode, TypeInternal: ErrInternal, TypeNestedCall: ErrNestedCall,
	}
	assert.Len(t, sentinels, len(errorTypes))
	for _, row := range errorTypes {
		typ := row.typ
		e := newError(typ, MaybeExecuted, "x", nil)
		assert.Equal(t, row.category, e.Category)
		for other, sentinel := range sentinels {
			assert.Equal(t, typ == other, errors.Is(e, sentinel), "%s, %s", typ, other)
		}
		assert.True(t, strings.HasPrefix(sentinels[typ].Error(), "pypool: "))
	}
	assert.False(t, SafeToRetry(nil))
	assert.False(t, SafeToRetry(errors.New("foreign")))
	assert.Equal(t, "NotExecuted MaybeExecuted Executed", fmt.Sprint(NotExecuted, MaybeExecuted, Executed))
}

func TestTextFromAWorkerCannotForgeALineOrMoveTheCursor(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":              "plain",
		"two\nlines":         `two\nlines`,
		"\x1b[31mred\x07":    `\x1b[31mred\x07`,
		"caf\u00e9 \u4e16":   "café 世",
		"bad \xff byte":      "bad \ufffd byte",
		"sep\u2028arated":    `sep\x2028arated`,
		"right\u202eto left": `right\x202eto left`,
		"":                   "",
	} {
		assert.Equal(t, want, oneLine(in))
	}
	long := oneLine(strings.Repeat("é", 2000))
	assert.LessOrEqual(t, len(long), 1024+len("..."))
	assert.True(t, strings.HasSuffix(long, "é..."), "cut between characters")
	assert.Equal(t, "ab...", printable("abc", 2))
	assert.Equal(t, "abc", printable("abc", 3))
}

func TestTheInnermostFrameIsThatOfTheThreadThatRunsHandlers(t *testing.T) {
	t.Parallel()
	dump := "Thread 0x1 (most recent call first):\n  File \"a.py\", line 1 in watch\n\nCurrent thread 0x2 (most recent call first):\n  File \"b.py\", line 7 in inner\n  File \"b.py\", line 9 in outer\n"
	assert.Equal(t, `File "b.py", line 7 in inner`, innermostFrame(dump))
	assert.Equal(t, `File "c.py", line 3 in f`, innermostFrame("Thread 0x1 (most recent call first):\n  File \"c.py\", line 3 in f\n"))
	assert.Empty(t, innermostFrame(""))
	assert.Empty(t, innermostFrame("garbage\n"))
}
