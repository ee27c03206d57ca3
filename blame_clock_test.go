package pypool

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
)

// chargedCommand is the one command that has a circuit.
func chargedCommand(t *testing.T, p *Pool) string {
	t.Helper()
	circuits := p.Circuits()
	require.Len(t, circuits, 2, "%+v", circuits)
	return circuits[1].Command
}

// endUnread ends the process by itself before it reads what it was sent last.
func (p *fakeProcess) endUnread() bool {
	p.mu.Lock()
	p.left = 1 << 20
	p.mu.Unlock()
	p.end(proc.ExitState{Code: 3})
	return true
}

// A worker that ends between two items of a Map is charged to the command of these, and not to the
// call that it had before the Map.
func TestAWorkerThatEndsBetweenTheItemsOfAMapIsChargedToThese(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		var items atomic.Int32
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			if req.Command != "item" {
				return false
			}
			n := items.Add(1)
			return isClosed(p.done) || n == 3 && p.endUnread()
		}
		p := open(t, f.config(1))
		defer p.Close()
		executed(t, p, "work", nil)
		n := 0
		for _, err := range Map[any](t.Context(), p, "item", integers(10)) {
			require.NoError(t, err)
			n++
		}
		assert.Equal(t, 10, n)
		assert.Equal(t, "item", chargedCommand(t, p))
	})
}

// Likewise of calls side by side: the last that had its answer is charged.
func TestAWorkerThatEndsBetweenSharedCallsIsChargedToTheLastAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.able = `["page","shared"],"concurrent":{"first":4,"second":4}`
		f.script = func(p *fakeProcess, req fakeRequest) bool {
			switch {
			case req.Shared == nil:
				return false
			case p.n > 1:
				p.reply(req.Shared.ID, `2`)
			case req.Shared.Command == "first":
				p.pause(time.Second / 2)
				p.reply(req.Shared.ID, `1`)
			default:
				return p.endUnread()
			}
			return true
		}
		p := open(t, f.config(1))
		defer p.Close()
		executed(t, p, "work", nil)
		first := inBackground(1, func(int) (int, error) { return Call[int](t.Context(), p, "first", nil) })
		for len(f.nth(1).lines()) < 4 { // hello, ping, work, first
			time.Sleep(time.Millisecond)
		}
		got, err := Call[int](t.Context(), p, "second", nil)
		require.NoError(t, err)
		assert.Equal(t, 2, got, "on another worker")
		for _, out := range first() {
			require.NoError(t, out.err)
			assert.Equal(t, 1, out.res)
		}
		assert.Equal(t, "first", chargedCommand(t, p))
	})
}

// A seat that is given up stands for no answer: its call never ran, and costs no worker.
func TestASeatThatIsForgoneIsNoAnswer(t *testing.T) {
	for name, answers := range map[string]bool{"the ping is answered": true, "the ping is read": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, f *fleet) {
				f.able = `["page","shared"],"concurrent":{"first":4,"second":4}`
				f.script = func(p *fakeProcess, req fakeRequest) bool {
					switch {
					case req.Cancel:
					case req.Shared == nil:
						return false
					case req.Shared.Command == "first":
						p.reply(req.Shared.ID, `1`)
					default: // what the first has left behind ends the process
						if answers {
							p.reply(req.Shared.ID, `{"status":"ok"}`)
						}
						p.pause(300 * time.Millisecond)
						p.end(proc.ExitState{Code: 3})
					}
					return true
				}
				p := open(t, f.config(1))
				defer p.Close()
				executed(t, p, "first", nil)
				forgone(t, p, "second")
				if answers {
					synctest.Wait()
					w := p.Workers()[0]
					assert.Equal(t, workerIdle, w.State)
					assert.EqualValues(t, 1, w.Calls)
				}
				<-f.nth(1).done
				executed(t, p, "work", nil) // on another worker
				assert.Equal(t, "first", chargedCommand(t, p))
			})
		})
	}
}

// forgone gives a call of the command a seat in the instant in which its context ends.
func forgone(t *testing.T, p *Pool, command string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	id := p.sup.env.ids.Add(1)
	c := &call{job: job{id: id, info: CallInfo{Command: command, RequestID: id}}, leaving: ctx.Done(), shares: true}
	res := p.trySeat(c)
	require.NotNil(t, c.seat)
	if res != nil {
		p.share(c, res)
	}
	cancel()
	_, err := p.sit(ctx, c)
	require.Equal(t, NotExecuted, err.Delivery)
}

// besides has a fleet whose runtimes serve calls of "dies", which ends its process after a while,
// beside calls of "lives", which is answered after another.
func besides(dies, lives time.Duration) func(p *fakeProcess, req fakeRequest) bool {
	return func(p *fakeProcess, req fakeRequest) bool {
		switch {
		case req.Shared == nil:
			return false
		case req.Shared.Command == "dies":
			go func() {
				p.pause(dies)
				p.end(proc.ExitState{Code: 3})
			}()
		default:
			go func() {
				if p.pause(lives); !isClosed(p.done) {
					p.reply(req.Shared.ID, `1`)
				}
			}()
		}
		return true
	}
}

// A brief command is nearly always the last to come before another one ends the worker, and is not
// refused for that; the other is.
func TestABriefCommandIsNotRefusedForTheOneBesideIt(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.able = `["page","shared"],"concurrent":{"dies":4,"lives":4}`
		f.script = besides(50*time.Millisecond, time.Millisecond)
		p := open(t, f.config(2))
		defer p.Close()
		var over atomic.Bool
		brief := inBackground(6, func(int) (answers int, err error) {
			for !over.Load() {
				if _, err := Call[int](t.Context(), p, "lives", nil); err == nil {
					answers++
				} else if !errors.Is(err, ErrWorkerExited) {
					return answers, err
				}
			}
			return answers, nil
		})
		lost := 0
		for {
			_, err := Call[int](t.Context(), p, "dies", nil)
			if errors.Is(err, ErrCircuitOpen) || lost > 100 {
				break
			}
			require.ErrorIs(t, err, ErrWorkerExited)
			lost++
		}
		over.Store(true)
		for _, out := range brief() {
			require.NoError(t, out.err)
			require.NotZero(t, out.res)
		}
		assert.LessOrEqual(t, lost, lossParts*5, "5 losses, of each of which it may have a part alone")
	})
}

// Calls that take long are not refused because another command ends their worker as soon as it
// comes.
func TestALongCommandIsNotRefusedForTheOneThatComesLast(t *testing.T) {
	bubble(t, func(t *testing.T, f *fleet) {
		f.able = `["page","shared"],"concurrent":{"dies":4,"lives":4}`
		f.script = besides(time.Millisecond, time.Second)
		p := open(t, f.config(1))
		defer p.Close()
		for range 5 {
			long := inBackground(1, func(int) (int, error) { return Call[int](t.Context(), p, "lives", nil) })
			reads := func() bool {
				alive := f.alive()
				return len(alive) > 0 && strings.Contains(strings.Join(alive[0].lines(), ""), `"lives"`)
			}
			for !reads() {
				time.Sleep(time.Millisecond)
			}
			_, err := Call[int](t.Context(), p, "dies", nil)
			failsWith(t, err, ErrWorkerExited, MaybeExecuted)
			failsWith(t, long()[0].err, ErrWorkerExited, MaybeExecuted)
		}
		_, err := Call[int](t.Context(), p, "dies", nil)
		failsWith(t, err, ErrCircuitOpen, NotExecuted)
		_, err = Call[int](t.Context(), p, "lives", nil)
		require.NoError(t, err)
	})
}
