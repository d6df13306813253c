package bed

import (
	"os"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/config"
)

// Server is the configuration that a command line of `knarr server` leads to on a host called box without files: each of
// line is "flag=value".
func Server(t testing.TB, line ...string) config.Server {
	t.Helper()
	in := config.Input{WorkDir: "/", Hostname: "box", FS: os.DirFS(t.TempDir())}
	for _, l := range line {
		name, value, _ := strings.Cut(l, "=")
		in.CommandLine = append(in.CommandLine, config.Occurrence{Name: name, Value: value})
	}
	c, err := config.LoadServer(in)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
