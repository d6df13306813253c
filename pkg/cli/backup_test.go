package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/backup"
)

func TestBackupAndRestore(t *testing.T) {
	c := newCommand(t)
	c.makeStore(t)
	secret := filepath.Join(c.root, "pass")
	if err := os.WriteFile(secret, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := c.run(t, backupCommand, "--passphrase-file", "/pass", "--keep", "3"); code != 0 {
		t.Fatalf("backup: exit code %d, %s", code, c.stderr.String())
	}
	var made struct{ File string }
	if err := json.Unmarshal(c.stdout.Bytes(), &made); err != nil || !strings.HasPrefix(made.File, filepath.Join(c.root, "var/lib/knarr/backups")) {
		t.Fatalf("backup printed %s, %v", c.stdout.String(), err)
	}
	if code := c.run(t, backupCommand, "list"); code != 0 || !strings.Contains(c.stdout.String(), made.File) {
		t.Errorf("list: exit code %d, %s", code, c.stdout.String())
	}
	if code := c.run(t, backupCommand, "verify", made.File); code != exitFailed || !strings.Contains(c.stderr.String(), "passphrase") {
		t.Errorf("verify without passphrase: exit code %d, %s", code, c.stderr.String())
	}
	if code := c.run(t, backupCommand, "verify", "--passphrase-file", "/pass", made.File); code != 0 {
		t.Errorf("verify: exit code %d, %s", code, c.stderr.String())
	}
	if code := c.run(t, restoreCommand, "--passphrase-file", "/pass", made.File); code != 0 {
		t.Fatalf("restore: exit code %d, %s", code, c.stderr.String())
	}
	var done backup.Restored
	if err := json.Unmarshal(c.stdout.Bytes(), &done); err != nil || done.Previous == "" {
		t.Errorf("restore printed %s, %v", c.stdout.String(), err)
	}
	if code := c.run(t, datastoreCommand, "check"); code != 0 {
		t.Errorf("check after restore: exit code %d, %s", code, c.stderr.String())
	}
}

func TestBackupUsage(t *testing.T) {
	c := newCommand(t)
	for _, args := range [][]string{{"--keep", "-1"}, {"--passphrase-file", "/missing"}, {"verify"}, {"now"}} {
		if code := c.run(t, backupCommand, args...); code != exitUsage {
			t.Errorf("backup %v: exit code %d, %s", args, code, c.stderr.String())
		}
	}
	if code := c.run(t, restoreCommand); code != exitUsage {
		t.Errorf("restore without a file: exit code %d", code)
	}
	if code := c.run(t, backupCommand); code != exitFailed {
		t.Errorf("backup without a store: exit code %d", code)
	}
}
