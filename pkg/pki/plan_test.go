package pki

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestPlanGolden shows the tables as a reviewer wants to see a change of them.
func TestPlanGolden(t *testing.T) {
	c := testConfig("/DIR")
	var b strings.Builder
	plan := NewPlan(c)
	for _, ca := range plan.CAs {
		fmt.Fprintf(&b, "ca %s\n  cert %s\n  key  %s\n  copy %s\n", ca.Name, ca.Pair.Cert, ca.Pair.Key, ca.CopyTo)
	}
	fmt.Fprintf(&b, "service account key %s\n", plan.ServiceKey)
	for _, l := range plan.Leaves {
		fmt.Fprintf(&b, "leaf %s (--service %s)\n  cert %s\n  key  %s\n  ca   %s\n  user %s %v\n", l.Name, l.Service, l.Pair.Cert, l.Pair.Key, caTable()[l.CA].name, l.CommonName, l.Groups)
		if l.Serving() {
			fmt.Fprintf(&b, "  dns  %v\n  ip   %v\n", l.DNSNames, l.IPs)
		}
	}
	for _, k := range plan.Kubeconfigs {
		fmt.Fprintf(&b, "kubeconfig %s %s\n  server %s\n  ca     %s\n  user   %s embedded=%t\n", k.Name, k.Path, k.Server, k.CAFile, k.User.Cert, k.Embedded)
	}
	check(t, "plan.golden", b.String(), "/DIR")
}

func TestPlanWithoutAgent(t *testing.T) {
	c := testConfig("/DIR")
	c.Agent = false
	plan := NewPlan(c)
	for _, l := range plan.Leaves {
		if strings.Contains(l.Pair.Cert, "/agent/") {
			t.Errorf("%s is planned on a server without an agent", l.Pair.Cert)
		}
	}
	for _, k := range plan.Kubeconfigs {
		if strings.Contains(k.Path, "/agent/") {
			t.Errorf("%s is planned on a server without an agent", k.Path)
		}
	}
	if len(plan.Leaves) != 12 || plan.CAs[0].CopyTo != "" {
		t.Errorf("got %d leaves and copy %q, want 12 and none", len(plan.Leaves), plan.CAs[0].CopyTo)
	}
}

// TestTablesAreWhole catches a row forgotten in an array indexed by name.
func TestTablesAreWhole(t *testing.T) {
	files := map[string]string{}
	claim := func(file, who string) {
		if file == "" {
			t.Errorf("%s has no file", who)
		}
		if other, taken := files[file]; taken {
			t.Errorf("%s and %s share %s", who, other, file)
		}
		files[file] = who
	}
	for i, row := range caTable() {
		claim(row.file, fmt.Sprintf("CA %d %s", i, row.name))
	}
	for i, row := range leafTable() {
		claim(row.file, fmt.Sprintf("leaf %d %s", i, row.name))
		if row.user == "" || row.service == "" {
			t.Errorf("leaf %d %s has no user or no service", i, row.name)
		}
	}
	for i, row := range kubeconfigTable() {
		if Kubeconfig(i) != AdminFile {
			claim(row.file, fmt.Sprintf("kubeconfig %d %s", i, row.name))
		}
		if leaf := leafTable()[row.user]; leaf.names != nil {
			t.Errorf("kubeconfig %d %s authenticates with the serving certificate %s", i, row.name, leaf.name)
		}
	}
	if got := len(SharedFiles()); got != 2*int(numCAs)+1 {
		t.Errorf("%d shared files, want both files of each CA and the service account key", got)
	}
}

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string // part of the error; empty: none
	}{
		{"good", func(*Config) {}, ""},
		{"relative data directory", func(c *Config) { c.DataDir = "data" }, `data directory "data" is not an absolute path`},
		{"no server", func(c *Config) { c.ServerURL = "" }, "server URL is empty"},
		{"no domain", func(c *Config) { c.ClusterDomain = "" }, "cluster domain is empty"},
		{"no node", func(c *Config) { c.NodeName = "" }, "node name is empty"},
		{"no node and no agent", func(c *Config) { c.NodeName, c.Agent = "", false }, ""},
		{"relative kubeconfig", func(c *Config) { c.Admin.Path = "k.yaml" }, `admin kubeconfig "k.yaml" is not an absolute path`},
		{"wildcard", func(c *Config) { c.ExtraSANs = []string{"*.example.com"} }, ""},
		{"address", func(c *Config) { c.ExtraSANs = []string{"2001:db8::1"} }, ""},
		{"port", func(c *Config) { c.ExtraSANs = []string{"example.com:6443"} }, `has a port: write "example.com"`},
		{"URL", func(c *Config) { c.ExtraSANs = []string{"https://example.com"} }, "neither a host name nor an IP address"},
		{"empty", func(c *Config) { c.ExtraSANs = []string{""} }, "neither a host name nor an IP address"},
		{"all at once", func(c *Config) { c.ServerURL, c.ExtraSANs = "", []string{"a b"} }, `server URL is empty; tls-san "a b"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig("/DIR")
			tt.change(&c)
			err := c.Validate()
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestSplitNames(t *testing.T) {
	dns, ips := splitNames([]string{"b", "A.", "a", "::ffff:192.0.2.1", "192.0.2.1", "fe80::1%eth0", ""})
	if !slices.Equal(dns, []string{"a", "b"}) {
		t.Errorf("DNS names %q", dns)
	}
	want := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fe80::1")}
	if !slices.Equal(ips, want) {
		t.Errorf("addresses %v, want %v", ips, want)
	}
}
