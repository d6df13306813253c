package pki

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"
)

// testNow is a time later than any clock this code may be built under.
func testNow() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) }

func testConfig(dir string) Config {
	return Config{
		DataDir:          filepath.Join(dir, "data"),
		Agent:            true,
		NodeName:         "node-1",
		NodeIPs:          []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")},
		AdvertiseAddress: netip.MustParseAddr("192.0.2.10"),
		ServiceCIDRs:     []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/112")},
		ClusterDomain:    "cluster.local",
		ExtraSANs:        []string{"knarr.example.com", "198.51.100.7"},
		ServerURL:        "https://127.0.0.1:6443",
		AgentServerURL:   "https://127.0.0.1:6444",
		Admin:            AdminKubeconfig{Path: filepath.Join(dir, "etc", "knarr.yaml")},
	}
}

func BenchmarkFirstStart(b *testing.B) {
	for b.Loop() {
		if _, err := Ensure(testNow(), testConfig(b.TempDir())); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLaterStart(b *testing.B) {
	cfg := testConfig(b.TempDir())
	if _, err := Ensure(testNow(), cfg); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Ensure(testNow(), cfg); err != nil {
			b.Fatal(err)
		}
	}
}
