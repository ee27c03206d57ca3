//go:build unix

package pypool

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/interp"
)

// TestTheAdviceOfCheckHelps: what each error advises is done, and then the same configuration is
// found to serve.
func TestTheAdviceOfCheckHelps(t *testing.T) {
	const command = "from pypool import command\n@command\ndef value():\n    return 1\n"
	write := func(t *testing.T, path, source string) {
		t.Helper()
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(source), 0o600))
	}
	environment := func(t *testing.T) string {
		t.Helper()
		env := filepath.Join(t.TempDir(), "env")
		require.NoError(t, exec.Command(realPython(), "-m", "venv", "--without-pip", env).Run())
		return env
	}
	for name, tc := range map[string]struct {
		source string
		change func(t *testing.T, cfg *Config, dir string) // before: what makes it fail
		advice string
		follow func(t *testing.T, cfg *Config, dir string)
	}{
		"a file beside the script": {"import helper_of_this_test\n" + command, nil, "if it is a file of yours, put it beside the script",
			func(t *testing.T, cfg *Config, dir string) {
				write(t, filepath.Join(dir, "helper_of_this_test.py"), "")
			}},
		"its folder on PYTHONPATH": {"import helper_of_this_test\n" + command, nil, "or its folder on PYTHONPATH",
			func(t *testing.T, cfg *Config, dir string) {
				write(t, filepath.Join(dir, "lib", "helper_of_this_test.py"), "")
				cfg.ExtraEnv = []string{"PYTHONPATH=" + filepath.Join(dir, "lib")}
			}},
		"a package installed for this interpreter": {"import package_of_this_test\n" + command,
			func(t *testing.T, cfg *Config, _ string) { cfg.Python = interp.In(environment(t)) },
			"install the package that provides package_of_this_test for this interpreter, with ",
			func(t *testing.T, cfg *Config, _ string) {
				out, err := exec.Command(cfg.Python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'), end='')").Output()
				require.NoError(t, err)
				write(t, filepath.Join(string(out), "package_of_this_test", "__init__.py"), "")
			}},
		"VIRTUAL_ENV": {"import package_of_this_test\n" + command,
			func(t *testing.T, cfg *Config, _ string) {
				env := environment(t)
				t.Setenv("VIRTUAL_ENV", env)
				out, err := exec.Command(interp.In(env), "-c", "import sysconfig; print(sysconfig.get_path('purelib'), end='')").Output()
				require.NoError(t, err)
				write(t, filepath.Join(string(out), "package_of_this_test.py"), "")
			},
			"the packages of VIRTUAL_ENV",
			func(_ *testing.T, cfg *Config, _ string) { cfg.Python = interp.In(os.Getenv("VIRTUAL_ENV")) }},
		"the script's place": {command, func(_ *testing.T, cfg *Config, _ string) { cfg.Script = "worker.py" },
			"Config.Script is relative to the host's working directory", func(_ *testing.T, cfg *Config, dir string) { cfg.Script = filepath.Join(dir, "worker.py") }},
		"StartTimeout": {"import time\ntime.sleep(4)\n" + command, func(_ *testing.T, cfg *Config, _ string) { cfg.StartTimeout = 2 * time.Second },
			"Raise Config.StartTimeout", func(_ *testing.T, cfg *Config, _ string) { cfg.StartTimeout = 20 * time.Second }},
		"if __name__": {"import sys\n" + command + "sys.exit(3)\n", nil, "put what is not for the pool under `if __name__ == \"__main__\":`",
			func(t *testing.T, _ *Config, dir string) {
				write(t, filepath.Join(dir, "worker.py"), "import sys\n"+command+"if __name__ == \"__main__\":\n    sys.exit(3)\n")
			}},
		"a syntax error": {command + "def broken(:\n", nil, "worker.py, line 5", func(t *testing.T, _ *Config, dir string) { write(t, filepath.Join(dir, "worker.py"), command) }},
		"no command": {"def value():\n    return 1\n", nil, "decorate a function with @command",
			func(t *testing.T, _ *Config, dir string) { write(t, filepath.Join(dir, "worker.py"), command) }},
		"no interpreter": {command, func(_ *testing.T, cfg *Config, dir string) { cfg.Python = filepath.Join(dir, "python9") },
			"it must be the path of a CPython 3.8 or later", func(_ *testing.T, cfg *Config, _ string) { cfg.Python = realPython() }},
		"a module": {command, func(_ *testing.T, cfg *Config, _ string) { cfg.Script, cfg.Module = "", "lib.worker_of_this_test" },
			"found as `python -m` finds it: in Config.Dir, on PYTHONPATH, or installed",
			func(t *testing.T, cfg *Config, dir string) {
				write(t, filepath.Join(dir, "lib", "worker_of_this_test.py"), command)
				cfg.Dir = dir
			}},
		"a bare number": {command, func(_ *testing.T, cfg *Config, _ string) { cfg.StartTimeout = 5 }, "did you mean 5*time.Second?",
			func(_ *testing.T, cfg *Config, _ string) { cfg.StartTimeout = 5 * time.Second }},
	} {
		t.Run(name, func(t *testing.T) {
			source := script(t, tc.source)
			cfg := Config{Python: realPython(), Script: source, Logger: quiet()}
			if tc.change != nil {
				tc.change(t, &cfg, filepath.Dir(source))
			}
			require.ErrorContains(t, Check(t.Context(), cfg), tc.advice)
			tc.follow(t, &cfg, filepath.Dir(source))
			require.NoError(t, Check(t.Context(), cfg))
		})
	}
}

// TestTheAdviceOfARefusalHelps: the same for calls.
func TestTheAdviceOfARefusalHelps(t *testing.T) {
	t.Parallel()
	p := newPool(t, Config{Python: realPython(), Size: 1, Overflow: -1, MaxMessageBytes: 4096, Script: script(t, `from pypool import command
@command
def greet(name, greeting="Hello"): return greeting + name
@command
def letters(text, /): return len(text)
@command
def items(n):
    for i in range(n): yield "x" * 1000
@command
def item_list(n): return ["x" * 1000 for i in range(n)]
`)})
	call := func(command string, args any) error {
		_, err := p.ExecuteAnonymous(t.Context(), command, args)
		return err
	}
	require.ErrorContains(t, call("greet", args{"nam": "Ann"}), "did you mean 'name'?")
	require.NoError(t, call("greet", args{"name": "Ann"}))
	require.ErrorContains(t, call("great", args{"name": "Ann"}), "nearest: greet")
	require.ErrorContains(t, call("letters", args{"text": "x"}), "which is positional only: send the arguments as an array")
	require.NoError(t, call("letters", []string{"x"}))
	require.ErrorContains(t, call("items", args{"n": 2}), "call it with Stream or Each")
	n := 0
	for _, err := range Each[string](t.Context(), p, "items", args{"n": 20}) { // more than MaxMessageBytes in all
		require.NoError(t, err)
		n++
	}
	require.Equal(t, 20, n)
	require.ErrorIs(t, call("item_list", args{"n": 20}), ErrMessageTooLarge)
	require.ErrorIs(t, call("greet", args{"name": string(make([]byte, 8192))}), ErrMessageTooLarge)
}
