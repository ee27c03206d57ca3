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

// failedStarts are the log's records of failed starts from the level Info on: those that a
// developer sees.
func failedStarts(t *testing.T, logs *logBuffer) []map[string]any {
	return logs.with(t, "a worker did not start")
}

// One report for each edit, with the place and the traceback; and no second try of the same files,
// though a failed start is else repeated within milliseconds.
func TestWatchScriptsReportsABrokenEditOnce(t *testing.T) {
	executedOnly(t) // each start is an import
	for name, tc := range map[string]struct{ broken, cause, at, traceback string }{
		"syntax": {"x = 1\ndef broken(:\n", "SyntaxError: invalid syntax", "worker.py:2", "def broken(:"},
		"name":   {"\nimport helper\n" + value("helper.N"), "ZeroDivisionError: division by zero", "helper.py:1", "line 2, in <module>"},
		"setup":  {value("2") + "from pypool import setup\n@setup\ndef prepare():\n    raise KeyError('row')\n", "at setup: KeyError: 'row'", "worker.py:8", "in prepare"},
	} {
		t.Run(name, func(t *testing.T) {
			p, write, logs := watched(t, map[string]string{"worker.py": value("1"), "helper.py": "1 / 0\n"}, func(cfg *Config) {
				cfg.RestartBackoff = Backoff{time.Millisecond, time.Millisecond}
			})
			before := p.Stats().WorkersStarted
			for edit := range 3 { // the same mistake again is another edit
				write("worker.py", tc.broken+strings.Repeat("\n", edit))
				eventually(t, "the broken edit is logged", func() bool { return len(failedStarts(t, logs)) > edit })
				for range 50 {
					require.Equal(t, "1", string(executed(t, p, "value", nil).Raw()))
				}
			}
			write("worker.py", value("2"))
			answers(t, p, "2")
			records := failedStarts(t, logs)
			require.Len(t, records, 3, "one for each edit")
			eventually(t, "the last worker of old code is gone", func() bool {
				st := p.Stats()
				return serving(p) && st.WorkersStarted-before >= 3+2 && st.Workers == st.Size
			})
			require.EqualValues(t, 3+2, p.Stats().WorkersStarted-before, "one try for each broken edit, and Size new workers")
			for _, r := range records {
				require.Contains(t, r["cause"], tc.cause)
				require.Equal(t, filepath.Join(filepath.Dir(p.cfg.Script), tc.at), r["at"])
				require.Contains(t, r["traceback"], tc.traceback)
				require.Equal(t, "when a source file changes", r["next_try"])
				require.Equal(t, "ERROR", r["level"])
			}
			require.Empty(t, logs.with(t, "worker ended before it was ready"), "told once")
		})
	}
}

// Reload is the way to try unchanged files again.
func TestWatchScriptsReloadTriesUnchangedFilesAgain(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "up")
	source := fmt.Sprintf("import os\nfrom pypool import setup\n@setup\ndef reach():\n    if os.path.exists(%q): raise OSError('no database')\n", flag)
	p, write, logs := watched(t, map[string]string{"worker.py": source + value("1")}, func(cfg *Config) {
		cfg.RestartBackoff = Backoff{time.Millisecond, time.Millisecond}
	})
	newFile(t, flag)
	write("worker.py", source+value("2"))
	eventually(t, "the failure is logged", func() bool { return len(failedStarts(t, logs)) == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.ErrorIs(t, p.Reload(ctx), ErrWorkerStart)
	removeFile(t, flag)
	require.Equal(t, "1", string(executed(t, p, "value", nil).Raw()))
	require.NoError(t, p.Reload(ctx))
	answers(t, p, "2")
}

// Where workers are missing the pool goes on trying, and says so once.
func TestWatchScriptsBrokenFromTheStartIsReportedOnce(t *testing.T) {
	executedOnly(t) // each start is an import
	p, write, logs := watched(t, map[string]string{"worker.py": "1 / 0\n"}, func(cfg *Config) {
		cfg.MinReady, cfg.RestartBackoff = -1, Backoff{time.Millisecond, time.Millisecond}
	})
	eventually(t, "it has tried several times", func() bool { return p.Stats().WorkersExited > 5 })
	require.Len(t, failedStarts(t, logs), 1)
	write("worker.py", value("1"))
	answers(t, p, "1")
	require.Len(t, failedStarts(t, logs), 1)
}

// Without WatchScripts each failed start is told, its traceback only when it is new.
func TestAFailedStartIsLoggedWithItsTracebackOnce(t *testing.T) {
	t.Parallel()
	logs := &logBuffer{}
	p := newPool(t, Config{
		Script: script(t, "1 / 0\n"), Python: realPython(), Size: 1, Overflow: -1, MinReady: -1, RestartBackoff: Backoff{time.Millisecond, time.Millisecond},
		Logger: logs.logger(slog.LevelInfo),
	})
	eventually(t, "three failed", func() bool { return len(failedStarts(t, logs)) >= 3 })
	require.NoError(t, p.Close())
	for i, r := range failedStarts(t, logs) {
		require.Contains(t, r["cause"], "division by zero (worker.py:1)")
		require.Equal(t, i == 0, r["traceback"] != nil)
	}
}

func newFile(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, nil, 0o600))
}

func removeFile(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.Remove(path))
}
