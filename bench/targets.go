package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// A target is what the project has set itself. It is reported, never asserted: a busy machine is no
// bug.
type target struct {
	what  string
	atMin bool // the bound is the least, not the most
	bound float64
	value func(*results) (float64, bool)
}

var targets = []target{
	{"one caller: p50 / floor", false, 1.5, over("latency/pool/1c-2w", "latency/floor/1c", p50)},
	{"one caller: calls/s / floor", true, 0.6, over("latency/pool/1c-2w", "latency/floor/1c", perSecond)},
	{"8 callers on 2 workers: calls/s / loop of 2", true, 0.8, over("call/pool/8c-2w", "call/loop/2c", perSecond)},
	{"8 callers on 2 workers: calls/s / loop of 8", true, 0.8, over("call/pool/8c-2w", "call/loop/8c", perSecond)},
	{"8 callers on 8 workers: calls/s / loop of 8", true, 0.8, over("call/pool/8c-8w", "call/loop/8c", perSecond)},
	{"1000 callers on 4 workers: calls/s / 8 callers", true, 0.9, over("crowd/pool/1000c-4w", "crowd/pool/8c-4w", perSecond)},
	{"Map on two workers: items/s", true, 350_000, of("map/pool/2w", perSecond)},
	{"Map: items/s / ProcessPoolExecutor.map", true, 1, over("map/pool/2w", "map/executor/chunksize64", perSecond)},
	{"patient callers beside 50/s that leave: calls/s / alone", true, 0.9, over("leaving/leavers", "leaving/alone", perSecond)},
	{"64 callers of a model in batches: calls/s / the function in batches of 32", true, 0.7, over("batch/64c", "batch/function", perSecond)},
	{"one caller of a batch command: p50 / a plain command", false, 1.1, over("batch/1c/batch", "batch/1c/plain", p50)},
	{"a function of the host's: p50, us", false, 20, of("callback/plain", p50)},
	{"a function of the host's: p50 / Unix-socket HTTP", false, 0.2, over("callback/plain", "callback/http", p50)},
	{"64 calls of 0.25 s on one worker: ms", false, 300, of("concurrent/64c-1w/wait250ms", ms)},
	{"1000 calls of 1 s on two workers: ms", false, 1300, of("concurrent/1000c-2w/wait1s", ms)},
	{"1000 calls of 1 s on two workers: MiB more", false, 30, of("concurrent/1000c-2w/wait1s", rss)},
	{"64 callers of a trivial async command: calls/s / a loop on asyncio streams", true, 1, over("concurrent/pool/64c-1w", "concurrent/streams/64c", perSecond)},
	{"start of one worker: ms beyond a bare interpreter", false, 15, beyond("start/pool/1", "start/bare/1", ms)},
	{"New with 8 workers: time / 8 bare interpreters", false, 1.3, over("start/pool/8", "start/bare/8", ms)},
	{"a forked worker's death to its replacement ready: ms", false, 5, of("fork/forked/replace", ms)},
	{"New with 8 forked workers: time / one that is executed", false, 1.2, over("fork/forked/new/8", "fork/executed/new/1", ms)},
	{"8 forked workers and their server: PSS / 8 that are executed", false, 0.25, over("fork/forked/memory", "fork/executed/memory", pss)},
	{"32 workers that are all killed: time until as many are ready / New", false, 1.3, over("storm/executed/killed", "storm/executed/new", ms)},
	{"32 forked workers that are all killed: time until as many are ready / New", false, 1.3, over("storm/forked/killed", "storm/forked/new", ms)},
	{"one call of 100 hangs, and stops when it is told to: p50 of the others / without", false, 1.1, over("storm/hangs/stop", "storm/hangs/none", p50)},
	{"one call of 100 hangs, and has to be killed: p50 of the others / without", false, 1.3, over("storm/hangs/deaf", "storm/hangs/none", p50)},
	{"worker: resident MiB beyond bare Python", false, 3, beyond("memory/worker", "memory/bare", rss)},
	{"worker: Go side, KiB", false, 64, of("memory/go", kib)},
	{"1 MB of bytes in: p50 / memcpy", false, 1.5, over("bytes/1MB/in/pool", "bytes/1MB/in/memcpy", p50)},
	{"10 MB of bytes in: p50 / memcpy", false, 1.5, over("bytes/10MB/in/pool", "bytes/10MB/in/memcpy", p50)},
	{"10 MB of bytes there and back: p50 / three memcpy", false, 1.5, over("bytes/10MB/echo/pool", "bytes/10MB/echo/memcpy", p50)},
	{"1 MB of bytes in: p50 / two copies on two processors", false, 1.5, over("bytes/1MB/in/pool", "bytes/1MB/in/handover", p50)},
	{"10 MB of bytes in: p50 / two copies on two processors", false, 1.5, over("bytes/10MB/in/pool", "bytes/10MB/in/handover", p50)},
	{"10 MB of bytes there and back: p50 / copies on two processors", false, 1.5, over("bytes/10MB/echo/pool", "bytes/10MB/echo/handover", p50)},
	{"10 MB of bytes there and back: p50 / FastAPI", false, 1, over("bytes/10MB/echo/pool", "bytes/10MB/echo/fastapi", p50)},
	{"a million rows, grouped: p50 / the group-by alone and Arrow written in Go", false, 1.3, over("table/pool", "table/alone", p50)},
	{"a million rows, grouped: p50 / Arrow Flight", false, 0.5, over("table/pool", "table/flight", p50)},
	{"10 MB result: time / dumps + Unmarshal", false, 1.3, over("large/pool", "large/dumps+Unmarshal", ms)},
	{"63 MB result, decoded: peak of the host / message", false, 4, of("peak/result/decoded", hostPeak)},
	{"63 MB result: peak of the worker / message", false, 4, of("peak/result/raw", workPeak)},
	{"63 MB request: peak of the host / message", false, 4, of("peak/request", hostPeak)},
	{"63 MB request: peak of the worker / message", false, 4, of("peak/request", workPeak)},
	{"63 MB of bytes in: peak of the host / payload", false, 1.2, of("peak/bytes/in", hostPeak)},
	{"63 MB of bytes in: peak of the worker, the handler's own among it / payload", false, 2.2, of("peak/bytes/in", workPeak)},
	{"63 MB of bytes out: peak of the host, the caller's own among it / payload", false, 2.2, of("peak/bytes/out", hostPeak)},
	{"63 MB of bytes out: peak of the worker, the handler's own among it / payload", false, 2.2, of("peak/bytes/out", workPeak)},
}

func of(cell, metric string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		c := r.cell(cell)
		if c == nil {
			return 0, false
		}
		return c.median(metric)
	}
}

func over(cell, to, metric string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		a, b := r.cell(cell), r.cell(to)
		if a == nil || b == nil {
			return 0, false
		}
		return ratio(a, b, metric)
	}
}

func beyond(cell, base, metric string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		a, okA := of(cell, metric)(r)
		b, okB := of(base, metric)(r)
		return a - b, okA && okB
	}
}

// printTargets sets the run against the targets that it has measured.
func (r *results) printTargets(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	headed := false
	for _, t := range targets {
		v, ok := t.value(r)
		if !ok {
			continue
		}
		if !headed {
			fmt.Fprintln(out, "\ntargets: reported, not asserted")
			headed = true
		}
		sign, met := "at most", v <= t.bound
		if t.atMin {
			sign, met = "at least", v >= t.bound
		}
		verdict := "met"
		if !met {
			verdict = "missed"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s %s\t%s\n", t.what, number(v), sign, number(t.bound), verdict)
	}
}
