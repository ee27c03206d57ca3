package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/bench/peers"
)

type (
	idArgs struct {
		ID int `json:"id"`
	}
	xArgs struct {
		X int `json:"x"`
	}
)

// batchGroup is a model on one worker whose batch of 32 costs little more than one input: many
// callers against the function itself in batches of 32, and one caller of a batch command against
// one of a plain command.
func batchGroup() group {
	return group{name: "batch", title: "A model of two layers of 1024² on one worker, in batches of 32; one caller on an idle worker", often: 3, cells: []cell{
		{"function", nil, func(b *bench, d time.Duration) (round, error) {
			m, err := share(b, "model", func() (*peers.Model, error) { return peers.NewModel(b.Env) })
			if err != nil {
				return nil, err
			}
			rate, err := m.PerSecond(d)
			return round{perSecond: rate}, err
		}},
		modelCell("64c", 64, "classify", []reference{{"function", "function"}}),
		modelCell("64c/plain", 64, "one", []reference{{"function", "function"}}),
		idleCell("1c/plain", "plain", nil),
		idleCell("1c/batch", "batched", []reference{{"plain", "1c/plain"}}),
	}}
}

func modelCell(name string, callers int, command string, vs []reference) cell {
	return cell{name, vs, func(b *bench, d time.Duration) (round, error) {
		p, err := b.modelPool()
		if err != nil {
			return nil, err
		}
		return drive(callers, d, func(caller int) error {
			_, err := pypool.Call[int](context.Background(), p.Pool, command, idArgs{caller})
			return err
		})
	}}
}

func idleCell(name, command string, vs []reference) cell {
	return cell{name, vs, func(b *bench, d time.Duration) (round, error) {
		p, err := b.modelPool()
		if err != nil {
			return nil, err
		}
		return drive(1, d, func(int) error {
			_, err := p.ExecuteAnonymous(context.Background(), command, xArgs{7})
			return err
		})
	}}
}

func (b *bench) modelPool() (warmPool, error) {
	return share(b, "pool with a model", func() (warmPool, error) {
		python, err := b.Packages()
		if err != nil {
			return warmPool{}, err
		}
		p, err := pypool.New(context.Background(), pypool.Config{
			Script: filepath.Join(b.Dir, "batch_worker.py"), Python: python, Size: 1, Overflow: -1, Logger: quiet, HealthCheckInterval: -1,
		})
		return warmPool{p}, err
	})
}
