package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows how far a job is: a bar on a terminal, a line for each quarter elsewhere (a CI's
// log).
type progress struct {
	bar  *progressbar.ProgressBar // nil when out is no terminal
	out  io.Writer
	what string

	mu    sync.Mutex // guards count
	count int
	total int
}

func newProgress(out *os.File, total int, what string) *progress {
	p := &progress{out: out, total: total, what: what}
	if term.IsTerminal(int(out.Fd())) {
		p.bar = progressbar.NewOptions(total,
			progressbar.OptionSetWriter(out),
			progressbar.OptionSetDescription(what),
			progressbar.OptionShowCount(),
			progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(100e6), // ns
			progressbar.OptionClearOnFinish(),
		)
	}
	return p
}

// step counts one more item. It may be called from several goroutines.
func (p *progress) step() {
	if p.bar != nil {
		_ = p.bar.Add(1)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	if quarter := p.count * 4 / p.total; quarter > (p.count-1)*4/p.total {
		fmt.Fprintf(p.out, "%s: %d %%\n", p.what, quarter*25)
	}
}

// done leaves the terminal's line clean, also when the job ended early.
func (p *progress) done() {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}
