package pypoolnats

import (
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// Any command's name is one token of a subject, and is told by it.
func FuzzToken(f *testing.F) {
	for _, name := range []string{"", "add", "a.b", "*", ">", " ", "=41", "ü", "\x00\n", "=", "a=zz"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got := token(name)
		require.Equal(t, -1, strings.IndexFunc(got, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-=", r)
		}))
		require.Equal(t, name, untoken(got))
	})
}

// A header is anything.
func FuzzReadControl(f *testing.F) {
	for _, text := range []string{"", "{}", "[", `{"size":-1}`, `{"kind":"item","seq":18446744073709551615}`, `{"bytes":1e99}`, `{"session":"\ud800"}`} {
		f.Add("1.0", text)
	}
	f.Fuzz(func(t *testing.T, version, text string) {
		ctl, err := readControl(nats.Header{headerVersion: {version}, headerControl: {text}})
		if err != nil {
			require.NotContains(t, err.Error(), "\n")
			return
		}
		again, err := readControl(ctl.message("s", "", nil).Header)
		require.NoError(t, err)
		require.Equal(t, ctl, again)
	})
}
