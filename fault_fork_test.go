//go:build linux

package pypool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// forkPool gives the row a pool of two workers that a fork server makes of faults.py.
func (r *rig) forkPool(t *testing.T) *Pool {
	t.Helper()
	cfg := r.config(t)
	cfg.ForkServer = true
	p, err := New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		workers := pids(p)
		require.NoError(t, p.Close())
		for _, pid := range workers {
			gone(t, pid) // those whose server was killed are init's to reap
		}
	})
	r.pool, r.shared = p, false
	return p
}

func killed(pids ...int) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // some are on their way out
	}
}

// Group P, the fork server: what its workers have of their own, and its own death.
var forkFaults = []fault{
	{name: "P1_the_servers_death_while_calls_run", run: func(t *testing.T, r *rig) {
		p := r.forkPool(t)
		server, before := theServer(t, p), pids(p)
		calls := []*blocked{r.block(t, context.Background()), r.block(t, context.Background())}
		killed(server)
		gone(t, server)
		for _, b := range calls {
			b.release(t)
			require.NoError(t, ended(t, b.end).err)
		}
		require.ElementsMatch(t, before, pids(p))
		// They end in order or not, known by their pidfds alone.
		_, err := p.ExecuteAnonymous(context.Background(), "os_exit", []any{3})
		failsWith(t, err, ErrWorkerExited, MaybeExecuted)
	}},
	{name: "P2_the_servers_death_with_that_of_its_workers", run: func(t *testing.T, r *rig) {
		p := r.forkPool(t)
		for range 3 {
			server := theServer(t, p)
			killed(append(pids(p), server)...)
			eventually(t, "all are replaced", func() bool { return serving(p) && !slices.Contains(serversOf(p), server) })
			executed(t, p, "echo", nil)
		}
	}},
	{name: "P3_the_servers_death_at_any_moment_of_a_fork", run: func(t *testing.T, r *rig) {
		p := r.forkPool(t)
		random := rand.New(rand.NewPCG(3, 4))
		for range 12 {
			server := theServer(t, p)
			killed(pids(p)[0])
			time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
			killed(server)
			executed(t, p, "echo", nil)
			eventually(t, "it is mended", func() bool { return serving(p) })
			p.sup.env.servers.leave(p.sup.env.servers.use(0)) // there is one before the next round
		}
		require.Zero(t, p.Stats().Failed)
	}},
	{name: "P4_a_server_that_is_stopped", run: func(t *testing.T, r *rig) {
		p := r.forkPool(t)
		for _, how := range []struct {
			command string
			args    any
			exit    ExitError
		}{{"os_exit", []any{3}, ExitError{Code: 3}}, {"segfault", nil, ExitError{Code: -1, Signal: syscall.SIGSEGV}}} {
			server := theServer(t, p)
			stop(t, server)
			_, err := p.ExecuteAnonymous(context.Background(), how.command, how.args)
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			exit := detail[*ExitError](t, err)
			require.Equal(t, how.exit, ExitError{Code: exit.Code, Signal: exit.Signal}, "it has left that, though nobody has reaped it")
			eventually(t, "it is replaced", func() bool { return serving(p) && !slices.Contains(serversOf(p), server) })
			gone(t, server)
		}
	}},
	{name: "P5_a_stopped_server_does_not_hold_up_Close", run: func(t *testing.T, r *rig) {
		p := r.forkPool(t)
		stop(t, theServer(t, p))
		begun := time.Now()
		require.NoError(t, p.Close())
		within(t, begun, 4*time.Second)
	}},
	{name: "P6_a_worker_that_leaves_its_group_is_killed_all_the_same", run: func(t *testing.T, r *rig) {
		cfg := processConfig(t, r)
		cfg.ForkServer = true
		killedAstray(t, r, cfg, "host")
	}},
	{name: "P7_no_descriptor_left_for_a_fork", run: func(t *testing.T, r *rig) {
		cmd := helperCommand(t, "host without descriptors", r.mark, sourceEnv+"=forkserver")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}},
	{name: "P8_Close_while_the_server_imports", run: func(t *testing.T, r *rig) {
		gate := newLatch(t)
		cfg := r.config(t)
		cfg.ForkServer, cfg.MinReady, cfg.Script = true, -1, script(t, fmt.Sprintf("open(%q).read()\n", gate.path))
		p := r.own(t, cfg)
		server := theServer(t, p)
		begun := time.Now()
		require.NoError(t, p.Close())
		within(t, begun, time.Second)
		gone(t, server)
	}},
	{name: "P9_Reload_while_calls_run_and_the_servers_die", run: func(t *testing.T, r *rig) {
		p := r.forkPool(t)
		done := make(chan struct{})
		calls := make(chan error, 1)
		go func() { // joined by calls
			var failed error
			for !isClosed(done) {
				if _, err := p.ExecuteAnonymous(context.Background(), "echo", []any{1}); err != nil {
					failed = err
				}
			}
			calls <- failed
		}()
		for i := range 4 {
			if i%2 == 1 {
				killed(serversOf(p)[0])
			}
			require.NoError(t, p.Reload(context.Background()))
		}
		close(done)
		require.NoError(t, <-calls)
	}},
}

// TestFaultForkHostDeath kills a host with SIGKILL whose workers a fork server makes, in the midst
// of its forks, too.
func TestFaultForkHostDeath(t *testing.T) {
	for _, state := range []string{"idle", "busy in C that holds the GIL", "starting", "forking"} {
		t.Run(state, func(t *testing.T) {
			gate := newLatch(t)
			mark := fmt.Sprintf("%s=%d.%x", faultMark, os.Getpid(), rand.Uint64())
			cmd := helperCommand(t, "dying host", sourceEnv+"=forkserver", "PYPOOL_HOST_STATE="+state, "PYPOOL_HOST_MARK="+mark, "PYPOOL_HOST_GATE="+gate.path)
			cmd.Stderr = os.Stderr
			line, _ := startHelper(t, cmd)
			require.Equal(t, "in that state\n", line)
			if state == "forking" {
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
			} else {
				require.Contains(t, []int{3, 4}, len(marked(mark)), "the workers, their server, and what that has forked ahead")
			}
			begun := time.Now()
			require.NoError(t, cmd.Process.Kill())
			_ = cmd.Wait()
			eventually(t, "nothing of the host is alive", func() bool { return len(marked(mark)) == 0 })
			within(t, begun, time.Second)
		})
	}
}

// TestTheFaultTableOfForkedWorkers plays a part of the fault table with workers that are forked;
// PYPOOL_TEST_SOURCE=forkserver plays all of it.
func TestTheFaultTableOfForkedWorkers(t *testing.T) {
	if pickSource != nil {
		t.Skip("all tests do")
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), exe, "-test.run", "^TestFault$/^(A7_|B4_|B5_|B8_|B17_|D18_|D35|F2_|G4_|G17_|J2_|K2_)", "-test.timeout", "5m")
	cmd.Env = append(os.Environ(), sourceEnv+"=forkserver")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "PASS")
}
