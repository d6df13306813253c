package pki

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"time"

	"k8s.io/client-go/util/cert"
)

// RemoteSigner has the cluster sign the request csr, in PEM, for the node's
// certificate called name, and returns the certificate with its chain.
type RemoteSigner func(ctx context.Context, name string, csr []byte) ([]byte, error)

// JoinedCAs are the bundles of the authorities that a node knows, in PEM.
type JoinedCAs struct {
	Server []byte
	Client []byte
}

// EnsureJoined is Ensure on a machine that joined a cluster: the keys of the
// authorities are on the servers, so sign has the node's certificates signed
// there. The private keys are made here and never leave the machine. When all
// is in place and long valid, nothing is asked of anybody.
func EnsureJoined(ctx context.Context, now time.Time, c Config, cas JoinedCAs, sign RemoteSigner) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, err
	}
	r := &run{cfg: c, plan: NewPlan(c), now: now, write: writeFile}
	r.sign = func(leaf PlannedLeaf, key crypto.Signer) ([]byte, error) {
		csr, err := request(leaf, key)
		if err != nil {
			return nil, err
		}
		return sign(ctx, leaf.remoteName(), csr)
	}
	unlock, err := lockDirectories(c)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	for id, bundle := range map[CA][]byte{ServerCA: cas.Server, ClientCA: cas.Client} {
		if r.authorities[id], err = publicAuthority(bundle, now); err != nil {
			return r.result, fmt.Errorf("%s of the cluster: %w", caTable()[id].name, err)
		}
	}
	for _, id := range []CA{ServerCA, ClientCA} {
		if err := r.derived(caTable()[id].name+" of the cluster", c.AgentCA(id), r.authorities[id].bundle, certMode); err != nil {
			return r.result, err
		}
	}
	for _, stage := range []func() error{r.ensureLeaves, r.ensureKubeconfigs} {
		if err := stage(); err != nil {
			return r.result, err
		}
	}
	return r.result, nil
}

// remoteName is what a node calls one of its certificates when it has it signed.
func (l PlannedLeaf) remoteName() string { return path.Base(leafTable()[l.ID].file) }

// publicAuthority is an authority that cannot sign here.
func publicAuthority(bundle []byte, now time.Time) (*authority, error) {
	certs, err := cert.ParseCertsPEM(bundle)
	if err != nil {
		return nil, fmt.Errorf("it holds no readable certificate (%w)", err)
	}
	a := &authority{cert: certs[0], certs: certs, bundle: bundle, notAfter: certs[0].NotAfter}
	for _, check := range []func() error{
		a.checkUse,
		func() error { return a.checkLife(now) },
		func() error { return a.checkChain(now) },
	} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func request(leaf PlannedLeaf, key crypto.Signer) ([]byte, error) {
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: leaf.CommonName, Organization: leaf.Groups}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("make a signing request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: cert.CertificateRequestBlockType, Bytes: der}), nil
}

// ErrRequest marks what is wrong with a signing request, in distinction to what
// is wrong with the authorities here.
var ErrRequest = errors.New("the signing request is refused")

// SignNode signs the request of a node, csr in PEM, for its certificate called
// name. Of the request only the public key counts: user, groups, usage and
// names follow from the table, the node's name and its addresses, which the
// caller has made sure of. Names of the servers themselves are refused: with
// them a node could pose as the API to others.
func SignNode(now time.Time, c Config, node string, ips []netip.Addr, name string, csr []byte) ([]byte, error) {
	id := slices.IndexFunc(leafSlice(), func(row leafRow) bool { return row.place != onServer && path.Base(row.file) == name })
	if id < 0 {
		return nil, fmt.Errorf("%w: there is no certificate %q", ErrRequest, name)
	}
	pub, err := requestKey(csr)
	if err != nil {
		return nil, err
	}
	row := leafTable()[id]
	leaf := Config{DataDir: c.DataDir, NodeName: node, NodeIPs: ips}.planLeaf(Leaf(id), row)
	if err := c.ownNames(leaf); err != nil {
		return nil, err
	}
	pair := c.CAPair(row.ca)
	certPEM, keyPEM, err := readPair(pair)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pair.Cert, err)
	}
	ca, err := loadCA(PlannedCA{ID: row.ca, Pair: pair}, certPEM, keyPEM, now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pair.Cert, err)
	}
	return ca.issue(leaf, pub, now, c.leafLifetime())
}

func leafSlice() []leafRow { t := leafTable(); return t[:] }

// requestKey is the public key of a request that its owner has signed.
func requestKey(csr []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(csr)
	if block == nil || block.Type != cert.CertificateRequestBlockType {
		return nil, fmt.Errorf("%w: it is not in PEM", ErrRequest)
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	return r.PublicKey, nil
}

// ownNames refuses a serving certificate for a name of this server that is not
// every machine's own, such as localhost.
func (c Config) ownNames(leaf PlannedLeaf) error {
	if !leaf.Serving() {
		return nil
	}
	dns, ips := splitNames(apiServerNames(c))
	for _, name := range leaf.DNSNames {
		if name != "localhost" && slices.Contains(dns, name) {
			return fmt.Errorf("%w: %s is a name of the servers", ErrRequest, name)
		}
	}
	for _, ip := range leaf.IPs {
		if !ip.IsLoopback() && slices.Contains(ips, ip) {
			return fmt.Errorf("%w: %s is an address of the servers", ErrRequest, ip)
		}
	}
	return nil
}
