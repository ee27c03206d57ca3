package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image/png"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/examples/internal/storytest"
	"github.com/pypool/pypool/pypooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStory(t *testing.T) {
	var out, figures bytes.Buffer
	require.NoError(t, run(t.Context(), config(storytest.Python(t)), &out, &figures))
	require.Equal(t, storytest.Output(t), out.String())
	require.Regexp(t, `^pictures a second: \d+ one by one, \d+ by 64 callers \(batches of \d+ at P95\); the function itself, in batches of 32: \d+\n$`, figures.String())
}

// TestEachHasItsOwnAnswer: in batches, beside pictures that are none, and as a file.
func TestEachHasItsOwnAnswer(t *testing.T) {
	pool := pypooltest.Start(t, config(storytest.Python(t)))
	const pictures, rounds = 32, 8
	bad := map[string]struct {
		command string
		args    map[string]any
	}{
		"ValueError: a picture is 64 × 64 × 3, this is 2 × 2 × 3": {"classify", map[string]any{"image": pypool.ArrayOf(make([]uint8, 12), 2, 2, 3)}},
		"expected an array of uint8, got an array of float32":     {"classify", map[string]any{"image": pypool.ArrayOf(make([]float32, side*side*3), side, side, 3)}},
		"ValueError: this is no picture: cannot identify":         {"classify_file", map[string]any{"file": []byte("GIF89a")}},
		"ValueError: this is no picture: broken PNG file":         {"classify_file", map[string]any{"file": broken(t)}},
	}
	var group errgroup.Group
	for want, c := range bad {
		group.Go(func() error {
			for range rounds {
				_, err := pypool.Call[answer](t.Context(), pool, c.command, c.args)
				if err == nil || !strings.Contains(err.Error(), want) {
					return fmt.Errorf("%s: %w", want, err)
				}
			}
			return nil
		})
	}
	for i := range pictures {
		group.Go(func() error {
			picture, shape := draw(1000 + uint64(i))
			var file bytes.Buffer
			if err := png.Encode(&file, picture); err != nil {
				return err
			}
			for round := range rounds {
				command, args := "classify", map[string]any{"image": array(picture)}
				if round%2 == 1 {
					command, args = "classify_file", map[string]any{"file": file.Bytes()}
				}
				got, err := pypool.Call[answer](t.Context(), pool, command, args)
				if err != nil || got.Shape != shape {
					return fmt.Errorf("picture %d by %s: %+v, %w", i, command, got, err)
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	stats := pool.Stats()
	require.EqualValues(t, (pictures+len(bad))*rounds, stats.Started)
	require.Equal(t, map[pypool.ErrorType]int64{pypool.TypePython: 3 * rounds, pypool.TypeInvalidArguments: rounds}, stats.ByType)
	require.Greater(t, stats.Batches.Max, 1)
	require.Less(t, stats.Batches.Count, stats.Started, "each call went alone")
	require.EqualValues(t, 1, stats.WorkersStarted)
}

// broken is a PNG file that is one as far as its first chunk of pixels, which ends too early.
func broken(t *testing.T) []byte {
	var file bytes.Buffer
	picture, _ := draw(1)
	require.NoError(t, png.Encode(&file, picture))
	pixels := bytes.Index(file.Bytes(), []byte("IDAT"))
	require.Positive(t, pixels)
	length := file.Bytes()[pixels-4:]
	binary.BigEndian.PutUint32(length, binary.BigEndian.Uint32(length)/2)
	return file.Bytes()
}

func TestDrawingsAreTheSameEachTime(t *testing.T) {
	one, shape := draw(5)
	other, again := draw(5)
	require.Equal(t, one, other)
	require.Equal(t, shape, again)
	a := array(one)
	require.Equal(t, []int{side, side, 3}, a.Shape)
	require.Equal(t, one.Pix[4:7], a.Data[3:6])
}
