package pki

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/client-go/util/cert"
)

// leafState is what the two files of a leaf certificate were found to be.
type leafState struct {
	certPEM []byte              // nil: no file
	keyPEM  []byte              // nil: no file
	cert    *x509.Certificate   // nil: none that can be read
	chain   []*x509.Certificate // cert and what follows it in the file
	key     crypto.Signer       // nil: none that can be used
	problem string              // why the certificate must be issued; empty: it is good
}

// inspectLeaf compares the files of a leaf certificate with what the plan
// wants and its authority signs. It changes nothing, and no state of the files
// is an error: a leaf can always be issued anew.
func inspectLeaf(want PlannedLeaf, certPEM, keyPEM []byte, ca *authority, now time.Time, renewBefore time.Duration) leafState {
	s := inspectPair(certPEM, keyPEM)
	if s.problem == "" {
		s.problem = contentProblem(want, s.chain, ca)
	}
	if s.problem == "" {
		s.problem = timeProblem(s.cert, ca, now, renewBefore)
	}
	return s
}

// inspectPair looks at the two files by themselves.
func inspectPair(certPEM, keyPEM []byte) leafState {
	s := leafState{certPEM: certPEM, keyPEM: keyPEM}
	if key, err := parseKey(keyPEM); err == nil {
		s.key = key
	}
	if certs, err := cert.ParseCertsPEM(certPEM); err == nil {
		s.cert, s.chain = certs[0], certs
	}
	switch {
	case certPEM == nil && keyPEM == nil:
		s.problem = "missing"
	case keyPEM == nil:
		s.problem = "the private key is missing"
	case s.key == nil:
		s.problem = "the private key is damaged"
	case certPEM == nil:
		s.problem = "the certificate is missing"
	case s.cert == nil:
		s.problem = "the certificate is damaged"
	case !samePublicKey(s.key, s.cert):
		s.problem = "the private key does not belong to the certificate"
		s.key = nil // whose it is, is not known
	}
	return s
}

// contentProblem says how a certificate differs from the plan.
func contentProblem(want PlannedLeaf, certs []*x509.Certificate, ca *authority) string {
	have := certs[0]
	dns, ips := sortedNames(have)
	switch {
	case !slices.Equal(have.RawIssuer, ca.cert.RawSubject) || have.CheckSignatureFrom(ca.cert) != nil:
		return "another CA signed it"
	case !slices.EqualFunc(certs[1:], ca.chain, (*x509.Certificate).Equal):
		return "the chain of its CA changed"
	case have.Subject.CommonName != want.CommonName:
		return fmt.Sprintf("its user changed from %q to %q", have.Subject.CommonName, want.CommonName)
	case !slices.Equal(have.Subject.Organization, want.Groups):
		return fmt.Sprintf("its groups changed from %q to %q", have.Subject.Organization, want.Groups)
	case !slices.Equal(have.ExtKeyUsage, want.usage()):
		return "its usage changed"
	case !slices.Equal(dns, want.DNSNames) || !slices.Equal(ips, want.IPs):
		return "its names changed: " + nameChange(dns, ips, want)
	}
	return ""
}

// timeProblem says why a certificate must be renewed now. One that already
// lives as long as its authority gains nothing from being renewed.
func timeProblem(have *x509.Certificate, ca *authority, now time.Time, renewBefore time.Duration) string {
	left := have.NotAfter.Sub(now)
	switch {
	case now.Before(have.NotBefore):
		return "it is valid only from " + stamp(have.NotBefore)
	case left <= 0:
		return "it expired on " + stamp(have.NotAfter)
	case left < renewBefore && have.NotAfter.Before(ca.notAfter.Truncate(time.Second)):
		return "it expires on " + stamp(have.NotAfter)
	}
	return ""
}

func sortedNames(c *x509.Certificate) (dns []string, ips []netip.Addr) {
	for _, ip := range c.IPAddresses {
		addr, _ := netip.AddrFromSlice(ip) // x509 parses only 4 or 16 bytes
		ips = append(ips, addr.Unmap())
	}
	dns = slices.Sorted(slices.Values(c.DNSNames))
	slices.SortFunc(ips, netip.Addr.Compare)
	return dns, ips
}

// nameChange writes the difference as "+new -old".
func nameChange(dns []string, ips []netip.Addr, want PlannedLeaf) string {
	have, wanted := slices.Clone(dns), slices.Clone(want.DNSNames)
	for _, ip := range ips {
		have = append(have, ip.String())
	}
	for _, ip := range want.IPs {
		wanted = append(wanted, ip.String())
	}
	var out bytes.Buffer
	for _, name := range wanted {
		if !slices.Contains(have, name) {
			fmt.Fprintf(&out, " +%s", name)
		}
	}
	for _, name := range have {
		if !slices.Contains(wanted, name) {
			fmt.Fprintf(&out, " -%s", name)
		}
	}
	return string(bytes.TrimSpace(out.Bytes()))
}
