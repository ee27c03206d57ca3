package pypool

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"
)

const treesScript = `
import random
from pypool import command

KEYS = ("a", "b", "image", "\u00e9", '"', "\\", "", "},{")

def tree(r, depth=0):
    kind = r.randrange(10) if depth < 5 else r.randrange(4, 10)
    if kind < 2:
        return {r.choice(KEYS): tree(r, depth + 1) for _ in range(r.randrange(4))}
    if kind < 4:
        return [tree(r, depth + 1) for _ in range(r.randrange(4))]
    if kind < 7:
        return bytes([r.randrange(256)]) * r.choice((0, 1, 4095, 4096, 17000))
    return r.choice((None, {}, [], (), "", "null", "]}", 1, -0.5, True, [[]], {"a": {}}, [{}]))

@command
def make(seed): return tree(random.Random(seed))

@command
def same(value): return value
`

// What travels as payloads is the same value as what travels as text, whatever stands around it.
func TestPayloadsInTreesOfEveryShape(t *testing.T) {
	p, ctx := newPool(t, Config{Script: script(t, treesScript), Size: 1, Overflow: -1}), t.Context()
	for seed := range 400 {
		plain, err := p.ExecuteAnonymous(ctx, "make", []any{seed})
		require.NoError(t, err)
		laden, err := p.ExecuteAnonymous(ctx, "make", []any{seed}, WithBlobs())
		require.NoError(t, err, seed)
		require.True(t, bytes.Equal(plain.Raw(), laden.Raw()), "seed %d", seed)

		there := withBytes(rand.New(rand.NewSource(int64(seed))), decoded[any](t, plain))
		want, err := json.Marshal(there)
		require.NoError(t, err)
		back, err := p.ExecuteAnonymous(ctx, "same", map[string]any{"value": there})
		require.NoError(t, err, seed)
		require.JSONEq(t, string(want), string(back.Raw()), "seed %d", seed)
	}
}

// withBytes has bytes where there is base64 text.
func withBytes(r *rand.Rand, v any) any {
	switch v := v.(type) {
	case string:
		if data, err := base64.StdEncoding.DecodeString(v); err == nil && r.Intn(8) > 0 {
			return data
		}
	case []any:
		for i := range v {
			v[i] = withBytes(r, v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = withBytes(r, v[key])
		}
	}
	return v
}
