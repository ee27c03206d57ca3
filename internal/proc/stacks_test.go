package proc

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestADumpByTheRuntimesThreadReadsAsTheMainThreadsOwn(t *testing.T) {
	const (
		other = "Thread 0x00000000000000b2 (most recent call first):\n  File \"a.py\", line 1 in other\n"
		main  = "hread 0x00000000000000a1 (most recent call first):\n  File \"a.py\", line 2 in main\n"
		own   = "Current thread 0x00000000000000c3 (most recent call first):\n  File \"<pypool>/_life.py\", line 3 in watch\n"
		told  = "asked c3 a1\n"
	)
	for name, c := range map[string]struct{ dump, want string }{
		"a signal's":                 {"Current t" + main, "Current t" + main},
		"a thread's":                 {told + own + "\n" + other + "\nT" + main + "\x00", other + "\nCurrent t" + main},
		"one that is named":          {told + own[:33] + " [w1]" + own[33:] + "\nT" + main + "\x00", "Current t" + main},
		"its own last":               {told + "T" + main + "\n" + own + "\x00", "Current t" + main},
		"one cut short":              {told + own + "\n" + other + "\nT" + main + "  File \"a.", other + "\nCurrent t" + main},
		"one cut in a thread's name": {told + own + "\n" + other + "\nT" + main[:40], other},
		"one cut behind a name":      {told + own + "\n" + other + "\nT" + main[:strings.Index(main, "\n")+1], other},
		"one cut in its own name":    {told + own[:17], ""},
		"a signal's, cut":            {"Current t" + main + "\nThread 0x", "Current t" + main},
		"late, behind a signal's":    {"Current t" + main + told + own, "Current t" + main},
		"late and whole, behind one": {"Current t" + main + told + "T" + main + "\n" + own + "\x00", "Current t" + main},
		"what is no dump at all":     {"asked for nothing\x00", "asked for nothing"},
		"its first words alone":      {told, ""},
		"nothing":                    {"", ""},
	} {
		require.Equal(t, c.want, ownThread(c.dump), name)
	}
}
