// Package pypooldebug shows pools to a person: a page that is live, and its JSON.
//
//	mux.Handle("/debug/pypool/", authenticated(pypooldebug.Handler(pool)))
package pypooldebug

import (
	"net/http"

	"github.com/pypool/pypool"
	"github.com/pypool/pypool/internal/debugpage"
)

// Handler serves a page about the pools: workers and what they do, the queue, latencies, errors,
// sessions and circuits, every second anew; and a worker's Python stacks when somebody asks for
// them. With ?format=json, a path that ends in json, or an Accept header that prefers it, it serves
// the same facts as JSON, whose keys may grow in number.
//
// It may be mounted at any path, with or without http.StripPrefix, and looks at the query alone. It
// reads only: nothing that it serves changes a pool, and methods other than GET and HEAD are
// refused. No arguments and no results are in it, but names of commands, session ids, paths, error
// causes and source lines are: mount it behind your service's authentication, or on an address that
// only you reach. Its page runs no code but its own and loads nothing from elsewhere (a strict
// Content-Security-Policy), and treats all that Python says as text.
//
// Requests share what was read of the pools in the last half second, so that many viewers cost no
// more than one. A nil pool is left out, one that is closed is shown as it was left. The handler
// holds no goroutine and no resource.
func Handler(pools ...*pypool.Pool) http.Handler {
	sources := make([]debugpage.Source, 0, len(pools))
	for _, p := range pools {
		if p != nil {
			sources = append(sources, p)
		}
	}
	return debugpage.New(sources...)
}
