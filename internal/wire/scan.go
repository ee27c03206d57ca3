// Package wire is the lines that go over: requests as the host writes them, frames as it reads them
// (docs/protocol.md). It knows neither processes nor pools, and judges nothing: what a wrong line
// means is its caller's to say.
package wire

import (
	"encoding/binary"
	"iter"
)

// scanner validates JSON in place, without building values: the grammar of RFC 8259, nesting
// bounded as in encoding/json. It exists because the envelope must be read strictly and the result
// must stay raw: a second pass over the result for validity alone would double the cost of a call.
// FuzzEnvelope holds it against encoding/json.
type scanner struct {
	b      []byte
	i      int
	bigInt bool // an integer of more than 15 digits was seen: float64 cannot hold every one of those
	deep   bool // it stopped because of maxNesting
}

const maxNesting = 10000 // encoding/json's own limit

func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		default:
			return
		}
	}
}

// byte consumes c, after white space, if it is next.
func (s *scanner) byte(c byte) bool {
	s.space()
	if s.peek() != c {
		return false
	}
	s.i++
	return true
}

func (s *scanner) end() bool {
	s.space()
	return s.i == len(s.b)
}

// plainKey consumes a string without escapes and returns what is between its quotes.
func (s *scanner) plainKey() ([]byte, bool) {
	s.space()
	start := s.i + 1
	if s.peek() != '"' || !s.str() {
		return nil, false
	}
	return s.b[start : s.i-1], true
}

func (s *scanner) uint() (v uint64, ok bool) {
	start := s.i
	for s.i < len(s.b) && s.b[s.i]-'0' <= 9 {
		if v > (1<<64-1)/10-1 {
			return 0, false
		}
		v = v*10 + uint64(s.b[s.i]-'0')
		s.i++
	}
	n := s.i - start
	return v, n > 0 && (n == 1 || s.b[start] != '0')
}

func (s *scanner) bool() (v, ok bool) {
	if s.literal("true") {
		return true, true
	}
	return false, s.literal("false")
}

func (s *scanner) literal(text string) bool {
	if len(s.b)-s.i < len(text) || string(s.b[s.i:s.i+len(text)]) != text {
		return false
	}
	s.i += len(text)
	return true
}

// HasBigInt reports whether a JSON value has an integer of more than 15 digits in it.
func HasBigInt(value []byte) bool {
	s := scanner{b: value}
	return s.value(0) && s.bigInt
}

// value consumes one JSON value.
func (s *scanner) value(depth int) bool {
	s.space()
	switch c := s.peek(); c {
	case '"':
		return s.str()
	case '{', '[':
		if depth+1 >= maxNesting { // encoding/json counts the envelope as one level
			s.deep = true
			return false
		}
		return s.composite(c, depth+1)
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		return s.number()
	}
}

func (s *scanner) composite(open byte, depth int) bool {
	closing := open + 2 // '[' and ']', '{' and '}' lie two apart
	s.i++
	if s.byte(closing) {
		return true
	}
	for {
		if open == '{' {
			s.space()
			if s.peek() != '"' || !s.str() || !s.byte(':') {
				return false
			}
		}
		if !s.value(depth) {
			return false
		}
		if s.byte(',') {
			continue
		}
		return s.byte(closing)
	}
}

// Keys are the names in a valid JSON object, in their quotes.
func Keys(object []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		s := scanner{b: object}
		for more := s.byte('{'); more; more = s.byte(',') {
			s.space()
			start := s.i
			if s.peek() != '"' || !s.str() || !yield(object[start:s.i]) || !s.byte(':') || !s.value(0) {
				return
			}
		}
	}
}

func (s *scanner) str() bool {
	s.i++
	for s.i < len(s.b) {
		s.plainText()
		if s.i == len(s.b) {
			return false
		}
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return true
		case c == '\\':
			if !s.escape() {
				return false
			}
		case c < 0x20:
			return false
		default:
			s.i++
		}
	}
	return false
}

// plainText skips, eight bytes at a time, what is neither a quote, a backslash nor a control
// character. It may stop early. The bit tricks are those of "Determine if a word has a byte less
// than n" in Bit Twiddling Hacks (Anderson).
func (s *scanner) plainText() {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(s.b)-s.i >= 8 {
		v := binary.LittleEndian.Uint64(s.b[s.i:])
		quote, slash := v^(ones*'"'), v^(ones*'\\')
		if ((v-ones*0x20)&^v|(quote-ones)&^quote|(slash-ones)&^slash)&highs != 0 {
			return
		}
		s.i += 8
	}
}

func (s *scanner) escape() bool {
	s.i++
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i++
		return true
	case 'u':
		s.i++
		for range 4 {
			c := s.peek() | 0x20
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
			// '0'..'9' carry the bit already; what 0x20 maps into them from below (0x10..0x19) is a
			// control character.
			if s.b[s.i] < '0' {
				return false
			}
			s.i++
		}
		return true
	}
	return false
}

func (s *scanner) number() bool {
	if s.peek() == '-' {
		s.i++
	}
	start := s.i
	if !s.digits() || (s.b[start] == '0' && s.i > start+1) {
		return false
	}
	integer := s.i - start
	whole := true
	if s.peek() == '.' {
		s.i++
		whole = false
		if !s.digits() {
			return false
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		whole = false
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		if !s.digits() {
			return false
		}
	}
	if whole && integer > 15 {
		s.bigInt = true
	}
	return true
}

func (s *scanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && s.b[s.i]-'0' <= 9 {
		s.i++
	}
	return s.i > start
}
