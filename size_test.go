package pypool

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func init() {
	helpers["sizes"] = func() {
		def, err := Config{}.resolve()
		if err != nil {
			panic(err)
		}
		production, err := Production().resolve()
		if err != nil {
			panic(err)
		}
		fmt.Print(runtime.GOMAXPROCS(0), " ", def.Size, " ", production.Size)
	}
}

// sizesOf are GOMAXPROCS, the default Size and Production's in a process that the command line ends
// in.
func sizesOf(t *testing.T, cmd *exec.Cmd) (procs, def, production int) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, err = fmt.Sscan(string(out), &procs, &def, &production)
	require.NoError(t, err, "%s", out)
	return procs, def, production
}

// Size follows what the process may use, not what the machine has: GOMAXPROCS stands for both the
// user's word and the container's limit.
func TestSizeFollowsGOMAXPROCS(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	require.NoError(t, err)
	for _, procs := range []int{1, 3, runtime.NumCPU() + 5} {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), helperEnv+"=sizes", "GOMAXPROCS="+strconv.Itoa(procs))
		got, def, production := sizesOf(t, cmd)
		require.Equal(t, procs, got)
		require.Equal(t, 2*procs, def)
		require.Equal(t, procs, production)
	}
}

// A pod of two processors on a large machine.
func TestSizeFollowsTheCPULimitOfACgroup(t *testing.T) {
	if runtime.NumCPU() < 3 {
		t.Skip("Go rounds a limit up to 2 processors, and this machine has no more: a limit cannot be seen")
	}
	dir, limit := "/sys/fs/cgroup", map[string]string{"cpu.max": "200000 100000"}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err != nil {
		dir, limit = "/sys/fs/cgroup/cpu", map[string]string{"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "200000"}
	}
	dir = filepath.Join(dir, "pypool_test_"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	defer func() { require.NoError(t, os.Remove(dir)) }()
	for file, value := range limit {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o600); err != nil {
			t.Skipf("no CPU limit can be set here: %v", err)
		}
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command("/bin/sh", "-c", `echo $$ > "$1/cgroup.procs" && exec "$2"`, "sh", dir, exe)
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "GOMAXPROCS=") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	cmd.Env = append(cmd.Env, helperEnv+"=sizes")
	procs, def, production := sizesOf(t, cmd)
	require.Equal(t, []int{2, 4, 2}, []int{procs, def, production})
}
