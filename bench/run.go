package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pypool/pypool/bench/peers"
)

// measure runs the groups one after another, and of each group's cells one round after another.
func (b *bench) measure(ctx context.Context, all []group, rounds int, d time.Duration, progress io.Writer) (*results, error) {
	m, err := b.machine(ctx)
	if err != nil {
		return nil, err
	}
	r := &results{Machine: m, When: time.Now().UTC().Truncate(time.Second), CellMS: d.Milliseconds()}
	r.Load[0] = loadAverage()
	begun := time.Now()
	for _, g := range all {
		often := rounds * max(g.often, 1)
		done, err := b.measureGroup(ctx, g, often, d, func(n int) {
			fmt.Fprintf(progress, "%7s  %s: round %d of %d, %d cells\n", time.Since(begun).Round(time.Second), g.name, n, often, len(g.cells))
		})
		if err != nil {
			return nil, err
		}
		r.Groups = append(r.Groups, done)
	}
	r.Load[1] = loadAverage()
	return r, nil
}

func (b *bench) measureGroup(ctx context.Context, g group, rounds int, d time.Duration, progress func(n int)) (done measured, err error) {
	defer func() { err = errors.Join(err, b.closeShared()) }()
	done = measured{Name: g.name, Title: g.title}
	for _, c := range g.cells {
		done.Cells = append(done.Cells, record{Name: c.name, VS: c.vs})
	}
	for n := range rounds {
		progress(n + 1)
		for i := range g.cells {
			if g.pairs && n%2 == 1 {
				i ^= 1
			}
			c := g.cells[i]
			if ctx.Err() != nil {
				return done, ctx.Err()
			}
			if done.Cells[i].Note != "" {
				continue
			}
			got, err := c.measure(b, d)
			switch {
			case isMissing(err):
				done.Cells[i].Note = err.Error()
			case err != nil:
				return done, fmt.Errorf("%s/%s: %w", g.name, c.name, err)
			default:
				for metric, v := range got {
					got[metric] = significant(v)
				}
				done.Cells[i].Rounds = append(done.Cells[i].Rounds, got)
			}
		}
	}
	return done, nil
}

// isMissing reports whether a cell lacks something that not every machine has: it is skipped.
func isMissing(err error) bool {
	return errors.Is(err, peers.ErrNoVenv) || errors.Is(err, errNoProc) || errors.Is(err, errNoMemory) || errors.Is(err, peers.ErrNoRedis)
}
