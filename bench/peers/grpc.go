package peers

import (
	"context"
	"encoding/json"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// GRPC calls Python's grpcio, with JSON messages on both sides, so that the transports are compared
// and not the codecs. Caller i talks to server i modulo their number.
type GRPC struct {
	servers []*process
	conns   []*grpc.ClientConn
}

// NewGRPC starts n server processes.
func NewGRPC(env Env, n int) (*GRPC, error) {
	python, err := env.venv()
	if err != nil {
		return nil, err
	}
	servers, addresses, err := env.serve(n, python, "grpc_server.py")
	if err != nil {
		return nil, err
	}
	g := &GRPC{servers: servers}
	for _, address := range addresses {
		conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithNoProxy(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
		if err != nil {
			return nil, errors.Join(err, g.Close())
		}
		g.conns = append(g.conns, conn)
	}
	return g, nil
}

func (g *GRPC) Call(caller int, text string) error {
	var got message
	err := g.conns[caller%len(g.conns)].Invoke(context.Background(), "/bench.Echo/Echo", message{text}, &got, grpc.ForceCodec(jsonCodec{}))
	if err != nil {
		return err
	}
	return got.check(text)
}

// Bytes is for [Octets]: a message is the bytes and no more, without protobuf's own copy of them.
func (g *GRPC) Bytes(way string, body []byte) error {
	var got []byte
	if err := g.conns[0].Invoke(context.Background(), "/bench.Octets/"+way, asked(way, body), &got, grpc.ForceCodec(octetCodec{})); err != nil {
		return err
	}
	return answered(way, body, got)
}

func (g *GRPC) Close() error {
	var errs []error
	for _, conn := range g.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(append(errs, closeAll(g.servers))...)
}

// maxMessage is how many bytes a message may have; 4 MiB is gRPC's own limit.
const maxMessage = 64 << 20

type jsonCodec struct{}

func (jsonCodec) Name() string                       { return "json" }
func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

type octetCodec struct{}

func (octetCodec) Name() string                  { return "octets" }
func (octetCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (octetCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = data
	return nil
}
