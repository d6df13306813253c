package server

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/controllers/servicelb"
)

func TestReservedPorts(t *testing.T) {
	for name, tt := range map[string]struct {
		line []string
		want string
	}{
		"usual":        {nil, "TCP/10250 TCP/10256 TCP/6443 UDP/8472"},
		"other port":   {[]string{"https-listen-port=7443", "flannel-backend=host-gw"}, "TCP/10250 TCP/10256 TCP/7443"},
		"several ones": {[]string{"cluster-init=true"}, "TCP/10250 TCP/10256 TCP/2379 TCP/2380 TCP/6443 UDP/8472"},
		"metrics": {
			[]string{"cluster-init=true", "etcd-expose-metrics=true"}, "TCP/10250 TCP/10256 TCP/2379 TCP/2380 TCP/2381 TCP/6443 UDP/8472",
		},
	} {
		var got []string
		for p := range maps.Keys(given(t, tt.line...).reservedPorts()) {
			got = append(got, p.String())
		}
		if slices.Sort(got); strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %v, want %s", name, got, tt.want)
		}
	}
	if got := given(t).reservedPorts()[servicelb.Port{Protocol: "TCP", Number: 10250}]; !strings.Contains(got, "kubelet") {
		t.Errorf("port 10250 is %q", got)
	}
}
