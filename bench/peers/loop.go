package peers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
)

// Loop is the pool's JSON lines without the pool: each caller has its own process, the runtime's
// network poller waits, and nobody is handed anything over. It has no deadlines, no diagnosis, and
// trusts the other side.
type Loop struct {
	processes []*process
	conns     []loopConn
}

type loopConn struct {
	in, out  *os.File
	id       uint64
	line     []byte
	received []byte
}

// NewLoop starts n processes.
func NewLoop(env Env, n int) (*Loop, error) {
	all, err := env.startAll(n, env.Python, "loop.py")
	if err != nil {
		return nil, err
	}
	l := &Loop{processes: all}
	for _, p := range all {
		l.conns = append(l.conns, loopConn{in: p.in, out: p.out, received: make([]byte, 4096)})
	}
	return l, nil
}

func (l *Loop) Call(caller int, text string) error {
	c := &l.conns[caller]
	args, err := json.Marshal(message{text})
	if err != nil {
		return err
	}
	c.id++
	c.line = strconv.AppendUint(append(c.line[:0], `{"id":`...), c.id, 10)
	c.line = append(append(append(c.line, `,"command":"echo","args":`...), args...), "}\n"...)
	if _, err := c.in.Write(c.line); err != nil {
		return err
	}
	answer, err := c.readLine()
	if err != nil {
		return err
	}
	head := strconv.AppendUint(append(c.line[:0], `{"id":`...), c.id, 10)
	head = append(head, `,"success":true,"result":`...)
	if !bytes.HasPrefix(answer, head) || !bytes.HasSuffix(answer, []byte("}\n")) {
		return fmt.Errorf("not the answer: %.80q", answer)
	}
	return nil
}

func (c *loopConn) readLine() ([]byte, error) {
	for n := 0; ; {
		m, err := c.out.Read(c.received[n:])
		n += m
		if n > 0 && c.received[n-1] == '\n' {
			return c.received[:n], nil
		}
		if err != nil {
			return nil, err
		}
		if n == len(c.received) {
			c.received = append(c.received, make([]byte, n)...)
		}
	}
}

func (l *Loop) Close() error { return closeAll(l.processes) }
