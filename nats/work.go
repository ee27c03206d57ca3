package pypoolnats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/foreign"
)

// WorkOption is an option of [Work].
type WorkOption func(*workOptions)

type workOptions struct {
	concurrency int
	grace       time.Duration
	ackWait     time.Duration
	logger      *slog.Logger
}

// WithConcurrency sets how many jobs run at the same time. Default: the Size of a [*pypool.Pool],
// or 1.
func WithConcurrency(n int) WorkOption { return func(o *workOptions) { o.concurrency = n } }

// WithGrace sets how long the jobs that run may go on after the end of Work's context; then they
// are stopped. Default: 30 s.
func WithGrace(d time.Duration) WorkOption { return func(o *workOptions) { o.grace = d } }

// WithAckWait sets after how long without a word of it a worker is taken for lost, and its jobs go
// to others. It is the same for all of a name's workers: the last that came sets it, also for what
// runs at the others. A running job is told of four times a second. Default: 30 s; at least 1 s.
func WithAckWait(d time.Duration) WorkOption { return func(o *workOptions) { o.ackWait = d } }

// WithWorkLogger sets who takes the log. Default: slog.Default().
func WithWorkLogger(l *slog.Logger) WorkOption { return func(o *workOptions) { o.logger = l } }

// Work runs the jobs of a name on pool until ctx ends, and returns when none runs any more: at the
// latest, WithGrace after that and when what was stopped has stopped. Any number of processes work
// side by side. The error is nil then; one at the beginning says why there are no jobs to be had.
//
// A job is acknowledged when its outcome is stored. It is delivered again, with pauses of 1 s to 1
// min, when it did not run: its worker was lost before, its pool was shut down, full, or could not
// start workers. A job that may have run, because its worker was lost in the midst of it, has a
// MaybeExecuted as its outcome; with [WithAttempts] it is run again instead. What the call itself
// comes to is the outcome: its result, an exception, bad arguments, a timeout.
func Work(ctx context.Context, js jetstream.JetStream, name string, pool pypool.Caller, opts ...WorkOption) error {
	ctx = foreign.Context(ctx)
	o := workOptions{grace: 30 * time.Second, ackWait: 30 * time.Second}
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	if err := checkName(name); err != nil {
		return fmt.Errorf("pypoolnats: %w", err)
	}
	o.logger = foreign.Logger(o.logger)
	switch {
	case js == nil:
		return errNoJetStream
	case isNone(pool):
		return errors.New("pypoolnats: there is no pool")
	}
	if o.concurrency <= 0 {
		o.concurrency = 1
		if p, ok := pool.(interface{ Stats() pypool.Stats }); ok {
			o.concurrency = max(p.Stats().Size, 1)
		}
	}
	o.ackWait = max(o.ackWait, minAckWait)
	w := &jobWorker{o: o, js: js, name: name, pool: pool, place: make(chan struct{})}
	if err := w.open(ctx); err != nil {
		return fmt.Errorf("pypoolnats: %w", err)
	}
	running, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	var group sync.WaitGroup
	for range o.concurrency {
		group.Go(func() { w.run(ctx, running) })
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		group.Wait()
	}()
	select {
	case <-over: // ctx has ended, and nothing ran
		return nil
	case <-ctx.Done():
	}
	timer := time.NewTimer(o.grace)
	defer timer.Stop()
	select {
	case <-over:
	case <-timer.C:
		cancel(errShutDown)
		<-over
	}
	return nil
}

// jobWorker is one Work.
type jobWorker struct {
	o    workOptions
	js   jetstream.JetStream
	name string
	pool pypool.Caller

	place chan struct{} // has a token as one who has waited for a job gets it: another may wait in its place

	mu       sync.Mutex // guards the fields below
	kv       jetstream.KeyValue
	consumer jetstream.Consumer
}

// open makes, or finds, what the jobs are in.
func (w *jobWorker) open(ctx context.Context) error {
	kv, err := outcomes(ctx, w.js, w.name)
	if err != nil {
		return fmt.Errorf("the bucket of the jobs' outcomes: %w", err)
	}
	consumer, err := w.js.CreateOrUpdateConsumer(ctx, jobStream(w.name), jetstream.ConsumerConfig{
		Durable: "pypool", AckPolicy: jetstream.AckExplicitPolicy, AckWait: w.o.ackWait, MaxDeliver: -1, MaxAckPending: -1,
	})
	if err != nil {
		return fmt.Errorf("the consumer of the jobs: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kv, w.consumer = kv, consumer
	return nil
}

func (w *jobWorker) source() (jetstream.KeyValue, jetstream.Consumer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kv, w.consumer
}

const fetchWait = 5 * time.Second // for a job, before it is asked for again

// tooMany reports whether JetStream has as many who wait for a job as a consumer may have: 512, of
// all workers together. nats.go has no type for it.
func tooMany(err error) bool {
	return err != nil && strings.Contains(err.Error(), "Exceeded MaxWaiting")
}

// run takes one job after the other. One that is taken is never left in a queue of ours: its time
// would run out there.
func (w *jobWorker) run(ctx, running context.Context) {
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		_, consumer := w.source()
		fetch, cancel := context.WithTimeout(ctx, fetchWait)
		batch, err := consumer.Fetch(1, jetstream.FetchContext(fetch))
		if err == nil {
			for m := range batch.Messages() {
				pause = 100 * time.Millisecond
				select {
				case w.place <- struct{}{}:
				default:
				}
				w.job(running, m)
			}
			err = batch.Error()
		}
		cancel()
		if err == nil || ctx.Err() != nil || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
			continue
		}
		if tooMany(err) { // enough others wait already
			sleepUnless(ctx, w.place, pause)
		} else {
			w.o.logger.Warn("no jobs can be had of JetStream", "service", w.name, "error", err)
			sleep(ctx, pause)
			if err := w.open(ctx); err != nil {
				w.o.logger.Debug("the jobs cannot be opened again", "service", w.name, "error", err)
			}
		}
		pause = min(2*pause, fetchWait)
	}
}

func sleep(ctx context.Context, d time.Duration) { sleepUnless(ctx, nil, d) }

// sleepUnless sleeps until something comes.
func sleepUnless(ctx context.Context, comes <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-comes:
	case <-ctx.Done():
	}
}

// A running job's entry in the bucket, as its worker knows it.
type begun struct {
	jobState
	id       string
	revision uint64
}

// job takes one delivery of a job to its end.
func (w *jobWorker) job(ctx context.Context, m jetstream.Msg) {
	header := m.Headers()
	id := header.Get(nats.MsgIdHdr)
	ctl, err := readControl(header)
	meta, bad := m.Metadata()
	if bad != nil || !validJobID(id) {
		w.o.logger.Warn("a message in the jobs' stream is no job", "service", w.name, "subject", m.Subject())
		_ = m.TermWithReason("it is no pypool job")
		return
	}
	if err != nil { // of a version that another worker may speak
		w.o.logger.Warn("a job cannot be read", "service", w.name, "job", id, "error", err)
		_ = m.NakWithDelay(time.Minute)
		return
	}
	stop := w.keepAlive(m)
	defer stop()
	b, over, err := w.begin(ctx, id, meta, &ctl)
	switch {
	case errors.Is(err, errStale): // JetStream would take a word of it for one of the other's
		w.o.logger.Info("a job came late: it was given to another worker meanwhile", "service", w.name, "job", id)
		return
	case err != nil: // nothing has run; the bucket cannot be asked
		w.o.logger.Warn("a job cannot begin", "service", w.name, "job", id, "error", err)
		_ = m.NakWithDelay(again(m))
		return
	case over: // it has its outcome, from now or from before
		w.ack(ctx, m)
		return
	}
	res, failed := pypool.Result{}, ctl.calls(m.Subject())
	if failed == nil {
		res, failed = w.call(ctx, &ctl, header, m.Data())
	}
	w.end(ctx, m, b, &ctl, res, failed)
}

// end is the end of a delivery whose call has ended so. JetStream takes a word of any worker that
// had the message; so one that was taken for lost meanwhile says none while another has the job.
func (w *jobWorker) end(ctx context.Context, m jetstream.Msg, b *begun, ctl *control, res pypool.Result, failed *pypool.Error) {
	if failed == nil || !repeatable(failed, ctl, b.Attempt) {
		if failed != nil && b.Attempt > 1 {
			failed = mayHaveRun(failed)
		}
		if w.finish(ctx, b, w.outcome(ctl, res, failed)) {
			w.ack(ctx, m)
		}
		return
	}
	w.o.logger.Info("a job is made again", "service", w.name, "job", b.id, "attempt", b.Attempt, "delivery", failed.Delivery.String(), "error", failed)
	mine := w.has
	if failed.Delivery == pypool.NotExecuted {
		mine = w.unbegin
	}
	if mine(ctx, b) {
		_ = m.NakWithDelay(again(m)) // if that is lost, it comes after WithAckWait
	}
}

// again is the pause before the next delivery.
func again(m jetstream.Msg) time.Duration {
	delivered := uint64(1)
	if meta, err := m.Metadata(); err == nil {
		delivered = max(meta.NumDelivered, 1)
	}
	return min(time.Second<<min(delivered-1, 6), time.Minute)
}

// repeatable reports whether a job that ended so is delivered again.
func repeatable(err *pypool.Error, ctl *control, attempt int) bool {
	switch {
	case err.Delivery == pypool.NotExecuted:
		switch err.Type {
		case pypool.TypeInvalidArguments, pypool.TypeUnknownCommand, pypool.TypeMessageTooLarge:
			return false // they would be so again
		}
		return true
	case err.Delivery == pypool.MaybeExecuted:
		return attempt < ctl.Attempts
	}
	return false
}

// minAckWait is the least that a worker may set for all, and at any moment: what has been told of a
// job less often would be lost then. So each tells as often as the least one wants.
const minAckWait = time.Second

// keepAlive tells JetStream that the job is being worked on, until stop, which joins it.
func (w *jobWorker) keepAlive(m jetstream.Msg) (stop func()) {
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		tick := time.NewTicker(minAckWait / 4)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = m.InProgress() // else the connection is interrupted, and the next one may tell
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-over
	}
}

const storeTimeout = 5 * time.Second // of one question to the bucket

// errStale says that the job was begun for a later delivery of the message: whoever has this one was
// taken for lost before he began, and the other runs it perhaps.
var errStale = errors.New("the job was begun for a later delivery")

// begin writes that the job begins, of which that delivery came. over: nothing is to be done for the
// message any more. A job that was begun for it before, has no outcome and must not run again is
// given one.
func (w *jobWorker) begin(ctx context.Context, id string, meta *jetstream.MsgMetadata, ctl *control) (b *begun, over bool, err error) {
	b = &begun{jobState: jobState{State: stateBegun, By: nuid.Next(), Message: meta.Sequence.Stream, Delivery: meta.NumDelivered}, id: id}
	for range 10 { // others may come between
		entry, state, err := w.look(ctx, id)
		if err != nil {
			return nil, false, err
		}
		b.Attempt, b.revision = 1, 0
		if entry != nil {
			if over, err := w.taken(ctx, b, &state); err != nil || over {
				return nil, over, err
			}
			b.Attempt, b.revision = state.Attempt+1, entry.Revision()
			if b.Attempt > ctl.Attempts {
				b.Attempt = state.Attempt
				lost := unavailable(pypool.MaybeExecuted, "the worker that had begun the job was lost", nil)
				if w.finish(ctx, b, w.outcome(ctl, pypool.Result{}, lost)) {
					return nil, true, nil
				}
				return nil, false, errors.New("its outcome cannot be stored")
			}
		}
		stored, err := w.put(ctx, b, &b.jobState)
		if err != nil || stored {
			return b, false, err
		}
	}
	return nil, false, errors.New("others are at it")
}

// taken looks at the entry that b finds. over: the job has its outcome, or has it to come; errStale:
// from another delivery. Else who wrote it is lost, or says that it did not run.
func (w *jobWorker) taken(ctx context.Context, b *begun, state *jobState) (over bool, err error) {
	switch {
	case state.State != stateBegun:
		return true, nil
	case state.Message != b.Message: // it was enqueued twice, and runs for the other, whose message comes again if it is lost
		return w.waits(ctx, b.id, state.Message)
	case state.Delivery >= b.Delivery:
		return false, errStale
	}
	return false, nil
}

// waits reports whether that message of the job's is in the stream still. It is not, though the job
// has no outcome, when JobStore.MaxAge has passed while it ran: nobody has it delivered again.
func (w *jobWorker) waits(ctx context.Context, id string, message uint64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	jobs, err := w.js.Stream(ctx, jobStream(w.name))
	if err != nil {
		return false, err
	}
	m, err := jobs.GetMsg(ctx, message)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	return err == nil && m.Header.Get(nats.MsgIdHdr) == id, err // of another id: the stream was made anew
}

// look reads the job's entry; nil: there is none.
func (w *jobWorker) look(ctx context.Context, id string) (jetstream.KeyValueEntry, jobState, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	kv, _ := w.source()
	entry, err := kv.Get(ctx, id)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, jobState{}, nil
	}
	if err != nil {
		return nil, jobState{}, err
	}
	state, err := readJobState(entry.Value())
	return entry, state, err
}

// put writes the entry if it is as b knows it, and reports whether it has.
func (w *jobWorker) put(ctx context.Context, b *begun, state *jobState) (stored bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	kv, _ := w.source()
	var revision uint64
	if b.revision == 0 {
		revision, err = kv.Create(ctx, b.id, state.encode())
	} else {
		revision, err = kv.Update(ctx, b.id, state.encode(), b.revision)
	}
	if err == nil {
		b.revision = revision
		return true, nil
	}
	// The answer may have been lost, and not the write.
	entry, found, bad := w.look(context.WithoutCancel(ctx), b.id)
	switch {
	case bad != nil:
		return false, err
	case entry != nil && found.By == b.By && found.State == state.State:
		b.revision = entry.Revision()
		return true, nil
	case entry != nil && entry.Revision() != b.revision:
		return false, nil // somebody else was first
	}
	return false, err
}

// has reports whether the job is this attempt's still, as far as can be seen.
func (w *jobWorker) has(ctx context.Context, b *begun) bool {
	entry, _, err := w.look(context.WithoutCancel(ctx), b.id)
	return err == nil && entry != nil && entry.Revision() == b.revision
}

// unbegin takes back that the attempt has begun: it has not run. Those before it stay counted. If
// that fails, because another has the job perhaps, it counts as begun.
func (w *jobWorker) unbegin(ctx context.Context, b *begun) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	kv, _ := w.source()
	var err error
	if before := b.jobState; before.Attempt > 1 {
		before.Attempt--
		_, err = kv.Update(ctx, b.id, before.encode(), b.revision)
	} else {
		err = kv.Delete(ctx, b.id, jetstream.LastRevision(b.revision))
	}
	if err != nil {
		w.o.logger.Warn("that a job has not run cannot be stored", "service", w.name, "job", b.id, "error", err)
	}
	return err == nil
}

// finish stores the outcome, and reports whether the job has one. It tries for as long as a job may
// be without a word: then another worker gives it one.
func (w *jobWorker) finish(ctx context.Context, b *begun, state *jobState) bool {
	ctx = context.WithoutCancel(ctx)
	state.By, state.Attempt, state.Message, state.Delivery = b.By, b.Attempt, b.Message, b.Delivery
	for end := time.Now().Add(w.o.ackWait); ; sleep(ctx, 200*time.Millisecond) {
		stored, err := w.put(ctx, b, state)
		switch {
		case stored:
			return true
		case err == nil: // another's word stands: the outcome, or that it runs the job
			w.o.logger.Warn("a job was given up before its outcome was there", "service", w.name, "job", b.id, "state", state.State)
			entry, found, bad := w.look(ctx, b.id)
			return bad == nil && entry != nil && found.State != stateBegun
		case time.Now().After(end):
			w.o.logger.Error("a job's outcome cannot be stored", "service", w.name, "job", b.id, "state", state.State, "error", err)
			return false
		}
	}
}

// ack ends the job. If that is lost it comes again, and its outcome is there.
func (w *jobWorker) ack(ctx context.Context, m jetstream.Msg) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := m.DoubleAck(ctx); err != nil {
		w.o.logger.Debug("a job's acknowledgment was lost", "service", w.name, "error", err)
	}
}

// outcome is the state that a call's end makes. What no message takes becomes an error that one
// does.
func (w *jobWorker) outcome(ctl *control, res pypool.Result, failed *pypool.Error) *jobState {
	state := &jobState{State: stateDone, Worker: res.Worker(), Queued: res.Queued(), Ran: res.Ran(), payload: pypool.EncodeResult(res)}
	alone, _ := limits(w.js.Conn(), 0)
	if failed == nil && len(state.payload) > alone {
		failed = pypool.NewError(pypool.TypeMessageTooLarge, pypool.Executed,
			fmt.Sprintf("the job's result is %d bytes, and its outcome's message takes %d: have the command store it", len(state.payload), alone), nil)
	}
	if failed == nil {
		return state
	}
	if at := &failed.Context; at.Command == "" {
		*at = pypool.ErrorContext{Pool: w.name, Session: ctl.Session, Command: ctl.Command, Program: ctl.Program}
	}
	state = &jobState{State: stateFailed, payload: pypool.EncodeError(failed)}
	if len(state.payload) > alone { // a traceback can be as long as any message
		short := pypool.NewError(failed.Type, failed.Delivery, failed.Message, nil)
		short.Context = failed.Context
		state.payload = pypool.EncodeError(short)
	}
	return state
}

// call makes the job's call.
func (w *jobWorker) call(ctx context.Context, ctl *control, header nats.Header, payload []byte) (res pypool.Result, failed *pypool.Error) {
	c := &served{ctl: *ctl, header: header, s: &Service{pool: w.pool}, ctx: ctx}
	err := foreign.Try(func() error { // the pool has an Observer, or is the caller's own
		args, err := pypool.DecodeArgs(payload)
		if err == nil {
			res, err = c.call(ctx, args, c.options())
		}
		return err
	})
	switch fault, ended := err.(*foreign.Failure); {
	case ended:
		w.o.logger.Error("a job's call panicked", "service", w.name, "command", ctl.Command, "cause", fault.Cause, "stack", string(fault.Stack))
		return res, pypool.NewError(pypool.TypeInternal, pypool.MaybeExecuted, "the job's call panicked", nil)
	case err != nil:
		return res, c.explain(err)
	}
	return res, nil
}
