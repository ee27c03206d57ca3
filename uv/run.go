package pypooluv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Error is a run of uv that failed. errors.Is tells [ErrOffline] and [ErrResolve] where uv's words
// do.
type Error struct {
	Args   []string // of uv
	Stderr string   // all that it has said
	Reason error    // ErrOffline, ErrResolve, or what ended the process
	Advice string   // what to do, where that is known
}

func (e *Error) Error() string {
	text := "uv: " + summary(e.Stderr)
	if summary(e.Stderr) == "" {
		text = "uv: " + e.Reason.Error()
	}
	if e.Advice != "" {
		text += ": " + e.Advice
	}
	return text
}

func (e *Error) Unwrap() error { return e.Reason }

// summary is what uv has said, in one line: the error, and its innermost cause.
func summary(stderr string) string {
	failure, cause, last := "", "", ""
	current := &last // what a line that begins nothing continues
	for line := range strings.Lines(stderr) {
		text := strings.Join(strings.Fields(line), " ")
		begins := false
		for _, mark := range []struct {
			text string
			of   *string
		}{{"error: ", &failure}, {"× ", &failure}, {"cause: ", &cause}, {"Caused by: ", &cause}, {"╰─▶ ", &cause}, {"├─▶ ", &cause}, {"hint: ", new(string)}} {
			if rest, found := strings.CutPrefix(text, mark.text); found {
				begins, current, *mark.of = true, mark.of, rest
			}
		}
		switch {
		case begins || text == "":
		case current == &last:
			last = text
		default:
			*current += " " + strings.TrimPrefix(text, "│ ")
		}
	}
	switch {
	case failure == "":
		return last
	case cause == "":
		return failure
	}
	return strings.TrimSuffix(failure, ":") + ": " + cause
}

// run runs uv to its end. The lock is uv's, too: when the host is killed nobody else begins until uv
// has ended as well.
func run(ctx context.Context, uv string, args, environ []string, lock *os.File) error {
	cmd := exec.CommandContext(ctx, uv, args...)
	cmd.Env = environ
	cmd.WaitDelay = 5 * time.Second // after the interrupt it is killed
	prepare(cmd, lock)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("uv was ended: %w", context.Cause(ctx))
	}
	e := &Error{Args: args, Stderr: stderr.String(), Reason: err}
	said := strings.ToLower(e.Stderr)
	for _, sign := range signs {
		if strings.Contains(said, sign.words) {
			e.Advice = sign.advice
			if sign.reason != nil {
				e.Reason = sign.reason
			}
			break
		}
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("%w: %s cannot be started: %w", ErrNoUV, uv, err)
	}
	return e
}

const offline = "uv needs a network for what its cache does not have: connect it, name a mirror in UV_DEFAULT_INDEX, or make the environment where there is one " +
	"(call pypooluv.Python in the image's build, and keep Tool.Dir)"

// signs tell by uv's words what is wrong. The first that is found counts.
var signs = []struct {
	words  string
	reason error
	advice string
}{
	{"network was disabled", ErrOffline, offline},
	{"network connectivity is disabled", ErrOffline, offline},
	{"dns error", ErrOffline, offline},
	{"tcp connect error", ErrOffline, offline},
	{"error sending request", ErrOffline, offline},
	{"operation timed out", ErrOffline, offline},
	{"request failed after", ErrOffline, offline},
	{"no interpreter found", ErrResolve, "no such Python is installed, and uv knows none to download: install it, or ask for another in requires-python"},
	{"inspect python interpreter", ErrResolve, "no installed Python is what requires-python asks for, or this one is broken"}, // in the words of uv before 0.6.10
	{"no solution found", ErrResolve, "correct the requirements, or the index that UV_DEFAULT_INDEX names"},
	{"unexpected argument", nil, "this uv is too old, or Tool.Args has what it does not know: `uv self update`, or `pip install -U uv`"},
	{"unrecognized subcommand", nil, "this uv is too old: `uv self update`, or `pip install -U uv`"},
	{"no space left on device", nil, "make room, or name other folders in Tool.Dir and UV_CACHE_DIR"},
}
