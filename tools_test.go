//go:build unix

package pypool

import (
	"context"
	"encoding/json"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/interp"
)

// --- durations ------------------------------------------------------------------------------------------------------

// A bare number is nanoseconds. Every duration in Config is tried, those of its structs too.
func TestADurationOfABareNumberIsRefused(t *testing.T) {
	t.Parallel()
	tried := 0
	var cfg Config
	var each func(v reflect.Value, name string, set func(reflect.Value))
	each = func(v reflect.Value, name string, set func(reflect.Value)) {
		switch {
		case v.Type() == reflect.TypeFor[time.Duration]():
			set(v)
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				if field := v.Type().Field(i); field.IsExported() {
					each(v.Field(i), strings.TrimPrefix(name+"."+field.Name, "."), func(f reflect.Value) {
						tried++
						field := strings.TrimPrefix(name+"."+field.Name, ".")
						f.SetInt(5)
						_, err := New(t.Context(), cfg)
						e := failure(t, err, ErrInvalidArguments)
						assert.Contains(t, e.Message, "Config."+field+": 5ns is less than ", "%s", field)
						assert.Contains(t, e.Message, "did you mean 5*time.Second?")
						for _, fine := range []time.Duration{0, -1, time.Millisecond, time.Hour} {
							f.SetInt(int64(fine))
							_, err := cfg.resolve()
							if err != nil {
								assert.NotContains(t, err.Error(), "did you mean", "%s %v", field, fine)
							}
						}
						f.SetInt(0)
					})
				}
			}
		}
	}
	each(reflect.ValueOf(&cfg).Elem(), "", nil)
	require.Equal(t, 16, tried)
	_, err := Config{OperationTimeout: 5000}.resolve()
	require.ErrorContains(t, err, "Config.OperationTimeout: 5µs is less than 1ms: did you mean 5000*time.Millisecond?")
	for v, words := range map[time.Duration]string{
		90: "90ns is less than 1ms: did you mean 90*time.Second?", 250: "250ns is less than 1ms: did you mean 250*time.Millisecond?",
		60_000: "60µs is less than 1ms: 1ms is the least, and a number without a unit is nanoseconds", 999 * time.Microsecond: "999µs is less than 1ms: 1ms is the least",
		time.Millisecond - 1: "999.999µs is less than 1ms: 1ms is the least",
	} {
		_, err = Config{OperationTimeout: v}.resolve()
		require.ErrorContains(t, err, "Config.OperationTimeout: "+words)
		require.Equal(t, strings.Contains(words, "did you mean"), strings.Contains(err.Error(), "did you mean"), "%v", v)
	}
	_, err = Config{StopGrace: 3, KillGrace: 7}.resolve()
	require.ErrorContains(t, err, "KillGrace: 7ns")
	require.ErrorContains(t, err, "StopGrace: 3ns", "every bad field is named")
}

// What is left of a deadline may be as little as it likes.
func TestTheTimeoutOfOneCallMayBeTiny(t *testing.T) {
	t.Parallel()
	p := corePool(t, 1, 0)
	_, err := p.ExecuteAnonymous(t.Context(), "hold", args{"gate": newLatch(t).path}, WithTimeout(5)) // an answer that is there first would win
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrInvalidArguments)
	eventually(t, "healthy again", func() bool { return serving(p) })
	_, err = p.ExecuteAnonymous(t.Context(), "pid", nil, WithCheckoutTimeout(5))
	require.NoError(t, err)
}

// --- the configuration and its documents ----------------------------------------------------------------------------

// TestEveryFieldOfConfigIsDocumented: in the README's table and at the field.
func TestEveryFieldOfConfigIsDocumented(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, table, _ := strings.Cut(string(readme), "\n## Configuration\n")
	table, _, _ = strings.Cut(table, "\n## ")
	source, err := os.ReadFile("config.go")
	require.NoError(t, err)
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "config.go", source, parser.ParseComments)
	require.NoError(t, err)
	pkg, err := doc.NewFromFiles(files, []*ast.File{file}, "github.com/pypool/pypool")
	require.NoError(t, err)
	said := map[string]string{} // the comment that a field stands under: several may share one
	for _, typ := range pkg.Types {
		if typ.Name != "Config" {
			continue
		}
		comment := ""
		for _, field := range typ.Decl.Specs[0].(*ast.TypeSpec).Type.(*ast.StructType).Fields.List {
			if field.Doc != nil {
				comment = field.Doc.Text()
			}
			for _, name := range field.Names {
				said[name.Name] = comment
			}
		}
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if field.IsExported() {
			assert.Contains(t, table, "`"+field.Name+"`", "README.md")
			assert.Regexp(t, `\b`+field.Name+`\b`, said[field.Name], "config.go")
		}
	}
}

// What README.md and the comments in config.go give as defaults is what a Config gets.
func TestTheReadmesDefaultsAreTheDefaults(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	full, err := Config{}.resolve()
	require.NoError(t, err)
	for row, want := range map[string]time.Duration{
		"CheckoutTimeout": full.CheckoutTimeout, "OperationTimeout": full.OperationTimeout, "StartTimeout": full.StartTimeout, "KillGrace": full.KillGrace,
		"StopGrace": full.StopGrace, "HealthCheckInterval": full.HealthCheckInterval,
	} {
		m := regexp.MustCompile("(?m)^\\| `" + row + "` \\| ([^|]*) \\|").FindSubmatch(readme)
		require.NotNil(t, m, row)
		got, err := time.ParseDuration(strings.ReplaceAll(string(m[1]), " ", ""))
		require.NoError(t, err)
		require.Equal(t, want, got, row)
	}
}

// --- what runs ------------------------------------------------------------------------------------------------------

func TestWorkersSayWhichInterpreterRuns(t *testing.T) {
	t.Parallel()
	env := filepath.Join(t.TempDir(), "env")
	require.NoError(t, exec.Command(realPython(), "-m", "venv", "--without-pip", env).Run())
	python := interp.In(env)
	p := newPool(t, Config{Python: python, Script: script(t, value("1")), Size: 1, Overflow: -1})
	require.Equal(t, python, p.Workers()[0].Interpreter)
	require.Regexp(t, `^3\.\d+\.\d+`, p.Workers()[0].Python)
	logs := &logBuffer{}
	require.NoError(t, Check(t.Context(), Config{Python: python, Script: script(t, value("1")), Logger: logs.logger(slog.LevelInfo)}))
	found := logs.with(t, "check: interpreter")[0]
	require.Equal(t, p.Workers()[0].Interpreter, found["path"])
	require.Equal(t, p.Workers()[0].Python, found["version"])
	require.Equal(t, env, found["virtual_env"])
}

// --- Check's advice -------------------------------------------------------------------------------------------------

func TestOnlyKnownPackagesAreNamed(t *testing.T) {
	t.Parallel()
	require.Greater(t, len(packages()), 90)
	out, err := exec.Command(realPython(), "-c", `import json, sys; sys.path.insert(0, "python")
from pypool import _packages
names = [*_packages.DISTRIBUTIONS, "nmupy", "google", "numpy.core", "no such"]
print(json.dumps([_packages.DISTRIBUTIONS, {name: _packages.advice("/py", name) for name in names}]))`).Output()
	require.NoError(t, err)
	var theirs []map[string]string
	require.NoError(t, json.Unmarshal(out, &theirs))
	require.Equal(t, theirs[0], packages(), "Go reads the whole of Python's table")
	for name, advice := range theirs[1] {
		require.Equal(t, advice, installAdvice("/py", name), "both doctors say the same")
	}
	for name, want := range map[string]string{
		"cv2": "opencv-python", "PIL": "pillow", "sklearn": "scikit-learn", "yaml": "PyYAML", "bs4": "beautifulsoup4", "dateutil": "python-dateutil",
		"dotenv": "python-dotenv", "Crypto": "pycryptodome", "OpenSSL": "pyOpenSSL", "google.protobuf": "protobuf", "skimage": "scikit-image", "serial": "pyserial",
		"usb": "pyusb", "jwt": "PyJWT", "magic": "python-magic", "fitz": "PyMuPDF", "docx": "python-docx", "pptx": "python-pptx", "Levenshtein": "Levenshtein",
		"numpy": "numpy", "pandas": "pandas", "torch": "torch",
	} {
		require.Equal(t, "install it for this interpreter: /py -m pip install "+want, installAdvice("/py", name))
	}
	require.NotContains(t, installAdvice("/py", "nmupy"), "install nmupy")
}

func TestCheckNamesThePackageOfAnImport(t *testing.T) {
	t.Parallel()
	env := filepath.Join(t.TempDir(), "env") // without any package
	require.NoError(t, exec.Command(realPython(), "-m", "venv", "--without-pip", env).Run())
	python := interp.In(env)
	for module, want := range map[string]string{
		"cv2":   "install it for this interpreter: " + python + " -m pip install opencv-python;",
		"numpy": "install it for this interpreter: " + python + " -m pip install numpy;",
		"nmupy": "install the package that provides nmupy for this interpreter, with " + python + " -m pip install;",
	} {
		source := script(t, "import "+module+"\n")
		err := Check(t.Context(), Config{Python: python, Script: source, Logger: quiet()})
		failure(t, err, ErrWorkerStart)
		require.Contains(t, err.Error(), want)
		by := exec.Command(realPython(), "-I", "-c", `import sys; sys.path.insert(0, sys.argv.pop(1)); import pypool.__main__ as m; m.sys.executable = sys.argv.pop(1); sys.exit(m.main(sys.argv[1:]))`,
			"python", python, "check", source)
		if module == "nmupy" { // the others may be installed there
			out, _ := by.CombinedOutput()
			require.Contains(t, string(out), strings.TrimSuffix(want, ";"))
		}
	}
}

// --- a pool of nothing ----------------------------------------------------------------------------------------------

func TestAConfigWithoutAScriptIsAcceptedAndSaysSo(t *testing.T) {
	t.Parallel()
	logs := &logBuffer{}
	cfg := Config{Python: realPython(), Size: 1, Overflow: -1, Logger: logs.logger(slog.LevelInfo)}
	require.NoError(t, Check(t.Context(), cfg))
	require.Len(t, logs.with(t, "check: "+noScript), 1)
	p := newPool(t, cfg)
	require.JSONEq(t, `[]`, string(executed(t, p, "list_programs", nil).Raw()))
	require.NoError(t, p.Close())
	records := logs.with(t, noScript)
	require.Len(t, records, 2, "Check opens a pool, too")
	require.Equal(t, "WARN", records[0]["level"])
	logs = &logBuffer{}
	cfg.Logger, cfg.Script = logs.logger(slog.LevelInfo), script(t, value("1"))
	require.NoError(t, newPool(t, cfg).Close())
	require.Empty(t, logs.String())
}

// --- a quiet library ------------------------------------------------------------------------------------------------

// The life of a healthy pool, with all that is routine in it, is in the log at Debug alone.
func TestRoutineIsLoggedAtDebug(t *testing.T) {
	t.Parallel()
	logs, all := &logBuffer{}, &logBuffer{}
	p := newPool(t, Config{
		Script: workerScript(t, "core.py"), Python: realPython(), Size: 2, Overflow: 1, MaxCalls: 3, overflowIdle: 10 * time.Millisecond, HealthCheckInterval: 10 * time.Millisecond,
		Logger: slog.New(both{logs.logger(slog.LevelInfo).Handler(), all.logger(slog.LevelDebug).Handler()}),
	})
	for range 10 {
		executed(t, p, "pid", nil)
		_, err := p.ExecuteAnonymous(t.Context(), "fail", args{"message": "x"})
		require.ErrorIs(t, err, ErrPython)
		_, err = p.ExecuteAnonymous(t.Context(), "nobody", nil)
		require.ErrorIs(t, err, ErrUnknownCommand)
	}
	eventually(t, "workers were recycled", func() bool {
		executed(t, p, "pid", nil)
		return p.Stats().Recycled > 2
	})
	require.NoError(t, p.Reload(t.Context()))
	held := hold(t, t.Context(), p, "")
	held.finish(t)
	require.NoError(t, p.Shutdown(t.Context()))
	require.Empty(t, logs.String())
	require.NotEmpty(t, all.with(t, "worker stopped"))
}

// both is a handler that is two.
type both [2]slog.Handler

func (b both) Enabled(context.Context, slog.Level) bool { return true }
func (b both) Handle(ctx context.Context, r slog.Record) error {
	for _, h := range b {
		if h.Enabled(ctx, r.Level) {
			if err := h.Handle(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}
func (b both) WithAttrs(attrs []slog.Attr) slog.Handler {
	return both{b[0].WithAttrs(attrs), b[1].WithAttrs(attrs)}
}
func (b both) WithGroup(name string) slog.Handler {
	return both{b[0].WithGroup(name), b[1].WithGroup(name)}
}
