package pypool

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// declaredErrors reads errors.go: the value of each exported constant of type ErrorType by its
// name, and the name of the constant that each exported sentinel is made of.
func declaredErrors(t *testing.T) (types, sentinels map[string]string) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	require.NoError(t, err)
	types, sentinels = map[string]string{}, map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !spec.Names[0].IsExported() {
			return true
		}
		kind, _ := spec.Type.(*ast.Ident)
		switch {
		case kind == nil:
		case kind.Name == "ErrorType":
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			types[spec.Names[0].Name] = value
		case kind.Name == "error":
			row := spec.Values[0].(*ast.CallExpr).Fun.(*ast.SelectorExpr)
			sentinels[row.X.(*ast.Ident).Name] = spec.Names[0].Name
		}
		return true
	})
	return types, sentinels
}

func TestEachErrorTypeHasARowASentinelAndItsPlaceInTheDocuments(t *testing.T) {
	t.Parallel()
	types, sentinels := declaredErrors(t)
	require.Len(t, types, len(errorTypes), "a row for each type")
	assert.Len(t, sentinels, len(errorTypes), "a sentinel for each type")
	errorsPage, err := os.ReadFile("docs/errors.md")
	require.NoError(t, err)
	protocolPage, err := os.ReadFile("docs/protocol.md")
	require.NoError(t, err)
	for name, value := range types {
		row := ErrorType(value).row()
		require.Equal(t, ErrorType(value), row.typ, "%s has no row of its own", name)
		assert.NotEmpty(t, row.text, name)
		line, found := "", false
		for l := range strings.Lines(string(errorsPage)) {
			if strings.HasPrefix(l, "| ["+value+"](#"+value+") |") {
				line, found = l, true
			}
		}
		require.True(t, found, "docs/errors.md has no line for %s", value)
		assert.Contains(t, line, " | "+string(row.category)+" | `"+sentinels[name]+"` | ")
		assert.Contains(t, string(errorsPage), "\n### "+value+"\n")
		if row.wire != "" {
			assert.Contains(t, line, row.proves.String(), "what such an answer proves")
			assert.Contains(t, string(protocolPage), "\n| `"+row.wire+"` |")
			e := (&wireError{Kind: row.wire}).toError(CallInfo{})
			assert.Equal(t, row.typ, e.Type)
			assert.Equal(t, row.proves, e.Delivery)
		}
	}
	last := errorTypes[len(errorTypes)-1].typ
	assert.Equal(t, TypeInternal, last)
	assert.Equal(t, last, ErrorType("nobody's").row().typ)
	assert.Equal(t, TypeInternal, (&wireError{Kind: "internal"}).toError(CallInfo{}).Type)
}
