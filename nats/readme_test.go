package pypoolnats

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the README shows compiles. A block is the inside of a function that has the names which the
// README says it has.
func TestTheREADMEsCode(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	dir, err := filepath.Abs(".")
	require.NoError(t, err)
	temp, overlay := t.TempDir(), map[string]string{}
	args := []string{"build", "-overlay", filepath.Join(temp, "overlay.json")}
	for i, part := range strings.Split(string(readme), "\n```go\n")[1:] {
		block, _, _ := strings.Cut(part, "\n```")
		used := "\t_ = err\n"
		for _, declared := range regexp.MustCompile(`(?m)^(\w+)(?:, err)? :=`).FindAllStringSubmatch(block, -1) {
			used += "\t_ = " + declared[1] + "\n"
		}
		code := `
func snippet(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, pool *pypool.Pool, client *pypoolnats.Client, service *pypoolnats.Service) (err error) {
	{
	` + block + "\n" + used + `
	}
	return err
}
`
		head := "package main\n"
		for _, path := range []string{
			"context", "time", "github.com/nats-io/nats.go", "github.com/nats-io/nats.go/jetstream", "github.com/pypool/pypool", "github.com/pypool/pypool/nats",
		} {
			name := map[string]string{"github.com/nats-io/nats.go": "nats", "github.com/pypool/pypool/nats": "pypoolnats"}[path]
			if name == "" {
				name = path[strings.LastIndex(path, "/")+1:]
			}
			if regexp.MustCompile(`\b` + name + `\.[A-Z]`).MatchString(code) {
				head += fmt.Sprintf("import %s %q\n", name, path)
			}
		}
		source := filepath.Join(temp, fmt.Sprint(i, ".go"))
		require.NoError(t, os.WriteFile(source, []byte(head+"func main() {}\n"+code), 0o600))
		overlay[filepath.Join(dir, "snippets", fmt.Sprint(i), "main.go")] = source
		args = append(args, "./snippets/"+fmt.Sprint(i))
	}
	require.NotEmpty(t, overlay)
	encoded, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(temp, "overlay.json"), encoded, 0o600))
	out, err := exec.Command("go", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
