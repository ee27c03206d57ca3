package proc

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// theLauncher is the program through which others are executed, and whether it can change the
// directory; empty where there is none.
var theLauncher = sync.OnceValues(func() (path string, chdir bool) {
	for _, path := range []string{"/usr/bin/env", "/bin/env"} {
		if unix.Access(path, unix.X_OK) != nil {
			continue
		}
		cmd := exec.Command(path, "-C", "/", path) // GNU's can, busybox's cannot
		cmd.Env = []string{}
		return path, cmd.Run() == nil
	}
	return "", false
})

func launcher() string {
	path, _ := theLauncher()
	return path
}

// indirect has env(1) execute the program, with the environment and the arguments as they are.
// While an exec hangs that Go has forked for, Go's collector waits for the thread that did, and so
// in the end every goroutine of the host: what is executed by Go itself must be a file that is
// certainly there.
func indirect(l launch) launch {
	if l.err = executable(l.path); l.err != nil {
		return l
	}
	env, chdir := theLauncher()
	if env == "" || strings.Contains(l.path, "=") || !ordinary(l.path) { // what has a = is an assignment to env
		return l
	}
	var args, rest []string
	if l.dir != "" && chdir {
		args, l.dir = append(args, "-C", l.dir), ""
	}
	for _, entry := range l.env {
		if strings.HasPrefix(entry, "LD_") || strings.HasPrefix(entry, "GLIBC_TUNABLES=") {
			args = append(args, entry) // the dynamic linker's: for the program, not for env
		} else {
			rest = append(rest, entry)
		}
	}
	l.args = append(append(args, l.path), l.args...)
	l.path, l.env = env, append([]string{}, rest...)
	return l
}

// executable returns the error that an exec of the path would end in, as far as it can be told.
func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		var why *os.PathError
		if errors.As(err, &why) {
			err = why.Err
		}
	case !info.Mode().IsRegular():
		err = syscall.EACCES
	case os.Geteuid() == os.Getuid(): // access(2) asks for the real one
		err = unix.Access(path, unix.X_OK)
	}
	if err != nil {
		return &os.PathError{Op: "fork/exec", Path: path, Err: err}
	}
	return nil
}

// ordinary reports whether a file is a program of this machine's kind, or a script that names its
// interpreter. Of anything else the kernel's own opinion is wanted: env would have a shell try it.
func ordinary(path string) bool {
	theirs, err := firstBytes(path)
	if errors.Is(err, os.ErrPermission) {
		return true // it may be executed and not read
	}
	if err != nil || bytes.HasPrefix(theirs, []byte("#!")) {
		return err == nil
	}
	ours, err := firstBytes("/proc/self/exe")
	const class, machine = 5, 18 // of an ELF header: its magic and class end, its machine begins
	return err == nil && len(theirs) == len(ours) && bytes.Equal(theirs[:class], ours[:class]) && bytes.Equal(theirs[machine:], ours[machine:])
}

func firstBytes(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, 20)
	n, err := io.ReadFull(f, b)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}
