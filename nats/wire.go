package pypoolnats

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pypool/pypool"
)

// What stands on the wire: PROTOCOL.md.

const (
	headerControl = "Pypool"         // a message's control, as JSON
	headerVersion = "Pypool-Version" // MAJOR.MINOR
	headerTrace   = "traceparent"    // as W3C and OpenTelemetry write it

	version      = "1.0"
	versionMajor = "1"
)

// The kinds of messages.
const (
	kindCancel = "cancel" // to a server: nobody wants the answer any more
	kindCredit = "credit" // to a server: so much of the answer has been taken in
	kindPart   = "part"   // both ways: more of what the message before it began

	kindMore   = "more"   // to a client: the server takes the rest of the request, and has so much of it
	kindAlive  = "alive"  // to a client: the call is being served
	kindItem   = "item"   // to a client: an item of a stream
	kindEnd    = "end"    // to a client: the end of a stream
	kindResult = "result" // to a client: the end of a call
	kindError  = "error"  // to a client: the end of either
)

// control is what a message says beside its payload. Absent is zero; durations are nanoseconds.
type control struct {
	Kind string `json:"kind,omitempty"` // absent in a request

	// In requests.
	Command  string        `json:"command,omitempty"` // as the client calls it; the subject's counts
	Program  string        `json:"program,omitempty"`
	Session  string        `json:"session,omitempty"`
	Stream   bool          `json:"stream,omitempty"`
	Deadline time.Duration `json:"deadline_ns,omitempty"` // what is left until the caller's
	Timeout  time.Duration `json:"timeout_ns,omitempty"`  // the options; negative: none
	Checkout time.Duration `json:"checkout_ns,omitempty"`
	Stall    time.Duration `json:"stall_ns,omitempty"`
	Blobs    bool          `json:"blobs,omitempty"`
	Alive    time.Duration `json:"alive_ns,omitempty"` // how often the caller wants to hear that it is being served
	Items    int           `json:"items,omitempty"`    // how much of the answer may be on its way beyond what was credited
	Bytes    int           `json:"bytes,omitempty"`    // the same of payload; in more and credit: what has been taken in

	Attempts int `json:"attempts,omitempty"` // of a job: how often it may run

	// In what has a payload.
	Size int    `json:"size,omitempty"` // of the whole payload, where parts follow
	Seq  uint64 `json:"seq,omitempty"`  // of what has a place in the answer, or of a part of the request: from 1

	// In answers.
	From   string        `json:"from,omitempty"` // where the call's server listens
	Worker string        `json:"worker,omitempty"`
	Queued time.Duration `json:"queued_ns,omitempty"`
	Ran    time.Duration `json:"ran_ns,omitempty"`

	Call string `json:"call,omitempty"` // of a cancel to all servers: the call's reply subject

	status nats.Header // micro's headers, of an error
}

// message makes a message of it.
func (c *control) message(subject, reply string, payload []byte) *nats.Msg {
	encoded, _ := json.Marshal(c) // it always encodes
	h := nats.Header{headerControl: {string(encoded)}, headerVersion: {version}}
	maps.Copy(h, c.status)
	return &nats.Msg{Subject: subject, Reply: reply, Data: payload, Header: h}
}

// readControl reads a message's. What it does not know it leaves out.
func readControl(h nats.Header) (c control, err error) {
	if v := h.Get(headerVersion); v != "" {
		if major, _, _ := strings.Cut(v, "."); major != versionMajor {
			return c, fmt.Errorf("it speaks version %.16q of pypool's protocol on NATS, and this program version %s: update the older of the two", v, version)
		}
	}
	if err := json.Unmarshal([]byte(h.Get(headerControl)), &c); err != nil {
		return c, fmt.Errorf("its header %s is unreadable: %w", headerControl, err)
	}
	return c, nil
}

// calls has a request call the command of its subject, whatever it says itself: permissions and
// mappings are subjects'.
func (c *control) calls(subject string) *pypool.Error {
	c.Command = untoken(subject[strings.LastIndexByte(subject, '.')+1:])
	if c.Program != "" && c.Command != commandProgram {
		return invalid(fmt.Sprintf("a program is called through %s, and the request's subject is that of %.64q", commandProgram, c.Command))
	}
	return nil
}

// isAlive reports whether a message says no more than that a call is being served, without reading
// it; some that do are read.
func isAlive(m *nats.Msg) bool {
	return len(m.Data) == 0 && strings.HasPrefix(m.Header.Get(headerControl), `{"kind":"`+kindAlive+`"`)
}

// isNobody reports whether a message is NATS's word that nobody listens on a subject.
func isNobody(m *nats.Msg) bool {
	return len(m.Data) == 0 && m.Header.Get("Status") == "503"
}

// traceOf is the traceparent that came along.
func traceOf(h nats.Header) string {
	if v := h.Get(headerTrace); v != "" {
		return v
	}
	return h.Get("Traceparent") // as Go's HTTP headers spell it
}

// validName is what micro takes.
var validName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

const maxName = 128 // bytes

// checkName refuses what cannot be the name of a service.
func checkName(name string) error {
	if !validName.MatchString(name) || len(name) > maxName {
		return fmt.Errorf("the service's name %.64q is not 1 to %d letters, digits, - and _", name, maxName)
	}
	return nil
}

// The subjects of a service.
func callSubject(name, command string) string { return "pypool." + name + ".call." + token(command) }
func allSubject(name string) string           { return "pypool." + name + ".all" }
func oneSubject(name, id string) string       { return "pypool." + name + ".one." + id }

// commandProgram is the command that programs are called through.
const commandProgram = "execute_program"

const (
	maxCommand = 512  // bytes: as long as a pool takes
	maxProgram = 4096 // bytes: it travels in a header
)

// token is a command's name as a part of a subject: all but letters, digits, - and _ is written
// =XX.
func token(command string) string {
	plain := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
	}
	clean := true
	for i := 0; i < len(command) && clean; i++ {
		clean = plain(command[i])
	}
	if clean {
		return command
	}
	var b strings.Builder
	for i := range len(command) {
		if c := command[i]; plain(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

// untoken is the command's name.
func untoken(s string) string {
	if !strings.Contains(s, "=") {
		return s
	}
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '=' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b = append(b, byte(c))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// Sizes.
const (
	windowItems = 64              // of a stream, on their way beyond what the loop has had
	windowBytes = 2 << 20         // of payload, on their way to one side
	partBytes   = 256 << 10       // of payload in one message, where it takes several
	room        = 4 << 10         // in a message, for what is not its payload
	maxFrames   = 4 * windowItems // messages that one stream's client may have got and not looked at

	maxCallFrames = windowItems + 16 // the same of a call, whose window is windowItems parts at the most

	defaultMaxMessage = 64 << 20  // bytes, as Config.MaxMessageBytes
	maxHeld           = 256 << 20 // bytes of requests that a server has in hand
	maxServed         = 1 << 16   // calls that a server has in hand
	maxStuck          = 256 << 20 // bytes of requests that a client's connection does not take
)

// limits is how much payload goes into one message of a connection: alone, and as one of several.
func limits(nc *nats.Conn, header int) (alone, part int) {
	alone = max(int(maxPayload(nc))-header-room, 1)
	return alone, min(alone, partBytes)
}

// maxPayload is what a message of the connection takes. One that was never there does not know, and
// has nothing sent: NATS's default, so that the call's error is that, and not its size.
func maxPayload(nc *nats.Conn) int64 {
	if n := nc.MaxPayload(); n > 0 {
		return n
	}
	return 1 << 20
}

// denies reports whether an error of a connection's says that it may not use what has that in its
// subject.
func denies(err error, part string) bool {
	return errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), part)
}

// headerSize is how many bytes a header takes in a message, at the most.
func headerSize(h nats.Header) (n int) {
	for key, values := range h {
		for _, value := range values {
			n += len(key) + len(value) + 4
		}
	}
	return n
}
