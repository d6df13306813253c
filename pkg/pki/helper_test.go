package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/knarr-io/knarr/tests/golden"
)

const days = 24 * time.Hour

// testNow is the time of the first start in these tests.
func testNow() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

func testConfig(dir string) Config {
	return Config{
		DataDir:          filepath.Join(dir, "data"),
		Agent:            true,
		Etcd:             true,
		NodeName:         "node-1",
		NodeIPs:          []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")},
		AdvertiseAddress: netip.MustParseAddr("192.0.2.10"),
		ServiceCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/112")},
		ClusterDomain:    "cluster.local",
		ExtraSANs:        []string{"Knarr.Example.com.", "198.51.100.7"},
		ServerURL:        "https://127.0.0.1:6443",
		AgentServerURL:   "https://127.0.0.1:6444",
		Admin:            AdminKubeconfig{Path: filepath.Join(dir, "etc", "knarr.yaml")},
	}
}

// check compares got with testdata/name, after dir has been replaced in it.
func check(t *testing.T, name, got, dir string) {
	t.Helper()
	golden.Check(t, filepath.Join("testdata", name), strings.ReplaceAll(got, dir, "DIR"))
}

func mustEnsure(t *testing.T, now time.Time, c Config) Result {
	t.Helper()
	result, err := Ensure(now, c)
	if err != nil {
		t.Fatalf("Ensure: %v", err)
	}
	return result
}

// startedConfig returns a configuration whose files have been made at testNow.
func startedConfig(t *testing.T) Config {
	t.Helper()
	c := testConfig(t.TempDir())
	mustEnsure(t, testNow(), c)
	return c
}

func readCert(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ".crt")+".key")
	if err != nil {
		t.Fatal(err)
	}
	return pair.Leaf
}

func slurp(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func spill(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// snapshot is every file below the directories of c.
func snapshot(t *testing.T, c Config) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, root := range []string{c.DataDir, filepath.Dir(c.Admin.Path)} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files[path] = string(slurp(t, path))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// verifyAll fails unless every file of the plan is there, private where it must
// be, and accepted by the verifier that a client or server would use at now.
func verifyAll(t *testing.T, now time.Time, c Config) {
	t.Helper()
	plan := NewPlan(c)
	for _, leaf := range plan.Leaves {
		if err := verifyLeaf(now, c, leaf); err != nil {
			t.Errorf("%s: %v", leaf.Name, err)
		}
	}
	for _, k := range plan.Kubeconfigs {
		config, err := clientcmd.BuildConfigFromFlags("", k.Path)
		if err != nil {
			t.Errorf("%s: %v", k.Path, err)
		} else if config.Host != k.Server {
			t.Errorf("%s is for %s, want %s", k.Path, config.Host, k.Server)
		}
	}
	for path := range snapshot(t, c) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		private := !strings.HasSuffix(path, ".crt")
		if private && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o, want 600", path, info.Mode().Perm())
		}
		if strings.HasSuffix(path, ".tmp") {
			t.Errorf("%s was left behind", path)
		}
	}
}

func verifyLeaf(now time.Time, c Config, leaf PlannedLeaf) error {
	pair, err := tls.LoadX509KeyPair(leaf.Pair.Cert, leaf.Pair.Key)
	if err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	bundle, err := os.ReadFile(c.CAPair(leaf.CA).Cert)
	if err != nil {
		return err
	}
	roots.AppendCertsFromPEM(bundle)
	for _, der := range pair.Certificate[1:] {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		between.AddCert(parsed)
	}
	names := append([]string{""}, leaf.DNSNames...)
	for _, ip := range leaf.IPs {
		names = append(names, ip.String())
	}
	for _, name := range names {
		for _, usage := range leaf.usage() {
			options := x509.VerifyOptions{
				Roots: roots, Intermediates: between, CurrentTime: now, DNSName: name, KeyUsages: []x509.ExtKeyUsage{usage},
			}
			if _, err := pair.Leaf.Verify(options); err != nil {
				return fmt.Errorf("as %q: %w", name, err)
			}
		}
	}
	if cn := pair.Leaf.Subject.CommonName; cn != leaf.CommonName {
		return fmt.Errorf("common name %q, want %q", cn, leaf.CommonName)
	}
	return nil
}

// changes writes what Ensure did, one line each.
func changes(r Result) string {
	var b bytes.Buffer
	for _, c := range r.Changes {
		fmt.Fprintf(&b, "%s %s: %s\n", c.Action, c.Name, c.Reason)
	}
	return b.String()
}
