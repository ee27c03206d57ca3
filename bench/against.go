package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// Two builds of this program can be compared round by round in one run: one asks the other, a
// process of its own, to measure the same cell right before or after it. This is how a change of
// the pool is judged.

const againstTitle = "base"

type order struct {
	Cell string        `json:"cell"` // empty: end what the group has opened
	For  time.Duration `json:"for"`
}

type answer struct {
	Round round  `json:"round"`
	Error string `json:"error"`
}

// serve measures cells by order of another build.
func serve(in io.Reader, out io.Writer, b *bench) error {
	cells := map[string]cell{}
	for _, g := range groups() {
		for _, c := range g.cells {
			cells[g.name+"/"+c.name] = c
		}
	}
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		if err := dec.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var a answer
		var err error
		if c, ok := cells[o.Cell]; ok {
			a.Round, err = c.measure(b, o.For)
		} else if o.Cell == "" {
			err = b.closeShared()
		} else {
			err = fmt.Errorf("this build has no cell %s", o.Cell)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
}

// other is another build at work.
type other struct {
	enc *json.Encoder
	dec *json.Decoder
}

func newOther(orders io.Writer, answers io.Reader) *other {
	return &other{json.NewEncoder(orders), json.NewDecoder(answers)}
}

// startOther starts another build of this program as a server; end ends it.
func startOther(binary, python, venv string) (o *other, end func() error, err error) {
	cmd := exec.Command(binary, "-serve", "-python", python, "-venv", venv)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return newOther(in, out), func() error {
		in.Close()
		return cmd.Wait()
	}, nil
}

func (o *other) measure(cell string, d time.Duration) (round, error) {
	if err := o.enc.Encode(order{cell, d}); err != nil {
		return nil, err
	}
	var a answer
	if err := o.dec.Decode(&a); err != nil {
		return nil, fmt.Errorf("the other build has ended: %w", err)
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return a.Round, nil
}

// Close is called at the end of each group: it ends what the group has opened in the other build,
// not that build.
func (o *other) Close() error {
	_, err := o.measure("", 0)
	return err
}

// beside gives each cell of the group a twin that the other build measures.
func (o *other) beside(g group) group {
	var cells []cell
	for _, c := range g.cells {
		twin := cell{name: c.name + "@" + againstTitle, measure: func(b *bench, d time.Duration) (round, error) {
			b.shared[againstTitle] = o
			return o.measure(g.name+"/"+c.name, d)
		}}
		c.vs = []reference{{againstTitle, twin.name}}
		cells = append(cells, c, twin)
	}
	g.cells, g.pairs = cells, true
	return g
}
