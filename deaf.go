package pypool

import (
	"sync"
	"time"
)

// How long a call may take to stop where Config.CancelGrace leaves that to pypool.

const (
	deafInARow = 3           // so many calls of a command that do not stop, one after the other, are no accident
	deafFor    = time.Minute // so long after one of them the command's next ones have little time
	deafMost   = 1000        // commands that are remembered; scripts have fewer
)

// deafCommands remembers whose calls have not stopped when they were asked to, as code in C may not.
// To wait for a call as long as its worker's replacement takes to start doubles, at worst, what it
// costs: where one call of a hundred hangs so, that may be all workers there are. So the next calls
// of such a command have little time, until one of them stops, or none has been waited for for a
// minute.
type deafCommands struct {
	mu   sync.Mutex // guards rows
	rows map[string]deafness
}

// deafness is what is known of one command, by its breakerKey.
type deafness struct {
	inARow int       // calls that had all their time and did not stop, since one stopped
	until  time.Time // the next ones have little
}

// grace is how long a call of the command may take to stop: all that there is, which whole reports,
// or little.
func (d *deafCommands) grace(command string, all, little time.Duration) (grace time.Duration, whole bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	row := d.rows[command]
	if row.inARow < deafInARow {
		return all, true
	}
	now := time.Now()
	if now.Before(row.until) {
		return min(all, little), false
	}
	row.until = now.Add(all) // one at a time
	d.rows[command] = row
	return all, true
}

// stopped tells of a call that has stopped.
func (d *deafCommands) stopped(command string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.rows, command)
}

// outlived tells of a call that had all its time, and did not stop.
func (d *deafCommands) outlived(command string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rows == nil || len(d.rows) >= deafMost {
		d.rows = map[string]deafness{}
	}
	d.rows[command] = deafness{inARow: d.rows[command].inARow + 1, until: time.Now().Add(deafFor)}
}
