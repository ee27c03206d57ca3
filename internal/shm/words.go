// Package shm is the memory that a worker's runtime and the host share, also after the worker's
// death: docs/protocol.md, page_fd. Python's side of it is python/pypool/_page.py.
package shm

// A Word is a native unsigned 64-bit integer of the page. All are hints: code in the
// worker may overwrite them, and no answer or proof depends on one.
type Word struct {
	Index  int    // its offset is 8 times that
	Python string // what python/pypool calls it
	Writer string // runtime or host; the other side only reads it
	Unit   string
}

const (
	served   = 0
	shielded = 1
	spin     = 8
	alone    = 9
	doorbell = 10
	canceled = 11
	emptied  = 12
	retires  = 16 // alone in its line: the host reads it for each call, and who stores others there would take it away

	// What one side writes in each call has a cache line of its own, which is eight words. Those of
	// the places of Memory stand behind all others: by them the reader tells that it has let go.
	lentWords = 64  // of what the host has lent to the worker
	tookWords = 256 // of what the worker has put there for the host

	// words is how many the runtime uses.
	words = 512
)

// Slots is how many places of Memory the other side may have at a time, each way: beyond that the
// pipe is taken.
const Slots = 192

// Words is the table of them all.
var Words = []Word{
	{served, "WORKED", "runtime", "ns from having read the last request to having written its answer"},
	{shielded, "SHIELDED", "runtime", "0 while what runs may be interrupted"},
	{retires, "RETIRES", "runtime", "1 once the worker has asked to be replaced"},
	{spin, "SPIN_NS", "host", "ns to poll for the next request before sleeping; 0: not at all"},
	{alone, "KEEP_CPU", "host", "1 while calls run one at a time, else 0"},
	{doorbell, "DOORBELL", "host", "a number that changes just before a request is written, while KEEP_CPU is 1"},
	{canceled, "CANCELED", "host", "the id of the request that is to stop; 0: none"},
	{emptied, "EMPTIED", "host", "a number that changes when the memory of payloads was given back"},
}
