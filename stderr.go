package pypool

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"sync"
)

const (
	stderrTail   = 64 << 10
	maxLogLine   = 8 << 10
	recordPrefix = "\x1epypool:" // docs/protocol.md, "Logs"
)

// stderrLog drains a worker's standard error: it keeps the tail for diagnosis and hands each line on. It never waits for
// anything but the worker.
type stderrLog struct {
	line func(logLine)
	done chan struct{} // closed at the end of stderr

	mu   sync.Mutex // guards tail
	tail []byte     // at most 2 × stderrTail, trimmed when it gets there
}

// logLine is one line of output, or one record of Python's logging.
type logLine struct {
	level   slog.Level
	logger  string // empty for plain output
	text    string
	call    uint64
	session string
}

// newStderrLog starts the goroutine that drains r; it ends with r, and wait joins it.
func newStderrLog(r io.Reader, line func(logLine)) *stderrLog {
	l := &stderrLog{line: line, done: make(chan struct{})}
	go l.drain(r)
	return l
}

func (l *stderrLog) drain(r io.Reader) {
	defer close(l.done)
	buf := make([]byte, 4096)
	var pending []byte
	for {
		n, err := r.Read(buf)
		pending = append(pending, buf[:n]...)
		rest := pending
		for len(rest) > 0 {
			i := bytes.IndexByte(rest, '\n')
			limit := maxLogLine
			if bytes.HasPrefix(rest, []byte(recordPrefix)) {
				limit = stderrTail // a record must stay whole to be read
			}
			if i < 0 && len(rest) < limit && err == nil {
				break // the rest of the line is still to come
			}
			cut, skip := i, 1
			if i < 0 || i > limit {
				cut, skip = min(len(rest), limit), 0
			}
			l.emit(rest[:cut])
			rest = rest[cut+skip:]
		}
		pending = append(pending[:0], rest...)
		if err != nil {
			return
		}
	}
}

// add takes output that came another way.
func (l *stderrLog) add(text []byte) {
	for line := range bytes.Lines(text) {
		l.emit(bytes.TrimSuffix(line[:min(len(line), maxLogLine)], []byte("\n")))
	}
}

func (l *stderrLog) emit(text []byte) {
	line := logLine{level: slog.LevelInfo, text: printable(string(text), maxLogLine)}
	kept := text
	if record, ok := bytes.CutPrefix(text, []byte(recordPrefix)); ok {
		if parsed, ok := parseRecord(record); ok {
			line = parsed
			kept = []byte(parsed.level.String() + " " + parsed.logger + ": " + parsed.text)
		}
	}
	l.keep(kept)
	l.line(line)
}

// parseRecord reads a record of Python's logging. Python's levels are 10 apart, slog's 4, and Debug is 10 and -4.
func parseRecord(record []byte) (logLine, bool) {
	var r struct {
		Level   int    `json:"level"`
		Logger  string `json:"logger"`
		Message string `json:"message"`
		Exc     string `json:"exc"`
		Call    uint64 `json:"call"`
		Session string `json:"session"`
	}
	if json.Unmarshal(record, &r) != nil {
		return logLine{}, false
	}
	if r.Exc != "" {
		r.Message += "\n" + r.Exc
	}
	level := slog.LevelDebug
	switch {
	case r.Level >= 40:
		level = slog.LevelError
	case r.Level >= 30:
		level = slog.LevelWarn
	case r.Level >= 20:
		level = slog.LevelInfo
	}
	return logLine{level: level, logger: printable(r.Logger, 256), text: printable(r.Message, maxLogLine), call: r.Call, session: printable(r.Session, 256)}, true
}

// pythonLevel is the lowest level of Python's logging that the logger takes.
func pythonLevel(enabled func(slog.Level) bool) int {
	for i, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if enabled(level) {
			return 10 * (i + 1)
		}
	}
	return 40
}

func (l *stderrLog) keep(text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(append(l.tail, text...), '\n')
	if len(l.tail) > 2*stderrTail {
		l.tail = append(l.tail[:0], l.tail[len(l.tail)-stderrTail:]...)
	}
}

// text returns the tail.
func (l *stderrLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.tail[max(0, len(l.tail)-stderrTail):])
}
