package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pypool/pypool"
)

// importing is a worker whose import is what its start costs: numpy, and pandas and scikit-learn where
// they are installed.
const importing = `from pypool import command
import numpy
try:
    import pandas, sklearn.linear_model
except ImportError:
    pass

@command
def answer(i: int) -> int:
    return i
`

const forkWorkers = 8

// forkGroup is what Config.ForkServer changes, for workers that import much.
func forkGroup() group {
	g := group{name: "fork", title: "Workers that import numpy (pandas, scikit-learn), executed each or forked from one that has", often: 2}
	executed := func(name string) []reference { return []reference{{"executed", name}} }
	for _, way := range []string{"executed", "forked"} {
		forks := way == "forked"
		vs := func(name string) []reference {
			if forks {
				return executed(name)
			}
			return nil
		}
		g.cells = append(g.cells,
			cell{way + "/new/8", vs("executed/new/1"), func(b *bench, _ time.Duration) (round, error) { return b.opened(forks, forkWorkers) }},
			cell{way + "/replace", vs("executed/replace"), func(b *bench, _ time.Duration) (round, error) { return b.replaced(forks) }},
			cell{way + "/memory", vs("executed/memory"), func(b *bench, _ time.Duration) (round, error) { return b.held(forks) }},
			cell{way + "/call", vs("executed/call"), func(b *bench, d time.Duration) (round, error) {
				p, err := b.importers(forks, 2, nil)
				if err != nil {
					return nil, err
				}
				defer p.Close()
				return drive(1, d, func(int) error {
					_, err := p.ExecuteAnonymous(context.Background(), "answer", []int{1})
					return err
				})
			}})
	}
	g.cells = append(g.cells, cell{"executed/new/1", nil, func(b *bench, _ time.Duration) (round, error) { return b.opened(false, 1) }})
	return g
}

func (b *bench) importers(forks bool, size int, observer *pypool.Observer) (*pypool.Pool, error) {
	python, err := b.Packages()
	if err != nil {
		return nil, err
	}
	script := filepath.Join(b.Dir, "importing.py")
	if err := os.WriteFile(script, []byte(importing), 0o600); err != nil {
		return nil, err
	}
	return pypool.New(context.Background(), pypool.Config{
		Script: script, Python: python, Size: size, Overflow: -1, ForkServer: forks, Observer: observer, Logger: quiet, HealthCheckInterval: -1, StartTimeout: 5 * time.Minute,
	})
}

// opened measures New.
func (b *bench) opened(forks bool, size int) (round, error) {
	begun := time.Now()
	p, err := b.importers(forks, size, nil)
	if err != nil {
		return nil, err
	}
	took := time.Since(begun)
	return round{ms: millis(took)}, p.Close()
}

// replaced measures the time from a worker's death until another is ready, and apart from it how long
// it takes to die, which is the kernel's: medians of several.
func (b *bench) replaced(forks bool) (round, error) {
	ready := make(chan time.Time, 64)
	p, err := b.importers(forks, 2, &pypool.Observer{Event: func(e pypool.Event) {
		if e.Kind == pypool.EventWorkerStarted {
			ready <- time.Now()
		}
	}})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	for range 2 {
		<-ready
	}
	var died, took []time.Duration
	for range 5 {
		if _, err := p.ExecuteAnonymous(context.Background(), "answer", []int{1}); err != nil {
			return nil, err
		}
		time.Sleep(20 * time.Millisecond)
		killed := time.Now()
		pid := p.Workers()[0].PID
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			return nil, err
		}
		for isAlive(pid) {
		}
		dead := time.Now()
		died = append(died, dead.Sub(killed))
		select {
		case at := <-ready:
			took = append(took, at.Sub(dead))
		case <-time.After(time.Minute):
			return nil, fmt.Errorf("no worker was started in place of one that was killed")
		}
	}
	slices.Sort(died)
	slices.Sort(took)
	return round{ms: millis(took[len(took)/2]), dying: millis(died[len(died)/2])}, nil
}

// isAlive reports whether a process has not ended: it may still be there to be reaped.
func isAlive(pid int) bool {
	const state, threads = 0, 17
	fields, err := statOf(pid)
	return err == nil && len(fields) > threads && (fields[state] != "Z" && fields[state] != "X" || fields[threads] != "0" && fields[threads] != "1")
}

// held is what the workers hold together, their fork server and what that has forked ahead included,
// for each of them.
func (b *bench) held(forks bool) (round, error) {
	p, err := b.importers(forks, forkWorkers, nil)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	var pids []int
	for i := range 20 * forkWorkers {
		if _, err := p.ExecuteAnonymous(context.Background(), "answer", []int{i}); err != nil {
			return nil, err
		}
	}
	for _, w := range p.Workers() {
		pids = append(pids, w.PID)
	}
	if forks {
		server, err := parentOf(pids[0])
		if err != nil {
			return nil, errNoProc
		}
		time.Sleep(100 * time.Millisecond) // until it has forked ahead
		if pids, err = childrenOf(server); err != nil {
			return nil, errNoProc
		}
		pids = append(pids, server)
	}
	r, err := resident(pids)
	for metric := range r {
		r[metric] *= float64(len(pids)) / forkWorkers
	}
	return r, err
}

func childrenOf(parent int) (pids []int, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if of, err := parentOf(pid); err == nil && of == parent { // else it has gone
			pids = append(pids, pid)
		}
	}
	return pids, err
}

func parentOf(pid int) (parent int, err error) {
	fields, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(fields[1])
}

// statOf returns the fields of a process's stat behind its name: its state, its parent and so on.
func statOf(pid int) ([]string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])), err
}
