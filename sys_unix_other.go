//go:build unix && !linux

package pypool

import "syscall"

// setParentDeath: there is no parent death signal; workers end at end of file on their stdin.
func setParentDeath(*syscall.SysProcAttr) {}
