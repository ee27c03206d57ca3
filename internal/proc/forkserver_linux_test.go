package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// parent is a fork server's process whose children are those of the test.
type parent struct{ Process }

func (parent) PID() int { return os.Getpid() }

// serverThat gives a fork server that answers what it is asked by answer's text, and sends the
// descriptors along with each.
func serverThat(t *testing.T, files []int, answer func(question string) string) *ForkServer {
	t.Helper()
	ends, err := socketPair(unix.SOCK_SEQPACKET)
	require.NoError(t, err)
	require.NoError(t, unix.SetNonblock(ends[0], true))
	f := &ForkServer{process: parent{}, sock: os.NewFile(uintptr(ends[0]), "fork server"), turn: make(chan struct{}, 1), lost: make(chan struct{})}
	f.turn <- struct{}{}
	f.raw, err = f.sock.SyscallConn()
	require.NoError(t, err)
	left := make(chan struct{})
	go func() {
		defer close(left)
		defer unix.Close(ends[1])
		buf := make([]byte, 256)
		for {
			n, err := unix.Read(ends[1], buf)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 || unix.Sendmsg(ends[1], []byte(answer(string(buf[:n]))), unix.UnixRights(files...), nil, unix.MSG_NOSIGNAL) != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		f.Close()
		<-left
	})
	return f
}

// descriptors counts those of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// sleeper starts a process that nobody waits for.
func sleeper(t *testing.T) (pid int) {
	t.Helper()
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "exec sleep 1000"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Setpgid: true}})
	require.NoError(t, err)
	t.Cleanup(func() { // of one that has been reaped this does nothing
		if parentOf(pid) == os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, 0, nil)
		}
	})
	return pid
}

func TestAForkServerThatNamesNoChildOfItsIsLost(t *testing.T) {
	ended, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
	require.NoError(t, err)
	handle, err := unix.PidfdOpen(ended, 0)
	require.NoError(t, err)
	defer unix.Close(handle)
	_, err = unix.Wait4(ended, nil, 0, nil)
	require.NoError(t, err)
	noHandle, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	require.NoError(t, err)
	defer unix.Close(noHandle)

	grandchild := started(t, `sleep 1000 & echo $!; wait`)
	require.NoError(t, grandchild.Transport().SetDeadline(time.Now().Add(time.Minute)))
	var stranger int
	_, err = fmt.Fscan(grandchild.Transport(), &stranger)
	require.NoError(t, err)
	child := sleeper(t)

	for _, pid := range []int{0, 1, -1, os.Getpid(), stranger, ended, child + 1<<32} {
		for _, said := range []string{"forked %d", "forked %d by number"} {
			for _, file := range []int{handle, noHandle} {
				f := serverThat(t, []int{file}, func(string) string { return fmt.Sprintf(said, pid) })
				before := descriptors(t)
				_, err := f.Fork(t.Context())
				require.ErrorIs(t, err, ErrForkServerLost, said, pid)
				<-f.Lost()
				require.Equal(t, before, descriptors(t), said, pid)
			}
		}
	}
	require.NoError(t, unix.Kill(stranger, 0))
	require.False(t, isEnding(stranger))
}

func TestNoDescriptorThatAForkServerSendsStays(t *testing.T) {
	sent := []int{0, 1}
	for i := range sent {
		n, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		require.NoError(t, err)
		defer unix.Close(n)
		sent[i] = n
	}
	for _, said := range []string{"failed for a reason", "unfit for a reason", "reaped 3 0 0 0", "nonsense", "forked %d", "forked %d by number"} {
		child := sleeper(t)
		f := serverThat(t, sent, func(question string) string {
			if number, reap := strings.CutPrefix(question, "reap"); reap {
				return "lost" + number
			}
			return strings.ReplaceAll(said, "%d", strconv.Itoa(child))
		})
		before := descriptors(t)
		if p, err := f.Fork(t.Context()); err == nil {
			p.Kill()
			<-p.Exited()
			p.Release()
		}
		require.Equal(t, before, descriptors(t), said)
	}
}

func TestAnAnswerOfAnotherWorkersEndIsNotTaken(t *testing.T) {
	child := sleeper(t)
	f := serverThat(t, nil, func(question string) string {
		if question == "fork" {
			return fmt.Sprint("forked ", child)
		}
		return fmt.Sprint("reaped ", child+1, " ", 3<<8, " 0 0")
	})
	p, err := f.Fork(t.Context())
	require.NoError(t, err)
	p.Kill()
	<-p.Exited()
	assert.Equal(t, ExitState{Code: -1, Signal: syscall.SIGKILL, Ours: true}, p.Exit())
	select {
	case <-f.Lost():
	default:
		t.Error("the server is believed")
	}
	p.Release()
}
