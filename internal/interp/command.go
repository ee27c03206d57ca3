package interp

import (
	"slices"
	"strconv"
	"strings"
)

// Command is how the interpreter is started, to run the source boot: its arguments and its
// environment, of which hidden is what boot is to put back. -I keeps the environment and the
// working directory from replacing what the runtime imports; what Python's own variables ask for,
// and does no such harm, is asked for by options instead. -u keeps output from waiting in a buffer
// at a crash. noBytecode is -B: a .pyc knows its source by second and size, so that of two quick
// edits the second would not be read.
//
// No option sets the seed of hashes: for it Python must see its variable, and then none of the
// others.
func Command(boot string, env []string, noBytecode bool) (args, environ []string, hidden map[string]string) {
	vars := Vars(env)
	args, environ = []string{"-I", "-u"}, env
	if _, err := strconv.ParseUint(vars["PYTHONHASHSEED"], 10, 32); err == nil {
		args[0], environ, hidden = "-s", nil, map[string]string{}
		for _, v := range env {
			name, value, _ := strings.Cut(v, "=")
			if strings.HasPrefix(name, "PYTHON") && name != "PYTHONHASHSEED" {
				hidden[name] = value
				continue
			}
			environ = append(environ, v)
		}
	}
	if noBytecode {
		args = append(args, "-B")
	}
	args = append(args, optionsFor(vars)...)
	return append(args, "-X", "faulthandler", "-c", boot), environ, hidden
}

// Vars are the variables that Python itself reads, and that say something.
func Vars(env []string) map[string]string {
	vars := map[string]string{}
	for _, v := range env {
		if name, value, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PYTHON") && value != "" {
			vars[name] = value
		}
	}
	return vars
}

// optionsFor says by options what the variables say.
func optionsFor(vars map[string]string) (options []string) {
	if value := vars["PYTHONOPTIMIZE"]; value != "" && value != "0" {
		option := "-O"
		if n, err := strconv.Atoi(value); err == nil && n > 1 {
			option = "-OO"
		}
		options = append(options, option)
	}
	for _, x := range []struct{ name, option string }{
		{"PYTHONDEVMODE", "dev"}, {"PYTHONPROFILEIMPORTTIME", "importtime"}, {"PYTHONNODEBUGRANGES", "no_debug_ranges"},
		{"PYTHONWARNDEFAULTENCODING", "warn_default_encoding"},
	} {
		if vars[x.name] != "" {
			options = append(options, "-X", x.option)
		}
	}
	for _, x := range []struct{ name, option string }{
		{"PYTHONTRACEMALLOC", "tracemalloc"}, {"PYTHONUTF8", "utf8"}, {"PYTHONINTMAXSTRDIGITS", "int_max_str_digits"},
	} {
		// Of what is no number Python would say so and end.
		if _, err := strconv.ParseUint(vars[x.name], 10, 31); err == nil {
			options = append(options, "-X", x.option+"="+vars[x.name])
		}
	}
	for filter := range strings.SplitSeq(vars["PYTHONWARNINGS"], ",") {
		if filter != "" {
			options = append(options, "-W", filter)
		}
	}
	return options
}

// honoured are Python's variables that have their effect in a worker: by optionsFor, by the
// runtime, or because a worker is so always.
var honoured = []string{
	"PYTHONOPTIMIZE", "PYTHONDEVMODE", "PYTHONPROFILEIMPORTTIME", "PYTHONNODEBUGRANGES", "PYTHONWARNDEFAULTENCODING", "PYTHONTRACEMALLOC", "PYTHONUTF8",
	"PYTHONINTMAXSTRDIGITS", "PYTHONWARNINGS", "PYTHONHASHSEED", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONNOUSERSITE",
	"PYTHONUNBUFFERED", "PYTHONFAULTHANDLER", "PYTHONSAFEPATH",
}

// Ignored names Python's variables in env that have no effect in a worker.
func Ignored(env []string) (names []string) {
	for name := range Vars(env) {
		if !slices.Contains(honoured, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
