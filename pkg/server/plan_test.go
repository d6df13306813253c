package server

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/tests/bed"
	"github.com/knarr-io/knarr/tests/golden"
)

// given makes the plan that a command line leads to on a usual machine.
func given(t *testing.T, line ...string) Plan {
	t.Helper()
	c := bed.Server(t, line...)
	store, err := DatastoreConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return Plan{
		Store:    store,
		Server:   c,
		Dir:      datadir.New(c.DataDir),
		Run:      datadir.NewRun(datadir.DefaultRun),
		NodeName: c.NodeName(""),
		HostIPs:  []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")},
	}
}

// render is everything that upstream components are given, in the order in which they start.
func render(t *testing.T, p Plan) string {
	t.Helper()
	var b strings.Builder
	section := func(title, body string) { b.WriteString("# " + title + "\n" + strings.TrimRight(body, "\n") + "\n\n") }
	section("kube-apiserver", strings.Join(p.apiServer(datastore.New(p.datastore(), slog.New(slog.DiscardHandler)).Access()).Args(), "\n"))
	section("kube-controller-manager", strings.Join(p.controllerManager().Args(), "\n"))
	section("kube-scheduler", strings.Join(p.scheduler().Args(), "\n"))
	return b.String()
}

// TestArguments shows, as a diff of a golden file, what every change does to what upstream components are told.
func TestArguments(t *testing.T) {
	for name, line := range map[string][]string{
		"default":    nil,
		"dual-stack": {"cluster-cidr=10.42.0.0/16,fd00:42::/56", "service-cidr=10.43.0.0/16,fd00:43::/112", "flannel-ipv6-masq=true"},
		"user":       {"kube-apiserver-arg=audit-log-path=/var/log/audit", "kube-apiserver-arg=anonymous-auth=true", "kube-scheduler-arg=profiling=true", "kube-controller-manager-arg=node-monitor-period=2s", "cluster-domain=site.example", "bind-address=192.0.2.10"},
	} {
		t.Run(name, func(t *testing.T) {
			golden.Check(t, filepath.Join("testdata", name+".golden"), render(t, given(t, line...)))
		})
	}
}
