package peers

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// process is a Python script on two pipes. It ends at the end of its stdin.
type process struct {
	cmd     *exec.Cmd
	in, out *os.File
	errs    bytes.Buffer // complete once the process has ended
	wait    func() error

	patience time.Duration // after the end of its stdin it is killed; 0: 2 s
}

func (e Env) start(python, script string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(python, append([]string{filepath.Join(e.Dir, script)}, args...)...)}
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer inR.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		inW.Close()
		return nil, err
	}
	defer outW.Close()
	p.in, p.out = inW, outR
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = inR, outW, &p.errs
	p.cmd.Env = e.environ
	p.wait = sync.OnceValue(p.cmd.Wait)
	if err := p.cmd.Start(); err != nil {
		inW.Close()
		outR.Close()
		return nil, err
	}
	return p, nil
}

// startAll starts n of them, or none.
func (e Env) startAll(n int, python, script string, args ...string) (all []*process, err error) {
	for range n {
		p, err := e.start(python, script, args...)
		if err != nil {
			return nil, errors.Join(err, closeAll(all))
		}
		all = append(all, p)
	}
	return all, nil
}

func closeAll(all []*process) error {
	var errs []error
	for _, p := range all {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// Close ends the process. Its error says what a script that failed has written.
func (p *process) Close() error {
	p.in.Close()
	impatient := time.AfterFunc(cmp.Or(p.patience, 2*time.Second), func() { _ = p.cmd.Process.Kill() })
	defer impatient.Stop()
	err := p.wait()
	p.out.Close()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(p.cmd.Args[1]), err, strings.TrimSpace(p.errs.String()))
	}
	return nil
}

// address is where a server listens.
func (p *process) address() (string, error) {
	port, err := bufio.NewReader(p.out).ReadString('\n')
	if err != nil {
		return "", errors.Join(fmt.Errorf("the server did not come up: %w", err), p.Close())
	}
	return "127.0.0.1:" + strings.TrimSpace(port), nil
}

// serve starts n servers side by side and returns where they listen.
func (e Env) serve(n int, python, script string) (all []*process, addresses []string, err error) {
	if all, err = e.startAll(n, python, script); err != nil {
		return nil, nil, err
	}
	for i, p := range all {
		address, err := p.address()
		if err != nil {
			return nil, nil, errors.Join(err, closeAll(append(all[:i:i], all[i+1:]...)))
		}
		addresses = append(addresses, address)
	}
	return all, addresses, nil
}
