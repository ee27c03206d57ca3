package pypool

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	stderrTail   = 64 << 10
	maxLogLine   = 8 << 10
	recordPrefix = "\x1epypool:" // docs/protocol.md, "Logs"

	maxRecord    = 512 << 10              // bytes of a record that comes in pieces
	maxPieces    = 4 * maxRecord          // bytes of all that are under way
	maxOpenLines = 256                    // lines, and records in pieces, whose ends are still to come
	rawPause     = 100 * time.Millisecond // after it, text that was written past the runtime without a newline is told as it is
	printPause   = time.Second            // after it, what was printed by no call without a newline is: nobody may come to end it
	blankRun     = 100                    // so many empty lines in a row are told of; fewer are left out silently
	blankFlood   = 1 << 20                // a run of empty lines is told of at least this often
)

// stderrLog drains a worker's standard error: it keeps the tail for diagnosis and hands each line
// on. It never waits for anything but the worker.
//
// What begins with the prefix and the worker's word comes from the runtime, and says which call it
// belongs to: a record of logging, or text that was printed. All other bytes were written past the
// runtime, by C code or a subprocess: nobody knows by which call.
type stderrLog struct {
	mark []byte // recordPrefix and the word
	line func(logLine)
	done chan struct{} // closed at the end of stderr

	pieces map[string][]byte // records that are not whole yet, by the runtime's key
	held   int               // bytes of them
	blank  int               // empty lines since the last one that was not

	mu    sync.Mutex           // guards the fields below
	tail  []byte               // at most 2 × stderrTail, trimmed when it gets there
	crash []byte               // faulthandler's report of a crash, and what was written past the runtime behind it; at most stderrTail
	lost  bool                 // the runtime has said that it has lost its channel
	open  map[uint64]*openLine // lines that are not ended yet, by the runtime's key
	raw   []byte               // unended text that was written past the runtime
	pause *time.Timer          // tells raw when nothing follows it
	ended bool                 // nothing more will be read
}

// openLine is what has been printed of a line so far.
type openLine struct {
	logLine
	pause *time.Timer // tells it when nothing follows; nil while a call may end it
}

// logLine is one line of output, or one record of Python's logging.
type logLine struct {
	level   slog.Level
	logger  string // empty for plain output
	text    string
	exc     string // a traceback, of several lines
	call    uint64 // 0: of no call, or nobody knows of which
	session string
	command string
}

// newStderrLog starts the goroutine that drains r; it ends with r, and closes done.
func newStderrLog(r io.Reader, word string, line func(logLine)) *stderrLog {
	l := &stderrLog{mark: []byte(recordPrefix + word), line: line, done: make(chan struct{}), open: map[uint64]*openLine{}, pieces: map[string][]byte{}}
	if word == "" {
		l.mark = []byte(recordPrefix + "\x00") // no record can begin so
	}
	go l.drain(r)
	return l
}

func (l *stderrLog) drain(r io.Reader) {
	defer close(l.done)
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		l.split(buf[:n])
		if err != nil {
			l.finish()
			return
		}
	}
}

// split cuts what has been read into lines and frames. What is left over is kept as raw: the
// beginning of a frame, or unended text.
func (l *stderrLog) split(chunk []byte) {
	l.mu.Lock()
	rest := append(l.raw, chunk...)
	l.raw = nil
	l.mu.Unlock()
	whole := rest
	for len(rest) > 0 {
		end := bytes.IndexByte(rest, '\n')
		line, ended := rest, false
		if end >= 0 {
			line, ended = rest[:end], true
		}
		at := bytes.Index(line, l.mark)
		switch {
		case at > 0: // unended text stands before a frame
			l.plain(line[:at])
			rest = rest[at:]
		case at == 0 && ended:
			l.frame(line[len(l.mark):])
			rest = rest[end+1:]
		case at == 0 && len(line) <= stderrTail:
			l.keepRaw(whole, rest, false)
			return
		case at == 0: // what has the word but is no frame: it was torn
			l.plain(line[len(l.mark):maxLogLine])
			rest = rest[maxLogLine:]
		case ended && len(line) <= maxLogLine:
			l.plain(line)
			rest = rest[end+1:]
		case len(line) >= maxLogLine+len(l.mark) || ended:
			l.plain(line[:maxLogLine])
			rest = rest[maxLogLine:]
		default:
			if i := bytes.LastIndexByte(rest, '\r'); i > 0 && rest[0] == '\r' {
				rest = rest[i:] // of a progress bar its last state is enough
			}
			l.keepRaw(whole, rest, true)
			return
		}
	}
	l.keepRaw(whole, nil, false)
}

// keepRaw stores the rest for the next read, in the memory that whole has, and has it told when
// nothing follows.
func (l *stderrLog) keepRaw(whole, rest []byte, text bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.raw = append(whole[:0], rest...)
	if !text {
		return
	}
	if l.pause == nil {
		l.pause = time.AfterFunc(rawPause, l.tellRaw)
	} else {
		l.pause.Reset(rawPause)
	}
}

// tellRaw hands unended text on: whoever wrote it has been silent for a while, or is gone. A timer
// calls it; finish stops that.
func (l *stderrLog) tellRaw() {
	l.mu.Lock()
	text := l.raw
	if l.ended || bytes.HasPrefix(text, l.mark) {
		text = nil
	} else {
		l.raw = nil
	}
	l.mu.Unlock()
	if len(text) > 0 {
		l.writeRaw(text)
	}
}

// finish tells what had no end.
func (l *stderrLog) finish() {
	l.mu.Lock()
	l.ended = true
	if l.pause != nil {
		l.pause.Stop()
	}
	text := l.raw
	l.raw = nil
	l.mu.Unlock()
	if len(text) > 0 {
		l.plain(bytes.TrimPrefix(text, l.mark))
	}
	l.endAll()
	l.countBlank()
}

// add takes output that came another way, before anything else did.
func (l *stderrLog) add(text []byte) {
	for line := range bytes.Lines(text) {
		l.writeRaw(bytes.TrimSuffix(line[:min(len(line), maxLogLine)], []byte("\n")))
	}
}

// plain takes a line that was written past the runtime. Empty ones are only counted: some programs
// write millions of them.
func (l *stderrLog) plain(text []byte) {
	if len(text) == 0 {
		if l.blank++; l.blank >= blankFlood {
			l.countBlank()
		}
		return
	}
	l.countBlank()
	l.writeRaw(text)
}

// fatalError begins the report that Python, or faulthandler, writes of a crash.
const fatalError = "Fatal Python error"

// writeRaw is write for a line that was written past the runtime, as faulthandler's are. What is
// printed or logged cannot look like a report of theirs.
func (l *stderrLog) writeRaw(text []byte) {
	line := rawLine(text)
	l.mu.Lock()
	if i := strings.LastIndex(line.text, fatalError); i >= 0 {
		l.crash = append(append(l.crash[:0], line.text[i:]...), '\n')
	} else if len(l.crash) > 0 && len(l.crash)+len(line.text) < stderrTail {
		l.crash = append(append(l.crash, line.text...), '\n')
	}
	l.mu.Unlock()
	l.write(line)
}

func (l *stderrLog) countBlank() {
	n := l.blank
	l.blank = 0
	if n >= blankRun {
		l.write(logLine{text: fmt.Sprintf("(%d empty lines)", n)})
	}
}

// rawLine is the line of a text that says nothing about itself. A progress bar begins with "\r";
// its last state is what it says.
func rawLine(text []byte) logLine {
	if len(text) > 0 && text[0] == '\r' {
		text = lastState(text)
	}
	return logLine{text: string(bytes.TrimSuffix(text, []byte("\r")))}
}

// lastState is what a terminal would show of a line that was written over itself.
func lastState(text []byte) []byte {
	text = bytes.TrimRight(text, "\r")
	return text[bytes.LastIndexByte(text, '\r')+1:]
}

// wireRecord is docs/protocol.md, "Logs".
type wireRecord struct {
	Level   int    `json:"level"`
	Logger  string `json:"logger"`
	Message string `json:"message"`
	Exc     string `json:"exc"`
	Call    uint64 `json:"call"`
	Session string `json:"session"`
	Command string `json:"command"`
	Line    uint64 `json:"line"`
	More    bool   `json:"more"`
	Lost    bool   `json:"lost"`
}

// frame takes what the runtime says: a record, text that was printed, or a piece of a record.
func (l *stderrLog) frame(body []byte) {
	head, text, printed := bytes.Cut(body, []byte{0x1f})
	if !printed && len(body) > 0 && (body[0] == '+' || body[0] == '=') {
		if head = l.piece(body); head == nil {
			return
		}
	}
	var r wireRecord
	if json.Unmarshal(head, &r) != nil {
		l.plain(body) // torn by a write of somebody else's into the middle of it
		return
	}
	line := logLine{call: r.Call, session: printable(r.Session, 256), command: printable(r.Command, 256)}
	if printed {
		if r.Lost {
			l.mu.Lock()
			l.lost = true
			l.mu.Unlock()
		}
		l.printed(&r, line, text)
		return
	}
	line.level, line.logger, line.text, line.exc = levelOf(r.Level), printable(r.Logger, 256), r.Message, r.Exc
	if line.logger == "" {
		line.logger = "root"
	}
	l.countBlank()
	l.write(line)
}

// piece collects a record that was too long for one write that nobody can tear. It returns the
// record once it is whole.
func (l *stderrLog) piece(body []byte) []byte {
	key, text, ok := bytes.Cut(body[1:], []byte(":"))
	if !ok || len(key) > 64 {
		return nil
	}
	had := l.pieces[string(key)]
	if len(had)+len(text) > maxRecord || l.held+len(text) > maxPieces || had == nil && len(l.pieces) >= maxOpenLines {
		clear(l.pieces) // their writers have died in the middle of them
		l.held = 0
		return nil
	}
	had = append(had, text...)
	l.held += len(text)
	if body[0] == '+' {
		l.pieces[string(key)] = had
		return nil
	}
	delete(l.pieces, string(key))
	l.held -= len(had)
	return had
}

// printed takes text of a line: all of it, or a part that the runtime has given a key.
func (l *stderrLog) printed(r *wireRecord, line logLine, text []byte) {
	if r.Line == 0 {
		if len(text) == 0 {
			l.plain(nil)
			return
		}
		line.text = string(lastState(text))
		l.countBlank()
		l.write(line)
		return
	}
	l.countBlank()
	for _, part := range l.extend(r, line, text) {
		l.write(part)
	}
	if !r.More {
		l.end(r.Line)
	}
}

// extend adds text to an open line, and returns the parts that are as long as a line may be.
func (l *stderrLog) extend(r *wireRecord, line logLine, text []byte) (full []logLine) {
	l.mu.Lock()
	many := len(l.open) >= maxOpenLines && l.open[r.Line] == nil
	l.mu.Unlock()
	if many {
		l.endAll()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	open := l.open[r.Line]
	if open == nil {
		open = &openLine{logLine: line}
		l.open[r.Line] = open
	}
	open.text += string(text)
	if at := strings.LastIndexByte(open.text, '\r'); at > 0 && at < len(open.text)-1 {
		open.text = strings.Clone(open.text[at+1:])
	}
	for len(open.text) > maxLogLine {
		part := open.logLine
		part.text = open.text[:maxLogLine]
		open.text = strings.Clone(open.text[maxLogLine:])
		full = append(full, part)
	}
	switch {
	case open.command != "":
	case open.pause == nil:
		open.pause = time.AfterFunc(printPause, func() { l.end(r.Line) })
	default:
		open.pause.Reset(printPause)
	}
	return full
}

// end tells an open line as it is. Its timer calls it, too.
func (l *stderrLog) end(key uint64) {
	l.mu.Lock()
	open := l.open[key]
	delete(l.open, key)
	l.mu.Unlock()
	if open == nil {
		return // it has just been told
	}
	if open.pause != nil {
		open.pause.Stop()
	}
	if open.text = string(lastState([]byte(open.text))); open.text != "" {
		l.write(open.logLine)
	}
}

// endAll tells the open lines, in the order in which they were begun.
func (l *stderrLog) endAll() {
	l.mu.Lock()
	keys := slices.Sorted(maps.Keys(l.open))
	l.mu.Unlock()
	for _, key := range keys {
		l.end(key)
	}
}

// write keeps a line in the tail and hands it on. Here the texts become printable.
func (l *stderrLog) write(line logLine) {
	kept := line.text
	if line.logger != "" {
		kept = line.level.String() + " " + line.logger + ": " + line.text
	}
	if line.exc != "" {
		kept += "\n" + strings.TrimRight(line.exc, "\n")
	}
	l.keep(kept)
	line.text, line.exc = printable(line.text, maxLogLine), printableLines(line.exc, 2*maxLogLine)
	l.line(line)
}

// printableLines is printable for a text of several lines: their ends stay.
func printableLines(text string, limit int) string {
	if text == "" {
		return ""
	}
	cut := text[:min(len(text), limit)]
	lines := strings.Split(strings.TrimRight(cut, "\n"), "\n")
	for i, line := range lines {
		lines[i] = printable(line, limit)
	}
	if len(cut) < len(text) {
		lines = append(lines, "...")
	}
	return strings.Join(lines, "\n")
}

// levelOf: Python's levels are 10 apart, slog's 4, and Debug is 10 and -4.
func levelOf(python int) slog.Level {
	switch {
	case python >= 40:
		return slog.LevelError
	case python >= 30:
		return slog.LevelWarn
	case python >= 20:
		return slog.LevelInfo
	}
	return slog.LevelDebug
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

func (l *stderrLog) keep(text string) {
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

// lostChannel reports whether the runtime has said that it can neither read nor answer any more,
// before it ended itself.
func (l *stderrLog) lostChannel() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// report returns what was written of a crash last; empty: nothing.
func (l *stderrLog) report() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.crash)
}
