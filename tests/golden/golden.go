// Package golden compares what a test made with a file that has it as it should be, so that a reviewer reads every change
// as a difference of that file. `go test -update` writes the files anew.
//
// It is for tests only and keeps nothing.
package golden

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files, and what is generated from the code")

// Check compares got with the file at path, a relative one being below the test's package.
func Check(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is made now: %s\nlook at the difference after go test -update", path, difference(got, string(want)))
	}
}

// difference shows the first lines that differ.
func difference(got, want string) string {
	g, w := strings.SplitAfter(got, "\n"), strings.SplitAfter(want, "\n")
	i := 0
	for i < len(g) && i < len(w) && g[i] == w[i] {
		i++
	}
	shown := func(lines []string) string {
		if i == len(lines) {
			return "(the end)\n"
		}
		return strings.Join(lines[i:min(i+3, len(lines))], "")
	}
	return "the first lines that differ\ngot\n" + shown(g) + "want\n" + shown(w)
}
