package pypoolnats

import (
	"context"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/pypooltest"
)

func TestWhatIsNilIsToldInWords(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	nc, fake := b.connect(t), pypooltest.New()
	for _, pool := range []pypool.Caller{nil, (*pypool.Pool)(nil), &pypool.Pool{}} {
		_, err := Serve(nc, "test", pool, nil)
		require.ErrorContains(t, err, "there is no pool")
		require.ErrorContains(t, Work(t.Context(), stream(t, b), "test", pool, nil), "there is no pool")
	}
	_, err := Serve(nil, "test", fake, nil)
	require.ErrorContains(t, err, "there is no connection")
	_, err = NewClient(nil, "test", nil).With(nil).ExecuteAnonymous(t.Context(), "f", nil)
	require.ErrorContains(t, err, "the client has no connection")

	var nobody *pypool.Error
	pypooltest.Handle(fake, "nobody", func(context.Context, struct{}) (int, error) { return 1, nobody })
	service, err := Serve(nc, "test", fake)
	require.NoError(t, err)
	defer func() { _ = service.Close() }()
	client := NewClient(nc, "test")
	defer func() { _ = client.Close() }()
	_, err = client.ExecuteAnonymous(t.Context(), "nobody", nil)
	require.ErrorIs(t, err, pypool.ErrPython)
	require.ErrorContains(t, err, "a nil *pypool.Error")
	for _, name := range []string{"", strings.Repeat("x", 513)} {
		_, err = client.ExecuteAnonymous(t.Context(), name, nil)
		require.ErrorIs(t, err, pypool.ErrUnknownCommand)
		require.NotContains(t, err.Error(), "nothing else", "nobody was asked")
	}
	long := strings.Repeat("🎉", 128)
	pypooltest.Handle(fake, long, func(context.Context, struct{}) (int, error) { return 1, nil })
	_, err = client.ExecuteAnonymous(t.Context(), long, nil)
	require.NoError(t, err)

	var none jetstream.JetStream
	require.ErrorContains(t, Work(t.Context(), none, "test", fake), "there is no JetStream")
	require.ErrorContains(t, CreateJobs(t.Context(), none, "test", JobStore{}), "there is no JetStream")
	_, err = Enqueue(t.Context(), none, "test", "f", nil, nil)
	require.ErrorIs(t, err, pypool.ErrPoolClosed)
	require.ErrorContains(t, err, "there is no JetStream")
	require.True(t, pypool.SafeToRetry(err))
	_, err = EnqueueProgram(t.Context(), none, "test", "p", nil)
	require.ErrorContains(t, err, "there is no JetStream")
	_, err = OpenJob(none, "test", "job").Wait(t.Context())
	require.ErrorContains(t, err, "there is no JetStream")
}
