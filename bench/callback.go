package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/pypool/pypool"
)

// callbackGroup is a handler that calls a trivial function of the Go program again and again, with
// about 100 bytes that come back: as a function of the pool's, and as one would do it without,
// through an HTTP server on a Unix socket that is kept alive.
func callbackGroup() group {
	http := []reference{{"http", "http"}}
	cells := []cell{{"http", nil, func(b *bench, d time.Duration) (round, error) { return b.callbacks("callback_http", d) }}}
	for _, name := range []string{"plain", "aio", "thread"} {
		cells = append(cells, cell{name, http, func(b *bench, d time.Duration) (round, error) { return b.callbacks("callback_"+name, d) }})
	}
	return group{name: "callback", title: "A handler that calls a trivial Go function, ~100 bytes there and back", cells: cells, often: 3}
}

type callbackArgs struct {
	Seconds float64 `json:"seconds"`
	Socket  string  `json:"socket"`
}

// callbackPool is a pool with a function, and the same function behind HTTP.
type callbackPool struct {
	warmPool
	server *http.Server
	socket string
}

func (p callbackPool) Close() error { return errors.Join(p.warmPool.Close(), p.server.Close()) }

// callbacks has a command call the function for d, and returns what each call took, as Python saw
// it.
func (b *bench) callbacks(command string, d time.Duration) (round, error) {
	p, err := share(b, "pool with a function", b.newCallbackPool)
	if err != nil {
		return nil, err
	}
	used := cpuTime()
	spans, err := pypool.Call[[]int64](context.Background(), p.Pool, command, callbackArgs{d.Seconds(), p.socket})
	used = cpuTime() - used
	if err != nil {
		return nil, err
	}
	var took time.Duration
	for _, ns := range spans {
		took += time.Duration(ns)
	}
	slices.Sort(spans)
	n := len(spans)
	return round{
		p50: micros(time.Duration(spans[n/2])), p99: micros(time.Duration(spans[n*99/100])),
		perSecond: float64(n) / took.Seconds(), cpu: micros(used) / float64(n),
	}, nil
}

func (b *bench) newCallbackPool() (p callbackPool, err error) {
	p.socket = filepath.Join(b.Dir, "callback.sock")
	listener, err := net.Listen("unix", p.socket)
	if err != nil {
		return p, err
	}
	type text struct {
		Text string `json:"text"`
	}
	p.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in text
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(in)
	})}
	go func() { _ = p.server.Serve(listener) }() // until Close
	pool, err := pypool.New(context.Background(), pypool.Config{
		Script: b.worker, Python: b.Python, Size: 1, Overflow: -1, Logger: quiet, HealthCheckInterval: -1,
		Functions: pypool.Functions{"echo": pypool.Func(func(_ context.Context, in text) (text, error) { return in, nil })},
	})
	if err != nil {
		return p, errors.Join(err, p.server.Close())
	}
	p.warmPool = warmPool{pool}
	return p, nil
}
