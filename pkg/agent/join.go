package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/loadbalancer"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/tunnel"
)

const (
	// joinLimit is how long a machine tries to join before it gives up and says why; who started it starts it again.
	joinLimit = 8 * time.Second
	// refreshLimit is how long a member waits for news of its cluster before it starts with what it knows.
	refreshLimit = 3 * time.Second
)

// member is an agent on its way into its cluster, and in it.
type member struct {
	plan
	client *join.Client
	// known is what the server said, now or last time, and guarded by mu once components run.
	mu    sync.Mutex
	known join.Cluster
	// settings are those that this process runs with; cluster is the same as a configuration.
	settings []join.Setting
	cluster  config.Server
	// leave ends the process for a reason.
	leave context.CancelCauseFunc
	// deleted is whether the reason was that the node is no member any more.
	deleted atomic.Bool
	// offline is whether no server could be reached at the start.
	offline bool
	// lb and tunnelClient are the way to the servers, once assembled.
	lb           *loadbalancer.Balancer
	tunnelClient *tunnel.Client
}

// join makes the machine a member: it fetches what members have in common and has its certificates signed. A machine
// that is a member already asks for news, but starts without a server as well.
func (m *member) join(ctx context.Context, log *slog.Logger) error {
	state := m.state()
	password, err := state.Password()
	if err != nil {
		return err
	}
	known, err := state.Load()
	if err != nil {
		return err
	}
	m.client = &join.Client{URL: m.server, Token: m.token, Node: m.nodeName, Password: password}
	online := true
	ca, certificate, member := m.credentials()
	if known != nil && member {
		m.client.CA, m.client.Certificate, m.known = ca, certificate, *known
		online, err = m.refresh(ctx, log)
	} else {
		err = m.enter(ctx, log)
	}
	if err != nil {
		return err
	}
	m.offline = !online
	if err := m.settle(); err != nil {
		return err
	}
	if err := m.ensure(ctx, time.Now(), online); err != nil {
		if online {
			return fmt.Errorf("get the node's certificates: %w", err)
		}
		log.Warn("the node's certificates cannot be renewed while no server is reached", "error", err)
	}
	return state.Store(m.known)
}

// credentials are what a member has: the cluster's CA and a valid certificate for its node.
func (m *member) credentials() (ca []byte, certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error), ok bool) {
	keys := m.certificates(config.Server{})
	ca, err := os.ReadFile(keys.AgentCA(pki.ServerCA))
	if err != nil {
		return nil, nil, false
	}
	pair := keys.LeafPair(pki.KubeletClient)
	cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil || cert.Leaf.Subject.CommonName != "system:node:"+m.nodeName || time.Now().After(cert.Leaf.NotAfter) {
		return nil, nil, false
	}
	return ca, pki.NewReloadingCertificate(pair).GetClientCertificate, true
}

// enter joins with the token.
func (m *member) enter(ctx context.Context, log *slog.Logger) error {
	if m.token.IsZero() {
		return errors.New("this machine has joined no cluster yet and needs a token: give the line that `knarr token join-command` prints on a server, or --token or --token-file")
	}
	m.client.CA, m.client.Certificate = nil, nil
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	log.Info("joining", "server", m.server.Host, "node", m.nodeName)
	return join.Patiently(ctx, "server "+m.server.Host, func(ctx context.Context) error {
		pinned, err := m.client.Discover(ctx)
		if err != nil {
			return err
		}
		if !pinned {
			log.Warn("the token has no CA hash: whoever answered is trusted; use the full token, K10...::..., as `knarr token join-command` prints it", "server", m.server.Host)
		}
		m.known, err = m.client.Cluster(ctx)
		return err
	})
}

// refresh asks for news with the node's certificate; false: nobody could be asked. A member that its cluster does not
// know any more, as after the cluster was made anew, enters again.
func (m *member) refresh(ctx context.Context, log *slog.Logger) (online bool, err error) {
	if _, err := m.token.VerifyCA(m.client.CA); !m.token.IsZero() && err != nil {
		return false, fmt.Errorf("this machine is a member of a cluster already, and --token is for another (%w): run `knarr uninstall` first to join that", err)
	}
	short, cancel := context.WithTimeout(ctx, refreshLimit)
	defer cancel()
	var fresh join.Cluster
	for _, server := range append([]string{m.server.Host}, m.known.Servers...) {
		at := *m.client.URL
		at.Host = server
		one := *m.client
		one.URL = &at
		if fresh, err = one.Cluster(short); err == nil {
			fresh.Servers = mergeServers(fresh.Servers, m.known.Servers)
			m.known, m.client = fresh, &one
			return true, nil
		}
		if errors.Is(err, join.ErrRefused) && !m.token.IsZero() {
			log.Warn("the cluster does not accept this node's certificate; joining again", "error", err)
			return true, m.enter(ctx, log)
		}
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	log.Warn("no server can be reached: starting with what is known of the cluster", "error", err)
	return false, nil
}

func mergeServers(fresh, known []string) []string {
	if len(fresh) > 0 {
		return fresh
	}
	return known
}

// settle turns what the server said into configuration and compares it with what this machine was told.
func (m *member) settle() (err error) {
	m.settings = m.known.Settings
	if m.cluster, err = config.FromCluster(settingsOf(m.settings)); err != nil {
		return err
	}
	if lines := m.conflicts(m.settings); len(lines) > 0 {
		return fmt.Errorf("this machine's configuration is not that of the cluster: %s; leave out what the servers decide, or give the same", strings.Join(lines, "; "))
	}
	return nil
}

// ensure makes the node's certificates, or renews them.
func (m *member) ensure(ctx context.Context, now time.Time, online bool) error {
	keys := m.certificates(m.cluster)
	if !online {
		keys.RenewBefore = 1 // only what is of no use any more
	}
	_, err := pki.EnsureJoined(ctx, now, keys, pki.JoinedCAs{Server: m.client.CA, Client: m.known.ClientCA}, m.signer(m.client))
	return err
}

// signer has certificates signed by the server that client asks.
func (m *member) signer(client *join.Client) pki.RemoteSigner {
	ips := m.certificates(m.cluster).NodeIPs
	return func(ctx context.Context, name string, csr []byte) (cert []byte, err error) {
		ctx, cancel := context.WithTimeout(ctx, joinLimit)
		defer cancel()
		err = join.Patiently(ctx, "certificate "+name, func(ctx context.Context) error {
			cert, err = client.Sign(ctx, ips, name, csr)
			return err
		})
		return cert, err
	}
}

// renew is ensure by a member that runs, through the load balancer: any server will do.
func (m *member) renew(ctx context.Context, now time.Time) (pki.Result, error) {
	ca, certificate, ok := m.credentials()
	if !ok {
		return pki.Result{}, errors.New("the node's certificate has ended: start the agent again with a token")
	}
	balanced := *m.server
	balanced.Host = m.balancer().String()
	client := &join.Client{URL: &balanced, Node: m.nodeName, CA: ca, Certificate: certificate}
	fresh, err := client.Cluster(ctx)
	if err != nil {
		return pki.Result{}, err
	}
	return pki.EnsureJoined(ctx, now, m.certificates(m.cluster), pki.JoinedCAs{Server: ca, Client: fresh.ClientCA}, m.signer(client))
}

// serverTLS verifies servers and shows the node's certificate.
func (m *member) serverTLS() (*tls.Config, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(m.client.CA) {
		return nil, errors.New("the cluster's CA cannot be read")
	}
	pair := m.certificates(m.cluster).LeafPair(pki.KubeletClient)
	return &tls.Config{
		RootCAs: pool, MinVersion: tls.VersionTLS12,
		GetClientCertificate: pki.NewReloadingCertificate(pair).GetClientCertificate,
	}, nil
}
