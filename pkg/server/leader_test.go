package server

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// TestLease has a lease above the control loops only where several servers can be.
func TestLease(t *testing.T) {
	for name, tt := range map[string]struct {
		line []string
		want bool
	}{
		"SQLite":        {nil, false},
		"SQLite, named": {[]string{"datastore-endpoint=sqlite://"}, false},
		"etcd":          {[]string{"cluster-init=true"}, true},
		"PostgreSQL":    {[]string{"datastore-endpoint=postgres://u@192.0.2.9/db"}, true},
	} {
		log := slog.New(slog.DiscardHandler)
		g := lifecycle.NewGroup(log)
		base := g.Add(lifecycle.Func("base", nil))
		parts, err := Assemble(g, base, given(t, append(tt.line, "data-dir="+t.TempDir())...), log)
		if err != nil {
			t.Fatal(err)
		}
		has := func(name string) bool {
			return slices.ContainsFunc(g.Status(), func(s lifecycle.Status) bool { return s.Name == name })
		}
		if (parts.Elector != nil) != tt.want || has("leader-election") != tt.want || has("bootstrap") != tt.want || has("kube-scheduler") == tt.want {
			t.Errorf("%s: components %v", name, g.Status())
		}
	}
}

func TestVirtualIP(t *testing.T) {
	for name, tt := range map[string]struct {
		line []string
		want string
	}{
		"with etcd":      {[]string{"cluster-init=true", "virtual-ip=192.0.2.100"}, ""},
		"one that joins": {[]string{"server=https://192.0.2.1:6443", "virtual-ip=192.0.2.100"}, ""},
		"with SQLite":    {[]string{"virtual-ip=192.0.2.100"}, "the datastore is for one"},
		"its own":        {[]string{"cluster-init=true", "virtual-ip=192.0.2.10"}, "this server's own address"},
		"other family":   {[]string{"cluster-init=true", "virtual-ip=2001:db8::5"}, "no address of that IP family"},
	} {
		p := given(t, tt.line...)
		err := p.checkVirtualIP()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if tt.want == "" && !slices.Contains(p.certificates().ExtraSANs, "192.0.2.100") {
			t.Errorf("%s: the API's certificate is not valid for the virtual address", name)
		}
	}
}

// TestSettle has a server that joins take over what it was not told, and refuse what differs.
func TestSettle(t *testing.T) {
	known := join.Cluster{}
	for _, s := range given(t, "cluster-cidr=10.50.0.0/16", "disable=traefik", "virtual-ip=192.0.2.100").Shared() {
		known.Settings = append(known.Settings, join.Setting(s))
	}
	p := given(t, "server=https://192.0.2.1:6443", "cluster-domain=cluster.local")
	if err := p.settle(known); err != nil {
		t.Fatal(err)
	}
	var now []join.Setting
	for _, s := range p.Shared() {
		now = append(now, join.Setting(s))
	}
	if lines := join.Differences(now, known.Settings); len(lines) > 0 {
		t.Errorf("not taken over: %v", lines)
	}
	p = given(t, "server=https://192.0.2.1:6443", "cluster-cidr=10.42.0.0/16")
	if told := p.Told.Slice(); !slices.Equal(told, []config.Setting{{Flag: "cluster-cidr", Value: "10.42.0.0/16"}}) {
		t.Errorf("told %v", told)
	}
	if err := p.settle(known); err == nil || !strings.Contains(err.Error(), `--cluster-cidr is "10.42.0.0/16" here and "10.50.0.0/16" in the cluster`) {
		t.Errorf("another network: %v", err)
	}
}
