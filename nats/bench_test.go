package pypoolnats

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nats-io/nats.go"

	"github.com/pypool/pypool"
)

// What a call costs beside a bare request from Go to Go over the same nats-server, with as many
// bytes, and beside a call of the pool without NATS. All are in this process but the Python
// workers.
//
//	go test -run '^$' -bench . -benchtime 2s
func BenchmarkCall(b *testing.B) {
	broker := newBroker(b)
	text := strings.Repeat("x", 80)
	p := newPool(b, config(2))
	serve(b, broker, "test", p)
	c := client(b, broker, "test")
	echo := broker.connect(b)
	_, err := echo.QueueSubscribe("echo", "q", func(m *nats.Msg) { _ = m.Respond(m.Data) })
	require.NoError(b, err)
	require.NoError(b, echo.Flush())
	bare := broker.connect(b)
	payload := fmt.Appendf(nil, `{"value":%q}`, text)
	for _, callers := range []int{1, 8, 64} {
		for _, kind := range []struct {
			name string
			call func() error
		}{
			{"request", func() error {
				_, err := bare.Request("echo", payload, time.Minute)
				return err
			}},
			{"client", func() error { return echoOnce(c, text) }},
			{"pool", func() error { return echoOnce(p, text) }},
		} {
			b.Run(fmt.Sprintf("%s/%d", kind.name, callers), func(b *testing.B) { measure(b, callers, kind.call) })
		}
	}
}

func echoOnce(c pypool.Caller, text string) error {
	_, err := c.ExecuteAnonymous(context.Background(), "echo", struct {
		Value string `json:"value"`
	}{text})
	return err
}

// BenchmarkLarge is the way there and back of a large text.
func BenchmarkLarge(b *testing.B) {
	broker := newBroker(b)
	p := newPool(b, config(1))
	serve(b, broker, "test", p)
	c := client(b, broker, "test")
	text := strings.Repeat("x", 10<<20)
	for name, caller := range map[string]pypool.Caller{"client": c, "pool": p} {
		b.Run(name, func(b *testing.B) { measure(b, 1, func() error { return echoOnce(caller, text) }) })
	}
}

// measure has callers make b.N calls, and reports the median and the rate.
func measure(b *testing.B, callers int, call func() error) {
	took := make([]time.Duration, b.N)
	var next atomic.Int64
	var group sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range callers {
		group.Go(func() {
			for {
				n := next.Add(1) - 1
				if n >= int64(b.N) {
					return
				}
				begun := time.Now()
				if err := call(); err != nil {
					b.Error(err)
					return
				}
				took[n] = time.Since(begun)
			}
		})
	}
	group.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(0, "ns/op")
}
