package pypool

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// oneLine makes text from a worker fit for one line of a log or terminal: control characters are
// escaped, so that nothing from Python can forge a log line or move a cursor.
func oneLine(s string) string { return printable(s, maxErrorLine) }

const maxErrorLine = 1024 // bytes

// printable is oneLine with a limit of its own, in bytes.
func printable(s string, limit int) string {
	cut := len(s) > limit
	if cut {
		s = s[:limit]
	}
	clean := !cut
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError:
			if !cut || i < len(s)-utf8.UTFMax {
				b.WriteString("\ufffd")
			}
		case r == '\n':
			b.WriteString(`\n`)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	if cut {
		b.WriteString("...")
	}
	return b.String()
}

// innermostFrame picks `File "x.py", line 3 in f` of the most recent call out of faulthandler's
// text. The thread is the one that runs handlers, or the user's import. Where that cannot be told,
// as in a stack deeper than faulthandler prints, it is the one that faulthandler marks, or else the
// last it prints, the main thread, unless that is the runtime's own.
func innermostFrame(stacks string) string {
	const header = "most recent call first"
	var place string
	best := 0
	threads := strings.Split(stacks, header)
	for i, thread := range threads[1:] {
		var frames []string // innermost first
		for line := range strings.Lines(thread) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "File ") {
				frames = append(frames, line)
			}
		}
		if len(frames) == 0 || strings.HasPrefix(frames[len(frames)-1], `File "<pypool>/`) {
			continue // a thread that the runtime has begun
		}
		title := threads[i][strings.LastIndexByte(threads[i], '\n')+1:]
		worth := 1
		switch {
		case strings.Contains(thread, `File "<pypool>/_worker.py"`), strings.Contains(thread, `File "<pypool>/_start.py"`):
			worth = 3
		case strings.Contains(title, "Current thread"):
			worth = 2
		}
		if worth >= best {
			place, best = frames[0], worth
		}
	}
	return oneLine(place)
}
