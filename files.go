package pypool

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/pypool/pypool/internal/files"
	"github.com/pypool/pypool/internal/interp"
	"github.com/pypool/pypool/internal/proc"
)

// Config.Files: looked at when a Config is resolved, written by New, removed with the pool.

// resolveFiles looks for the script in Files, and at everything that would be written.
func (c *Config) resolveFiles(bad *faults) {
	if c.target() == "" {
		bad.add("Files", "neither Script nor Module names what is to be run in them")
	}
	if c.WatchScripts {
		bad.add("WatchScripts", "Files are written once, so there is nothing to watch: at the desk leave Files nil, and let Script be the path on the disk")
	}
	if err := files.Check(context.Background(), c.Files); err != nil {
		bad.add("Files", "%w", err)
		return
	}
	if c.Script != "" {
		script, err := files.Script(c.Files, c.Script)
		if err != nil {
			bad.add("Script", "%w", err)
		}
		c.Script = script
	}
}

// scriptPath is where the script is on the disk; empty: there is none.
func (c *Config) scriptPath() string {
	if c.Files == nil || c.Script == "" {
		return c.Script
	}
	return filepath.Join(c.filesDir, filepath.FromSlash(c.Script))
}

// writeFiles writes Files, if there are any, for as long as ctx and StartTimeout allow.
func (c *Config) writeFiles(ctx context.Context) (*files.Tree, error) {
	if c.Files == nil {
		return nil, nil
	}
	if c.StartTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.StartTimeout)
		defer cancel()
	}
	var (
		tree *files.Tree
		err  error
		over atomic.Bool // for whoever comes second, the writer or who waits for it
	)
	_, hung := proc.Bounded(ctx, func() struct{} {
		written, failed := files.Write(ctx, c.Files)
		tree, err = written, failed
		if over.Swap(true) {
			removeFiles(written)
		}
		return struct{}{}
	})
	if hung != nil && !over.Swap(true) {
		return nil, hung
	}
	return tree, err
}

// removeFiles removes what writeFiles has written. The disk may not answer: then it is left to go
// on by itself.
func removeFiles(tree *files.Tree) {
	if tree == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _ = proc.Bounded(ctx, func() error { return tree.Remove() })
}

// filesError is New's when Files could not be written.
func filesError(cfg *Config, python interp.Interpreter, born time.Time, err error) *Error {
	var invalid *files.InvalidError
	if errors.As(err, &invalid) {
		e := newError(TypeInvalidArguments, NotExecuted, "invalid Config: Config.Files: "+err.Error(), err)
		e.Context.Pool = cfg.Name
		return e
	}
	return startError(cfg, python, stageFiles, born, fmt.Errorf("Config.Files: %w", err))
}
