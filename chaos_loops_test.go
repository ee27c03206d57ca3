//go:build linux

package pypool

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// The loops of TestFaultChaos: streams and Maps whose bodies, decoders and observers do what they
// must not.

const chaosStall = 60 * time.Millisecond // Config.StallTimeout

type (
	callEnd        struct{} // key of a *CallOutcome that CallEnd fills
	observerPanics struct{} // key: CallEnd panics
	mapItem        struct{} // key: CallStart and CallEnd count the call, whose caller does not
)

// fussy can be decoded into, but for one value.
type fussy int

const fussyAbout = "77"

func (f *fussy) UnmarshalJSON(raw []byte) error {
	if string(raw) == fussyAbout {
		panic("unmarshal")
	}
	*f = 0
	for _, digit := range raw {
		*f = 10**f + fussy(digit-'0')
	}
	return nil
}

func (c *chaos) callStart(ctx context.Context, _ CallInfo) context.Context {
	if ctx.Value(mapItem{}) != nil {
		c.calls.Add(1)
	}
	return ctx
}

func (c *chaos) callEnd(ctx context.Context, _ CallInfo, o CallOutcome) {
	if end, ok := ctx.Value(callEnd{}).(*CallOutcome); ok {
		*end = o
	}
	if ctx.Value(mapItem{}) != nil {
		c.progress.Add(1)
		c.count(o.Err)
	}
	if ctx.Value(observerPanics{}) != nil {
		panic("observer")
	}
}

// count books the end of a call that nobody but CallEnd sees.
func (c *chaos) count(err error) {
	if err == nil {
		return
	}
	c.spoiled.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byType[err.(*Error).Type]++
}

// tolerate runs f and swallows its panic, which must be one of the chaos's own.
func (c *chaos) tolerate(f func()) {
	defer func() {
		switch v := recover(); v {
		case nil, "body", "observer", "unmarshal":
		default:
			panic(v)
		}
	}()
	f()
}

// What streamer and mapper call: each does the same in another way.
var (
	counting = []string{"numbers", "count_task"}
	echoes   = []string{"echo", "echo", "echo_batch", "echo_host"}
)

// streamer reads streams, each in one of the ways in which readers fail.
func (c *chaos) streamer(r *rand.Rand) {
	for !c.done(time.Duration(r.IntN(20)) * time.Millisecond) {
		kind := []string{"all", "all", "leave", "stall", "cancel", "cancel", "deadline", "panic", "observed"}[r.IntN(9)]
		count, at := 1+r.IntN(60), r.IntN(30)
		var end CallOutcome
		ctx, cancel := context.WithCancel(context.WithValue(context.Background(), callEnd{}, &end))
		switch kind {
		case "deadline":
			ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(8000))*time.Microsecond)
		case "observed":
			ctx = context.WithValue(ctx, observerPanics{}, true)
		}
		c.calls.Add(1)
		next := 0
		var last error
		c.tolerate(func() {
			for n, err := range Each[int](ctx, c.pool, counting[r.IntN(2)], []int{count}, WithTimeout(time.Second), WithCheckoutTimeout(200*time.Millisecond)) {
				if last = err; err != nil {
					continue
				}
				if n != next {
					c.t.Errorf("a stream of %d yielded %d, not %d", count, n, next)
				}
				next++
				if n != at {
					continue
				}
				switch kind {
				case "leave":
					return
				case "stall":
					time.Sleep(chaosStall + time.Duration(r.IntN(20)-10)*time.Millisecond)
				case "cancel":
					cancel()
				case "panic":
					panic("body")
				}
			}
			if last == nil && next != count {
				c.t.Errorf("a stream of %d ended after %d", count, next)
			}
		})
		cancel()
		c.progress.Add(1)
		c.count(end.Err)
		if last != nil && (end.Err == nil || !errors.Is(last, sentinelOf(end.Err))) {
			c.t.Errorf("the loop got %v, CallEnd %v", last, end.Err)
		}
		c.note("stream of %d, %s at %d: %d items, %v", count, kind, at, next, end.Err)
	}
}

func sentinelOf(err error) error { return err.(*Error).Type.row() }

// mapper runs Maps.
func (c *chaos) mapper(r *rand.Rand) {
	for !c.done(time.Duration(r.IntN(40)) * time.Millisecond) {
		kind := []string{"all", "all", "leave", "stall", "cancel", "panic", "decodes", "observed"}[r.IntN(8)]
		count, at := 1+r.IntN(300), r.IntN(100)
		ctx, cancel := context.WithCancel(context.WithValue(context.Background(), mapItem{}, true))
		if kind == "observed" && r.IntN(2) == 0 {
			ctx = context.WithValue(ctx, observerPanics{}, true)
		}
		next := 1000
		if kind == "decodes" {
			next = 0
		}
		first := next
		items := func(yield func(int) bool) {
			for i := range count {
				if !yield(first + i) {
					return
				}
			}
		}
		c.tolerate(func() {
			for n, err := range Map[fussy](ctx, c.pool, echoes[r.IntN(len(echoes))], items, WithTimeout(time.Second), WithCheckoutTimeout(200*time.Millisecond)) {
				if err == nil && int(n) != next {
					c.t.Errorf("a Map yielded %d in the place of %d", n, next)
				}
				next++
				if next-first != at {
					continue
				}
				switch kind {
				case "leave":
					return
				case "stall":
					time.Sleep(chaosStall)
				case "cancel":
					cancel()
				case "panic":
					panic("body")
				}
			}
		})
		cancel()
		c.note("map of %d, %s at %d: %d items", count, kind, at, next-first)
	}
}

// closeInMidstream closes the pool from within a loop, or has it closed while the loop's body does
// not come back.
func closeInMidstream(how int, p *Pool) {
	for n := range Each[int](context.Background(), p, "numbers", []int{100}) {
		switch {
		case n != 3:
		case how == 0:
			_ = p.Close()
		case how == 1:
			<-p.closed
		case how == 2:
			_ = p.Shutdown(context.Background())
		}
	}
}
