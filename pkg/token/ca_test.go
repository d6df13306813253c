package token

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T, name string, parent *testCA) testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2046, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true,
	}
	signer := testCA{template, key}
	if parent != nil {
		signer = *parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, &key.PublicKey, signer.key)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return testCA{made, key}
}

func (c testCA) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

func digest(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

func TestHashCA(t *testing.T) {
	root := newCA(t, "root", nil)
	middle := newCA(t, "middle", &root)
	tests := []struct {
		name   string
		bundle []byte
		want   string
	}{
		{"self-signed: the file", root.pem(), digest(root.pem())},
		{"with its chain: the root's fingerprint", slices.Concat(middle.pem(), root.pem()), digest(root.cert.Raw)},
		{"the root first", slices.Concat(root.pem(), middle.pem()), digest(root.cert.Raw)},
		{"a chain without root: its last", slices.Concat(newCA(t, "leaf", &middle).pem(), middle.pem()), digest(middle.cert.Raw)},
	}
	for _, tt := range tests {
		if got, err := HashCA(tt.bundle); err != nil || got != tt.want {
			t.Errorf("%s: got %s, %v, want %s", tt.name, got, err, tt.want)
		}
	}
	for _, bad := range []string{"", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, err := HashCA([]byte(bad)); err == nil {
			t.Errorf("%q has a hash", bad)
		}
	}
}

func TestVerifyCA(t *testing.T) {
	root, other := newCA(t, "root", nil), newCA(t, "other", nil)
	middle := newCA(t, "middle", &root)
	full := func(bundle []byte) Token {
		token, err := Generate().WithCA(bundle)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	chain := slices.Concat(middle.pem(), root.pem())
	renewed := slices.Concat(newCA(t, "middle", &root).pem(), root.pem())
	padded := slices.Concat(chain, other.pem())
	tests := []struct {
		name    string
		token   Token
		bundle  []byte
		trusted []byte // nil: refused
	}{
		{"same file", full(root.pem()), root.pem(), root.pem()},
		{"another cluster", full(root.pem()), other.pem(), nil},
		{"chain", full(chain), chain, root.pem()},
		{"CA below the root replaced", full(chain), renewed, root.pem()},
		{"a foreign CA added is not trusted", full(chain), padded, root.pem()},
		{"a foreign CA added to a file", full(root.pem()), slices.Concat(root.pem(), other.pem()), nil},
		{"short form", Generate(), other.pem(), other.pem()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			trusted, err := tt.token.VerifyCA(tt.bundle)
			if string(trusted) != string(tt.trusted) {
				t.Errorf("trusts\n%swant\n%s", trusted, tt.trusted)
			}
			if errors.Is(err, ErrForeignCA) != (tt.trusted == nil) {
				t.Errorf("error %v", err)
			}
			if err != nil && strings.Contains(err.Error(), tt.token.Password()) {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
	if _, err := full(root.pem()).VerifyCA([]byte("<html>")); err == nil || errors.Is(err, ErrForeignCA) {
		t.Errorf("what is no certificate: %v", err)
	}
}
