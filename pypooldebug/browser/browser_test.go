package browser

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/debugpage"
	"github.com/pypool/pypool/internal/debugpage/fakepool"
	"github.com/pypool/pypool/pypooldebug"
)

// The tests need a Chromium: PYPOOL_BROWSER names it, or requires one when it is 1. With
// PYPOOL_SCREENSHOTS they leave pictures in that folder.

func chromium(t *testing.T) string {
	t.Helper()
	wanted := os.Getenv("PYPOOL_BROWSER")
	names := []string{"chromium", "chromium-browser", "google-chrome", "chrome"}
	if wanted != "" && wanted != "1" {
		names = []string{wanted}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if wanted != "" {
		t.Fatalf("PYPOOL_BROWSER=%s, and there is no %s", wanted, strings.Join(names, ", "))
	}
	t.Skip("there is no Chromium here (Debian: apt-get install chromium)")
	return ""
}

var (
	browser context.Context // nil: it has not been started yet
	quit    = func() {}
)

func TestMain(m *testing.M) {
	code := m.Run()
	quit()
	os.Exit(code)
}

// theBrowser is started by the first test that needs it.
func theBrowser(t *testing.T) context.Context {
	t.Helper()
	path := chromium(t)
	if browser != nil {
		return browser
	}
	dir, err := os.MkdirTemp("", "pypool-browser-*")
	require.NoError(t, err)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.UserDataDir(dir))
	allocator, end := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	quit = func() {
		cancel()
		end()
		_ = os.RemoveAll(dir)
	}
	require.NoError(t, chromedp.Do(ctx))
	browser = ctx
	return browser
}

// tab is a page of the browser's.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex // guards trouble
	trouble  []string   // exceptions, refusals by the policy, failed requests
	handler  http.Handler
	shutdown func()
}

func open(t *testing.T, width, height int64, scheme string, sources ...debugpage.Source) *tab {
	t.Helper()
	return serve(t, width, height, scheme, debugpage.New(sources...))
}

// serve opens the page of a handler.
func serve(t *testing.T, width, height int64, scheme string, handler http.Handler) *tab {
	t.Helper()
	b := &tab{t: t, handler: handler}
	server := httptest.NewServer(http.StripPrefix("/debug", b.handler))
	b.shutdown = sync.OnceFunc(func() {
		server.CloseClientConnections()
		server.Close()
	})
	t.Cleanup(b.shutdown)
	ctx, cancel := chromedp.NewContext(theBrowser(t)) // a tab of it
	t.Cleanup(cancel)
	b.ctx = ctx
	_ = chromedp.Do(ctx) // which makes the tab
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.trouble = append(b.trouble, e.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			b.trouble = append(b.trouble, e.Entry.Text+" "+e.Entry.URL)
		}
	}))
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	require.NoError(t, err)
	b.run(chromedp.EmulateViewport(width, height), chromedp.Navigate(server.URL+"/debug/pypool/"), chromedp.WaitVisible(chromedp.CSS("main section")))
	return b
}

func (b *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	require.NoError(b.t, chromedp.Do(ctx, actions...))
}

func (b *tab) click(selector string) {
	b.t.Helper()
	b.run(chromedp.Click(chromedp.CSS(selector)))
}

// do runs statements of the page's.
func (b *tab) do(statements string) {
	b.t.Helper()
	value[bool](b, statements+"; true")
}

// value is what an expression of the page's comes to.
func value[T any](b *tab, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 60*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	require.NoError(b.t, err, expression)
	return v
}

// until waits for an expression to become true.
func (b *tab) until(expression string) {
	b.t.Helper()
	_, err := chromedp.Run(b.ctx, chromedp.Poll[bool](expression, chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(20*time.Second)))
	require.NoError(b.t, err, expression)
}

func (b *tab) text() string { return value[string](b, "document.body.innerText") }

func (b *tab) healthy() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	assert.Empty(b.t, b.trouble)
}

func (b *tab) picture(name string) {
	b.t.Helper()
	dir := os.Getenv("PYPOOL_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600))
}

const broken = "worker_start_failed: /srv/app/worker.py: at import: ModuleNotFoundError: No module named 'torch' (worker.py:3)"

func TestThePageFitsTwoHundredWorkersOnEveryScreen(t *testing.T) {
	for _, c := range []struct {
		name, scheme  string
		width, height int64
	}{{"light", "light", 1280, 900}, {"dark", "dark", 1280, 900}, {"phone", "light", 390, 844}, {"phone-dark", "dark", 390, 844}} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t, c.width, c.height, c.scheme, fakepool.Large(200), fakepool.Loop(broken))
			assert.Equal(t, 200, value[int](b, "document.querySelectorAll('#pool-0 button.stacks').length"))
			assert.LessOrEqual(t, value[int64](b, "document.documentElement.scrollWidth"), c.width, "nothing sticks out to the right")
			said := b.text()
			for _, want := range []string{"inference", "degraded", "120 of 200", "rerank", "python_exception", "A call of rerank is tried", "No worker can start", broken, "Sessions: 4211"} {
				assert.Contains(t, said, want)
			}
			dark := value[bool](b, "getComputedStyle(document.body).backgroundColor === 'rgb(17, 21, 27)'")
			assert.Equal(t, c.scheme == "dark", dark)
			// Text stands out from its ground, in what matters most
			for _, selector := range []string{"body", ".tile .name", ".badge", ".notice", "td", "th", "#live", "a"} {
				assert.GreaterOrEqual(t, value[float64](b, contrast+"("+"document.querySelector('"+selector+"'))"), 4.5, selector)
			}
			b.picture(c.name)
			b.healthy()
		})
	}
}

// contrast is the ratio of an element's text to its ground, as WCAG computes it.
const contrast = `((element) => {
	const parse = (text) => text.match(/[\d.]+/g).map(Number);
	const luminance = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	let ground = element;
	while (ground && (parse(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) ground = ground.parentElement;
	const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(parse(getComputedStyle(ground).backgroundColor))];
	return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
})`

func TestThePageIsLiveAndKeepsWhatIsUnderThePointer(t *testing.T) {
	pool := fakepool.Large(3)
	b := open(t, 1000, 800, "light", pool)
	b.do("document.querySelector('#pool-0 tbody tr').mark = 1; document.querySelector('details').open = true")
	pool.Change(func(p *fakepool.Pool) { p.Figures.Waiting = 4321 })
	b.until("document.body.innerText.includes('4321')")
	assert.Equal(t, 1, value[int](b, "document.querySelector('#pool-0 tbody tr').mark"), "the row is the same one")
	assert.True(t, value[bool](b, "document.querySelector('details').open"))
	assert.Equal(t, "live", value[string](b, "document.getElementById('live').textContent"))

	b.click("#pause")
	pool.Change(func(p *fakepool.Pool) { p.Figures.Waiting = 77 })
	assert.Equal(t, "paused", value[string](b, "document.getElementById('live').textContent"))
	b.click("#pause")
	b.until("document.querySelector('#pool-0 .tiles').innerText.includes('77')")
	b.healthy()
	b.shutdown()
	b.until("document.getElementById('live').textContent.startsWith('no answer')")
	assert.Contains(t, b.text(), "77", "what was known is still there")
}

func TestStacksAreShownWhenAskedFor(t *testing.T) {
	b := open(t, 1000, 800, "dark", fakepool.Large(3))
	b.click("#pool-0 button.stacks")
	b.until("document.getElementById('dialog-text').textContent.includes('line 41 in rank')")
	assert.Equal(t, "Stacks of w1", value[string](b, "document.getElementById('dialog-title').textContent"))
	b.picture("stacks")
	b.click("#close")
	b.until("!document.getElementById('dialog').open")
	b.healthy()
}

// Every string that a pool has is an attempt to run code: it is shown, and runs nothing.
func TestWhatPythonSaysRunsNothing(t *testing.T) {
	attempts := []string{
		`"><img src=x onerror="window.pwned=1"><script>window.pwned=1</script><svg onload="window.pwned=1">`,
		`' autofocus onfocus='window.pwned=1' x='`,
		`</script><script>window.pwned=1</script>`,
		`javascript:window.pwned=1`,
		"${window.pwned=1}`;window.pwned=1;//{{window.pwned=1}}",
		`</style><style>*{display:none}</style>`,
	}
	var sources []debugpage.Source
	for _, attempt := range attempts {
		sources = append(sources, fakepool.Hostile(attempt))
	}
	b := open(t, 1000, 800, "light", sources...)
	b.do("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
	for i, attempt := range attempts {
		pool := fmt.Sprintf("#pool-%d ", i)
		b.do("document.querySelector('" + pool + "button.stacks').click()")
		b.until("document.getElementById('dialog-text').textContent === " + quoted(attempt))
		b.do("document.getElementById('dialog').close()")
		assert.Equal(t, attempt, value[string](b, "document.querySelector('"+pool+"h2').textContent"), "it is shown as it is")
		assert.Greater(t, value[int](b, "document.querySelector('"+pool+"').textContent.split("+quoted(attempt)+").length"), 20)
	}
	assert.True(t, value[bool](b, "window.pwned === undefined"))
	assert.Zero(t, value[int](b, "document.querySelectorAll('img, svg[onload], [onerror], [onfocus], [autofocus]').length"))
	assert.Equal(t, 1, value[int](b, "document.scripts.length"))
	assert.Equal(t, 1, value[int](b, "document.querySelectorAll('style').length"))
	assert.Empty(t, value[[]string](b, "[...document.querySelectorAll('a')].map((a) => a.getAttribute('href')).filter((h) => !/^(#pool-\\d+|\\?format=json)$/.test(h))"))
	b.healthy()
}

const worker = `
import time
from pypool import command

@command
def work(seconds: float) -> float:
    time.sleep(seconds)
    return seconds

@command(name="<script>window.pwned=1</script>")
def odd() -> None:
    raise ValueError("<img src=x onerror=window.pwned=1>")
`

// Real pools: one that works, and one in a crash loop.
func TestThePageShowsRealPools(t *testing.T) {
	pool := func(name, source string, ready int) *pypool.Pool {
		script := filepath.Join(t.TempDir(), "worker.py")
		require.NoError(t, os.WriteFile(script, []byte(source), 0o600))
		p, err := pypool.New(t.Context(), pypool.Config{
			Name: name, Script: script, Size: 2, Overflow: -1, MinReady: ready, MaxRestarts: 2, RestartBackoff: pypool.Backoff{Min: time.Millisecond, Max: time.Hour},
			Logger: slog.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, p.Close()) })
		return p
	}
	works, loops := pool("works", worker, 2), pool("loops", "raise OSError('<script>window.pwned=1</script>')\n", -1)
	_, err := works.ExecuteAnonymous(t.Context(), "<script>window.pwned=1</script>", nil)
	require.ErrorIs(t, err, pypool.ErrPython)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var busy sync.WaitGroup
	defer busy.Wait()
	defer cancel()
	busy.Go(func() { _, _ = works.ExecuteInSession(ctx, "user-42", "work", map[string]any{"seconds": 60}) })
	b := serve(t, 1000, 900, "light", pypooldebug.Handler(works, loops))
	b.until("document.querySelector('#pool-0').innerText.includes('work [user-42] for')")
	b.until("document.querySelector('#pool-1').innerText.includes('No worker can start')")
	assert.Contains(t, b.text(), "OSError: <script>window.pwned=1</script>")
	b.do("[...document.querySelectorAll('#pool-0 tbody tr')].find((r) => r.innerText.includes('user-42')).querySelector('button').click()")
	b.until("document.getElementById('dialog-text').textContent.includes('in work')")
	b.do("document.getElementById('dialog').close()")
	assert.True(t, value[bool](b, "window.pwned === undefined"))
	b.picture("real")
	b.healthy()
}

// quoted makes a literal of JavaScript.
func quoted(text string) string {
	return "\"" + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(text) + "\""
}
