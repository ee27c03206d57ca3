package peers

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
)

// Streams is one process whose event loop, written by hand on asyncio streams, serves many callers
// side by side, and a host that tells their answers apart by id. It has no deadlines, no diagnosis,
// and trusts the other side.
type Streams struct {
	process *process
	read    sync.WaitGroup

	writing sync.Mutex // guards the process's stdin

	mu      sync.Mutex // guards the fields below
	id      uint64
	waiting map[uint64]chan []byte
	ended   error
}

// NewStreams starts the process.
func NewStreams(env Env) (*Streams, error) {
	p, err := env.start(env.Python, "streams.py")
	if err != nil {
		return nil, err
	}
	s := &Streams{process: p, waiting: map[uint64]chan []byte{}}
	s.read.Go(s.receive)
	return s, nil
}

func (s *Streams) receive() {
	lines := bufio.NewReaderSize(s.process.out, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		s.mu.Lock()
		if err != nil {
			s.ended = err
			for _, c := range s.waiting {
				close(c)
			}
			clear(s.waiting)
			s.mu.Unlock()
			return
		}
		digits, _, _ := bytes.Cut(bytes.TrimPrefix(line, []byte(`{"id":`)), []byte(","))
		id, _ := strconv.ParseUint(string(digits), 10, 64)
		c := s.waiting[id]
		delete(s.waiting, id)
		s.mu.Unlock()
		if c != nil {
			c <- line
		}
	}
}

// Call is safe for concurrent use.
func (s *Streams) Call(_ int, text string) error {
	args, err := json.Marshal(message{text})
	if err != nil {
		return err
	}
	answer := make(chan []byte, 1)
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		return s.ended
	}
	s.id++
	id := s.id
	s.waiting[id] = answer
	s.mu.Unlock()
	line := strconv.AppendUint([]byte(`{"id":`), id, 10)
	line = append(append(append(line, `,"command":"echo","args":`...), args...), "}\n"...)
	s.writing.Lock()
	_, err = s.process.in.Write(line)
	s.writing.Unlock()
	if err != nil {
		return err
	}
	got, ok := <-answer
	switch {
	case !ok:
		return errors.Join(io.ErrUnexpectedEOF, s.ended)
	case !bytes.Contains(got, []byte(`,"success":true,"result":`)):
		return fmt.Errorf("not the answer: %.80q", got)
	}
	return nil
}

// Close ends the process.
func (s *Streams) Close() error {
	err := closeAll([]*process{s.process})
	s.read.Wait()
	return err
}
