package pypoolnats

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool"
)

// Long names take room in a message, too.
func TestLongNamesBesideLargeArguments(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	p := newPool(t, config(1))
	serve(t, b, "test", p)
	c := client(t, b, "test")
	nc := b.connect(t)
	session := strings.Repeat("é", 100)
	for _, size := range []int{0, 100, room / 2, room} {
		_, err := c.ExecuteProgram(t.Context(), strings.Repeat("<", maxProgram), args{"x": strings.Repeat("x", int(nc.MaxPayload())-room-size)}, pypool.WithSession(session))
		failure(t, err, pypool.ErrUnknownCommand)
	}
	js := stream(t, b)
	_, err := EnqueueProgram(patient(t), js, "test", strings.Repeat("<", maxProgram), args{"x": strings.Repeat("x", int(nc.MaxPayload())-room-100)})
	failure(t, err, pypool.ErrMessageTooLarge)
}
