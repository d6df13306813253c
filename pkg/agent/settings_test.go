package agent

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/join"
)

func TestOvertaken(t *testing.T) {
	settings := func(backend string, more ...join.Setting) []join.Setting {
		return append([]join.Setting{{Flag: "cluster-cidr", Value: "10.42.0.0/16"}, {Flag: "flannel-backend", Value: backend}}, more...)
	}
	const followed = `the cluster's settings have changed: --flannel-backend is "vxlan" here and "host-gw" in the cluster`
	for name, tt := range map[string]struct {
		told      []string
		said      map[string][]join.Setting
		fresh     []join.Setting
		connected []string
		want      string
	}{
		"as before":                        {nil, map[string][]join.Setting{"a": settings("vxlan")}, settings("vxlan"), []string{"a"}, ""},
		"changed":                          {nil, map[string][]join.Setting{"a": settings("host-gw")}, settings("host-gw"), []string{"a"}, followed},
		"the servers differ":               {nil, map[string][]join.Setting{"a": settings("host-gw"), "b": settings("vxlan")}, settings("host-gw"), []string{"a", "b"}, ""},
		"the one that differs is gone":     {nil, map[string][]join.Setting{"a": settings("host-gw"), "b": settings("vxlan")}, settings("host-gw"), []string{"a"}, followed},
		"this machine was told other":      {[]string{"vxlan"}, map[string][]join.Setting{"a": settings("host-gw")}, settings("host-gw"), []string{"a"}, ""},
		"more settings, of a newer server": {nil, nil, settings("vxlan", join.Setting{Flag: "of-the-future", Value: "true"}), []string{"a"}, ""},
		"of no use":                        {nil, nil, settings("carrier-pigeon"), []string{"a"}, ""},
	} {
		m := &member{settings: settings("vxlan")}
		for _, backend := range tt.told {
			m.Told = config.ListOf(config.Setting{Flag: "flannel-backend", Value: backend})
		}
		got := m.overtaken(tt.said, tt.fresh, func(s string) bool { return slices.Contains(tt.connected, s) }, slog.New(slog.DiscardHandler))
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}
