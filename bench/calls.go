package main

import (
	"context"
	"errors"
	"fmt"
	runtimemetrics "runtime/metrics"
	"strings"
	"time"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/bench/peers"
)

// small makes a request line of about a hundred bytes.
const small = 40

type (
	echoed struct { // both ways
		Text string `json:"text"`
	}
	timeArgs struct {
		US int `json:"us"`
	}
	sizeArgs struct {
		Size int `json:"size"`
	}
)

// groups is everything that is measured, in the order of the run.
func groups() []group {
	return []group{callGroup(), latencyGroup(), crowdGroup(), peerGroup(), mapGroup(), payloadGroup(), bytesGroup(), tableGroup(), handlerGroup(), leavingGroup(), batchGroup(), callbackGroup(), concurrentGroup(), jobsGroup(), startGroup(), forkGroup(), stormGroup(), memoryGroup(), largeGroup(), peakGroup()}
}

// --- subjects -------------------------------------------------------------------------------------------------------

// warmPool is a pool that cells of a group share.
type warmPool struct{ *pypool.Pool }

func (p warmPool) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return p.Shutdown(ctx)
}

func (b *bench) newPool(workers int) (warmPool, error) {
	p, err := pypool.New(context.Background(), pypool.Config{
		Script: b.worker, Python: b.Python, Size: workers, Overflow: -1, Logger: quiet,
		HealthCheckInterval: -1, // pools that wait for their next round keep still
	})
	return warmPool{p}, err
}

func (b *bench) pool(workers int) (warmPool, error) {
	return share(b, fmt.Sprintf("pool of %d", workers), func() (warmPool, error) { return b.newPool(workers) })
}

// poolCell measures calls of a pool.
func poolCell(name string, workers, callers int, call func(p *pypool.Pool, caller int) error, vs ...reference) cell {
	return cell{name, vs, func(b *bench, d time.Duration) (round, error) {
		p, err := b.pool(workers)
		if err != nil {
			return nil, err
		}
		return drive(callers, d, func(caller int) error { return call(p.Pool, caller) })
	}}
}

// peerCell measures calls of a peer; cells with the same key share it.
func peerCell[P peers.Peer](name, key string, callers, size int, open func(b *bench) (P, error), vs ...reference) cell {
	return cell{name, vs, func(b *bench, d time.Duration) (round, error) {
		p, err := share(b, key, func() (P, error) { return open(b) })
		if err != nil {
			return nil, err
		}
		text := strings.Repeat("x", b.size(size))
		return drive(callers, d, func(caller int) error { return p.Call(caller, text) })
	}}
}

// size is the size of a message, which a smoke test makes smaller.
func (b *bench) size(n int) int {
	if n < 1<<20 {
		return n
	}
	return n / b.shrink
}

func openFloor(n, size int) func(*bench) (*peers.Floor, error) {
	return func(b *bench) (*peers.Floor, error) { return peers.NewFloor(b.Env, n, b.size(size)) }
}

func openLoop(n int) func(*bench) (*peers.Loop, error) {
	return func(b *bench) (*peers.Loop, error) { return peers.NewLoop(b.Env, n) }
}

func anonymous(ctx context.Context, text string) func(*pypool.Pool, int) error {
	args := echoed{text}
	return func(p *pypool.Pool, _ int) error {
		_, err := p.ExecuteAnonymous(ctx, "echo", args)
		return err
	}
}

// --- calls ----------------------------------------------------------------------------------------------------------

// callGroup is the round trip itself, ~100 bytes each way, with an immediate handler.
func callGroup() group {
	g := group{name: "call", title: "Calls of ~100 bytes; floor and loop: one process for each caller"}
	for _, n := range []int{1, 2, 4, 8} {
		g.cells = append(g.cells, peerCell(fmt.Sprintf("floor/%dc", n), "floor", n, small, openFloor(8, 100)))
	}
	for _, n := range []int{1, 2, 4, 8} {
		g.cells = append(g.cells, peerCell(fmt.Sprintf("loop/%dc", n), "loop", n, small, openLoop(8),
			reference{"floor", fmt.Sprintf("floor/%dc", n)}))
	}
	vs := func(callers int) []reference {
		n := min(callers, 8)
		return []reference{{"floor", fmt.Sprintf("floor/%dc", n)}, {"loop", fmt.Sprintf("loop/%dc", n)}}
	}
	text := strings.Repeat("x", small)
	for _, c := range []struct{ callers, workers int }{
		{1, 1}, {8, 1}, {1, 2}, {2, 2}, {4, 2}, {8, 2}, {1, 4}, {4, 4}, {8, 4}, {1000, 4}, {1, 8}, {8, 8},
	} {
		g.cells = append(g.cells, plainCell(c.callers, c.workers, vs(c.callers)...))
	}
	kinds := []struct {
		name string
		call func(*pypool.Pool, int) error
	}{
		{"session", func(p *pypool.Pool, caller int) error {
			_, err := p.ExecuteInSession(context.Background(), sessions[caller], "echo", echoed{text})
			return err
		}},
		{"deadline", func(p *pypool.Pool, _ int) error {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			_, err := p.ExecuteAnonymous(ctx, "echo", echoed{text})
			return err
		}},
		{"decoded", func(p *pypool.Pool, _ int) error {
			_, err := pypool.Call[echoed](context.Background(), p, "echo", echoed{text})
			return err
		}},
	}
	for _, callers := range []int{1, 8} {
		for _, kind := range kinds {
			g.cells = append(g.cells, poolCell(fmt.Sprintf("pool/%dc-2w/%s", callers, kind.name), 2, callers, kind.call, vs(callers)...))
		}
	}
	return g
}

// plainCell measures the plainest of calls.
func plainCell(callers, workers int, vs ...reference) cell {
	call := anonymous(context.Background(), strings.Repeat("x", small))
	return poolCell(fmt.Sprintf("pool/%dc-%dw", callers, workers), workers, callers, call, vs...)
}

// latencyGroup repeats one caller against the floor: five rounds would leave to chance which of the
// floor's two modes is the median.
func latencyGroup() group {
	return group{name: "latency", title: "One caller, nine times as many rounds", often: 9, cells: []cell{
		peerCell("floor/1c", "floor", 1, small, openFloor(1, 100)),
		plainCell(1, 2, reference{"floor", "floor/1c"}),
	}}
}

// crowdGroup repeats many callers against few, which also vary much.
func crowdGroup() group {
	return group{name: "crowd", title: "A thousand callers on four workers, nine times as many rounds", often: 9, cells: []cell{
		plainCell(8, 4),
		plainCell(1000, 4, reference{"8c", "pool/8c-4w"}),
	}}
}

var sessions = []string{"user-0", "user-1", "user-2", "user-3", "user-4", "user-5", "user-6", "user-7"}

// payloadGroup is the round trip of larger messages, one caller.
func payloadGroup() group {
	g := group{name: "payload", title: "Echo of larger messages, one caller, one process"}
	for _, s := range []struct {
		name string
		size int
	}{{"100B", small}, {"10KB", 10_000}, {"1MB", 1 << 20}, {"10MB", 10 << 20}} {
		floor, loop := s.name+"/floor", s.name+"/loop"
		message := max(s.size, 100)
		g.cells = append(g.cells,
			peerCell(floor, floor, 1, s.size, openFloor(1, message)),
			peerCell(loop, loop, 1, s.size, openLoop(1), reference{"floor", floor}),
			cell{s.name + "/pool", []reference{{"floor", floor}, {"loop", loop}}, func(b *bench, d time.Duration) (round, error) {
				p, err := b.pool(1)
				if err != nil {
					return nil, err
				}
				call := anonymous(context.Background(), strings.Repeat("x", b.size(s.size)))
				return drive(1, d, func(caller int) error { return call(p.Pool, caller) })
			}})
	}
	return g
}

// handlerGroup is handlers that take their time, on the CPU (busy) or off it (idle). It is what a
// change of the reader is judged by.
func handlerGroup() group {
	g := group{name: "handler", title: "Handlers that use the CPU (busy) or wait (idle)"}
	add := func(command string, us, callers, workers int) {
		name := fmt.Sprintf("%s/%v/%dc-%dw", command, time.Duration(us)*time.Microsecond, callers, workers)
		g.cells = append(g.cells, poolCell(name, workers, callers, func(p *pypool.Pool, _ int) error {
			_, err := p.ExecuteAnonymous(context.Background(), command, timeArgs{us})
			return err
		}))
	}
	for _, us := range []int{0, 10, 100, 1000, 10_000} {
		for _, workers := range []int{2, 4} {
			for _, callers := range []int{1, 2, 4, 8} {
				add("busy", us, callers, workers)
			}
		}
	}
	for _, us := range []int{1000, 10_000} {
		for _, callers := range []int{1, 8} {
			add("idle", us, callers, 2)
		}
	}
	return g
}

// --- Map ------------------------------------------------------------------------------------------------------------

// mapItems is how many items one Map has.
const mapItems = 50_000

// mapGroup is many trivial items, on more and more workers.
func mapGroup() group {
	executor := reference{"executor", "executor/chunksize64"}
	g := group{name: "map", title: fmt.Sprintf("Map: items/s of a trivial function, %d items at a time (executor: two workers)", mapItems), cells: []cell{
		{executor.Cell, nil, func(b *bench, d time.Duration) (round, error) {
			e, err := b.executor()
			if err != nil {
				return nil, err
			}
			return e.Map(mapItems, d)
		}},
		mapCell("pool/2w", 2, executor),
	}}
	for _, workers := range []int{1, 4, 8, 16} {
		g.cells = append(g.cells, mapCell(fmt.Sprintf("pool/%dw", workers), workers, reference{"2w", "pool/2w"}))
	}
	return g
}

func mapCell(name string, workers int, vs ...reference) cell {
	return cell{name, vs, func(b *bench, d time.Duration) (round, error) {
		p, err := b.pool(workers)
		if err != nil {
			return nil, err
		}
		begun, used, waited, n := time.Now(), cpuTime(), mutexWait(), 0
		for time.Since(begun) < d {
			sum := 0
			for out, err := range pypool.Map[int](context.Background(), p.Pool, "same", numbers) {
				if err != nil {
					return nil, err
				}
				sum += out
				n++
			}
			if sum != mapItems*(mapItems-1)/2 {
				return nil, errors.New("wrong results")
			}
		}
		took, used, waited := time.Since(begun), cpuTime()-used, mutexWait()-waited
		return round{perSecond: float64(n) / took.Seconds(), cpu: micros(used) / float64(n), lockWait: waited * 1e9 / float64(n)}, nil
	}}
}

// mutexWait is for how many seconds the goroutines of this process have waited for mutexes.
func mutexWait() float64 {
	sample := []runtimemetrics.Sample{{Name: "/sync/mutex/wait/total:seconds"}}
	runtimemetrics.Read(sample)
	return sample[0].Value.Float64()
}

func numbers(yield func(int) bool) {
	for i := range mapItems {
		if !yield(i) {
			return
		}
	}
}

func (b *bench) executor() (*peers.Executor, error) {
	return share(b, "executor", func() (*peers.Executor, error) { return peers.NewExecutor(b.Env, 2) })
}

// --- peers ----------------------------------------------------------------------------------------------------------

// peerGroup is what a user would pick instead, on two worker processes, each with its result
// decoded.
func peerGroup() group {
	g := group{name: "peer", title: "What one would use instead, two worker processes, results decoded"}
	text := strings.Repeat("x", small)
	for _, callers := range []int{1, 2, 8} {
		floor := fmt.Sprintf("floor/%dc", callers)
		pool := fmt.Sprintf("pool/%dc", callers)
		vs := []reference{{"floor", floor}, {"pool", pool}}
		at := func(name string) string { return fmt.Sprintf("%s/%dc", name, callers) }
		g.cells = append(g.cells,
			peerCell(floor, "floor", callers, small, openFloor(8, 100)),
			poolCell(pool, 2, callers, func(p *pypool.Pool, _ int) error {
				_, err := pypool.Call[echoed](context.Background(), p, "echo", echoed{text})
				return err
			}, vs[0]),
			peerCell(at("naive"), "naive", callers, small, func(b *bench) (*peers.Naive, error) { return peers.NewNaive(b.Env, 2) }, vs...),
			peerCell(at("http.server"), "http.server", callers, small, func(b *bench) (*peers.HTTP, error) { return peers.NewHTTPServer(b.Env, 2) }, vs...),
			peerCell(at("fastapi"), "fastapi", callers, small, func(b *bench) (*peers.HTTP, error) { return peers.NewFastAPI(b.Env, 2) }, vs...),
			peerCell(at("grpc"), "grpc", callers, small, func(b *bench) (*peers.GRPC, error) { return peers.NewGRPC(b.Env, 2) }, vs...),
			cell{at("executor.submit"), vs, func(b *bench, d time.Duration) (round, error) {
				e, err := b.executor()
				if err != nil {
					return nil, err
				}
				return e.Submit(callers, d, text)
			}},
			peerCell(at("exec"), "exec", callers, small, func(b *bench) (*peers.Once, error) { return peers.NewOnce(b.Env, 2) }, vs...),
		)
	}
	return g
}
