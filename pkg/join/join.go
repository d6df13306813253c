// Package join is how a machine becomes a member of a cluster, both ends of it. The agent ([Client]) fetches the
// cluster's CA and compares it with the hash in its token before it sends anything secret, shows the token, and gets
// what is the same for all members ([Cluster]) and certificates for keys that stay with it. The server ([Server])
// answers on the port of the API, in front of it. A machine that shows the server token is given what makes it one of
// the servers ([Bundle]).
//
// It does not run a node, and makes no certificates itself: pkg/pki does.
//
// Nothing here runs by itself; every call ends with its context or request.
package join

import (
	"errors"
	"net/netip"
)

// The paths of the server's end. Everything else on the port is the API's.
const (
	prefix          = "/v1-knarr/"
	pathCAs         = prefix + "cacerts"
	pathCluster     = prefix + "cluster"
	pathCertificate = prefix + "certificate"
	pathServer      = prefix + "server"
	// PathTunnel is where pkg/tunnel begins.
	PathTunnel = prefix + "tunnel"
)

// headerPassword carries the password of the node's name; see nodes.go.
const headerPassword = "Knarr-Node-Password"

// headerNode carries the node's name where no certificate says it.
const headerNode = "Knarr-Node-Name"

// Setting is a flag of the servers that all members of a cluster have in common, as a user would write it.
type Setting struct {
	Flag  string `json:"flag"`
	Value string `json:"value"`
}

// Cluster is what a member has to know of its cluster.
type Cluster struct {
	// Version is of the server that answered.
	Version  string    `json:"version"`
	Settings []Setting `json:"settings"`
	// ClientCA is the bundle of the authority of clients, in PEM.
	ClientCA []byte `json:"clientCA"`
	// Servers are the addresses of the servers, "host:port".
	Servers []string `json:"servers,omitempty"`
	// Etcd is what a server without an etcd of its own keeps: client URLs of the others' members, out of the [Bundle].
	Etcd []string `json:"etcd,omitempty"`
}

// certificateRequest asks for one of the node's certificates.
type certificateRequest struct {
	Name string       `json:"name"` // as pkg/pki calls it
	CSR  []byte       `json:"csr"`  // in PEM
	IPs  []netip.Addr `json:"ips"`  // the node's addresses
}

type certificateReply struct {
	Certificate []byte `json:"certificate"` // with its chain, in PEM
}

// problem is the body of every refusal.
type problem struct {
	Error string `json:"error"`
}

// Errors that a caller may want to tell apart. All of them are final: trying again does not help.
var (
	// ErrRefused is the server's no, with its reason around it.
	ErrRefused = errors.New("the server refused")
	// ErrClock says that this machine's clock, or the server's, is wrong.
	ErrClock = errors.New("the clocks of this machine and of the server differ")
)
