package main

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/bench/peers"
)

// bytesGroup is bytes in, out and both ways, and an array, against as many copies of memory, and
// against what else carries bytes.
func bytesGroup() group {
	g := group{name: "bytes", title: "Bytes in, out and both ways (echo), one caller, one process; float32 numbers to NumPy-less Python and back (array)"}
	for _, s := range []struct {
		name string
		size int
	}{{"10KB", 10_000}, {"100KB", 100_000}, {"1MB", 1_000_000}, {"10MB", 10_000_000}} {
		for _, way := range []struct {
			name   string
			copies int // on one processor
			turns  int // from one processor to another
		}{{"in", 1, 1}, {"out", 2, 1}, {"echo", 3, 2}} {
			name := s.name + "/" + way.name + "/"
			g.cells = append(g.cells,
				cell{name + "memcpy", nil, func(b *bench, d time.Duration) (round, error) {
					from, to := make([]byte, b.size(s.size)), make([]byte, b.size(s.size))
					return drive(1, d, func(int) error {
						for range way.copies {
							copy(to, from)
						}
						return nil
					})
				}},
				cell{name + "handover", []reference{{"memcpy", name + "memcpy"}}, func(b *bench, d time.Duration) (round, error) {
					return handOver(b.size(s.size), way.turns, d)
				}},
				cell{name + "fastapi", []reference{{"memcpy", name + "memcpy"}, {"pool", name + "pool"}}, func(b *bench, d time.Duration) (round, error) {
					h, err := share(b, "fastapi", func() (*peers.HTTP, error) { return peers.NewFastAPI(b.Env, 1) })
					if err != nil {
						return nil, err
					}
					body := make([]byte, b.size(s.size))
					return drive(1, d, func(int) error { return h.Bytes(way.name, body) })
				}},
				cell{name + "pool", []reference{{"memcpy", name + "memcpy"}, {"handover", name + "handover"}, {"fastapi", name + "fastapi"}}, func(b *bench, d time.Duration) (round, error) {
					return b.bytesCalls(way.name, b.size(s.size), d)
				}})
			g.cells = append(g.cells, bytesPeers(name, way.name, s.size)...)
		}
		array := s.name + "/array/"
		g.cells = append(g.cells, cell{array + "pool", []reference{{"memcpy", s.name + "/echo/memcpy"}}, func(b *bench, d time.Duration) (round, error) {
			return b.arrayCalls(b.size(s.size)/4, d)
		}})
	}
	return g
}

// handOver is what two processes on two processors would take at the least: one copies to memory
// that both have, and the other from there, in turns. Whoever waits polls.
func handOver(size, turns int, d time.Duration) (round, error) {
	from, shared, to := make([]byte, size), make([]byte, size), make([]byte, size)
	var turn atomic.Int32 // 1: the other one's; -1: it is over
	var other sync.WaitGroup
	other.Go(func() {
		runtime.LockOSThread()
		for {
			switch turn.Load() {
			case 1:
				copy(to, shared)
				turn.Store(0)
			case -1:
				return
			}
		}
	})
	defer func() {
		turn.Store(-1)
		other.Wait()
	}()
	return drive(1, d, func(int) error {
		for range turns {
			copy(shared, from)
			turn.Store(1)
			for turn.Load() != 0 {
			}
		}
		return nil
	})
}

var errShort = errors.New("not what was sent came back")

type (
	bytesArgs struct {
		Data []byte `json:"data"`
	}
	arrayArgs struct {
		Data pypool.Array `json:"data"`
	}
)

func (b *bench) bytesCalls(way string, size int, d time.Duration) (round, error) {
	p, err := b.pool(1)
	if err != nil {
		return nil, err
	}
	ctx, data := context.Background(), make([]byte, size)
	return drive(1, d, func(int) error {
		switch way {
		case "in":
			n, err := pypool.Call[int](ctx, p.Pool, "bytes_in", bytesArgs{data})
			return check(err, n == size)
		case "out":
			out, err := pypool.Call[[]byte](ctx, p.Pool, "bytes_out", sizeArgs{size})
			return check(err, len(out) == size)
		}
		out, err := pypool.Call[[]byte](ctx, p.Pool, "bytes_echo", bytesArgs{data})
		return check(err, len(out) == size)
	})
}

func (b *bench) arrayCalls(n int, d time.Duration) (round, error) {
	p, err := b.pool(1)
	if err != nil {
		return nil, err
	}
	numbers := make([]float32, n)
	return drive(1, d, func(int) error {
		out, err := pypool.Call[pypool.Array](context.Background(), p.Pool, "bytes_echo", arrayArgs{pypool.ArrayOf(numbers)})
		return check(err, len(out.Data) == 4*n)
	})
}

func check(err error, good bool) error {
	if err == nil && !good {
		err = errShort
	}
	return err
}
