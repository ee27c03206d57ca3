package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/bench/peers"
)

// bytesPeers are what else carries bytes that way, beside FastAPI: gRPC, ZeroMQ, and a file in
// memory whose path is in a call of the pool.
func bytesPeers(prefix, way string, size int) []cell {
	vs := []reference{{"memcpy", prefix + "memcpy"}, {"pool", prefix + "pool"}}
	return []cell{
		octetsCell(prefix+"grpc", way, size, func(b *bench) (peers.Octets, error) { return peers.NewGRPC(b.Env, 1) }, vs),
		octetsCell(prefix+"zmq", way, size, func(b *bench) (peers.Octets, error) { return peers.NewZMQ(b.Env) }, vs),
		{prefix + "file", vs, func(b *bench, d time.Duration) (round, error) {
			p, err := b.pool(1)
			if err != nil {
				return nil, err
			}
			body := make([]byte, b.size(size))
			return drive(1, d, func(int) error { return byFile(p.Pool, way, body) })
		}},
	}
}

func octetsCell(name, way string, size int, open func(*bench) (peers.Octets, error), vs []reference) cell {
	return cell{name, vs, func(b *bench, d time.Duration) (round, error) {
		p, err := share(b, filepath.Base(name)+" of bytes", func() (peers.Octets, error) { return open(b) })
		if err != nil {
			return nil, err
		}
		body := make([]byte, b.size(size))
		return drive(1, d, func(int) error { return p.Bytes(way, body) })
	}}
}

// memoryFolder is a file system that is memory.
const memoryFolder = "/dev/shm"

var errNoMemory = errors.New("skipped: this system has no " + memoryFolder)

type fileArgs struct {
	Path string `json:"path"`
	Size int    `json:"size,omitempty"`
}

// byFile is what one writes who has a pool that carries text: each call has files of its own, and
// leaves none behind.
func byFile(p *pypool.Pool, way string, body []byte) (err error) {
	file, err := os.CreateTemp(memoryFolder, "pypool-bench-")
	if errors.Is(err, fs.ErrNotExist) {
		return errNoMemory
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	if way != "out" {
		_, err = file.Write(body)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	args := fileArgs{Path: file.Name()}
	switch way {
	case "in":
		n, err := pypool.Call[int](context.Background(), p, "file_in", args)
		return check(err, n == len(body))
	case "out":
		args.Size = len(body)
	}
	back, err := pypool.Call[string](context.Background(), p, "file_"+way, args)
	if err != nil {
		return err
	}
	if back != args.Path {
		defer func() { err = errors.Join(err, os.Remove(back)) }()
	}
	data, err := os.ReadFile(back)
	return check(err, len(data) == len(body))
}
