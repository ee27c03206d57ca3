package pypool

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Edits against the clock: how long a file that is being written is left alone.
func TestAnEditIsTakenWhenItsFileHasItsBytes(t *testing.T) {
	const stalled = time.Second
	for name, tc := range map[string]struct {
		edit  func(t *testing.T, path string) // what happens to the file, from the time at which the change was seen
		least time.Duration
		most  time.Duration
	}{
		"written at once": {func(*testing.T, string) {}, debounceStep, debounceStep},
		"cut to nothing, and written a second later": {func(t *testing.T, path string) {
			require.NoError(t, os.Truncate(path, 0))
			time.Sleep(stalled)
			require.NoError(t, os.WriteFile(path, []byte("N = 2\n"), 0o600))
		}, stalled + debounceStep, stalled + 2*debounceStep},
		"removed, and put there a second later": {func(t *testing.T, path string) {
			require.NoError(t, os.Rename(path, path+"~"))
			time.Sleep(stalled)
			require.NoError(t, os.Rename(path+"~", path))
		}, stalled + debounceStep, stalled + 2*debounceStep},
		"left empty": {func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 0)) }, debounceMost, debounceMost},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "worker.py")
			require.NoError(t, os.WriteFile(path, []byte("N = 1\n"), 0o600))
			synctest.Test(t, func(t *testing.T) {
				w := &sourceWatch{s: &supervisor{ctx: t.Context()}, files: map[string]stamp{}}
				w.files[path] = stampOf(t.Context(), path)
				begun := time.Now()
				go tc.edit(t, path)
				require.True(t, w.debounce([]string{path}))
				took := time.Since(begun)
				require.GreaterOrEqual(t, took, tc.least)
				require.LessOrEqual(t, took, tc.most)
				synctest.Wait() // the edit is over
			})
		})
	}
}
