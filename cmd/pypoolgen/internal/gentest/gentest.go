// Package gentest holds what pypoolgen makes of testdata/gen/worker.py, and runs it.
package gentest

//go:generate go run github.com/pypool/pypool/cmd/pypoolgen -script ../../testdata/gen/worker.py -o workers_gen.go
