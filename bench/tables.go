package main

import (
	"bytes"
	"context"
	"path/filepath"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/pypool/pypool"
	pypoolarrow "github.com/pypool/pypool/arrow"
	"github.com/pypool/pypool/bench/peers"
)

const (
	tableRows   = 1_000_000
	tableGroups = 1000
)

// tableGroup is a table that goes to Python, is grouped there, and comes back as a small one,
// against what no carrier can spare.
func tableGroup() group {
	alone := reference{"alone", "alone"}
	return group{name: "table", title: "A million rows (int64, float64, string) there, a group-by, and its table back; alone: the group-by of a table that Python has, and Arrow written in Go", often: 3, cells: []cell{
		tableCell(alone.Cell, nil, func(b *bench) (func(arrow.RecordBatch) error, error) {
			p, err := b.tablePool()
			if err != nil {
				return nil, err
			}
			if _, err := pypool.Call[int](context.Background(), p.Pool, "hold", tableArgs{pypoolarrow.RecordBatch{RecordBatch: b.rows()}}); err != nil {
				return nil, err
			}
			var out bytes.Buffer // written again and again, as a socket's buffer would be
			return func(rows arrow.RecordBatch) error {
				out.Reset()
				w := ipc.NewWriter(&out, ipc.WithSchema(rows.Schema()))
				if err := w.Write(rows); err != nil {
					return err
				}
				if err := w.Close(); err != nil {
					return err
				}
				n, err := pypool.Call[int](context.Background(), p.Pool, "group_held", nil)
				return check(err, n == tableGroups)
			}, nil
		}),
		tableCell("pool", []reference{alone}, func(b *bench) (func(arrow.RecordBatch) error, error) {
			p, err := b.tablePool()
			if err != nil {
				return nil, err
			}
			return func(rows arrow.RecordBatch) error {
				groups, err := pypoolarrow.Call(context.Background(), p.Pool, "group", tableArgs{pypoolarrow.RecordBatch{RecordBatch: rows}})
				return check(err, err == nil && groups.NumRows() == tableGroups)
			}, nil
		}),
		tableCell("flight", []reference{alone, {"pool", "pool"}}, func(b *bench) (func(arrow.RecordBatch) error, error) {
			f, err := share(b, "flight", func() (*peers.Flight, error) { return peers.NewFlight(b.Env) })
			if err != nil {
				return nil, err
			}
			return func(rows arrow.RecordBatch) error {
				n, err := f.Group([]arrow.RecordBatch{rows})
				return check(err, n == tableGroups)
			}, nil
		}),
	}}
}

type tableArgs struct {
	Table pypoolarrow.RecordBatch `json:"table"`
}

func tableCell(name string, vs []reference, open func(*bench) (func(arrow.RecordBatch) error, error)) cell {
	return cell{name, vs, func(b *bench, d time.Duration) (round, error) {
		call, err := open(b)
		if err != nil {
			return nil, err
		}
		rows := b.rows()
		return drive(1, d, func(int) error { return call(rows) })
	}}
}

// tablePool is one worker that has pyarrow.
func (b *bench) tablePool() (warmPool, error) {
	return share(b, "pool of tables", func() (warmPool, error) {
		python, err := b.Packages()
		if err != nil {
			return warmPool{}, err
		}
		p, err := pypool.New(context.Background(), pypool.Config{
			Script: filepath.Join(b.Dir, "table_worker.py"), Python: python, Size: 1, Overflow: -1, Logger: quiet, HealthCheckInterval: -1,
		})
		return warmPool{p}, err
	})
}

// madeRows is a table that cells of a group share.
type madeRows struct{ arrow.RecordBatch }

func (madeRows) Close() error { return nil }

// rows makes the table.
func (b *bench) rows() arrow.RecordBatch {
	made, _ := share(b, "rows", func() (madeRows, error) { // it does not fail
		names := []string{"Ann", "Bob", "a name of some length", "Grüße"}
		build := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{
			{Name: "key", Type: arrow.PrimitiveTypes.Int64}, {Name: "value", Type: arrow.PrimitiveTypes.Float64}, {Name: "name", Type: arrow.BinaryTypes.String},
		}, nil))
		rows := b.size(tableRows)
		build.Reserve(rows)
		for row := range rows {
			build.Field(0).(*array.Int64Builder).Append(int64(row % tableGroups))
			build.Field(1).(*array.Float64Builder).Append(float64(row) / 2)
			build.Field(2).(*array.StringBuilder).Append(names[row%len(names)])
		}
		return madeRows{build.NewRecordBatch()}, nil
	})
	return made.RecordBatch
}
