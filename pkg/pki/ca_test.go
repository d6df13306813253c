package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/util/keyutil"
)

// testCA is an authority made outside knarr.
type testCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newTestCA(t *testing.T, name string, key crypto.Signer, parent *testCA, notAfter time.Time) testCA {
	t.Helper()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: testNow().Add(-days), NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, key.Public(), signerKey)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return testCA{made, key}
}

func (ca testCA) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

func (ca testCA) place(t *testing.T, pair Pair, chain ...testCA) {
	t.Helper()
	bundle := ca.pem()
	for _, c := range chain {
		bundle = append(bundle, c.pem()...)
	}
	spill(t, pair.Cert, bundle)
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(ca.key)
	if err != nil {
		t.Fatal(err)
	}
	spill(t, pair.Key, keyPEM)
}

func ecKey(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestUserCA places an intermediate authority with its chain, with an RSA key,
// before the first start.
func TestUserCA(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	end := testNow().AddDate(20, 0, 0)
	root := newTestCA(t, "corporate root", ecKey(t, elliptic.P384()), nil, end)
	middle := newTestCA(t, "department", rsaKey, &root, testNow().Add(500*days))
	issuing := newTestCA(t, "cluster", rsaKey, &middle, end)

	c := testConfig(t.TempDir())
	issuing.place(t, c.CAPair(ServerCA), middle, root)
	before := slurp(t, c.CAPair(ServerCA).Cert)
	result := mustEnsure(t, testNow(), c)
	verifyAll(t, testNow(), c)
	if string(slurp(t, c.CAPair(ServerCA).Cert)) != string(before) {
		t.Error("the user's CA was changed")
	}
	if len(result.Warnings) > 0 {
		t.Errorf("warnings: %q", result.Warnings)
	}
	// Whoever trusts only the root must get all that lies below it.
	got := strings.Count(string(slurp(t, c.LeafPair(APIServerServing).Cert)), "BEGIN")
	if got != 3 {
		t.Errorf("the serving certificate comes with %d certificates, want 3: itself and two authorities below the root", got)
	}

	// A leaf never outlives the chain, and is not renewed in vain at its end.
	now := testNow().Add(400 * days)
	result = mustEnsure(t, now, c)
	if leaf := readCert(t, c.LeafPair(KubeletServing).Cert); !leaf.NotAfter.Equal(middle.cert.NotAfter) {
		t.Errorf("the leaf ends %v, want %v as the chain", leaf.NotAfter, middle.cert.NotAfter)
	}
	if want := "server-ca " + c.CAPair(ServerCA).Cert + " expires on " + day(middle.cert.NotAfter) + ", in 100 days"; len(result.Warnings) != 1 || !strings.HasPrefix(result.Warnings[0], want) {
		t.Errorf("warnings %q, want one with %q", result.Warnings, want)
	}
	if again := mustEnsure(t, now.Add(days), c); len(again.Changes) > 0 {
		t.Errorf("renewed in vain:\n%s", changes(again))
	}

	// The issuing authority renewed by the user: same root, same key.
	longer := newTestCA(t, "department", rsaKey, &root, end)
	issuing.place(t, c.CAPair(ServerCA), longer, root)
	got2 := changes(mustEnsure(t, now.Add(2*days), c))
	if !strings.Contains(got2, "reissued kube-apiserver serving: the chain of its CA changed\n") {
		t.Errorf("after a new chain:\n%s", got2)
	}
	verifyAll(t, now.Add(2*days), c)
}

func TestUserCAWithoutRoot(t *testing.T) {
	c := testConfig(t.TempDir())
	end := testNow().AddDate(20, 0, 0)
	root := newTestCA(t, "root", ecKey(t, elliptic.P256()), nil, end)
	newTestCA(t, "cluster", ecKey(t, elliptic.P256()), &root, end).place(t, c.CAPair(ClientCA))
	result := mustEnsure(t, testNow(), c)
	verifyAll(t, testNow(), c)
	if len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0], "holds no root certificate") {
		t.Errorf("warnings %q, want one about the root", result.Warnings)
	}
}

// TestUserServiceKey keeps a key of the user, of more than one block.
func TestUserServiceKey(t *testing.T) {
	c := testConfig(t.TempDir())
	var data []byte
	for range 2 {
		_, keyPEM, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, keyPEM...)
	}
	spill(t, c.ServiceKey(), data)
	mustEnsure(t, testNow(), c)
	if string(slurp(t, c.ServiceKey())) != string(data) {
		t.Error("the user's key was changed")
	}
}

// TestRefusals are states that only a person can mend: the error says which
// file and what to do, and nothing changes.
func TestRefusals(t *testing.T) {
	end := testNow().AddDate(20, 0, 0)
	server := func(c Config) Pair { return c.CAPair(ServerCA) }
	tests := []struct {
		name   string
		now    time.Time
		spoil  func(*testing.T, Config)
		want   []string
		fresh  bool // spoil before the first start
		clocks bool
	}{
		{name: "CA key missing", spoil: func(t *testing.T, c Config) { remove(server(c).Key) },
			want: []string{"server-ca ", "its private key", "server-ca.key is missing: restore it"}},
		{name: "CA certificate missing", spoil: func(t *testing.T, c Config) { remove(server(c).Cert) },
			want: []string{"server-ca.crt: the file is missing while its private key is there: restore it"}},
		{name: "CA certificate damaged", spoil: func(t *testing.T, c Config) { spill(t, server(c).Cert, []byte("torn")) },
			want: []string{"no readable certificate", "never replaced by itself: restore"}},
		{name: "CA files empty", spoil: func(t *testing.T, c Config) { spill(t, server(c).Cert, nil); spill(t, server(c).Key, nil) },
			want: []string{"no readable certificate", "restore"}},
		{name: "CA key damaged", spoil: func(t *testing.T, c Config) { spill(t, server(c).Key, []byte("torn")) },
			want: []string{"the .key holds no readable private key", "restore"}},
		{name: "CA key of another", spoil: func(t *testing.T, c Config) { spill(t, server(c).Key, slurp(t, c.CAPair(ClientCA).Key)) },
			want: []string{"the .key does not belong to the first certificate", "restore"}},
		{name: "a leaf as CA", spoil: func(t *testing.T, c Config) {
			spill(t, server(c).Cert, slurp(t, c.LeafPair(AdminClient).Cert))
			spill(t, server(c).Key, slurp(t, c.LeafPair(AdminClient).Key))
		}, want: []string{"system:admin", "is not a certificate authority"}},
		{name: "chain in the wrong order", fresh: true, spoil: func(t *testing.T, c Config) {
			root := newTestCA(t, "root", ecKey(t, elliptic.P256()), nil, end)
			root.place(t, server(c))
			sub := newTestCA(t, "sub", ecKey(t, elliptic.P256()), &root, end)
			bundle := append(root.pem(), sub.pem()...)
			sub.place(t, server(c))
			spill(t, server(c).Cert, bundle)
		}, want: []string{"the .key does not belong to the first certificate"}},
		{name: "chain of another root", fresh: true, spoil: func(t *testing.T, c Config) {
			root := newTestCA(t, "root", ecKey(t, elliptic.P256()), nil, end)
			other := newTestCA(t, "other", ecKey(t, elliptic.P256()), nil, end)
			newTestCA(t, "sub", ecKey(t, elliptic.P256()), &root, end).place(t, server(c), other)
		}, want: []string{"does not lead to a root in the same file"}},
		{name: "half a first start with a damaged key", fresh: true, spoil: func(t *testing.T, c Config) { spill(t, server(c).Key, []byte("torn")) },
			want: []string{"cannot be read", "remove the key to begin with a new CA"}},
		{name: "service account key damaged", spoil: func(t *testing.T, c Config) { spill(t, c.ServiceKey(), []byte("torn")) },
			want: []string{"service account key", "service.key", "restore", "ends every service account token"}},
		{name: "clock before the CA", now: testNow().AddDate(-1, 0, 0), spoil: func(*testing.T, Config) {}, clocks: true,
			want: []string{"is valid from 2026-10-22", "clock says 2025-11-21", "NTP"}},
		{name: "clock at the epoch on a first start", now: time.Unix(3600, 0), fresh: true, spoil: func(*testing.T, Config) {}, clocks: true,
			want: []string{"clock says 1970-01-01 01:00:00 UTC", "NTP"}},
		{name: "CA expired", now: testNow().AddDate(11, 0, 0), spoil: func(*testing.T, Config) {},
			want: []string{"knarr-server-ca@", "expired on 2036-11-18", "docs/certificates.md"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig(t.TempDir())
			if !tt.fresh {
				mustEnsure(t, testNow(), c)
			}
			tt.spoil(t, c)
			now := tt.now
			if now.IsZero() {
				now = testNow()
			}
			before := snapshotIfAny(t, c, tt.fresh)
			_, err := Ensure(now, c)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is missing in: %v", part, err)
				}
			}
			if errors.Is(err, ErrClock) != tt.clocks {
				t.Errorf("blames the clock: %t, want %t", !tt.clocks, tt.clocks)
			}
			if after := snapshotIfAny(t, c, tt.fresh); !maps.Equal(before, after) {
				t.Error("files changed")
			}
		})
	}
}

func snapshotIfAny(t *testing.T, c Config, fresh bool) map[string]string {
	t.Helper()
	if fresh {
		// The directories may not be there yet.
		unlock, err := lockDirectories(c)
		if err != nil {
			t.Fatal(err)
		}
		unlock()
	}
	return snapshot(t, c)
}
