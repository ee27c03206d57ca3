package pypool

import (
	"cmp"
	"os"
	"path/filepath"
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

// executedOnly skips what is about the start of each worker's interpreter, which those of a fork
// server have not.
func executedOnly(t *testing.T) {
	t.Helper()
	if pickSource != nil {
		t.Skip("about workers that are executed")
	}
}
