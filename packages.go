package pypool

import (
	"regexp"
	"sync"
)

var packageLine = regexp.MustCompile(`(?m)^    "([^"]+)": "([^"]+)",$`)

// packages maps a module's name to what provides it. The one table is Python's, so that both
// doctors say the same.
var packages = sync.OnceValue(func() map[string]string {
	table := map[string]string{}
	source, _ := pythonFiles.ReadFile("python/pypool/_packages.py") // embedded
	for _, m := range packageLine.FindAllStringSubmatch(string(source), -1) {
		table[m[1]] = m[2]
	}
	return table
})

// installAdvice says what to do about a module that python cannot find, as _packages.advice does. A
// package that nobody here knows is not named: to install what somebody has mistyped is how one
// gets a stranger's code.
func installAdvice(python, module string) string {
	if name := packages()[module]; name != "" {
		return "install it for this interpreter: " + python + " -m pip install " + name
	}
	return "install the package that provides " + module + " for this interpreter, with " + python + " -m pip install"
}
