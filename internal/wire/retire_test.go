package wire

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhoAsksToBeReplacedMaySayThatNoCallHasCausedIt(t *testing.T) {
	t.Parallel()
	for line, between := range map[string]bool{
		`{"id":7,"retire":"lost"}`:                 false,
		`{"id":7,"retire":"lost","between":true}`:  true,
		`{"between":true,"id":7,"retire":"lost"}`:  true,
		`{"id":7,"retire":"lost","between":false}`: false,
	} {
		var f Frame
		require.NoError(t, Parse([]byte(line), &f), line)
		require.Equal(t, Frame{ID: 7, Kind: KindRetire, Body: []byte(`"lost"`), Between: between}, f, line)
	}
	for _, line := range []string{
		`{"id":7,"between":true}`, `{"id":7,"success":true,"result":1,"between":true}`, `{"id":7,"item":1,"between":true}`,
		`{"id":7,"retire":"lost","between":1}`, `{"id":7,"retire":"lost","between":true,"between":true}`, `{"retire":"lost","between":true}`,
	} {
		require.Error(t, Parse([]byte(line), &Frame{}), line)
	}
}
