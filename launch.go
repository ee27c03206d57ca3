package pypool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// How programs and files that the user names are touched. They may lie on a network mount that has died: whoever asks for one then
// does not come back, not even when killed.

// hungGrace is what a question may take that is asked, or answered, when its context has ended already.
const hungGrace = 100 * time.Millisecond

// bounded runs f, which touches what the user has named, and returns when it has ended or soon after ctx has. Then f is abandoned: its
// goroutine ends when the kernel lets it, and nobody can wait for that.
func bounded[T any](ctx context.Context, f func() T) (v T, err error) {
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
	timer := time.NewTimer(hungGrace)
	defer timer.Stop()
	select {
	case v = <-done:
		return v, nil
	case <-timer.C:
		return v, fmt.Errorf("the file system does not answer (a dead network mount?): %w", context.Cause(ctx))
	}
}

// launch is a command line that can be executed without the host waiting for what the user has named.
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

// prepare checks what can be told about the command line beforehand, and says how it is executed. It may hang: see bounded.
func (spec spawnSpec) prepare() launch {
	l := launch{path: spec.path, args: spec.args, dir: spec.dir, env: spec.env}
	if l.dir != "" {
		if err := enterable(l.dir); err != nil {
			if !spec.dirIsHosts || !errors.Is(err, os.ErrNotExist) {
				l.err = fmt.Errorf("Config.Dir: %w", err)
				return l
			}
			l.dir = "" // the host is still in it, though it has no path any more
		}
	}
	return indirect(l)
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

// execErrors are what executing a file may end in. Their texts are the C library's, but for the case of the first letter.
var execErrors = []syscall.Errno{
	syscall.ENOENT, syscall.EACCES, syscall.ENOEXEC, syscall.E2BIG, syscall.EPERM, syscall.ELOOP, syscall.ENOTDIR, syscall.EIO, syscall.ENOMEM,
	syscall.EINVAL, syscall.EISDIR, syscall.ENAMETOOLONG, syscall.EAGAIN, syscall.EMFILE, syscall.ENFILE,
}

// failedExec is the error of the exec that did not come about behind the launcher, when the exit of a process that had not said hello
// tells of one; else nil.
func (spec spawnSpec) failedExec(exit *ExitError) error {
	if exit.Code < 125 || exit.Code > 127 || launcher() == "" {
		return nil
	}
	for line := range strings.Lines(exit.Stderr) {
		said, ok := strings.CutPrefix(strings.TrimSpace(line), launcher()+":")
		if !ok {
			said, ok = strings.CutPrefix(strings.TrimSpace(line), "env:")
		}
		path, chdir := spec.path, exit.Code == 125 && spec.dir != "" && strings.Contains(said, spec.dir)
		if !ok || !chdir && !strings.Contains(said, spec.path) {
			continue // a wrapper's own words, perhaps
		}
		op := "fork/exec"
		if chdir {
			op, path = "chdir", spec.dir
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
