package pypool

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/pypool/pypool/internal/proc"
)

// BenchmarkMap shows, for more and more workers, what an item costs beside the rate: how long
// goroutines have waited for a mutex (wait-ns/op), and how often one was woken (wakes/op). The real
// workers run a trivial function; the instant ones answer while they are written to, so that the
// Map's own goroutines alone limit the rate.
//
//	go test -run '^$' -bench BenchmarkMap -benchtime 500000x .
func BenchmarkMap(b *testing.B) {
	for _, kind := range []struct {
		name string
		open func(b *testing.B, workers int) *Pool
	}{
		{"real", func(b *testing.B, workers int) *Pool { return sequences(b, workers) }},
		{"instant", instantPool},
	} {
		for _, procs := range []int{2, 16} {
			for _, workers := range []int{1, 2, 4, 8, 16} {
				b.Run(fmt.Sprintf("%s/procs=%d/workers=%d", kind.name, procs, workers), func(b *testing.B) {
					defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
					p := kind.open(b, workers)
					defer runtime.SetMutexProfileFraction(runtime.SetMutexProfileFraction(1))
					before := schedulerCosts()
					b.ResetTimer()
					for _, err := range Map[int](context.Background(), p, "square", integers(b.N)) {
						if err != nil {
							b.Fatal(err)
						}
					}
					b.StopTimer()
					after := schedulerCosts()
					b.ReportMetric((after.wait-before.wait)*1e9/float64(b.N), "wait-ns/op")
					b.ReportMetric((after.wakes-before.wakes)/float64(b.N), "wakes/op")
					b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mitems/s")
				})
			}
		}
	}
}

// BenchmarkMapFeeder is what the one goroutine that pulls and encodes the items allows.
func BenchmarkMapFeeder(b *testing.B) {
	p := instantPool(b, 1)
	m := newMapper[int](b.Context(), p, "square", nil)
	for i := range m.blocks {
		m.blocks[i] = new([mapBlock]mapSlot[int])
	}
	b.ResetTimer()
	i := 0
	for item := range encodeItems(integers(b.N)) {
		m.fill(i, item)
		i++
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mitems/s")
}

func instantPool(b *testing.B, workers int) *Pool {
	return newPool(b, Config{
		Python: "/bin/sh", Size: workers, Overflow: -1, Logger: quiet(), HealthCheckInterval: -1,
		spawn: spawnInstant,
	})
}

type costs struct{ wait, wakes float64 }

// schedulerCosts are the process's until now: seconds of waiting for a mutex, and goroutines that
// were woken, of which the runtime notes one in eight.
func schedulerCosts() (c costs) {
	samples := []metrics.Sample{{Name: "/sync/mutex/wait/total:seconds"}, {Name: "/sched/latencies:seconds"}}
	metrics.Read(samples)
	c.wait = samples[0].Value.Float64()
	for _, n := range samples[1].Value.Float64Histogram().Counts {
		c.wakes += 8 * float64(n)
	}
	return c
}

// instantProcess answers a request while it is being written. What it has in common with other
// fakes is theirs.
type instantProcess struct {
	*fakeProcess
	pipe instantPipe
}

type instantPipe struct {
	mu      sync.Mutex // guards the fields below
	changed sync.Cond
	answers []byte
	partial []byte
	done    <-chan struct{}
	end     func()
}

func spawnInstant(context.Context, *proc.Spawner, proc.Spec) (proc.Process, error) {
	p := &instantProcess{fakeProcess: &fakeProcess{done: make(chan struct{})}}
	p.fakeProcess.pipe.changed = make(chan struct{})
	p.pipe.done = p.done
	p.pipe.changed.L = &p.pipe.mu
	p.pipe.end = p.Kill
	return p, nil
}

func (p *instantPipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if isClosed(p.done) {
		return 0, os.ErrClosed
	}
	p.partial = append(p.partial, b...)
	for {
		line, rest, whole := bytes.Cut(p.partial, []byte("\n"))
		if !whole {
			break
		}
		p.serveLocked(line)
		p.partial = append(p.partial[:0], rest...)
	}
	p.changed.Signal()
	return len(b), nil
}

func (p *instantPipe) serveLocked(line []byte) {
	switch {
	case bytes.Contains(line, []byte(`"command":"hello"`)):
		p.answerLocked([]byte("0"), `{"protocol":1,"runtime":"`+Version+`","python":"3.99.0",`+
			`"commands":["square"],"capabilities":["page","packed"]}`)
		return
	case bytes.Contains(line, []byte(`"command":"shutdown"`)):
		id, _, _ := bytes.Cut(line[len(`{"id":`):], []byte(","))
		p.answerLocked(id, "null")
		p.end()
		return
	case bytes.HasPrefix(line, []byte(`{"id":`)):
		id, _, _ := bytes.Cut(line[len(`{"id":`):], []byte(","))
		result := "1"
		if bytes.Contains(line, []byte(`"command":"ping"`)) {
			result = `{"status":"ok"}`
		}
		p.answerLocked(id, result)
		return
	}
	_, list, _ := bytes.Cut(line, []byte("["))
	for list[0] != ']' { // ID,[ARGS] by turns
		if list[0] == ',' {
			list = list[1:]
		}
		id, rest, _ := bytes.Cut(list, []byte(","))
		p.answerLocked(id, "1")
		list = rest[bytes.IndexByte(rest, ']')+1:]
	}
}

func (p *instantPipe) answerLocked(id []byte, result string) {
	p.answers = append(append(p.answers, `{"id":`...), id...)
	p.answers = append(append(p.answers, `,"success":true,"result":`...), result...)
	p.answers = append(p.answers, "}\n"...)
}

func (p *instantPipe) Read(b []byte) (int, error) { return p.read(b, true) }

func (p *instantPipe) TryRead(b []byte) (int, error) { return p.read(b, false) }

func (p *instantPipe) read(b []byte, wait bool) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for wait && len(p.answers) == 0 && !isClosed(p.done) {
		p.changed.Wait()
	}
	if len(p.answers) == 0 && isClosed(p.done) {
		return 0, io.EOF
	}
	n := copy(b, p.answers)
	p.answers = append(p.answers[:0], p.answers[n:]...)
	return n, nil
}

func (p *instantPipe) TryWrite(b []byte) (int, error)  { return p.Write(b) }
func (p *instantPipe) Unwatch()                        {}
func (p *instantPipe) SetDeadline(time.Time) error     { return nil }
func (p *instantPipe) SetReadDeadline(time.Time) error { return nil }
func (p *instantPipe) Close() error                    { return nil }

func (p *instantProcess) Transport() proc.Transport { return &p.pipe }
