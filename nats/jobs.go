package pypoolnats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/foreign"
)

// Jobs are calls that JetStream keeps until they have an outcome. A job is a message in a stream,
// of which [Work] takes it. What is known of it beside is one entry in a key-value bucket, written
// with the revision that was read: absent until a worker takes it, then begun, then its outcome. A
// worker writes begun before the call, so that a job that is delivered again has provably not run
// where that is absent.

// JobOption is an option of [Enqueue] and [EnqueueProgram].
type JobOption func(*jobOptions)

type jobOptions struct {
	id       string
	attempts int
	call     []pypool.CallOption
}

// WithJobID names the job: 1 to 128 letters, digits, - and _. A job whose id is known already is
// not enqueued again, for as long as its outcome is kept. Default: a unique one.
func WithJobID(id string) JobOption { return func(o *jobOptions) { o.id = id } }

// WithAttempts allows the job to run more than once, and so often at the most: it is made again
// also when it may have run, because its worker or its server was lost or it ran out of time. It is
// for commands that bear it. Default: 1.
func WithAttempts(n int) JobOption { return func(o *jobOptions) { o.attempts = n } }

// WithCallOptions sets the options of the job's call: its session, its timeouts.
func WithCallOptions(opts ...pypool.CallOption) JobOption {
	return func(o *jobOptions) { o.call = append(o.call, opts...) }
}

// JobStore is how JetStream keeps the jobs of a name.
type JobStore struct {
	// Replicas is how many servers have them. Default: 1.
	Replicas int
	// Keep is how long an outcome is kept. No job may run for longer. Default: 24 h.
	Keep time.Duration
	// MaxAge is how long a job waits at the most; then it is dropped. It counts while the job runs,
	// too: so let it be longer than a job waits and runs together. One that runs for longer is not
	// delivered again if its worker is lost; it has an outcome when its id is enqueued again, which
	// takes its worker for lost in any case. Default: for ever.
	MaxAge time.Duration
}

// CreateJobs makes the stream and the bucket for a name's jobs, or changes them. Enqueue, Work and
// Job.Wait make them with the defaults where there are none, and change nothing.
func CreateJobs(ctx context.Context, js jetstream.JetStream, name string, store JobStore) error {
	return createJobs(ctx, js, name, store, true)
}

// createJobs is CreateJobs. Without change what is there stays as somebody else has made it, in the
// same moment perhaps.
func createJobs(ctx context.Context, js jetstream.JetStream, name string, store JobStore, change bool) error {
	ctx = foreign.Context(ctx)
	if err := checkName(name); err != nil {
		return fmt.Errorf("pypoolnats: %w", err)
	}
	if js == nil {
		return errNoJetStream
	}
	if store.Keep <= 0 {
		store.Keep = 24 * time.Hour
	}
	replicas := max(store.Replicas, 1)
	known := min(2*time.Minute, store.Keep) // of ids, by the stream: no longer than by the bucket, or a job would be dropped that has no outcome
	if store.MaxAge > 0 {
		known = min(known, store.MaxAge)
	}
	makeStream, makeBucket := js.CreateOrUpdateStream, js.CreateOrUpdateKeyValue
	if !change {
		makeStream, makeBucket = js.CreateStream, js.CreateKeyValue
	}
	if err := made(change, func() error {
		_, err := makeStream(ctx, jetstream.StreamConfig{
			Name: jobStream(name), Subjects: []string{jobSubjects(name)}, Retention: jetstream.WorkQueuePolicy,
			Replicas: replicas, MaxAge: store.MaxAge, Duplicates: max(known, 100*time.Millisecond),
		})
		return err
	}); err != nil {
		return fmt.Errorf("pypoolnats: the stream of the jobs: %w", err)
	}
	if err := made(change, func() error {
		_, err := makeBucket(ctx, jetstream.KeyValueConfig{Bucket: jobBucket(name), TTL: store.Keep, Replicas: replicas})
		return err
	}); err != nil {
		return fmt.Errorf("pypoolnats: the bucket of the jobs' outcomes: %w", err)
	}
	return nil
}

// made has something made that somebody else may have made meanwhile: then it is changed, or stays.
func made(change bool, what func() error) error {
	err := what()
	if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // which a bucket says, too
		return err
	}
	if !change {
		return nil
	}
	return what() // it is found now
}

var errNoJetStream = errors.New("pypoolnats: there is no JetStream")

func jobStream(name string) string   { return "PYPOOL_" + name + "_JOBS" }
func jobBucket(name string) string   { return "pypool_" + name + "_jobs" }
func jobSubjects(name string) string { return "pypool." + name + ".jobs.>" }
func jobSubject(name, command string) string {
	return "pypool." + name + ".jobs." + token(command)
}

// outcomes opens the bucket, and makes it and the stream where they are not there.
func outcomes(ctx context.Context, js jetstream.JetStream, name string) (jetstream.KeyValue, error) {
	kv, err := js.KeyValue(ctx, jobBucket(name))
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		if err = createJobs(ctx, js, name, JobStore{}, false); err == nil {
			kv, err = js.KeyValue(ctx, jobBucket(name))
		}
	}
	return kv, err
}

// Job is a job that was enqueued.
type Job struct {
	js   jetstream.JetStream
	name string
	id   string
}

// OpenJob returns the job with that id, to wait for it, say, after a restart. It does not look
// whether there is one.
func OpenJob(js jetstream.JetStream, name, id string) *Job { return &Job{js, name, id} }

func validJobID(id string) bool { return validName.MatchString(id) && len(id) <= maxName }

func badJobID(id string) string {
	return fmt.Sprintf("the job's id %.64q is not 1 to %d letters, digits, - and _", id, maxName)
}

// ID is the job's id.
func (j *Job) ID() string { return j.id }

// Enqueue stores a call as a job of that name, and returns when JetStream has it. [Work] makes the
// call, now or later. args are at most what a message takes, which is 1 MiB unless the nats-server
// is told otherwise.
//
// An error is a [pypool.Error]; one that is MaybeExecuted says that the job may be there, because
// the connection was closed before the answer came, say: with WithJobID it can be enqueued again,
// and is one job.
func Enqueue(ctx context.Context, js jetstream.JetStream, name, command string, args any, opts ...JobOption) (*Job, error) {
	return enqueue(ctx, js, name, control{Command: command}, args, opts)
}

// EnqueueProgram is Enqueue for a program.
func EnqueueProgram(ctx context.Context, js jetstream.JetStream, name, programID string, inputs any, opts ...JobOption) (*Job, error) {
	return enqueue(ctx, js, name, control{Command: commandProgram, Program: programID}, inputs, opts)
}

func enqueue(ctx context.Context, js jetstream.JetStream, name string, ctl control, args any, opts []JobOption) (*Job, error) {
	ctx = foreign.Context(ctx)
	o := jobOptions{id: nuid.Next(), attempts: 1}
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	fail := func(err *pypool.Error) (*Job, error) {
		err.Context = pypool.ErrorContext{Pool: name, Session: ctl.Session, Command: ctl.Command, Program: ctl.Program}
		return nil, err
	}
	if err := checkName(name); err != nil {
		return fail(invalid(err.Error()))
	}
	if js == nil {
		return fail(unavailable(pypool.NotExecuted, "the job is not stored", errNoJetStream))
	}
	call, err := pypool.ReadCallOptions(o.call...)
	switch {
	case err != nil:
		return fail(own(err))
	case !validJobID(o.id):
		return fail(invalid(badJobID(o.id)))
	case o.attempts < 1:
		return fail(invalid(fmt.Sprintf("WithAttempts(%d): a job runs at least once", o.attempts)))
	case ctl.Command == "" || len(ctl.Command) > maxCommand || len(ctl.Program) > maxProgram:
		return fail(invalid("the name of the command or the program is empty or too long"))
	case ctl.Command == commandProgram && ctl.Program == "":
		return fail(invalid("the program id is empty"))
	}
	ctl.Session, ctl.Timeout, ctl.Checkout, ctl.Blobs = call.Session, call.Timeout, call.CheckoutTimeout, call.Blobs
	ctl.Attempts = o.attempts
	payload, err := pypool.EncodeArgs(args)
	if err != nil {
		return fail(own(err))
	}
	m := ctl.message(jobSubject(name, ctl.Command), "", payload)
	m.Header.Set(nats.MsgIdHdr, o.id)
	if call.TraceParent != "" {
		m.Header.Set(headerTrace, call.TraceParent)
	}
	err = soon(ctx, func() error {
		if js.Conn().IsClosed() { // once it is not, that it is closed proves nothing
			return unavailable(pypool.NotExecuted, "JetStream did not take the job", nats.ErrConnectionClosed)
		}
		if alone, _ := limits(js.Conn(), headerSize(m.Header)); len(payload) > alone {
			return pypool.NewError(pypool.TypeMessageTooLarge, pypool.NotExecuted,
				fmt.Sprintf("the arguments are %d bytes, and a job's message takes %d: store them, and pass where", len(payload), alone), nil)
		}
		_, err := js.PublishMsg(ctx, m)
		if errors.Is(err, jetstream.ErrNoStreamResponse) { // nobody has made the stream
			if err = createJobs(ctx, js, name, JobStore{}, false); err != nil {
				return unavailable(pypool.NotExecuted, "JetStream takes no jobs", err)
			}
			_, err = js.PublishMsg(ctx, m)
		}
		if err != nil {
			return unavailable(notStored(err), "JetStream did not take the job", err)
		}
		return nil
	})
	switch {
	case errors.Is(err, errStuck):
		return fail(unavailable(pypool.MaybeExecuted, "JetStream did not take the job", err))
	case err != nil:
		return fail(own(err))
	}
	return &Job{js, name, o.id}, nil
}

// notStored is what is known of a message that was published with an error: NotExecuted where that
// proves that it was not stored.
func notStored(err error) pypool.Delivery {
	var refused *jetstream.APIError
	if errors.As(err, &refused) {
		return pypool.NotExecuted
	}
	for _, unsent := range notSent {
		if errors.Is(err, unsent) {
			return pypool.NotExecuted
		}
	}
	return pypool.MaybeExecuted
}

// notSent are the errors of a message that nobody got. nats.ErrConnectionClosed is none of them:
// the connection may have been closed while the answer was awaited.
var notSent = []error{
	jetstream.ErrNoStreamResponse, nats.ErrMaxPayload, nats.ErrHeadersNotSupported, nats.ErrConnectionDraining, nats.ErrReconnectBufExceeded,
}

// Wait waits for the job's outcome, which is that of its one call: its result, or its error with
// the true delivery. When ctx ends before that the error is the context's, and the job goes on. A
// job whose outcome is no longer kept, or that never was, has none until then.
func (j *Job) Wait(ctx context.Context) (pypool.Result, error) {
	ctx = foreign.Context(ctx)
	at := pypool.ErrorContext{Pool: j.name}
	fail := func(err *pypool.Error) (pypool.Result, error) {
		if err.Context == (pypool.ErrorContext{}) {
			err.Context = at
		}
		return pypool.Result{}, err
	}
	if ctx.Err() != nil {
		return fail(ended(ctx, pypool.MaybeExecuted))
	}
	if !validJobID(j.id) { // one with a wildcard would have others' outcomes
		return fail(invalid(badJobID(j.id)))
	}
	if j.js == nil {
		return fail(unavailable(pypool.MaybeExecuted, "the job's outcome cannot be read", errNoJetStream))
	}
	var res pypool.Result
	err := soon(ctx, func() (err error) {
		res, err = j.outcome(ctx)
		return err
	})
	switch {
	case errors.Is(err, errStuck):
		return fail(ended(ctx, pypool.MaybeExecuted))
	case err != nil:
		return fail(own(err))
	}
	return res, nil
}

// outcome waits for it.
func (j *Job) outcome(ctx context.Context) (pypool.Result, error) {
	fail := func(err *pypool.Error) (pypool.Result, error) { return pypool.Result{}, err }
	kv, err := outcomes(ctx, j.js, j.name)
	if err != nil {
		return fail(unavailable(pypool.MaybeExecuted, "the job's outcome cannot be read", err))
	}
	watcher, err := kv.Watch(ctx, j.id)
	if err != nil {
		return fail(unavailable(pypool.MaybeExecuted, "the job's outcome cannot be read", err))
	}
	defer func() { _ = watcher.Stop() }() // it may have ended with its connection
	for {
		select {
		case entry, open := <-watcher.Updates():
			if !open {
				if ctx.Err() != nil {
					return fail(ended(ctx, pypool.MaybeExecuted))
				}
				return fail(unavailable(pypool.MaybeExecuted, "the job's outcome cannot be read", nats.ErrConnectionClosed))
			}
			if entry == nil || entry.Operation() != jetstream.KeyValuePut {
				continue
			}
			state, err := readJobState(entry.Value())
			switch {
			case err != nil:
				return fail(pypool.NewError(pypool.TypeProtocol, pypool.MaybeExecuted, "", &pypool.ProtocolError{Reason: "the job's outcome: " + err.Error()}))
			case state.State == stateDone:
				return pypool.DecodeResult(state.payload, pypool.ResultInfo{Worker: state.Worker, Queued: state.Queued, Ran: state.Ran, Call: pypool.CallInfo{Pool: j.name}}), nil
			case state.State == stateFailed:
				e, bad := pypool.DecodeError(state.payload)
				if bad != nil {
					return fail(pypool.NewError(pypool.TypeProtocol, pypool.MaybeExecuted, "", &pypool.ProtocolError{Reason: "the job's outcome: " + bad.Error()}))
				}
				return fail(e)
			}
		case <-ctx.Done():
			return fail(ended(ctx, pypool.MaybeExecuted))
		}
	}
}

// jobState is the value of a job's entry: one line of JSON, and a payload.
type jobState struct {
	State    string        `json:"state"`
	By       string        `json:"by,omitempty"`       // who has begun it: unique for each attempt
	Attempt  int           `json:"attempt,omitempty"`  // from 1
	Message  uint64        `json:"message,omitempty"`  // its number in the stream
	Delivery uint64        `json:"delivery,omitempty"` // which one of the message: from 1; 0: a worker of before has written it
	Worker   string        `json:"worker,omitempty"`
	Queued   time.Duration `json:"queued_ns,omitempty"`
	Ran      time.Duration `json:"ran_ns,omitempty"`
	payload  []byte
}

// The states of a job that is not waiting.
const (
	stateBegun  = "begun"
	stateDone   = "done"
	stateFailed = "failed"
)

func (s *jobState) encode() []byte {
	head, _ := json.Marshal(s) // it always encodes
	return append(append(head, '\n'), s.payload...)
}

func readJobState(value []byte) (s jobState, err error) {
	head, payload, _ := bytes.Cut(value, []byte{'\n'})
	if err := json.Unmarshal(head, &s); err != nil {
		return s, err
	}
	s.payload = payload
	return s, nil
}
