// Package pypool keeps a pool of warm Python worker processes and calls functions in them: as easy
// as a function call, near the speed of a pipe. Nothing has to be installed on the Python side; the
// runtime is embedded.
//
//	pool, err := pypool.New(ctx, pypool.Config{Script: "worker.py"})
//	if err != nil {
//		return err // with what Python said; its traceback is in the StartError
//	}
//	defer pool.Close()
//	out, err := pool.ExecuteInSession(ctx, "user-42", "summarize", map[string]any{"text": text})
//	sum, err := pypool.Call[Summary](ctx, pool, "summarize", Args{Text: text})
//
// and in worker.py:
//
//	from pypool import command
//
//	@command
//	def summarize(text: str, limit: int = 100) -> dict:
//	    return {"summary": text[:limit]}
//
// # Sessions
//
// A session is a label on calls, tracked for observability: when it began, how often it was used,
// how often it failed. There is no affinity, no session state and no migration: any worker serves
// any call of any session. State that must outlive a call belongs into a store that all workers
// reach.
//
// # Batches
//
// A command with max_batch_size serves calls that wait at the same time with one call of its
// function, as models like it. Callers notice nothing of it: each has its own context, timeouts,
// session, error and statistics. See docs/guarantees.md.
//
// # Cancellation
//
// A call returns by its deadline plus Config.KillGrace, whatever Python does. The handler of a call
// whose context ends, or whose time is over, is stopped by an exception (pypool.Canceled) and keeps
// its worker; what does not stop within Config.CancelGrace, as native code may not, is killed with
// its whole process group, and the worker replaced. The error of a call whose time is over carries
// the Python stacks of that moment ([HangError]). While a call still waits for a worker, its end
// costs nothing.
//
// # Concurrent commands
//
// A worker runs one call at a time, but for those of @command(concurrency=64), for async functions
// that wait for something else: up to so many calls of the command run side by side on one worker's
// event loop, beside those of other such commands. For its caller each is a call like any other.
//
// # Failure
//
// Every error is an [*Error], matched with errors.Is against the sentinels and with errors.As for
// details. Its Delivery tells whether the handler began: [SafeToRetry] is true when it provably did
// not. The pool itself repeats a call only then, and only when the worker had died. An exception in
// Python is a value like any other and costs nothing; a worker that crashes fails the one call it
// had, and is replaced. Workers that cannot start open the pool's circuit and calls fail fast with
// the Python traceback until a start succeeds; a command that keeps costing workers is refused
// alone.
//
// # Shutdown
//
// [Pool.Shutdown] lets running calls finish and is bounded by its context; [Pool.Close] does not
// wait. After either, no process, goroutine, descriptor or file of the pool is left. If the host is
// killed, the workers end too.
package pypool
