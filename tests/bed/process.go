package bed

import (
	"io"
	"os"
	"os/exec"
	"testing"
)

// Again starts the test's own executable once more, as a process that a test is about, with more in its environment, by
// which its TestMain knows what it is, and waits until it has printed "ready" in a line of its own. The caller waits for its
// end.
func Again(t testing.TB, env string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), env)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatalf("wait for the process to be ready: %v", err)
	}
	return cmd
}
