package peers

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Naive is the pool that everybody writes first: processes in a channel, encoding/json on both
// pipes, maps, and a goroutine a call so that it can time out.
type Naive struct {
	processes []*process
	idle      chan *naiveWorker
}

type naiveWorker struct {
	id  int
	enc *json.Encoder
	dec *json.Decoder
}

// NewNaive starts n processes.
func NewNaive(env Env, n int) (*Naive, error) {
	all, err := env.startAll(n, env.Python, "naive.py")
	if err != nil {
		return nil, err
	}
	pool := &Naive{processes: all, idle: make(chan *naiveWorker, n)}
	for _, p := range all {
		pool.idle <- &naiveWorker{enc: json.NewEncoder(p.in), dec: json.NewDecoder(p.out)}
	}
	return pool, nil
}

func (n *Naive) Call(_ int, text string) error {
	w := <-n.idle
	defer func() { n.idle <- w }()
	done := make(chan error, 1)
	go func() { done <- w.call(text) }()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		return errors.New("timeout")
	}
}

func (w *naiveWorker) call(text string) error {
	w.id++
	request := map[string]any{"id": w.id, "command": "echo", "args": map[string]any{"text": text}}
	if err := w.enc.Encode(request); err != nil {
		return err
	}
	var answer map[string]any
	if err := w.dec.Decode(&answer); err != nil {
		return err
	}
	result, ok := answer["result"].(map[string]any)
	if !ok || answer["id"] != float64(w.id) {
		return fmt.Errorf("not the answer: %v", answer)
	}
	got, _ := result["text"].(string)
	return message{got}.check(text)
}

func (n *Naive) Close() error { return closeAll(n.processes) }
