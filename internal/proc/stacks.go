package proc

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// How a process is asked for its Python stacks. A thread of the runtime writes them when a socket
// asks it to: it has the GIL then, so that nobody's frames change meanwhile. It cannot have that
// while C code holds it; then a signal's handler writes them. That reads the frames as they are,
// and one that it finds half made ends the process, once in some ten thousand dumps of a busy
// worker: so it comes second.

// maxDump is how much of a dump is read, in bytes: faulthandler tells at most 100 threads.
const maxDump = 256 << 10

// HasEnded says why there are no stacks of a process that is not there any more.
const HasEnded = "the process has ended"

func (p *process) Stacks(d time.Duration) (text, why string) {
	if p.ends.stack == nil {
		return "", "this platform has no stack dumps"
	}
	if d <= 0 {
		return "", "KillGrace leaves no time for them"
	}
	for buf, read := make([]byte, 4<<10), 0; read < maxDump; { // what came too late for one before
		n := whatIsThere(p.ends.stack, buf)
		if n == 0 {
			break
		}
		read += n
	}
	end := time.Now().Add(d)
	if text = p.askForStacks(end, d); text != "" {
		return text, ""
	}
	why = HasEnded
	for n := range stackSignals { // of the first nobody else should know; the second is a popular one
		sent := false
		p.Signal(func(leader int) { sent, why = signalStacks(n, leader, int(p.python.Load())) })
		if !sent {
			continue
		}
		if text = ownThread(p.readStacks(laterOf(end.Add(-time.Duration(stackSignals-1-n)*d/8), d/8))); text != "" {
			return text, ""
		}
	}
	return "", why
}

// askForStacks has the runtime's thread write them, and leaves time for the other way before end, so
// long from now. A process that is stopped would not answer: a signal's SIGCONT has it go on.
func (p *process) askForStacks(end time.Time, d time.Duration) string {
	stopped := false
	p.Signal(func(leader int) { stopped = isStopped(cmp.Or(int(p.python.Load()), leader)) })
	if stopped {
		return ""
	}
	ask(p.ends.asks)
	text := p.readStacks(laterOf(end.Add(-d/2), d/8))
	if text == "" && !takeBack(p.ends.back) { // else the thread would write beside a signal's handler
		text = p.readStacks(laterOf(end.Add(-d/4), d/8))
	}
	return ownThread(text)
}

// laterOf is end, or so long from now: who has just been asked has some time also where this machine
// stood still meanwhile.
func laterOf(end time.Time, least time.Duration) time.Time {
	if soonest := time.Now().Add(least); end.Before(soonest) {
		return soonest
	}
	return end
}

// readStacks reads one dump, as far as it comes before end, and keeps maxDump of it: what it left
// unread would be taken for the next one. A process that ends during its dump has written none: what
// has come may lack any thread.
func (p *process) readStacks(end time.Time) string {
	var text []byte
	buf := make([]byte, 16<<10)
	from := &lateReader{f: p.ends.stack, most: maxDump}
	for {
		// Once something has come from a signal's handler, which says nothing at its end, a pause
		// means that the dump is complete: faulthandler writes it in one go. The thread has to get
		// the GIL again between its first words and the dump.
		wait := end
		if quiet := time.Now().Add(30 * time.Millisecond); len(text) > 0 && !bytes.HasPrefix(text, []byte(dumpWord)) && quiet.Before(end) {
			wait = quiet
		}
		_ = p.ends.stack.SetReadDeadline(wait)
		n, err := from.Read(buf)
		text = append(text, buf[:min(n, maxDump-len(text))]...)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			select {
			case <-p.done: // who has left its group may hold the pipe
				return ""
			default:
				return string(text)
			}
		case err != nil:
			return ""
		case n == 0 || buf[n-1] != dumpEnd[0]:
		case n > 1 || len(text) > 1:
			return string(text)
		default:
			text = nil // the end of one before
		}
	}
}

// What the runtime's thread puts around its dump (python/pypool/_life.py).
const (
	dumpWord  = "asked "
	dumpBegin = dumpWord + "%x %x\n" // its own thread's number, and the main thread's
	dumpEnd   = "\x00"
)

// ownThread is what is read, as if the main thread had written it: the runtime's thread, which
// faulthandler calls the current one, is left out.
func ownThread(text string) string {
	begin := strings.Index(text, dumpWord)
	if begin < 0 {
		return wholeLines(text)
	}
	if begin > 0 && !strings.Contains(text, dumpEnd) { // late, and behind a signal's
		return wholeLines(text[:begin])
	}
	text, _, _ = strings.Cut(text[begin:], dumpEnd) // one of more than maxDump has no end
	var own, main uint64
	if _, err := fmt.Sscanf(text, dumpBegin, &own, &main); err != nil {
		return text
	}
	_, text, _ = strings.Cut(wholeLines(text), "\n")
	var threads []string
	for thread := range strings.SplitSeq(text, "\n\n") {
		if strings.HasPrefix(thread, fmt.Sprintf("Current thread 0x%016x", own)) {
			continue
		}
		if at := fmt.Sprintf("hread 0x%016x", main); strings.HasPrefix(thread, "T"+at) {
			thread = "Current t" + strings.TrimPrefix(thread, "T")
		}
		threads = append(threads, strings.TrimSuffix(thread, "\n"))
	}
	if len(threads) == 0 || threads[0] == "" {
		return "" // nothing but its first words has come
	}
	return strings.Join(threads, "\n\n") + "\n"
}

// wholeLines leaves out the end of a dump that has no end: half a line, and a thread without a frame.
func wholeLines(text string) string {
	text = text[:strings.LastIndexByte(text, '\n')+1]
	if strings.HasSuffix(text, "(most recent call first):\n") {
		text = text[:strings.LastIndexByte(text[:len(text)-1], '\n')+1]
	}
	if strings.HasSuffix(text, "\n\n") {
		text = text[:len(text)-1]
	}
	return text
}
