package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// ErrClock marks an error that goes away once the machine's clock is right.
var ErrClock = errors.New("the clock of this machine is wrong")

const (
	// backdate lets a certificate be valid before it was made, so that a machine
	// without a battery-backed clock, which wakes up in the past until it has
	// reached a time server, still starts. A leaf never predates its authority.
	backdate = 30 * 24 * time.Hour

	// caExpiryWarning is how long before its end an authority is warned about.
	caExpiryWarning = 365 * 24 * time.Hour
)

// earliestClock is a time that has passed. An authority made while the clock
// says less would be expired the moment the clock is set.
func earliestClock() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// authority is a certificate authority that can sign.
type authority struct {
	cert *x509.Certificate // the one whose key signs
	key  crypto.Signer
	// bundle is the file as it is on disk: cert, then what leads to its root.
	bundle []byte
	certs  []*x509.Certificate // all of the bundle; empty for one just made
	// chain is what a leaf carries behind itself: the bundle from cert up,
	// without self-signed roots, which a verifier must have anyway. Empty for an
	// authority of our own making.
	chain []*x509.Certificate
	// notAfter is the first end among cert and its chain to the root.
	notAfter time.Time
	warnings []string
}

// parseAuthority reads the two files of an authority, made by us or placed by
// the user, and says what is wrong with them in words that fit behind the name
// of the file.
func parseAuthority(certPEM, keyPEM []byte) (*authority, error) {
	certs, err := cert.ParseCertsPEM(certPEM)
	if err != nil {
		return nil, fmt.Errorf("the .crt holds no readable certificate (%w)", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("the .key holds no readable private key (%w)", err)
	}
	a := &authority{cert: certs[0], certs: certs, key: key, bundle: certPEM, notAfter: certs[0].NotAfter}
	if !samePublicKey(key, a.cert) {
		return nil, errors.New("the .key does not belong to the first certificate of the .crt")
	}
	return a, a.checkUse()
}

// checkUse makes sure that the first certificate may sign.
func (a *authority) checkUse() error {
	if !a.cert.IsCA || !a.cert.BasicConstraintsValid {
		return fmt.Errorf("the first certificate of the .crt (%s) is not a certificate authority", a.cert.Subject)
	}
	if a.cert.KeyUsage != 0 && a.cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("the first certificate of the .crt (%s) may not sign certificates", a.cert.Subject)
	}
	return nil
}

// checkLife compares the clock with the life of every certificate in the file.
func (a *authority) checkLife(now time.Time) error {
	for _, c := range a.certs {
		if err := checkValidity(c, now); err != nil {
			return err
		}
	}
	return nil
}

// checkChain makes sure that the certificates behind the first one lead to a
// root, where the file brings any, and finds the first end on that way.
func (a *authority) checkChain(now time.Time) error {
	var roots, others []*x509.Certificate
	for _, c := range a.certs {
		if selfSigned(c) {
			roots = append(roots, c)
		} else {
			others = append(others, c)
		}
	}
	switch {
	case len(roots) == 0:
		a.warnings = append(a.warnings, "holds no root certificate: append its chain, root last, so that every TLS client can verify it")
		a.chain = others
	case a.cert != roots[0]:
		a.chain = others
		path, err := a.cert.Verify(x509.VerifyOptions{
			Roots: pool(roots), Intermediates: pool(others), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err != nil {
			return fmt.Errorf("the first certificate of the .crt does not lead to a root in the same file (%w)", err)
		}
		for _, c := range path[0] {
			a.notAfter = earlier(a.notAfter, c.NotAfter)
		}
	}
	if left := a.notAfter.Sub(now); left < caExpiryWarning {
		a.warnings = append(a.warnings, fmt.Sprintf("expires on %s, in %d days: an authority is never renewed by itself", day(a.notAfter), int(left.Hours()/24)))
	}
	return nil
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// newAuthority makes a self-signed authority named name for key.
func newAuthority(name string, key crypto.Signer, now time.Time) (*authority, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: fmt.Sprintf("knarr-%s@%d", name, now.Unix())},
		NotBefore:             now.Add(-backdate).UTC(),
		NotAfter:              now.Add(CALifetime).UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign CA certificate %s: %w", template.Subject, err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse new CA certificate %s: %w", template.Subject, err)
	}
	bundle, err := cert.EncodeCertificates(made)
	if err != nil {
		return nil, fmt.Errorf("encode new CA certificate %s: %w", template.Subject, err)
	}
	return &authority{cert: made, key: key, bundle: bundle, notAfter: made.NotAfter}, nil
}

// issue signs leaf for the public key pub. The certificate ends with its
// authority at the latest.
func (a *authority) issue(leaf PlannedLeaf, pub crypto.PublicKey, now time.Time, life time.Duration) ([]byte, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: leaf.CommonName, Organization: leaf.Groups},
		NotBefore:   later(a.cert.NotBefore, now.Add(-backdate)).UTC(),
		NotAfter:    earlier(a.notAfter, now.Add(life)).UTC(),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: leaf.usage(),
		DNSNames:    leaf.DNSNames,
	}
	if _, ec := pub.(*ecdsa.PublicKey); !ec {
		template.KeyUsage |= x509.KeyUsageKeyEncipherment
	}
	for _, ip := range leaf.IPs {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign %s certificate: %w", leaf.Name, err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: der})
	for _, c := range a.chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: cert.CertificateBlockType, Bytes: c.Raw})...)
	}
	return out, nil
}

func (l PlannedLeaf) usage() []x509.ExtKeyUsage {
	switch {
	case l.ID == EtcdPeer:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	case l.Serving():
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
}

// newKey makes an ECDSA P-256 key, which takes microseconds where RSA takes
// up to a second on a small machine.
func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate private key: %w", err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode private key: %w", err)
	}
	return key, keyPEM, nil
}

// parseKey reads the first private key of data, as kube-apiserver would.
func parseKey(data []byte) (crypto.Signer, error) {
	key, err := keyutil.ParsePrivateKeyPEM(data)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return signer, nil
}

func samePublicKey(key crypto.Signer, c *x509.Certificate) bool {
	pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(c.PublicKey)
}

func selfSigned(c *x509.Certificate) bool {
	return slices.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}

// checkValidity compares the clock with the life of an authority's certificate.
func checkValidity(c *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(c.NotBefore):
		return fmt.Errorf("%s is valid from %s, but this machine's clock says %s: %w; set it, for example with NTP, and start again",
			c.Subject, stamp(c.NotBefore), stamp(now), ErrClock)
	case now.After(c.NotAfter):
		return fmt.Errorf("%s expired on %s, and this machine's clock says %s: set the clock if that is wrong, else put a new CA in place as docs/certificates.md describes",
			c.Subject, stamp(c.NotAfter), stamp(now))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
func day(t time.Time) string   { return t.UTC().Format(time.DateOnly) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
