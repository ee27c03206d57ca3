//go:build unix

package pypool

import (
	"log/slog"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDefaultsAreTheFiguresOfTheDesign(t *testing.T) {
	t.Parallel()
	c, err := Config{}.resolve()
	require.NoError(t, err)
	assert.Equal(t, 2*runtime.GOMAXPROCS(0), c.Size)
	assert.Equal(t, 2, c.Overflow)
	assert.Equal(t, c.Size, c.MinReady)
	assert.Equal(t, 1024, c.MaxQueue)
	assert.Equal(t, 45*time.Second, c.CheckoutTimeout)
	assert.Equal(t, 120*time.Second, c.OperationTimeout)
	assert.Equal(t, 30*time.Second, c.StartTimeout)
	assert.Equal(t, 250*time.Millisecond, c.KillGrace)
	assert.Equal(t, 2*time.Second, c.StopGrace)
	assert.Equal(t, 30*time.Second, c.HealthCheckInterval)
	assert.Equal(t, 5*time.Minute, c.SessionCleanupInterval)
	assert.Equal(t, time.Hour, c.SessionTTL)
	assert.Equal(t, 10_000, c.MaxSessions)
	assert.Zero(t, c.MaxCalls)
	assert.Zero(t, c.MaxLifetime)
	assert.Zero(t, c.MaxRSS)
	assert.Equal(t, Backoff{100 * time.Millisecond, 30 * time.Second}, c.RestartBackoff)
	assert.Equal(t, 5, c.MaxRestarts)
	assert.Equal(t, 30*time.Second, c.RestartWindow)
	assert.Equal(t, Breaker{5, 10 * time.Second}, c.Breaker)
	assert.Equal(t, 64<<20, c.MaxMessageBytes)
	assert.Equal(t, "pypool", c.Name)
	assert.Equal(t, time.Minute, c.ErrorRate.Window)
	assert.Equal(t, 0.5, c.ErrorRate.Threshold)
	assert.Equal(t, 20, c.ErrorRate.MinCalls)
	assert.Equal(t, 30*time.Second, c.overflowIdle)
	assert.Same(t, slog.Default(), c.Logger)
	assert.NotNil(t, c.Observer)
}

func TestPresetsAreTheFiguresOfTheDesign(t *testing.T) {
	t.Parallel()
	p, err := Production().resolve()
	require.NoError(t, err)
	assert.Equal(t, runtime.GOMAXPROCS(0), p.Size)
	assert.Equal(t, 2, p.Overflow)
	assert.Equal(t, 30*time.Second, p.CheckoutTimeout)
	assert.Equal(t, 60*time.Second, p.OperationTimeout)
	assert.Equal(t, 30*time.Second, p.HealthCheckInterval)
	assert.Equal(t, 5*time.Minute, p.SessionCleanupInterval)
	d, err := Development().resolve()
	require.NoError(t, err)
	assert.Equal(t, 2, d.Size)
	assert.Equal(t, 1, d.Overflow)
	assert.Equal(t, 45*time.Second, d.CheckoutTimeout)
	assert.Equal(t, 120*time.Second, d.OperationTimeout)
	assert.Equal(t, 10*time.Second, d.HealthCheckInterval)
	assert.Equal(t, time.Minute, d.SessionCleanupInterval)
}

func TestNegativeMeansOff(t *testing.T) {
	t.Parallel()
	c, err := Config{
		Overflow: -1, MinReady: -1, MaxQueue: -1, MaxSessions: -1, MaxRestarts: -1, Breaker: Breaker{Failures: -1}, CheckoutTimeout: -1,
		OperationTimeout: -1, StartTimeout: -1, KillGrace: -1, StopGrace: -1, HealthCheckInterval: -1, SessionTTL: -1, MaxCalls: -1, MaxRSS: -1, MaxLifetime: -1,
	}.resolve()
	require.NoError(t, err)
	assert.Zero(t, c.Overflow+c.MinReady+c.Breaker.Failures)
	assert.Zero(t, c.CheckoutTimeout+c.OperationTimeout+c.StartTimeout+c.KillGrace+c.StopGrace+c.HealthCheckInterval+c.SessionTTL+c.MaxLifetime)
	assert.Zero(t, c.MaxCalls+c.MaxRSS)
	assert.Greater(t, min(c.MaxQueue, c.MaxSessions, c.MaxRestarts), 1<<30, "no bound")
	for _, rate := range []ErrorRate{{Threshold: -1}, {Window: -1}} {
		rate.Func = func(ErrorRateAlert) {}
		c, err := Config{ErrorRate: rate}.resolve()
		require.NoError(t, err)
		assert.Nil(t, c.ErrorRate.Func, "nobody is told")
	}
}

func TestACallerMayChangeItsConfigAfterNew(t *testing.T) {
	t.Parallel()
	cfg := coreConfig(t, 1, 0)
	cfg.Args = []string{"one"}
	cfg.ExtraEnv = []string{"PYPOOL_TEST_MARK=kept"}
	cfg.Script = script(t, "import os, sys\nfrom pypool import command\n@command\ndef get():\n    return [sys.argv[1:], os.environ['PYPOOL_TEST_MARK'], os.getcwd()]\n")
	cfg.Dir = t.TempDir()
	dir, err := filepath.EvalSymlinks(cfg.Dir)
	require.NoError(t, err)
	p := newPool(t, cfg)
	cfg.Args[0], cfg.ExtraEnv[0] = "two", "PYPOOL_TEST_MARK=changed"
	kill(t, pids(p)...) // the replacement starts from the pool's copy
	eventually(t, "replaced", func() bool { return p.Stats().WorkersExited == 1 && serving(p) })
	assert.JSONEq(t, `[["one"], "kept", "`+dir+`"]`, string(executed(t, p, "get", nil).Raw()))
}

func TestAnEmptyEnvIsAnEmptyEnvironmentAndANilOneIsInherited(t *testing.T) {
	t.Setenv("PYPOOL_TEST_INHERITED", "yes")
	source := script(t, "import os\nfrom pypool import command\n@command\ndef get():\n    return [os.environ.get('PYPOOL_TEST_INHERITED'), os.environ.get('EXTRA')]\n")
	inherits := newPool(t, Config{Script: source, Python: realPython(), Size: 1, Overflow: -1, ExtraEnv: []string{"EXTRA=1"}})
	assert.JSONEq(t, `["yes", "1"]`, string(executed(t, inherits, "get", nil).Raw()))
	empty := newPool(t, Config{Script: source, Python: realPython(), Size: 1, Overflow: -1, Env: []string{}, ExtraEnv: []string{"EXTRA=2"}})
	assert.JSONEq(t, `[null, "2"]`, string(executed(t, empty, "get", nil).Raw()))
}
