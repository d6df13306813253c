package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/pki"
)

// Servers with a part of the roles. One without kube-apiserver (--disable-apiserver) is a member of the etcd cluster and no
// more: it answers those who join as servers, and runs no node. One without etcd (--disable-etcd) joins such a cluster and
// keeps its state in the members that it learned of.

// errNoAPI is what those get who need the API on a server without one.
var errNoAPI = errors.New("this server has no API (--disable-apiserver)")

// checkRoles completes what follows from the roles.
func (p *Plan) checkRoles() error {
	if p.Components.APIServer {
		return nil
	}
	if !p.hasEtcd() && !p.joins() {
		return errors.New("--disable-apiserver leaves an etcd alone, and there is none: begin one with --cluster-init, or join one with --server")
	}
	p.Components.Agent = false
	return nil
}

// elsewhere tells whether the datastore is the embedded etcd of other servers.
func (p Plan) elsewhere() bool { return !p.Components.Etcd }

// inEtcd tells whether the datastore is an embedded etcd, be it this server's or others'.
func (p Plan) inEtcd() bool { return p.hasEtcd() || p.elsewhere() }

// useEtcd has the embedded etcd of other servers for the datastore.
func (p *Plan) useEtcd(members []string) error {
	if len(members) == 0 {
		return errors.New("--disable-etcd takes servers with an embedded etcd, and none is known")
	}
	keys := pki.Config{DataDir: p.DataDir}
	client := keys.LeafPair(pki.EtcdClient)
	p.Store.Endpoint, p.Store.Apart = strings.Join(members, ","), true
	p.Store.CAFile, p.Store.CertFile, p.Store.KeyFile = keys.CAPair(pki.EtcdServerCA).Cert, client.Cert, client.Key
	return nil
}

// supervisor is the server's port where there is no kube-apiserver to listen on it.
func (p Plan) supervisor(g gate, log *slog.Logger) lifecycle.Component {
	serving := pki.NewReloadingCertificate(p.certificates().LeafPair(pki.APIServerServing))
	none := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, errNoAPI.Error(), http.StatusServiceUnavailable)
	})
	return lifecycle.Func("supervisor", func(ctx context.Context, ready func()) error {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.ListenAddress().String())
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		s := &http.Server{
			Handler: p.front(g, log)(none), ReadHeaderTimeout: readHeaderLimit, IdleTimeout: time.Minute,
			// Certificates are looked at where they matter, as behind kube-apiserver.
			TLSConfig: &tls.Config{GetCertificate: serving.GetCertificate, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12},
			ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		defer context.AfterFunc(ctx, func() { _ = s.Close() })()
		ready()
		err = s.ServeTLS(l, "", "")
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("serve: %w", err)
	})
}

// readHeaderLimit is how long a client may take to say what it wants.
const readHeaderLimit = 10 * time.Second
