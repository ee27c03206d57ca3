// Package pypoolnats has pools of Python workers serve programs on other machines, over NATS.
//
// [Serve] makes a pool a service: any number of processes that serve the same name share its calls.
// [NewClient] is a [pypool.Caller] whose calls they serve; Call, Each and Map take it as they take
// a pool. [Enqueue] and [Work] are for calls that must outlive the caller: jobs on JetStream.
//
// A call means what it means with a pool: sessions, deadlines, per-call options, the trace,
// streams, and errors with their type, details and true delivery. The client leaves, and the
// handler is stopped; no server is there, and that is a NotExecuted; a server is gone in the midst
// of a call, and that is a MaybeExecuted.
package pypoolnats
