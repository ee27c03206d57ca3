package pypool

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A worker that sends items and reads nothing has two lines made for them at most: the one that
// waits for room, and the next.
func TestCreditThatIsNotReadIsOneLine(t *testing.T) {
	p := &fakeProcess{requests: make(chan []byte, 4)}
	p.pipe.process, p.pipe.changed = p, make(chan struct{})
	p.pipe.full.Store(true)
	var later []func()
	o := &outbox{w: &worker{x: &exchange{conn: conn{t: &p.pipe}}}, run: func(f func()) { later = append(later, f) }}
	one, other := &seat{id: 7}, &seat{id: 8}
	o.credit(one, 4)
	waiting := o.unwritten()
	for range 1000 {
		o.credit(one, 4)
		o.credit(other, 4)
	}
	require.Equal(t, waiting, o.unwritten())
	require.Empty(t, o.lines)
	require.Len(t, later, 1)
	p.pipe.full.Store(false)
	later[0]() // the pipe takes what was written, and what has come together meanwhile
	require.Zero(t, o.unwritten())
	o.credit(one, 4)
	require.Len(t, later, 1)
	var written string
	for range 3 {
		written += string(<-p.requests)
	}
	require.Equal(t, `{"id":7,"credit":4}`+"\n"+`{"id":7,"credit":4000}`+"\n"+`{"id":8,"credit":4000}`+"\n"+`{"id":7,"credit":4}`+"\n", written)
	require.Zero(t, o.unwritten())
}
