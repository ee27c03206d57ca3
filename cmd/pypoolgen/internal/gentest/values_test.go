package gentest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Bytes go through generated types of every shape: structs, tuples, positional and keyword arguments; so do durations.
func TestBytesAndDurations(t *testing.T) {
	c, ctx := newClient(t), t.Context()
	x := []byte("\x00\xff")
	got, err := c.Blob(ctx, BlobArgs{
		Given: Blob{Data: x, Took: time.Second, Parts: [][]byte{{1}, {}}, BySize: map[int64][]byte{2: x}, More: x},
		Pair:  TupleBytesDuration{V0: []byte("pair"), V1: -time.Millisecond},
	})
	require.NoError(t, err)
	require.Equal(t, Blob{
		Data: []byte("pair"), Took: -time.Millisecond, Parts: [][]byte{x, {1}, {}}, BySize: map[int64][]byte{2: x}, More: []any{"bytes"},
	}, got)
	got, err = c.Blob(ctx, BlobArgs{}) // nil bytes are empty ones
	require.NoError(t, err)
	require.Equal(t, [][]byte{{}}, got.Parts)

	same(t, [][]byte{x, {}, {7}})(c.Blobs(ctx, BlobsArgs{First: x, More: [][]byte{nil, {7}}}))
	named, err := c.NamedBlobs(ctx, NamedBlobsArgs{First: x, Wait: Ptr(time.Hour), More: map[string][]byte{"a": {1}, "first": {9}}})
	require.NoError(t, err)
	require.Equal(t, map[string]TupleBytesDuration{"first": {V0: x, V1: time.Hour}, "a": {V0: []byte{1}, V1: time.Hour}}, named)
}
