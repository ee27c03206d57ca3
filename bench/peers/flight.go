package peers

import (
	"context"
	"errors"
	"io"
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/flight"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Flight is pyarrow's Arrow Flight server, asked by arrow-go's client.
type Flight struct {
	server *process
	client flight.Client
}

// NewFlight starts the server.
func NewFlight(env Env) (*Flight, error) {
	python, err := env.venv()
	if err != nil {
		return nil, err
	}
	servers, addresses, err := env.serve(1, python, "flight_server.py")
	if err != nil {
		return nil, err
	}
	client, err := flight.NewClientWithMiddleware("passthrough:///"+addresses[0], nil, nil, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, errors.Join(err, closeAll(servers))
	}
	return &Flight{servers[0], client}, nil
}

// Group sends a table, and returns how many rows its groups are.
func (f *Flight) Group(batches []arrow.RecordBatch) (rows int64, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := f.client.DoExchange(ctx)
	if err != nil {
		return 0, err
	}
	w := flight.NewRecordWriter(stream, ipc.WithSchema(batches[0].Schema()))
	w.SetFlightDescriptor(&flight.FlightDescriptor{Type: flight.DescriptorCMD, Cmd: []byte("group")})
	for _, batch := range batches {
		if err := w.Write(batch); err != nil {
			return 0, err
		}
	}
	if err := errors.Join(w.Close(), stream.CloseSend()); err != nil {
		return 0, err
	}
	r, err := flight.NewRecordReader(stream)
	if err != nil {
		return 0, err
	}
	defer r.Release()
	for {
		batch, err := r.Read()
		if err == io.EOF {
			return rows, nil
		}
		if err != nil {
			return 0, err
		}
		rows += batch.NumRows()
	}
}

func (f *Flight) Close() error { return errors.Join(f.client.Close(), f.server.Close()) }
