//go:build linux

package pypool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFaultHostDeath kills a host with SIGKILL in each state of its pool: a second later nothing of
// it is alive, and nothing that its workers had started, unless that left the process group.
func TestFaultHostDeath(t *testing.T) {
	for _, state := range []string{"idle", "busy in Python", "busy in C that holds the GIL", "stopped", "starting", "closing", "with grandchildren"} {
		t.Run("D13_D14_"+state, func(t *testing.T) {
			gate := newLatch(t)
			mark := fmt.Sprintf("%s=%d.%x", faultMark, os.Getpid(), rand.Uint64())
			cmd := helperCommand(t, "dying host", "PYPOOL_HOST_STATE="+state, "PYPOOL_HOST_MARK="+mark, "PYPOOL_HOST_GATE="+gate.path)
			cmd.Stderr = os.Stderr
			line, _ := startHelper(t, cmd)
			require.Equal(t, "in that state\n", line)
			pids := marked(mark)
			want := []int{2}
			if pickSource != nil {
				want = []int{3, 4} // the fork server, and what it may have forked ahead
			}
			if state == "with grandchildren" {
				for i := range want {
					want[i] += 4
				}
			}
			require.Contains(t, want, len(pids), "the workers, and what they started: %v", pids)
			killed := time.Now()
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait()
			eventually(t, "nothing of the host is alive", func() bool { return len(marked(mark)) == 0 })
			within(t, killed, time.Second)
			t.Logf("all gone after %v", time.Since(killed).Round(time.Millisecond))
		})
	}
	t.Run("D34_threads_of_the_host_that_end_kill_no_worker", func(t *testing.T) {
		p := newPool(t, Config{Script: workerScript(t, "faults.py"), Python: realPython(), Size: 4, Overflow: -1})
		before := pids(p)
		for range 4 {
			done := make(chan struct{})
			for range 100 {
				go func() {
					runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
					_, err := p.ExecuteAnonymous(context.Background(), "echo", []any{1})
					if err != nil {
						t.Error(err)
					}
					done <- struct{}{}
				}()
			}
			for range 100 {
				<-done
			}
		}
		require.True(t, serving(p))
		require.Equal(t, before, pids(p))
		require.Zero(t, p.Stats().WorkersExited)
	})
}

func init() {
	helpers["dying host"] = func() {
		ctx := context.Background()
		cfg := hostConfig()
		cfg.ExtraEnv = []string{os.Getenv("PYPOOL_HOST_MARK")}
		cfg.StopGrace = time.Minute
		gate, state := os.Getenv("PYPOOL_HOST_GATE"), os.Getenv("PYPOOL_HOST_STATE")
		if state == "starting" {
			dir, err := os.MkdirTemp("", "pypool-host")
			must(err)
			cfg.Script, cfg.MinReady = filepath.Join(dir, "slow.py"), -1
			source := fmt.Sprintf("open(%q).read()\n", gate)
			if pickSource != nil {
				source = "from pypool import setup\n@setup\ndef wait(): " + source // the import would be the server's
			}
			must(os.WriteFile(cfg.Script, []byte(source), 0o600))
		}
		p, err := New(ctx, cfg)
		must(err)
		both := func(command string, args any) {
			for range cfg.Size {
				background(p, ctx, command, args, WithTimeout(0))
			}
			until("both workers have read their requests", func() bool {
				n := 0
				for _, w := range p.sup.workers() {
					if left, _ := w.proc.Unread(); w.current.now() != nil && left == 0 {
						n++
					}
				}
				return n == cfg.Size
			})
		}
		switch state {
		case "idle":
		case "busy in Python":
			both("loop", nil)
		case "busy in C that holds the GIL":
			both("c_loop", nil)
		case "stopped":
			for _, w := range p.Workers() {
				must(syscall.Kill(w.PID, syscall.SIGSTOP))
			}
		case "starting":
			until("both workers are at their import", func() bool { return waiting(p, gate) == cfg.Size })
			must(os.RemoveAll(filepath.Dir(cfg.Script)))
		case "forking":
			go func() { // as long as the host
				for {
					_ = p.Reload(ctx)
				}
			}()
		case "closing":
			both("nap", []any{60})
			go func() { _ = p.Shutdown(ctx) }()
			<-p.closing
		case "with grandchildren":
			for range cfg.Size {
				_, err := p.ExecuteAnonymous(ctx, "fork_bomb_lite", []any{2})
				must(err)
			}
			both("nap", []any{60})
		}
		fmt.Println("in that state")
		select {}
	}
}

// waiting counts the workers that wait for the FIFO to be opened.
func waiting(p *Pool, gate string) (n int) {
	for _, w := range p.Workers() {
		where, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", w.PID))
		call, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", w.PID))
		// 257 is openat on amd64, 56 on arm64; where neither file can be read, a fifo's wait is all
		// that is left.
		if strings.Contains(string(where), "wait_for_partner") || strings.HasPrefix(string(call), "257 ") || strings.HasPrefix(string(call), "56 ") {
			n++
		}
	}
	return n
}
