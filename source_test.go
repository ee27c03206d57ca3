package pypool

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sourceEnv picks where the workers of all tests come from: "forkserver", or an exec of each.
// Workers that are not Python, and scripted ones, are executed in any case.
const sourceEnv = "PYPOOL_TEST_SOURCE"

func init() {
	if os.Getenv(sourceEnv) != "forkserver" {
		return
	}
	exe, _ := os.Executable()
	pickSource = func(c *Config) {
		name := filepath.Base(cmp.Or(c.Python, os.Getenv("PYPOOL_PYTHON"), "python3"))
		if c.spawn == nil && c.Python != exe && name != "sh" {
			c.ForkServer = true
		}
	}
}

// serversOf are the processes of the pool's fork servers.
func serversOf(p *Pool) []int {
	if servers := p.sup.env.servers; servers != nil {
		return servers.pids()
	}
	return nil
}

// sparesOf are what the pool's fork servers have forked ahead: as long as they are no workers, they are
// in their servers' groups.
func sparesOf(p *Pool) (pids []int) {
	servers := serversOf(p)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, _ := os.ReadFile(path)
		_, after, _ := strings.Cut(string(stat), ") ")
		var state string
		var parent, group int
		_, _ = fmt.Sscan(after, &state, &parent, &group)
		if parent == group && slices.Contains(servers, group) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// executedOnly skips what is about the start of each worker's interpreter, which those of a fork
// server have not.
func executedOnly(t *testing.T) {
	t.Helper()
	if pickSource != nil {
		t.Skip("about workers that are executed")
	}
}
