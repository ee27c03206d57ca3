package proc

import "errors"

// ErrForkServerLost is in the error of whatever a fork server was asked for when it cannot be asked
// any more: it has ended, or does not answer. What was asked for has not come about, or ends at
// once.
var ErrForkServerLost = errors.New("the fork server is lost")
