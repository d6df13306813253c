package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/knarr-io/knarr/pkg/backup"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/datastore"
)

// BackupSource is what a backup has in it.
func BackupSource(c config.Server, store datastore.Config, log *slog.Logger) backup.Source {
	return backup.Source{DataDir: c.DataDir, ConfigDir: filepath.Dir(config.DefaultConfigFile), Datastore: store, Log: log}
}

// BackupSeries is what its name begins with.
func BackupSeries(c config.Server) backup.Series { return backup.Series(c.Backup.Name) }

// BackupOptions are how it is written.
func BackupOptions(c config.Server) backup.Options {
	return backup.Options{Passphrase: []byte(c.Backup.Passphrase.Reveal()), Compression: backup.Compression(c.Backup.Compression)}
}

// BackupPlace is where it is sent, which a Secret may tell: client is called when that is to be read.
func BackupPlace(c config.Server, client func() (kubernetes.Interface, error)) backup.Place {
	s := c.Backup.S3
	if !s.Enabled {
		return backup.Place{}
	}
	if s.ConfigSecret != "" {
		return backup.Place{Read: func(ctx context.Context) (backup.S3, error) {
			kube, err := client()
			if err != nil {
				return backup.S3{}, err
			}
			return secretS3(ctx, kube, s.ConfigSecret)
		}}
	}
	fixed := s3Of(s)
	return backup.Place{Fixed: &fixed}
}

func s3Of(s config.BackupS3) backup.S3 {
	return backup.S3{
		Endpoint: s.Endpoint, Bucket: s.Bucket, Folder: s.Folder, Region: s.Region, Lookup: s.Lookup,
		AccessKey: s.AccessKey.Reveal(), SecretKey: s.SecretKey.Reveal(), SessionToken: s.SessionToken.Reveal(),
		CAFile: s.CAFile, Insecure: s.Insecure, SkipVerify: s.SkipVerify,
		Proxy: s.Proxy.Reveal(), Timeout: s.Timeout, Keep: s.Retention,
	}
}

// secretS3 reads where backups are sent from a Secret in kube-system. Its keys are k3s's, the names of the flags, but for
// the CA certificates, which stand in it themselves or in a ConfigMap that it names.
func secretS3(ctx context.Context, kube kubernetes.Interface, name string) (backup.S3, error) {
	core := kube.CoreV1()
	secret, err := core.Secrets(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return backup.S3{}, fmt.Errorf("read Secret kube-system/%s of --backup-s3-config-secret: %w; while the cluster is down, say with the other S3 flags "+
			"where backups are", name, err)
	}
	said, err := config.BackupS3From("Secret kube-system/"+name, secret.Data)
	if err != nil {
		return backup.S3{}, err
	}
	s := s3Of(said.BackupS3)
	s.CA = said.CA
	if said.CAConfigMap == "" {
		return s, nil
	}
	bundles, err := core.ConfigMaps(metav1.NamespaceSystem).Get(ctx, said.CAConfigMap, metav1.GetOptions{})
	if err != nil {
		return backup.S3{}, fmt.Errorf("read ConfigMap kube-system/%s, which Secret %s names for CA certificates: %w", said.CAConfigMap, name, err)
	}
	for _, key := range slices.Sorted(maps.Keys(bundles.Data)) {
		s.CA = append(append(s.CA, bundles.Data[key]...), '\n')
	}
	for _, key := range slices.Sorted(maps.Keys(bundles.BinaryData)) {
		s.CA = append(append(s.CA, bundles.BinaryData[key]...), '\n')
	}
	return s, nil
}

// backupSettle keeps backups out of the start, and out of servers that only live for a while.
const backupSettle = 5 * time.Minute

func (p Plan) backups(client func() (kubernetes.Interface, error), log *slog.Logger) backup.Schedule {
	return backup.Schedule{
		Source: BackupSource(p.Server, p.datastore(), log), Options: BackupOptions(p.Server),
		Series: BackupSeries(p.Server), Dir: p.BackupDir(), Cron: p.Backup.Schedule, Settle: backupSettle, Keep: p.Backup.Retention,
		Place: BackupPlace(p.Server, client),
	}
}

// backUpBefore makes a backup of what another version left, before this one writes. Where there is no database yet,
// there is nothing to lose.
func (p Plan) backUpBefore(ctx context.Context, previous string, log *slog.Logger) error {
	if !p.Backup.BeforeUpgrade {
		return nil
	}
	source := BackupSource(p.Server, p.datastore(), log)
	if there, err := datastore.Exists(source.Datastore); err != nil || !there {
		return err
	}
	if err := os.MkdirAll(p.BackupDir(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return upgradeError(previous, err)
	}
	file := filepath.Join(p.BackupDir(), BackupSeries(p.Server).Name(time.Now()))
	info, err := backup.Create(ctx, source, file, BackupOptions(p.Server))
	if err != nil {
		return upgradeError(previous, fmt.Errorf("%w%s", err, datastore.Advice(err, p.BackupDir())))
	}
	log.Info("backup made before the upgrade", "from", previous, "file", file, "keys", info.Datastore.Keys)
	if _, err := backup.Prune(p.BackupDir(), BackupSeries(p.Server), p.Backup.Retention); err != nil {
		log.Warn("old backups stay", "error", err)
	}
	return nil
}

func upgradeError(previous string, err error) error {
	return fmt.Errorf("make a backup of the data that knarr %s left, before the upgrade: %w; nothing was changed: mend that, "+
		"run %s again, or start with --disable-upgrade-backup", previous, err, previous)
}
