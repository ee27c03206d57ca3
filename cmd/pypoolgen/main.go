// Pypoolgen writes a typed Go client for the commands of a Python worker.
//
// Usage:
//
//	go run github.com/pypool/pypool/cmd/pypoolgen -script worker.py -package workers -o workers_gen.go
//
// It starts the worker once, asks it for its commands and their type hints, and writes one method a
// command, with structs for dataclasses, TypedDicts, NamedTuples and pydantic models, typed
// constants for enumerations, and iterators for streams. The same worker gives the same file, byte
// for byte, whichever Python runs it. docs/tools.md tells which hint becomes what.
//
// The other way round, with
//
//	go run github.com/pypool/pypool/cmd/pypoolgen -functions ./cmd/server -o host_functions.py
//
// it reads the Go package in that folder, finds the functions in its pypool.Functions, and writes a
// Python module in which host has them with their types: a worker's author imports host from there,
// and type checkers and editors know what may be called.
//
// And
//
//	go run github.com/pypool/pypool/cmd/pypoolgen stubs typings
//
// writes type stubs of the Python package pypool into that folder, so that an editor knows it though
// it is installed nowhere.
//
// The flags are:
//
//	-script FILE     the worker script, or
//	-module NAME     the worker module, or
//	-functions DIR   the Go package whose functions Python calls
//	-package NAME    the package of the file written (default $GOPACKAGE, which go generate sets)
//	-o FILE          the file to write, and its folder where there is none (default standard output)
//	-type NAME       the client's type (default Client)
//	-tables          have hints of tables be pypoolarrow.Table: the file imports github.com/pypool/pypool/arrow
//	-python PATH     the interpreter (default as in pypool.Config)
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/token"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/pypool/pypool"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "pypoolgen:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	script, module, python string
	functions, stubs       string
	pkg, out, client       string
	tables                 bool
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("pypoolgen", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.script, "script", "", "the worker script")
	flags.StringVar(&o.module, "module", "", "the worker module, in place of -script")
	flags.StringVar(&o.pkg, "package", os.Getenv("GOPACKAGE"), "the package of the file written")
	flags.StringVar(&o.out, "o", "", "the file to write (default standard output)")
	flags.StringVar(&o.client, "type", "Client", "the client's type")
	flags.BoolVar(&o.tables, "tables", false, "have hints of tables be pypoolarrow.Table, of the module github.com/pypool/pypool/arrow")
	flags.StringVar(&o.python, "python", "", "the interpreter (default as in pypool.Config)")
	flags.StringVar(&o.functions, "functions", "", "the folder of the Go package whose pypool.Functions are written as a Python module")
	if len(args) > 0 && args[0] == "stubs" {
		if len(args) != 2 || strings.HasPrefix(args[1], "-") {
			return o, errors.New("usage: pypoolgen stubs DIR, the folder in which an editor looks for stubs, as a rule typings")
		}
		o.stubs = args[1]
		return o, nil
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.functions != "" && (o.script != "" || o.module != ""):
		return o, errors.New("set one of -script, -module and -functions")
	case o.functions != "":
	case (o.script == "") == (o.module == ""):
		return o, errors.New("set one of -script and -module")
	case !token.IsIdentifier(o.pkg):
		return o, fmt.Errorf("-package %q is not a package name", o.pkg)
	case !token.IsIdentifier(o.client) || !token.IsExported(o.client):
		return o, fmt.Errorf("-type %q is not an exported Go name", o.client)
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if o.stubs != "" {
		return writePackageStubs(o.stubs)
	}
	if o.functions != "" {
		return writeStubs(o, stdout)
	}
	commands, err := ask(ctx, o, stderr)
	if err != nil {
		return err
	}
	if len(commands) == 0 {
		return errors.New("the worker has no commands: decorate a function with @command")
	}
	source := o.module
	if o.script != "" {
		source = filepath.Base(o.script)
	}
	code, err := generate(source, o, commands)
	if err != nil {
		return err
	}
	return write(o.out, code, stdout)
}

// write writes the text to the file, whose folder may not be there yet, or to stdout.
func write(file string, text []byte, stdout io.Writer) error {
	if file == "" {
		_, err := stdout.Write(text)
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// ask starts the worker and has it describe its commands and programs.
func ask(ctx context.Context, o options, stderr io.Writer) ([]command, error) {
	logger := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	pool, err := pypool.New(ctx, pypool.Config{Script: o.script, Module: o.module, Python: o.python, Size: 1, Overflow: -1, Logger: logger})
	if err != nil {
		var start *pypool.StartError
		if errors.As(err, &start) && start.Stderr != "" {
			return nil, fmt.Errorf("%w\n\n%s", err, start.Stderr)
		}
		return nil, err
	}
	defer pool.Close()
	return pypool.Call[[]command](ctx, pool, "list_commands", map[string]any{"schema": true})
}
