// Package pysource hands the sources of the Python package pypool on to the module's commands. Only
// the root package can embed them.
package pysource

import "io/fs"

// Files holds the package's .py files, at its top. It is set when the root package has been
// initialised.
var Files fs.FS
