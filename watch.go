package pypool

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/proc"
)

// sourceWatch is Config.WatchScripts: it learns from the workers which source files are theirs,
// looks at those files regularly, and has the workers replaced when one has changed. One look at a
// time runs, as a job of the supervisor.
type sourceWatch struct {
	s    *supervisor
	busy atomic.Bool

	// Only the look that is under way uses these.
	files map[string]stamp // the sources known so far
	dirs  map[string]stamp // their folders, while workers fail to start: a missing module may appear in one
	asked map[string]int64 // calls that a worker had served when it was last asked, and one more
	since time.Time        // no later than the start of any worker that may have failed since
}

// stamp is what tells two versions of a file apart; the zero stamp is that of no file. Its time is
// that of the last change of whatever kind, where the system has one: a file that is put in the
// place of another often has an older time of modification.
type stamp struct{ changed, size int64 }

// stampOf looks at a file; when that takes beyond ctx's end, there is none.
func stampOf(ctx context.Context, path string) stamp {
	s, _ := proc.Bounded(ctx, func() stamp {
		changed, size, err := proc.StatFile(path)
		if err != nil {
			return stamp{}
		}
		return stamp{changed, size}
	})
	return s
}

const (
	debounceStep = 50 * time.Millisecond // a file that is being written is left alone until it has not changed for so long
	debounceMost = 2 * time.Second

	maxSources    = 8192    // files that are watched, whatever workers name: each is looked at each time
	maxSourcePath = 4 << 10 // bytes of a path: PATH_MAX
)

// newSourceWatch knows the script already: a worker that never starts cannot tell of it.
func newSourceWatch(s *supervisor, now time.Time) *sourceWatch {
	w := &sourceWatch{s: s, files: map[string]stamp{}, asked: map[string]int64{}, since: now}
	if s.cfg.Script != "" {
		ctx, cancel := context.WithTimeout(s.ctx, time.Second) // New waits for it
		defer cancel()
		w.files[s.cfg.Script] = stampOf(ctx, s.cfg.Script)
	}
	return w
}

// tick is the chore. It never waits.
func (w *sourceWatch) tick(time.Time) {
	if w.busy.Swap(true) {
		return
	}
	if !w.s.goJob(func() { defer w.busy.Store(false); w.look() }) {
		w.busy.Store(false)
	}
}

// look learns new files, and acts when one has changed since a worker that uses it started.
func (w *sourceWatch) look() {
	changed := append(w.learn(), w.learnFromFailure()...)
	for path, old := range w.files {
		// A file that is missing is being replaced, or no longer imported: only its return counts.
		if now := stampOf(w.s.ctx, path); now != old && now != (stamp{}) {
			w.files[path] = now
			changed = append(changed, path)
		}
	}
	if len(changed) == 0 || !w.debounce(changed) {
		return
	}
	slices.Sort(changed)
	w.since = time.Now()
	clear(w.asked)
	w.s.sourcesChanged(slices.Compact(changed))
}

// learn asks one idle worker, if there is one that has started or served since it was last asked.
// It returns the files that are newer than that worker: no stamp can tell which version it has
// read.
func (w *sourceWatch) learn() (changed []string) {
	asked := make(map[string]int64, len(w.asked)) // of those that are gone nobody asks again
	for worker := range w.s.checkout.all() {
		if at, ok := w.asked[worker.id]; ok {
			asked[worker.id] = at
		}
	}
	w.asked = asked
	chosen := false
	for _, res := range w.s.checkout.inspect(func(res *resource) bool {
		worker := res.Value()
		at := worker.calls.Load() + 1
		if chosen || w.asked[worker.id] == at {
			return false
		}
		chosen, w.asked[worker.id] = true, at
		return true
	}) {
		worker := res.Value()
		sources, err := worker.sources(w.s.asking, pingTimeout)
		w.s.release(res)
		if err != nil {
			continue
		}
		changed = append(changed, w.meet(sources, worker.imported)...)
	}
	return changed
}

// meet takes files into the watch, and returns those of them that are new to it and were changed
// after since.
func (w *sourceWatch) meet(paths []string, since time.Time) (changed []string) {
	for _, path := range paths {
		if _, known := w.files[path]; known || len(w.files) >= maxSources || len(path) > maxSourcePath {
			continue
		}
		now := stampOf(w.s.ctx, path)
		w.files[path] = now
		if now.changed > since.UnixNano() {
			changed = append(changed, path)
		}
	}
	return changed
}

// learnFromFailure watches, while workers fail to start, the files that the last of them had
// imported or that its words name, and the folders of all files.
func (w *sourceWatch) learnFromFailure() (changed []string) {
	w.s.mu.Lock()
	failing, err := len(w.s.history.inARow) > 0, w.s.history.last
	w.s.mu.Unlock()
	if !failing {
		w.dirs = nil
		return nil
	}
	var start *StartError
	if errors.As(err, &start) {
		words := start.Stderr // the traceback is there, too, and what a crash has left
		if hang := (*HangError)(nil); errors.As(err, &hang) {
			words += hang.Stacks
		}
		named := slices.Clone(start.sources)
		for _, m := range tracebackLine.FindAllStringSubmatch(words, -1) {
			if filepath.IsAbs(m[1]) && stampOf(w.s.ctx, m[1]) != (stamp{}) {
				named = append(named, m[1])
			}
		}
		changed = w.meet(named, w.since)
	}
	if w.dirs == nil {
		w.dirs = map[string]stamp{}
	}
	for path := range maps.Keys(w.files) {
		dir := filepath.Dir(path)
		now := stampOf(w.s.ctx, dir)
		if old, known := w.dirs[dir]; known && old != now {
			changed = append(changed, dir)
		}
		w.dirs[dir] = now
	}
	return changed
}

// debounce waits until the changed files stay as they are, so that nobody imports half of one;
// false: the pool is closing.
func (w *sourceWatch) debounce(changed []string) bool {
	for end := time.Now().Add(debounceMost); time.Now().Before(end); {
		select {
		case <-w.s.ctx.Done():
			return false
		case <-time.After(debounceStep):
		}
		still := true
		for _, path := range changed {
			if _, known := w.files[path]; !known {
				continue // a folder
			}
			// A file is often cut to nothing before its bytes are written, and a busy disk may keep it so.
			if now := stampOf(w.s.ctx, path); now != w.files[path] || now.size == 0 {
				w.files[path], still = now, false
			}
		}
		if still {
			break
		}
	}
	return true
}

// sourcesChanged has every worker replaced, as reload does, without waiting for it; an earlier
// failure does not delay it.
func (s *supervisor) sourcesChanged(files []string) {
	s.env.reporter.log(slog.LevelInfo, "sources changed: the workers are being replaced", slog.Any("files", files))
	s.generation.Add(1)
	s.mu.Lock()
	s.history.forgive()
	s.history.useless, s.notAgain = nil, time.Time{}
	clear(s.delays)
	s.mu.Unlock()
	s.kick()
}

// sources asks an idle worker for the source files that it has imported. The caller holds the
// worker; after an error it is in doubt.
func (w *worker) sources(ctx context.Context, d time.Duration) ([]string, error) {
	var answer struct {
		Sources []string `json:"sources"`
	}
	err := w.ask(ctx, d, commandStats, map[string]bool{"sources": true}, &answer)
	if err != nil {
		why := "it did not say what its source files are"
		if ctx.Err() != nil {
			why = poolClosed
		}
		w.blame(why)
	}
	return answer.Sources, err
}
