package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/knarr-io/knarr/pkg/backup"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/datastore/etcd"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/pki"
)

// DatastoreConfig is the datastore that a configuration selects, for the server as for the commands that look at it. It
// looks at the disk: a server that has an embedded etcd goes on with it.
func DatastoreConfig(c config.Server) (datastore.Config, error) {
	db := datadir.New(c.DataDir).DB()
	out := datastore.Config{
		Endpoint:  c.Datastore.Endpoint.Reveal(),
		Dir:       db,
		CAFile:    c.Datastore.CAFile,
		CertFile:  c.Datastore.CertFile,
		KeyFile:   c.Datastore.KeyFile,
		BackupDir: c.BackupDir(),
	}
	if out.Endpoint != "" {
		return out, nil
	}
	there, err := datastore.HasEtcd(db)
	if err != nil {
		return out, err
	}
	if there || c.Datastore.ClusterInit || c.Datastore.ClusterReset {
		out.Endpoint = datastore.EmbeddedEtcd
	}
	keys := pki.Config{DataDir: c.DataDir}
	files := func(ca pki.CA, leaf pki.Leaf) etcd.TLS {
		pair := keys.LeafPair(leaf)
		return etcd.TLS{CA: keys.CAPair(ca).Cert, Cert: pair.Cert, Key: pair.Key}
	}
	out.Etcd = datastore.Etcd{
		NodeName: c.Node.Name,
		Address:  netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		Peer:     files(pki.EtcdPeerCA, pki.EtcdPeer),
		Server:   files(pki.EtcdServerCA, pki.EtcdServer),
		Client:   files(pki.EtcdServerCA, pki.EtcdClient),
	}
	if c.Network.PrimaryIPv6() {
		out.Etcd.Address = netip.IPv6Loopback()
	}
	return out, nil
}

// datastore is the store of this server.
func (p Plan) datastore() datastore.Config {
	c := p.Store
	c.Etcd.NodeName = p.NodeName
	if ips := p.nodeIPs(); len(ips) > 0 {
		c.Etcd.Address = ips[0]
	}
	return c
}

// beforeStore is what the store needs: an etcd has certificates.
func (p Plan) beforeStore(base, keys lifecycle.Ref) []lifecycle.Ref {
	if p.hasEtcd() {
		return []lifecycle.Ref{base, keys}
	}
	return []lifecycle.Ref{base}
}

// hasEtcd tells whether the store is an etcd in this process.
func (p Plan) hasEtcd() bool { return p.Store.Endpoint == datastore.EmbeddedEtcd }

// BackupSource is what a backup has in it.
func BackupSource(c config.Server, store datastore.Config, log *slog.Logger) backup.Source {
	return backup.Source{DataDir: c.DataDir, ConfigDir: filepath.Dir(config.DefaultConfigFile), Datastore: store, Log: log}
}

// BackupOptions are how it is written.
func BackupOptions(c config.Server) backup.Options {
	return backup.Options{Passphrase: []byte(c.Backup.Passphrase.Reveal()), Compression: backup.Compression(c.Backup.Compression)}
}

// BackupS3 is where it is sent; nil for nowhere.
func BackupS3(c config.Server) *backup.S3 {
	s := c.Backup.S3
	if !s.Enabled {
		return nil
	}
	return &backup.S3{
		Endpoint: s.Endpoint, Bucket: s.Bucket, Folder: s.Folder, Region: s.Region, Lookup: s.Lookup,
		AccessKey: s.AccessKey.Reveal(), SecretKey: s.SecretKey.Reveal(), SessionToken: s.SessionToken.Reveal(),
		CAFile: s.CAFile, Insecure: s.Insecure, SkipVerify: s.SkipVerify,
		Proxy: s.Proxy.Reveal(), Timeout: s.Timeout, Keep: s.Retention,
	}
}

// backupSettle keeps backups out of the start, and out of servers that only live for a while.
const backupSettle = 5 * time.Minute

func (p Plan) backups(log *slog.Logger) backup.Schedule {
	return backup.Schedule{
		Source: BackupSource(p.Server, p.datastore(), log), Options: BackupOptions(p.Server),
		Dir: p.BackupDir(), Cron: p.Backup.Schedule, Settle: backupSettle, Keep: p.Backup.Retention, S3: BackupS3(p.Server),
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
	file := filepath.Join(p.BackupDir(), backup.Name(time.Now()))
	info, err := backup.Create(ctx, source, file, BackupOptions(p.Server))
	if err != nil {
		return upgradeError(previous, fmt.Errorf("%w%s", err, datastore.Advice(err, p.BackupDir())))
	}
	log.Info("backup made before the upgrade", "from", previous, "file", file, "keys", info.Datastore.Keys)
	if _, err := backup.Prune(p.BackupDir(), p.Backup.Retention); err != nil {
		log.Warn("old backups stay", "error", err)
	}
	return nil
}

func upgradeError(previous string, err error) error {
	return fmt.Errorf("make a backup of the data that knarr %s left, before the upgrade: %w; nothing was changed: mend that, "+
		"run %s again, or start with --disable-upgrade-backup", previous, err, previous)
}
