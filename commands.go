package pypool

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"
)

// Commands of the runtime's own; the first two are the pool's alone.
const (
	commandHello          = "hello"
	commandShutdown       = "shutdown"
	commandPing           = "ping"
	commandStats          = "get_stats"
	commandList           = "list_commands"
	commandExecuteProgram = "execute_program"
)

// programKey is what a program's figures and circuit go by, with its id behind it.
const programKey = commandExecuteProgram + ":"

// maxCommandName is in bytes: Python takes names of 128 characters.
const maxCommandName = 128 * utf8.UTFMax

// CommandInfo describes a registered command or program, as it is called: that of a batch command
// is of one call.
type CommandInfo struct {
	Name      string      `json:"name"`
	Doc       string      `json:"doc"`
	Signature string      `json:"signature"`
	Kind      string      `json:"kind"` // function, generator or program
	Params    []ParamInfo `json:"params"`
	Returns   string      `json:"returns"`

	MaxBatchSize int     `json:"max_batch_size"`        // calls that are served together at most; 0: it is no batch command
	MaxWaitMS    float64 `json:"max_wait_ms"`           // milliseconds for which the first of a batch waits for others
	Concurrency  int     `json:"concurrency,omitempty"` // how many of its calls a worker serves side by side; 0: one at a time
}

// ParamInfo describes one parameter of a command.
type ParamInfo struct {
	Name     string          `json:"name"`
	Type     string          `json:"type"` // the annotation as written
	Required bool            `json:"required"`
	Default  json.RawMessage `json:"default,omitempty"` // nil when there is none, or JSON cannot carry it
}

// Commands describes the registered commands and programs, as a worker tells them.
func (p *Pool) Commands(ctx context.Context) ([]CommandInfo, error) {
	return Call[[]CommandInfo](ctx, p, commandList, nil)
}

// commandNames lists the commands that a ready worker has registered.
func (p *Pool) commandNames() []string {
	for _, w := range p.sup.workers() {
		if isClosed(w.ready) {
			names := slices.Clone(w.commands)
			slices.Sort(names)
			return names
		}
	}
	return nil
}

// refusedCommand refuses the names that no worker may be asked for. What looks like a program's key
// would count, and have a circuit, under that.
func (p *Pool) refusedCommand(name string) *Error {
	if name != commandHello && name != commandShutdown && name != "" && len(name) <= maxCommandName && !strings.HasPrefix(name, programKey) {
		return nil
	}
	unknown := &UnknownCommandError{Name: name, Names: p.commandNames()}
	return newError(TypeUnknownCommand, NotExecuted, unknown.Error(), unknown)
}
