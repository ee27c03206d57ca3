package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
)

// machine is where and with what a run was made. It names no host, user or path.
type machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"` // that this process may use
	GOMAXPROCS int    `json:"gomaxprocs"`
	System     string `json:"system"`
	Go         string `json:"go"`
	Python     string `json:"python"`
	Peers      string `json:"peers,omitempty"`
	Revision   string `json:"revision,omitempty"` // of this repository
}

// clients are the peers' halves in Go, by the paths of their modules.
var clients = map[string]string{"google.golang.org/grpc": "grpc-go", "github.com/nats-io/nats-server/v2": "nats-server", "github.com/go-zeromq/zmq4": "zmq4", "github.com/apache/arrow-go/v18": "arrow-go"}

// revision is set when the Makefile builds this program.
var revision string

func (m machine) String() string {
	s := fmt.Sprintf("%s, %d cores, GOMAXPROCS %d; %s; %s, Python %s", m.CPU, m.Cores, m.GOMAXPROCS, m.System, m.Go, m.Python)
	if m.Peers != "" {
		s += "; " + m.Peers
	}
	if m.Revision != "" {
		s += "; pypool at " + m.Revision
	}
	return s
}

func (b *bench) machine(ctx context.Context) (machine, error) {
	m := machine{
		CPU: runtime.GOARCH, Cores: runtime.NumCPU(), GOMAXPROCS: runtime.GOMAXPROCS(0), System: runtime.GOOS, Go: runtime.Version(), Revision: revision,
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.System += " " + strings.TrimSpace(string(text))
	}
	python, err := ask(ctx, b.Python, "import platform; print(platform.python_version())")
	if err != nil {
		return m, err
	}
	m.Python = python
	if _, err := os.Stat(b.Venv); b.Venv != "" && err == nil {
		m.Peers, err = ask(ctx, b.Venv, `from importlib.metadata import version
print(*(f"{name} {version(name)}" for name in ("fastapi", "uvicorn", "grpcio", "pyzmq", "pyarrow", "celery", "dramatiq", "ray")), sep=", ")`)
		if err != nil {
			return m, err
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if name := clients[dep.Path]; name != "" && m.Peers != "" {
				m.Peers += ", " + name + " " + dep.Version
			}
		}
	}
	return m, nil
}

// resolve asks a Python where its interpreter lies: a version manager's shim would be timed
// otherwise.
func resolve(ctx context.Context, python string) (string, error) {
	return ask(ctx, python, "import sys; print(sys.executable)")
}

func ask(ctx context.Context, python, code string) (string, error) {
	out, err := exec.CommandContext(ctx, python, "-c", code).Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", python, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// loadAverage is the system's over the last minute, 0 where it is not told.
func loadAverage() (load float64) {
	text, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, _ = fmt.Sscan(string(text), &load)
	}
	return load
}
