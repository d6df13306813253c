package cli

import (
	"strings"
	"testing"
)

func TestCrictlUsage(t *testing.T) {
	for line, says := range map[string]string{
		"inspect":              "want ID...",
		"ps extra":             `unexpected argument "extra"`,
		"ps -o xml":            "want table, json or yaml",
		"exec abc":             "want ID COMMAND",
		"logs":                 "want ID",
		"rm":                   "want ID...",
		"rmi":                  "want IMAGE...",
		"stop -t 5":            "want ID...",
		"attach -it":           "want ID",
		"pull":                 "want IMAGE",
		"version --output=csv": "want table, json or yaml",
	} {
		c := newCommand(t)
		if code := c.run(t, crictlCommand, strings.Fields(line)...); code != 2 {
			t.Errorf("%q: exit code %d, want 2", line, code)
		}
		contains(t, c.stderr.String(), says)
	}
}

func TestCrictlWithoutRuntime(t *testing.T) {
	socket := "unix://" + t.TempDir() + "/none.sock"
	// With --all the arguments may be left out; -it are two flags.
	for _, line := range []string{"ps", "pods -q", "images", "rm --all", "rmp -af", "rmi --prune", "exec -it abc sh", "logs -f --tail 5 abc", "stats"} {
		c := newCommand(t)
		args := append([]string{"--runtime-endpoint", socket, "--timeout", "1s"}, strings.Fields(line)...)
		if code := c.run(t, crictlCommand, args...); code != 1 {
			t.Errorf("%q: exit code %d, want 1: %s", line, code, &c.stderr)
		}
		contains(t, c.stderr.String(), "there is no container runtime at", "knarr status")
	}
	c := newCommand(t)
	if code := c.run(t, crictlCommand, "-r", "nonsense", "ps"); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	contains(t, c.stderr.String(), "want unix://")
}
