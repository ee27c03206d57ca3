package pypool

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// watched opens a pool on a folder of its own, and returns a function that writes files there.
func watched(t *testing.T, files map[string]string, change func(*Config)) (p *Pool, write func(name, source string), logs *logBuffer) {
	t.Helper()
	dir := t.TempDir()
	write = func(name, source string) {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(source), 0o600))
	}
	for name, source := range files {
		write(name, source)
	}
	logs = &logBuffer{}
	cfg := Config{
		Script: filepath.Join(dir, "worker.py"), Size: 2, Overflow: -1, WatchScripts: true, Logger: logs.logger(slog.LevelInfo),
		// No failed start is repeated by itself: whatever heals is the watch's doing.
		RestartBackoff: Backoff{Min: time.Hour, Max: time.Hour}, watchEvery: 20 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	return newPool(t, cfg), write, logs
}

func value(version string) string {
	return "from pypool import command\n@command\ndef value():\n    return " + version + "\n"
}

// answers waits until no worker but new ones answers, with want.
func answers(t *testing.T, p *Pool, want string) {
	t.Helper()
	eventually(t, "value() is "+want, func() bool {
		res, err := p.ExecuteAnonymous(context.Background(), "value", nil)
		return err == nil && string(res.Raw()) == want && serving(p)
	})
}

// reloads counts how often the watch had the workers replaced.
func reloads(logs *logBuffer) int { return strings.Count(logs.String(), "sources changed") }

func TestWatchScriptsReloads(t *testing.T) {
	p, write, logs := watched(t, map[string]string{"worker.py": value("1")}, nil)
	require.Equal(t, "1", string(executed(t, p, "value", nil).Raw()))
	// Edits of one size, within a second: a .pyc could not tell them apart.
	for n, version := range []string{"2", "3", "4"} {
		write("worker.py", value(version))
		answers(t, p, version)
		// A worker that was starting for the edit before may have answered: the next edit must not
		// come together with this one.
		eventually(t, "the edit has been seen", func() bool { return reloads(logs) > n })
	}
	require.Equal(t, 3, reloads(logs))
	require.NoDirExists(t, filepath.Join(filepath.Dir(p.cfg.Script), "__pycache__"))
}

// An edit of the same size and time, written into the file, or put in its place.
func TestWatchScriptsSeesAnEditWithTheTimeOfTheOneBefore(t *testing.T) {
	p, write, _ := watched(t, map[string]string{"worker.py": value("1")}, nil)
	before, err := os.Stat(p.cfg.Script)
	require.NoError(t, err)
	answers(t, p, "1")
	write("worker.py", value("2"))
	require.NoError(t, os.Chtimes(p.cfg.Script, before.ModTime(), before.ModTime()))
	answers(t, p, "2")
	write("new.py", value("3"))
	fresh := filepath.Join(filepath.Dir(p.cfg.Script), "new.py")
	require.NoError(t, os.Chtimes(fresh, before.ModTime(), before.ModTime()))
	require.NoError(t, os.Rename(fresh, p.cfg.Script))
	answers(t, p, "3")
}

// What the script imports counts too, and what it imports while it serves.
func TestWatchScriptsFollowsImports(t *testing.T) {
	p, write, logs := watched(t, map[string]string{
		"worker.py": "import helper\nfrom pypool import command\n@command\ndef value():\n    import late\n    return helper.N + late.N\n",
		"helper.py": "N = 1\n", "late.py": "N = 10\n", "unused.py": "N = 1\n",
	}, nil)
	answers(t, p, "11")
	write("helper.py", "N = 2\n")
	answers(t, p, "12")
	write("late.py", "N = 20\n")
	answers(t, p, "22")
	write("unused.py", "N = 2\n")
	write("late.py", "N = 30\n")
	answers(t, p, "32")
	require.NotContains(t, logs.String(), "unused.py")
}

func TestWatchScriptsSurvivesABrokenEdit(t *testing.T) {
	p, write, logs := watched(t, map[string]string{"worker.py": value("1")}, nil)
	write("worker.py", "def broken(:\n")
	eventually(t, "the broken edit is logged", func() bool { return strings.Contains(logs.String(), "SyntaxError") })
	for range 20 {
		require.Equal(t, "1", string(executed(t, p, "value", nil).Raw()))
	}
	write("worker.py", value("2"))
	answers(t, p, "2")
}

// The fault may be in a file that no worker has ever told of, or be that there is no such file.
func TestWatchScriptsSeesWhatFailsToImport(t *testing.T) {
	p, write, logs := watched(t, map[string]string{"worker.py": value("1")}, nil)
	write("added.py", "1 / 0\n")
	write("worker.py", "import added\n"+value("added.N"))
	eventually(t, "the first failure is logged", func() bool { return strings.Contains(logs.String(), "ZeroDivisionError") })
	write("added.py", "import missing\nN = missing.N\n")
	eventually(t, "the second failure is logged", func() bool { return strings.Contains(logs.String(), "No module named 'missing'") })
	require.Equal(t, "1", string(executed(t, p, "value", nil).Raw()))
	write("missing.py", "N = 5\n")
	eventually(t, "the file that was missing is found", func() bool {
		write("touched.py", "") // the folder changes again, in case that the watch first saw it with missing.py in it
		require.NoError(t, os.Remove(filepath.Join(filepath.Dir(p.cfg.Script), "touched.py")))
		return string(executed(t, p, "value", nil).Raw()) == "5"
	})
}

// Neither a file that was imported well, and lacks something, nor one that ends the process, is in a
// traceback.
func TestWatchScriptsSeesTheEditOfAnyFileThatAFailedStartHasRead(t *testing.T) {
	for name, broken := range map[string]string{
		"lacks a name": "M = 1\n", "is empty": "", "crashes": "import ctypes\nctypes.string_at(0)\n", "hangs": "import time\ntime.sleep(3600)\n",
	} {
		t.Run(name, func(t *testing.T) {
			p, write, logs := watched(t, map[string]string{"worker.py": value("1")}, func(cfg *Config) {
				cfg.StartTimeout, cfg.KillGrace = 2*time.Second, stackGrace
			})
			require.NoError(t, os.Mkdir(filepath.Join(filepath.Dir(p.cfg.Script), "shop"), 0o700))
			write("shop/__init__.py", "")
			write("shop/added.py", broken)
			write("worker.py", "import shop.added\nN = shop.added.N\n"+value("N"))
			eventually(t, "the failure is logged", func() bool { return len(failedStarts(t, logs)) > 0 })
			require.Equal(t, "1", string(executed(t, p, "value", nil).Raw()))
			write("shop/added.py", "N = 5\n")
			answers(t, p, "5")
			require.Len(t, failedStarts(t, logs), 1)
		})
	}
}

// A pool that never had a worker heals too.
func TestWatchScriptsBrokenFromTheStart(t *testing.T) {
	p, write, logs := watched(t, map[string]string{"worker.py": "1 / 0\n"}, func(cfg *Config) { cfg.MinReady = -1 })
	eventually(t, "the failure is logged", func() bool { return strings.Contains(logs.String(), "ZeroDivisionError") })
	write("worker.py", value("1"))
	answers(t, p, "1")
}

// An idle pool is left alone, and a call that runs during an edit ends as it began.
func TestWatchScriptsIsRolling(t *testing.T) {
	l := newLatch(t)
	source := "from pypool import command\n@command\ndef value(path=None):\n    if path: open(path).read()\n    return VERSION\nVERSION = "
	p, write, logs := watched(t, map[string]string{"worker.py": source + "1\n"}, nil)
	answers(t, p, "1")
	before := p.Stats().WorkersStarted
	old := make(chan string, 1)
	go func() {
		res, err := p.ExecuteAnonymous(context.Background(), "value", map[string]string{"path": l.path})
		if err != nil {
			old <- err.Error()
			return
		}
		old <- string(res.Raw())
	}()
	eventually(t, "the call runs", func() bool { return p.Stats().Busy == 1 })
	require.Equal(t, before, p.Stats().WorkersStarted)
	write("worker.py", source+"2\n")
	eventually(t, "a new worker answers", func() bool { return string(executed(t, p, "value", nil).Raw()) == "2" })
	l.release(t)
	require.Equal(t, "1", <-old)
	answers(t, p, "2")
	require.Equal(t, 1, reloads(logs))
}

func TestWatchScriptsIsOffUnlessAskedFor(t *testing.T) {
	require.False(t, Development().WatchScripts)
	p := newPool(t, Config{Script: script(t, value("1")), Size: 1})
	require.NotContains(t, p.sup.workers()[0].spec.Args, "-B")
}

// The old workers keep the pool serving, and the error is the replacement's all the same.
func TestReloadReportsAReplacementThatDoesNotStart(t *testing.T) {
	path := script(t, value("1"))
	p := newPool(t, Config{Script: path, Size: 1, Overflow: -1})
	require.NoError(t, os.WriteFile(path, []byte("def broken(:\n"), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.ErrorIs(t, p.Reload(ctx), ErrWorkerStart)
	require.Equal(t, "1", string(executed(t, p, "value", nil).Raw()))
}

func TestTheSourcesThatWorkersNameAreBounded(t *testing.T) {
	p, _, _ := watched(t, map[string]string{"worker.py": value("1")}, func(c *Config) { c.WatchScripts = false })
	w := newSourceWatch(p.sup, time.Now())
	var named []string
	for i := range maxSources + 10 {
		named = append(named, fmt.Sprintf("/nowhere/%d.py", i))
	}
	w.meet([]string{"/" + strings.Repeat("x", maxSourcePath)}, time.Now())
	require.Len(t, w.files, 1, "the script")
	w.meet(named, time.Now())
	require.Len(t, w.files, maxSources)
	w.asked["gone"] = 1
	w.learn()
	require.NotContains(t, w.asked, "gone")
	require.NotEmpty(t, w.asked)
}
