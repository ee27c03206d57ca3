// Package gentest holds what pypoolgen makes of worker.py, whose commands have hints of tables.
package gentest

//go:generate go run github.com/pypool/pypool/cmd/pypoolgen -tables -script worker.py -o workers_gen.go
