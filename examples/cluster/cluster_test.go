package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool/examples/internal/storytest"
)

func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-serve") { // a service that run has started
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// The load of the service that is killed moves to the others, no call fails, and it comes back.
func TestStory(t *testing.T) {
	server := filepath.Join(t.TempDir(), "nats-server")
	text, err := exec.Command("go", "build", "-o", server, "github.com/nats-io/nats-server/v2").CombinedOutput()
	require.NoError(t, err, string(text))
	var out bytes.Buffer
	// The calls that the killed service had are made again after a second.
	require.NoError(t, run(t.Context(), show{server: server, every: 400 * time.Millisecond, rows: 3, callers: 16}, &out))
	parts := regexp.MustCompile(`beta was killed\n|beta is back\n`).Split(out.String(), -1)
	require.Len(t, parts, 3, out.String())
	for i, part := range parts {
		lines := strings.Split(strings.TrimSpace(part), "\n")
		if i == 2 {
			require.Regexp(t, `^\d+ calls answered, 0 failed$`, lines[len(lines)-1])
			lines = lines[:len(lines)-1]
		}
		last := strings.Fields(lines[len(lines)-1])
		var n []int
		for _, field := range last {
			number, err := strconv.Atoi(field)
			require.NoError(t, err, part)
			n = append(n, number)
		}
		require.Positive(t, n[1], "alpha: %s", part)
		require.Equal(t, i == 1, n[2] == 0, "beta: %s", part)
		require.Positive(t, n[3], "gamma: %s", part)
		require.Zero(t, n[4], "failed: %s", part)
	}
	require.Equal(t, strings.Fields(strings.Split(storytest.Output(t), "\n")[0]), strings.Fields(strings.Split(out.String(), "\n")[0]))
}
