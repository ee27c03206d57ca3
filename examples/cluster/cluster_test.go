package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/examples/internal/storytest"
	pypoolnats "github.com/pypool/pypool/nats"
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

// A machine's init gives its services no standard input: they serve until they are told to go.
func TestAServiceNeedsNoStandardInput(t *testing.T) {
	broker, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	require.NoError(t, err)
	broker.Start()
	defer broker.WaitForShutdown()
	defer broker.Shutdown()
	require.True(t, broker.ReadyForConnections(startTimeout))
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-serve", "alone", "-nats", broker.ClientURL()) // its standard input is /dev/null
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }() // it may have ended
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "serving\n", line)

	nc, err := nats.Connect(broker.ClientURL())
	require.NoError(t, err)
	defer nc.Close()
	client := pypoolnats.NewClient(nc, "stamps")
	defer client.Close()
	got, err := pypool.Call[map[string]string](t.Context(), client, "stamp", map[string]any{"text": "one"})
	require.NoError(t, err)
	require.Equal(t, "alone", got["service"])
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
}
