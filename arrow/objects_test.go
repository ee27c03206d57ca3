package pypoolarrow_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
	pypoolarrow "github.com/pypool/pypool/arrow"
)

// A column of Python objects, which polars writes as their addresses, is refused in words.
func TestNoObjectsInTables(t *testing.T) {
	p := pool(t)
	for _, how := range []string{"eager", "lazy", "empty"} {
		_, err := pypool.Call[struct{ Frame []pypoolarrow.Table }](t.Context(), p, "objects", args{"how": how})
		require.ErrorIs(t, err, pypool.ErrInvalidResult, how)
		require.ErrorContains(t, err, "the column 'o' is of Python objects (Object), which no table has: cast it, or drop it", how)
		require.ErrorContains(t, err, "at $.frame[0]", how)
	}
}
