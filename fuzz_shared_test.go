//go:build linux

package pypool

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pypool/pypool/internal/proc"
)

// FuzzSharedWorkerScript is FuzzFakeWorkerScript for workers that calls share: whatever a worker
// says about one of its calls, each has one outcome in time, and answers reach their own calls only.
func FuzzSharedWorkerScript(f *testing.F) {
	for op := range byte(sharedOps) {
		f.Add([]byte{op, 0, op, 1, 0}, uint8(1))
	}
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, uint8(2))
	f.Add([]byte{1, 1, 1, 6, 1, 1, 12, 0, 0}, uint8(1))
	f.Fuzz(func(t *testing.T, program []byte, size uint8) {
		if len(program) > 64 {
			program = program[:64]
		}
		synctest.Test(t, func(t *testing.T) { playShared(t, program, int(size%3)+1) })
	})
}

const sharedOps = 15

func playShared(t *testing.T, program []byte, size int) {
	var mu sync.Mutex
	next := 0
	kept := map[int][]string{} // answers that a process has still to give
	f := &fleet{able: `["page","shared","functions"],"concurrent":{"task":4}`}
	f.script = func(p *fakeProcess, req fakeRequest) bool {
		shared := req.Shared != nil
		switch {
		case shared:
			req = *req.Shared
		case req.Cancel:
			p.say(fmt.Sprintf(`{"id":%d,"success":false,"error":{"kind":"python_exception","type":"CancelledError","message":"","traceback":""}}`+"\n", req.ID))
			return true
		case req.Host > 0:
			return true
		case req.Command != "work":
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		op := byte(0)
		if next < len(program) {
			op = program[next] % sharedOps
		}
		next++
		answer := fmt.Sprintf(`{"id":%d,"success":true,"result":%s}`+"\n", req.ID, req.Args)
		if !shared { // alone: those before it have ended
			p.say(answer)
			return true
		}
		switch op {
		case 0:
			p.say(answer)
		case 1: // until the next but one
			kept[p.n] = append(kept[p.n], answer)
			if len(kept[p.n]) < 3 {
				return true
			}
		case 2:
			p.say(answer + answer)
		case 3:
			p.say(fmt.Sprintf(`{"id":%d,"success":true,"result":0}`+"\n", req.ID+100))
		case 4:
			p.say("garbage\n")
		case 5:
			p.say(answer[:len(answer)/2])
			kept[p.n] = append([]string{answer[len(answer)/2:]}, kept[p.n]...)
		case 6: // it is canceled in the end
		case 7:
			p.end(proc.ExitState{Code: 3})
		case 8:
			p.say(answer)
			p.end(proc.ExitState{})
		case 9:
			p.say(answer[:3])
			p.killed()
		case 10: // the deadline's own instant
			mu.Unlock()
			p.pause(time.Second)
			mu.Lock()
			p.say(answer)
		case 11:
			p.say(fmt.Sprintf(`{"id":%d,"item":1}`+"\n", req.ID))
		case 12:
			p.say(fmt.Sprintf(`{"id":%d,"host":1,"function":"echo","args":%s}`+"\n", req.ID, req.Args) + answer)
		case 13:
			p.say(fmt.Sprintf(`{"id":%d,"host":1,"function":"nobody's"}`+"\n", req.ID+7))
		case 14:
			p.say(fmt.Sprintf(`{"id":%d,"stack":"nobody asked"}`+"\n", req.ID))
		}
		for i := range kept[p.n] { // the last one first
			p.say(kept[p.n][len(kept[p.n])-1-i])
		}
		delete(kept, p.n)
		return true
	}
	cfg := f.config(size)
	cfg.Breaker.Failures, cfg.CancelGrace = -1, 100*time.Millisecond
	cfg.Functions = Functions{"echo": echoFunction()}
	p, err := New(t.Context(), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	callScripted(t, p, 6*size, len(program)/(6*size)+1, 2*time.Minute, func(caller int) string {
		if caller == 0 {
			return "work"
		}
		return "task"
	})
	mu.Lock()
	program = nil // from here on they are well
	mu.Unlock()
	time.Sleep(time.Minute)
	require.True(t, serving(p))
	accounted(t, p)
}
