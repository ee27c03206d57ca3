//go:build !linux

package spin

// Yield does nothing.
func Yield() {}
