package datastore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/knarr-io/knarr/pkg/atomicfile"
	"github.com/knarr-io/knarr/pkg/datastore/etcd"
	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
)

// EmbeddedEtcd is the endpoint of a member of an etcd cluster in this process.
const EmbeddedEtcd = engineEmbeddedEtcd + "://"

// Etcd describes the member of an embedded etcd; see [etcd.Config] for its fields. The member's data is below Config.Dir.
type Etcd struct {
	NodeName             string
	Address              netip.Addr
	Peer, Server, Client etcd.TLS
	Join                 []string
	ForceNewCluster      bool
	Args                 []string
	ExposeMetrics        bool
}

// etcdDir is the member's directory, and stagedEtcd one that is being made.
func (c Config) etcdDir() string    { return filepath.Join(c.Dir, "etcd") }
func (c Config) stagedEtcd() string { return filepath.Join(c.Dir, "etcd.new") }

// HasEtcd tells whether a directory for databases has a member of an embedded etcd.
func HasEtcd(dir string) (bool, error) { return etcd.Exists(Config{Dir: dir}.etcdDir()) }

// memberConfig is the member in a directory.
func (c Config) memberConfig(dir string) etcd.Config {
	e := c.Etcd
	return etcd.Config{
		Dir: dir, NodeName: e.NodeName, Address: e.Address, Peer: e.Peer, Server: e.Server, Client: e.Client,
		Join: e.Join, ForceNewCluster: e.ForceNewCluster, Args: e.Args, ExposeMetrics: e.ExposeMetrics,
	}
}

// ownMember starts this server's member. What SQLite holds moves to a cluster that begins.
func (c *Component) ownMember(ctx context.Context) (*etcd.Member, error) {
	if err := c.leaveSQLite(ctx); err != nil {
		return nil, err
	}
	// A server that runs may lose its cluster again.
	if err := os.Remove(c.config.resetFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the mark of a reset: %w", err)
	}
	return etcd.Start(ctx, c.config.memberConfig(c.config.etcdDir()), c.log)
}

// resetFile marks a cluster that was reset and not started since.
func (c Config) resetFile() string { return filepath.Join(c.Dir, "etcd", "reset") }

// ErrReset is returned for a second reset in a row, as a service manager would ask for that starts a server again.
var ErrReset = errors.New("the etcd cluster was reset already: start the server without --cluster-reset")

// WasReset tells whether a cluster was reset and not started since.
func WasReset(config Config) (bool, error) {
	_, err := os.Stat(config.resetFile())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find the mark of a reset: %w", err)
	}
	return true, nil
}

// ResetCluster makes an etcd cluster of one member out of what a server has on its disk: of its member, which does not
// run, else of its SQLite database, as it is after a restore.
func ResetCluster(ctx context.Context, config Config, log *slog.Logger) error {
	if done, err := WasReset(config); err != nil || done {
		return errors.Join(err, ErrReset)
	}
	there, err := HasEtcd(config.Dir)
	if err != nil {
		return err
	}
	if !there {
		if database, err := findSQLite(config.Dir); err != nil || database == "" {
			return errors.Join(err, fmt.Errorf("reset the etcd cluster: there is no database in %s", config.Dir))
		}
	}
	config.Etcd.ForceNewCluster = there
	c := New(config, log)
	if err := run(ctx, c, func(context.Context, *Component, *clientv3.Client) error { return nil }); err != nil {
		return fmt.Errorf("reset the etcd cluster: %w", err)
	}
	if err := atomicfile.Write(config.resetFile(), nil, 0o600); err != nil {
		return fmt.Errorf("mark the etcd cluster as reset: %w", err)
	}
	return nil
}

// RemoveNode takes the etcd members of a node out of the cluster, and returns their names.
func (c *Component) RemoveNode(ctx context.Context, node string) ([]string, error) {
	client, err := c.Client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return etcd.RemoveMember(ctx, client, node)
}

// RemoveMember is [Component.RemoveNode] for a person, who is told when there is no such node.
func (c *Component) RemoveMember(ctx context.Context, node string) ([]string, error) {
	gone, err := c.RemoveNode(ctx, node)
	if err != nil || len(gone) > 0 {
		return gone, err
	}
	client, err := c.Client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	members, err := etcd.Members(ctx, client)
	if err != nil {
		return nil, err
	}
	var nodes []string
	for _, m := range members {
		nodes = append(nodes, m.Node())
	}
	return nil, fmt.Errorf("no member of the etcd cluster is on node %q: there are %s", node, strings.Join(nodes, ", "))
}

// leaveSQLite moves a SQLite database into a new etcd, and puts the database aside once etcd has all of it. A crash in
// between means that the next start begins again, or only puts aside.
func (c *Component) leaveSQLite(ctx context.Context) error {
	old := Config{Dir: c.config.Dir}
	done, err := HasEtcd(c.config.Dir)
	if err != nil {
		return err
	}
	database, err := findSQLite(old.Dir)
	if err != nil || database == "" {
		return err
	}
	if !done {
		if len(c.config.Etcd.Join) > 0 {
			return fmt.Errorf("join the etcd cluster: this server has a database of its own, %s: move it away if the cluster is to "+
				"take its place", database)
		}
		// Opened once, a database of k3s is converted.
		if err := while(ctx, old, c.log, func(context.Context, *Component, *clientv3.Client) error { return nil }); err != nil {
			return fmt.Errorf("move SQLite's data to etcd: %w%s", err, Advice(err, c.config.BackupDir))
		}
		sum, err := Migrate(ctx, old, c.config, c.log)
		if err != nil {
			return fmt.Errorf("move SQLite's data to etcd: %w", err)
		}
		c.log.Info("SQLite's data moved to etcd and verified", "keys", sum.Keys, "bytes", sum.Bytes)
	}
	aside := filepath.Join(c.config.Dir, "sqlite.migrated-"+time.Now().UTC().Format("20060102T150405Z"))
	if err := retire(aside, filepath.Join(old.Dir, sqlite.FileName())); err != nil {
		return fmt.Errorf("put SQLite's database aside: %w", err)
	}
	c.log.Info("the SQLite database is no longer used; remove it when you like", "path", aside)
	return nil
}

// PutAside moves a store away that a server would take before the one it was migrated to, since both are in its data
// directory: the server chooses by what is there. It returns where it is then; empty when it stays.
func PutAside(from, to Config) (string, error) {
	if from.Dir != to.Dir || !engineFor(from.Endpoint).local || !engineFor(to.Endpoint).local {
		return "", nil
	}
	stamp := ".migrated-" + time.Now().UTC().Format("20060102T150405Z")
	switch engineFor(from.Endpoint).name {
	case engineEmbeddedEtcd:
		aside := from.etcdDir() + stamp
		if err := os.Rename(from.etcdDir(), aside); err != nil {
			return "", fmt.Errorf("put etcd's data aside: %w", err)
		}
		return aside, atomicfile.Sync(from.Dir)
	case engineSQLite:
		aside := filepath.Join(from.Dir, "sqlite"+stamp)
		return aside, retire(aside, filepath.Join(from.Dir, sqlite.FileName()))
	}
	return "", nil
}

// findSQLite names the SQLite database in a directory, ours or k3s's; empty when there is none.
func findSQLite(dir string) (string, error) {
	for _, name := range []string{sqlite.FileName(), "state.db"} {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); err == nil {
			return file, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find database: %w", err)
		}
	}
	return "", nil
}

// retire moves a database with all of its files to a directory, the database itself last.
func retire(to, database string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	beside, err := filepath.Glob(database + "?*")
	if err != nil {
		return err
	}
	kept := filepath.Join(filepath.Dir(database), "state.db")
	more, err := filepath.Glob(kept + "*")
	if err != nil {
		return err
	}
	for _, file := range append(append(beside, more...), database) {
		if err := os.Rename(file, filepath.Join(to, filepath.Base(file))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errors.Join(atomicfile.Sync(to), atomicfile.Sync(filepath.Dir(database)))
}

// runEmbeddedEtcd runs the member and serves it in this process.
func (c *Component) runEmbeddedEtcd(ctx context.Context, ready func()) error {
	m, err := c.startMember(ctx)
	if err != nil && ctx.Err() != nil {
		return nil // asked to stop while waiting for the cluster
	}
	if err != nil {
		return fmt.Errorf("open datastore %s: %w", c.engine.name, err)
	}
	c.log.Info("datastore open", "engine", c.engine.name, "revision", m.State().Revision, "members", len(m.List()))
	c.member.Store(m)
	background, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { m.Tend(background) })
	wg.Go(func() { m.Watch(background.Done()) })
	err = c.serve(ctx, m.GRPC(serverOptions()...), m.Failed(), m.Err, ready)
	stop()
	wg.Wait()
	c.member.Store(nil)
	m.Close()
	return err
}

// embeddedStatus is the member's own view.
func (c *Component) embeddedStatus() (Status, error) {
	m := c.member.Load()
	if m == nil {
		return Status{}, ErrNotRunning
	}
	s := m.State()
	st := Status{
		Engine: c.engine.name, Revision: s.Revision, CompactRevision: s.CompactRevision,
		DiskBytes: s.DiskBytes, FreeBytes: s.FreeBytes, Members: m.List(),
	}
	if !m.HasLeader() {
		return st, errors.New("etcd has no quorum: most of its members are down or cut off; start them, or, when they are lost for " +
			"good, run knarr server --cluster-reset on one server")
	}
	if alarm := m.Alarm(); alarm != "" {
		return st, errors.New(alarm)
	}
	return st, nil
}

// Serves reports whether the store can take writes, as far as that is known without asking: of an embedded etcd, whether
// there is a quorum.
func (c *Component) Serves() bool {
	m := c.member.Load()
	return m == nil || m.HasLeader()
}

// Client returns an etcd client of the store; the caller closes it.
func (c *Component) Client() (*clientv3.Client, error) { return c.Access().client() }

// Compact deletes all history of a store that runs, and gives the space back where the engine does not by itself.
func (c *Component) Compact(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	defer client.Close()
	return c.compact(ctx, client)
}

func (c *Component) compact(ctx context.Context, client *clientv3.Client) error {
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if st.Revision > st.CompactRevision {
		if _, err := client.Compact(ctx, st.Revision, clientv3.WithCompactPhysical()); err != nil {
			return fmt.Errorf("compact datastore at revision %d: %w", st.Revision, err)
		}
	}
	if m := c.member.Load(); m != nil {
		return m.Defragment(ctx)
	}
	if b := c.backend.Load(); b != nil && b.settled != nil {
		return untilSettled(ctx, b.settled)
	}
	return nil
}

// untilSettled waits until history is deleted and space is given back, which is done in small steps.
func untilSettled(ctx context.Context, settled func() bool) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !settled() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for compaction, which goes on: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
	return nil
}

// attach makes a configuration for reading an embedded etcd: of the member that runs on this host, or of a copy of one
// that does not, which copied is called to make. done removes that.
func attach(config Config, log *slog.Logger) (c *Component, done func() error, err error) {
	none := func() error { return nil }
	if there, err := etcd.Exists(config.etcdDir()); err != nil || !there {
		return nil, none, errors.Join(err, fmt.Errorf("find database %s: %w", config.etcdDir(), fs.ErrNotExist))
	}
	running, err := etcd.InUse(config.etcdDir())
	if err != nil {
		return nil, none, err
	}
	if running {
		tls := config.Etcd.Client
		return New(Config{
			Endpoint: etcd.LocalURL(config.Etcd.Address), CAFile: tls.CA, CertFile: tls.Cert, KeyFile: tls.Key,
		}, log), none, nil
	}
	tmp, remove, err := atomicfile.Scratch(config.Dir, "etcd.copy-")
	if err != nil {
		return nil, none, fmt.Errorf("copy etcd's data: %w", err)
	}
	c = New(config, log)
	c.startMember = func(ctx context.Context) (*etcd.Member, error) {
		return etcd.StartCopy(ctx, config.etcdDir(), tmp, log)
	}
	return c, remove, nil
}

// migrateToMember fills a new member beside where it will be, verifies it, and puts it in place in one step.
func migrateToMember(ctx context.Context, source *clientv3.Client, to Config, want Sum, log *slog.Logger) (got Sum, err error) {
	if there, err := etcd.Exists(to.etcdDir()); err != nil || there {
		return Sum{}, errors.Join(err, fmt.Errorf("the new store is not empty: there is an etcd in %s", to.etcdDir()))
	}
	staged := to.stagedEtcd()
	if err := os.RemoveAll(staged); err != nil {
		return Sum{}, fmt.Errorf("remove unfinished etcd: %w", err)
	}
	c := New(to, log)
	c.startMember = func(ctx context.Context) (*etcd.Member, error) {
		return etcd.Start(ctx, etcd.Config{Dir: staged, NodeName: to.Etcd.NodeName, Args: to.Etcd.Args}, log)
	}
	err = run(ctx, c, func(ctx context.Context, _ *Component, target *clientv3.Client) error {
		if err := migrateTo(ctx, source, target); err != nil {
			return err
		}
		got, err = sumOf(ctx, target)
		return err
	})
	if err != nil {
		return Sum{}, err
	}
	if err := same(got, want); err != nil {
		return Sum{}, errors.Join(err, os.RemoveAll(staged))
	}
	if err := etcd.RaiseRevision(staged, want.Revision); err != nil {
		return Sum{}, err
	}
	if err := os.Rename(staged, to.etcdDir()); err != nil {
		return Sum{}, fmt.Errorf("put etcd in place: %w", err)
	}
	return got, atomicfile.Sync(to.Dir)
}
