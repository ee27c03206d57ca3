package pypool

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCallAllocations pins what a call allocates on the Go side, and that it starts no goroutine.
// Unlike time, these counts do not vary.
func TestCallAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector allocates too: make test runs this without it")
	}
	p := newPool(t, Config{Script: script(t, "from pypool import command\n@command\ndef add(a, b=1): return a + b\n"), Size: 1, Overflow: -1})
	type args struct {
		A int `json:"a"`
	}
	background := context.Background()
	deadline, cancel := context.WithTimeout(background, time.Hour)
	defer cancel()
	for _, tc := range []struct {
		name  string
		most  float64
		calls func() error
	}{
		{"anonymous", 3, func() error { _, err := p.ExecuteAnonymous(background, "add", args{1}); return err }},
		{"with a deadline", 5, func() error { _, err := p.ExecuteAnonymous(deadline, "add", args{1}); return err }},
		{"in a session", 3, func() error { _, err := p.ExecuteInSession(background, "s", "add", args{1}); return err }},
		{"with a deadline in a session", 5, func() error { _, err := p.ExecuteInSession(deadline, "s", "add", args{1}); return err }},
		{"Call, with its decode", 4, func() error { _, err := Call[int](background, p, "add", args{1}); return err }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			require.NoError(t, tc.calls())
			var err error
			n := testing.AllocsPerRun(200, func() { err = tc.calls() })
			require.NoError(t, err)
			require.LessOrEqual(t, n, tc.most)
			t.Logf("%v allocations", n)
		})
	}
}
