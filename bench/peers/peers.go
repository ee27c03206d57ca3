// Package peers holds what the pool is measured against: the floor, the same JSON loop without a
// pool, and what a user would pick instead. Each is as small as its kind allows, and set up as its
// users would set it up for speed.
package peers

import (
	"embed"
	"errors"
	"os"
)

// Scripts holds the Python halves.
//
//go:embed *.py
var Scripts embed.FS

// Env says with what the peers are run.
type Env struct {
	Python string // the interpreter of the pool's workers
	Venv   string // the interpreter that has the packages of requirements.txt; empty: there is none
	Dir    string // holds Scripts

	environ []string // of a process; nil: this one's
}

// ErrNoVenv is why a peer cannot be measured.
var ErrNoVenv = errors.New("skipped: its Python packages are not installed (make -C bench venv)")

func (e Env) venv() (string, error) {
	if _, err := os.Stat(e.Venv); e.Venv == "" || err != nil {
		return "", ErrNoVenv
	}
	return e.Venv, nil
}

// Peer echoes a text. Calls of one caller come one after another; callers count from 0.
type Peer interface {
	Call(caller int, text string) error
	Close() error
}

// message is what goes both ways.
type message struct {
	Text string `json:"text"`
}

func (m message) check(text string) error {
	if m.Text != text {
		return errors.New("another text came back than was sent")
	}
	return nil
}
