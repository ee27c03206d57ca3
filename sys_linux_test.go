package pypool

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/spin"
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

func TestBellRingsForAWorkerThatListens(t *testing.T) {
	page, file := newSharedPage()
	require.NotNil(t, page)
	defer file.Close()
	defer page.close()
	bell := page.word(wordBell)
	page.ring()
	page.linger(spin.WorkerLimit, false)
	page.ring()
	require.Zero(t, *bell)
	page.linger(spin.WorkerLimit, true)
	page.ring()
	require.EqualValues(t, 1, *bell)
}
