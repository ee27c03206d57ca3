package proc

import "errors"

// UnfitError says why a fork server must not fork: what the script's import has started would be
// missing in the child. That may show only after the server was ready.
type UnfitError struct{ Reason string }

func (e *UnfitError) Error() string { return e.Reason }

// ErrForkServerLost is in the error of whatever a fork server was asked for when it cannot be asked
// any more: it has ended, or does not answer. What was asked for has not come about, or ends at
// once.
var ErrForkServerLost = errors.New("the fork server is lost")
