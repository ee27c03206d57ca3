//go:build linux

package pypool

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// violates is a row of a worker that breaks the protocol in answer to a call: doubt destroys it.
func violates(name, command, reason string) fault {
	return fault{name: name, fake: true, command: command, args: []any{secret}, want: ErrProtocol, is: MaybeExecuted, worker: replaced,
		check: func(t *testing.T, r *rig, _ Result, err error) {
			violation := detail[*ProtocolError](t, err)
			require.Contains(t, violation.Reason, reason)
			require.LessOrEqual(t, len(violation.Sample), 4*256+2)
		}}
}

// badResult is a row of a handler whose result JSON cannot carry.
func badResult(name, command string, args any, path string) fault {
	return fault{name: name, command: command, args: args, want: ErrInvalidResult, is: Executed, worker: kept,
		check: func(t *testing.T, r *rig, _ Result, err error) {
			require.Equal(t, path, detail[*InvalidResultError](t, err).Path)
		}}
}

// Group C: the channel is abused.
var channelFaults = []fault{
	{name: "C1_print_and_logging_go_to_the_log", command: "print_all", args: []any{"c1"}, worker: kept,
		check: func(t *testing.T, r *rig, res Result, err error) {
			for _, how := range []string{"print", "logging", "stdout"} {
				r.logged(t, "c1-"+how)
			}
		}},
	{name: "C2_C_stdio_and_subprocesses_write_to_the_log", command: "write_all", args: []any{"c2"}, worker: kept,
		check: func(t *testing.T, r *rig, res Result, err error) {
			for _, how := range []string{"printf", "write", "system", "subprocess"} {
				r.logged(t, "c2-"+how)
			}
		}},
	{name: "C3_closing_stdin_stdout_stderr_leaves_the_channel_alone", run: func(t *testing.T, r *rig) {
		cfg := r.config(t)
		cfg.Size = 1
		p := r.own(t, cfg)
		pid := p.Workers()[0].PID
		for fd := range 3 {
			executed(t, p, "close_fd", []any{fd})
		}
		executed(t, p, "echo", []any{1})
		require.Equal(t, pid, p.Workers()[0].PID)
		_, err := p.ExecuteAnonymous(context.Background(), "deadlock", nil, WithTimeout(stackTime))
		require.Contains(t, detail[*HangError](t, err).Stacks, "in deadlock", "the stacks come without fd 2, too")
	}},
	{name: "C4_handler_that_closes_every_descriptor_costs_its_worker", command: "close_everything", want: ErrWorkerExited, is: MaybeExecuted, worker: replaced,
		check: func(t *testing.T, r *rig, _ Result, err error) {
			require.False(t, detail[*ExitError](t, err).OOM, "%v", err)
			require.Contains(t, err.Error(), "its channel to the host was closed")
		}},
	{name: "C4b_worker_that_closes_its_channel_and_lives_on_is_killed", fake: true, command: "closes stdout", want: ErrProtocol, is: MaybeExecuted, worker: replaced},
	violates("C5_garbage", "garbage", "not a JSON object"),
	{name: "C6_partial_line_then_exit_is_an_exit", fake: true, command: "partial line, exit", want: ErrWorkerExited, is: MaybeExecuted, worker: replaced,
		check: func(t *testing.T, r *rig, _ Result, err error) { require.Equal(t, 5, detail[*ExitError](t, err).Code) }},
	{name: "C7_answer_without_newline_is_no_answer", fake: true, command: "no newline", timeout: hangTime, want: ErrOperationTimeout, is: MaybeExecuted, worker: replaced},
	violates("C8_answer_to_another_request", "wrong id", "an answer to request"),
	violates("C8b_answer_to_an_older_request", "old id", "an answer to request"),
	{name: "C9_second_answer_is_found_before_the_next_call", run: func(t *testing.T, r *rig) {
		r.pool = r.fake
		for range 3 {
			res, err := r.execute("duplicate", nil, 0)
			require.NoError(t, err)
			require.JSONEq(t, `"good"`, string(res.Raw()))
			r.epilogue(t) // the next call: it succeeds, on another worker
			r.fate(t, replaced, res, nil)
		}
	}},
	{name: "C10_late_answer_of_a_canceled_call_reaches_nobody", run: func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(context.Background())
		b := r.block(t, ctx)
		pid := b.pid(t)
		cancel()
		err := ended(t, b.end).err
		e := failsWith(t, err, ErrCanceled, MaybeExecuted)
		require.ErrorIs(t, err, context.Canceled)
		require.True(t, detail[*HangError](t, err).Killed)
		gone(t, pid)
		r.epilogue(t)
		r.fate(t, replaced, Result{}, e)
		for i := range 20 {
			require.EqualValues(t, i, decoded[int](t, executed(t, r.pool, "echo", []any{i})))
		}
	}},
	{name: "C11_output_while_idle_is_found_before_the_next_call", run: func(t *testing.T, r *rig) {
		r.pool = r.fake
		lost := r.pool.Stats().Failed
		file := filepath.Join(t.TempDir(), "now")
		res, err := r.execute("duplicate later", []any{file}, 0)
		require.NoError(t, err)
		worker := r.pool.sup.workers()[0]
		touch(t, file)
		eventually(t, "the unasked answer is in the pipe", func() bool { return unread(worker) > 0 })
		r.epilogue(t)
		r.fate(t, replaced, res, nil)
		require.Equal(t, lost, r.pool.Stats().Failed)
	}},
	{name: "C12_ids_are_never_used_twice_and_begin_at_random", run: func(t *testing.T, r *rig) {
		seen := map[uint64]bool{}
		for range 3 {
			for range 20 {
				id := decoded[uint64](t, executed(t, r.pool, "request_id", nil))
				require.False(t, seen[id])
				seen[id] = true
			}
			killWorkers(r.pool)
			r.epilogue(t)
		}
		other := r.own(t, r.fakeConfig(t, ""))
		require.NotEqual(t, r.python.ids.Load()>>16, other.ids.Load()>>16, "two pools begin at different numbers") // one in 65536 does not
	}},
	violates("C13_two_documents_on_a_line", "two documents", "malformed envelope"),
	violates("C13b_document_over_several_lines", "pretty-printed", "malformed envelope"),
	violates("C14_case_variants_of_keys", "case variants", "unknown envelope key"),
	violates("C14b_key_twice", "duplicate key", "stands twice"),
	violates("C14c_unknown_key", "unknown key", "unknown envelope key"),
	violates("C14d_result_and_error", "result and error", "neither a result, an error, an item nor"),
	violates("C14e_success_without_result", "success without result", "neither a result, an error, an item nor"),
	violates("C14f_error_that_is_no_object", "error that is no object", "bad value"),
	violates("C14g_error_of_wrong_types", "error of wrong types", "unreadable error"),
	violates("C14h_item_of_a_call_that_is_no_stream", "unasked item", "no stream"),
	violates("C14i_answer_without_an_id", "null id", "bad value"),
	violates("C14j_empty_line", "empty line", "not a JSON object"),
	{name: "C14k_error_of_an_unknown_kind_is_the_runtimes_own", fake: true, command: "unknown kind", want: ErrInternal, is: MaybeExecuted, worker: replaced},
	{name: "C15_stderr_flood_is_drained_and_bounded", run: func(t *testing.T, r *rig) {
		const megabytes = 8
		res, err := r.execute("stderr_flood", []any{megabytes}, 0)
		require.NoError(t, err)
		r.epilogue(t)
		r.fate(t, kept, res, nil)
		for _, w := range r.pool.sup.workers() {
			if w.id == res.Worker() {
				eventually(t, "the flood is drained", func() bool { return strings.Contains(w.log.text(), "the flood is over") })
				require.LessOrEqual(t, len(w.log.text()), stderrTail)
			}
		}
		eventually(t, "the logger has taken the flood, or there is room for the next row's records", func() bool {
			r.pool.reporter.mu.Lock()
			defer r.pool.reporter.mu.Unlock()
			return len(r.pool.reporter.queue) == 0
		})
	}},
	{name: "C16_odd_stderr_is_cut_and_escaped", run: func(t *testing.T, r *rig) {
		res, err := r.execute("stderr_odd", nil, 0)
		require.NoError(t, err)
		r.logged(t, "not a record")
		for line := range strings.Lines(r.logs.String()) {
			require.Less(t, len(line), 4*maxLogLine)
			require.NotContains(t, line, "\x1b")
		}
		var record struct{ Msg string }
		for line := range strings.Lines(r.logs.String()) {
			if strings.Contains(line, "forged") {
				require.NoError(t, json.Unmarshal([]byte(line), &record))
			}
		}
		require.Equal(t, `\x1b[31mred\x1b[0m\x00`+"\ufffd\ufffd"+` level=ERROR\x0dmsg=forged`, record.Msg)
		r.epilogue(t)
		r.fate(t, kept, res, nil)
	}},
	{name: "C17_result_over_the_limit_is_refused_by_Python", command: "big", args: []any{1 << 20}, want: ErrMessageTooLarge, is: Executed, worker: kept},
	violates("C17b_line_over_the_limit_is_cut_off_by_the_host", "huge line", "a line of more than"),
	{name: "C17c_request_over_the_limit_costs_no_worker", command: "echo", args: []any{strings.Repeat("x", 1<<20)}, want: ErrMessageTooLarge, is: NotExecuted, worker: noWorker},
	{name: "C18_result_of_just_below_the_limit", command: "big", args: []any{1<<20 - 100}, worker: kept,
		check: func(t *testing.T, r *rig, res Result, err error) {
			for _, size := range []int{0, 4095, 4096, 65535, 65536, 70000, 131072} {
				require.Len(t, decoded[string](t, executed(t, r.pool, "big", []any{size})), size)
			}
		}},
	{name: "C18b_answer_byte_by_byte", fake: true, command: "byte by byte", worker: kept},
	violates("C19_invalid_UTF8_in_an_answer", "invalid UTF-8", "not valid UTF-8"),
	violates("C19b_UTF16_answer", "UTF-16", ""),
	badResult("C20_lone_surrogate", "surrogate", nil, "$.rows[1].name"),
	badResult("C21_NaN", "not_a_number", []any{"nan"}, "$.rows[1]"),
	badResult("C21b_Infinity", "not_a_number", []any{"-inf"}, "$.rows[1]"),
	violates("C21c_NaN_on_the_wire", "NaN", "bad value"),
	{name: "C22_NaN_in_the_arguments_costs_no_worker", command: "echo", args: []any{math.NaN(), secret}, want: ErrInvalidArguments, is: NotExecuted, worker: noWorker},
	{name: "C23_integers_of_any_size_are_exact", run: func(t *testing.T, r *rig) {
		for _, text := range []string{"9007199254740993", "-9007199254740993", "18446744073709551616", "1" + strings.Repeat("0", 300), "0.1", "1e-320"} {
			res := executed(t, r.pool, "echo", []any{json.Number(text)})
			var back any
			require.NoError(t, res.Decode(&back))
			if n, ok := back.(json.Number); ok {
				require.Equal(t, text, n.String())
			} else {
				require.JSONEq(t, text, string(res.Raw()))
			}
		}
	}},
	badResult("C24_number_of_5000_digits", "power", []any{10, 5000}, "$"),
	{name: "C24b_number_of_5000_digits_in_the_arguments", command: "echo", args: json.RawMessage("[" + strings.Repeat("7", 5000) + "]"), want: ErrInvalidArguments, is: NotExecuted, worker: kept},
	badResult("C25_result_nested_100000_deep", "nested", []any{100_000}, "$"),
	badResult("C25b_result_nested_deeper_than_Go_reads", "nested", []any{10_500}, "$"),
	{name: "C25c_arguments_nested_deep", run: func(t *testing.T, r *rig) {
		deep := func(n int) json.RawMessage { return json.RawMessage(strings.Repeat("[", n) + strings.Repeat("]", n)) }
		_, err := r.execute("echo", deep(20_000), 0)
		failsWith(t, err, ErrInvalidArguments, NotExecuted)
		r.fate(t, noWorker, Result{}, err)
		_, err = r.execute("echo", deep(9_000), 0) // Go reads it, Python's recursion limit need not
		if err != nil {
			failsWith(t, err, ErrInvalidArguments, NotExecuted)
			r.fate(t, kept, Result{}, err)
		}
	}},
	{name: "C25d_answer_nested_deeper_than_Go_reads", fake: true, command: "too deep", want: ErrInvalidResult, is: Executed, worker: kept},
	{name: "C25e_item_nested_deeper_than_Go_reads_stops_the_generator", run: func(t *testing.T, r *rig) {
		p := r.concurrent(t, nil)
		pid := pids(p)
		for _, command := range []string{"deep_rows_alone", "deep_rows_beside"} {
			mark := newNotes(t)
			var rows int
			var failed error
			for res, err := range p.Stream(t.Context(), command, []any{mark.path}) {
				if rows++; err != nil {
					require.Nil(t, failed)
					failed = err
				} else {
					require.Equal(t, "[[]]", string(res.Raw()))
				}
			}
			require.Equal(t, 2, rows)
			e := failsWith(t, failed, ErrInvalidResult, Executed)
			require.Equal(t, "$", detail[*InvalidResultError](t, e).Path)
			require.NotZero(t, e.Context.PID)
			require.Equal(t, []string{"closed"}, mark.read())
			for i := range 20 { // nothing of the stream is left for them
				require.Equal(t, i, decoded[int](t, executed(t, p, "echo", []any{i})))
			}
		}
		require.Equal(t, pid, pids(p))
	}},
	badResult("C26_set", "unserializable", []any{"set"}, "$.rows[1]"),
	badResult("C26c_object", "unserializable", []any{"object"}, "$.rows[1]"),
	badResult("C26d_complex", "unserializable", []any{"complex"}, "$.rows[1]"),
	badResult("C26e_generator", "unserializable", []any{"generator"}, "$.rows[1]"),
	badResult("C27_integer_key", "odd_keys", []any{"int"}, "$"),
	badResult("C27b_None_key", "odd_keys", []any{"none"}, "$"),
	badResult("C27c_boolean_key", "odd_keys", []any{"bool"}, "$.x"),
	badResult("C27d_tuple_key", "odd_keys", []any{"tuple"}, "$"),
	badResult("C28_cycle", "cyclic", nil, "$[1]"),
	{name: "C29_every_character_survives_both_ways", run: func(t *testing.T, r *rig) {
		var all []rune
		for c := rune(0); c <= 0x10ffff; c++ {
			if (c < 0x3000 || c%97 == 0 || c > 0xff00 && c < 0x10100) && (c < 0xd800 || c > 0xdfff) {
				all = append(all, c)
			}
		}
		text := string(all)
		require.Equal(t, text, decoded[string](t, executed(t, r.pool, "echo", []any{text})))
		require.Equal(t, map[string]any{text[:2000]: "v"}, decoded[map[string]any](t, executed(t, r.pool, "echo", []any{map[string]any{text[:2000]: "v"}})))
	}},
	{name: "C30_odd_request_lines_are_answered_and_harmless", run: func(t *testing.T, r *rig) {
		for name, line := range map[string]string{
			"carriage return": "{\"id\":%,\"command\":\"pid\"}\r\n",
			"byte order mark": "\xef\xbb\xbf{\"id\":%,\"command\":\"pid\"}\n",
			"not UTF-8":       "{\"id\":%,\"command\":\"echo\",\"args\":[\"\xff\"]}\n",
			"empty":           "\n",
			"array":           "[1,2]\n",
			"no id":           "{\"command\":\"pid\"}\n",
			"duplicate key":   "{\"id\":%,\"command\":\"pid\",\"command\":\"abort\"}\n",
			"case variant":    "{\"id\":%,\"Command\":\"pid\"}\n",
			"NUL":             "\x00\n",
		} {
			answer := raw(t, r.pool, line)
			require.True(t, json.Valid(answer), "%s: %q", name, answer)
			require.Equal(t, 1, bytes.Count(answer, []byte("\n")), "%s: one line, one answer: %q", name, answer)
		}
	}},
	{name: "C30b_UTF16_request_is_refused_not_guessed", run: func(t *testing.T, r *rig) {
		var line []byte
		for _, c := range `{"id":77,"command":"pid"}` {
			line = append(line, byte(c), 0)
		}
		answer := raw(t, r.pool, string(line)+"\n\x00\n")
		require.Contains(t, string(answer), "invalid_request")
	}},
	{name: "C31_invalid_UTF8_in_the_arguments_costs_no_worker", run: func(t *testing.T, r *rig) {
		for _, args := range []any{[]any{"a\xffb"}, map[string]any{"a\xff": 1}, json.RawMessage("[\"\xff\"]"), []any{json.RawMessage("\"\xff\"")}, struct{ A *string }{ptr("\xc3")}} {
			_, err := r.execute("echo", args, 0)
			failsWith(t, err, ErrInvalidArguments, NotExecuted)
			r.fate(t, noWorker, Result{}, err)
		}
		require.Equal(t, "a\ufffdb", decoded[string](t, executed(t, r.pool, "echo", []any{"a\ufffdb"})), "one that the caller wrote is a character")
	}},
	{name: "C32_evil_subclasses_inject_nothing", run: func(t *testing.T, r *rig) {
		for kind, want := range map[string]string{"int": "7", "float": "1.5", "str": `"quiet"`} {
			require.JSONEq(t, want, string(executed(t, r.pool, "evil", []any{kind}).Raw()))
		}
		res, err := r.execute("evil", []any{"dict"}, 0) // its items() may name a key twice; more it cannot
		if err != nil {
			failsWith(t, err, ErrInvalidResult, Executed)
		}
		r.epilogue(t)
		r.fate(t, kept, res, err)
	}},
	{name: "C33_error_while_the_result_is_encoded", command: "raise_while_encoding", want: ErrInvalidResult, is: Executed, worker: kept},
	{name: "C34_threads_that_log_and_print_do_not_break_the_answer", command: "chatter", args: []any{8, 10}, worker: kept,
		check: func(t *testing.T, r *rig, res Result, err error) { require.Len(t, decoded[string](t, res), 100_000) }},
}

func ptr[T any](v T) *T { return &v }

// unread counts the bytes that a worker has sent and the host has not read.
func unread(w *worker) (n int) {
	n, _ = w.proc.Transport().(interface{ Pending() (int, bool) }).Pending()
	return n
}

// raw writes bytes to a worker as no host would (a % becomes a fresh id) and returns the answer.
// The worker is then in doubt.
func raw(t *testing.T, p *Pool, line string) []byte {
	t.Helper()
	eventually(t, "a worker is idle", func() bool { return p.Stats().Idle > 0 })
	res, err := p.sup.checkout.wait(context.Background(), time.Now().Add(5*time.Second), 0, p.refusing)
	require.NoError(t, err)
	w := res.Value()
	defer func() {
		w.x.doubt(syscall.EPROTO)
		p.sup.release(res)
	}()
	id, _ := json.Marshal(p.ids.Add(1))
	require.NoError(t, w.x.t.SetDeadline(time.Now().Add(5*time.Second)))
	_, err = w.x.t.Write([]byte(strings.ReplaceAll(line, "%", string(id))))
	require.NoError(t, err)
	// A ping behind it shows that the loop goes on, and where its own answer begins.
	ping, _ := json.Marshal(p.ids.Add(1))
	_, err = w.x.t.Write([]byte(`{"id":` + string(ping) + `,"command":"ping"}` + "\n"))
	require.NoError(t, err)
	var got []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(got, []byte(`{"id":`+string(ping)+`,"success":true`)) {
		n, err := w.x.t.Read(buf)
		require.NoError(t, err, "so far %q", got)
		got = append(got, buf[:n]...)
	}
	return got[:bytes.Index(got, []byte(`{"id":`+string(ping)))]
}
