package peers

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/go-zeromq/zmq4"
)

// ZMQ asks a pyzmq REP socket over a Unix socket, by the pure Go client.
type ZMQ struct {
	server *process
	socket zmq4.Socket
}

// NewZMQ starts the server.
func NewZMQ(env Env) (*ZMQ, error) {
	python, err := env.venv()
	if err != nil {
		return nil, err
	}
	endpoint := "ipc://" + filepath.Join(env.Dir, "zmq.sock")
	server, err := env.start(python, "zmq_server.py", endpoint)
	if err != nil {
		return nil, err
	}
	if _, err := server.address(); err != nil {
		return nil, err
	}
	z := &ZMQ{server, zmq4.NewReq(context.Background())}
	if err := z.socket.Dial(endpoint); err != nil {
		return nil, errors.Join(err, z.Close())
	}
	return z, nil
}

// Bytes is for [Octets].
func (z *ZMQ) Bytes(way string, body []byte) error {
	if err := z.socket.Send(zmq4.NewMsgFrom([]byte(way), asked(way, body))); err != nil {
		return err
	}
	got, err := z.socket.Recv()
	if err != nil {
		return err
	}
	return answered(way, body, got.Bytes())
}

func (z *ZMQ) Close() error {
	return errors.Join(z.socket.Close(), z.server.Close())
}
