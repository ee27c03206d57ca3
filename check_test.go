package pypool

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/interp"
)

func TestCheckListsWhatItFinds(t *testing.T) {
	var logs logBuffer
	events := 0
	cfg := Config{
		Script: script(t, "from pypool import command, program\n@command\ndef one(): pass\n@program('two')\ndef two(): pass\n"),
		Logger: logs.logger(slog.LevelInfo), Name: "checked", Observer: &Observer{Event: func(Event) { events++ }},
	}
	require.NoError(t, Check(t.Context(), cfg))
	require.Contains(t, logs.String(), `"msg":"check: interpreter"`)
	require.Contains(t, logs.String(), `"names":["one","two"]`)
	require.Contains(t, logs.String(), `"pool":"checked"`)
	require.Zero(t, events)

	require.NoError(t, Check(t.Context(), Config{Logger: logs.logger(slog.LevelInfo)})) // no script: the built-ins
}

// Each error tells its reader what to do.
func TestCheckAdvises(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "python")
	// Such an interpreter knows no -I.
	require.NoError(t, os.WriteFile(old, []byte("#!/bin/sh\n[ \"$1\" = -I ] && exit 2\necho 3.6.15\n"), 0o700)) //nolint:gosec // it is to be executed
	plain := filepath.Join(dir, "plain")
	require.NoError(t, os.WriteFile(plain, nil, 0o600))

	for name, c := range map[string]struct {
		cfg    Config
		source string
		want   []string
		stderr string
	}{
		"no interpreter": {Config{Python: filepath.Join(dir, "none")}, "", []string{"Config.Python names " + filepath.Join(dir, "none") + ", which cannot be started"}, ""},
		"not executable": {Config{Python: plain}, "", []string{"Config.Python names", "permission denied"}, ""},
		"too old":        {Config{Python: old}, "", []string{"Python 3.6.15 is too old", "comes from Config.Python: name a newer one"}, ""},
		"no script":      {Config{Script: "no_such_worker.py"}, "", []string{"There is no file ", "relative to the host's working directory, "}, ""},
		"no module":      {Config{Module: "no_such_module.worker"}, "", []string{"Config.Module is found as `python -m` finds it"}, ""},
		"no package":     {Config{}, "import no_such_package.part\n", []string{"No module named 'no_such_package'", "install the package that provides no_such_package for this interpreter, with ", "-m pip install;"}, "line 1, in <module>"},
		"syntax":         {Config{}, "x = 1\ndef broken(:\n", []string{"SyntaxError", "Correct ", "worker.py, line 2"}, "def broken(:"},
		"raises":         {Config{}, "x = 1\nx / 0\n", []string{"ZeroDivisionError", "raised while the script was imported, at ", "worker.py, line 2"}, "x / 0"},
		"setup":          {Config{}, "from pypool import setup\n@setup\ndef go():\n    raise OSError('no model')\n", []string{"OSError: no model", "raised by a @setup function, at ", "line 4"}, "in go"},
		"exits":          {Config{}, "import sys\nsys.exit(3)\n", []string{"SystemExit", `if __name__ == "__main__":`}, ""},
		"dies":           {Config{}, "import os\nos._exit(3)\n", []string{"exited with code 3", "does the script call os._exit?"}, ""},
		"crashes":        {Config{}, "import faulthandler\nfaulthandler._sigsegv()\n", []string{"SIGSEGV", "A native library crashed"}, "Segmentation fault"},
		"hangs":          {Config{StartTimeout: 300 * time.Millisecond}, "import time\ntime.sleep(3600)\n", []string{"not ready within StartTimeout", "Raise Config.StartTimeout, or import less"}, ""},
		"a variable":     {Config{ExtraEnv: []string{"PYTHONUTF8=7"}}, "", []string{"invalid -X utf8 option value", "look at the values of PYTHONUTF8"}, "Fatal Python error"},
		"a large one":    {Config{ExtraEnv: []string{"BIG=" + strings.Repeat("x", 200<<10)}}, "", []string{"argument list too long", "larger than the system allows", "put what is large into a file"}, ""},
		"no commands":    {Config{}, "x = 1\n", []string{"registers no command: decorate a function with @command"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := c.cfg
			cfg.Logger = testLogger(t)
			if c.source != "" {
				cfg.Script = script(t, c.source)
			}
			err := Check(t.Context(), cfg)
			require.ErrorIs(t, err, ErrWorkerStart)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			var start *StartError
			require.ErrorAs(t, err, &start)
			require.Contains(t, start.Stderr, c.stderr)
		})
	}
}

func TestTextThatNoWorkerCanBeToldIsRefused(t *testing.T) {
	for field, cfg := range map[string]Config{
		"Args": {Args: []string{"fine", "\xff"}}, "Script": {Script: "w\xff.py"}, "Module": {Module: "w\xff"},
	} {
		_, err := New(t.Context(), cfg)
		require.ErrorIs(t, err, ErrInvalidArguments)
		require.ErrorContains(t, err, "Config."+field+": ")
		require.ErrorContains(t, err, "is not UTF-8")
	}
}

func TestCheckNamesTheUnusedEnvironment(t *testing.T) {
	env := t.TempDir()
	t.Setenv("VIRTUAL_ENV", env)
	err := Check(t.Context(), Config{Python: "python3", Script: script(t, "import no_such_package\n"), Logger: testLogger(t)})
	require.ErrorContains(t, err, "the packages of VIRTUAL_ENV, "+env+", are not seen, because the interpreter comes from Config.Python: use "+interp.In(env))
}

func TestCheckRefusesAndCancels(t *testing.T) {
	require.ErrorIs(t, Check(t.Context(), Config{Size: -1}), ErrInvalidArguments)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Check(ctx, Config{Logger: testLogger(t)})
	require.ErrorIs(t, err, context.Canceled)
}
