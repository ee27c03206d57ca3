package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/pypool/pypool"
)

// --- start ----------------------------------------------------------------------------------------------------------

// startGroup is the time until New has its workers ready, against bare interpreters that start and
// end side by side.
func startGroup() group {
	g := group{name: "start", title: "Start: New until all workers are ready, against `python3 -I -c pass` side by side", often: 5}
	for _, n := range []int{1, 8} {
		bare := fmt.Sprintf("bare/%d", n)
		g.cells = append(g.cells,
			cell{bare, nil, func(b *bench, _ time.Duration) (round, error) {
				begun := time.Now()
				err := b.sideBySide(n)
				return round{ms: millis(time.Since(begun))}, err
			}},
			cell{fmt.Sprintf("pool/%d", n), []reference{{"bare", bare}}, func(b *bench, _ time.Duration) (round, error) {
				begun := time.Now()
				p, err := b.newPool(n)
				if err != nil {
					return nil, err
				}
				took := time.Since(begun)
				return round{ms: millis(took)}, p.Close()
			}})
	}
	return g
}

func (b *bench) sideBySide(n int) error {
	var all []*exec.Cmd
	var errs []error
	for range n {
		cmd := exec.Command(b.Python, "-I", "-c", "pass")
		if err := cmd.Start(); err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, cmd)
	}
	for _, cmd := range all {
		errs = append(errs, cmd.Wait())
	}
	return errors.Join(errs...)
}

// --- memory ---------------------------------------------------------------------------------------------------------

const memoryWorkers = 4

// memoryGroup is what a worker holds, in Python and in Go.
func memoryGroup() group {
	return group{name: "memory", title: fmt.Sprintf("Memory: a bare sleeping interpreter, a worker after 100 calls (%d at once), and the Go side of a worker", memoryWorkers), cells: []cell{
		{"bare", nil, func(b *bench, _ time.Duration) (round, error) {
			var pids []int
			for range memoryWorkers {
				cmd := exec.Command(b.Python, "-I", "-c", "import time\nprint(flush=True)\ntime.sleep(600)")
				out, err := cmd.StdoutPipe()
				if err != nil {
					return nil, err
				}
				if err := cmd.Start(); err != nil {
					return nil, err
				}
				defer cmd.Wait()
				defer cmd.Process.Kill()
				if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
					return nil, err
				}
				pids = append(pids, cmd.Process.Pid)
			}
			return resident(pids)
		}},
		{"worker", []reference{{"bare", "bare"}}, func(b *bench, _ time.Duration) (round, error) {
			p, err := b.newPool(memoryWorkers)
			if err != nil {
				return nil, err
			}
			defer p.Close()
			call := anonymous(context.Background(), "text")
			for range 100 * memoryWorkers {
				if err := call(p.Pool, 0); err != nil {
					return nil, err
				}
			}
			var pids []int
			for _, w := range p.Workers() {
				pids = append(pids, w.PID)
			}
			return resident(pids)
		}},
		{"go", nil, func(b *bench, _ time.Duration) (round, error) {
			const workers = 8
			before := goMemory()
			p, err := b.newPool(workers)
			if err != nil {
				return nil, err
			}
			defer p.Close()
			for range 100 * workers {
				if err := anonymous(context.Background(), "text")(p.Pool, 0); err != nil {
					return nil, err
				}
			}
			return round{kib: float64(goMemory()-before) / workers / 1024}, nil
		}},
	}}
}

// goMemory is the live heap and the stacks.
func goMemory() int64 {
	runtime.GC()
	runtime.GC() // what the first one finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

var errNoProc = errors.New("skipped: this system does not tell the memory of a process")

// resident is the mean of the processes' resident and proportional sets.
func resident(pids []int) (round, error) {
	r := round{}
	for _, pid := range pids {
		for metric, from := range map[string][2]string{rss: {"status", "VmRSS"}, pss: {"smaps_rollup", "Pss"}} {
			kilobytes, err := procField(strconv.Itoa(pid), from[0], from[1])
			if err != nil && metric == rss {
				return nil, errNoProc
			}
			if err == nil {
				r[metric] += float64(kilobytes) / 1024 / float64(len(pids))
			}
		}
	}
	return r, nil
}

// procField reads a line like "VmHWM:  1234 kB" of /proc/PID/FILE.
func procField(pid, file, field string) (kilobytes int64, err error) {
	text, err := os.ReadFile("/proc/" + pid + "/" + file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strconv.ParseInt(strings.Fields(value)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, field)
}

// --- large results --------------------------------------------------------------------------------------------------

const largeSize = 10 << 20

type row struct {
	ID    int      `json:"id"`
	Name  string   `json:"name"`
	Score float64  `json:"score"`
	Tags  []string `json:"tags"`
	OK    bool     `json:"ok"`
}

// largeGroup is a table of 10 MB as a result, against its json.dumps and json.Unmarshal alone.
func largeGroup() group {
	alone := reference{"alone", "dumps+Unmarshal"}
	return group{name: "large", title: "A result of 10 MB, decoded into structs, against json.dumps and json.Unmarshal alone", cells: []cell{
		{alone.Cell, nil, func(b *bench, _ time.Duration) (round, error) {
			p, err := b.pool(1)
			if err != nil {
				return nil, err
			}
			size := sizeArgs{b.size(largeSize)}
			text, err := p.ExecuteAnonymous(context.Background(), "rows", size)
			if err != nil {
				return nil, err
			}
			dumps, err := pypool.Call[float64](context.Background(), p.Pool, "dumps_seconds", size)
			if err != nil {
				return nil, err
			}
			runtime.GC()
			begun := time.Now()
			var rows []row
			err = json.Unmarshal(text.Raw(), &rows)
			return round{ms: dumps*1e3 + millis(time.Since(begun))}, err
		}},
		{"pool", []reference{alone}, func(b *bench, _ time.Duration) (round, error) {
			p, err := b.pool(1)
			if err != nil {
				return nil, err
			}
			size := sizeArgs{b.size(largeSize)}
			if _, err := pypool.Call[float64](context.Background(), p.Pool, "dumps_seconds", size); err != nil { // makes the table
				return nil, err
			}
			runtime.GC()
			begun := time.Now()
			rows, err := pypool.Call[[]row](context.Background(), p.Pool, "rows", size)
			took := time.Since(begun)
			if err == nil && len(rows) < size.Size/200 {
				err = errors.New("rows are missing")
			}
			return round{ms: millis(took)}, err
		}},
	}}
}

// --- peak memory ----------------------------------------------------------------------------------------------------

const peakSize = 63 << 20 // as much as the default of MaxMessageBytes allows

// peakGroup is how far the memory of both sides grows with one message of 63 MB.
func peakGroup() group {
	peak := func(name string, call func(ctx context.Context, p *pypool.Pool, size int, data []byte) error) cell {
		return cell{name, nil, func(b *bench, _ time.Duration) (round, error) {
			size := b.size(peakSize)
			data := bytes.Repeat([]byte("x"), size)
			p, err := b.newPool(1)
			if err != nil {
				return nil, err
			}
			defer p.Close()
			ctx := context.Background()
			if err := call(ctx, p.Pool, 10, data[:10]); err != nil {
				return nil, err
			}
			worker := strconv.Itoa(p.Workers()[0].PID)
			before := [2]int64{}
			for i, pid := range []string{"self", worker} {
				debug.FreeOSMemory()
				if before[i], err = resetPeak(pid); err != nil {
					return nil, errNoProc
				}
			}
			if err := call(ctx, p.Pool, size, data); err != nil {
				return nil, err
			}
			r := round{}
			for i, pid := range []string{"self", worker} {
				high, err := procField(pid, "status", "VmHWM")
				if err != nil {
					return nil, errNoProc
				}
				r[[]string{hostPeak, workPeak}[i]] = float64(high-before[i]) * 1024 / float64(size)
			}
			runtime.KeepAlive(data)
			return r, nil
		}}
	}
	return group{name: "peak", title: "Peak memory of one 63 MB message, as a multiple of it: the growth of this process and of the worker", cells: []cell{
		peak("result/raw", func(ctx context.Context, p *pypool.Pool, size int, _ []byte) error {
			_, err := p.ExecuteAnonymous(ctx, "text", sizeArgs{size})
			return err
		}),
		peak("result/decoded", func(ctx context.Context, p *pypool.Pool, size int, _ []byte) error {
			_, err := pypool.Call[string](ctx, p, "text", sizeArgs{size})
			return err
		}),
		peak("request", func(ctx context.Context, p *pypool.Pool, _ int, data []byte) error {
			text := unsafe.String(unsafe.SliceData(data), len(data))
			_, err := pypool.Call[int](ctx, p, "length", echoed{text})
			return err
		}),
		peak("bytes/in", func(ctx context.Context, p *pypool.Pool, size int, data []byte) error {
			n, err := pypool.Call[int](ctx, p, "bytes_in", bytesArgs{data})
			return check(err, n == len(data))
		}),
		peak("bytes/out", func(ctx context.Context, p *pypool.Pool, size int, _ []byte) error {
			out, err := pypool.Call[[]byte](ctx, p, "bytes_fresh", sizeArgs{size})
			return check(err, len(out) == size)
		}),
		peak("bytes/echo", func(ctx context.Context, p *pypool.Pool, _ int, data []byte) error {
			out, err := pypool.Call[[]byte](ctx, p, "bytes_echo", bytesArgs{data})
			return check(err, len(out) == len(data))
		}),
	}}
}

// resetPeak sets the process's peak to what it holds now, and returns that.
func resetPeak(pid string) (kilobytes int64, err error) {
	if err := os.WriteFile("/proc/"+pid+"/clear_refs", []byte("5"), 0); err != nil {
		return 0, err
	}
	return procField(pid, "status", "VmRSS")
}
