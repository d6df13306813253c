package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	if code := c.run(t, backupCommand, "prune", "--retention", "1"); code != 0 || c.stdout.String() != "" {
		t.Errorf("prune: exit code %d, %s %s", code, c.stdout.String(), c.stderr.String())
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

// TestBackupSeries makes backups under a name, and prunes those of the name.
func TestBackupSeries(t *testing.T) {
	c := newCommand(t)
	c.makeStore(t)
	c.file(t, "var/lib/knarr/backups/"+backup.Series("knarr").Name(time.Unix(1e9, 0)), "of another name")
	c.file(t, "var/lib/knarr/backups/"+backup.Series("before").Name(time.Unix(1e9, 0)), "of the same")
	if code := c.run(t, backupCommand, "--name", "before", "--keep", "1"); code != 0 {
		t.Fatalf("backup: exit code %d, %s", code, c.stderr.String())
	}
	var made struct{ File string }
	if err := json.Unmarshal(c.stdout.Bytes(), &made); err != nil || !strings.HasPrefix(filepath.Base(made.File), "before-2") {
		t.Fatalf("backup printed %s, %v", c.stdout.String(), err)
	}
	if code := c.run(t, backupCommand, "list"); code != 0 || strings.Count(c.stdout.String(), "\n") != 2 {
		t.Errorf("list: exit code %d, %s", code, c.stdout.String())
	}
}

// TestBackupsInAPlaceThatASecretTells needs the cluster, which is down here, unless the command line says it all.
func TestBackupsInAPlaceThatASecretTells(t *testing.T) {
	c := newCommand(t)
	c.file(t, "etc/knarr/config.yaml", "etcd-s3: true\netcd-s3-config-secret: s3\n")
	if code := c.run(t, backupCommand, "list"); code != exitFailed || !strings.Contains(c.stderr.String(), "kubeconfig") {
		t.Errorf("list: exit code %d, %s", code, c.stderr.String())
	}
	if code := c.run(t, backupCommand, "list", "--s3-endpoint", "127.0.0.1:1", "--s3-bucket", "bucket", "--s3-timeout", "1s"); code != exitFailed ||
		!strings.Contains(c.stderr.String(), "list backups in S3") {
		t.Errorf("list: exit code %d, %s", code, c.stderr.String())
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

// TestBackupUsesTheServersConfiguration has everything that the command needs in the configuration file, under k3s's
// names where it has some.
func TestBackupUsesTheServersConfiguration(t *testing.T) {
	c := newCommand(t)
	store := filepath.Join(c.root, "data/server/db")
	if err := os.MkdirAll(filepath.Dir(store), 0o755); err != nil {
		t.Fatal(err)
	}
	c.makeStore(t)
	if err := os.Rename(filepath.Join(c.root, "var/lib/knarr/server/db"), store); err != nil {
		t.Fatal(err)
	}
	c.file(t, "etc/knarr/config.yaml", "data-dir: /data\netcd-snapshot-dir: /elsewhere\netcd-snapshot-retention: 2\nbackup-passphrase-file: /pass\n")
	c.file(t, "pass", "correct horse\n")
	c.file(t, "elsewhere/"+backup.Series("knarr").Name(time.Unix(1e9, 0)), "old")
	c.file(t, "elsewhere/"+backup.Series("knarr").Name(time.Unix(2e9, 0)), "new")
	if code := c.run(t, backupCommand); code != 0 {
		t.Fatalf("backup: exit code %d, %s", code, c.stderr.String())
	}
	var made struct{ File string }
	if err := json.Unmarshal(c.stdout.Bytes(), &made); err != nil || filepath.Dir(made.File) != filepath.Join(c.root, "elsewhere") {
		t.Fatalf("backup printed %s, %v", c.stdout.String(), err)
	}
	if data, err := os.ReadFile(made.File); err != nil || !strings.HasPrefix(string(data), "age-") {
		t.Errorf("the backup is not encrypted (%v)", err)
	}
	if code := c.run(t, backupCommand, "prune"); code != 0 || strings.Count(c.stdout.String(), "removed") != 1 {
		t.Errorf("prune: exit code %d, %s %s", code, c.stdout.String(), c.stderr.String())
	}
	c.file(t, "etc/knarr/config.yaml", "backup-retention: none\n")
	if code := c.run(t, backupCommand, "list"); code != exitUsage || !strings.Contains(c.stderr.String(), "config.yaml:1") {
		t.Errorf("with a bad configuration: exit code %d, %s", code, c.stderr.String())
	}
}
