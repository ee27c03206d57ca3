package peers

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Packages is the interpreter that has the Python packages of requirements.txt, or ErrNoVenv.
func (e Env) Packages() (string, error) { return e.venv() }

// Model is model.py, which runs its function alone.
type Model struct {
	process *process
	dec     *json.Decoder
}

// NewModel starts it.
func NewModel(env Env) (*Model, error) {
	python, err := env.venv()
	if err != nil {
		return nil, err
	}
	p, err := env.start(python, "model.py")
	if err != nil {
		return nil, err
	}
	return &Model{p, json.NewDecoder(p.out)}, nil
}

// PerSecond is how many inputs it does a second, in batches of 32, for d.
func (m *Model) PerSecond(d time.Duration) (rate float64, err error) {
	if _, err := fmt.Fprintln(m.process.in, d.Seconds()); err != nil {
		return 0, err
	}
	if err := m.dec.Decode(&rate); err != nil {
		return 0, errors.Join(err, m.process.Close())
	}
	return rate, nil
}

func (m *Model) Close() error { return m.process.Close() }
