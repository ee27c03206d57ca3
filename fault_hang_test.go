//go:build linux

package pypool

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A file system that does not answer, made with seccomp: system calls on paths that have hangMark
// in their last element stay in the kernel, as those on a dead network mount do, until the process
// is killed.

const hangMark = "never-answers"

var hangCalls = []uint32{unix.SYS_EXECVE, unix.SYS_CHDIR, unix.SYS_NEWFSTATAT, unix.SYS_OPENAT, unix.SYS_FACCESSAT}

// hangOn installs the filter for all threads, and from those all processes that are started. Calls
// of the numbers hang on marked paths while armed says so; seen counts them.
func hangOn(armed func(nr uint32) bool, seen *atomic.Int64) {
	debug.SetGCPercent(-1) // the goroutine that answers must run while another is inside a fork
	runtime.GOMAXPROCS(max(4, runtime.GOMAXPROCS(0)))
	const load, equal, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{{Code: load}}
	for i, nr := range hangCalls {
		program = append(program, unix.SockFilter{Code: equal, Jt: uint8(len(hangCalls) - i), K: nr})
	}
	program = append(program, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_USER_NOTIF})
	must(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	ready := make(chan struct{})
	var listener uintptr
	go func() { // ends with the helper
		runtime.LockOSThread()
		<-ready
		var request [80]byte
		var response [24]byte
		for {
			clear(request[:])
			if _, _, errno := syscall.Syscall(unix.SYS_IOCTL, listener, unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&request))); errno != 0 {
				continue
			}
			pid, nr := binary.NativeEndian.Uint32(request[8:]), binary.NativeEndian.Uint32(request[16:])
			arg := 0
			if nr == unix.SYS_NEWFSTATAT || nr == unix.SYS_OPENAT || nr == unix.SYS_FACCESSAT {
				arg = 1
			}
			if armed(nr) && strings.Contains(filepath.Base(stringAt(int(pid), binary.NativeEndian.Uint64(request[32+8*arg:]))), hangMark) {
				seen.Add(1)
				continue
			}
			clear(response[:])
			copy(response[:8], request[:8])
			binary.NativeEndian.PutUint32(response[20:], unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE)
			_, _, _ = syscall.Syscall(unix.SYS_IOCTL, listener, unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&response)))
		}
	}()
	fd, _, errno := syscall.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		must(fmt.Errorf("seccomp: %w", errno))
	}
	listener = fd
	close(ready)
}

// stringAt reads a string in the memory of a process.
func stringAt(pid int, address uint64) string {
	buf := make([]byte, 512)
	local := []unix.Iovec{{Base: &buf[0], Len: uint64(len(buf))}}
	n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(address), Len: len(buf)}}, 0)
	if err != nil || n == 0 { // the rest of its page may be the last
		n, _ = unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(address), Len: 4096 - int(address%4096)}}, 0)
	}
	text, _, _ := strings.Cut(string(buf[:max(n, 0)]), "\x00")
	return text
}

// bounds fails a helper when f takes longer than d, and slack: with the fault it never ends.
func bounds(what string, d time.Duration, f func()) {
	begun := time.Now()
	f()
	if took := time.Since(begun); took > d+slack {
		must(fmt.Errorf("%s took %v, the bound is %v", what, took, d))
	}
}

func init() {
	helpers["host whose interpreter cannot be executed"] = func() {
		hangingHost(unix.SYS_EXECVE)
	}
	helpers["host whose directory cannot be entered"] = func() {
		hangingHost(unix.SYS_CHDIR)
	}
	helpers["host whose files cannot be looked at"] = func() {
		hangingHost(unix.SYS_NEWFSTATAT, unix.SYS_OPENAT, unix.SYS_FACCESSAT)
	}
}

// hangingHost has the system calls hang, in all that a pool does with what its user has named.
func hangingHost(numbers ...uint32) {
	ctx := context.Background()
	dir := os.Getenv("PYPOOL_HOST_DIR")
	python, work := filepath.Join(dir, "python-"+hangMark), filepath.Join(dir, "dir-"+hangMark)
	must(os.WriteFile(python, []byte("#!/bin/sh\nexec "+os.Getenv("PYPOOL_HELPER_PYTHON")+` "$@"`+"\n"), 0o700))
	must(os.Mkdir(work, 0o700))
	script := filepath.Join(work, "worker.py")
	must(os.WriteFile(script, []byte("from pypool import command\n@command\ndef echo(x): return x\n"), 0o600))
	var on atomic.Bool
	var seen atomic.Int64
	hangOn(func(nr uint32) bool { return on.Load() && slices.Contains(numbers, nr) }, &seen)

	cfg := bareHost()
	cfg.Python, cfg.Dir, cfg.Script, cfg.StartTimeout = python, work, script, time.Minute
	p, err := New(ctx, cfg)
	must(err)
	runtime.GC() // New leaves up to 200 MB while the collector is off; the bound below is not for sweeping them
	on.Store(true)
	must(syscall.Kill(p.Workers()[0].PID, syscall.SIGKILL))
	until("the replacement hangs", func() bool { return seen.Load() > 0 })
	bounds("garbage collection", 0, runtime.GC)
	for i := range 20 {
		if got, err := Call[int](ctx, p, "echo", []any{i}); err != nil || got != i {
			must(fmt.Errorf("%v, %v", got, err))
		}
	}
	bounds("Close", 0, func() { must(p.Close()) })

	for _, check := range []func(context.Context, Config) error{Check, func(ctx context.Context, cfg Config) error { _, err := New(ctx, cfg); return err }} {
		const limit = 300 * time.Millisecond
		bounds("New within its context", limit, func() {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			if err := check(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrWorkerStart) {
				must(fmt.Errorf("within its context: %v", err))
			}
		})
		short := cfg
		short.StartTimeout, short.MaxRestarts = limit, 1
		bounds("New within StartTimeout", limit+cfg.KillGrace, func() {
			if err := check(ctx, short); !errors.Is(err, ErrWorkerStart) {
				must(fmt.Errorf("within StartTimeout: %v", err))
			}
		})
	}
	on.Store(false)
	p, err = New(ctx, cfg)
	must(err)
	must(p.Close())
}
