//go:build linux

package pypool

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAHookThatWouldNeverRunFailsTheStart(t *testing.T) {
	t.Parallel()
	for hook, fork := range map[string]bool{"setup": true, "health": false} {
		for source, stage := range map[string]string{
			"@%s\ndef fit():\n    yield False\n":                  "import",
			"@%s\nasync def fit():\n    yield False\n":            "import",
			"@%s\ndef fit(): return (x for x in [False])\n":       hook,
			"@%s\nasync def fit(): return (x for x in [False])\n": hook,
		} {
			cfg := forkConfig(t, 1, "from pypool import health\n"+fmt.Sprintf(source, hook))
			cfg.ForkServer = fork
			_, err := New(t.Context(), cfg)
			var start *StartError
			require.ErrorAs(t, err, &start, source)
			require.Equal(t, stage, start.Stage, source)
			require.ErrorContains(t, err, "never run", source)
		}
	}
}
