package server

import (
	"net/netip"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/datastore/etcd"
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

		Args:          c.Args.Etcd.Slice(),
		ExposeMetrics: c.Datastore.ExposeMetrics,
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

// checkEtcdFlags refuses flags for an embedded etcd that is not there, which the configuration alone does not tell.
func (p Plan) checkEtcdFlags() error {
	if p.hasEtcd() || p.joins() {
		return nil
	}
	const why = "there is no embedded etcd: the datastore is SQLite; begin an etcd cluster with --cluster-init, or remove this"
	if args := p.Args.Etcd.Slice(); len(args) > 0 {
		return &etcd.UsageError{Flag: "etcd-arg=" + args[0], Why: why}
	}
	if p.Datastore.ExposeMetrics {
		return &etcd.UsageError{Flag: "etcd-expose-metrics", Why: why}
	}
	return nil
}

// hasEtcd tells whether the store is an etcd in this process.
func (p Plan) hasEtcd() bool { return p.Store.Endpoint == datastore.EmbeddedEtcd }
