package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/bench/peers"
	pypoolnats "github.com/pypool/pypool/nats"
)

// jobsGroup is work that is done elsewhere and asked for by name, at once or as a job that is kept,
// beside what one would use for that in Python.
func jobsGroup() group {
	g := group{name: "jobs", title: "Calls over NATS and jobs on JetStream, from the request to its outcome, two worker processes; a bare NATS request is Go to Go"}
	for _, callers := range []int{1, 8} {
		at := func(name string) string { return fmt.Sprintf("%s/%dc", name, callers) }
		request, call, job := reference{"request", at("request")}, reference{"call", at("call")}, reference{"job", at("job")}
		add := func(name string, vs []reference, do func(s *services) error) {
			g.cells = append(g.cells, cell{name, vs, func(b *bench, d time.Duration) (round, error) {
				s, err := share(b, "services", b.newServices)
				if err != nil {
					return nil, err
				}
				return drive(callers, jobRound(d), func(int) error { return do(s) })
			}})
		}
		add(request.Cell, nil, func(s *services) error {
			m, err := s.conn.Request("bare", []byte(`{"x":7}`), time.Minute)
			return check(err, err == nil && len(m.Data) == 7)
		})
		add(call.Cell, []reference{request}, func(s *services) error {
			x, err := pypool.Call[int](context.Background(), s.client, "same", xArgs{7})
			return check(err, x == 7)
		})
		add(job.Cell, []reference{request}, func(s *services) error {
			ctx := context.Background()
			job, err := pypoolnats.Enqueue(ctx, s.js, "bench", "same", xArgs{7})
			if err != nil {
				return err
			}
			done, err := job.Wait(ctx)
			return check(err, string(done.Raw()) == "7")
		})
		for _, which := range []string{"celery", "dramatiq", "ray"} {
			g.cells = append(g.cells, cell{at(which), []reference{request, call, job}, func(b *bench, d time.Duration) (round, error) {
				redis := &peers.Redis{}
				if which != "ray" {
					var err error
					if redis, err = share(b, "a redis", func() (*peers.Redis, error) { return peers.NewRedis(b.Env) }); err != nil {
						return nil, err
					}
				}
				j, err := share(b, which, func() (*peers.Jobs, error) { return peers.NewJobs(b.Env, which, redis.URL) })
				if err != nil {
					return nil, err
				}
				return j.Measure(callers, jobRound(d))
			}})
		}
	}
	return g
}

// jobRound is longer than others' rounds: some queues take a tenth of a second for one job.
func jobRound(d time.Duration) time.Duration { return 4 * d }

// services is a nats-server, in this process, a pool of two that serves calls and jobs, and who
// asks.
type services struct {
	end    []func() error
	conn   *nats.Conn
	client *pypoolnats.Client
	js     jetstream.JetStream
}

// Close ends them in the reverse order of their beginning.
func (s *services) Close() error {
	var errs []error
	for i := range s.end {
		errs = append(errs, s.end[len(s.end)-1-i]())
	}
	return errors.Join(errs...)
}

func (b *bench) newServices() (*services, error) {
	s := &services{}
	if err := s.start(b); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *services) start(b *bench) error {
	dir, err := os.MkdirTemp(b.Dir, "jetstream-")
	if err != nil {
		return err
	}
	broker, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, JetStream: true, StoreDir: dir})
	if err != nil {
		return err
	}
	broker.Start()
	s.end = append(s.end, func() error {
		broker.Shutdown()
		broker.WaitForShutdown()
		return nil
	})
	if !broker.ReadyForConnections(20 * time.Second) {
		return errors.New("the nats-server did not come up")
	}
	var conns [3]*nats.Conn // who asks, who serves, who answers bare requests
	for i := range conns {
		if conns[i], err = nats.Connect(broker.ClientURL()); err != nil {
			return err
		}
		s.end = append(s.end, func() error { conns[i].Close(); return nil })
	}
	if _, err := conns[2].QueueSubscribe("bare", "q", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		return err
	}
	if err := conns[2].Flush(); err != nil {
		return err
	}
	p, err := b.newPool(2)
	if err != nil {
		return err
	}
	s.end = append(s.end, p.Close)
	service, err := pypoolnats.Serve(conns[1], "bench", p.Pool)
	if err != nil {
		return err
	}
	s.end = append(s.end, service.Close)
	s.conn, s.client = conns[0], pypoolnats.NewClient(conns[0], "bench")
	s.end = append(s.end, func() error { s.client.Close(); return nil })
	worker, err := jetstream.New(conns[1])
	if err != nil {
		return err
	}
	if s.js, err = jetstream.New(conns[0]); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- pypoolnats.Work(ctx, worker, "bench", p.Pool, pypoolnats.WithWorkLogger(quiet)) }()
	s.end = append(s.end, func() error { cancel(); return <-ended })
	return nil
}
