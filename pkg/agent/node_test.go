package agent

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/upstream/host"
	"github.com/knarr-io/knarr/tests/bed"
	"github.com/knarr-io/knarr/tests/golden"
)

// given makes the node that a command line leads to on machine h.
func given(t *testing.T, h host.Host, line ...string) Node {
	t.Helper()
	c := bed.Server(t, line...)
	return Node{
		Common:  c.Common,
		Cluster: Cluster{Network: c.Network, DNS: c.ClusterDNS().Slice(), KubeProxy: true, PauseImage: "docker.io/knarr/pause:1"},
		Name:    "box",
		Host:    h,
		IPs:     []netip.Addr{netip.MustParseAddr("192.0.2.10")},
		Dir:     datadir.New(c.DataDir),
		Run:     datadir.NewRun(datadir.DefaultRun),
		Keys:    pki.Config{DataDir: c.DataDir},
	}
}

// render is everything that the components of a node are given.
func render(t *testing.T, n Node) string {
	t.Helper()
	var b strings.Builder
	section := func(title, body string) { b.WriteString("# " + title + "\n" + strings.TrimRight(body, "\n") + "\n\n") }
	toml, err := n.containerd().TOML(nil)
	if err != nil {
		t.Fatal(err)
	}
	section("containerd", string(toml))
	section("kubelet", strings.Join(n.kubelet().Args(), "\n"))
	defaults, err := n.kubelet().DefaultsFile()
	if err != nil {
		t.Fatal(err)
	}
	section("kubelet configuration", string(defaults))
	section("kube-proxy", strings.Join(n.kubeProxy().Args(), "\n"))
	return b.String()
}

// TestArguments shows, as a diff of a golden file, what every change does to what upstream components are told.
func TestArguments(t *testing.T) {
	usual := host.Host{CgroupV2: true, CgroupControllers: []string{"cpu", "hugetlb", "memory", "pids"}, SystemdCgroups: true, Logind: true, SysResource: true, NFTables: true, ConntrackWritable: true, OpenFiles: 1 << 20}
	for name, c := range map[string]struct {
		host host.Host
		line []string
	}{
		"default":    {host: usual},
		"restricted": {host: host.Host{CgroupControllers: []string{"memory"}, OpenFiles: 4096, OOMScoreAdj: -100}},
		"user": {usual, []string{
			"kubelet-arg=max-pods=20", "kube-proxy-arg=proxy-mode=iptables", "node-label=a=b", "node-taint=c=d:NoSchedule",
			"cluster-domain=site.example", "snapshotter=btrfs", "default-runtime=crun", "selinux=true", "nonroot-devices=true",
			"protect-kernel-defaults=true",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			golden.Check(t, filepath.Join("testdata", name+".golden"), render(t, given(t, c.host, c.line...)))
		})
	}
}

// TestOwnNetwork has a network that the user brings find its places; knarr's own has its.
func TestOwnNetwork(t *testing.T) {
	for backend, want := range map[string]string{
		"host-gw": "/var/lib/knarr/data/current/cni, /var/lib/knarr/agent/etc/cni/net.d",
		"none":    "/var/lib/knarr/data/current/cni:/opt/cni/bin, /etc/cni/net.d",
	} {
		plugins, networks := given(t, host.Host{}, "flannel-backend="+backend).cni()
		if got := strings.Join(plugins, ":") + ", " + networks; got != want {
			t.Errorf("%s: got %s, want %s", backend, got, want)
		}
	}
}
