package pypoolnats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

func init() { helpers["worker"] = runWorker }

// runWorker works on jobs until SIGTERM.
func runWorker() {
	in := input[serverInput]()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg := config(in.Size)
	cfg.ExtraEnv = []string{"SERVER=" + in.Server, "JOURNAL=" + in.Journal}
	pool, err := pypool.New(context.Background(), cfg)
	must(err)
	nc := dial(in.URL)
	js, err := jetstream.New(nc)
	must(err)
	fmt.Println("ready")
	must(Work(ctx, js, "test", pool, WithAckWait(time.Second), WithWorkLogger(silent)))
	must(pool.Close())
	nc.Close()
	fmt.Println("gone")
}

func stream(t testing.TB, b *broker) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(b.connect(t))
	require.NoError(t, err)
	return js
}

// work has the jobs worked on until end is called, or the test is over.
func work(t testing.TB, b *broker, c pypool.Caller, opts ...WorkOption) (end func() error) {
	t.Helper()
	js := stream(t, b)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Work(ctx, js, "test", c, append([]WorkOption{WithWorkLogger(silent)}, opts...)...) }()
	end = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { assert.NoError(t, end()) })
	return end
}

// patient ends with the test, or after a minute.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A job's outcome is that of its call.
func TestJobs(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(2))
	js := stream(t, b)
	ctx := patient(t)
	early, err := Enqueue(ctx, js, "test", "add", args{"a": 40, "b": 2})
	require.NoError(t, err)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = early.Wait(short)
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrOperationTimeout).Delivery)
	work(t, b, p)

	res, err := early.Wait(ctx)
	require.NoError(t, err)
	require.JSONEq(t, "42", string(res.Raw()))
	require.NotEmpty(t, res.Worker())
	res, err = OpenJob(js, "test", early.ID()).Wait(ctx)
	require.NoError(t, err, "an outcome is kept")
	require.JSONEq(t, "42", string(res.Raw()))

	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	job, err := Enqueue(ctx, js, "test", "meta", nil, WithCallOptions(pypool.WithSession("ann"), pypool.WithTraceParent(trace)))
	require.NoError(t, err)
	res, err = job.Wait(ctx)
	require.NoError(t, err)
	var meta map[string]any
	require.NoError(t, res.Decode(&meta))
	require.Equal(t, []any{"ann", trace}, []any{meta["session"], meta["trace"]})
	job, err = EnqueueProgram(ctx, js, "test", "double", args{"x": 21})
	require.NoError(t, err)
	res, err = job.Wait(ctx)
	require.NoError(t, err)
	require.JSONEq(t, "42", string(res.Raw()))
	job, err = Enqueue(ctx, js, "test", "size", args{"data": []byte("\x00raw")})
	require.NoError(t, err)
	res, err = job.Wait(ctx)
	require.NoError(t, err)
	require.JSONEq(t, "4", string(res.Raw()))

	job, err = Enqueue(ctx, js, "test", "reverse", args{"data": []byte("raw")}, WithCallOptions(pypool.WithBlobs()))
	require.NoError(t, err)
	res, err = job.Wait(ctx)
	require.NoError(t, err)
	var back []byte
	require.NoError(t, res.Decode(&back))
	require.Equal(t, "war", string(back))

	for _, c := range []struct {
		command  string
		args     any
		sentinel error
		delivery pypool.Delivery
		opts     []pypool.CallOption
	}{
		{"fail", []any{"no"}, pypool.ErrPython, pypool.Executed, nil},
		{"add", args{"x": 1}, pypool.ErrInvalidArguments, pypool.NotExecuted, nil},
		{"nobody", nil, pypool.ErrUnknownCommand, pypool.NotExecuted, nil},
		{"crash", nil, pypool.ErrWorkerExited, pypool.MaybeExecuted, nil},
		{"sleep", []any{60}, pypool.ErrOperationTimeout, pypool.MaybeExecuted, []pypool.CallOption{pypool.WithTimeout(100 * time.Millisecond)}},
		{"big", []any{2 << 20}, pypool.ErrMessageTooLarge, pypool.Executed, nil},
	} {
		job, err := Enqueue(ctx, js, "test", c.command, c.args, WithCallOptions(c.opts...))
		require.NoError(t, err)
		_, err = job.Wait(ctx)
		e := failure(t, err, c.sentinel)
		require.Equal(t, c.delivery, e.Delivery, c.command)
		require.Equal(t, c.command, e.Context.Command)
		if c.command == "fail" {
			require.Contains(t, detail[*pypool.PythonError](t, err).Traceback, "raise ValueError(message)")
		}
	}
	info, err := js.Stream(ctx, jobStream("test"))
	require.NoError(t, err)
	eventually(t, "all are acknowledged", func() bool {
		state, err := info.Info(ctx)
		return err == nil && state.State.Msgs == 0
	})
	accounted(t, p)
}

func TestJobsThatAreRefused(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	js := stream(t, b)
	ctx := patient(t)
	for name, enqueue := range map[string]func() (*Job, error){
		"the name":      func() (*Job, error) { return Enqueue(ctx, js, "a.b", "add", nil) },
		"no command":    func() (*Job, error) { return Enqueue(ctx, js, "test", "", nil) },
		"no program":    func() (*Job, error) { return EnqueueProgram(ctx, js, "test", "", nil) },
		"the arguments": func() (*Job, error) { return Enqueue(ctx, js, "test", "add", 7) },
		"the id":        func() (*Job, error) { return Enqueue(ctx, js, "test", "add", nil, WithJobID("a.b")) },
		"an empty id":   func() (*Job, error) { return Enqueue(ctx, js, "test", "add", nil, WithJobID("")) },
		"the attempts":  func() (*Job, error) { return Enqueue(ctx, js, "test", "add", nil, WithAttempts(0)) },
		"the session": func() (*Job, error) {
			return Enqueue(ctx, js, "test", "add", nil, WithCallOptions(pypool.WithSession("\n")))
		},
	} {
		_, err := enqueue()
		require.Equal(t, pypool.NotExecuted, failure(t, err, pypool.ErrInvalidArguments).Delivery, name)
	}
	_, err := Enqueue(ctx, js, "test", "size", args{"data": make([]byte, 1<<20)})
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrMessageTooLarge)))
	none := newBroker(t, func(o *server.Options) { o.JetStream = false })
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = Enqueue(short, stream(t, none), "test", "add", nil)
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)))
	require.Error(t, Work(short, stream(t, none), "test", newPool(t, config(1))))
	require.Error(t, Work(ctx, js, "a.b", newPool(t, config(1))))
	require.Error(t, Work(ctx, js, "test", nil))
	require.Error(t, CreateJobs(ctx, js, "", JobStore{}))
	require.NoError(t, CreateJobs(ctx, js, "test", JobStore{}))
	kv, err := js.KeyValue(ctx, jobBucket("test"))
	require.NoError(t, err)
	_, err = kv.Put(ctx, "another", (&jobState{State: stateDone, payload: []byte("42")}).encode())
	require.NoError(t, err)
	for _, id := range []string{"", "*", ">", "a.b", strings.Repeat("x", maxName+1)} {
		_, err = OpenJob(js, "test", id).Wait(ctx)
		require.Equal(t, pypool.NotExecuted, failure(t, err, pypool.ErrInvalidArguments).Delivery, id)
	}
}

// A job whose outcome is forgotten may be enqueued again under its id, and runs.
func TestAJobsIDIsFreeWhenItsOutcomeIsForgotten(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	js := stream(t, b)
	ctx := patient(t)
	for _, store := range []JobStore{{Keep: time.Second, MaxAge: 500 * time.Millisecond}, {Keep: time.Second}} {
		require.NoError(t, CreateJobs(ctx, js, "test", store))
	}
	work(t, b, newPool(t, config(1)))
	for range 2 {
		job, err := Enqueue(ctx, js, "test", "add", []any{1}, WithJobID("again"))
		require.NoError(t, err)
		_, err = job.Wait(ctx)
		require.NoError(t, err)
		kv, err := js.KeyValue(ctx, jobBucket("test"))
		require.NoError(t, err)
		eventually(t, "it is forgotten", func() bool {
			_, err := kv.Get(ctx, "again")
			return errors.Is(err, jetstream.ErrKeyNotFound)
		})
	}
}

// A job that is enqueued twice is one.
func TestAJobsIDIsOneJob(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	cfg := config(2)
	path := t.TempDir() + "/journal"
	cfg.ExtraEnv = []string{"JOURNAL=" + path}
	p := newPool(t, cfg)
	js := stream(t, b)
	ctx := patient(t)
	require.NoError(t, CreateJobs(ctx, js, "test", JobStore{Keep: time.Hour, MaxAge: time.Hour}))
	forget := func() { // JetStream does, of duplicates, after two minutes
		s, err := js.Stream(ctx, jobStream("test"))
		require.NoError(t, err)
		cfg := s.CachedInfo().Config
		cfg.Duplicates = 100 * time.Millisecond
		_, err = js.UpdateStream(ctx, cfg)
		require.NoError(t, err)
		time.Sleep(200 * time.Millisecond)
	}
	enqueue := func() *Job {
		job, err := Enqueue(ctx, js, "test", "journal", []any{"one", 0.3}, WithJobID("job-1"))
		require.NoError(t, err)
		return job
	}
	enqueue()
	job := enqueue()
	forget()
	enqueue() // two messages now: they are worked on at the same time
	work(t, b, p)
	_, err := job.Wait(ctx)
	require.NoError(t, err)
	forget()
	_, err = enqueue().Wait(ctx)
	require.NoError(t, err)
	info, err := js.Stream(ctx, jobStream("test"))
	require.NoError(t, err)
	eventually(t, "all are acknowledged", func() bool {
		state, err := info.Info(ctx)
		return err == nil && state.State.Msgs == 0
	})
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "one\n", string(text))
}

// A job that did not run is delivered again.
func TestAJobThatDidNotRun(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	closed := newPool(t, config(1))
	require.NoError(t, closed.Close())
	js := stream(t, b)
	job, err := Enqueue(patient(t), js, "test", "add", []any{1})
	require.NoError(t, err)
	refused := make(chan struct{}, 100)
	end := work(t, b, callerFunc{closed, func(context.Context) { refused <- struct{}{} }})
	<-refused
	require.NoError(t, end())
	work(t, b, newPool(t, config(1)))
	res, err := job.Wait(patient(t))
	require.NoError(t, err)
	require.JSONEq(t, "2", string(res.Raw()))
}

// What runs at the end of Work's context may end by itself, until WithGrace is over.
func TestWorkEnds(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	js := stream(t, b)
	for _, grace := range []time.Duration{time.Minute, 50 * time.Millisecond} {
		end := work(t, b, p, WithGrace(grace))
		g := newGate(t)
		job, err := Enqueue(patient(t), js, "test", "hold", g.args())
		require.NoError(t, err)
		g.awaitBegun(t)
		ended := make(chan error)
		go func() { ended <- end() }()
		if grace == time.Minute {
			g.open(t)
			require.NoError(t, <-ended)
			_, err = job.Wait(patient(t))
			require.NoError(t, err)
			continue
		}
		require.NoError(t, <-ended)
		_, err = job.Wait(patient(t))
		require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
		require.ErrorContains(t, err, "shut down")
		eventually(t, "the handler was stopped", func() bool { return exists(g.mark + ".left") })
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, Work(over, js, "test", p))
}

// Messages that are no jobs, and jobs of another version, hold nobody up.
func TestStrangeJobs(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	js := stream(t, b)
	ctx := patient(t)
	require.NoError(t, CreateJobs(ctx, js, "test", JobStore{}))
	for _, h := range []nats.Header{
		nil, {nats.MsgIdHdr: {"a.b"}}, {nats.MsgIdHdr: {"x"}, headerControl: {"{"}}, {nats.MsgIdHdr: {"y"}, headerControl: {"{}"}, headerVersion: {"7.0"}},
	} {
		_, err := js.PublishMsg(ctx, &nats.Msg{Subject: "pypool.test.jobs.add", Header: h, Data: []byte("[1]")})
		require.NoError(t, err)
	}
	job, err := Enqueue(ctx, js, "test", "add", []any{1})
	require.NoError(t, err)
	work(t, b, newPool(t, config(1)))
	_, err = job.Wait(ctx)
	require.NoError(t, err)
	kv, err := js.KeyValue(ctx, jobBucket("test"))
	require.NoError(t, err)
	_, err = kv.Put(ctx, "odd", []byte("{"))
	require.NoError(t, err)
	_, err = OpenJob(js, "test", "odd").Wait(ctx)
	require.ErrorIs(t, err, pypool.ErrProtocol)
}

// Worker processes are killed in the midst of jobs: a job that may have run says so, or runs again
// where that is allowed; each has one outcome, and it is true.
func TestWorkersAreKilledInTheMidstOfJobs(t *testing.T) {
	t.Parallel()
	c := &cluster{b: newBroker(t), journal: t.TempDir() + "/journal", servers: map[string]*child{}}
	begin := func(name string) *child {
		w := newChild(t, "worker", serverInput{c.b.url(), name, c.journal, 2})
		c.servers[name] = w
		return w
	}
	begin("w1")
	begin("w2")
	js := stream(t, c.b)
	ctx := patient(t)
	const each = 60
	jobs := map[string]*Job{}
	for i := range each {
		for kind, attempts := range map[string]int{"once": 1, "again": 5} {
			id := fmt.Sprintf("%s-%d", kind, i)
			job, err := Enqueue(ctx, js, "test", "journal", []any{id, 0.02}, WithJobID(id), WithAttempts(attempts))
			require.NoError(t, err)
			jobs[id] = job
		}
	}
	eventually(t, "some have run", func() bool { return len(c.ranSafe()) > 20 })
	require.NoError(t, c.servers["w1"].cmd.Process.Signal(syscall.SIGKILL))
	begin("w3")
	eventually(t, "more have run", func() bool { return len(c.ranSafe()) > 60 })
	require.NoError(t, c.servers["w2"].cmd.Process.Signal(syscall.SIGTERM))
	c.servers["w2"].await(t, "gone")
	kinds := map[string]int{}
	for id, job := range jobs {
		_, err := job.Wait(ctx)
		times := c.ran(t)[id]
		var e *pypool.Error
		switch {
		case err == nil:
			kinds["ok"]++
			if strings.HasPrefix(id, "once") {
				assert.Equal(t, 1, times, id)
			} else {
				assert.GreaterOrEqual(t, times, 1, id)
			}
		case errors.As(err, &e) && e.Delivery == pypool.MaybeExecuted:
			kinds["MaybeExecuted"]++
			assert.True(t, strings.HasPrefix(id, "once"), "%s: %v", id, err)
			assert.LessOrEqual(t, times, 1, id)
			assert.Contains(t, err.Error(), "the worker that had begun the job was lost")
		default:
			t.Errorf("%s: %v", id, err)
		}
	}
	t.Log(kinds)
	assert.Greater(t, kinds["ok"], 2*each-8)
	c.servers["w3"].await(t, "ready")
	require.NoError(t, c.servers["w3"].cmd.Process.Signal(syscall.SIGTERM))
	c.servers["w3"].await(t, "gone")
}

func TestAJobsStateIsReadable(t *testing.T) {
	t.Parallel()
	state := jobState{State: stateDone, Worker: "w", Ran: time.Second, payload: []byte("{\"a\":\n1}")}
	got, err := readJobState(state.encode())
	require.NoError(t, err)
	require.Equal(t, state, got)
	_, err = readJobState(nil)
	require.Error(t, err)
	encoded, err := json.Marshal(state)
	require.NoError(t, err)
	require.JSONEq(t, `{"state":"done","worker":"w","ran_ns":1000000000}`, string(encoded))
}

// turns is a Caller whose calls end as one after the other says.
type turns struct {
	pypool.Caller
	next func(n int64) error
	n    atomic.Int64
}

func (c *turns) ExecuteAnonymous(context.Context, string, any, ...pypool.CallOption) (pypool.Result, error) {
	return pypool.DecodeResult([]byte("1"), pypool.ResultInfo{}), c.next(c.n.Add(1))
}

// What did not run is no attempt, and takes none back that may have run.
func TestAttemptsAreCountedThatMayHaveRun(t *testing.T) {
	t.Parallel()
	died := pypool.NewError(pypool.TypeWorkerExited, pypool.MaybeExecuted, "it died", nil)
	full := pypool.NewError(pypool.TypeQueueFull, pypool.NotExecuted, "it is full", nil)
	refused := pypool.NewError(pypool.TypeUnknownCommand, pypool.NotExecuted, "it is gone", nil)
	for name, tc := range map[string]struct {
		ends []error
		last error
	}{
		"attempts":  {[]error{died, full, died}, pypool.ErrWorkerExited},
		"a refusal": {[]error{died, refused}, pypool.ErrUnknownCommand},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			c := &turns{next: func(n int64) error {
				if int(n) > len(tc.ends) {
					return nil
				}
				return tc.ends[n-1]
			}}
			job, err := Enqueue(patient(t), stream(t, b), "test", "f", nil, WithAttempts(2))
			require.NoError(t, err)
			end := work(t, b, c)
			_, err = job.Wait(patient(t))
			require.Equal(t, pypool.MaybeExecuted, failure(t, err, tc.last).Delivery)
			require.NoError(t, end())
			require.EqualValues(t, len(tc.ends), c.n.Load())
			require.Equal(t, pypool.NotExecuted, refused.Delivery, "others have it, too")
		})
	}
}

// begunJob is a job that w has taken, and has begun.
func begunJob(t *testing.T, w *jobWorker, command string, opts ...JobOption) (jetstream.Msg, *begun) {
	t.Helper()
	ctx := patient(t)
	job, err := Enqueue(ctx, w.js, "test", command, nil, opts...)
	require.NoError(t, err)
	require.NoError(t, w.open(ctx))
	_, consumer := w.source()
	m, err := consumer.Next(jetstream.FetchMaxWait(20 * time.Second))
	require.NoError(t, err)
	meta, err := m.Metadata()
	require.NoError(t, err)
	ctl, err := readControl(m.Headers())
	require.NoError(t, err)
	b, over, err := w.begin(ctx, job.id, meta, &ctl)
	require.NoError(t, err)
	require.False(t, over)
	return m, b
}

// A worker that was taken for lost, and is back, says nothing of a job that another one runs: it
// would be gone with that one.
func TestAWorkerThatWasTakenForLostEndsNoJob(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	w := &jobWorker{o: workOptions{ackWait: time.Minute, logger: silent}, js: stream(t, b), name: "test"}
	ctx := patient(t)
	naks, err := w.js.Conn().SubscribeSync("$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.>")
	require.NoError(t, err)
	for name, failed := range map[string]*pypool.Error{
		"done":        nil,
		"made again":  pypool.NewError(pypool.TypeWorkerExited, pypool.MaybeExecuted, "it died", nil),
		"has not run": pypool.NewError(pypool.TypeQueueFull, pypool.NotExecuted, "it is full", nil),
	} {
		m, mine := begunJob(t, w, "f", WithAttempts(3))
		kv, _ := w.source()
		theirs := &jobState{State: stateBegun, By: "other", Attempt: 2, Message: mine.Message}
		revision, err := kv.Update(ctx, mine.id, theirs.encode(), mine.revision)
		require.NoError(t, err)
		before, err := kv.Get(ctx, mine.id)
		require.NoError(t, err)
		w.end(ctx, m, mine, &control{Attempts: 3}, pypool.Result{}, failed)
		after, err := kv.Get(ctx, mine.id)
		require.NoError(t, err)
		require.Equal(t, before.Revision(), after.Revision(), name)
		_, consumer := w.source()
		info, err := consumer.Info(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, info.NumAckPending, "%s: it is the other's", name)

		done := &jobState{State: stateDone, By: "other", Attempt: 2, Message: mine.Message, payload: []byte("1")}
		_, err = kv.Update(ctx, mine.id, done.encode(), revision)
		require.NoError(t, err)
		require.True(t, w.finish(ctx, mine, &jobState{State: stateDone}), "it has its outcome")
		w.ack(ctx, m)
		require.NoError(t, w.js.Conn().Flush())
		if m, err := naks.NextMsg(100 * time.Millisecond); err == nil {
			t.Errorf("%s: it is asked to be delivered while the other has it: %s", name, m.Data)
		}
	}
}

// A worker that was taken for lost before it had begun a job, and is back, neither runs it beside
// the one that has it now nor ends it.
func TestALateDeliveryIsLeftToTheWorkerThatHasTheJob(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	w := &jobWorker{o: workOptions{ackWait: time.Second, logger: silent}, js: stream(t, b), name: "test", pool: &turns{next: func(int64) error {
		t.Error("it ran")
		return nil
	}}}
	ctx := patient(t)
	require.NoError(t, w.open(ctx))
	kv, consumer := w.source()
	words, err := w.js.Conn().SubscribeSync("$JS.ACK.>")
	require.NoError(t, err)
	for _, attempts := range []int{1, 5} {
		job, err := Enqueue(ctx, w.js, "test", "f", nil, WithAttempts(attempts))
		require.NoError(t, err)
		next := func() (jetstream.Msg, *jetstream.MsgMetadata) {
			m, err := consumer.Next(jetstream.FetchMaxWait(20 * time.Second))
			require.NoError(t, err)
			meta, err := m.Metadata()
			require.NoError(t, err)
			return m, meta
		}
		late, first := next() // whose worker stands still
		m, second := next()
		require.Equal(t, first.Sequence.Stream, second.Sequence.Stream)
		require.Greater(t, second.NumDelivered, first.NumDelivered)
		stop := w.keepAlive(m)
		theirs, over, err := w.begin(ctx, job.id, second, &control{Attempts: attempts})
		require.NoError(t, err)
		require.False(t, over)
		w.job(ctx, late)
		entry, err := kv.Get(ctx, job.id)
		require.NoError(t, err)
		require.Equal(t, theirs.revision, entry.Revision(), "the entry is the other's")
		stop()
		require.NoError(t, w.js.Conn().Flush())
		for {
			said, err := words.NextMsg(10 * time.Millisecond)
			if err != nil {
				break
			}
			require.Equal(t, "+WPI", string(said.Data))
		}
		w.end(ctx, m, theirs, &control{Attempts: attempts}, pypool.DecodeResult([]byte("1"), pypool.ResultInfo{}), nil)
		_, err = job.Wait(ctx)
		require.NoError(t, err)
		for { // the other's acknowledgment
			if said, err := words.NextMsg(time.Second); err == nil && string(said.Data) == "+ACK" {
				break
			} else {
				require.NoError(t, err)
			}
		}
	}
}

// A job whose message has grown too old while it ran is delivered to nobody again: who comes with
// its id again finds that its worker is lost, and is not dropped as one that runs already.
func TestAJobThatIsTooOldWhileItRuns(t *testing.T) {
	t.Parallel()
	for attempts, name := range map[int]string{1: "once", 2: "again"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			js := stream(t, b)
			ctx := patient(t)
			require.NoError(t, CreateJobs(ctx, js, "test", JobStore{MaxAge: time.Second}))
			w := &jobWorker{o: workOptions{ackWait: time.Second, logger: silent}, js: js, name: "test"}
			m, lost := begunJob(t, w, "f", WithJobID("one"), WithAttempts(attempts)) // its worker ends here, or is cut off
			jobs, err := js.Stream(ctx, jobStream("test"))
			require.NoError(t, err)
			messages := func() uint64 {
				info, err := jobs.Info(ctx)
				require.NoError(t, err)
				return info.State.Msgs
			}
			eventually(t, "it is too old", func() bool { return messages() == 0 })
			var job *Job
			eventually(t, "it is enqueued again", func() bool { // JetStream knows the id for as long
				job, err = Enqueue(ctx, js, "test", "f", nil, WithJobID("one"), WithAttempts(attempts))
				require.NoError(t, err)
				return messages() == 1
			})
			c := &turns{next: func(int64) error { return nil }}
			end := work(t, b, c)
			_, err = job.Wait(ctx)
			if attempts == 1 {
				require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
				require.ErrorContains(t, err, "the worker that had begun the job was lost")
			} else {
				require.NoError(t, err)
			}
			require.NoError(t, end())
			require.EqualValues(t, attempts-1, c.n.Load())
			require.Zero(t, messages())
			kv, err := js.KeyValue(ctx, jobBucket("test"))
			require.NoError(t, err)
			before, err := kv.Get(ctx, "one")
			require.NoError(t, err)
			w.end(ctx, m, lost, &control{Attempts: attempts}, pypool.Result{}, nil)
			after, err := kv.Get(ctx, "one")
			require.NoError(t, err)
			require.Equal(t, before.Revision(), after.Revision(), "a job has one outcome")
		})
	}
}

// What somebody has made for the jobs stays as it was made.
func TestWhatCreateJobsHasSetStays(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	js := stream(t, b)
	ctx := patient(t)
	require.NoError(t, CreateJobs(ctx, js, "test", JobStore{MaxAge: time.Hour}))
	age := func() time.Duration {
		t.Helper()
		jobs, err := js.Stream(ctx, jobStream("test"))
		require.NoError(t, err)
		return jobs.CachedInfo().Config.MaxAge
	}
	require.NoError(t, js.DeleteKeyValue(ctx, jobBucket("test")))
	end := work(t, b, &turns{next: func(int64) error { return nil }})
	eventually(t, "the bucket is made", func() bool {
		_, err := js.KeyValue(ctx, jobBucket("test"))
		return err == nil
	})
	job, err := Enqueue(ctx, js, "test", "f", nil)
	require.NoError(t, err)
	_, err = job.Wait(ctx)
	require.NoError(t, err)
	require.NoError(t, end())
	require.Equal(t, time.Hour, age())

	jobs, err := js.Stream(ctx, jobStream("test"))
	require.NoError(t, err)
	config := jobs.CachedInfo().Config
	config.Subjects = []string{"elsewhere"}
	_, err = js.UpdateStream(ctx, config)
	require.NoError(t, err)
	_, err = Enqueue(ctx, js, "test", "f", nil)
	require.Equal(t, pypool.NotExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
	require.Equal(t, time.Hour, age())
	require.NoError(t, CreateJobs(ctx, js, "test", JobStore{MaxAge: time.Minute}))
	require.Equal(t, time.Minute, age(), "who says how changes it")
}

// A worker that comes with a shorter WithAckWait has nobody's jobs counted as lost.
func TestAShorterAckWaitLosesNoJobOfOthers(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	js := stream(t, b)
	g := newGate(t)
	job, err := Enqueue(patient(t), js, "test", "hold", g.args())
	require.NoError(t, err)
	work(t, b, newPool(t, config(1)), WithAckWait(time.Minute))
	g.awaitBegun(t)
	const short = 2 * time.Second
	work(t, b, &turns{next: func(int64) error { return nil }}, WithAckWait(short))
	eventually(t, "the second one is there", func() bool {
		consumer, err := js.Consumer(patient(t), jobStream("test"), "pypool")
		return err == nil && consumer.CachedInfo().Config.AckWait == short
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*short)
	defer cancel()
	_, err = job.Wait(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded, "it runs still")
	g.open(t)
	_, err = job.Wait(patient(t))
	require.NoError(t, err)
}

// What never left this program has not run, and is no message's size.
func TestAConnectionThatHasNotBeenThereYet(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close()) // nobody listens there now
	nc, err := nats.Connect("nats://"+l.Addr().String(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = Enqueue(patient(t), js, "test", "f", args{"a": 1})
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)))
	c := NewClient(nc, "test")
	_, err = c.ExecuteAnonymous(patient(t), "f", args{"a": 1})
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)))
	for _, err := range c.Stream(patient(t), "f", args{"a": 1}) {
		require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)))
	}
	require.NoError(t, c.Close())
}

// A job that was sent before the connection was closed may be there.
func TestAConnectionThatIsClosedInTheMidstOfAnEnqueue(t *testing.T) {
	t.Parallel()
	b := newBroker(t, func(o *server.Options) { o.JetStream = false })
	nc := b.connect(t)
	got := make(chan struct{})
	taker := b.connect(t)
	_, err := taker.Subscribe("pypool.test.jobs.f", func(*nats.Msg) { close(got) }) // stored, and not answered
	require.NoError(t, err)
	require.NoError(t, taker.Flush())
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	go func() {
		<-got
		nc.Close()
	}()
	_, err = Enqueue(patient(t), js, "test", "f", nil)
	require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrPoolClosed).Delivery)
	require.ErrorIs(t, err, nats.ErrConnectionClosed)
	_, err = Enqueue(patient(t), js, "test", "f", nil)
	require.True(t, pypool.SafeToRetry(failure(t, err, pypool.ErrPoolClosed)), "nothing was sent")
}

// JetStream has 512 who wait for a job of a name's: those beyond them wait for their turn, in silence, and no job for them.
func TestMoreSlotsThanMayWaitForJobs(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	js := stream(t, b)
	ctx := patient(t)
	require.NoError(t, CreateJobs(ctx, js, "test", JobStore{}))
	count := func(subject string) *atomic.Int64 {
		n := &atomic.Int64{}
		nc := b.connect(t)
		_, err := nc.Subscribe(subject, func(*nats.Msg) { n.Add(1) })
		require.NoError(t, err)
		require.NoError(t, nc.Flush())
		return n
	}
	asked, made := count("$JS.API.CONSUMER.MSG.NEXT."+jobStream("test")+".>"), count("$JS.API.CONSUMER.CREATE."+jobStream("test")+".>")
	const waiting, beyond = 512, 8
	var out lines
	release, running := make(chan struct{}), &atomic.Int64{}
	c := &turns{next: func(int64) error {
		running.Add(1)
		defer running.Add(-1)
		<-release
		return nil
	}}
	end := work(t, b, c, WithConcurrency(waiting+beyond), WithWorkLogger(slog.New(slog.NewTextHandler(&out, nil))))
	eventually(t, "those beyond have asked again", func() bool { return asked.Load() >= waiting+3*beyond })
	require.Empty(t, out.String())
	require.EqualValues(t, 1, made.Load(), "the consumer is made once")
	for range waiting + beyond {
		_, err := Enqueue(ctx, js, "test", "f", nil)
		require.NoError(t, err)
	}
	eventually(t, "a job runs in each", func() bool { return running.Load() == waiting+beyond })
	close(release)
	eventually(t, "they are over", func() bool { return running.Load() == 0 })
	require.NoError(t, end())
	require.Empty(t, out.String())
	require.EqualValues(t, waiting+beyond, c.n.Load())
}
