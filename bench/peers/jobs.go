package peers

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// ErrNoRedis is why the queues on Redis cannot be measured.
var ErrNoRedis = errors.New("skipped: there is no redis-server in the PATH")

// Redis is a redis-server as it is without a configuration file: it keeps nothing but snapshots.
type Redis struct {
	cmd *exec.Cmd
	URL string
}

// NewRedis starts one.
func NewRedis(env Env) (*Redis, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, ErrNoRedis
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(address, ":")
	r := &Redis{exec.Command(path, "--bind", "127.0.0.1", "--port", port, "--dir", env.Dir), "redis://" + address + "/0"}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for range 500 { // 5 s
		if conn, err := net.Dial("tcp", address); err == nil {
			return r, conn.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, errors.Join(errors.New("redis-server did not come up"), r.Close())
}

func (r *Redis) Close() error {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait() // killed
	return nil
}

// Jobs is a job queue, or Ray Serve, called from a Python program that measures it: see jobs.py.
type Jobs struct {
	process *process
	enc     *json.Encoder
	dec     *json.Decoder
}

// NewJobs starts celery, dramatiq or ray. The queues are on redis.
func NewJobs(env Env, which, redis string) (*Jobs, error) {
	python, err := env.venv()
	if err != nil {
		return nil, err
	}
	p, err := env.startWith([]string{"BENCH_REDIS=" + redis, "RAY_USAGE_STATS_ENABLED=0"}, python, "jobs.py", which, env.Dir)
	if err != nil {
		return nil, err
	}
	p.patience = 30 * time.Second
	j := &Jobs{p, json.NewEncoder(p.in), json.NewDecoder(p.out)}
	var up struct{}
	if err := j.dec.Decode(&up); err != nil {
		return nil, errors.Join(fmt.Errorf("%s did not come up: %w", which, err), j.Close())
	}
	return j, nil
}

// Measure measures calls of so many callers for d.
func (j *Jobs) Measure(callers int, d time.Duration) (measured map[string]float64, err error) {
	if err := j.enc.Encode(map[string]any{"callers": callers, "seconds": d.Seconds()}); err != nil {
		return nil, err
	}
	if err := j.dec.Decode(&measured); err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return measured, nil
}

func (j *Jobs) Close() error { return j.process.Close() }

// startWith starts a script with more in its environment.
func (e Env) startWith(more []string, python, script string, args ...string) (*process, error) {
	e.environ = append(os.Environ(), more...)
	return e.start(python, script, args...)
}
