package pypool

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/pypool/pypool/internal/interp"
)

// What a worker has of its own in its environment: its slot's variables, and its share of the
// processors.

// threadLimits are the variables by which libraries that start threads are told how many, and
// whether they ask OMP_NUM_THREADS where theirs is not set.
var threadLimits = []struct {
	name     string
	fallsOMP bool
}{
	{"OMP_NUM_THREADS", true}, // first: torch, scikit-learn and whatever else uses OpenMP
	{"OPENBLAS_NUM_THREADS", true},
	{"MKL_NUM_THREADS", true},
	{"BLIS_NUM_THREADS", true},
	{"NUMEXPR_NUM_THREADS", true},
	{"VECLIB_MAXIMUM_THREADS", false},
	{"RAYON_NUM_THREADS", false}, // tokenizers
	{"POLARS_MAX_THREADS", false},
}

// threadVariables are those that env does not set, for a pool of so many workers.
func (c *Config) threadVariables(env []string, size int) (extra []string) {
	threads := c.Threads
	switch {
	case threads < 0:
		return nil
	case threads == 0:
		threads = max(1, runtime.GOMAXPROCS(0)/size)
	}
	set := map[string]bool{}
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		set[name] = true
	}
	ownOMP := set["OMP_NUM_THREADS"]
	for _, v := range threadLimits {
		if !set[v.name] && !(ownOMP && v.fallsOMP) { // who has set that one means those, too
			extra = append(extra, v.name+"="+strconv.Itoa(threads))
		}
	}
	return extra
}

// environment is the worker's whole one.
func (w *worker) environment(ctx context.Context) ([]string, error) {
	cfg := w.env.cfg
	env := cfg.Env[:len(cfg.Env):len(cfg.Env)]
	if cfg.WorkerEnv != nil && !w.forking {
		own, err := w.askWorkerEnv(ctx, cfg.WorkerEnv)
		if err != nil {
			return nil, err
		}
		env = append(env, own...)
	}
	return append(env, cfg.threadVariables(env, w.env.size())...), nil
}

// pipeOnly: payloads take the pipe alone. Tests set it.
var pipeOnly atomic.Bool

// payloadMemory is how much memory payloads may have each way, for messages of so many bytes: it is
// there only as far as it is used.
func payloadMemory(maxMessage int) int {
	if pipeOnly.Load() {
		return 0
	}
	const least, most, step = 1 << 20, 1 << 30, 64 << 10
	return (min(max(maxMessage, least), most) + step - 1) &^ (step - 1)
}

// prepare makes the command line that starts this worker. One that is forked has its server's
// environment, and is told what to add to it.
func (w *worker) prepare(ctx context.Context) error {
	if w.env.servers != nil && !w.forking {
		if ask := w.env.cfg.WorkerEnv; ask != nil {
			own, err := w.askWorkerEnv(ctx, ask)
			if err != nil {
				return err
			}
			w.hidden = map[string]string{}
			for _, entry := range own {
				name, value, _ := strings.Cut(entry, "=")
				w.hidden[name] = value
			}
		}
		return nil
	}
	env, err := w.environment(ctx)
	if err != nil {
		return err
	}
	w.spec = w.env.spec
	w.spec.Memory = payloadMemory(w.env.cfg.MaxMessageBytes)
	w.spec.Args, w.spec.Env, w.hidden = interp.Command(bootstrap(), env, w.env.cfg.WatchScripts)
	return nil
}

// askWorkerEnv calls code of the caller's on a goroutine of its own: it may panic, end that, or not
// come back before ctx's end, when it is abandoned.
func (w *worker) askWorkerEnv(ctx context.Context, ask func(int) []string) ([]string, error) {
	type answer struct {
		env     []string
		trouble *trouble
	}
	done := make(chan answer, 1)
	go func() { // ends with the caller's code, for which nobody can wait
		a := answer{trouble: &trouble{}} // Goexit, unless it comes back
		defer func() {
			if a.trouble != nil {
				a.trouble.value = recover()
				w.env.reporter.failure("Config.WorkerEnv", a.trouble)
			}
			done <- a
		}()
		env := ask(w.slot)
		a.env, a.trouble = append([]string(nil), env...), nil
	}()
	select {
	case a := <-done:
		if a.trouble != nil {
			return nil, fmt.Errorf("Config.WorkerEnv(%d) %s", w.slot, a.trouble.describe())
		}
		var bad faults
		bad.addEntries("WorkerEnv", a.env)
		return a.env, errors.Join(bad...)
	case <-ctx.Done():
		return nil, fmt.Errorf("Config.WorkerEnv(%d) has not returned: %w", w.slot, context.Cause(ctx))
	}
}

// addEntries adds what no environment can hold.
func (f *faults) addEntries(field string, entries []string) {
	for _, entry := range entries {
		if name, _, whole := strings.Cut(entry, "="); !whole || strings.ContainsRune(entry, 0) {
			// The value may be a secret: only what stands before it is shown.
			f.add(field, "the entry that begins with %q is not KEY=value without NUL", name[:min(len(name), 16)])
		}
	}
}
