package pypool

import (
	"bytes"
	"context"
	"iter"
	"testing"

	"github.com/stretchr/testify/require"
)

// parted is a payload that lies in several places.
type parted [][]byte

func (p parted) PythonPayload() (string, []byte, error) { panic("it is asked for its pieces") }

func (p parted) PythonPayloadPieces() (string, [][]byte, error) { return "parted", p, nil }

const piecesScript = `
import pypool
from pypool import command, host

pypool.payload("parted", bytes, lambda value: None)

@command
def plain(x) -> bytes: return x
@command(max_batch_size=4, max_wait_ms=5)
def batch(values: list) -> list: return values
@command(concurrency=4)
async def concurrent(x) -> bytes: return x
@command
def asks(x) -> bytes: return host.back()
`

// A payload arrives in one piece by every way, whatever its pieces are.
func TestAPayloadInPieces(t *testing.T) {
	var there parted // what the function returns
	p := newPool(t, Config{Script: script(t, piecesScript), Size: 1, Overflow: -1, Functions: Functions{
		"back": Func(func(context.Context, struct{}) (parted, error) { return there, nil }),
	}})
	ctx := context.Background()
	for name, sent := range map[string]parted{
		"none": nil, "an empty one": {{}}, "a small one": {[]byte("abc")}, "small ones": {[]byte("a"), nil, []byte("bc")},
		"a large one": {pattern(100_000)}, "large ones": {pattern(20_000), pattern(50_000), {}, pattern(3)}, "small ones that are large": {pattern(9000), pattern(9000)},
	} {
		want := bytes.Join(sent, nil)
		same := func(got []byte, err error) {
			t.Helper()
			require.NoError(t, err, name)
			require.True(t, bytes.Equal(want, got), name)
		}
		same(Call[[]byte](ctx, p, "plain", []any{sent}))
		same(Call[[]byte](ctx, p, "concurrent", []any{sent}))
		there = sent
		same(Call[[]byte](ctx, p, "asks", []any{1}))
		for _, got := range inBackground(3, func(int) ([]byte, error) { return Call[[]byte](ctx, p, "batch", []any{sent}) })() {
			same(got.res, got.err)
		}
		for got, err := range Map[[]byte](ctx, p, "plain", mutating(sent)) {
			same(got, err)
		}
		encoded, err := EncodeArgs([]any{sent})
		require.NoError(t, err)
		decoded, err := DecodeArgs(encoded)
		require.NoError(t, err)
		same(Call[[]byte](ctx, p, "plain", decoded))
	}
}

// mutating yields a payload a few times, and writes to its memory in between.
func mutating(sent parted) iter.Seq[any] {
	return func(yield func(any) bool) {
		for range 3 {
			own := make(parted, len(sent))
			for i := range sent {
				own[i] = bytes.Clone(sent[i])
			}
			if !yield([]any{own}) {
				return
			}
			for i := range own {
				clear(own[i])
			}
		}
	}
}
