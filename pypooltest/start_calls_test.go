package pypooltest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// What calls have begun for the test's code is seen, and told once, when the last pool is closed.
func TestWhatCallsHaveBegunAndLeftFailsTheTest(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(p *pypool.Pool, gate chan struct{}){
		"items": func(p *pypool.Pool, gate chan struct{}) {
			ctx, cancel := context.WithCancel(context.Background())
			for range pypool.Map[int](ctx, p, "sleep", func(yield func(float64) bool) { yield(0); cancel(); <-gate }) {
			}
		},
		"items of an iterator": func(p *pypool.Pool, gate chan struct{}) {
			done := make(chan struct{})
			go func() { // begun after Start
				defer close(done)
				for range pypool.Map[int](context.Background(), pypool.Caller(p), "sleep", func(yield func(float64) bool) { yield(0); yield(0); <-gate }) {
					return
				}
			}()
			<-done
		},
		"function": func(p *pypool.Pool, _ chan struct{}) {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			_, _ = p.ExecuteAnonymous(ctx, "hosted", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := make(chan struct{})
			cfg := config
			cfg.Functions = pypool.Functions{"wait": pypool.Func(func(context.Context, struct{}) (int, error) { <-gate; return 1, nil })}
			r := &trial{TB: t}
			test := attend(r) // so that Start's cleanup is not the last, and does not wait for long
			pool := Start(r, cfg)
			Start(r, config)
			leave(pool, gate)
			other := &trial{TB: t}
			done := make(chan struct{})
			go func() { // as another test beside it
				defer close(done)
				pool := Start(other, config)
				_, _ = pool.ExecuteAnonymous(context.Background(), "add", []int{1, 2})
				other.end()
			}()
			<-done
			require.Empty(t, other.errors)
			r.end()
			require.Empty(t, r.errors)
			require.True(t, test.leave())
			left := test.left(100 * time.Millisecond)
			require.Len(t, left, 1)
			require.Contains(t, left[0], "goroutines that its calls have begun are still there:\n")
			require.Contains(t, left[0], "TestWhatCallsHaveBegunAndLeft")
			test.label()
			close(gate)
			require.Empty(t, test.left(startPatience))
		})
	}
}
