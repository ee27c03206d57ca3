package peers

import (
	"errors"
	"strconv"
)

// Octets is a peer that carries bytes: in, which is answered with their number, out, which is
// answered with so many, or echo.
type Octets interface {
	Bytes(way string, body []byte) error
	Close() error
}

// asked is what is sent that way.
func asked(way string, body []byte) []byte {
	if way == "out" {
		return []byte(strconv.Itoa(len(body)))
	}
	return body
}

// answered says whether that came back which was to.
func answered(way string, body, got []byte) error {
	if way == "in" && string(got) != strconv.Itoa(len(body)) || way != "in" && len(got) != len(body) {
		return errors.New("another number of bytes came than was sent or asked for")
	}
	return nil
}
