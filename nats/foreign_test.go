package pypoolnats

import (
	"context"
	"log/slog"
	"runtime"
	"testing"

	"github.com/pypool/pypool"
	"github.com/stretchr/testify/require"
)

// badHandler is a log handler that does one thing, whatever it is asked.
type badHandler func()

func (h badHandler) Enabled(context.Context, slog.Level) bool  { h(); return true }
func (h badHandler) Handle(context.Context, slog.Record) error { h(); return nil }
func (h badHandler) WithAttrs([]slog.Attr) slog.Handler        { h(); return h }
func (h badHandler) WithGroup(string) slog.Handler             { h(); return h }

// An Observer and a log handler are code of the caller's, on goroutines of this package.
func TestCodeOfTheServersThatFailsEndsNothing(t *testing.T) {
	t.Parallel()
	endless := []any{nil}
	endless[0] = endless
	for name, fails := range map[string]func(){
		"a panic": func() { panic("not today") }, "a panic with what contains itself": func() { panic(endless) }, "Goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			cfg := config(1)
			cfg.Observer = &pypool.Observer{CallStart: func(ctx context.Context, c pypool.CallInfo) context.Context {
				if c.Command == "echo" {
					fails()
				}
				return ctx
			}}
			p := newPool(t, cfg)
			logger := slog.New(badHandler(fails))
			serve(t, b, "test", p, WithLogger(logger))
			end := work(t, b, p, WithWorkLogger(logger))
			c := client(t, b, "test", WithRetry(Retry{Attempts: 1}))
			nobody := b.connect(t)
			require.NoError(t, nobody.Publish(allSubject("test"), []byte("no request, and no reply subject")))
			for range 2 {
				_, err := c.ExecuteAnonymous(patient(t), "echo", []any{1})
				require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrInternal).Delivery)
				job, err := Enqueue(patient(t), stream(t, b), "test", "echo", []any{1})
				require.NoError(t, err)
				_, err = job.Wait(patient(t))
				require.Equal(t, pypool.MaybeExecuted, failure(t, err, pypool.ErrInternal).Delivery)
			}
			res, err := c.ExecuteAnonymous(patient(t), "add", []any{1})
			require.NoError(t, err)
			require.JSONEq(t, "2", string(res.Raw()))
			require.NoError(t, end())
		})
	}
}
