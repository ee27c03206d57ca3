package peers

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"
)

// Executor is Python's own ProcessPoolExecutor, called from a Python program that measures it.
type Executor struct {
	process *process
	enc     *json.Encoder
	dec     *json.Decoder
}

// NewExecutor starts the program with n worker processes.
func NewExecutor(env Env, n int) (*Executor, error) {
	p, err := env.start(env.Python, "executor.py", strconv.Itoa(n))
	if err != nil {
		return nil, err
	}
	return &Executor{p, json.NewEncoder(p.in), json.NewDecoder(p.out)}, nil
}

// Submit measures submit().result() in a loop on each of the callers' threads.
func (e *Executor) Submit(callers int, d time.Duration, text string) (map[string]float64, error) {
	return e.measure(map[string]any{"what": "submit", "callers": callers, "seconds": d.Seconds(), "text": text})
}

// Map measures map(chunksize=64) over so many items, again and again.
func (e *Executor) Map(items int, d time.Duration) (map[string]float64, error) {
	return e.measure(map[string]any{"what": "map", "items": items, "seconds": d.Seconds()})
}

func (e *Executor) measure(asked map[string]any) (measured map[string]float64, err error) {
	if err := e.enc.Encode(asked); err != nil {
		return nil, err
	}
	if err := e.dec.Decode(&measured); err != nil {
		return nil, errors.Join(err, e.process.Close())
	}
	return measured, nil
}

func (e *Executor) Close() error { return e.process.Close() }
