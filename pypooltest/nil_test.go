package pypooltest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

type theirError struct{ text string }

func (e *theirError) Error() string { return e.text }

// A nil pointer that a function returns as an error is one, as in any Go program.
func TestANilPointerThatIsAnErrorFailsTheCall(t *testing.T) {
	t.Parallel()
	for _, err := range []error{(*pypool.Error)(nil), (*pypool.PythonError)(nil), (*pypool.HangError)(nil), (*theirError)(nil), fmt.Errorf("around: %w", (*pypool.Error)(nil))} {
		fake := New()
		Handle(fake, "f", func(context.Context, struct{}) (int, error) { return 1, err })
		HandleStream(fake, "g", func(context.Context, struct{}) iter.Seq2[int, error] {
			return func(yield func(int, error) bool) { yield(1, err) }
		})
		fails := func(err error) {
			t.Helper()
			require.ErrorIs(t, err, pypool.ErrPython)
			require.ErrorContains(t, err, "nil")
			require.False(t, pypool.SafeToRetry(err))
		}
		_, got := pypool.Call[int](t.Context(), fake, "f", nil)
		fails(got)
		got = nil
		for _, one := range pypool.Each[int](t.Context(), fake, "g", nil) {
			got = one
		}
		fails(got)
		fake.Fail("f", err)
		_, got = pypool.Call[int](t.Context(), fake, "f", nil)
		fails(got)
		require.True(t, errors.Is(fake.Calls()[2].Err, pypool.ErrPython))
	}
}

func TestWhatIsNilIsToldInWords(t *testing.T) {
	t.Parallel()
	fake := New()
	for words, f := range map[string]func(){
		`pypooltest: the function that is to handle "f" is nil`: func() { Handle[struct{}, int](fake, "f", nil) },
		`pypooltest: the function that is to handle "p" is nil`: func() { HandleProgram[struct{}, int](fake, "p", nil) },
		`pypooltest: the function that is to handle "g" is nil`: func() { HandleStream[struct{}, int](fake, "g", nil) },
		`pypooltest: the Fake that is to handle "f" is nil`:     func() { Handle(nil, "f", func(context.Context, struct{}) (int, error) { return 1, nil }) },
		"pypooltest: Start needs the test's T, and got nil":     func() { Start(nil, config) },
	} {
		require.PanicsWithValue(t, words, f)
	}
}
