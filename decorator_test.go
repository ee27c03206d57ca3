package pypool

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// NotExecuted is a proof: what a decorator does before its function refuses the arguments has been
// done.
func TestArgumentsThatAFunctionBehindADecoratorRefusesAreNotSaidToBeNotExecuted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := filepath.Join(dir, "worker.py")
	require.NoError(t, os.WriteFile(script, []byte(`
import functools
from pypool import command

def charging(func):
    @functools.wraps(func)
    def wrapper(path, *args, **kwargs):
        open(path, "a").write("charged")
        return func(*args, **kwargs)
    return wrapper

@command
@charging
def pay(amount): return amount
`), 0o600))
	p := newPool(t, Config{Script: script, Python: realPython(), Size: 1, Overflow: -1, Logger: quiet()})
	path := filepath.Join(dir, "charged")
	_, err := p.ExecuteAnonymous(context.Background(), "pay", []any{path})
	e := failure(t, err, ErrInvalidArguments)
	require.Equal(t, Executed, e.Delivery)
	require.FileExists(t, path)
	require.Contains(t, e.Message, "missing argument 'amount'")
	_, err = p.ExecuteAnonymous(context.Background(), "pay", []any{})
	require.Equal(t, NotExecuted, failure(t, err, ErrInvalidArguments).Delivery)
}
