package spin

import "golang.org/x/sys/unix"

// Yield lets another thread that waits for this processor have it. It is a raw call: Go's scheduler
// could give this thread's P to another, and to get that back takes longer than the yield.
func Yield() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
