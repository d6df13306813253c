package token

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// ErrForeignCA says that a CA is not the one a token was made for.
var ErrForeignCA = errors.New("the token belongs to another cluster")

// HashCA computes what the full form of a token pins, from the server CA file
// as it is on disk. For a CA of knarr's own making, one self-signed
// certificate, that is the SHA-256 sum of the file. For a CA placed by the user
// with its chain it is the fingerprint of the root, the SHA-256 sum of its DER
// encoding, so that the CA below the root can be replaced and tokens stay good.
func HashCA(bundle []byte) (string, error) {
	certs, err := parseCerts(bundle)
	if err != nil {
		return "", err
	}
	if len(certs) == 1 {
		return sum(bundle), nil
	}
	root := certs[len(certs)-1]
	if i := slices.IndexFunc(certs, selfSigned); i >= 0 {
		root = certs[i]
	}
	return sum(root.Raw), nil
}

// WithCA returns t in its full form for a cluster with this server CA.
func (t Token) WithCA(bundle []byte) (Token, error) {
	hash, err := HashCA(bundle)
	if err != nil {
		return Token{}, err
	}
	t.caHash = hash
	return t, nil
}

// VerifyCA compares a CA bundle, fetched from whoever answered, with the hash
// that t pins, and returns the part of the bundle that the hash vouches for:
// all of it where the hash is that of the whole bundle, only the root where it
// is a root's fingerprint, since anything else in the bundle may be added by
// anybody. Trust only what is returned. A short token vouches for nothing and
// against nothing: the bundle comes back as it is.
//
// The error wraps ErrForeignCA when the bundle is of another cluster.
func (t Token) VerifyCA(bundle []byte) ([]byte, error) {
	certs, err := parseCerts(bundle)
	if err != nil {
		return nil, err
	}
	if t.caHash == "" || sum(bundle) == t.caHash {
		return bundle, nil
	}
	for _, c := range certs {
		if sum(c.Raw) == t.caHash && c.IsCA {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), nil
		}
	}
	return nil, fmt.Errorf("compare cluster CA with the token: %w: it is for the CA with hash %s…, this cluster has %s…; take the token from server/token of the cluster to join",
		ErrForeignCA, t.caHash[:12], sum(bundle)[:12])
}

func parseCerts(bundle []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(bundle); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse cluster CA: %w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("parse cluster CA: no certificate in it")
	}
	return certs, nil
}

func selfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(c) == nil
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}
