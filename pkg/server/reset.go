package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"k8s.io/client-go/kubernetes"

	"github.com/knarr-io/knarr/pkg/backup"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/version"
)

// reset makes an etcd cluster of this server alone, out of what it has or of a backup, and says how to go on.
func (p Plan) reset(ctx context.Context, out io.Writer) (err error) {
	log := slog.New(slog.NewTextHandler(out, nil))
	lock, err := p.Dir.Open(version.Version, func(previous string) error { return p.backUpBefore(ctx, previous, log) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := p.restoreForReset(ctx, out); err != nil {
		return err
	}
	if err := p.keys(log).Prepare(ctx); err != nil {
		return err
	}
	if err := datastore.ResetCluster(ctx, p.datastore(), log); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, "The etcd cluster now has this server as its only member. Start it without --cluster-reset. On every other\n"+
		"server, stop knarr, remove "+p.Dir.DB()+", and start it again to join.")
	return err
}

// restoreForReset puts a backup in the place of what there is, if one is named.
func (p Plan) restoreForReset(ctx context.Context, out io.Writer) error {
	name := p.Datastore.ClusterResetRestore
	if name == "" {
		return nil
	}
	if done, err := datastore.WasReset(p.datastore()); err != nil || done {
		return errors.Join(err, datastore.ErrReset)
	}
	file, done, err := BackupPlace(p.Server, noAPI).Fetch(ctx, name, p.DataDir)
	if err != nil {
		return err
	}
	target := backup.Target{DataDir: p.DataDir, ConfigDir: filepath.Dir(config.DefaultConfigFile)}
	restored, err := backup.Restore(ctx, file, target, BackupOptions(p.Server).Passphrase)
	if err := errors.Join(err, done()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "Restored the backup of %s; what was there before is in %s.\n", restored.Info.Created, restored.Previous)
	return err
}

// noAPI is for who may want to read an object while there is no API.
func noAPI() (kubernetes.Interface, error) {
	return nil, errors.New("the Secret of --backup-s3-config-secret cannot be read while the cluster is down: " +
		"say with the other --backup-s3 flags where backups are, and leave that one out")
}
