package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/examples/internal/storytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStory(t *testing.T) {
	python := storytest.Python(t)
	var out, logged bytes.Buffer
	require.NoError(t, run(t.Context(), python, slog.New(slog.NewJSONHandler(&logged, nil)), &out))
	require.Equal(t, storytest.Output(t), out.String())

	// Each of the seven tickets is in the log, with its customer, as the module in Python logged
	// it.
	answered := map[string]int{}
	for line := range bytes.Lines(logged.Bytes()) {
		var record struct{ Msg, Logger, Session, Program string }
		require.NoError(t, json.Unmarshal(line, &record))
		if record.Logger == "desk" {
			require.Regexp(t, `^a (billing|bug|wish) ticket is answered$`, record.Msg)
			answered[record.Session]++
		}
	}
	require.Equal(t, map[string]int{"ann": 2, "bob": 2, "eve": 3}, answered)
}

// TestPrograms compares each program's outputs with what the offline model is scripted to say.
func TestPrograms(t *testing.T) {
	pool, err := pypool.New(t.Context(), pypool.Config{Script: "worker.py", Python: storytest.Python(t), Size: 1, Overflow: -1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })

	wish := map[string]any{"ticket": "May I have a dark mode?"}
	sorted, err := ask[triage](t.Context(), pool, "triage", wish)
	require.NoError(t, err)
	require.Equal(t, triage{Category: "wish", Urgent: false}, sorted)

	const reply = "We like it too, and have put it on the list."
	thought, err := ask[answer](t.Context(), pool, "answer", map[string]any{"ticket": wish["ticket"], "category": "wish"})
	require.NoError(t, err)
	require.Equal(t, answer{Reasoning: "Nothing is broken; others have asked for it too.", Reply: reply}, thought)

	both, err := ask[desk](t.Context(), pool, "desk", wish, pypool.WithSession("ann"))
	require.NoError(t, err)
	require.Equal(t, desk{Category: "wish", Urgent: false, Reply: reply}, both)

	// An answer that does not parse, and inputs that the module does not take, are exceptions, and
	// cost no worker.
	for inputs, want := range map[string]string{`{"ticket": "?"}`: "AdapterParseError", `{"tikket": "a dark mode"}`: "TypeError"} {
		_, err = pool.ExecuteProgram(t.Context(), "desk", json.RawMessage(inputs))
		var raised *pypool.PythonError
		require.ErrorAs(t, err, &raised)
		require.Equal(t, want, raised.Type)
	}
	stats := pool.Stats()
	require.EqualValues(t, 1, stats.WorkersStarted)
	require.EqualValues(t, map[pypool.ErrorType]int64{pypool.TypePython: 2}, stats.ByType)
	_, err = pool.ExecuteProgram(t.Context(), "desk ", nil)
	require.ErrorIs(t, err, pypool.ErrUnknownCommand)
}
