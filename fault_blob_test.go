//go:build linux

package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Group M: payloads that are torn, wrong, or on their way when something ends.

// saysWrong is a row of a worker that says something wrong of payloads.
func saysWrong(name, text, reason string) fault {
	row := violates(name, "says", reason)
	row.args = []any{text}
	return row
}

func (r *rig) bytesPool(t *testing.T, size int) *Pool {
	t.Helper()
	cfg := r.config(t)
	cfg.Size = size
	return r.own(t, cfg)
}

// onThePipe has the payloads of workers that start from now on take the pipe, to the test's end.
func onThePipe(t *testing.T) {
	t.Cleanup(func(was bool) func() { return func() { pipeOnly.Store(was) } }(pipeOnly.Swap(true)))
}

var blobFaults = []fault{
	saysWrong("M1_payloads_that_no_line_has_a_place_for", "{\"raw\":[3]}\nabc\n{\"id\":%,\"success\":true,\"result\":1}\n", "1 payloads came, and the line has places for 0"),
	saysWrong("M1b_places_for_payloads_that_have_not_come", "{\"id\":%,\"success\":true,\"result\":null,\"blobs\":[{\"at\":0}]}\n", "0 payloads came, and the line has places for 1"),
	saysWrong("M1c_a_place_outside_of_the_result", "{\"raw\":[3]}\nabc\n{\"id\":%,\"success\":true,\"result\":null,\"blobs\":[{\"at\":40}]}\n", "stands where no null is"),
	saysWrong("M1d_two_payloads_in_one_place", "{\"raw\":[1,2]}\nabc\n{\"id\":%,\"success\":true,\"result\":[null],\"blobs\":[{\"at\":1},{\"at\":1}]}\n", "stands where no null is"),
	saysWrong("M1e_an_array_of_another_size", "{\"raw\":[3]}\nabc\n{\"id\":%,\"success\":true,\"result\":null,\"blobs\":[{\"at\":0,\"dtype\":\"int16\",\"shape\":[2]}]}\n", "int16 of shape [2] are 4 bytes, and it has 3"),
	saysWrong("M1f_payloads_longer_than_said", "{\"raw\":[3]}\nabcd\n{\"id\":%,\"success\":true,\"result\":null,\"blobs\":[{\"at\":0}]}\n", "no newline behind payloads"),
	saysWrong("M1g_payloads_shorter_than_said", "{\"raw\":[4]}\nabc\n{\"id\":%,\"success\":true,\"result\":null,\"blobs\":[{\"at\":0}]}\n", "no newline behind payloads"),
	saysWrong("M1h_payloads_behind_payloads", "{\"raw\":[1]}\na\n{\"raw\":[1]}\nb\n{\"id\":%,\"success\":true,\"result\":null,\"blobs\":[{\"at\":0}]}\n", "payloads behind payloads"),
	saysWrong("M1i_payloads_of_a_size_that_is_none", "{\"raw\":[-3]}\nabc\n{\"id\":%,\"success\":true,\"result\":null,\"blobs\":[{\"at\":0}]}\n", "malformed sizes"),
	saysWrong("M1j_payloads_beyond_the_limit", "{\"raw\":[70000000000]}\nabc", "payloads of more than"),
	saysWrong("M1k_a_payload_of_an_error", "{\"raw\":[1]}\na\n{\"id\":%,\"success\":false,\"error\":{\"kind\":null},\"blobs\":[{\"at\":8}]}\n", "payloads of what has none"),
	{name: "M2_an_answer_with_payloads_byte_by_byte", fake: true, command: "says byte by byte", worker: kept,
		args: []any{"{\"raw\":[3,0,2]}\na\nb\n\n\n{\"id\":%,\"success\":true,\"result\":[null,null,null],\"blobs\":[{\"at\":1},{\"at\":6},{\"at\":11,\"dtype\":\"int8\",\"shape\":[2]}]}\n"},
		check: func(t *testing.T, r *rig, res Result, err error) {
			var out []any
			require.NoError(t, res.Decode(&out))
			require.Equal(t, []any{"YQpi", "", []any{10.0, 10.0}}, out)
		}},
	{name: "M3_a_worker_that_dies_in_the_midst_of_a_payload", fake: true, command: "says", args: []any{"{\"raw\":[100]}\nabc", true}, want: ErrWorkerExited, is: MaybeExecuted, worker: replaced},
	{name: "M3b_a_worker_that_dies_behind_a_payload", fake: true, command: "says", args: []any{"{\"raw\":[3]}\nabc\n", true}, want: ErrWorkerExited, is: MaybeExecuted, worker: replaced},
	{name: "M3c_a_payload_that_never_ends", fake: true, command: "says", args: []any{"{\"raw\":[100]}\nabc"}, timeout: hangTime, want: ErrOperationTimeout, is: MaybeExecuted, worker: replaced},
	{name: "M4_payloads_of_requests_that_do_not_fit_are_refused", run: func(t *testing.T, r *rig) {
		for name, lines := range map[string]string{
			"no place":            "{\"raw\":[3]}\nabc\n{\"id\":%,\"command\":\"echo\",\"args\":[null]}\n",
			"no payload":          "{\"id\":%,\"command\":\"echo\",\"args\":[null],\"blobs\":[{\"at\":[0]}]}\n",
			"too many":            "{\"raw\":[1,1]}\nab\n{\"id\":%,\"command\":\"echo\",\"args\":[null],\"blobs\":[{\"at\":[0]}]}\n",
			"too few":             "{\"raw\":[1]}\na\n{\"id\":%,\"command\":\"echo\",\"args\":[null,null],\"blobs\":[{\"at\":[0]},{\"at\":[1]}]}\n",
			"twice":               "{\"raw\":[1,1]}\nab\n{\"id\":%,\"command\":\"echo\",\"args\":[null],\"blobs\":[{\"at\":[0]},{\"at\":[0]}]}\n",
			"out of range":        "{\"raw\":[1]}\na\n{\"id\":%,\"command\":\"echo\",\"args\":[null],\"blobs\":[{\"at\":[1]}]}\n",
			"negative":            "{\"raw\":[1]}\na\n{\"id\":%,\"command\":\"echo\",\"args\":[null],\"blobs\":[{\"at\":[-1]}]}\n",
			"no path":             "{\"raw\":[1]}\na\n{\"id\":%,\"command\":\"echo\",\"args\":[null],\"blobs\":[{\"at\":[]}]}\n",
			"no null":             "{\"raw\":[1]}\na\n{\"id\":%,\"command\":\"echo\",\"args\":[5],\"blobs\":[{\"at\":[0]}]}\n",
			"another size":        "{\"raw\":[1]}\na\n{\"id\":%,\"command\":\"echo\",\"args\":[null],\"blobs\":[{\"at\":[0],\"dtype\":\"int16\",\"shape\":[1]}]}\n",
			"a shape of nothing":  "{\"raw\":[1]}\na\n{\"id\":%,\"command\":\"echo\",\"args\":[null],\"blobs\":[{\"at\":[0],\"dtype\":\"int8\",\"shape\":{}}]}\n",
			"unknown type":        "{\"raw\":[1]}\na\n{\"id\":%,\"command\":\"echo\",\"args\":[null],\"blobs\":[{\"at\":[0],\"dtype\":\"object\",\"shape\":[1]}]}\n",
			"no newline":          "{\"raw\":[1]}\nab{\"id\":%,\"command\":\"echo\",\"args\":[null],\"blobs\":[{\"at\":[0]}]}\n",
			"no sizes":            "{\"raw\":[]}\n",
			"a size that is none": "{\"raw\":[1.5]}\n",
			"beyond the limit":    "{\"raw\":[99999999999]}\n",
			"in a batch":          "{\"raw\":[1,1]}\nab\n{\"batch\":[{\"id\":%,\"command\":\"echo\",\"args\":[null],\"blobs\":[{\"at\":[0]}]}]}\n",
		} {
			answer := raw(t, r.pool, lines)
			require.True(t, json.Valid(answer), "%s: %q", name, answer)
			require.Contains(t, string(answer), "invalid_request", name)
		}
	}},
	{name: "M5_a_worker_is_killed_while_a_payload_is_on_its_way", run: func(t *testing.T, r *rig) {
		onThePipe(t)
		p := r.bytesPool(t, 1)
		pid := p.Workers()[0].PID
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		x := bytes.Repeat([]byte(secret), 50_000)
		wait := inBackground(1, func(int) (Result, error) {
			return p.ExecuteAnonymous(context.Background(), "echo", []any{x}, WithBlobs())
		})
		eventually(t, "it is written in part", func() bool { return p.Stats().InFlight == 1 })
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		for _, out := range wait() { // what it cannot have read whole is run elsewhere
			require.NoError(t, out.err)
			var got []byte
			require.NoError(t, out.res.Decode(&got))
			require.True(t, bytes.Equal(x, got))
		}
	}},
	{name: "M6_a_caller_leaves_while_its_payload_is_on_its_way", run: func(t *testing.T, r *rig) {
		onThePipe(t)
		p := r.bytesPool(t, 1)
		pid := p.Workers()[0].PID
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		x := bytes.Repeat([]byte{1}, 600_000)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, err := p.ExecuteAnonymous(ctx, "echo", []any{x}, WithBlobs())
		failsWith(t, err, ErrOperationTimeout, NotExecuted)
		clear(x) // it is the caller's again
		got, err := Call[[]byte](context.Background(), p, "echo", []any{bytes.Repeat([]byte{2}, 600_000)})
		require.NoError(t, err)
		require.True(t, bytes.Equal(bytes.Repeat([]byte{2}, 600_000), got))
	}},
	{name: "M7_a_caller_leaves_while_its_result_is_on_its_way", run: func(t *testing.T, r *rig) {
		p := r.bytesPool(t, 1)
		for i := range 30 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*time.Millisecond)
			_, _ = Call[[]byte](ctx, p, "echo", []any{bytes.Repeat([]byte{byte(i)}, 900_000)})
			cancel()
			got, err := Call[[]byte](context.Background(), p, "echo", []any{bytes.Repeat([]byte{byte(i)}, 1<<16)})
			require.NoError(t, err)
			require.True(t, bytes.Equal(bytes.Repeat([]byte{byte(i)}, 1<<16), got), "%d", i)
		}
	}},
	{name: "M8_a_payload_that_looks_like_the_wire", run: func(t *testing.T, r *rig) {
		text := "\n{\"raw\":[5]}\n{\"id\":1,\"success\":true,\"result\":1}\n{\"id\":1,\"cancel\":true}\n{\"id\":2,\"host\":1,\"success\":true,\"result\":1}\n"
		for _, n := range []int{20, 1000, 5000} {
			x := []byte(strings.Repeat(text, n))
			got, err := Call[[]byte](context.Background(), r.pool, "echo", []any{x})
			require.NoError(t, err)
			require.True(t, bytes.Equal(x, got))
		}
	}},
}
