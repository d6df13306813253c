// Package datastore gives the cluster its store: it serves the etcd API over SQLite or over an external SQL server,
// and for an external etcd it says where that is.
//
// It is not a client: whoever wants to read or write connects an etcd client to what [Component.Access] returns. It
// holds no Kubernetes knowledge beyond the transactions kine's etcd server understands.
//
// It stops when the context of [Component.Run] ends: first the etcd server stops taking calls and lets the ones under
// way finish for at most 0.3 seconds (watches never do), then the backend is closed. Nothing depends on that being
// reached: an acknowledged write is on disk when it is acknowledged.
package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/k3s-io/kine/pkg/server"
	"github.com/knarr-io/knarr/pkg/datastore/etcd"
	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
	"github.com/knarr-io/knarr/pkg/seal"
)

// Config says which store to open and where to serve it. The zero value but for Dir is SQLite, reached in-process.
type Config struct {
	// Endpoint names the store. Empty means SQLite in Dir. Otherwise a URL as k3s's --datastore-endpoint has it:
	// postgres://, mysql://, nats://, http(s):// or unix:// for an etcd cluster (several, separated by commas), or
	// kine-sqlite:// for kine's own SQLite driver in Dir, or [EmbeddedEtcd].
	Endpoint string
	// Dir is the directory of the SQLite database, made with mode 0700 when missing. Unused by external stores.
	Dir string
	// CAFile, CertFile and KeyFile secure the connection to an external store. All optional; CertFile and KeyFile
	// go together.
	CAFile, CertFile, KeyFile string
	// Listen is where to serve the etcd API beside the in-process way: unix:///PATH or tcp://HOST:PORT. Empty means
	// in-process only. A tcp listener has no authentication: it is for loopback addresses and tests.
	Listen string
	// Etcd is for [EmbeddedEtcd].
	Etcd Etcd
	// Apart says that Endpoint is the embedded etcd of other servers, whose members Status then tells.
	Apart bool
	// BackupDir is where backups are made, so that the newest can be named when the database is found damaged.
	BackupDir string
}

// Access tells how to connect an etcd client to the store.
type Access struct {
	// Endpoints are etcd endpoints, at least one.
	Endpoints []string
	// CAFile, CertFile and KeyFile are for the client's TLS, when Endpoints are an external etcd's.
	CAFile, CertFile, KeyFile string
	// Dial, when not nil, makes the connection in-process, whatever the address: no socket is involved. It fits
	// grpc.WithContextDialer after dropping its network argument, and the DialFunc that
	// k8s.io/apiserver/pkg/storage/storagebackend.TransportConfig.EgressLookup returns.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Status is a snapshot of the store's state.
type Status struct {
	// Engine names the store: sqlite, kine-sqlite, postgres, mysql, nats, etcd or etcd-embedded.
	Engine string `json:"engine"`
	// Revision is the newest revision.
	Revision int64 `json:"revision"`
	// CompactRevision is the oldest revision that can still be read; 0 when never compacted or unknown to the engine.
	CompactRevision int64 `json:"compactRevision"`
	// DiskBytes is what the store occupies, as the engine reports it.
	DiskBytes int64 `json:"diskBytes"`
	// FreeBytes of these will be used again before the store grows. Only SQLite tells.
	FreeBytes int64 `json:"freeBytes,omitempty"`
	// Members are those of the embedded etcd's cluster, as far as this one knows.
	Members []etcd.Info `json:"members,omitempty"`
	// Running tells whether a server uses the store; nil when that cannot be told.
	Running *bool `json:"running,omitempty"`
}

// backend is what an engine hands to the etcd server.
type backend struct {
	server.Backend
	// close ends the engine and waits for its goroutines. It is called after the last call has returned.
	close func() error
	// failed, when not nil, is closed when the engine cannot go on; err then says why.
	failed <-chan struct{}
	err    func() error
	// settled tells whether a compaction is through; nil when the engine cannot tell.
	settled func() bool
	// compactRevision is nil when the engine cannot tell.
	compactRevision func() int64
}

// Component is the store as a part of the process. Use [New].
type Component struct {
	config Config
	log    *slog.Logger
	engine engine
	pipe   *pipeListener
	// backend is nil until Run has opened it, and so is member, of which there is one or the other.
	backend atomic.Pointer[backend]
	member  atomic.Pointer[etcd.Member]
	// startMember starts the member of an embedded etcd.
	startMember func(context.Context) (*etcd.Member, error)
	running     sync.Mutex // held during Run: a Component runs once at a time
}

// New describes the store; nothing is opened before Run.
func New(config Config, log *slog.Logger) *Component {
	c := &Component{config: config, log: log, engine: engineFor(config.Endpoint), pipe: newPipeListener()}
	c.startMember = c.ownMember
	return c
}

// Name implements lifecycle.Component.
func (c *Component) Name() string { return "datastore" }

// Prepare checks the configuration and makes the database's directory.
func (c *Component) Prepare(context.Context) error {
	if c.engine.open == nil && c.engine.name != engineEtcd && c.engine.name != engineEmbeddedEtcd {
		return fmt.Errorf("datastore endpoint %q: unknown scheme; use one of %s, or none for SQLite",
			redact(c.config.Endpoint), strings.Join(schemes(), ", "))
	}
	if err := etcd.CheckArgs(c.config.Etcd.Args); err != nil {
		return err
	}
	if (c.config.CertFile == "") != (c.config.KeyFile == "") {
		return errors.New("datastore TLS: certificate file and key file go together, give both or neither")
	}
	for _, f := range []string{c.config.CAFile, c.config.CertFile, c.config.KeyFile} {
		if f == "" {
			continue
		}
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("find datastore TLS file: %w", err)
		}
	}
	if c.engine.local {
		if !filepath.IsAbs(c.config.Dir) {
			return fmt.Errorf("datastore directory %q: must be an absolute path", c.config.Dir)
		}
		if err := os.MkdirAll(c.config.Dir, 0o700); err != nil {
			return fmt.Errorf("make datastore directory: %w", err)
		}
	}
	return nil
}

// Run implements lifecycle.Component: it opens the store, serves the etcd API and calls ready once that answers. For
// an external etcd it only waits until the cluster answers.
func (c *Component) Run(ctx context.Context, ready func()) error {
	c.running.Lock()
	defer c.running.Unlock()
	if err := c.Prepare(ctx); err != nil {
		return err
	}
	switch c.engine.name {
	case engineEtcd:
		return c.runExternalEtcd(ctx, ready)
	case engineEmbeddedEtcd:
		return c.runEmbeddedEtcd(ctx, ready)
	}
	b, err := c.openEngine(ctx)
	if err != nil && ctx.Err() != nil {
		return nil // asked to stop while waiting for the store
	}
	if err != nil {
		return fmt.Errorf("open datastore %s: %w%s", c.engine.name, err, Advice(err, c.config.BackupDir))
	}
	c.backend.Store(b)
	err = c.serve(ctx, kineServer(ctx, b), b.failed, b.err, ready)
	c.backend.Store(nil)
	if cerr := b.close(); cerr != nil && err == nil {
		err = fmt.Errorf("close datastore: %w", cerr)
	}
	return err
}

// Advice names the newest backup that is whole when an error says that the database is damaged; else it is empty. It goes
// behind the error.
func Advice(err error, backupDir string) string {
	var damage *sqlite.DamageError
	if !errors.As(err, &damage) || backupDir == "" {
		return ""
	}
	files, globErr := filepath.Glob(filepath.Join(backupDir, "*-????????T??????Z.knarr-backup"))
	if globErr != nil {
		return ""
	}
	slices.SortFunc(files, func(a, b string) int { // by the time that their names end with
		const end = len("20060102T150405Z.knarr-backup")
		return strings.Compare(a[len(a)-end:], b[len(b)-end:])
	})
	for _, f := range slices.Backward(files) {
		if seal.Check(f) == nil {
			return "; the newest good backup here is " + f + ": stop knarr and run `knarr restore " + f + "`"
		}
	}
	return "; there is no good backup in " + backupDir
}

// Check implements lifecycle.Checker: it fails when the store does not answer.
func (c *Component) Check(ctx context.Context) error {
	_, err := c.Status(ctx)
	return err
}

// ErrNotRunning is returned by calls that need the store open.
var ErrNotRunning = errors.New("datastore is not running")

// Status asks the store for its state. It returns [ErrNotRunning] before Run has opened the store and after it ended.
func (c *Component) Status(ctx context.Context) (Status, error) {
	switch c.engine.name {
	case engineEtcd:
		return c.externalStatus(ctx)
	case engineEmbeddedEtcd:
		return c.embeddedStatus()
	}
	b := c.backend.Load()
	if b == nil {
		return Status{}, ErrNotRunning
	}
	st := Status{Engine: c.engine.name}
	var err error
	if st.Revision, err = b.CurrentRevision(ctx); err != nil {
		return Status{}, fmt.Errorf("read datastore revision: %w", err)
	}
	if st.DiskBytes, err = b.DbSize(ctx); err != nil {
		return Status{}, fmt.Errorf("read datastore size: %w", err)
	}
	if b.compactRevision != nil {
		st.CompactRevision = b.compactRevision()
	}
	return st, nil
}

// Access tells how to connect an etcd client. It may be called before Run; connections are taken once Run is ready.
func (c *Component) Access() Access {
	if c.engine.name == engineEtcd {
		return Access{
			Endpoints: strings.Split(c.config.Endpoint, ","),
			CAFile:    c.config.CAFile, CertFile: c.config.CertFile, KeyFile: c.config.KeyFile,
		}
	}
	return Access{
		// The address is never dialled, but etcd clients want one, and kine's server answers MemberList with it.
		Endpoints: []string{"http://datastore.knarr.internal:2379"},
		Dial:      func(ctx context.Context, _, _ string) (net.Conn, error) { return c.pipe.DialContext(ctx) },
	}
}
