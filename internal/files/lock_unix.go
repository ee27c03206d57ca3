//go:build unix

package files

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

var errNotOurs = errors.New("the folder is another user's")

// tryLock locks a folder of this user's for as long as the host lives, whatever ends it. It also
// keeps systemd-tmpfiles from taking the folder for an old one.
func tryLock(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && int(st.Uid) != os.Geteuid() {
		err = errNotOurs
	}
	if err == nil {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		_ = f.Close()
		return nil, &os.PathError{Op: "lock", Path: dir, Err: err}
	}
	return f, nil
}

func unlock(f *os.File) {
	if f != nil {
		_ = f.Close()
	}
}
