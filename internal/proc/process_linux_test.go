package proc

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// started runs a shell script as a worker's process, which is ended with the test.
func started(t *testing.T, script string) Process {
	t.Helper()
	sp := NewSpawner()
	p, err := Start(t.Context(), sp, Spec{Path: "/bin/sh", Args: []string{"-c", script}, Env: os.Environ()})
	if err != nil {
		sp.Close()
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		p.Kill()
		<-p.Exited()
		p.Release()
		sp.Close()
	})
	return p
}

func TestAProcessAnswersOnItsTransportAndEnds(t *testing.T) {
	p := started(t, `read line; echo "got $line"; echo aside >&2; exit 3`)
	tr := p.Transport()
	require.NoError(t, tr.SetDeadline(time.Now().Add(time.Minute)))
	_, err := tr.Write([]byte("this\n"))
	require.NoError(t, err)
	said, err := io.ReadAll(tr)
	require.NoError(t, err)
	assert.Equal(t, "got this\n", string(said))
	aside, _ := io.ReadAll(p.Stderr())
	assert.Equal(t, "aside\n", string(aside))
	<-p.Exited()
	assert.Equal(t, ExitState{Code: 3}, p.Exit())
	assert.True(t, p.Ending())
	_, err = tr.TryWrite([]byte("x"))
	assert.ErrorIs(t, err, syscall.EPIPE)
}

func TestNoSignalIsSentToAProcessThatHasBeenReaped(t *testing.T) {
	p := started(t, "exit 0").(*process)
	<-p.Exited()
	p.Signal(func(int) { t.Error("a signal would have been sent") })
	p.Kill()
	assert.False(t, p.Exit().Ours)
}

func TestAKilledProcessTakesItsGroupAlong(t *testing.T) {
	p := started(t, `sleep 1000 & echo $!; wait`)
	require.NoError(t, p.Transport().SetDeadline(time.Now().Add(time.Minute)))
	buf := make([]byte, 32)
	_, err := p.Transport().Read(buf)
	require.NoError(t, err)
	require.Len(t, groupMembers(p.PID()), 1)
	p.Kill()
	<-p.Exited()
	assert.True(t, p.Exit().Ours)
	assert.Equal(t, syscall.SIGKILL, p.Exit().Signal)
	// Where its own parent has gone, init reaps it in its own time: a zombie does not count.
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		alive := 0
		for _, other := range All() {
			if other.Group == p.PID() && other.State != 'Z' {
				alive++
			}
		}
		if alive == 0 {
			break
		}
		require.True(t, time.Now().Before(end), "the group is alive")
	}
}

// A process that is given up is released, and ends later: by then the number of its interpreter's
// descriptor may be another's.
func TestAReleasedProcessSignalsNobodyElse(t *testing.T) {
	sp := NewSpawner()
	t.Cleanup(sp.Close)
	given, err := Start(t.Context(), sp, Spec{Path: "/bin/sh", Args: []string{"-c", `sleep 1000 & echo $!; wait`}, Env: os.Environ()})
	require.NoError(t, err)
	p := given.(*process)
	require.NoError(t, p.Transport().SetDeadline(time.Now().Add(time.Minute)))
	var python int
	_, err = fmt.Fscan(p.Transport(), &python)
	require.NoError(t, err)
	require.NoError(t, p.Adopt(python))
	was := p.child.fd
	require.Positive(t, was)
	p.Release()

	stranger := started(t, `read line; echo "got $line"`)
	var opened []int
	for len(opened) == 0 || opened[len(opened)-1] < was { // the lowest that is free is given
		n, err := unix.PidfdOpen(stranger.PID(), 0)
		require.NoError(t, err)
		defer unix.Close(n)
		opened = append(opened, n)
	}
	require.Contains(t, opened, was)
	p.Kill()
	<-p.Exited()
	require.NoError(t, stranger.Transport().SetDeadline(time.Now().Add(time.Minute)))
	_, err = stranger.Transport().Write([]byte("this\n"))
	require.NoError(t, err)
	said, err := io.ReadAll(stranger.Transport())
	require.NoError(t, err)
	assert.Equal(t, "got this\n", string(said))
}

func TestWhatNobodyHasReadIsCounted(t *testing.T) {
	p := started(t, `echo 12345; sleep 1000`)
	_, err := p.Transport().TryWrite([]byte("unread"))
	require.NoError(t, err)
	n, ok := p.Unread()
	require.True(t, ok)
	assert.Equal(t, 6, n)
	pending := p.Transport().(*pipes).Pending
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		n, ok = pending()
		require.True(t, ok)
		if n == len("12345\n") {
			break
		}
		require.True(t, time.Now().Before(end), "only %d bytes come", n)
	}
}

func TestEveryDescriptorOfAProcessIsTold(t *testing.T) {
	p := started(t, "read line").(*process)
	numbers := p.Descriptors()
	assert.Len(t, numbers, 8, "stdin, stdout and its set, stderr, stacks, what asks for them and takes that back, leash")
	for _, n := range numbers {
		assert.Greater(t, n, uintptr(2))
	}
}

func TestAStartThatCannotBeSaysWhy(t *testing.T) {
	sp := NewSpawner()
	defer sp.Close()
	_, err := Start(t.Context(), sp, Spec{Path: "/nowhere/python"})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Start(t.Context(), sp, Spec{Path: "/bin/sh", Dir: "/nowhere"})
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.True(t, strings.HasPrefix(err.Error(), "Config.Dir: "), err.Error())
}

func TestOutputIsWhatACommandPrints(t *testing.T) {
	out, err := Spec{Path: "/bin/sh", Args: []string{"-c", "echo $NAME"}, Env: []string{"NAME=value"}, Dir: "/nowhere", DirIsHosts: true}.Output(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "value\n", string(out))
}

// The deadline by which finish wakes a reader may come behind the reader's own look at the end.
func TestTheEndIsNeverTakenForADeadline(t *testing.T) {
	p, stdin, stdout, err := newPipes()
	require.NoError(t, err)
	defer p.Close()
	defer stdin.Close()
	defer stdout.Close()
	p.ended.Store(true)
	stop := make(chan struct{})
	var finishing sync.WaitGroup
	finishing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				p.finish()
			}
		}
	})
	for range 20_000 {
		_, err := p.Read(make([]byte, 8))
		if err != io.EOF {
			assert.ErrorIs(t, err, io.EOF)
			break
		}
	}
	close(stop)
	finishing.Wait()
}

func TestWhatWasWrittenInTimeIsReadAlsoAfterTheDeadline(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	_, err = w.WriteString("last words")
	require.NoError(t, err)
	require.NoError(t, r.SetReadDeadline(time.Unix(1, 0)))

	text, err := io.ReadAll(&lateReader{f: r, most: 7})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, "last wo", string(text), "a writer that goes on for ever ends nowhere")
	text, err = io.ReadAll(&lateReader{f: r, most: 100})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, "rds", string(text))
}

func TestAProcessThatAnswersInTimeHasItsStacksReadByAHostThatIsLate(t *testing.T) {
	stack, written, err := os.Pipe()
	require.NoError(t, err)
	defer stack.Close()
	defer written.Close()
	p := &process{ends: &endpoints{stack: stack}}
	const dump = "asked c3 a1\nThread 0x00000000000000a1 (most recent call first):\n  File \"a.py\", line 2 in main\n"
	_, err = written.WriteString(dump + dumpEnd)
	require.NoError(t, err)
	require.Equal(t, dump+dumpEnd, p.readStacks(time.Unix(1, 0)))
	require.Empty(t, p.readStacks(time.Unix(1, 0)))
}

// A child that has left the group holds the pipe, and writes into it for as long as it lives.
func TestNothingIsReadThatComesBehindTheEndOfTheProcess(t *testing.T) {
	for name, read := range map[string]func(*pipes, []byte) (int, error){"Read": (*pipes).Read, "TryRead": (*pipes).TryRead} {
		t.Run(name, func(t *testing.T) {
			p, stdin, stdout, err := newPipes()
			require.NoError(t, err)
			defer p.Close()
			defer stdin.Close()
			defer stdout.Close()
			const capacity = 1 << 20 // what a process without privileges may widen a pipe to
			_, err = unix.FcntlInt(stdout.Fd(), unix.F_SETPIPE_SZ, capacity)
			require.NoError(t, err)
			own := make([]byte, capacity-1000)
			_, err = stdout.Write(own)
			require.NoError(t, err)
			p.finish()
			_, err = stdout.Write(make([]byte, 100))
			require.NoError(t, err)
			got, buf := 0, make([]byte, 4096)
			for {
				n, err := read(p, buf)
				got += n
				if err != nil {
					require.ErrorIs(t, err, io.EOF)
					break
				}
				if got == 4096 { // the child fills what was read at once
					_, err = stdout.Write(make([]byte, 1000))
					require.NoError(t, err)
				}
			}
			require.Equal(t, len(own), got)
		})
	}
}
