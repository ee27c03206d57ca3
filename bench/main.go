// Command bench measures pypool: against the floor of what a round trip to Python can cost, against
// the same loop without a pool, and against what one would use instead. See README.md.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"runtime/trace"
	"time"
)

//go:embed worker.py
var workerScript []byte

type options struct {
	run        string
	rounds     int
	cell       time.Duration
	limit      time.Duration
	out        string
	python     string
	venv       string
	against    string
	cpuProfile string
	trace      string
	alone      bool
	list       bool
	compare    bool
	serve      bool
}

func main() {
	var o options
	flag.StringVar(&o.run, "run", "", "measure only the cells whose GROUP/NAME matches this `regexp`, and their references")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each cell")
	flag.DurationVar(&o.cell, "cell", 300*time.Millisecond, "length of a cell's round")
	flag.DurationVar(&o.limit, "limit", 20*time.Minute, "give up after this time")
	flag.StringVar(&o.out, "out", "", "keep the results in this `folder`, and the plot when the peers were measured")
	flag.StringVar(&o.python, "python", defaultPython(), "the interpreter")
	flag.StringVar(&o.venv, "venv", filepath.Join(".venv", "bin", "python"), "the interpreter with the peers' packages")
	flag.StringVar(&o.against, "against", "", "another `build` of this program: measure each cell in both, round by round")
	flag.StringVar(&o.cpuProfile, "cpuprofile", "", "write a CPU profile of the run to this `file`")
	flag.StringVar(&o.trace, "trace", "", "write an execution trace of the run to this `file`")
	flag.BoolVar(&o.alone, "alone", false, "leave out the references: for a profile or a trace")
	flag.BoolVar(&o.list, "list", false, "list the cells")
	flag.BoolVar(&o.compare, "compare", false, "compare the newest results in the folder of -out with the last committed ones, or two named files")
	flag.BoolVar(&o.serve, "serve", false, "measure by order of another build, on stdin and stdout")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	if err := o.main(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func defaultPython() string {
	if python := os.Getenv("PYPOOL_PYTHON"); python != "" {
		return python
	}
	return "python3"
}

func (o *options) main(ctx context.Context) error {
	switch {
	case o.compare:
		return o.compareRuns()
	case flag.NArg() > 0 || o.rounds < 1 || o.cell <= 0:
		return errors.New("no arguments are taken, -rounds must be 1 or more, and -cell more than 0")
	}
	wanted, err := regexp.Compile(o.run)
	if err != nil {
		return err
	}
	chosen := choose(groups(), wanted, !o.alone && o.against == "")
	if o.list {
		for _, g := range chosen {
			for _, c := range g.cells {
				fmt.Println(g.name + "/" + c.name)
			}
		}
		return nil
	}
	b, err := newBench(ctx, o.python, o.venv)
	if err != nil {
		return err
	}
	defer b.close()
	if o.serve {
		return serve(os.Stdin, os.Stdout, b)
	}
	if o.against != "" {
		base, end, err := startOther(o.against, b.Python, b.Venv)
		if err != nil {
			return err
		}
		defer end()
		for i := range chosen {
			chosen[i] = base.beside(chosen[i])
		}
	}
	stop, err := o.profile()
	if err != nil {
		return err
	}
	defer time.AfterFunc(o.limit, func() {
		fmt.Fprintf(os.Stderr, "bench: not finished after %v (-limit); the processes end with this one\n", o.limit)
		os.Exit(1)
	}).Stop()
	r, err := b.measure(ctx, chosen, o.rounds, o.cell, os.Stderr)
	if err = errors.Join(err, stop()); err != nil {
		return err
	}
	r.print(os.Stdout)
	if o.against == "" {
		r.printTargets(os.Stdout)
	}
	return o.keep(r)
}

// profile starts what was asked for, and returns what ends it.
func (o *options) profile() (stop func() error, err error) {
	var files []*os.File
	start := func(path string, with func(io.Writer) error) {
		if path == "" || err != nil {
			return
		}
		var f *os.File
		if f, err = os.Create(path); err == nil {
			files = append(files, f)
			err = with(f)
		}
	}
	start(o.cpuProfile, pprof.StartCPUProfile)
	start(o.trace, trace.Start)
	return func() error {
		pprof.StopCPUProfile()
		trace.Stop()
		var errs []error
		for _, f := range files {
			errs = append(errs, f.Close())
		}
		return errors.Join(errs...)
	}, err
}

// keep writes the results, and the plot when there is something in it.
func (o *options) keep(r *results) error {
	if o.out == "" {
		return nil
	}
	path, err := r.save(o.out)
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "bench: results are in", path)
	if len(r.bars("8c", perSecond)) == 0 {
		return nil
	}
	return r.draw(filepath.Join(o.out, "latest.png"))
}

func (o *options) compareRuns() error {
	var now, before string
	var err error
	switch flag.NArg() {
	case 0:
		now, before, err = lastTwo(o.out)
	case 2:
		now, before = flag.Arg(0), flag.Arg(1)
	default:
		err = errors.New("-compare takes no files, or two: the new and the old one")
	}
	if err != nil {
		return err
	}
	newer, err := load(now)
	if err != nil {
		return err
	}
	older, err := load(before)
	if err != nil {
		return err
	}
	compare(os.Stdout, newer, older)
	return nil
}

// choose keeps the cells that are wanted, and those that they are set against.
func choose(all []group, wanted *regexp.Regexp, references bool) (chosen []group) {
	for _, g := range all {
		keep := map[string]bool{}
		for _, c := range g.cells {
			if !wanted.MatchString(g.name + "/" + c.name) {
				continue
			}
			keep[c.name] = true
			for _, vs := range c.vs {
				keep[vs.Cell] = keep[vs.Cell] || references
			}
		}
		var cells []cell
		for _, c := range g.cells {
			if keep[c.name] {
				cells = append(cells, c)
			}
		}
		if g.cells = cells; len(cells) > 0 {
			chosen = append(chosen, g)
		}
	}
	return chosen
}
