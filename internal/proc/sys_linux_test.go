package proc

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAProcessThatIsNotReapedYetIsSeenToBeEnding(t *testing.T) {
	assert.False(t, isEnding(os.Getpid()))
	for _, name := range []string{"true", "sleep"} {
		cmd := exec.Command(name, "60")
		require.NoError(t, cmd.Start())
		if name == "sleep" {
			assert.False(t, isEnding(cmd.Process.Pid))
			require.NoError(t, cmd.Process.Kill())
		}
		require.True(t, awaitExit(cmd.Process.Pid))
		assert.True(t, isEnding(cmd.Process.Pid))
		_ = cmd.Wait()
		assert.False(t, isEnding(cmd.Process.Pid), "nothing is known of who has the number now")
	}
}
