package pypool

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A program's calls are counted, and have a circuit, as execute_program:ID: nothing else may be.
func TestNoCommandIsCalledAsAProgramIs(t *testing.T) {
	t.Parallel()
	const program = "import os\nfrom pypool import command, program\n@program('p')\ndef p(die=False):\n    if die: os._exit(3)\n    return 1\n"
	_, err := New(t.Context(), Config{Script: script(t, program+"@command(name='execute_program:p')\ndef c(): return 2\n"), Size: 1, Logger: testLogger(t)})
	require.ErrorIs(t, err, ErrWorkerStart)
	require.ErrorContains(t, err, "command name 'execute_program:p' is that of a program's calls")

	p := newPool(t, Config{Script: script(t, program), Size: 1, Overflow: -1, Breaker: Breaker{Failures: 2}})
	for range 2 {
		_, err = p.ExecuteAnonymous(t.Context(), "execute_program:p", nil)
		require.ErrorIs(t, err, ErrUnknownCommand)
		_, err = p.ExecuteProgram(t.Context(), "p", []bool{true})
		require.ErrorIs(t, err, ErrWorkerExited)
	}
	_, err = p.ExecuteProgram(t.Context(), "p", nil)
	require.ErrorIs(t, err, ErrCircuitOpen, "an unknown command says nothing of a program")
	_, err = p.ExecuteAnonymous(t.Context(), "execute_program:p", nil)
	require.ErrorIs(t, err, ErrUnknownCommand)
	require.EqualValues(t, 3, summedUp(t, p)["execute_program:p"].Started)
}

func TestEachNameThatIsRegisteredCanBeCalled(t *testing.T) {
	t.Parallel()
	for _, name := range []string{strings.Repeat("x", 128), strings.Repeat("世", 128), strings.Repeat("🎉", 128)} {
		p := newPool(t, Config{Script: script(t, fmt.Sprintf("from pypool import command, program\n@command(name=%q)\n@program(%q)\ndef f(): return 7\n", name, name)), Size: 1})
		n, err := Call[int](t.Context(), p, name, nil)
		require.NoError(t, err)
		require.Equal(t, 7, n)
		_, err = p.ExecuteProgram(t.Context(), name, nil)
		require.NoError(t, err)
		require.EqualValues(t, 2, p.Stats().Succeeded)
		require.Len(t, summedUp(t, p), 2)
	}
}

func TestLimitsThatNothingHasFailTheStartInWords(t *testing.T) {
	t.Parallel()
	for option, words := range map[string]string{
		"concurrency=10**30":                          "concurrency is how many calls a worker may serve side by side, 1 to 1000000",
		"concurrency=1000001":                         "concurrency is how many calls",
		"max_batch_size=10**30":                       "max_batch_size is a number from 1 to 65536",
		"max_batch_size=2, max_wait_ms=10**30":        "max_wait_ms is a number of milliseconds from 0 to 60000",
		"max_batch_size=2, max_wait_ms=float('inf')":  "max_wait_ms is a number of milliseconds from 0 to 60000: got inf",
		"max_batch_size=2, max_wait_ms=-float('nan')": "max_wait_ms is a number of milliseconds from 0 to 60000: got nan",
	} {
		_, err := New(t.Context(), Config{Script: script(t, "from pypool import command\n@command("+option+")\nasync def f(x): return x\n"), Size: 1, Logger: testLogger(t)})
		require.ErrorIs(t, err, ErrWorkerStart, option)
		require.ErrorContains(t, err, words)
	}
	p := newPool(t, Config{Script: script(t, "from pypool import command\n@command(concurrency=1000000)\nasync def f(x): return x\n"), Size: 1})
	n, err := Call[int](t.Context(), p, "f", []int{7})
	require.NoError(t, err)
	require.Equal(t, 7, n)
}
