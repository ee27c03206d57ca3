package pypool

import (
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/pypool/pypool/internal/foreign"
)

// How code of the caller's (iterators, marshalers, observers, log handlers, contexts) is run on
// goroutines of pypool's, where nobody but pypool could recover its panics. On the caller's own
// goroutine it needs nothing of this: a panic passes through.

// trouble is how code of the caller's left a goroutine that it was called on: by a panic, or by
// runtime.Goexit.
type trouble struct{ value any } // of the panic; nil: Goexit

// raise has the same happen on this goroutine.
func (t *trouble) raise() {
	if t.value == nil {
		runtime.Goexit()
	}
	panic(t.value)
}

// describe puts it into one line.
func (t *trouble) describe() string { return oneLine(foreign.Cause(t.value)) }

const maxStack = 8 << 10

// stackHere is this goroutine's stack, cut to maxStack bytes. Called while a panic unwinds, it
// shows where that began.
func stackHere() string {
	stack := debug.Stack()
	return strings.ToValidUTF8(string(stack[:min(len(stack), maxStack)]), "")
}
