// Package etcd runs a member of an etcd cluster in this process: it begins a cluster, joins one as a learner and is
// promoted when it has caught up, and starts again with what is on its disk.
//
// It knows nothing of Kubernetes, makes no certificates and decides nothing about who belongs to the cluster beyond
// its own joining: [AddMember], [RemoveMember] and [Members] are for whoever does. It is not a client either: clients in
// this process connect to the server that [Member.GRPC] makes, over whatever listener they share.
//
// [Member.Close] stops it: it hands leadership over when it can, and waits for its goroutines. Nothing depends on that
// being reached: what was acknowledged is in the write-ahead log.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// The ports of a member, etcd's own and k3s's for metrics.
const (
	ClientPort  = 2379
	PeerPort    = 2380
	MetricsPort = 2381
)

const (
	// quotaBytes is when a member refuses writes: etcd's suggested maximum.
	quotaBytes = 8 << 30
	// progressInterval is how often idle watches are told the revision, as Kubernetes asks for (kubernetes v1.37.1
	// cmd/kubeadm/app/phases/etcd/local.go, watch-progress-notify-interval).
	progressInterval = 5 * time.Second
	// slowRequest is what etcd warns of. Its own 100 ms are common while a small machine starts.
	slowRequest = time.Second
	// quorumNotice is after how long, and then how often, a member that finds no quorum says so.
	quorumNotice = 15 * time.Second
)

// TLS names the files of a certificate, its key, and the CA of the other side.
type TLS struct{ CA, Cert, Key string }

func (t TLS) info() transport.TLSInfo {
	return transport.TLSInfo{TrustedCAFile: t.CA, CertFile: t.Cert, KeyFile: t.Key, ClientCertAuth: true}
}

// client is the configuration for connecting.
func (t TLS) client() (*tls.Config, error) {
	c, err := transport.TLSInfo{TrustedCAFile: t.CA, CertFile: t.Cert, KeyFile: t.Key}.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("load etcd client certificate: %w", err)
	}
	return c, nil
}

// Config describes a member. A zero Address makes one that is alone, without listeners.
type Config struct {
	// Dir is the member's directory, made with mode 0700 when missing.
	Dir string
	// NodeName begins the member's name; the rest is drawn once and kept in Dir, so that a node that comes back empty
	// is another member.
	NodeName string
	// Address is where other members reach this one, at [PeerPort] and [ClientPort].
	Address netip.Addr
	// Peer, Server and Client secure the connections between members, to clients, and as a client of other members.
	Peer, Server, Client TLS
	// Join are client URLs of members of the cluster to join when Dir is empty; none begins a new cluster.
	Join []string
	// ForceNewCluster makes a cluster of this member alone out of what is on its disk.
	ForceNewCluster bool
	// Args are the user's, "name=value" as etcd's own flags; they win, and [CheckArgs] tells which are refused.
	Args []string
	// ExposeMetrics serves /metrics and /health at [MetricsPort] of Address and of the loopback, over plain HTTP.
	ExposeMetrics bool
}

// Member is a member that runs.
type Member struct {
	config Config
	name   string
	log    *slog.Logger
	etcd   *embed.Etcd
	// quota is the size of the database, in bytes, from which on writes are refused.
	quota int64

	closing   atomic.Bool
	fatalOnce sync.Once
	fatal     chan struct{}
	fatalErr  error
}

// Exists tells whether a directory holds a member.
func Exists(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, "member"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find etcd's data: %w", err)
	}
	return true, nil
}

// Start starts a member and returns when it answers: a cluster has a quorum, and a member that joins was promoted. ctx
// ends the attempt, not the member.
func Start(ctx context.Context, c Config, log *slog.Logger) (*Member, error) {
	m := &Member{config: c, log: log, fatal: make(chan struct{})}
	if err := atomicfile.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make etcd's directory: %w", err)
	}
	there, err := Exists(c.Dir)
	if err != nil {
		return nil, err
	}
	if m.name, err = memberName(c.Dir, c.NodeName); err != nil {
		return nil, err
	}
	cfg, err := m.embedConfig()
	if err != nil {
		return nil, err
	}
	if !there && len(c.Join) > 0 {
		if cfg.InitialCluster, err = join(ctx, c, m.name, log); err != nil {
			return nil, err
		}
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	if m.etcd, err = embed.StartEtcd(cfg); err != nil {
		return nil, fmt.Errorf("start etcd: %w", m.reason(err))
	}
	if err := m.await(ctx); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Member) embedConfig() (*embed.Config, error) {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir = m.name, m.config.Dir
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(m.logger())
	cfg.QuotaBackendBytes = quotaBytes
	cfg.WatchProgressNotifyInterval = progressInterval
	cfg.EnableGRPCGateway = false
	cfg.WarningApplyDuration, cfg.WarningUnaryRequestDuration = slowRequest, slowRequest
	cfg.ForceNewCluster = m.config.ForceNewCluster
	// The apiserver compacts. Members that differ are found at the start and after each compaction.
	cfg.AutoCompactionRetention = "0"
	gates, ok := cfg.ServerFeatureGate.(featuregate.MutableFeatureGate)
	if !ok {
		return nil, errors.New("set etcd's feature gates: they cannot be changed")
	}
	if err := gates.SetFromMap(map[string]bool{"InitialCorruptCheck": true, "CompactHashCheck": true}); err != nil {
		return nil, fmt.Errorf("set etcd's feature gates: %w", err)
	}
	m.listen(cfg)
	cfg.InitialCluster = cfg.InitialClusterFromName(m.name)
	if err := applyArgs(cfg, m.config.Args); err != nil {
		return nil, err
	}
	m.quota = cfg.QuotaBackendBytes
	return cfg, nil
}

// listen says where the member is reached. Without an address it is nowhere.
func (m *Member) listen(cfg *embed.Config) {
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	a := m.config.Address
	if !a.IsValid() {
		return
	}
	peer, client := endpoint(a, PeerPort), endpoint(a, ClientPort)
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.AdvertiseClientUrls = []url.URL{client}
	cfg.PeerTLSInfo, cfg.ClientTLSInfo = m.config.Peer.info(), m.config.Server.info()
	own := []netip.Addr{a}
	if !a.IsLoopback() {
		own = append(own, loopback(a))
	}
	for _, a := range own {
		cfg.ListenClientUrls = append(cfg.ListenClientUrls, endpoint(a, ClientPort))
		if m.config.ExposeMetrics {
			metrics := endpoint(a, MetricsPort)
			metrics.Scheme = "http"
			cfg.ListenMetricsUrls = append(cfg.ListenMetricsUrls, metrics)
		}
	}
}

func endpoint(a netip.Addr, port uint16) url.URL {
	return url.URL{Scheme: "https", Host: netip.AddrPortFrom(a, port).String()}
}

// LocalURL is where clients on this host reach a member.
func LocalURL(a netip.Addr) string {
	u := endpoint(loopback(a), ClientPort)
	return u.String()
}

func loopback(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// await waits until the cluster answers here, and says what it waits for.
func (m *Member) await(ctx context.Context) error {
	ticker := time.NewTicker(quorumNotice)
	defer ticker.Stop()
	for {
		select {
		case <-m.etcd.Server.ReadyNotify():
			if m.etcd.Server.IsLearner() {
				return m.becomeVoter(ctx)
			}
			return m.announce(ctx)
		case <-m.fatal:
			return fmt.Errorf("start etcd: %w", m.fatalErr)
		case err := <-m.etcd.Err():
			return fmt.Errorf("start etcd: %w", m.reason(err))
		case <-m.etcd.Server.StopNotify():
			return fmt.Errorf("start etcd: %w", m.reason(&RemovedError{m.config.Dir}))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
			m.log.Warn("etcd has no quorum: start more of its members, or, when most are lost for good, begin a new cluster "+
				"with what this one has: knarr server --cluster-reset", "members", memberNames(m.List()))
		}
	}
}

// announce tells the cluster this member's address when it changed.
func (m *Member) announce(ctx context.Context) error {
	if !m.config.Address.IsValid() {
		return nil
	}
	want := endpoint(m.config.Address, PeerPort)
	self := m.etcd.Server.Cluster().Member(m.etcd.Server.MemberID())
	if self == nil || len(self.PeerURLs) == 1 && self.PeerURLs[0] == want.String() {
		return nil
	}
	moved := *self
	moved.PeerURLs = []string{want.String()}
	if _, err := m.etcd.Server.UpdateMember(ctx, moved); err != nil {
		return fmt.Errorf("tell the etcd cluster this member's new address %s: %w", want.Host, err)
	}
	m.log.Info("this member of the etcd cluster has a new address", "address", want.Host)
	return nil
}

// reason is what etcd said before it gave up, or else err.
func (m *Member) reason(err error) error {
	select {
	case <-m.fatal:
		return m.fatalErr
	default:
		return err
	}
}

// GRPC makes a server of the etcd API for clients in this process, who are not asked who they are.
func (m *Member) GRPC(opts ...grpc.ServerOption) *grpc.Server {
	return v3rpc.Server(m.etcd.Server, nil, nil, opts...)
}

// Failed is closed when the member cannot go on; Err then says why.
func (m *Member) Failed() <-chan struct{} { return m.fatal }

// Err is why the member failed.
func (m *Member) Err() error {
	select {
	case <-m.fatal:
		return m.fatalErr
	default:
		return nil
	}
}

// fail records why the member cannot go on.
func (m *Member) fail(err error) {
	m.fatalOnce.Do(func() {
		m.fatalErr = err
		close(m.fatal)
	})
}

// RemovedError is the end of a member that was removed from its cluster: etcd stops by itself for no other reason. Its
// exit code is 3, as that of an agent whose node was deleted: who started the process shall not start it again.
type RemovedError struct {
	// Dir is the member's directory.
	Dir string
}

func (e *RemovedError) Error() string {
	return fmt.Sprintf("this server was removed from its etcd cluster, as when its node is deleted: to have it join again, remove %s and start it with "+
		"--server and a good token (`knarr token join-command --role server` on another server prints the line); to clean this machine up, run `knarr uninstall`", e.Dir)
}

// ExitCode is 3.
func (*RemovedError) ExitCode() int { return 3 }

// Watch waits until the member ends by itself, which it calls a failure, or stop is closed.
func (m *Member) Watch(stop <-chan struct{}) {
	select {
	case <-stop:
	case <-m.fatal:
	case err := <-m.etcd.Err():
		m.fail(fmt.Errorf("etcd ended: %w", err))
	case <-m.etcd.Server.StopNotify():
		m.fail(&RemovedError{m.config.Dir})
	}
}

// Close stops the member.
func (m *Member) Close() {
	m.closing.Store(true)
	m.etcd.Close()
}

// logger leads etcd's records to ours. What etcd finds worth an Info is of interest to its developers.
func (m *Member) logger() *zap.Logger {
	return zap.New(core{log: m.log, closing: &m.closing}, zap.WithFatalHook(fatalHook{m}))
}
