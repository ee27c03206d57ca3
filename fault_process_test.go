//go:build linux

package pypool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/pypool/pypool/internal/proc"
)

// Group G, the process and what it shares with the host: rows are named by the trial that found the
// first of their kind.
var processFaults = []fault{
	{name: "G1_a_truncated_page_cannot_kill_the_host", run: func(t *testing.T, r *rig) {
		runHelper(t, "host of workers that spoil the shared memory", r.mark)
	}},
	{name: "G1b_nonsense_in_the_page_costs_nothing", run: func(t *testing.T, r *rig) {
		p := r.own(t, processConfig(t, r))
		for _, value := range []uint64{0, 1, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64} {
			for i := range 20 {
				require.NotZero(t, decoded[int](t, executed(t, p, "scribble", []any{value})))
				require.Equal(t, i, decoded[int](t, executed(t, p, "echo", []any{i})))
			}
		}
	}},
	{name: "G13_a_handler_that_overwrites_the_page_and_exits_may_have_executed", run: func(t *testing.T, r *rig) {
		cfg := processConfig(t, r)
		cfg.Size = 3
		p := r.own(t, cfg)
		for _, then := range []string{"scribble and exit", "scribble and kill"} {
			path := filepath.Join(t.TempDir(), "notes")
			_, err := p.ExecuteAnonymous(context.Background(), "note", []any{path, then})
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			require.Equal(t, 1, notes(t, path), "it ran once")
			r.epilogue(t)
		}
	}},
	{name: "G13b_so_may_an_item_of_Map", run: func(t *testing.T, r *rig) {
		p := r.own(t, processConfig(t, r))
		path := filepath.Join(t.TempDir(), "notes")
		in := []any{[]any{path, "return"}, []any{path, "scribble and exit"}, []any{path, "return"}, []any{path, "return"}}
		var failed []error
		for _, err := range Map[string](context.Background(), p, "note", slices.Values(in)) {
			if err != nil {
				failed = append(failed, err)
			}
		}
		require.Len(t, failed, 1)
		failsWith(t, failed[0], ErrWorkerExited, MaybeExecuted)
		require.Equal(t, len(in), notes(t, path), "each ran once")
	}},
	{name: "G13c_items_of_Map_that_nobody_has_read_run_elsewhere", run: func(t *testing.T, r *rig) {
		cfg := processConfig(t, r)
		cfg.Size = 1
		p := r.own(t, cfg)
		w := p.sup.workers()[0]
		stop(t, w.proc.PID())
		path := filepath.Join(t.TempDir(), "notes")
		in := slices.Repeat([]any{[]any{path, "return"}}, 50)
		done := make(chan []error, 1)
		go func() { // joined by done
			var errs []error
			for _, err := range Map[string](context.Background(), p, "note", slices.Values(in)) {
				errs = append(errs, err)
			}
			done <- errs
		}()
		eventually(t, "requests are in the pipe", func() bool { n, known := w.proc.Unread(); return known && n > 0 })
		require.NoError(t, syscall.Kill(w.proc.PID(), syscall.SIGKILL))
		require.Equal(t, make([]error, len(in)), <-done)
		require.Equal(t, len(in), notes(t, path), "each ran once")
	}},
	{name: "G4_a_worker_goes_first_when_memory_runs_out", run: func(t *testing.T, r *rig) {
		ours, err := strconv.Atoi(strings.TrimSpace(procFile(t, "/proc/self/oom_score_adj")))
		require.NoError(t, err)
		cfg := processConfig(t, r)
		cfg.Script = script(t, "from pypool import command\nat_import = open('/proc/self/oom_score_adj').read()\n@command\ndef scores():\n"+
			"    import subprocess\n    return [int(s) for s in (at_import, open('/proc/self/oom_score_adj').read(), subprocess.check_output(['cat', '/proc/self/oom_score_adj']))]\n")
		p := r.own(t, cfg)
		for range 3 {
			want := min(1000, ours+500)
			require.Equal(t, []int{want, want, want}, decoded[[]int](t, executed(t, p, "scores", nil)), "at import, in a call, and of what it starts")
		}
		for _, w := range p.Workers() {
			require.Equal(t, fmt.Sprintln(min(1000, ours+500)), procFile(t, fmt.Sprintf("/proc/%d/oom_score_adj", w.PID)))
		}
	}},
	{name: "G12_an_interpreter_that_is_a_wrapper_without_exec", run: func(t *testing.T, r *rig) {
		for name, text := range wrappers {
			t.Run(name, func(t *testing.T) { wrapped(t, r, text) })
		}
	}},
	{name: "G12b_a_wrapper_that_takes_Python_out_of_its_group_is_refused", run: func(t *testing.T, r *rig) {
		for _, how := range []string{"os.setpgid(0, 0)", "os.setsid()", "os.setpgid(0, os.getpgid(%d))"} {
			if strings.Contains(how, "%") {
				how = fmt.Sprintf(how, os.Getpid()) // the host's own group
			}
			cfg := processConfig(t, r)
			cfg.Python = wrapper(t, realPython()+` -c 'import os, subprocess, sys; sys.exit(subprocess.run([sys.executable] + sys.argv[1:], close_fds=False, preexec_fn=lambda: `+how+`).returncode)' "$@"`+"\nexit $?\n")
			_, err := New(t.Context(), cfg)
			failsWith(t, err, ErrWorkerStart, NotExecuted)
			require.ErrorContains(t, err, "exec")
			require.ErrorContains(t, err, "not in the process group")
		}
		r.pool = nil
		eventually(t, "the refused interpreter is gone", func() bool { return len(r.strangers()) == 0 })
	}},
	{name: "G12c_nothing_outlives_a_host_whose_interpreter_is_a_wrapper", run: func(t *testing.T, r *rig) {
		for name, text := range wrappers {
			for _, state := range []string{"c_loop", "loop", "idle"} {
				t.Run(name+"/"+state, func(t *testing.T) { killHost(t, wrapper(t, text), state, 4) })
			}
		}
	}},
	{name: "G15_a_worker_that_leaves_its_group_is_killed_all_the_same", run: func(t *testing.T, r *rig) {
		for i, how := range []string{"host", "child", "host", "child", "setpgid"} {
			cfg := processConfig(t, r)
			if i > 1 {
				cfg.Python = wrapper(t, realPython()+` "$@"`+"\ntrue\n")
			}
			p := killedAstray(t, r, cfg, how)
			r.epilogue(t)
			require.NoError(t, p.Close())
		}
	}},
	{name: "G15b_nor_does_it_outlive_its_host", run: func(t *testing.T, r *rig) {
		killHost(t, realPython(), "wander", 2)
		killHost(t, wrapper(t, realPython()+` "$@"`+"\ntrue\n"), "wander", 4)
	}},
	{name: "G15c_workers_have_no_terminal", run: func(t *testing.T, r *rig) {
		// The host gets a terminal of its own, which its workers ask for a password: they must
		// neither wait nor be stopped.
		exe, err := os.Executable()
		require.NoError(t, err)
		code := "import os, pty, sys\npid, fd = pty.fork()\nif pid == 0: os.execv(sys.argv[1], sys.argv[1:])\nout = b''\n" +
			"while True:\n try: got = os.read(fd, 4096)\n except OSError: break\n if not got: break\n out += got\n" +
			"code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\nos.write(1, out)\nsys.exit(code)"
		cmd := helperCommand(t, "host at a terminal", r.mark)
		cmd.Path, cmd.Args = realPython(), []string{realPython(), "-c", code, exe}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}},
	{name: "G16_stacks_of_a_stopped_worker", run: func(t *testing.T, r *rig) {
		cfg := processConfig(t, r)
		cfg.KillGrace = stackGrace
		p := r.own(t, cfg)
		for _, how := range []string{"SIGSTOP", "SIGTSTP", "SIGTTIN"} {
			hangs(t, p, "stopped_by", []any{how}, "in stopped_by")
			r.epilogue(t)
		}
	}},
	{name: "G16b_stacks_of_a_worker_whose_code_uses_the_signals", run: func(t *testing.T, r *rig) {
		cfg := processConfig(t, r)
		cfg.KillGrace = stackGrace
		p := r.own(t, cfg)
		for _, how := range []string{"ignore SIGUSR1", "handle SIGUSR1", "default SIGUSR1", "block SIGUSR1", "block all", "block all in C", "unregister", "ignore the other", "block all and stop", "other thread"} {
			t.Run(how, func(t *testing.T) {
				hangs(t, p, "deaf", []any{how}, "in deaf")
				r.epilogue(t)
			})
		}
	}},
	{name: "G16c_why_there_are_no_stacks", run: func(t *testing.T, r *rig) {
		p := r.own(t, processConfig(t, r))
		for how, why := range map[string]string{"ignore both": "code in the worker ignores", "default both": "code in the worker has reset", "handle both": "code in the worker has taken"} {
			_, err := p.ExecuteAnonymous(context.Background(), "deaf", []any{how}, WithTimeout(hangTime))
			e := failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
			hang := detail[*HangError](t, err)
			require.Empty(t, hang.Stacks)
			require.Contains(t, hang.NoStacks, why)
			require.Contains(t, e.Error(), why)
			r.epilogue(t)
		}
	}},
	{name: "G16d_stacks_when_the_host_was_started_with_its_signals_blocked_or_ignored", run: func(t *testing.T, r *rig) {
		exe, err := os.Executable()
		require.NoError(t, err)
		for _, how := range []string{"SIG_BLOCK", "SIG_IGN"} {
			code := "import os, signal, sys\nall = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}\n"
			if how == "SIG_BLOCK" {
				code += "signal.pthread_sigmask(signal.SIG_BLOCK, all)\n"
			} else {
				code += "for s in (signal.SIGUSR1, signal.SIGTERM, signal.SIGIO, 62): signal.signal(s, signal.SIG_IGN)\n"
			}
			cmd := helperCommand(t, "host that wants stacks", r.mark)
			cmd.Path, cmd.Args = realPython(), []string{realPython(), "-c", code + "os.execv(sys.argv[1], sys.argv[1:])", exe}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s: %s", how, out)
		}
	}},
	{name: "G17_a_stranger_that_holds_the_pipes_does_not_hide_an_exit", run: func(t *testing.T, r *rig) {
		p := r.own(t, processConfig(t, r))
		for _, timeout := range []time.Duration{0, time.Minute} {
			path := filepath.Join(t.TempDir(), "pid")
			begun := time.Now()
			_, err := p.ExecuteAnonymous(context.Background(), "exit_beside_a_stranger", []any{path, 3}, WithTimeout(timeout))
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			within(t, begun, time.Second)
			require.Equal(t, 3, detail[*ExitError](t, err).Code)
			require.NoError(t, syscall.Kill(pidIn(t, path), syscall.SIGKILL))
			r.epilogue(t)
		}
	}},
	{name: "G17b_nor_does_it_swallow_what_follows", run: func(t *testing.T, r *rig) {
		cfg := processConfig(t, r)
		cfg.Size = 1
		p := r.own(t, cfg)
		path := filepath.Join(t.TempDir(), "pid")
		executed(t, p, "leave_a_stranger", []any{path})
		stranger := pidIn(t, path)
		w := p.sup.workers()[0]
		// It dies while a large request is half written, which the stranger's end of the pipe keeps
		// from failing.
		stop(t, w.proc.PID())
		large := background(p, context.Background(), "echo", []any{strings.Repeat("x", 900_000)}, WithTimeout(0))
		eventually(t, "the pipe is full", func() bool { n, _ := w.proc.Unread(); return n >= 64<<10 })
		require.NoError(t, syscall.Kill(w.proc.PID(), syscall.SIGKILL))
		require.NoError(t, ended(t, large).err, "it was not executed, and is run by another")
		// Map's items, too.
		executed(t, p, "leave_a_stranger", []any{path})
		other := pidIn(t, path)
		var failed []error
		for _, err := range Map[any](context.Background(), p, "exit_if", slices.Values([]int{0, 0, 3, 0, 0})) {
			if err != nil {
				failed = append(failed, err)
			}
		}
		require.Len(t, failed, 1)
		failsWith(t, failed[0], ErrWorkerExited, MaybeExecuted)
		require.Equal(t, 3, detail[*ExitError](t, failed[0]).Code)
		for _, pid := range []int{stranger, other} {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
	}},
	{name: "G18_a_host_without_stdin_stdout_and_stderr", run: func(t *testing.T, r *rig) {
		which := []string{"012", "1", "02", "2"}
		cmds, reports := make([]*exec.Cmd, len(which)), make([]string, len(which))
		for i, closed := range which {
			reports[i] = filepath.Join(t.TempDir(), "report")
			cmds[i] = helperCommand(t, "host that has closed its descriptors", r.mark, "PYPOOL_HOST_REPORT="+reports[i], "PYPOOL_HOST_CLOSED="+closed)
		}
		for i, out := range inBackground(len(which), func(i int) (struct{}, error) { return struct{}{}, cmds[i].Run() })() {
			text, _ := os.ReadFile(reports[i])
			require.NoError(t, out.err, "%s: %s", which[i], text)
			require.Equal(t, "well", string(text))
		}
	}},
	{name: "G6_an_exec_that_hangs_stops_neither_the_host_nor_the_pool", run: func(t *testing.T, r *rig) {
		executedOnly(t)
		runHelper(t, "host whose interpreter cannot be executed", r.mark, "PYPOOL_HOST_DIR="+t.TempDir())
	}},
	{name: "G6b_nor_does_a_directory_that_cannot_be_entered", run: func(t *testing.T, r *rig) {
		executedOnly(t)
		runHelper(t, "host whose directory cannot be entered", r.mark, "PYPOOL_HOST_DIR="+t.TempDir())
	}},
	{name: "G6c_nor_does_a_file_system_that_does_not_answer", run: func(t *testing.T, r *rig) {
		executedOnly(t)
		runHelper(t, "host whose files cannot be looked at", r.mark, "PYPOOL_HOST_DIR="+t.TempDir())
	}},
	{name: "G6d_the_errors_of_an_exec_are_what_they_were", run: func(t *testing.T, r *rig) {
		dir := t.TempDir()
		file := func(name, text string, mode os.FileMode) string {
			path := filepath.Join(dir, name)
			require.NoError(t, os.WriteFile(path, []byte(text), mode))
			return path
		}
		for _, c := range []struct {
			python string
			want   error
		}{
			{file("lost interpreter", "#!/no/such/interpreter\n", 0o700), syscall.ENOENT},
			{file("no program", "MZ no program of this machine\n", 0o700), syscall.ENOEXEC},
			{file("empty", "", 0o700), syscall.ENOEXEC},
			{file("a=b", "#!/no/such/interpreter\n", 0o700), syscall.ENOENT},
			{file("foreign", "\x7fELF\x02\x01\x01"+strings.Repeat("\x00", 11)+"\xff\xff", 0o700), syscall.ENOEXEC},
		} {
			cfg := processConfig(t, r)
			cfg.Python = c.python
			_, start := opensWithError(t, r, cfg)
			require.Equal(t, "spawn", start.Stage, "%s: %v", c.python, start)
			require.ErrorIs(t, start, c.want)
			require.ErrorContains(t, start, "fork/exec "+c.python)
		}
	}},
	{name: "G6e_the_environment_and_the_arguments_of_a_worker_are_what_they_were", run: func(t *testing.T, r *rig) {
		odd := filepath.Join(t.TempDir(), "a=b -c $x")
		require.NoError(t, os.MkdirAll(odd, 0o700))
		require.NoError(t, os.Symlink(realPython(), filepath.Join(odd, "python")))
		for _, python := range []string{realPython(), filepath.Join(odd, "python")} {
			cfg := processConfig(t, r)
			cfg.Python, cfg.Dir, cfg.Args, cfg.Threads = python, odd, []string{"-C", "x=y", "--"}, -1
			cfg.Env = []string{"LD_LIBRARY_PATH=/nowhere", "LD_X=1", "GLIBC_TUNABLES=", "A=b=c", "EMPTY=", "TWICE=1", "TWICE=2", "PATH=/usr/bin:/bin", "HOME=/"}
			cfg.ExtraEnv = []string{r.mark}
			p := r.own(t, cfg)
			got := decoded[struct {
				Env  []string
				Cwd  string
				Argv []string
			}](t, executed(t, p, "surroundings", nil))
			want := []string{"LD_LIBRARY_PATH=/nowhere", "LD_X=1", "GLIBC_TUNABLES=", "A=b=c", "EMPTY=", "TWICE=2", "PATH=/usr/bin:/bin", "HOME=/", r.mark}
			require.ElementsMatch(t, want, got.Env)
			require.Equal(t, odd, got.Cwd)
			require.Equal(t, cfg.Args, got.Argv)
			require.NoError(t, p.Close())
		}
	}},
	{name: "G10_the_working_directory_is_that_of_New", run: func(t *testing.T, r *rig) {
		runHelper(t, "host that moves", r.mark, "PYPOOL_HOST_DIR="+t.TempDir())
	}},
	{name: "G11_a_host_that_adopts_orphans_leaves_no_zombie", run: func(t *testing.T, r *rig) {
		runHelper(t, "host that is a subreaper", r.mark, "PYPOOL_HOST_DIR="+t.TempDir())
		cmd := helperCommand(t, "host that is PID 1", r.mark, "PYPOOL_HOST_DIR="+t.TempDir())
		unshare, err := exec.LookPath("unshare")
		require.NoError(t, err)
		cmd.Args = []string{unshare, "-pf", "--mount-proc", cmd.Path}
		cmd.Path = unshare
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}},
	{name: "G23_processes_that_cannot_be_ended_bound_the_starts", run: func(t *testing.T, r *rig) {
		synctest.Test(t, func(t *testing.T) {
			f := &fleet{script: func(p *fakeProcess, req fakeRequest) bool { return req.Command == "hang" && p.hang() }}
			all := &undead{}
			cfg := f.config(2)
			cfg.Breaker.Failures, cfg.spawn = -1, all.spawn(f)
			p, err := New(t.Context(), cfg)
			require.NoError(t, err)
			for range 60 {
				_, _ = p.ExecuteAnonymous(context.Background(), "hang", nil, WithTimeout(time.Second), WithCheckoutTimeout(time.Second))
			}
			time.Sleep(2 * reapWait)
			st := p.Stats()
			require.GreaterOrEqual(t, st.Unreapable, cfg.Size)
			spawned := len(f.spawned())
			require.LessOrEqual(t, spawned, 5*cfg.Size, "it ends by itself")
			for range 10 {
				_, err = p.ExecuteAnonymous(context.Background(), "work", nil)
				failsWith(t, err, ErrCircuitOpen, NotExecuted)
				require.ErrorContains(t, err, "do not end")
				_, err = p.HealthCheck(t.Context())
				require.ErrorContains(t, err, "do not end")
				time.Sleep(time.Minute)
			}
			require.Len(t, f.spawned(), spawned, "nothing is started")
			all.release(0)
			time.Sleep(time.Minute)
			for stuck := st.Unreapable; stuck >= cfg.Size; stuck-- {
				require.Equal(t, stuck-1, p.Stats().Unreapable)
				all.release(1)
				time.Sleep(time.Minute)
			}
			require.True(t, serving(p))
			_, err = p.ExecuteAnonymous(context.Background(), "work", nil)
			require.NoError(t, err)
			all.release(math.MaxInt)
			time.Sleep(time.Minute)
			require.Zero(t, p.Stats().Unreapable)
			require.NoError(t, p.Close())
			all.release(math.MaxInt)
		})
	}},
	{name: "G24_the_largest_MaxMessageBytes", run: func(t *testing.T, r *rig) {
		for _, limit := range []int{math.MaxInt, math.MaxInt - 1, math.MaxInt - 64<<10, math.MaxInt/2 + 1} {
			cfg := processConfig(t, r)
			cfg.Size, cfg.MaxMessageBytes = 1, limit
			p := r.own(t, cfg)
			text := strings.Repeat("x", 3<<20)
			require.Equal(t, text, decoded[string](t, executed(t, p, "echo", []any{text})))
			for v, err := range Map[string](context.Background(), p, "echo", slices.Values([]string{text, "y"})) {
				require.NoError(t, err)
				require.NotEmpty(t, v)
			}
			require.NoError(t, p.Close())
		}
	}},
	{name: "G25_who_killed_a_worker", run: func(t *testing.T, r *rig) {
		_, counted := proc.OOMKills()
		require.True(t, counted)
		p := r.own(t, processConfig(t, r))
		_, err := p.ExecuteAnonymous(context.Background(), "kill_self", nil)
		failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		require.False(t, detail[*ExitError](t, err).OOM)
		require.ErrorContains(t, err, "killed by a SIGKILL that neither pypool nor the out-of-memory killer sent")
		r.epilogue(t)
		_, err = p.ExecuteAnonymous(context.Background(), "use_up_cpu", nil)
		failsWith(t, err, ErrWorkerExited, MaybeExecuted)
		require.False(t, detail[*ExitError](t, err).OOM)
		require.ErrorContains(t, err, "RLIMIT_CPU")
		for state, oom := range map[proc.ExitState]bool{{Signal: syscall.SIGKILL}: true, {Signal: syscall.SIGKILL, NoOOM: true}: false, {Signal: syscall.SIGKILL, Ours: true}: false} {
			w := &worker{proc: &fakeProcess{state: state, done: make(chan struct{})}, log: &stderrLog{done: make(chan struct{})}}
			close(w.proc.(*fakeProcess).done)
			close(w.log.done)
			require.Equal(t, oom, w.exitError().OOM, "%+v", state)
		}
	}},
}

// undead is processes that are killed and not reaped, as those are that sleep in the kernel.
type undead struct {
	mu  sync.Mutex // guards all
	all []*immortal
}

func (u *undead) spawn(f *fleet) proc.SpawnFunc {
	return func(ctx context.Context, sp *proc.Spawner, spec proc.Spec) (proc.Process, error) {
		p, err := f.spawn(ctx, sp, spec)
		if err != nil {
			return nil, err
		}
		i := &immortal{fakeProcess: p.(*fakeProcess), reaped: make(chan struct{})}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.all = append(u.all, i)
		go func() { // one that ends in order is reaped; joined by the bubble
			<-i.done
			if !i.state.Ours {
				close(i.reaped)
			}
		}()
		return i, nil
	}
}

// release lets n of those that were killed be reaped, and from then on (n is 0) whoever ends.
func (u *undead) release(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if n == 0 {
		n = 1
	}
	for _, i := range u.all {
		if n > 0 && isClosed(i.done) && !isClosed(i.reaped) {
			n--
			close(i.reaped)
		}
	}
}

// killedAstray has a worker that has left its group killed, by a caller who leaves.
func killedAstray(t *testing.T, r *rig, cfg Config, how string) *Pool {
	t.Helper()
	cfg.CancelGrace = -1 // it is killed at once
	p := r.own(t, cfg)
	path := filepath.Join(t.TempDir(), "pid")
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	call := background(p, ctx, "wander", []any{path, how})
	pid := pidIn(t, path)
	leave()
	failsWith(t, ended(t, call).err, ErrCanceled, MaybeExecuted)
	gone(t, pid)
	return p
}

// stackGrace is a KillGrace that leaves time for two dumps on a busy machine.
const stackGrace = 4 * time.Second

// hangs runs a command that hangs into its timeout, and asserts that the error has the handler's
// frame.
func hangs(t testing.TB, p *Pool, command string, args any, frame string) {
	t.Helper()
	_, err := p.ExecuteAnonymous(context.Background(), command, args, WithTimeout(stackTime))
	e := failsWith(t, err, ErrOperationTimeout, MaybeExecuted)
	hang := detail[*HangError](t, err)
	require.Contains(t, hang.Stacks, frame, hang.NoStacks)
	require.Contains(t, e.Message, frame, "the place is the handler's: %s", hang.Stacks)
}

// wrappers are interpreters that start Python as their child, by name.
var wrappers = map[string]string{
	"sh":          realPython() + ` "$@"` + "\nexit $?\n",
	"shell twice": `/bin/sh -c '` + realPython() + ` "$@"; exit $?' sh "$@"` + "\nexit $?\n",
}

// wrapper writes an interpreter that is a shell script.
func wrapper(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "python")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700))
	return path
}

// wrapped plays what a pool does on an interpreter that is a wrapper.
func wrapped(t *testing.T, r *rig, text string) {
	cfg := processConfig(t, r)
	cfg.Python, cfg.KillGrace = wrapper(t, text), stackGrace
	p := r.own(t, cfg)
	for _, w := range p.Workers() {
		require.Equal(t, "python", procFile(t, fmt.Sprintf("/proc/%d/comm", w.PID))[:6], "WorkerInfo.PID is the interpreter's")
		require.Greater(t, w.RSS, int64(4<<20))
	}
	require.Contains(t, pids(p), decoded[int](t, executed(t, p, "pid", nil)))
	hangs(t, p, "c_loop", nil, "in c_loop")
	r.epilogue(t)
	_, err := p.ExecuteAnonymous(context.Background(), "exit_if", []any{3})
	failsWith(t, err, ErrWorkerExited, MaybeExecuted)
	require.Equal(t, 3, detail[*ExitError](t, err).Code)
	r.epilogue(t)
	require.NoError(t, p.Shutdown(context.Background()))
	p = r.own(t, cfg)
	busy := background(p, context.Background(), "c_loop", nil)
	eventually(t, "a call runs", func() bool { return p.Stats().Busy == 1 })
	require.NoError(t, p.Close())
	failsWith(t, ended(t, busy).err, ErrPoolClosed, MaybeExecuted)
	eventually(t, "nothing is left", func() bool { return len(r.strangers()) == 0 })
}

// killHost kills a host, whose interpreter is given, with SIGKILL while its workers run the
// command; want processes are there then.
func killHost(t *testing.T, python, command string, want int) {
	mark := fmt.Sprintf("%s=%d.%x", faultMark, os.Getpid(), rand.Uint64())
	cmd := helperCommand(t, "host that is killed", "PYPOOL_HELPER_PYTHON="+python, "PYPOOL_HOST_COMMAND="+command, "PYPOOL_HOST_MARK="+mark, "PYPOOL_HOST_DIR="+t.TempDir())
	cmd.Stderr = os.Stderr
	line, _ := startHelper(t, cmd)
	defer cmd.Wait()
	require.Equal(t, "busy\n", line)
	require.GreaterOrEqual(t, len(marked(mark)), want)
	killed := time.Now()
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	eventually(t, "nothing of the host is alive", func() bool { return len(marked(mark)) == 0 })
	within(t, killed, time.Second)
}

// processConfig is a pool of testdata/workers/processes.py.
func processConfig(t testing.TB, r *rig) Config {
	t.Helper()
	cfg := r.config(t)
	cfg.Script = workerScript(t, "processes.py")
	return cfg
}

// notes counts the calls of the command note.
func notes(t testing.TB, path string) int {
	t.Helper()
	return strings.Count(procFile(t, path), "\n")
}

// processHost is processConfig in a helper.
func processHost() Config {
	cfg := hostConfig()
	cfg.Script = filepath.Join(filepath.Dir(cfg.Script), "processes.py")
	return cfg
}

func init() {
	helpers["host of workers that spoil the shared memory"] = func() {
		ctx := context.Background()
		cfg := processHost()
		cfg.ExtraEnv = []string{mark()}
		p, err := New(ctx, cfg)
		must(err)
		for _, how := range []string{"truncate", "shrink", "grow", "truncate by path", "open to truncate", "punch"} {
			for range 5 {
				_, err := p.ExecuteAnonymous(ctx, "spoil_memory_and_exit", []any{how})
				if !errors.Is(err, ErrWorkerExited) {
					must(fmt.Errorf("%s: %v", how, err))
				}
				until("the pool is at its full size", func() bool { return serving(p) })
			}
			for range 20 {
				res, err := p.ExecuteAnonymous(ctx, "spoil_memory", []any{how})
				must(err)
				if string(res.Raw()) == "0" {
					must(errors.New("the worker finds no shared memory"))
				}
				_, err = p.ExecuteAnonymous(ctx, "echo", []any{how})
				must(err)
			}
		}
		must(p.Close())
	}
}

func init() {
	helpers["host that is killed"] = func() {
		ctx := context.Background()
		cfg := processHost()
		cfg.ExtraEnv = []string{os.Getenv("PYPOOL_HOST_MARK")}
		p, err := New(ctx, cfg)
		must(err)
		if command := os.Getenv("PYPOOL_HOST_COMMAND"); command != "idle" {
			for i := range cfg.Size {
				path := filepath.Join(os.Getenv("PYPOOL_HOST_DIR"), strconv.Itoa(i))
				background(p, ctx, "tell_and", []any{path, command}, WithTimeout(0))
				until("the handler runs", func() bool { _, err := os.Stat(path); return err == nil })
			}
		}
		fmt.Println("busy")
		select {}
	}
	helpers["host at a terminal"] = func() {
		tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		must(err)
		must(tty.Close())
		ctx := context.Background()
		cfg := processHost()
		cfg.ExtraEnv = []string{mark()}
		for range 2 {
			p, err := New(ctx, cfg)
			must(err)
			for range 4 {
				got, err := Call[map[string]any](ctx, p, "session", nil, WithTimeout(10*time.Second))
				must(err)
				if got["tty"] != "no terminal" || got["child"] != "no terminal" || got["pgid"] != got["pid"] || !strings.HasSuffix(fmt.Sprint(got["getpass"]), "Error") {
					must(fmt.Errorf("%v", got))
				}
			}
			must(p.Close())
		}
		tty, err = os.OpenFile("/dev/tty", os.O_RDWR, 0)
		must(err) // the host's own is still there
		must(tty.Close())
	}
	helpers["host that wants stacks"] = func() {
		ctx := context.Background()
		cfg := processHost()
		cfg.ExtraEnv, cfg.KillGrace = []string{mark()}, stackGrace
		p, err := New(ctx, cfg)
		must(err)
		for _, command := range []string{"loop", "c_loop"} {
			_, err = p.ExecuteAnonymous(ctx, command, nil, WithTimeout(stackTime))
			if !errors.Is(err, ErrOperationTimeout) || !strings.Contains(err.Error(), "in "+command) {
				must(fmt.Errorf("no stacks: %v", err))
			}
		}
		until("the pool is at its full size", func() bool { return serving(p) })
		pid := p.Workers()[0].PID
		must(syscall.Kill(pid, syscall.SIGTERM))
		until("SIGTERM ends a worker", func() bool { return p.Workers()[0].PID != pid })
		must(p.Close())
	}
	helpers["host that has closed its descriptors"] = func() {
		for _, fd := range os.Getenv("PYPOOL_HOST_CLOSED") {
			must(syscall.Close(int(fd - '0')))
		}
		report := func(err error) {
			text := "well"
			if err != nil {
				text = err.Error()
			}
			_ = os.WriteFile(os.Getenv("PYPOOL_HOST_REPORT"), []byte(text), 0o600)
			if err != nil {
				os.Exit(1)
			}
		}
		must(os.WriteFile(os.Getenv("PYPOOL_HOST_REPORT"), []byte("killed"), 0o600))
		ctx := context.Background()
		cfg := processHost()
		cfg.ExtraEnv, cfg.Logger = []string{mark()}, slog.New(slog.DiscardHandler)
		p, err := New(ctx, cfg)
		if err != nil {
			report(err)
		}
		for range 3 {
			ends := make([]<-chan outcome, cfg.Size)
			for _, w := range p.Workers() {
				if err := syscall.Kill(w.PID, syscall.SIGSTOP); err != nil {
					report(err)
				}
				until("it has stopped", func() bool { state, _ := processState(w.PID); return state == "T" })
			}
			for i := range ends {
				ends[i] = background(p, ctx, "echo", []any{strings.Repeat("x", 8<<20)})
			}
			for _, w := range p.sup.workers() {
				until("the pipe is full", func() bool { n, _ := w.proc.Unread(); return n >= 64<<10 })
				if err := syscall.Kill(w.proc.PID(), syscall.SIGKILL); err != nil {
					report(err)
				}
			}
			for _, end := range ends {
				if o := <-end; o.err != nil {
					report(o.err)
				}
			}
			until("the pool is at its full size", func() bool { return serving(p) })
		}
		for _, w := range p.sup.workers() {
			numbers := w.proc.(interface{ Descriptors() []uintptr }).Descriptors()
			if len(numbers) != 8 {
				report(fmt.Errorf("%d descriptors of a worker's", len(numbers)))
			}
			for _, n := range numbers {
				if err := lowFD(n); err != nil {
					report(err)
				}
			}
		}
		report(p.Close())
	}
}

func lowFD(fd uintptr) error {
	if fd <= 2 {
		return fmt.Errorf("descriptor %d is kept", fd)
	}
	return nil
}

func init() {
	helpers["host that moves"] = func() {
		ctx := context.Background()
		dir := os.Getenv("PYPOOL_HOST_DIR")
		must(os.WriteFile(filepath.Join(dir, "workers_of_mine.py"), []byte("import os\nfrom pypool import command\n@command\ndef where(): return os.getcwd()\n"), 0o600))
		must(os.Chdir(dir))
		cfg := hostConfig()
		cfg.Script, cfg.Module, cfg.ExtraEnv = "", "workers_of_mine", []string{mark()}
		p, err := New(ctx, cfg)
		must(err)
		replaced := func(want string) {
			killWorkers(p)
			until("the workers are replaced", func() bool { return serving(p) })
			for range 4 {
				if got, err := Call[string](ctx, p, "where", nil); err != nil || got != want {
					must(fmt.Errorf("%q, %v; not %q", got, err, want))
				}
			}
		}
		here, err := filepath.EvalSymlinks(dir)
		must(err)
		replaced(here)
		must(os.Chdir("/"))
		replaced(here)
		must(p.Close())
		// A working directory that is gone has no path, and is inherited.
		gone := filepath.Join(dir, "gone")
		must(os.Mkdir(gone, 0o700))
		must(os.Chdir(gone))
		must(os.Remove(gone))
		cfg = bareHost()
		p, err = New(ctx, cfg)
		must(err)
		killWorkers(p)
		until("the workers are replaced", func() bool { return serving(p) })
		_, err = p.ExecuteAnonymous(ctx, "ping", nil)
		must(err)
		must(p.Close())
		// So is one that goes away later.
		must(os.Mkdir(gone, 0o700))
		must(os.Chdir(gone))
		p, err = New(ctx, cfg)
		must(err)
		must(os.Remove(gone))
		killWorkers(p)
		until("the workers are replaced", func() bool { return serving(p) })
		// Where the host has gone meanwhile, no worker starts.
		must(os.Chdir("/"))
		killWorkers(p)
		until("a call says why", func() bool {
			_, err := p.ExecuteAnonymous(ctx, "ping", nil, WithCheckoutTimeout(100*time.Millisecond))
			if serving(p) {
				must(errors.New("workers have started in another directory"))
			}
			return err != nil && strings.Contains(err.Error(), "set Dir to one that stays")
		})
		must(p.Close())
	}
	adopting := func() {
		ctx := context.Background()
		cfg := processHost()
		cfg.ExtraEnv = []string{mark()}
		own := exec.Command("true") // a child of the host's own, which the host has not waited for yet
		must(own.Start())
		p, err := New(ctx, cfg)
		must(err)
		orphans := func() (n int) {
			for _, p := range proc.All() {
				if p.Parent == os.Getpid() && p.State == 'Z' && p.PID != own.Process.Pid {
					n++
				}
			}
			return n
		}
		for _, then := range []string{"exit", "kill", "hang", "nested"} {
			_, err := p.ExecuteAnonymous(ctx, "leave_children", []any{20, then}, WithTimeout(stackTime))
			if err == nil {
				must(errors.New("the worker lives on"))
			}
			until("the pool is at its full size", func() bool { return serving(p) })
			until("no zombie", func() bool { return orphans() == 0 })
		}
		_, err = p.ExecuteAnonymous(ctx, "leave_children", []any{20, "return"})
		must(err)
		must(p.Shutdown(ctx))
		if n := orphans(); n != 0 {
			must(fmt.Errorf("%d zombies after Shutdown", n))
		}
		must(own.Wait())
	}
	helpers["host that is PID 1"] = func() {
		if os.Getpid() != 1 {
			must(errors.New("not PID 1"))
		}
		adopting()
	}
	helpers["host that is a subreaper"] = func() {
		must(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
		adopting()
	}
}

// bareHost is a host's configuration that names no relative path.
func bareHost() Config {
	return Config{
		Python: os.Getenv("PYPOOL_HELPER_PYTHON"), Size: 2, Overflow: -1, Logger: quiet(), ExtraEnv: []string{mark()},
		RestartBackoff: Backoff{Min: 5 * time.Millisecond, Max: 50 * time.Millisecond},
	}
}

// mark is the assignment that tells this run's processes from others, in a helper.
func mark() string { return faultMark + "=" + os.Getenv(faultMark) }
