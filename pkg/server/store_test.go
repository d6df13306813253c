package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/backup"
	"github.com/knarr-io/knarr/pkg/datastore"
)

// TestBackupBeforeAnUpgrade starts where an older version left a database, none, or a damaged one.
func TestBackupBeforeAnUpgrade(t *testing.T) {
	data := t.TempDir()
	plan := given(t, "data-dir="+data, "backup-retention=1")
	open := func(version string) error {
		l, err := plan.Dir.Open(version, func(previous string) error {
			return plan.backUpBefore(t.Context(), previous, slog.New(slog.DiscardHandler))
		})
		if err == nil {
			err = l.Close()
		}
		return err
	}
	backups := func(want int) []backup.File {
		t.Helper()
		files, err := backup.List(filepath.Join(data, "backups"))
		if err != nil || len(files) != want {
			t.Fatalf("backups: %v, %v; want %d", files, err, want)
		}
		return files
	}
	for _, version := range []string{"v1.36.0+knarr1", "v1.36.1+knarr1"} {
		if err := open(version); err != nil {
			t.Fatal(err)
		}
	}
	backups(0) // there was no database
	ctx, cancel := context.WithCancel(t.Context())
	if err := datastore.New(plan.datastore(), slog.New(slog.DiscardHandler)).Run(ctx, cancel); err != nil {
		t.Fatal(err)
	}
	if err := open("v1.36.1+knarr1"); err != nil {
		t.Fatal(err)
	}
	backups(0) // no other version
	if err := open("v1.37.1+knarr1"); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Verify(t.Context(), backups(1)[0].Path, nil); err != nil {
		t.Error(err)
	}
	db := filepath.Join(plan.Dir.DB(), "knarr.db")
	if err := os.WriteFile(db, []byte(strings.Repeat("not a database", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	err := open("v1.38.0+knarr1")
	if err == nil || !strings.Contains(err.Error(), "v1.37.1+knarr1") || !strings.Contains(err.Error(), "--disable-upgrade-backup") ||
		!strings.Contains(err.Error(), backups(1)[0].Path) {
		t.Errorf("a backup that fails: %v", err)
	}
	if stamp, err := os.ReadFile(plan.Dir.VersionFile()); err != nil || string(stamp) != "v1.37.1+knarr1\n" {
		t.Errorf("stamp: %q, %v", stamp, err)
	}
	backups(1)
	plan.Backup.BeforeUpgrade = false
	if err := open("v1.38.0+knarr1"); err != nil {
		t.Error(err)
	}
}

// TestFlagsForAnEtcdThatIsNotThere are refused; those for one that is reach it.
func TestFlagsForAnEtcdThatIsNotThere(t *testing.T) {
	for _, flag := range []string{"etcd-arg=quota-backend-bytes=1", "etcd-expose-metrics=true"} {
		name, _, _ := strings.Cut(flag, "=")
		err := given(t, "data-dir="+t.TempDir(), flag).checkEtcdFlags()
		var usage interface{ ExitCode() int }
		if !errors.As(err, &usage) || usage.ExitCode() != 2 || !strings.HasPrefix(err.Error(), "--"+name) {
			t.Errorf("%s: %v", flag, err)
		}
	}
	p := given(t, "data-dir="+t.TempDir(), "cluster-init=true", "etcd-arg=quota-backend-bytes=1", "etcd-expose-metrics=true")
	if err := p.checkEtcdFlags(); err != nil {
		t.Error(err)
	}
	if e := p.datastore().Etcd; len(e.Args) != 1 || !e.ExposeMetrics {
		t.Errorf("got %+v", e)
	}
}
