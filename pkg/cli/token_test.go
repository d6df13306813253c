package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/knarr-io/knarr/pkg/token"
)

func TestTokenGenerate(t *testing.T) {
	c := newCommand(t)
	if code := c.run(t, tokenCommand, "generate"); code != 0 {
		t.Fatalf("exit code %d: %s", code, &c.stderr)
	}
	made, err := token.Parse(c.stdout.String())
	if err != nil || !made.IsBootstrap() {
		t.Errorf("%q is no bootstrap token: %v", &c.stdout, err)
	}
}

func TestTokenRotate(t *testing.T) {
	c := newCommand(t)
	dir := filepath.Join(c.root, "var/lib/knarr/server")
	if code := c.run(t, tokenCommand, "rotate"); code != exitFailed || !strings.Contains(c.stderr.String(), "run this on a server") {
		t.Errorf("without a token: %d, %s", code, &c.stderr)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	hash := strings.Repeat("ab", 32)
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("K10"+hash+"::server:old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]string{{"--token", "other"}, {"--new-token", "a b"}, {"--new-token", "abcdef.0123456789abcdef"}, {"word"}} {
		if code := c.run(t, tokenCommand, append([]string{"rotate"}, bad...)...); code != exitUsage {
			t.Errorf("%v: exit code %d: %s", bad, code, &c.stderr)
		}
	}
	if code := c.run(t, tokenCommand, "rotate", "--token", "old", "--new-token", "new"); code != 0 {
		t.Fatalf("exit code %d: %s", code, &c.stderr)
	}
	want := "K10" + hash + "::server:new\n"
	stored, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil || string(stored) != want || c.stdout.String() != want {
		t.Errorf("stored %q, printed %q, %v", stored, &c.stdout, err)
	}
}

func TestTokenNeedsACluster(t *testing.T) {
	for _, args := range [][]string{{"list"}, {"create"}, {"delete", "abcdef"}, {"allow-node", "n1"}, {"join-command"}} {
		c := newCommand(t)
		code := c.run(t, tokenCommand, args...)
		if code != exitFailed || !strings.Contains(c.stderr.String(), "run this on a server, or give --kubeconfig") {
			t.Errorf("%v: %d, %s", args, code, &c.stderr)
		}
	}
}

func TestTokenTable(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	soon, past := now.Add(90*time.Minute), now.Add(-time.Second)
	got := tokenTable([]shownToken{
		{ID: "abcdef", Expires: &soon, Usages: []string{"authentication", "signing"}, Description: "for Monday"},
		{ID: "bcdefa", Expires: &past}, {ID: "cdefab"},
	}, now)
	for _, want := range []string{"abcdef    in ", "authentication,signing  for Monday", "bcdefa    expired", "cdefab    never"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
