package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/pypool/pypool/internal/receive"
)

// How programs and files that the user names are touched. They may lie on a network mount that has
// died: whoever asks for one then does not come back, not even when killed.

// hungGrace is what a question may take that is asked, or answered, when its context has ended
// already.
const hungGrace = 100 * time.Millisecond

// Bounded runs f, which touches what the user has named, and returns when it has ended or soon
// after ctx has. Then f is abandoned: its goroutine ends when the kernel lets it, and nobody can
// wait for that.
func Bounded[T any](ctx context.Context, f func() T) (v T, err error) {
	done := make(chan T, 1)
	go func() { done <- f() }()
	return outcomeOf(ctx, done)
}

// outcomeOf waits for what done brings, or for a moment beyond ctx's end.
func outcomeOf[T any](ctx context.Context, done <-chan T) (v T, err error) {
	select {
	case v = <-done:
		return v, nil
	case <-ctx.Done():
	}
	v, ok := receive.Within(done, hungGrace)
	if !ok {
		err = fmt.Errorf("the file system does not answer (a dead network mount?): %w", context.Cause(ctx))
	}
	return v, err
}

// launch is a command line that can be executed without the host waiting for what the user has
// named.
type launch struct {
	path string
	args []string // without argv[0]
	dir  string
	env  []string
	err  error // it cannot be executed
}

// command is the launch as os/exec takes it.
func (l *launch) command() *exec.Cmd {
	cmd := exec.Command(l.path, l.args...)
	cmd.Dir, cmd.Env = l.dir, l.env
	return cmd
}

// prepare checks what can be told about the command line beforehand, and says how it is executed.
// It may hang: see Bounded.
func (spec Spec) prepare() launch {
	l := launch{path: spec.Path, args: spec.Args, dir: spec.Dir, env: spec.Env}
	if l.dir != "" {
		if err := enterable(l.dir); err != nil {
			if !spec.DirIsHosts || !errors.Is(err, os.ErrNotExist) {
				l.err = fmt.Errorf("Config.Dir: %w", err)
				return l
			}
			l.dir = "" // it has no path any more, but the host may be in it
		}
	}
	if l.dir == "" && spec.Host != nil {
		if now, err := os.Stat("."); err != nil || !os.SameFile(now, spec.Host) {
			l.err = fmt.Errorf("Config.Dir: %w: it is gone that was the host's working directory when New was called; set Dir to one that stays", os.ErrNotExist)
			return l
		}
	}
	return indirect(l)
}

// Output runs the command line to its end, or to ctx's, and returns what it printed; also when that
// hangs in the kernel.
func (spec Spec) Output(ctx context.Context) ([]byte, error) {
	type result struct {
		out []byte
		err error
	}
	r, hung := Bounded(ctx, func() result {
		l := spec.prepare()
		if l.err != nil {
			return result{nil, l.err}
		}
		cmd := exec.CommandContext(ctx, l.path, l.args...)
		cmd.Dir, cmd.Env, cmd.WaitDelay = l.dir, l.env, time.Second
		out, err := cmd.Output()
		return result{out, err}
	})
	if hung != nil {
		return nil, hung
	}
	return r.out, r.err
}

func enterable(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &os.PathError{Op: "chdir", Path: dir, Err: syscall.ENOTDIR}
	}
	_, err = os.Stat(dir + string(os.PathSeparator) + ".")
	return err
}

// execErrors are what executing a file may end in. Their texts are the C library's, but for the
// case of the first letter.
var execErrors = []syscall.Errno{
	syscall.ENOENT, syscall.EACCES, syscall.ENOEXEC, syscall.E2BIG, syscall.EPERM, syscall.ELOOP, syscall.ENOTDIR, syscall.EIO, syscall.ENOMEM,
	syscall.EINVAL, syscall.EISDIR, syscall.ENAMETOOLONG, syscall.EAGAIN, syscall.EMFILE, syscall.ENFILE,
}

// FailedExec is the error of the exec that did not come about behind the launcher, when the exit of
// a process that had not said hello tells of one; else nil. code and stderr are what the process
// left.
func (spec Spec) FailedExec(code int, stderr string) error {
	if code < 125 || code > 127 || launcher() == "" {
		return nil
	}
	for line := range strings.Lines(stderr) {
		said, ok := strings.CutPrefix(strings.TrimSpace(line), launcher()+":")
		if !ok {
			said, ok = strings.CutPrefix(strings.TrimSpace(line), "env:")
		}
		path, chdir := spec.Path, code == 125 && spec.Dir != "" && strings.Contains(said, spec.Dir)
		if !ok || !chdir && !strings.Contains(said, spec.Path) {
			continue // a wrapper's own words, perhaps
		}
		op := "fork/exec"
		if chdir {
			op, path = "chdir", spec.Dir
		}
		var why error = errors.New(strings.TrimSpace(said[strings.LastIndexByte(said, ':')+1:]))
		for _, errno := range execErrors {
			if strings.HasSuffix(strings.ToLower(said), errno.Error()) {
				why = errno
			}
		}
		err := error(&os.PathError{Op: op, Path: path, Err: why})
		if chdir {
			err = fmt.Errorf("Config.Dir: %w", err)
		}
		return err
	}
	return nil
}
