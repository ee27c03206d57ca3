package pypool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// A nil pointer that was returned as an error is one, and says what it is.
func TestANilPointerThatIsAnErrorSaysSo(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		(*Error)(nil), (*HangError)(nil), (*ExitError)(nil), (*StartError)(nil), (*PythonError)(nil), (*ArgumentError)(nil), (*ProtocolError)(nil),
		(*UnknownCommandError)(nil), (*InvalidResultError)(nil), (*CircuitError)(nil),
	} {
		words := "a nil " + reflect.TypeOf(err).String()
		require.ErrorContains(t, err, words)
		require.NoError(t, errors.Unwrap(err))
		for _, is := range []error{ErrPython, ErrInternal, context.Canceled} {
			require.NotErrorIs(t, err, is)
		}
		require.False(t, SafeToRetry(err))
		require.False(t, SafeToRetry(fmt.Errorf("around: %w", err)))

		for _, given := range []error{err, fmt.Errorf("around: %w", err), errors.Join(err, context.Canceled), NewError(TypePython, Executed, "", err)} {
			e, failed := DecodeError(EncodeError(given))
			require.NoError(t, failed)
			require.Contains(t, fmt.Sprintf("%v %v", e, e.Err), words)
			require.NotEmpty(t, e.LogValue().Group())
		}
		require.NotPanics(t, func() { NewError(TypePython, Executed, "", err).LogValue() })
	}
	var none *Error
	text, err := json.Marshal(none)
	require.NoError(t, err)
	require.Equal(t, "null", string(text))
	text, err = none.MarshalJSON()
	require.NoError(t, err)
	require.Equal(t, "null", string(text))
	require.Equal(t, slog.AnyValue(nil), none.LogValue())
}

// A function of the host's that returns one has failed, and Python is told how.
func TestAFunctionThatReturnsANilErrorHasFailed(t *testing.T) {
	t.Parallel()
	source := "from pypool import command, host, HostError\n@command\ndef f(n):\n    try:\n        return getattr(host, n)()\n    except HostError as e:\n        return [e.type, e.message]\n"
	p := newPool(t, Config{Script: script(t, source), Size: 1, Overflow: -1, Functions: Functions{
		"ours":   Func(func(context.Context, struct{}) (int, error) { var e *Error; return 1, e }),
		"theirs": Func(func(context.Context, struct{}) (int, error) { var e *PythonError; return 1, e }),
	}})
	for name, typ := range map[string]string{"ours": "pypool.Error", "theirs": "pypool.PythonError"} {
		got, err := Call[[]string](t.Context(), p, "f", []string{name})
		require.NoError(t, err)
		require.Equal(t, typ, got[0])
		require.Contains(t, got[1], "a nil *"+typ)
	}
}
