// Package main has a function whose name Python does not take.
package main

import (
	"context"

	"github.com/pypool/pypool"
)

func main() {
	_ = pypool.Functions{"class": pypool.Func(func(context.Context, struct{}) (string, error) { return "", nil })}
}
